//! A chunkserver is killed and its copies are made anew: how fast, beside a plain copy of files between two directories
//! of the same disk, and what that costs clients who read and write meanwhile.
//!
//! Twice, with the same configuration: once while nobody uses the cluster, once while clients do. What the clients are
//! measured by is the same load on the same cluster right before: with the same server dead, but the copies held back by
//! maintenance, because fewer servers are slower by themselves. They read a part of the file that stays in page cache, and
//! are counted when they have read it for a while: otherwise they would get faster by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FileReader, FsPath};
use gabion_protocol::ServerId;
use gabion_protocol::config::Size;
use gabion_protocol::messages::master::{ChunkTrouble, ConditionChange, Health, ServerInfo};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinSet;

use crate::failover::{healthy, machine_pid, put, start};
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
    /// Clients that read 64 KiB at random places, each one after the other.
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Clients that write files of 64 KiB, each one after the other.
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Seconds of the load with all servers, and then without the dead one; it runs as long before that is counted.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

/// What came out.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Healed {
    /// MiB a second of a plain copy of files on the same disk, each synced, from a cold source.
    copy_mib_per_second: f64,
    /// With nobody else there, then beside clients.
    phases: Vec<Phase>,
    /// What clients saw.
    clients: Vec<Clients>,
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

#[derive(Debug, serde::Serialize)]
struct Clients {
    what: &'static str,
    /// With all servers.
    whole: Seen,
    /// With one server dead and no copies made.
    held_back: Seen,
    /// While copies are made.
    healing: Seen,
    /// Of the p99s while copies are made and are held back: 1 is equal, more is slower.
    p99_ratio: f64,
}

/// What clients saw in a phase.
#[derive(Debug, serde::Serialize)]
struct Seen {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Bytes of the file that clients read.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a read and of a written file.
const OPERATION_BYTES: u64 = 64 << 10;
/// Between two looks at what repair does.
const LOOK: Duration = Duration::from_millis(50);
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
    let load = Load::begin(client, arguments, top, &path).await?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    load.phase.store(WHOLE, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    load.phase.store(BETWEEN, Ordering::Relaxed);
    let busy = heal(client, arguments, &path, script, "beside clients", Some(&load), copied).await;
    let clients = load.end().await?;
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
    load: Option<&Load>,
    plain: f64,
) -> Result<Phase> {
    settle(client, path).await?;
    let (victim, bytes) = fullest(client, path).await?;
    let status = client.status().await?;
    let server = status.servers.iter().find(|server| server.server == victim);
    let node = server.context("the server is registered")?.name.clone();
    let pid = machine_pid(&arguments.cluster, &node)?;
    let killed = match load {
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
            load.phase.store(HELD_BACK, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
            load.phase.store(BETWEEN, Ordering::Relaxed);
            let now = Instant::now();
            client.set_condition(victim, ConditionChange::Serve, false).await?;
            now
        }
    };
    wait(|| async { Ok(client.copies_in_progress().await? > 0) }).await?;
    let first = Instant::now();
    if let Some(load) = load {
        load.phase.store(HEALING, Ordering::Relaxed);
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
        load.phase.store(OVER, Ordering::Relaxed);
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

/// Clients that read and write until they are told to stop.
struct Load {
    phase: Arc<AtomicU64>,
    tasks: JoinSet<(What, Result<Vec<Operation>, gabion_client::Error>)>,
}

/// The first reads, and what the death of a server costs by itself, which is another measurement.
const BETWEEN: u64 = 0;
const WHOLE: u64 = 1;
const HELD_BACK: u64 = 2;
const HEALING: u64 = 3;
const OVER: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write,
}

/// How long an operation took, and in which phase it began.
#[derive(Debug, Clone, Copy)]
struct Operation {
    began: Instant,
    millis: f64,
    phase: u64,
}

impl Load {
    async fn begin(client: &Client, arguments: &Heal, top: &FsPath, path: &FsPath) -> Result<Self> {
        let file = client.open(path).await?;
        let phase = Arc::new(AtomicU64::new(BETWEEN));
        let mut tasks = JoinSet::new();
        for number in 0..arguments.readers {
            let reading = read_on(
                file.clone(),
                arguments.size.0.min(READ_BYTES_MAX),
                number as u64 + 1,
                Arc::clone(&phase),
            );
            tasks.spawn(async { (What::Read, reading.await) });
        }
        for number in 0..arguments.writers {
            let writing = write_on(client.clone(), top.join(&format!("w{number}"))?, Arc::clone(&phase));
            tasks.spawn(async { (What::Write, writing.await) });
        }
        Ok(Self { phase, tasks })
    }

    /// Stops the clients and compares what they saw.
    async fn end(mut self) -> Result<Vec<Clients>> {
        self.phase.store(OVER, Ordering::Relaxed);
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        while let Some(ended) = self.tasks.join_next().await {
            let (what, done) = ended?;
            match what {
                What::Read => reads.extend(done?),
                What::Write => writes.extend(done?),
            }
        }
        let mut clients = Vec::new();
        for (what, mut operations) in [("64 KiB reads", reads), ("64 KiB files written", writes)] {
            operations.sort_by_key(|operation| operation.began);
            let of = |phase| operations.iter().filter(move |operation| operation.phase == phase);
            if operations.is_empty() {
                continue;
            }
            let (held_back, healing) = (Seen::by(what, of(HELD_BACK))?, Seen::by(what, of(HEALING))?);
            clients.push(Clients {
                what,
                whole: Seen::by(what, of(WHOLE))?,
                p99_ratio: healing.p99_ms / held_back.p99_ms,
                held_back,
                healing,
            });
        }
        Ok(clients)
    }
}

async fn read_on(
    file: FileReader,
    size: u64,
    seed: u64,
    phase: Arc<AtomicU64>,
) -> Result<Vec<Operation>, gabion_client::Error> {
    let mut done = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    while let now @ (BETWEEN | WHOLE | HELD_BACK | HEALING) = phase.load(Ordering::Relaxed) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let began = Instant::now();
        file.read_at(state % (size / OPERATION_BYTES) * OPERATION_BYTES, OPERATION_BYTES)
            .await?;
        done.push(Operation::ended(began, now));
    }
    Ok(done)
}

async fn write_on(client: Client, top: FsPath, phase: Arc<AtomicU64>) -> Result<Vec<Operation>, gabion_client::Error> {
    let mut done = Vec::new();
    let content = vec![7; OPERATION_BYTES as usize];
    let mut number = 0_u64;
    while let now @ (BETWEEN | WHOLE | HELD_BACK | HEALING) = phase.load(Ordering::Relaxed) {
        let path = top.join(&format!("{number}")).unwrap_or_else(|_| top.clone());
        let began = Instant::now();
        put(&client, &path, &content).await?;
        done.push(Operation::ended(began, now));
        number += 1;
    }
    Ok(done)
}

impl Operation {
    fn ended(began: Instant, phase: u64) -> Self {
        Self {
            began,
            millis: began.elapsed().as_secs_f64() * 1000.0,
            phase,
        }
    }
}

impl Seen {
    /// Of operations in the order of their beginnings.
    fn by<'a>(what: &str, operations: impl Iterator<Item = &'a Operation>) -> Result<Self> {
        let operations: Vec<&Operation> = operations.collect();
        let (first, last) = operations
            .first()
            .zip(operations.last())
            .with_context(|| format!("no {what} in a phase"))?;
        let millis: Vec<f64> = operations.iter().map(|one| one.millis).collect();
        Ok(Self {
            per_second: operations.len() as f64 / (last.began - first.began).as_secs_f64().max(0.001),
            p50_ms: report::median(&millis),
            p99_ms: report::percentile(&millis, 0.99),
        })
    }
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
    let mut clients = Table::new(&[
        Column::Words("clients"),
        Column::Words("while"),
        Column::Numbers("per second"),
        Column::Numbers("p50 ms"),
        Column::Numbers("p99 ms"),
        Column::Numbers("p99 ratio"),
    ]);
    for of in &healed.clients {
        let phases = [
            ("all servers are there", &of.whole, String::new()),
            ("copies are held back", &of.held_back, "1.00".to_owned()),
            ("copies are made", &of.healing, format!("{:.2}", of.p99_ratio)),
        ];
        for (phase, seen, ratio) in phases {
            clients.row([
                of.what.to_owned(),
                phase.to_owned(),
                format!("{:.0}", seen.per_second),
                format!("{:.2}", seen.p50_ms),
                format!("{:.2}", seen.p99_ms),
                ratio,
            ]);
        }
    }
    let plain = format!("plain copy, synced: {:.0} MiB/s\n", healed.copy_mib_per_second);
    format!("{phases}{plain}\n{clients}")
}
