//! The longest stalls of a client that writes 4 KiB files in a loop, and of one that reads them, for each process that
//! is killed or stopped.
//!
//! A victim is the leading master, or a chunkserver, each in turn. *Killed*: SIGKILL, and started again afterwards.
//! *Stopped*: SIGSTOP, its connections stay open and silent, and SIGCONT afterwards.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FsPath, Health};
use rustix::process::{Pid, Signal, kill_process};

use crate::report;

/// How long the consequences are watched before the victim comes back: longer than any expected stall.
const WATCH: Duration = Duration::from_secs(3);
/// Files the reader reads in turn.
const READ_FILES: u64 = 50;

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Victim {
    /// The leading master.
    Leader,
    /// The chunkservers, each in turn.
    Chunkserver,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
}

/// What the faults cost.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Stalls {
    /// Files written one after the other.
    pub(crate) writer: Loop,
    /// Files read one after the other.
    pub(crate) reader: Loop,
}

/// What the faults cost one client.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Loop {
    /// For each fault: the longest time between two operations done, in seconds.
    pub(crate) seconds: Vec<f64>,
    /// Operations done in all.
    pub(crate) done: u64,
    /// Operations that failed: expected to be none.
    pub(crate) failed: u64,
}

/// Operations done, and how many failed.
type Finished = (Vec<Instant>, u64);

/// Writes and reads in loops and hits a victim `kills` times.
pub(crate) async fn run(client: Client, arguments: &crate::Failover, script: &Path) -> Result<Stalls> {
    let stop = Arc::new(AtomicBool::new(false));
    let top = FsPath::parse("/gabion-bench/failover")?;
    for number in 0..READ_FILES {
        put(&client, &top.join(&format!("read-{number}"))?, &[9; 4096]).await?;
    }
    let writer = tokio::spawn(write_loop(client.clone(), top.clone(), Arc::clone(&stop)));
    let reader = tokio::spawn(read_loop(client.clone(), top.clone(), Arc::clone(&stop)));
    let mut faults = Vec::new();
    for round in 0..arguments.kills {
        let node = victim(&client, arguments, round).await?;
        let pid = machine_pid(&arguments.cluster, &node)?;
        let at = Instant::now();
        let signal = match arguments.fault {
            Fault::Kill => Signal::KILL,
            Fault::Stop => Signal::STOP,
        };
        kill_process(pid, signal).with_context(|| format!("signalling {node}"))?;
        tokio::time::sleep(WATCH).await;
        faults.push((at, Instant::now()));
        match arguments.fault {
            Fault::Kill => start(&arguments.cluster, script, &node).await?,
            Fault::Stop => kill_process(pid, Signal::CONT).with_context(|| format!("continuing {node}"))?,
        }
        healthy(&client).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let stalls = |(finished, failed): Finished| {
        ensure!(!finished.is_empty(), "not one operation was done: nothing was measured");
        Ok(Loop {
            seconds: faults.iter().map(|fault| longest_gap(&finished, *fault)).collect(),
            done: finished.len() as u64,
            failed,
        })
    };
    let stalls = Stalls {
        writer: stalls(writer.await?)?,
        reader: stalls(reader.await?)?,
    };
    client.remove(&top, true).await?;
    Ok(stalls)
}

async fn victim(client: &Client, arguments: &crate::Failover, round: usize) -> Result<String> {
    let status = client.status().await?;
    match arguments.victim {
        Victim::Leader => Ok(format!("m{}", status.leader.context("no master leads")?)),
        Victim::Chunkserver => {
            let servers = &status.servers;
            ensure!(!servers.is_empty(), "no chunkserver is registered");
            Ok(servers[round % servers.len()].name.clone())
        }
    }
}

/// Writes a small file.
pub(crate) async fn put(client: &Client, path: &FsPath, content: &[u8]) -> Result<(), gabion_client::Error> {
    let options = CreateOptions {
        replace: true,
        parents: true,
        length_hint: Some(content.len() as u64),
        ..CreateOptions::default()
    };
    let mut file = client.create(path, options).await?;
    file.write(content).await?;
    file.finish().await.map(|_| ())
}

/// Writes files until told to stop; when each was acknowledged.
async fn write_loop(client: Client, top: FsPath, stop: Arc<AtomicBool>) -> Finished {
    let mut finished = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let path = top
            .join(&format!("written-{}", finished.0.len()))
            .unwrap_or_else(|_| top.clone());
        let done = put(&client, &path, &[7; 4096]).await;
        note(&mut finished, done);
    }
    finished
}

/// Reads files until told to stop; when each had been read and verified.
async fn read_loop(client: Client, top: FsPath, stop: Arc<AtomicBool>) -> Finished {
    let mut finished = (Vec::new(), 0);
    let mut next = (0..READ_FILES).cycle();
    while !stop.load(Ordering::Relaxed) {
        let number = next.next().unwrap_or_default();
        let path = top.join(&format!("read-{number}")).unwrap_or_else(|_| top.clone());
        let done = client.read(&path).await.map(|_| ());
        note(&mut finished, done);
    }
    finished
}

fn note(finished: &mut Finished, done: Result<(), gabion_client::Error>) {
    match done {
        Ok(()) => finished.0.push(Instant::now()),
        Err(error) => {
            eprintln!("{}", error.report());
            finished.1 += 1;
        }
    }
}

/// The longest time without a file written, within a kill's watch.
fn longest_gap(finished: &[Instant], (from, to): (Instant, Instant)) -> f64 {
    let before = finished.iter().rev().find(|at| **at <= from).copied().unwrap_or(from);
    let within = finished.iter().copied().filter(|at| *at > from && *at <= to);
    let mut last = before;
    let mut longest = Duration::ZERO;
    for at in within.chain([to]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest.as_secs_f64()
}

/// The process of a running node.
pub(crate) fn machine_pid(cluster: &Path, node: &str) -> Result<Pid> {
    let text =
        std::fs::read_to_string(cluster.join(node).join("pid")).with_context(|| format!("{node} does not run"))?;
    Pid::from_raw(text.trim().parse().with_context(|| format!("{node}'s pid file"))?).context("a pid is not 0")
}

/// Starts a node of a cluster made by `ops/cluster`.
pub(crate) async fn start(cluster: &Path, script: &Path, node: &str) -> Result<()> {
    let status = tokio::process::Command::new(script)
        .args(["start", node, "--dir"])
        .arg(cluster)
        .status()
        .await
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(status.success(), "{} start {node} failed", script.display());
    Ok(())
}

/// Waits until every master has the whole log and every chunkserver beats, so that each fault meets a healthy cluster.
pub(crate) async fn healthy(client: &Client) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = client.status().await?;
        let behind = |matched: Option<u64>| matched.is_none_or(|matched| matched + 100 < status.last_log);
        let leader = status.leader;
        let is_behind = status
            .masters
            .iter()
            .any(|master| Some(master.id) != leader && behind(master.matched));
        let is_away = status.servers.iter().any(|server| server.health != Health::Alive);
        if !is_behind && !is_away {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "a master or chunkserver that came back did not catch up within 30 s"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints the stalls.
pub(crate) fn show(format: Format, stalls: &Stalls) -> String {
    if format != Format::Table {
        return report::json(stalls);
    }
    let mut table = Table::new(&[
        Column::Words("stall, seconds"),
        Column::Numbers("writer"),
        Column::Numbers("reader"),
    ]);
    let (writer, reader) = (&stalls.writer, &stalls.reader);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("max", 1.0)] {
        let of = |one: &Loop| format!("{:.3}", report::percentile(&one.seconds, share));
        table.row([name.to_owned(), of(writer), of(reader)]);
    }
    let mut count = |name: &str, of: fn(&Loop) -> u64| {
        table.row([name.to_owned(), of(writer).to_string(), of(reader).to_string()]);
    };
    count("faults", |one| one.seconds.len() as u64);
    count("files done", |one| one.done);
    count("files failed", |one| one.failed);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_the_longest_gap_around_its_kill() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let finished = [at(0), at(90), at(1000), at(1100), at(3000)];
        assert_eq!(longest_gap(&finished, (at(100), at(1200))), 0.91);
        assert_eq!(
            longest_gap(&finished, (at(1150), at(2000))),
            0.9,
            "a stall that goes on counts"
        );
    }
}
