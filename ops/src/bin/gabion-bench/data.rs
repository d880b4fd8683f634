//! Write and read throughput, each step interleaved with its roofline.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gabion_client::{Client, CreateOptions, DownloadOptions, FsPath};
use gabion_protocol::limits::PACKET_BYTES;

use crate::report::Row;
use crate::roofline::{self, Crc};
use crate::{Sizes, machine};

/// A directory of one run, removed at the end.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let scratch = dir.join(format!("gabion-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
        Ok(Self(scratch))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to be done about a leftover but to leave it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Files of one run: the source, the roofline's, and local copies.
struct Bench {
    scratch: Scratch,
    source: PathBuf,
    streams: usize,
    bytes: u64,
    /// Where the cluster's processes and files are, if it is one of ours.
    cluster: Option<PathBuf>,
    cold: bool,
}

/// One timed step.
#[derive(Debug, Clone, Copy)]
struct Step {
    seconds: f64,
    /// CPU seconds of everything that took part; `None` if it is not all on this machine.
    cpu: Option<f64>,
}

impl Bench {
    fn new(sizes: &Sizes) -> Result<Self> {
        let bytes = sizes.size.0;
        ensure!(
            bytes > 0 && bytes.is_multiple_of(PACKET_BYTES as u64),
            "--size must be a multiple of 1 MiB, so that the relay's O_DIRECT writes are aligned"
        );
        ensure!(
            sizes.streams > 0 && sizes.rounds > 0,
            "--streams and --rounds must be at least 1"
        );
        let scratch = Scratch::new(&sizes.dir)?;
        let bench = Self {
            source: scratch.path().join("source"),
            scratch,
            cluster: sizes.cluster.clone(),
            streams: sizes.streams,
            bytes,
            cold: sizes.cold,
        };
        make_source(&bench.source, bytes)?;
        Ok(bench)
    }

    fn total(&self) -> u64 {
        self.bytes * self.streams as u64
    }

    /// Makes ready for a timed step: free memory touched, the source in page cache.
    fn prepare(&self) -> Result<()> {
        machine::touch_free_memory(usize::try_from(self.total().min(2 << 30)).unwrap_or(1 << 30));
        machine::warm(&self.source)
    }

    /// Runs `step` once for each stream, all at once, on threads.
    fn threads(&self, step: impl Fn(usize) -> Result<()> + Sync) -> Result<Step> {
        let own = machine::usage(std::process::id())?.cpu_seconds;
        let began = Instant::now();
        std::thread::scope(|scope| {
            let streams: Vec<_> = (0..self.streams)
                .map(|stream| {
                    scope.spawn({
                        let step = &step;
                        move || step(stream)
                    })
                })
                .collect();
            streams
                .into_iter()
                .try_for_each(|stream| stream.join().expect("a step does not panic"))
        })?;
        Ok(Step {
            seconds: began.elapsed().as_secs_f64(),
            cpu: Some(machine::usage(std::process::id())?.cpu_seconds - own),
        })
    }

    /// CPU seconds so far of this process and of the cluster's, if they are known.
    fn cpu(&self) -> Result<Option<f64>> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        let mut seconds = machine::usage(std::process::id())?.cpu_seconds;
        for (_, pid) in machine::cluster_processes(cluster)? {
            seconds += machine::usage(pid)?.cpu_seconds;
        }
        Ok(Some(seconds))
    }

    fn relay(&self, crc: Crc) -> Result<Step> {
        self.prepare()?;
        self.threads(|stream| roofline::write(&self.source, self.scratch.path(), stream, crc))
    }

    fn send_back(&self, crc: Crc) -> Result<Step> {
        self.prepare()?;
        for stream in 0..self.streams {
            let stored = roofline::stored(self.scratch.path(), stream, 0);
            if self.cold {
                roofline::make_cold(&stored)?
            } else {
                machine::warm(&stored)?
            }
        }
        let step = self.threads(|stream| roofline::read(self.scratch.path(), stream, &self.local(stream), crc))?;
        self.forget_local()?;
        Ok(step)
    }

    fn local(&self, stream: usize) -> PathBuf {
        self.scratch.path().join(format!("back-{stream}"))
    }

    fn forget_local(&self) -> Result<()> {
        (0..self.streams).try_for_each(|stream| Ok(std::fs::remove_file(self.local(stream))?))
    }

    fn remote(stream: usize) -> Result<FsPath> {
        Ok(FsPath::parse(&format!(
            "/gabion-bench/{}-{stream}",
            std::process::id()
        ))?)
    }

    async fn upload(&self, client: &Client) -> Result<Step> {
        self.prepare()?;
        let before = self.cpu()?;
        let began = Instant::now();
        let mut uploads = tokio::task::JoinSet::new();
        for stream in 0..self.streams {
            let (client, source, bytes) = (client.clone(), self.source.clone(), self.bytes);
            uploads.spawn(async move {
                let options = CreateOptions {
                    replace: true,
                    parents: true,
                    ..CreateOptions::default()
                };
                let file = std::fs::File::open(&source)?;
                client
                    .upload_file(&Self::remote(stream)?, options, file, bytes, |_| ())
                    .await?;
                anyhow::Ok(())
            });
        }
        while let Some(upload) = uploads.join_next().await {
            upload??;
        }
        self.step(began, before)
    }

    fn step(&self, began: Instant, before: Option<f64>) -> Result<Step> {
        let seconds = began.elapsed().as_secs_f64();
        let cpu = self.cpu()?.zip(before).map(|(after, before)| after - before);
        Ok(Step { seconds, cpu })
    }

    async fn download(&self, client: &Client) -> Result<Step> {
        self.prepare()?;
        if self.cold {
            let cluster = self.cluster.as_ref().context(COLD_NEEDS_CLUSTER)?;
            machine::make_cluster_cold(cluster)?;
        }
        let before = self.cpu()?;
        let began = Instant::now();
        let mut downloads = tokio::task::JoinSet::new();
        for stream in 0..self.streams {
            let (client, to) = (client.clone(), self.local(stream));
            downloads.spawn(async move {
                let file = client.open(&Self::remote(stream)?).await?;
                file.download_file(&to, DownloadOptions::default(), |_| ()).await?;
                anyhow::Ok(())
            });
        }
        while let Some(download) = downloads.join_next().await {
            download??;
        }
        let step = self.step(began, before)?;
        self.forget_local()?;
        Ok(step)
    }

    async fn remove_remote(&self, client: &Client) -> Result<()> {
        for stream in 0..self.streams {
            client.remove(&Self::remote(stream)?, false).await?;
        }
        Ok(())
    }
}

const COLD_NEEDS_CLUSTER: &str =
    "--cold needs --cluster DIR (or --local): only then can the servers' files be dropped from the page cache";

/// A row of what some steps took.
fn row(what: &str, bytes: u64, steps: &[Step], base: Option<&Row>) -> Row {
    let seconds = steps.iter().map(|step| step.seconds).collect();
    let cpu: Option<Vec<f64>> = steps.iter().map(|step| step.cpu).collect();
    Row::new(what, bytes, seconds, base).with_cpu(cpu.as_deref(), base)
}

/// A file of bytes that no layer can compress or share.
pub(crate) fn make_source(path: &Path, bytes: u64) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut packet = vec![0; PACKET_BYTES];
    for _ in 0..bytes / PACKET_BYTES as u64 {
        for word in packet.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_be_bytes());
        }
        file.write_all(&packet)?;
    }
    Ok(())
}

/// The roofline alone: relays and sendfile, without and with a CRC pass per hop.
pub(crate) async fn roofline(sizes: &Sizes) -> Result<Vec<Row>> {
    let bench = Bench::new(sizes)?;
    let mut seconds: [Vec<Step>; 4] = Default::default();
    for _ in 0..sizes.rounds {
        seconds[0].push(bench.relay(Crc::Off)?);
        seconds[1].push(bench.relay(Crc::PerHop)?);
        seconds[2].push(bench.send_back(Crc::Off)?);
        seconds[3].push(bench.send_back(Crc::PerHop)?);
    }
    let names = [
        "relay ×3, O_DIRECT + fdatasync",
        "relay ×3 +crc",
        "sendfile to a file",
        "sendfile +crc",
    ];
    Ok(names
        .into_iter()
        .zip(seconds)
        .map(|(name, steps)| row(name, bench.total(), &steps, None))
        .collect())
}

/// Uploads beside the relay.
pub(crate) async fn write(client: &Client, sizes: &Sizes) -> Result<Vec<Row>> {
    let bench = Bench::new(sizes)?;
    let mut seconds: [Vec<Step>; 3] = Default::default();
    for _ in 0..sizes.rounds {
        seconds[0].push(bench.relay(Crc::Off)?);
        seconds[1].push(bench.relay(Crc::PerHop)?);
        seconds[2].push(bench.upload(client).await?);
        bench.remove_remote(client).await?;
    }
    let [off, per_hop, upload] = seconds;
    let total = bench.total();
    let off = row("relay ×3, O_DIRECT + fdatasync", total, &off, None);
    let per_hop = row("relay ×3 +crc", total, &per_hop, None);
    let to_off = row("gabion upload, to relay", total, &upload, Some(&off));
    let to_crc = row("gabion upload, to relay +crc", total, &upload, Some(&per_hop));
    Ok(vec![off, per_hop, to_off, to_crc])
}

/// Downloads beside sendfile.
pub(crate) async fn read(client: &Client, sizes: &Sizes) -> Result<Vec<Row>> {
    ensure!(!sizes.cold || sizes.cluster.is_some(), COLD_NEEDS_CLUSTER);
    let bench = Bench::new(sizes)?;
    bench.relay(Crc::Off)?;
    bench.upload(client).await?;
    // Once, so that the first timed download is as warm as the last.
    bench.download(client).await?;
    let mut seconds: [Vec<Step>; 3] = Default::default();
    for _ in 0..sizes.rounds {
        seconds[0].push(bench.send_back(Crc::Off)?);
        seconds[1].push(bench.send_back(Crc::PerHop)?);
        seconds[2].push(bench.download(client).await?);
    }
    bench.remove_remote(client).await?;
    let [off, per_hop, download] = seconds;
    let total = bench.total();
    let off = row("sendfile to a file", total, &off, None);
    let per_hop = row("sendfile +crc", total, &per_hop, None);
    let to_off = row("gabion download, to sendfile", total, &download, Some(&off));
    let to_crc = row("gabion download, to sendfile +crc", total, &download, Some(&per_hop));
    Ok(vec![off, per_hop, to_off, to_crc])
}

/// The same downloads by several clients, one after the other in each round; ratios are to the first.
pub(crate) async fn compare_downloads(clients: &[(String, Client)], sizes: &Sizes) -> Result<Vec<Row>> {
    ensure!(!sizes.cold || sizes.cluster.is_some(), COLD_NEEDS_CLUSTER);
    let bench = Bench::new(sizes)?;
    let (_, first) = clients.first().context("there is nothing to compare")?;
    bench.upload(first).await?;
    let mut seconds = vec![Vec::new(); clients.len()];
    // Once without counting, so that the first timed download is as warm as the last.
    for round in 0..=sizes.rounds {
        for ((_, client), seconds) in clients.iter().zip(&mut seconds) {
            let took = bench.download(client).await?;
            if round > 0 {
                seconds.push(took);
            }
        }
    }
    bench.remove_remote(first).await?;
    let mut rows: Vec<Row> = Vec::new();
    for ((name, _), seconds) in clients.iter().zip(seconds) {
        let row = row(name, bench.total(), &seconds, rows.first());
        rows.push(row);
    }
    Ok(rows)
}
