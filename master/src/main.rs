//! `gabion-master`: one master of a Gabion cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use gabion_master::config::{Config, SettingsError};
use gabion_master::keys_command::{self, KeysCommand, KeysError};
use gabion_master::{output, server};
use gabion_protocol::config::Override;
use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::keys::KeyFileError;
use gabion_protocol::process;

/// Every request allocates and frees on several threads; this allocator takes a tenth less CPU for it than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps the names of a Gabion cluster, together with the other masters.
#[derive(Debug, Parser)]
#[command(name = "gabion-master", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a master (what happens without a subcommand too).
    Run(RunArguments),
    /// Make and issue keys.
    #[command(subcommand)]
    Keys(KeysCommand),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// The configuration file. Settings may also come from GABION_MASTER_<KEY>, and from --set.
    #[arg(long, env = "GABION_MASTER_CONFIG_FILE")]
    config: Option<PathBuf>,
    /// Change a setting: KEY=VALUE, dots between tables, for example timing.lost=30s.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_flag)]
    set: Vec<Override>,
    /// Check the configuration and the key, and end.
    #[arg(long)]
    check_config: bool,
    /// Print the effective configuration, and end.
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Keys(command)) => keys(&command),
        Some(Command::Run(run)) => self::run(&run),
        None => run(&arguments.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let told = error.downcast_ref::<WireError>().cloned();
            let told = told.unwrap_or_else(|| WireError::new(ErrorCode::Internal, format!("{error:#}")));
            eprintln!("{}", told.report());
            ExitCode::from(told.code.exit_code())
        }
    }
}

fn keys(command: &KeysCommand) -> anyhow::Result<()> {
    let done = keys_command::run(command).map_err(|error| {
        let code = match &error {
            KeysError::Id(_) => ErrorCode::InvalidArgument,
            KeysError::File(KeyFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                ErrorCode::Exists
            }
            KeysError::File(KeyFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorCode::NotFound
            }
            KeysError::File(_) => ErrorCode::WrongKey,
        };
        WireError::new(code, error.to_string())
    })?;
    eprintln!("{done}");
    Ok(())
}

fn load(arguments: &RunArguments) -> Result<Config, WireError> {
    Config::load(arguments.config.as_deref(), &arguments.set).map_err(|error| {
        let code = match &error {
            SettingsError::Key(_) => ErrorCode::WrongKey,
            _ => ErrorCode::InvalidArgument,
        };
        WireError::new(code, error.to_string().trim_end())
            .help("see the example that ops/cluster writes; --print-config shows all settings")
    })
}

fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let config = load(arguments)?;
    if arguments.print_config {
        output::data(&toml::to_string(&config).context("cannot print the configuration")?)?;
        return Ok(());
    }
    if arguments.check_config {
        let key = config
            .root_key()
            .map_err(server::StartError::from)
            .map_err(|error| error.to_wire())?;
        eprintln!(
            "the configuration of master {} of cluster {} is fine",
            config.id, key.cluster
        );
        return Ok(());
    }
    process::init_logging();
    process::abort_on_panic();
    let files = process::raise_file_limit();
    tracing::info!(files, version = env!("CARGO_PKG_VERSION"), config = ?config, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("clients")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let served = runtime.block_on(serve(&config));
    // What still runs has had its time.
    runtime.shutdown_background();
    served
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    // Watched from now on: a signal while the master starts stops it in order, too.
    let stop = tokio::spawn(process::stop_requested());
    let running = server::start(config).await.map_err(|error| error.to_wire())?;
    tracing::info!(
        "master m{} ready, clients at {}, masters at {}",
        config.id,
        config.client_address(),
        config.raft_address()
    );
    tokio::select! {
        stopped = stop => {
            stopped.context("the watch for signals has ended")?.context("cannot watch for signals")?;
            tracing::info!("stopping");
            running.stop().await;
            tracing::info!("stopped");
            Ok(())
        }
        why = running.failed() => {
            running.abort().await;
            let message = format!("master m{} cannot go on: {why}", config.id);
            let error = if process::says_full(&why) {
                WireError::new(ErrorCode::NoSpace, message)
                    .help(format!("make room on the disk of {}, then start it again", config.dir.display()))
            } else {
                WireError::new(ErrorCode::Internal, message)
                    .help("if its disk is well, restart it; else replace it under a new id")
            };
            Err(error.into())
        }
    }
}
