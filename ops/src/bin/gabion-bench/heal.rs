//! A chunkserver is killed and its copies are made anew: how fast, beside a plain copy of files between two directories
//! of the same disk, and what that costs clients who read and write meanwhile.
//!
//! Twice, with the same configuration: once while nobody uses the cluster, once while clients do. What the clients are
//! measured by is the same load on the same cluster right before: with the same server dead, but the copies held back by
//! maintenance, because fewer servers are slower by themselves.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FsPath};
use gabion_protocol::ServerId;
use gabion_protocol::config::Size;
use gabion_protocol::messages::master::{ChunkTrouble, ConditionChange, Health, ServerInfo};
use rustix::process::{Signal, kill_process};

use crate::beside::{self, Beside, Load};
use crate::failover::{healthy, machine_pid, start};
use crate::{data, report, roofline};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Heal {
    /// The directory of the cluster, made by ops/cluster with more chunkservers than a file has copies.
    #[arg(long, env = "GABION_BENCH_CLUSTER")]
    cluster: PathBuf,
    /// Bytes stored before.
    #[arg(long, default_value = "2GiB")]
    size: Size,
    #[command(flatten)]
    beside: Beside,
}

/// What came out.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Healed {
    /// MiB a second of a plain copy of files on the same disk, each synced, from a cold source.
    copy_mib_per_second: f64,
    /// With nobody else there, then beside clients.
    phases: Vec<Phase>,
    /// What clients saw.
    clients: Vec<beside::Clients>,
}

#[derive(Debug, serde::Serialize)]
struct Phase {
    what: &'static str,
    /// Bytes of the copies the dead server had.
    bytes: u64,
    /// From SIGKILL until the first copy was ordered; beside clients from the end of the maintenance.
    first_copy_seconds: f64,
    /// From then until no chunk had too few copies.
    healing_seconds: f64,
    mib_per_second: f64,
    /// Of the plain copy.
    ratio: f64,
}

/// Between two looks at what repair does.
const LOOK: Duration = Duration::from_millis(50);
/// The phase that what clients see while copies are made is compared with.
const HELD_BACK: &str = "copies are held back";
/// Longer than the clients are measured without copies.
const MAINTENANCE: Duration = Duration::from_secs(3600);
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(1800);
const MIB: f64 = (1 << 20) as f64;

/// Stores, kills, heals, twice, and removes what was made.
pub(crate) async fn run(client: &Client, arguments: &Heal, script: &Path) -> Result<Healed> {
    ensure!(
        arguments.size.0 >= 64 << 20 && arguments.size.0.is_multiple_of(1 << 20),
        "--size must be a multiple of 1 MiB, 64 MiB or more"
    );
    let servers = client.status().await?.servers.len();
    ensure!(
        servers > 3,
        "a fourth chunkserver must be there to take the lost copies"
    );
    let top = FsPath::parse(&format!("/gabion-bench/heal-{}", std::process::id()))?;
    let healed = measure(client, arguments, &top, script).await;
    client.remove(&top, true).await?;
    healed
}

async fn measure(client: &Client, arguments: &Heal, top: &FsPath, script: &Path) -> Result<Healed> {
    let scratch = data::Scratch::new(&arguments.cluster)?;
    let source = scratch.path().join("source");
    data::make_source(&source, arguments.size.0)?;
    let path = top.join("stored")?;
    let options = CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    let file = std::fs::File::open(&source)?;
    client
        .upload_file(&path, options, file, arguments.size.0, |_| ())
        .await?;
    let copied = plain_copy(&source, scratch.path(), arguments.size.0)?;
    let mut phases = vec![heal(client, arguments, &path, script, "nobody else", None, copied).await?];
    settle(client, &path).await?;
    let mut load = Load::begin(client, &arguments.beside, top, &path, arguments.size.0).await?;
    arguments.beside.wait().await;
    load.enter("all servers are there");
    arguments.beside.wait().await;
    load.leave();
    let busy = heal(
        client,
        arguments,
        &path,
        script,
        "beside clients",
        Some(&mut load),
        copied,
    )
    .await;
    let clients = load.end(HELD_BACK).await?;
    phases.push(busy?);
    Ok(Healed {
        copy_mib_per_second: copied,
        phases,
        clients,
    })
}

/// MiB a second of copying a file in pieces of a chunk, each synced, read from the disk.
fn plain_copy(source: &Path, to: &Path, bytes: u64) -> Result<f64> {
    const PIECE: u64 = 64 << 20;
    roofline::make_cold(source)?;
    let began = Instant::now();
    for number in 0..bytes.div_ceil(PIECE) {
        let mut from = std::fs::File::open(source)?;
        std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(number * PIECE))?;
        let path = to.join(format!("copy-{number}"));
        let mut copy = std::fs::File::create(&path)?;
        std::io::copy(&mut std::io::Read::take(from, PIECE), &mut copy)?;
        copy.sync_all()?;
        std::fs::remove_file(path)?;
    }
    Ok(bytes as f64 / began.elapsed().as_secs_f64() / MIB)
}

/// Kills the server with most of the file's bytes, waits until all copies are there again, and starts it.
async fn heal(
    client: &Client,
    arguments: &Heal,
    path: &FsPath,
    script: &Path,
    what: &'static str,
    mut load: Option<&mut Load>,
    plain: f64,
) -> Result<Phase> {
    settle(client, path).await?;
    let (victim, bytes) = fullest(client, path).await?;
    let status = client.status().await?;
    let server = status.servers.iter().find(|server| server.server == victim);
    let node = server.context("the server is registered")?.name.clone();
    let pid = machine_pid(&arguments.cluster, &node)?;
    let killed = match &mut load {
        None => {
            let now = Instant::now();
            kill_process(pid, Signal::KILL)?;
            now
        }
        Some(load) => {
            let for_ms = MAINTENANCE.as_millis() as u64;
            let hold_back = ConditionChange::Maintain { for_ms };
            client.set_condition(victim, hold_back, false).await?;
            kill_process(pid, Signal::KILL)?;
            wait(|| async { is_lost(client, victim).await }).await?;
            load.enter(HELD_BACK);
            arguments.beside.wait().await;
            load.leave();
            let now = Instant::now();
            client.set_condition(victim, ConditionChange::Serve, false).await?;
            now
        }
    };
    wait(|| async { Ok(client.copies_in_progress().await? > 0) }).await?;
    let first = Instant::now();
    if let Some(load) = &mut load {
        load.enter("copies are made");
    }
    wait(|| async {
        if client.copies_in_progress().await? > 0 {
            return Ok(false);
        }
        all_there(client).await
    })
    .await?;
    let healing_seconds = first.elapsed().as_secs_f64();
    if let Some(load) = load {
        load.enter("no copies are left to make");
        arguments.beside.wait().await;
        load.leave();
    }
    start(&arguments.cluster, script, &node).await?;
    healthy(client).await?;
    let mib_per_second = bytes as f64 / MIB / healing_seconds;
    Ok(Phase {
        what,
        bytes,
        first_copy_seconds: (first - killed).as_secs_f64(),
        healing_seconds,
        mib_per_second,
        ratio: mib_per_second / plain,
    })
}

/// Whether nobody expects the server back any more.
async fn is_lost(client: &Client, server: ServerId) -> Result<bool> {
    let status = client.status().await?;
    let is = |of: &ServerInfo| of.server == server && of.health == Health::Lost;
    Ok(status.servers.iter().any(is))
}

/// Whether no chunk has fewer copies than it should.
async fn all_there(client: &Client) -> Result<bool> {
    let mut after = None;
    loop {
        let (under, more) = client.troubled(ChunkTrouble::Under, after).await?;
        if !under.is_empty() {
            return Ok(false);
        }
        match more {
            Some(_) => after = more,
            None => return Ok(true),
        }
    }
}

async fn wait<F, Fut>(mut is_so: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await? {
        ensure!(Instant::now() < deadline, "what must come did not within half an hour");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until no chunk of the file has copies it does not need: a server came back with its own.
async fn settle(client: &Client, path: &FsPath) -> Result<()> {
    wait(|| async {
        let (_, extents) = client.locate(path).await?;
        Ok(extents.iter().all(|extent| extent.replicas.len() == 3))
    })
    .await
}

/// The server with most of the file's bytes, and how many.
async fn fullest(client: &Client, path: &FsPath) -> Result<(ServerId, u64)> {
    let (_, extents) = client.locate(path).await?;
    let mut held = std::collections::BTreeMap::<ServerId, u64>::new();
    for extent in &extents {
        for replica in &extent.replicas {
            *held.entry(replica.server).or_default() += extent.chunk_length;
        }
    }
    let fullest = held.into_iter().max_by_key(|(_, bytes)| *bytes);
    fullest.context("the file has no chunks")
}

/// Prints what came out.
pub(crate) fn show(format: Format, healed: &Healed) -> String {
    if format != Format::Table {
        return report::json(healed);
    }
    let mut phases = Table::new(&[
        Column::Words("healing"),
        Column::Numbers("MiB"),
        Column::Numbers("first copy after s"),
        Column::Numbers("seconds"),
        Column::Numbers("MiB/s"),
        Column::Numbers("of a plain copy"),
    ]);
    for phase in &healed.phases {
        phases.row([
            phase.what.to_owned(),
            format!("{:.0}", phase.bytes as f64 / MIB),
            format!("{:.1}", phase.first_copy_seconds),
            format!("{:.1}", phase.healing_seconds),
            format!("{:.0}", phase.mib_per_second),
            format!("{:.2}", phase.ratio),
        ]);
    }
    let plain = format!("plain copy, synced: {:.0} MiB/s\n", healed.copy_mib_per_second);
    format!("{phases}{plain}\n{}", beside::table(&healed.clients))
}
