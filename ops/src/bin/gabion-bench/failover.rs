//! The longest stall of a client that writes 4 KiB files in a loop, for each leading master that is killed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FsPath};
use rustix::process::{Pid, Signal, kill_process};

use crate::report;

/// How long a kill's consequences are watched before the killed master is started again.
const WATCH: Duration = Duration::from_secs(3);

/// What the kills cost.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Stalls {
    /// For each kill: the longest time between two files written, in seconds.
    pub(crate) seconds: Vec<f64>,
    /// Files written in all.
    pub(crate) written: u64,
    /// Files that failed: expected to be none.
    pub(crate) failed: u64,
}

/// Writes in a loop and kills the leader `kills` times.
pub(crate) async fn run(client: Client, arguments: &crate::Failover, script: &Path) -> Result<Stalls> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn(write_loop(client.clone(), Arc::clone(&stop), Arc::clone(&failed)));
    let mut kills = Vec::new();
    for _ in 0..arguments.kills {
        let leader = client.status().await?.leader.context("no master leads")?;
        let node = format!("m{leader}");
        let pid = machine_pid(&arguments.cluster, &node)?;
        let at = Instant::now();
        kill_process(pid, Signal::KILL).with_context(|| format!("killing {node}"))?;
        tokio::time::sleep(WATCH).await;
        kills.push((at, Instant::now()));
        start(&arguments.cluster, script, &node).await?;
        caught_up(&client).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let finished = writer.await??;
    ensure!(!finished.is_empty(), "not one file was written: nothing was measured");
    Ok(Stalls {
        seconds: kills.iter().map(|kill| longest_gap(&finished, *kill)).collect(),
        written: finished.len() as u64,
        failed: failed.load(Ordering::Relaxed),
    })
}

/// Writes files until told to stop; when each was acknowledged.
async fn write_loop(client: Client, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>) -> Result<Vec<Instant>> {
    let content = vec![7u8; 4096];
    let mut finished = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let path = FsPath::parse(&format!("/gabion-bench/failover/{}", finished.len()))?;
        let options = CreateOptions {
            replace: true,
            parents: true,
            ..CreateOptions::default()
        };
        let write = async {
            let mut file = client.create(&path, options).await?;
            file.write(&content).await?;
            file.finish().await
        };
        match write.await {
            Ok(_) => finished.push(Instant::now()),
            Err(error) => {
                eprintln!("{}", error.report());
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    client.remove(&FsPath::parse("/gabion-bench/failover")?, true).await?;
    Ok(finished)
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

fn machine_pid(cluster: &Path, node: &str) -> Result<Pid> {
    let text =
        std::fs::read_to_string(cluster.join(node).join("pid")).with_context(|| format!("{node} does not run"))?;
    Pid::from_raw(text.trim().parse().with_context(|| format!("{node}'s pid file"))?).context("a pid is not 0")
}

async fn start(cluster: &Path, script: &Path, node: &str) -> Result<()> {
    let status = tokio::process::Command::new(script)
        .args(["start", node, "--dir"])
        .arg(cluster)
        .status()
        .await
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(status.success(), "{} start {node} failed", script.display());
    Ok(())
}

/// Waits until every master has the whole log, so that each kill meets a healthy cluster.
async fn caught_up(client: &Client) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = client.status().await?;
        let behind = |matched: Option<u64>| matched.is_none_or(|matched| matched + 100 < status.last_log);
        let leader = status.leader;
        if !status
            .masters
            .iter()
            .any(|master| Some(master.id) != leader && behind(master.matched))
        {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "a restarted master did not catch up within 30 s"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints the stalls.
pub(crate) fn show(format: Format, stalls: &Stalls) -> String {
    if format != Format::Table {
        return report::json(stalls);
    }
    let mut table = Table::new(&[Column::Words("stall"), Column::Numbers("seconds")]);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("max", 1.0)] {
        table.row([
            name.to_owned(),
            format!("{:.3}", report::percentile(&stalls.seconds, share)),
        ]);
    }
    table.row(["kills".to_owned(), stalls.seconds.len().to_string()]);
    table.row(["files written".to_owned(), stalls.written.to_string()]);
    table.row(["files failed".to_owned(), stalls.failed.to_string()]);
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
