//! `gabion-chunkserver`: reads its settings, runs until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use futures_util::FutureExt as _;
use gabion_chunkserver::config::{Config, SettingsError};
use gabion_chunkserver::disk;
use gabion_chunkserver::output;
use gabion_chunkserver::server::Server;
use gabion_protocol::config::{ConfigError, Override};
use gabion_protocol::{WireError, process};
use tokio_util::sync::CancellationToken;

/// Every request allocates and frees on several threads; this allocator takes a tenth less CPU for it than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps chunks of a Gabion cluster on the disks of this machine.
#[derive(Debug, Parser)]
#[command(name = "gabion-chunkserver", version)]
struct Arguments {
    /// Configuration file (TOML); GABION_CHUNKSERVER_KEY variables and --set come on top.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Changes one setting; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_flag)]
    set: Vec<Override>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
    /// Prints the effective configuration and ends.
    #[arg(long)]
    print_config: bool,
    /// Makes an empty directory of dirs a disk though a disk of this stopped server is missing, and ends. For a disk
    /// that is gone for good; one that is only not mounted should be mounted instead.
    #[arg(long, value_name = "DIR")]
    adopt_disk: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(arguments.config.as_deref(), &arguments.set) {
        Ok(config) => config,
        Err(error) => return settings_failed(&error),
    };
    if arguments.print_config {
        return print(&config);
    }
    let key = match config.key() {
        Ok(key) => key,
        Err(error) => return settings_failed(&error.into()),
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    process::init_logging();
    process::abort_on_panic();
    if let Some(dir) = &arguments.adopt_disk {
        return match disk::adopt(&config.dirs, key.cluster, dir) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => failed(&error.to_wire()),
        };
    }
    let files = process::raise_file_limit();
    if let Ok(text) = toml::to_string(&config) {
        tracing::info!(files, config = %text.replace('\n', " "), "starting");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process::byte_threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(Box::pin(async {
        let server = Server::open(&config, key).await?;
        let mut requested = Box::pin(process::stop_requested());
        // Signals are watched from here on: whoever reads the next line may send one at once.
        let early = (&mut requested).now_or_never();
        tracing::info!(listen = %config.listen, "listening");
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            let requested = match early {
                Some(requested) => requested,
                None => requested.await,
            };
            match requested {
                Ok(()) => tracing::info!("stopping"),
                Err(error) => tracing::error!(%error, "signals cannot be watched"),
            }
            asked.cancel();
        });
        server.run(stop).await
    }));
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn print(config: &Config) -> ExitCode {
    let printed = toml::to_string(config)
        .map_err(std::io::Error::other)
        .and_then(|text| output::data(&text));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("error[INTERNAL]: cannot print the configuration: {error}"), 1),
    }
}

/// A wrong setting is a wrong use (2); a key that cannot be used is no permission (6).
fn settings_failed(error: &SettingsError) -> ExitCode {
    let (name, code) = match error {
        SettingsError::Key(_) => ("WRONG_KEY", 6),
        SettingsError::Load(ConfigError::Read { .. }) => ("NOT_FOUND", 3),
        _ => ("INVALID_ARGUMENT", 2),
    };
    complain(&format!("error[{name}]: {error}"), code)
}

fn failed(error: &WireError) -> ExitCode {
    complain(&error.report(), error.code.exit_code())
}

fn complain(text: &str, code: u8) -> ExitCode {
    use std::io::Write as _;
    // Nowhere is left to complain about a closed standard error.
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code)
}
