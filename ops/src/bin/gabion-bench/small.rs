//! Small files: whole ones, written with all their copies synced, read back verified.

use anyhow::{Result, ensure};
use gabion_client::{Client, CreateOptions, FsPath};
use gabion_protocol::config::Size;

use crate::rates::{self, Rates};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Small {
    /// Bytes of each file.
    #[arg(long, default_value = "4KiB")]
    size: Size,
    /// Files.
    #[arg(long, default_value_t = 5000)]
    count: u64,
    /// Clients at once, each with one file in flight.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Sessions with connections of their own that the clients are spread over.
    #[arg(long, default_value_t = 4)]
    sessions: usize,
}

/// Files of one directory.
const PER_DIRECTORY: u64 = 1000;

/// Writes and reads.
pub(crate) async fn run(client: &Client, arguments: &Small) -> Result<Vec<Rates>> {
    ensure!(
        arguments.size.0 <= 64 << 20,
        "--size is for small files; measure large ones with write and read"
    );
    ensure!(
        arguments.count > 0 && arguments.clients > 0,
        "--count and --clients must be at least 1"
    );
    let top = FsPath::parse(&format!("/gabion-bench/small-{}", std::process::id()))?;
    let steps = steps(&top, arguments).await;
    client.remove(&top, true).await?;
    steps
}

async fn steps(top: &FsPath, arguments: &Small) -> Result<Vec<Rates>> {
    let clients = rates::connect_many(arguments.clients, arguments.sessions).await?;
    for number in 0..arguments.count.div_ceil(PER_DIRECTORY) {
        clients[0]
            .mkdir(&place(top, number * PER_DIRECTORY).0, true, 0o755)
            .await?;
    }
    let content: std::sync::Arc<[u8]> = (0..arguments.size.0).map(|at| (at % 251) as u8).collect();
    let (in_top, length) = (top.clone(), arguments.size.0);
    let put = rates::drive("put", &clients, arguments.count, move |client, number| {
        let (content, path) = (std::sync::Arc::clone(&content), place(&in_top, number).1);
        async move {
            let options = CreateOptions {
                length_hint: Some(content.len() as u64),
                ..CreateOptions::default()
            };
            let mut file = client.create(&path, options).await?;
            file.write(&content).await?;
            file.finish().await.map(|_| ())
        }
    });
    let put = put.await?;
    let in_top = top.clone();
    let get = rates::drive("get", &clients, arguments.count, move |client, number| {
        let path = place(&in_top, number).1;
        async move {
            let bytes = client.read(&path).await?;
            assert_eq!(bytes.len() as u64, length, "a file is whole");
            Ok(())
        }
    });
    let get = get.await?;
    Ok(vec![put, get])
}

/// A file's directory and path.
fn place(top: &FsPath, number: u64) -> (FsPath, FsPath) {
    let directory = top
        .join(&format!("d{}", number / PER_DIRECTORY))
        .unwrap_or_else(|_| top.clone());
    let path = directory
        .join(&format!("f{number:08}"))
        .unwrap_or_else(|_| directory.clone());
    (directory, path)
}
