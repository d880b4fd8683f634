//! Appends: records of many writers at the end of one file, each answered when it is on the disks of all copies and in
//! the file; and the file read back, verified. One `fdatasync` is timed beside them.

use anyhow::{Result, ensure};
use gabion_client::{Client, CreateOptions, FsPath};
use gabion_protocol::config::Size;

use crate::rates::{self, Rates};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Append {
    /// Bytes of each record.
    #[arg(long, default_value = "4KiB")]
    size: Size,
    /// Records.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Writers at once, each with one record in flight.
    #[arg(long, visible_alias = "clients", default_value_t = 16)]
    writers: usize,
    /// Sessions with connections of their own that the writers are spread over, as so many processes would have. Records
    /// of one session go together.
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Where one fdatasync is timed: on the disk of the servers.
    #[arg(long, default_value = ".")]
    dir: std::path::PathBuf,
}

/// Appends and reads.
pub(crate) async fn run(client: &Client, arguments: &Append) -> Result<Vec<Rates>> {
    ensure!(
        arguments.count > 0 && arguments.writers > 0 && arguments.size.0 > 0,
        "--size, --count and --writers must be at least 1"
    );
    let fdatasync = crate::meta::fdatasync(&arguments.dir)?;
    let path = FsPath::parse(&format!("/gabion-bench/append-{}", std::process::id()))?;
    let options = CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    client.create_empty(&path, options).await?;
    let steps = steps(&path, arguments).await;
    client.remove(&path, false).await?;
    Ok([vec![fdatasync], steps?].concat())
}

async fn steps(path: &FsPath, arguments: &Append) -> Result<Vec<Rates>> {
    let clients = rates::connect_many(arguments.writers, arguments.sessions).await?;
    let mut files = Vec::new();
    for client in &clients {
        files.push(client.open_file(path).await?);
    }
    let record: bytes::Bytes = (0..arguments.size.0).map(|at| (at % 251) as u8).collect();
    let appended = rates::drive("append", &clients, arguments.count, move |_, number| {
        let file = files[number as usize % files.len()].clone();
        let record = record.clone();
        async move { file.append(record).await.map(drop) }
    });
    let mut appended = appended.await?;
    let (_, extents) = clients[0].locate(path).await?;
    let gathered = arguments.count as f64 / extents.len().max(1) as f64;
    appended.what = format!("append, {gathered:.1} to a chunk");
    let (whole, length) = (path.clone(), arguments.size.0 * arguments.count);
    let read = rates::drive("read whole", &clients[..1], 1, move |client, _| {
        let path = whole.clone();
        async move {
            let mut stream = client.open(&path).await?.stream();
            let mut read = 0;
            while let Some(bytes) = stream.next().await? {
                read += bytes.len() as u64;
            }
            assert_eq!(read, length, "every record is there once");
            Ok(())
        }
    });
    Ok(vec![appended, read.await?])
}
