//! Names: create, stat, list, rename, delete.
//!
//! One create is one command of its own with its own reply; clients share nothing but the wire. Beside it stands what
//! one `fdatasync` costs on this machine, because every change waits for at least one on a majority of the masters.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gabion_client::{Client, CreateOptions, FsPath};

use crate::rates::{self, Rates};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Meta {
    /// Clients at once; several numbers, one run each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Sessions with connections of their own that the clients are spread over.
    #[arg(long, default_value_t = 4)]
    sessions: usize,
    /// Files each run creates; a single client makes a tenth of them.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Where one fdatasync is timed: on the disk of the masters.
    #[arg(long, default_value = ".")]
    dir: std::path::PathBuf,
}

/// Entries of a page, as `gabion list` asks for them.
const PAGE: u32 = 1000;

/// Runs all steps for each number of clients.
pub(crate) async fn run(client: &Client, arguments: &Meta) -> Result<Vec<Rates>> {
    ensure!(arguments.count >= 10, "--count must be at least 10");
    let mut all = vec![fdatasync(&arguments.dir)?];
    for clients in &arguments.clients {
        ensure!(*clients > 0, "--clients must be at least 1");
        let count = if *clients == 1 {
            arguments.count / 10
        } else {
            arguments.count
        };
        let top = FsPath::parse(&format!("/gabion-bench/meta-{}-{clients}", std::process::id()))?;
        client.mkdir(&top, true, 0o755).await?;
        let steps = steps(&top, rates::connect_many(*clients, arguments.sessions).await?, count).await;
        client.remove(&top, true).await?;
        all.extend(steps?);
    }
    Ok(all)
}

/// How long the disk takes to make 4 KiB in an allocated file durable.
pub(crate) fn fdatasync(dir: &Path) -> Result<Rates> {
    const TIMES: usize = 200;
    let path = dir.join(format!("gabion-bench-fdatasync-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let timed = (|| {
        file.write_all(&vec![0; TIMES * 4096])?;
        file.sync_all()?;
        let began = Instant::now();
        let mut millis = Vec::with_capacity(TIMES);
        for index in 0..TIMES {
            let at = Instant::now();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], index as u64 * 4096)?;
            file.sync_data()?;
            millis.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::Ok(Rates::new(
            "fdatasync of 4 KiB",
            1,
            began.elapsed().as_secs_f64(),
            &millis,
        ))
    })();
    std::fs::remove_file(&path)?;
    timed
}

async fn steps(top: &FsPath, clients: Vec<Client>, count: u64) -> Result<Vec<Rates>> {
    // Directories of a page each, so that listing reads whole pages and no directory is unusually long.
    let directories = count.div_ceil(u64::from(PAGE));
    for number in 0..directories {
        clients[0].mkdir(&directory(top, number), false, 0o755).await?;
    }
    let place = |top: &FsPath| {
        let top = top.clone();
        move |number: u64, name: &str| {
            let directory = directory(&top, number / u64::from(PAGE));
            directory.join(&format!("{name}{number:08}")).unwrap_or(directory)
        }
    };
    let mut all = Vec::new();
    let at = place(top);
    all.push(
        rates::drive("create", &clients, count, move |client, number| {
            let path = at(number, "f");
            async move { client.create_empty(&path, CreateOptions::default()).await.map(|_| ()) }
        })
        .await?,
    );
    let at = place(top);
    all.push(
        rates::drive("stat", &clients, count, move |client, number| {
            let path = at(number, "f");
            async move { client.stat(&path).await.map(|_| ()) }
        })
        .await?,
    );
    let in_top = top.clone();
    all.push(
        rates::drive(
            "list a page of 1,000",
            &clients,
            (count / 20).max(10),
            move |client, number| {
                let path = directory(&in_top, number % directories);
                async move { client.list(&path, None, PAGE).await.map(|_| ()) }
            },
        )
        .await?,
    );
    let at = place(top);
    all.push(
        rates::drive("rename", &clients, count, move |client, number| {
            let (from, to) = (at(number, "f"), at(number, "g"));
            async move { client.rename(&from, &to, false).await.map(|_| ()) }
        })
        .await?,
    );
    let at = place(top);
    all.push(
        rates::drive("delete", &clients, count, move |client, number| {
            let path = at(number, "g");
            async move { client.remove(&path, false).await.map(|_| ()) }
        })
        .await?,
    );
    Ok(all)
}

fn directory(top: &FsPath, number: u64) -> FsPath {
    top.join(&format!("d{number}")).unwrap_or_else(|_| top.clone())
}
