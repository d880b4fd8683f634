//! `gabion-bench`: measures a running cluster beside the roofline of the machine it runs on.
//!
//! Every throughput figure is printed with its ratio to the roofline of the same run: the steps are interleaved, the
//! medians compared, so that a noisy machine disturbs both alike.
//!
//! | module | what it holds |
//! |---|---|
//! | [`roofline`] | the byte movement alone, without Gabion |
//! | [`data`] | write and read throughput of the cluster |
//! | [`small`] | small files, put and got |
//! | [`append`] | records at the end of one file |
//! | [`meta`] | names: create, stat, list, rename, delete |
//! | [`random`] | range reads at random places |
//! | [`fill`] | many files: memory, disk, restart of the masters |
//! | [`heal`] | a chunkserver's copies made anew, and what that costs clients |
//! | [`local`] | a cluster of our own for one measurement |
//! | [`rates`] | many clients at once, each operation timed |
//! | [`failover`] | stalls of a writer and a reader while processes are killed or stopped |
//! | [`machine`] | memory, page cache, `/proc` |
//! | [`report`] | medians, tables, JSON |

mod append;
mod beside;
mod data;
mod failover;
mod fill;
mod heal;
mod local;
mod machine;
mod meta;
mod random;
mod rates;
mod reclaim;
mod report;
mod roofline;
mod small;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use gabion_client::terminal::{Column, Format, Output, Table};
use gabion_client::{Client, Config};
use gabion_protocol::config::Size;

/// Measures a running Gabion cluster beside the roofline of its machine.
///
/// Point it at a cluster as you point gabion: GABION_MASTERS and GABION_KEY_FILE, or eval "$(ops/cluster env)".
#[derive(Debug, Parser)]
#[command(name = "gabion-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// table, or json for programs.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table",
        global = true
    )]
    format: Format,
    /// Start a cluster of our own in the current directory for this measurement: masters x chunkservers.
    #[arg(long, value_name = "3x3", global = true)]
    local: Option<local::Shape>,
    /// The script that makes clusters and starts their processes.
    #[arg(long, default_value = "ops/cluster", global = true)]
    script: PathBuf,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What the machine allows: three relays storing with O_DIRECT + fdatasync; sendfile back into a file.
    Roofline(Sizes),
    /// Uploads, three copies, synced, beside the relays.
    Write(Sizes),
    /// Verified downloads, beside sendfile.
    Read(Sizes),
    /// Verified downloads with 1, 2, 4, 8 and 16 reads in flight, interleaved.
    InFlight(Sizes),
    /// Small files a second, three copies each, synced; and read back, verified.
    Small(small::Small),
    /// Records a second that many writers append to one file, three copies each, synced.
    Append(append::Append),
    /// Range reads at random places of a file, beside pread and loopback TCP alone.
    Random(random::Random),
    /// Names a second: create, stat, list, rename, delete.
    Meta(meta::Meta),
    /// Stalls of a writer and a reader of 4 KiB files while leading masters or chunkservers are killed or stopped.
    Failover(Failover),
    /// Many files: what the masters need of memory and disk, and how long a restart of all of them takes.
    Fill(fill::Fill),
    /// A chunkserver is killed: how fast its copies are made anew, and what clients notice. Needs four or more.
    Heal(heal::Heal),
    /// A tree of small files is removed: how fast it is reclaimed, and what clients notice.
    Reclaim(reclaim::Reclaim),
    /// CPU and memory of each process of a cluster made by ops/cluster.
    Usage(UsageArguments),
}

#[derive(Debug, Clone, Args)]
struct Sizes {
    /// Bytes of each stream.
    #[arg(long, default_value = "1GiB")]
    size: Size,
    /// Streams at once.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the roofline stores: on the disk of the chunkservers.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Reads come from the disk, not from page cache.
    #[arg(long)]
    cold: bool,
    /// The directory of the cluster if ops/cluster made it: adds the CPU its processes took, and allows --cold.
    #[arg(long, env = "GABION_BENCH_CLUSTER")]
    cluster: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct Failover {
    /// The directory of the cluster, made by ops/cluster.
    #[arg(long, env = "GABION_BENCH_CLUSTER")]
    cluster: PathBuf,
    /// How often a process is hit.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Who is hit.
    #[arg(long, value_enum, default_value = "leader")]
    victim: failover::Victim,
    /// What happens to it.
    #[arg(long, value_enum, default_value = "kill")]
    fault: failover::Fault,
}

#[derive(Debug, Clone, Args)]
struct UsageArguments {
    /// The directory of the cluster, made by ops/cluster.
    #[arg(long, env = "GABION_BENCH_CLUSTER")]
    cluster: PathBuf,
    /// Seconds to watch.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(shape) = arguments.local {
        return local::run(shape, &arguments.script).unwrap_or_else(|error| failed(&error));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(gabion_protocol::process::byte_threads())
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<gabion_client::Error>();
    match known {
        Some(known) => eprintln!("{}", known.report()),
        None => eprintln!("error: {error:#}"),
    }
    ExitCode::from(known.map_or(1, gabion_client::Error::exit_code))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let text = match &arguments.what {
        What::Roofline(sizes) => report::throughput(arguments.format, &data::roofline(sizes).await?),
        What::Write(sizes) => report::throughput(arguments.format, &data::write(&connect().await?, sizes).await?),
        What::Read(sizes) => report::throughput(arguments.format, &data::read(&connect().await?, sizes).await?),
        What::InFlight(sizes) => report::throughput(arguments.format, &in_flight(sizes).await?),
        What::Small(small) => rates::show(arguments.format, &small::run(&connect().await?, small).await?),
        What::Append(append) => rates::show(arguments.format, &append::run(&connect().await?, append).await?),
        What::Meta(meta) => rates::show(arguments.format, &meta::run(&connect().await?, meta).await?),
        What::Random(random) => report::throughput(arguments.format, &random::run(&connect().await?, random).await?),
        What::Failover(failover) => {
            let stalls = failover::run(connect().await?, failover, &arguments.script).await?;
            failover::show(arguments.format, &stalls)
        }
        What::Fill(filling) => fill::show(
            arguments.format,
            &fill::run(&connect().await?, filling, &arguments.script).await?,
        ),
        What::Heal(healing) => heal::show(
            arguments.format,
            &heal::run(&connect().await?, healing, &arguments.script).await?,
        ),
        What::Reclaim(reclaiming) => {
            let reclaimed = reclaim::run(&connect().await?, reclaiming).await?;
            reclaim::show(arguments.format, &reclaimed)
        }
        What::Usage(usage) => show_usage(arguments.format, &watch(usage).await?),
    };
    let mut output = Output::stdout();
    output
        .bytes(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|_| anyhow::anyhow!("cannot write the report"))
}

async fn connect() -> Result<Client> {
    Ok(Client::connect(Config::discover()?).await?)
}

/// Compares clients that differ in nothing but how many reads of one download they have in flight.
async fn in_flight(sizes: &Sizes) -> Result<Vec<report::Row>> {
    let mut clients = Vec::new();
    for reads in [1, 2, 4, 8, 16] {
        let mut config = Config::discover()?;
        config.reads_in_flight = reads;
        clients.push((format!("{reads} in flight"), Client::connect(config).await?));
    }
    data::compare_downloads(&clients, sizes).await
}

/// One process over a span of time.
#[derive(Debug, serde::Serialize)]
struct Watched {
    node: String,
    cpu_percent: f64,
    resident_bytes: u64,
}

async fn watch(arguments: &UsageArguments) -> Result<Vec<Watched>> {
    let processes = machine::cluster_processes(&arguments.cluster)?;
    let usages = || {
        processes
            .iter()
            .map(|(_, pid)| machine::usage(*pid))
            .collect::<Result<Vec<_>>>()
    };
    let before = usages()?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let after = usages().context("a process ended while it was watched")?;
    Ok(processes
        .into_iter()
        .zip(before.into_iter().zip(after))
        .map(|((node, _), (before, after))| Watched {
            node,
            cpu_percent: (after.cpu_seconds - before.cpu_seconds) / arguments.seconds as f64 * 100.0,
            resident_bytes: after.resident_bytes,
        })
        .collect())
}

fn show_usage(format: Format, watched: &[Watched]) -> String {
    if format != Format::Table {
        return report::json(&watched);
    }
    let mut table = Table::new(&[
        Column::Words("node"),
        Column::Numbers("cpu"),
        Column::Numbers("resident"),
    ]);
    for process in watched {
        table.row([
            process.node.clone(),
            format!("{:.1} %", process.cpu_percent),
            format!("{:.0} MiB", process.resident_bytes as f64 / f64::from(1 << 20)),
        ]);
    }
    table.to_string()
}
