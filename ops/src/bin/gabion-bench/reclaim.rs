//! A tree of small files is removed for good: how long the answer takes, how fast what it held is taken apart and its chunks
//! are dropped, and what clients notice meanwhile.
//!
//! Chunks are dropped when the last read token for them has expired, so there is a wait between the two, which is told and
//! belongs to neither.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, CreateOptions, FsPath};

use crate::beside::{self, Beside, Load, READ_BYTES_MAX};
use crate::failover::put;
use crate::{rates, report};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Reclaim {
    /// Files of the tree, 4 KiB each.
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Clients that write them.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    #[command(flatten)]
    beside: Beside,
}

/// What came out.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Reclaimed {
    files: u64,
    answer_ms: f64,
    steps: Vec<Step>,
    clients: Vec<beside::Clients>,
}

#[derive(Debug, serde::Serialize)]
struct Step {
    what: &'static str,
    /// From the answer on.
    after_seconds: f64,
    seconds: f64,
    count: u64,
    per_second: f64,
}

const FILE_BYTES: u64 = 4 << 10;
const PER_DIRECTORY: u64 = 1000;
/// Between two looks: what is counted is half a second old.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Chunks that files hold, and copies on the servers.
async fn held(client: &Client) -> Result<(u64, u64)> {
    let status = client.status().await?;
    let copies = status.servers.iter().map(|server| server.load.chunks).sum();
    Ok((status.copies.iter().sum(), copies))
}

/// Stores, removes, waits, and removes what is left.
pub(crate) async fn run(client: &Client, arguments: &Reclaim) -> Result<Reclaimed> {
    ensure!(
        arguments.files > 0 && arguments.clients > 0,
        "--files and --clients must be at least 1"
    );
    let top = FsPath::parse(&format!("/gabion-bench/reclaim-{}", std::process::id()))?;
    let reclaimed = measure(client, arguments, &top).await;
    client.remove(&top, true).await?;
    reclaimed
}

async fn measure(client: &Client, arguments: &Reclaim, top: &FsPath) -> Result<Reclaimed> {
    let (read, tree) = (top.join("read")?, top.join("tree")?);
    let options = CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    let mut file = client.create(&read, options).await?;
    let piece = vec![9; 1 << 20];
    for _ in 0..READ_BYTES_MAX / piece.len() as u64 {
        file.write(&piece).await?;
    }
    file.finish().await?;
    let before = held(client).await?;
    store(client, arguments, &tree).await?;
    let mut load = Load::begin(client, &arguments.beside, top, &read, READ_BYTES_MAX).await?;
    arguments.beside.wait().await;
    load.enter("nothing is removed");
    arguments.beside.wait().await;
    load.enter("the tree is taken apart");
    let began = Instant::now();
    client.remove(&tree, true).await?;
    let answered = Instant::now();
    let mut steps = Vec::new();
    for (what, of) in [
        ("files taken apart", Of::Chunks(before.0)),
        ("copies dropped", Of::Copies(before.1)),
    ] {
        if matches!(of, Of::Copies(_)) {
            // Ten minutes of files would fill a disk.
            load.rest();
        }
        let step = watch(client, &mut load, what, of, arguments.files, answered).await?;
        steps.push(step);
    }
    Ok(Reclaimed {
        files: arguments.files,
        answer_ms: (answered - began).as_secs_f64() * 1000.0,
        steps,
        clients: load.end("nothing is removed").await?,
    })
}

async fn store(client: &Client, arguments: &Reclaim, tree: &FsPath) -> Result<()> {
    let clients = rates::connect_many(arguments.clients, 4).await?;
    let directory = |number: u64| tree.join(&format!("{:03}", number / PER_DIRECTORY));
    for number in (0..arguments.files).step_by(PER_DIRECTORY as usize) {
        client.mkdir(&directory(number)?, true, 0o755).await?;
    }
    let (tree, content) = (tree.clone(), vec![3; FILE_BYTES as usize]);
    let stored = rates::drive("put", &clients, arguments.files, move |client, number| {
        let directory = tree.join(&format!("{:03}", number / PER_DIRECTORY));
        let path = directory.and_then(|directory| directory.join(&number.to_string()));
        let content = content.clone();
        async move { put(&client, &path.expect("digits are a name"), &content).await }
    });
    stored.await.map(drop)
}

/// What is counted, and how many there were before the tree.
enum Of {
    Chunks(u64),
    Copies(u64),
}

/// Waits until nothing of the tree is left; what clients write meanwhile does not count.
async fn watch(
    client: &Client,
    load: &mut Load,
    what: &'static str,
    of: Of,
    files: u64,
    answered: Instant,
) -> Result<Step> {
    let (before, times) = match of {
        Of::Chunks(before) => (before, 1),
        Of::Copies(before) => (before, 3),
    };
    let whole = files * times;
    let mut began = None;
    loop {
        ensure!(answered.elapsed() < PATIENCE, "{what}: not all within an hour");
        tokio::time::sleep(LOOK).await;
        let written = load.written() * times;
        let (chunks, copies) = held(client).await?;
        let now = if times == 1 { chunks } else { copies };
        let left = now.saturating_sub(before + written);
        // The counts of what clients are just writing differ by some.
        if began.is_none() && left + whole / 100 < whole {
            began = Some((Instant::now(), left));
            if times > 1 {
                load.enter("copies are dropped");
            }
        }
        let Some((at, first)) = began.filter(|_| left <= whole / 100) else {
            continue;
        };
        let (seconds, count) = (at.elapsed().as_secs_f64(), first - left);
        return Ok(Step {
            what,
            after_seconds: (at - answered).as_secs_f64(),
            seconds,
            count,
            per_second: count as f64 / seconds.max(LOOK.as_secs_f64()),
        });
    }
}

/// Prints what came out.
pub(crate) fn show(format: Format, reclaimed: &Reclaimed) -> String {
    if format != Format::Table {
        return report::json(reclaimed);
    }
    let mut steps = Table::new(&[
        Column::Words("reclaimed"),
        Column::Numbers("from s on"),
        Column::Numbers("seconds"),
        Column::Numbers("count"),
        Column::Numbers("per second"),
    ]);
    for step in &reclaimed.steps {
        steps.row([
            step.what.to_owned(),
            format!("{:.1}", step.after_seconds),
            format!("{:.1}", step.seconds),
            step.count.to_string(),
            format!("{:.0}", step.per_second),
        ]);
    }
    let answer = format!(
        "removal of {} files answered after {:.1} ms\n",
        reclaimed.files, reclaimed.answer_ms
    );
    format!("{answer}\n{steps}\n{}", beside::table(&reclaimed.clients))
}
