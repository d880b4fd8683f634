//! Range reads at random places of a file, beside `pread` and loopback TCP alone.
//!
//! The roofline is a thread per read in flight with a connection of its own: it asks for a range, the other end reads
//! it with `pread` from a warm file and sends it. Both sides read the same ranges in the same order.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gabion_client::{Client, CreateOptions, FileReader, FsPath};
use gabion_protocol::config::Size;

use crate::data;
use crate::machine;
use crate::report::Row;

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Random {
    /// Bytes of each range.
    #[arg(long, default_value = "64KiB")]
    range: Size,
    /// Ranges begin anywhere, not at multiples of their length.
    #[arg(long)]
    unaligned: bool,
    /// Reads in flight.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Reads of each round.
    #[arg(long, default_value_t = 8000)]
    count: usize,
    /// Bytes of the file.
    #[arg(long, default_value = "512MiB")]
    size: Size,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the roofline's file is: on the disk of the chunkservers.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Reads, interleaved with the roofline.
pub(crate) async fn run(client: &Client, arguments: &Random) -> Result<Vec<Row>> {
    let (range, size) = (arguments.range.0, arguments.size.0);
    ensure!(
        range > 0 && range <= 1 << 20 && size >= range && size.is_multiple_of(1 << 20),
        "--range must be 1 B to 1 MiB, --size a multiple of 1 MiB that holds it"
    );
    ensure!(
        arguments.in_flight > 0 && arguments.count > 0 && arguments.rounds > 0,
        "--in-flight, --count and --rounds must be at least 1"
    );
    let scratch = data::Scratch::new(&arguments.dir)?;
    let source = scratch.path().join("source");
    data::make_source(&source, size)?;
    let path = FsPath::parse(&format!("/gabion-bench/random-{}", std::process::id()))?;
    let options = CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    client
        .upload_file(&path, options, File::open(&source)?, size, |_| ())
        .await?;
    let rows = rounds(client, arguments, &source, &path).await;
    client.remove(&path, false).await?;
    rows
}

async fn rounds(client: &Client, arguments: &Random, source: &Path, path: &FsPath) -> Result<Vec<Row>> {
    let file = client.open(path).await?;
    // Once through, so that the copies that are read are in page cache.
    let mut whole = file.stream();
    while whole.next().await?.is_some() {}
    machine::warm(source)?;
    let offsets: Arc<[u64]> = offsets(arguments).into();
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        bare.push(roofline(source, &offsets, arguments)?);
        ours.push(gabion(&file, &offsets, arguments).await?);
    }
    let total = arguments.range.0 * arguments.count as u64;
    let bare = Row::new("pread + loopback TCP", total, bare, None);
    let ours = Row::new("gabion range reads, verified", total, ours, Some(&bare));
    Ok(vec![bare, ours])
}

/// Where the ranges begin: the same in every run.
fn offsets(arguments: &Random) -> Vec<u64> {
    let (range, size) = (arguments.range.0, arguments.size.0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = state % (size - range + 1);
        if arguments.unaligned { at } else { at - at % range }
    };
    (0..arguments.count).map(|_| next()).collect()
}

fn roofline(source: &Path, offsets: &[u64], arguments: &Random) -> Result<f64> {
    let range = usize::try_from(arguments.range.0)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..arguments.in_flight {
            let client = TcpStream::connect(address).context("connecting to ourselves")?;
            let (server, _) = listener.accept()?;
            threads.push(scope.spawn(move || serve(server, source, range)));
            let next = &next;
            threads.push(scope.spawn(move || ask(client, next, offsets, range)));
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread does not panic"))
    })?;
    Ok(began.elapsed().as_secs_f64())
}

fn serve(mut socket: TcpStream, source: &Path, range: usize) -> Result<()> {
    socket.set_nodelay(true)?;
    let file = File::open(source)?;
    let (mut offset, mut buffer) = ([0; 8], vec![0; range]);
    loop {
        match socket.read_exact(&mut offset) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        file.read_exact_at(&mut buffer, u64::from_be_bytes(offset))?;
        socket.write_all(&buffer)?;
    }
}

fn ask(mut socket: TcpStream, next: &AtomicUsize, offsets: &[u64], range: usize) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; range];
    while let Some(offset) = offsets.get(next.fetch_add(1, Ordering::Relaxed)) {
        socket.write_all(&offset.to_be_bytes())?;
        socket.read_exact(&mut buffer)?;
        std::hint::black_box(&buffer);
    }
    Ok(())
}

async fn gabion(file: &FileReader, offsets: &Arc<[u64]>, arguments: &Random) -> Result<f64> {
    let (range, next) = (arguments.range.0, Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..arguments.in_flight {
        let (file, offsets, next) = (file.clone(), Arc::clone(offsets), Arc::clone(&next));
        readers.spawn(async move {
            while let Some(offset) = offsets.get(next.fetch_add(1, Ordering::Relaxed)) {
                let bytes = file.read_at(*offset, range).await?;
                ensure!(bytes.len() as u64 == range, "a range came short");
            }
            Ok(())
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    Ok(began.elapsed().as_secs_f64())
}
