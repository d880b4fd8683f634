//! `gabion download`: fetches files under temporary names, verifies them, and only then gives them their own.

use std::path::Path;

use futures_util::StreamExt as _;
use gabion_client::DownloadOptions;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, Tally, text};
use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::Entry;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::Download;
use crate::content;
use crate::context::Context;
use crate::download_plan::{Job, Plan, Source};
use crate::local;
use crate::records::{self, EntryRecord, Totals};

/// A fetched file, as JSON.
#[derive(Debug, Serialize)]
struct Fetched {
    target: String,
    #[serde(flatten)]
    entry: EntryRecord,
}

#[derive(Serialize)]
struct Report<'a> {
    files: &'a [Fetched],
}

pub(crate) async fn run(context: &Context, download: Download) -> Result<(), Failure> {
    let Some((target, arguments)) = download.paths.split_last() else {
        return Err(Failure::usage("nothing to download", "gabion download SRC… DST"));
    };
    let mut sources = Vec::new();
    for argument in arguments {
        sources.extend(Source::parse(argument)?.expand(context).await?);
    }
    if target == Path::new("-") {
        return download_to_stdout(context, &download, &sources).await;
    }
    let slash = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let plan = Plan::make(context, &sources, target, slash, download.recursive).await?;
    if download.dry_run {
        return show(plan, download.printing.output);
    }
    let bytes = plan.files.iter().map(|job| job.length).sum();
    let progress = Progress::new(context.quiet, plan.files.len() as u64, bytes);
    let mut tally = Tally::default();
    let mut totals = Totals::default();
    for (source, failure) in plan.failures {
        tally.failed(source, failure);
    }
    // Directories that were refused: nothing is made or written below them.
    let mut barred: Vec<&Path> = Vec::new();
    for directory in &plan.directories {
        if is_barred(directory, &barred) {
            continue;
        }
        // Where the user himself named a link, he wants it followed.
        let made = if directory == target && directory.is_dir() {
            Ok(())
        } else {
            local::make_directory(directory)
        };
        match made {
            Ok(()) => totals.directories += u64::from(download.recursive),
            Err(failure) => {
                tally.failed(directory.display().to_string(), failure);
                barred.push(directory);
            }
        }
    }
    let (files, below_barred): (Vec<Job>, Vec<Job>) =
        plan.files.into_iter().partition(|job| !is_barred(&job.target, &barred));
    for job in below_barred {
        tally.failed(job.source.to_string(), no_directory(&job.target));
    }
    let fetched = fetch_all(context, &download, files, &progress, &mut tally, &mut totals).await;
    let took = progress.finish();
    // What became of the files counts also if nobody reads the list of them.
    let printed = print(&fetched, download.printing.output);
    if totals.files + totals.directories > 0 {
        context.say(&totals.fetched("downloaded", took));
    }
    tally.finish("file", "downloaded", &mut |line| eprintln!("{line}"))?;
    printed
}

/// Whether `path` is or lies below one of `barred`.
fn is_barred(path: &Path, barred: &[&Path]) -> bool {
    barred.iter().any(|barred| path.starts_with(barred))
}

fn no_directory(target: &Path) -> Failure {
    Failure::code(
        ErrorCode::NotDirectory,
        format!("cannot write {}: a directory above it was refused", target.display()),
        "see the refusal of the directory",
    )
}

async fn download_to_stdout(context: &Context, download: &Download, sources: &[Source]) -> Result<(), Failure> {
    let [source] = sources else {
        return Err(Failure::usage(
            "only one file can be downloaded to standard output",
            "to write several one after the other: gabion cat PATH…",
        ));
    };
    let entry = context.client.stat(&source.path).await?;
    records::require_file(&source.path, &entry)?;
    if download.dry_run {
        context.say(&format!("would write {} to standard output", text::size(entry.length)));
        return Ok(());
    }
    // Bars and content would share one terminal.
    let quiet = context.quiet || rustix::termios::isatty(std::io::stdout());
    let progress = Progress::new(quiet, 1, entry.length);
    let entry = content::to_stdout(
        context,
        &source.path,
        &progress.file(source.path.as_str(), entry.length),
    )
    .await?;
    let mut totals = Totals::default();
    totals.add(&entry);
    context.say(&totals.fetched("downloaded", progress.finish()));
    Ok(())
}

async fn fetch_all(
    context: &Context,
    download: &Download,
    jobs: Vec<Job>,
    progress: &Progress,
    tally: &mut Tally,
    totals: &mut Totals,
) -> Vec<Fetched> {
    // Set by the first failure that would meet every other file too.
    let hopeless = CancellationToken::new();
    if tally.is_hopeless() {
        hopeless.cancel();
    }
    let options = DownloadOptions::default().replace(download.force).sync(download.sync);
    let mut running = futures_util::stream::iter(jobs)
        .map(|job| {
            let (context, progress, hopeless) = (context.clone(), progress.clone(), hopeless.clone());
            async move {
                if hopeless.is_cancelled() || context.stop.is_cancelled() {
                    return (job, None);
                }
                let bar = progress.file(job.source.as_str(), job.length);
                let of_job = job.clone();
                // A task of its own: its checksums are made on another thread than its neighbours'.
                let task = tokio::spawn(async move { fetch(&context, &of_job, options, bar).await });
                let fetched = task.await.unwrap_or_else(|panic| Err(Failure::defect(panic)));
                (job, Some(fetched))
            }
        })
        .buffer_unordered(usize::from(download.jobs));
    let mut fetched = Vec::new();
    while let Some((job, result)) = running.next().await {
        match result {
            None => tally.skipped(),
            Some(Ok(entry)) => {
                tally.succeeded();
                totals.add(&entry);
                fetched.push(Fetched {
                    target: job.target.display().to_string(),
                    entry: EntryRecord::new(&job.source, &entry),
                });
            }
            Some(Err(failure)) => {
                // No room for one is no room for the others.
                if failure.concerns_all() || failure.exit_code() == ErrorCode::NoSpace.exit_code() {
                    hopeless.cancel();
                }
                tally.failed(job.source.to_string(), failure);
            }
        }
    }
    fetched.sort_by(|a, b| a.target.cmp(&b.target));
    fetched
}

/// Fetches one file.
async fn fetch(context: &Context, job: &Job, options: DownloadOptions, bar: FileProgress) -> Result<Entry, Failure> {
    match std::fs::symlink_metadata(&job.target) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::code(
                ErrorCode::IsDirectory,
                format!("cannot write {}: it is a directory", job.target.display()),
                "move it away, or choose another target",
            ));
        }
        // Known before the first byte moves, and made sure of at the end.
        Ok(_) if !options.replace => return Err(local::exists(&job.target)),
        _ => {}
    }
    let reader = context.client.open(&job.source).await?;
    let entry = reader.entry().clone();
    let progress = move |done| bar.reach(done);
    tokio::select! {
        fetched = reader.download_file(&job.target, options, progress) => fetched?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    local::set_modified(&job.target, entry.modified_ms);
    Ok(entry)
}

fn show(plan: Plan, format: Format) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Planned {
        source: String,
        target: String,
        bytes: u64,
    }
    #[derive(Serialize)]
    struct Plans {
        dry_run: bool,
        directories: Vec<String>,
        files: Vec<Planned>,
    }
    let mut output = Output::stdout();
    let mut planned = plan.files.iter().map(|job| Planned {
        source: job.source.to_string(),
        target: job.target.display().to_string(),
        bytes: job.length,
    });
    match format {
        Format::Json => {
            let plans = Plans {
                dry_run: true,
                directories: plan.directories.iter().map(|path| path.display().to_string()).collect(),
                files: planned.collect(),
            };
            output.object(format, &plans)?;
        }
        Format::Jsonl => planned.try_for_each(|planned| output.object(format, &planned))?,
        Format::Table => {
            let mut table = Table::new(&[
                Column::Numbers("size"),
                Column::Words("source"),
                Column::Words("target"),
            ]);
            for Planned { source, target, bytes } in planned {
                table.row([
                    text::size(bytes),
                    text::printable(&source).into_owned(),
                    text::printable(&target).into_owned(),
                ]);
            }
            output.table(&table)?;
        }
    }
    output.flush()?;
    let mut tally = Tally::default();
    tally.done = plan.files.len() as u64;
    for (source, failure) in plan.failures {
        tally.failed(source, failure);
    }
    tally.finish("file", "downloaded", &mut |line| eprintln!("{line}"))
}

fn print(fetched: &[Fetched], format: Format) -> Result<(), Failure> {
    let mut output = Output::stdout();
    match format {
        // Nothing was asked for but the files themselves; the summary is on standard error.
        Format::Table => {}
        Format::Json => output.object(format, &Report { files: fetched })?,
        Format::Jsonl => fetched.iter().try_for_each(|fetched| output.object(format, fetched))?,
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_directory_bars_all_below_it_and_nothing_else() {
        let barred = [Path::new("out/link")];
        for (path, is) in [
            ("out/link", true),
            ("out/link/a", true),
            ("out/link/b/c", true),
            ("out/linked", false),
            ("out/other/link", false),
            ("out", false),
        ] {
            assert_eq!(is_barred(Path::new(path), &barred), is, "{path}");
        }
    }
}
