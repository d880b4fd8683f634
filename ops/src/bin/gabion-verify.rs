//! The command `gabion-verify`: compares what should be with what is.
//!
//! Standard output holds the findings and nothing else; one summary line goes to standard error.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use gabion_client::terminal::{Failure, Format};
use gabion_client::{Client, Config, FsPath, Settings};
use gabion_ops::verify::{masters, offline, replicas, tree};
use gabion_protocol::config::Span;
use gabion_protocol::process;

const AFTER_HELP: &str = "\
Examples:
  gabion-verify tree photos /photos        the same files, byte by byte, both ways
  gabion-verify replicas                   every copy of every chunk of the cluster
  gabion-verify replicas /photos           every copy of every chunk below /photos
  gabion-verify masters                    all masters hold the same state
  gabion-verify offline /srv/gabion/m1     a stopped server's directory

Exit codes: 0 all good, 7 something is damaged or differs, 8 something is missing or could not be looked at,
2 usage, 3 not found, 5 unavailable for now, 6 not authorised, 130 interrupted.";

/// Compares what should be in a Gabion cluster with what is there. Changes nothing; damage is reported to the masters.
#[derive(Debug, Parser)]
#[command(name = "gabion-verify", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    check: Check,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Client addresses of masters; one that is up will do [env: GABION_MASTERS]
    #[arg(long, global = true, value_name = "HOST:PORT,…", value_delimiter = ',')]
    masters: Vec<String>,
    /// File that holds this user's key [env: GABION_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How long to try while the cluster is unavailable [env: GABION_WAIT] [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    wait: Option<Span>,
    /// Findings as table, json or jsonl (a JSON document per line)
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Print findings and errors only: no progress, no summary
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log on standard error (RUST_LOG chooses what)
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Compare a local file or tree with one on the cluster, both ways, by content
    Tree {
        /// The local file or directory
        #[arg(value_name = "LOCAL")]
        local: PathBuf,
        /// The remote file or directory
        #[arg(value_name = "REMOTE", value_parser = remote_path)]
        remote: FsPath,
        /// Compare lengths and checksums only: do not fetch the cluster's bytes
        #[arg(long)]
        quick: bool,
        /// Files compared at the same time
        #[arg(short, long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=64))]
        jobs: u8,
    },
    /// Have every server read its copies again, and compare them with what the masters hold
    Replicas {
        /// The file or directory to check with all below it
        #[arg(value_name = "PATH", default_value = "/", value_parser = remote_path)]
        path: FsPath,
        /// Files checked at the same time
        #[arg(short, long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=64))]
        jobs: u8,
    },
    /// Compare the masters' states with each other, at one index of their log
    Masters,
    /// Check the directory of a stopped master or chunkserver with its own checksums
    Offline {
        /// The directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

fn remote_path(text: &str) -> Result<FsPath, String> {
    FsPath::parse(text.strip_prefix("gabion:").unwrap_or(text)).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.common.verbose {
        process::init_logging();
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(report) = failure.report() {
                eprintln!("{report}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { common, check } = arguments;
    if let Check::Offline { directory } = &check {
        return offline::run(directory, common.output, common.quiet);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("start", "the runtime", &error))?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = ask(common, check) => ended,
            stopped = process::stop_requested() => match stopped {
                Ok(()) => Err(Failure::interrupted()),
                Err(error) => Err(Failure::local("watch for", "signals", &error)),
            },
        }
    });
    // What still reads a local file is of no use any more.
    runtime.shutdown_background();
    ended
}

async fn ask(common: Common, check: Check) -> Result<(), Failure> {
    let config = Config::with_settings(Settings {
        masters: (!common.masters.is_empty()).then_some(common.masters),
        key_file: common.key_file,
        wait: common.wait.map(|wait| wait.0),
    })?;
    let wait = config.wait;
    let client = Client::connect(config).await?;
    let (format, quiet) = (common.output, common.quiet);
    match check {
        Check::Tree {
            local,
            remote,
            quick,
            jobs,
        } => {
            let options = tree::Options {
                quick,
                jobs: usize::from(jobs),
                format,
                quiet,
            };
            tree::run(&client, &local, &remote, &options).await
        }
        Check::Replicas { path, jobs } => {
            let options = replicas::Options {
                jobs: usize::from(jobs),
                format,
                quiet,
            };
            replicas::run(&client, &path, &options).await
        }
        Check::Masters => masters::run(&client, wait, format, quiet).await,
        Check::Offline { directory } => offline::run(&directory, format, quiet),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn checks_parse() {
        for line in [
            "gabion-verify tree a /a --quick -j 4",
            "gabion-verify replicas",
            "gabion-verify -o json replicas gabion:/a",
            "gabion-verify masters --wait 5s -q",
            "gabion-verify offline /srv/m1 -o jsonl",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "gabion-verify",
            "gabion-verify tree a",
            "gabion-verify replicas a",
            "gabion-verify offline",
        ] {
            assert_eq!(
                Arguments::try_parse_from(line.split(' ')).unwrap_err().exit_code(),
                2,
                "{line}"
            );
        }
    }
}
