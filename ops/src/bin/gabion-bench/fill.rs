//! A namespace filled with many files: what the masters then need of memory and disk, and how long they take to serve
//! again when all of them were killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FsPath};
use gabion_protocol::config::Size;
use rustix::process::{Signal, kill_process};

use crate::failover::{machine_pid, start};
use crate::rates::{self, Rates};
use crate::{machine, report};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Fill {
    /// The directory of the cluster, made by ops/cluster.
    #[arg(long, env = "GABION_BENCH_CLUSTER")]
    cluster: PathBuf,
    /// Files.
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Bytes of each file; each that is not empty has a chunk with three copies.
    #[arg(long, default_value = "0")]
    size: Size,
    /// Clients at once, each with one file in flight.
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Sessions with connections of their own that the clients are spread over.
    #[arg(long, default_value_t = 4)]
    sessions: usize,
    /// Leave the files there.
    #[arg(long)]
    keep: bool,
}

/// What a namespace of that size needs.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Filled {
    /// Making the files.
    filling: Rates,
    /// Files in all.
    files: u64,
    /// Seconds from the start of all masters, killed before, until a name was looked up.
    restart_seconds: f64,
    /// Each master after that.
    masters: Vec<Master>,
}

#[derive(Debug, serde::Serialize)]
struct Master {
    node: String,
    /// Resident bytes when the files had been made.
    resident_bytes: u64,
    /// The same after the restart.
    restarted_bytes: u64,
    /// Bytes of its directory.
    disk_bytes: u64,
}

/// Files in a directory.
const PER_DIRECTORY: u64 = 1000;
/// Longest wait for masters that were started again.
const RESTART: Duration = Duration::from_secs(60);

/// Fills, measures, restarts, and removes what was made.
pub(crate) async fn run(client: &Client, arguments: &Fill, script: &Path) -> Result<Filled> {
    ensure!(
        arguments.files > 0 && arguments.clients > 0,
        "--files and --clients must be at least 1"
    );
    let top = FsPath::parse(&format!("/gabion-bench/fill-{}", std::process::id()))?;
    let filled = fill(client, arguments, &top, script).await;
    if !arguments.keep {
        client.remove(&top, true).await?;
    }
    filled
}

async fn fill(client: &Client, arguments: &Fill, top: &FsPath, script: &Path) -> Result<Filled> {
    client.mkdir(top, true, 0o755).await?;
    for number in 0..arguments.files.div_ceil(PER_DIRECTORY) {
        client.mkdir(&directory(top, number), false, 0o755).await?;
    }
    let clients = rates::connect_many(arguments.clients, arguments.sessions).await?;
    let content: Arc<[u8]> = (0..arguments.size.0).map(|at| (at % 251) as u8).collect();
    let in_top = top.clone();
    let filling = rates::drive("create", &clients, arguments.files, move |client, number| {
        let (path, content) = (file(&in_top, number), Arc::clone(&content));
        async move { put(&client, &path, &content).await }
    })
    .await?;
    let before = masters(&arguments.cluster)?;
    let restart_seconds = restart(client, arguments, &file(top, 0), script, &before).await?;
    let after = masters(&arguments.cluster)?;
    let masters = before.into_iter().zip(after).map(|((node, before), (_, after))| {
        Ok(Master {
            disk_bytes: bytes_below(&arguments.cluster.join(&node))?,
            node,
            resident_bytes: before,
            restarted_bytes: after,
        })
    });
    Ok(Filled {
        filling,
        files: client.status().await?.files,
        restart_seconds,
        masters: masters.collect::<Result<_>>()?,
    })
}

async fn put(client: &Client, path: &FsPath, content: &[u8]) -> Result<(), gabion_client::Error> {
    if content.is_empty() {
        return client.create_empty(path, CreateOptions::default()).await.map(|_| ());
    }
    let options = CreateOptions {
        length_hint: Some(content.len() as u64),
        ..CreateOptions::default()
    };
    let mut writer = client.create(path, options).await?;
    writer.write(content).await?;
    writer.finish().await.map(|_| ())
}

/// The masters and what each has in memory.
fn masters(cluster: &Path) -> Result<Vec<(String, u64)>> {
    let processes = machine::cluster_processes(cluster)?.into_iter();
    let masters = processes.filter(|(node, _)| node.starts_with('m'));
    masters
        .map(|(node, pid)| Ok((node, machine::usage(pid)?.resident_bytes)))
        .collect()
}

/// Kills all masters and starts them again; seconds until a name is looked up.
async fn restart(
    client: &Client,
    arguments: &Fill,
    path: &FsPath,
    script: &Path,
    masters: &[(String, u64)],
) -> Result<f64> {
    for (node, _) in masters {
        let pid = machine_pid(&arguments.cluster, node)?;
        kill_process(pid, Signal::KILL).with_context(|| format!("killing {node}"))?;
    }
    let began = Instant::now();
    let mut starting = tokio::task::JoinSet::new();
    for (node, _) in masters {
        let (cluster, script, node) = (arguments.cluster.clone(), script.to_owned(), node.clone());
        starting.spawn(async move { start(&cluster, &script, &node).await });
    }
    let looked_up = tokio::time::timeout(RESTART, client.stat(path)).await;
    let seconds = began.elapsed().as_secs_f64();
    looked_up.context("the masters did not serve again in time")??;
    while let Some(started) = starting.join_next().await {
        started.context("starting a master")??;
    }
    Ok(seconds)
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(dir) {
        let metadata = entry
            .and_then(|entry| entry.metadata())
            .context("measuring a master's directory")?;
        if metadata.is_file() {
            // Blocks, not lengths: what is allocated ahead counts.
            bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
        }
    }
    Ok(bytes)
}

fn directory(top: &FsPath, number: u64) -> FsPath {
    top.join(&format!("d{number}")).unwrap_or_else(|_| top.clone())
}

fn file(top: &FsPath, number: u64) -> FsPath {
    let directory = directory(top, number / PER_DIRECTORY);
    directory.join(&format!("f{number:08}")).unwrap_or(directory)
}

/// Prints what was found.
pub(crate) fn show(format: Format, filled: &Filled) -> String {
    if format != Format::Table {
        return report::json(filled);
    }
    let mut text = rates::show(format, std::slice::from_ref(&filled.filling));
    let mut table = Table::new(&[
        Column::Words("master"),
        Column::Numbers("resident"),
        Column::Numbers("restarted"),
        Column::Numbers("disk"),
        Column::Numbers("bytes per file"),
    ]);
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    for master in &filled.masters {
        table.row([
            master.node.clone(),
            mib(master.resident_bytes),
            mib(master.restarted_bytes),
            mib(master.disk_bytes),
            format!("{:.0}", master.disk_bytes as f64 / filled.files.max(1) as f64),
        ]);
    }
    text.push_str(&table.to_string());
    text.push_str(&format!(
        "{} files; all masters killed, serving again after {:.2} s\n",
        filled.files, filled.restart_seconds
    ));
    text
}
