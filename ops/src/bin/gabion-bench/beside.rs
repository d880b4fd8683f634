//! Clients that read and write without a rest while something else goes on, and what they notice of it: the same load in
//! one phase after another, compared with one of them.
//!
//! They read a part of a file that stays in page cache, and are counted when they have read it for a while: otherwise they
//! would get faster by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gabion_client::terminal::{Column, Table};
use gabion_client::{Client, FileReader, FsPath};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failover::put;
use crate::report;

/// Bytes of the file that clients read.
pub(crate) const READ_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a read and of a written file.
const OPERATION_BYTES: u64 = 64 << 10;

/// How many clients, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Beside {
    /// Clients that read 64 KiB at random places, each one after the other.
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Clients that write files of 64 KiB, each one after the other.
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Seconds of each phase that has no end of its own; the load runs as long before it is counted.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

impl Beside {
    /// As long as a phase takes that has no end of its own.
    pub(crate) async fn wait(&self) {
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
    }
}

/// Clients at work.
pub(crate) struct Load {
    /// The n-th of the phases, or one of the constants below.
    now: watch::Sender<u64>,
    phases: Vec<&'static str>,
    written: Arc<AtomicU64>,
    tasks: JoinSet<(What, Result<Vec<Operation>, gabion_client::Error>)>,
}

const NOT_COUNTED: u64 = 0;
const RESTING: u64 = u64::MAX - 1;
const OVER: u64 = u64::MAX;

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

/// What clients saw.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Clients {
    what: &'static str,
    phases: Vec<Seen>,
}

/// What they saw in a phase.
#[derive(Debug, serde::Serialize)]
struct Seen {
    phase: &'static str,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the p99 in the phase it is compared with: 1 is equal, more is slower.
    p99_ratio: f64,
}

impl Load {
    /// Clients that read the beginning of `file`, of `bytes`, and write below `top`. They are not counted yet.
    pub(crate) async fn begin(
        client: &Client,
        clients: &Beside,
        top: &FsPath,
        file: &FsPath,
        bytes: u64,
    ) -> Result<Self> {
        let file = client.open(file).await?;
        let (now, written) = (watch::Sender::new(NOT_COUNTED), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..clients.readers {
            let bytes = bytes.min(READ_BYTES_MAX);
            let reading = read_on(file.clone(), bytes, number as u64 + 1, now.subscribe());
            tasks.spawn(async { (What::Read, reading.await) });
        }
        for number in 0..clients.writers {
            let top = top.join(&format!("w{number}"))?;
            let writing = write_on(client.clone(), top, now.subscribe(), Arc::clone(&written));
            tasks.spawn(async { (What::Write, writing.await) });
        }
        let phases = Vec::new();
        Ok(Self {
            now,
            phases,
            written,
            tasks,
        })
    }

    /// A phase begins.
    pub(crate) fn enter(&mut self, phase: &'static str) {
        self.phases.push(phase);
        self.now.send_replace(self.phases.len() as u64);
    }

    /// A phase ends, and the clients do nothing until the next one.
    pub(crate) fn rest(&self) {
        self.now.send_replace(RESTING);
    }

    /// A phase ends and none begins yet.
    pub(crate) fn leave(&self) {
        self.now.send_replace(NOT_COUNTED);
    }

    /// Files written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops the clients; all phases compared with `reference`.
    pub(crate) async fn end(mut self, reference: &str) -> Result<Vec<Clients>> {
        self.now.send_replace(OVER);
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
            if operations.is_empty() {
                continue;
            }
            operations.sort_by_key(|operation| operation.began);
            let mut phases = Vec::new();
            for (phase, number) in self.phases.iter().zip(1..) {
                let of = operations.iter().filter(|operation| operation.phase == number);
                phases.extend(Seen::by(phase, of.copied().collect()));
            }
            let p99 = phases.iter().find(|seen| seen.phase == reference);
            let p99 = p99.with_context(|| format!("no {what} while {reference}"))?.p99_ms;
            phases.iter_mut().for_each(|seen| seen.p99_ratio = seen.p99_ms / p99);
            clients.push(Clients { what, phases });
        }
        Ok(clients)
    }
}

/// The phase now, after a rest; `None` when all is over.
async fn at_work(now: &mut watch::Receiver<u64>) -> Option<u64> {
    let phase = now.wait_for(|phase| *phase != RESTING).await;
    phase.ok().map(|phase| *phase).filter(|phase| *phase != OVER)
}

async fn read_on(
    file: FileReader,
    bytes: u64,
    seed: u64,
    mut now: watch::Receiver<u64>,
) -> Result<Vec<Operation>, gabion_client::Error> {
    let mut done = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    loop {
        let Some(phase) = at_work(&mut now).await else {
            return Ok(done);
        };
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let began = Instant::now();
        file.read_at(state % (bytes / OPERATION_BYTES) * OPERATION_BYTES, OPERATION_BYTES)
            .await?;
        done.push(Operation::ended(began, phase));
    }
}

async fn write_on(
    client: Client,
    top: FsPath,
    mut now: watch::Receiver<u64>,
    written: Arc<AtomicU64>,
) -> Result<Vec<Operation>, gabion_client::Error> {
    let mut done = Vec::new();
    let content = vec![7; OPERATION_BYTES as usize];
    loop {
        let Some(phase) = at_work(&mut now).await else {
            return Ok(done);
        };
        let path = top.join(&format!("{}", done.len())).unwrap_or_else(|_| top.clone());
        let began = Instant::now();
        put(&client, &path, &content).await?;
        done.push(Operation::ended(began, phase));
        written.fetch_add(1, Ordering::Relaxed);
    }
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
    /// Of operations in the order of their beginnings; `None` of none.
    fn by(phase: &'static str, operations: Vec<Operation>) -> Option<Self> {
        let (first, last) = operations.first().zip(operations.last())?;
        let millis: Vec<f64> = operations.iter().map(|one| one.millis).collect();
        Some(Self {
            phase,
            per_second: operations.len() as f64 / (last.began - first.began).as_secs_f64().max(0.001),
            p50_ms: report::median(&millis),
            p99_ms: report::percentile(&millis, 0.99),
            p99_ratio: f64::NAN,
        })
    }
}

/// A table of what clients saw.
pub(crate) fn table(clients: &[Clients]) -> Table {
    let mut table = Table::new(&[
        Column::Words("clients"),
        Column::Words("while"),
        Column::Numbers("per second"),
        Column::Numbers("p50 ms"),
        Column::Numbers("p99 ms"),
        Column::Numbers("p99 ratio"),
    ]);
    for of in clients {
        for seen in &of.phases {
            table.row([
                of.what.to_owned(),
                seen.phase.to_owned(),
                format!("{:.0}", seen.per_second),
                format!("{:.2}", seen.p50_ms),
                format!("{:.2}", seen.p99_ms),
                format!("{:.2}", seen.p99_ratio),
            ]);
        }
    }
    table
}
