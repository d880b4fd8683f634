//! `gabion append`, `truncate` and `setrep`: files that are there and change.

use std::path::Path;
use std::time::{Duration, Instant};

use gabion_client::terminal::{Failure, FileProgress, Progress, Tally, text};
use gabion_client::{Appender, CreateOptions, File, Walk};
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::{ErrorCode, FsPath};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::args::{Append, SetReplicas, Truncate, remote_path};
use crate::context::Context;
use crate::glob;

const USAGE: &str = "gabion append LOCAL /on/the/cluster";
/// Longest time that bytes of a pipe are kept back to gather more.
const GATHER: Duration = Duration::from_secs(1);
/// Between looks whether copies have been made: repair itself looks twice a second.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn append(context: &Context, append: Append) -> Result<(), Failure> {
    let Some((target, sources)) = append.paths.split_last() else {
        return Err(Failure::usage("append takes a local file and a remote one", USAGE));
    };
    let target = target
        .to_str()
        .ok_or_else(|| "it is no text".to_owned())
        .and_then(remote_path);
    let target = target.map_err(|why| Failure::usage(format!("the remote file: {why}"), USAGE))?;
    if append.create {
        context.client.create_missing(&target, CreateOptions::default()).await?;
    }
    let file: File = match append.exclusive {
        true => context.client.open_exclusive(&target).await?,
        false => context.client.open_file(&target).await?,
    };
    let began = Instant::now();
    let progress = Progress::new(context.quiet, sources.len() as u64, 0);
    let mut tally = Tally::default();
    let mut bytes = 0;
    for source in sources {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let shown = source.display().to_string();
        match append_one(context, &file, source, &progress).await {
            Ok(appended) => {
                tally.succeeded();
                bytes += appended;
            }
            Err(failure) => tally.failed(&shown, failure),
        }
    }
    progress.finish();
    file.close().await?;
    let took = text::span(began.elapsed());
    context.say(&format!("appended {} in {took}", text::size(bytes)));
    tally.finish("file", "appended", &mut |line| eprintln!("{line}"))
}

/// Appends one local file, or what a pipe brings; how many bytes.
async fn append_one(context: &Context, file: &File, source: &Path, progress: &Progress) -> Result<u64, Failure> {
    let mut appender = file.appender();
    let appended = async {
        if source == Path::new("-") {
            let bar = progress.file("-", 0);
            copy(tokio::io::stdin(), &mut appender, &bar).await?;
        } else {
            let shown = source.display().to_string();
            let local = tokio::fs::File::open(source).await;
            let local = local.map_err(|error| Failure::local("read", &shown, &error))?;
            let length = local.metadata().await.map_or(0, |metadata| metadata.len());
            let bar = progress.file(&shown, length);
            copy(local, &mut appender, &bar).await?;
        }
        Ok::<_, Failure>(appender.written())
    };
    let taken = tokio::select! {
        appended = appended => appended?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    appender.finish().await?;
    Ok(taken)
}

/// Appends all that comes. Bytes of a slow source go into the file soon, not only with the next whole chunk; a fast one
/// is left to fill chunks.
async fn copy(mut from: impl AsyncRead + Unpin, to: &mut Appender, bar: &FileProgress) -> Result<(), Failure> {
    let mut buffer = vec![0; PACKET_BYTES];
    // When bytes began to be kept back, and how many came since.
    let mut kept: Option<(tokio::time::Instant, usize)> = None;
    loop {
        let due = kept.map_or_else(tokio::time::Instant::now, |(since, _)| since + GATHER);
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.map_err(|error| Failure::local("read", "the source", &error))?,
            () = tokio::time::sleep_until(due), if kept.is_some() => {
                if kept.take().is_some_and(|(_, bytes)| bytes < PACKET_BYTES) {
                    to.sync().await?;
                } else {
                    kept = Some((tokio::time::Instant::now(), 0));
                }
                continue;
            }
        };
        if read == 0 {
            return Ok(());
        }
        to.write(&buffer[..read]).await?;
        bar.advance(read as u64);
        kept.get_or_insert_with(|| (tokio::time::Instant::now(), 0)).1 += read;
    }
}

pub(crate) async fn truncate(context: &Context, truncate: Truncate) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &truncate.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let truncated = async {
            let file = context.client.open_file(path).await?;
            file.truncate(truncate.size.0).await
        };
        match truncated.await {
            Ok(()) => tally.succeeded(),
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    tally.finish("file", "truncated", &mut |line| eprintln!("{line}"))
}

pub(crate) async fn set_replicas(context: &Context, set: SetReplicas) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut files = Vec::new();
    for path in &glob::expand(context, &set.paths, &mut tally).await {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.find(path).await {
            Ok(Some(entry)) if entry.is_directory() && set.recursive => {
                set_below(context, path, set.replicas, &mut tally, &mut files).await;
            }
            Ok(_) => set_one(context, path.clone(), set.replicas, &mut tally, &mut files).await,
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    if set.until_copied {
        wait_for_copies(context, files, &mut tally).await?;
    }
    tally.finish("file", "changed", &mut |line| eprintln!("{line}"))
}

async fn set_below(context: &Context, directory: &FsPath, replicas: u8, tally: &mut Tally, files: &mut Vec<FsPath>) {
    let mut walk = Walk::new(context.client.clone(), directory.clone());
    while let Some(next) = walk.next().await {
        match next {
            Ok((_, entry)) if !entry.is_file() => {}
            Ok((path, _)) => set_one(context, path, replicas, tally, files).await,
            Err(error) => tally.failed(directory.as_str(), error.into()),
        }
        if tally.is_hopeless() || context.stop.is_cancelled() {
            return;
        }
    }
}

async fn set_one(context: &Context, path: FsPath, replicas: u8, tally: &mut Tally, files: &mut Vec<FsPath>) {
    let set = async {
        let file = context.client.open_file(&path).await?;
        file.set_replicas(replicas).await
    };
    match set.await {
        Ok(()) => {
            tally.succeeded();
            files.push(path);
        }
        Err(error) => tally.failed(path.as_str(), error.into()),
    }
}

/// Waits until none of the files has a chunk with fewer copies than wanted. One that goes meanwhile needs none.
async fn wait_for_copies(context: &Context, mut files: Vec<FsPath>, tally: &mut Tally) -> Result<(), Failure> {
    while let Some(path) = files.last() {
        match context.client.resolve(path).await {
            Ok((_, entry)) if entry.degraded => {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = context.stop.cancelled() => return Err(Failure::interrupted()),
                }
            }
            Ok(_) => drop(files.pop()),
            Err(error) if error.code() == ErrorCode::NotFound => drop(files.pop()),
            Err(error) => {
                tally.failed(path.as_str(), error.into());
                files.pop();
            }
        }
    }
    Ok(())
}
