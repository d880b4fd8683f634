//! `gabion download`: fetches files under temporary names, verifies them, and only then gives them their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, Tally, text};
use gabion_client::{DownloadOptions, FileReader};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::Download;
use crate::below::Links;
use crate::compare;
use crate::content;
use crate::context::Context;
use crate::download_plan::{Job, LinkJob, Plan, Source};
use crate::jobs::Jobs;
use crate::local;
use crate::preserve::{self, Losses, Same};
use crate::records::{self, EntryRecord, Totals};

/// How files are fetched.
#[derive(Debug, Clone)]
pub(crate) struct Fetching {
    pub(crate) options: DownloadOptions,
    pub(crate) jobs: Jobs,
    /// Whether what an earlier download left is kept.
    pub(crate) is_resumed: bool,
}

/// A fetched file, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Fetched {
    target: String,
    /// Bytes that were here already and were not fetched again.
    kept_bytes: u64,
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
    let links = download.recursive.then(|| Links::of(download.keeping.dereference));
    let plan = Plan::make(context, &sources, target, slash, links).await?;
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
    let how = Fetching {
        options: DownloadOptions::default().replace(download.force).sync(download.sync),
        jobs: Jobs::new(download.parallel.jobs),
        is_resumed: download.resume,
    };
    let preserved = match download.keeping.preserve {
        true => all_of(&plan.trees, &files, &plan.links),
        false => Vec::new(),
    };
    let fetched = fetch_all(context, &how, files, &progress, &mut tally, &mut totals).await;
    make_links(target, plan.links, download.force, &mut tally, &mut totals);
    let mut losses = Losses::default();
    if !tally.is_hopeless() {
        preserve::down(context, target, preserved, &mut losses).await?;
    }
    let took = progress.finish();
    // What became of the files counts also if nobody reads the list of them.
    let printed = print(&fetched, download.printing.output);
    if totals.files + totals.directories + totals.links > 0 {
        context.say(&totals.fetched("downloaded", took));
    }
    if download.resume && !tally.is_clean() {
        context.say("what has come is kept: the same command goes on from there");
    }
    let kept = losses.tell();
    tally.finish("file", "downloaded", &mut |line| eprintln!("{line}"))?;
    kept?;
    printed
}

/// All that is fetched, with where it comes from.
fn all_of(trees: &[(FsPath, PathBuf)], files: &[Job], links: &[LinkJob]) -> Vec<Same> {
    let trees = trees.iter().map(|(remote, local)| (remote, local));
    let files = files.iter().map(|job| (&job.source, &job.target));
    let links = links.iter().map(|job| (&job.source, &job.target));
    let all = trees.chain(files).chain(links);
    all.map(|(remote, local)| Same {
        local: local.clone(),
        remote: remote.clone(),
    })
    .collect()
}

/// Makes links below `root`, when all else is there: so nothing of the same command goes through them.
pub(crate) fn make_links(root: &Path, links: Vec<LinkJob>, replace: bool, tally: &mut Tally, totals: &mut Totals) {
    if tally.is_hopeless() {
        return;
    }
    for job in links {
        let made = local::refuse_links_between(root, &job.target)
            .and_then(|()| local::make_link(&job.target, &job.stands_for, replace));
        match made {
            Ok(()) => {
                local::set_modified(&job.target, job.modified_ms);
                tally.succeeded();
                totals.links += 1;
            }
            Err(failure) => tally.failed(job.source.to_string(), failure),
        }
    }
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
    if download.resume {
        return Err(Failure::usage(
            "what was written to standard output cannot be read again, so that no download to it can be resumed",
            "leave --resume out, or name a file as the target",
        ));
    }
    let [source] = sources else {
        return Err(Failure::usage(
            "only one file can be downloaded to standard output",
            "to write several one after the other: gabion cat PATH…",
        ));
    };
    let (_, entry) = context.client.resolve(&source.path).await?;
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

/// Fetches files, several at the same time; what became of each is in `tally` and `totals`.
pub(crate) async fn fetch_all(
    context: &Context,
    how: &Fetching,
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
    let mut running = futures_util::stream::iter(jobs)
        .map(|job| {
            let (context, progress, hopeless) = (context.clone(), progress.clone(), hopeless.clone());
            let how = how.clone();
            async move {
                let _place = how.jobs.begin(Some(job.length)).await;
                if hopeless.is_cancelled() || context.stop.is_cancelled() {
                    return (job, None);
                }
                let bar = progress.file(job.source.as_str(), job.length);
                let of_job = job.clone();
                // A task of its own: its checksums are made on another thread than its neighbours'.
                let task = tokio::spawn(async move { fetch(&context, &of_job, &how, bar).await });
                let fetched = task.await.unwrap_or_else(|panic| Err(Failure::defect(panic)));
                (job, Some(fetched))
            }
        })
        .buffer_unordered(how.jobs.most());
    let mut fetched = Vec::new();
    while let Some((job, result)) = running.next().await {
        match result {
            None => tally.skipped(),
            Some(Ok((entry, kept))) => {
                tally.succeeded();
                totals.add(&entry);
                totals.keep(kept);
                fetched.push(Fetched {
                    target: job.target.display().to_string(),
                    kept_bytes: kept,
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

/// Fetches one file: its entry, and the bytes of it that were here already.
async fn fetch(context: &Context, job: &Job, how: &Fetching, bar: FileProgress) -> Result<(Entry, u64), Failure> {
    local::refuse_links_between(&job.root, &job.target)?;
    let is_there = match std::fs::symlink_metadata(&job.target) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::code(
                ErrorCode::IsDirectory,
                format!("cannot write {}: it is a directory", job.target.display()),
                "move it away, or choose another target",
            ));
        }
        Ok(found) => Some(found),
        Err(_) => None,
    };
    // Known before the first byte moves, and made sure of at the end.
    if is_there.is_some() && !how.options.replace && !how.is_resumed {
        return Err(local::exists(&job.target));
    }
    let reader = context.client.open(&job.source).await?;
    let entry = reader.entry().clone();
    if let Some(found) = is_there {
        if found.is_file() && found.len() == entry.length && how.is_resumed {
            let here = compare::checksum(&job.target, entry.length, &Arc::new(bar.silent())).await?;
            if here == Some(entry.crc) {
                bar.reach(entry.length);
                return Ok((entry.clone(), entry.length));
            }
        }
        if !how.options.replace {
            return Err(local::exists(&job.target));
        }
    }
    let progress = move |done| bar.reach(done);
    let kept = tokio::select! {
        fetched = fetch_bytes(context, &reader, job, how, progress) => fetched?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    local::set_modified(&job.target, entry.modified_ms);
    Ok((entry, kept))
}

/// Fetches a file's bytes: how many of them were here already.
async fn fetch_bytes(
    context: &Context,
    reader: &FileReader,
    job: &Job,
    how: &Fetching,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<u64, Failure> {
    if !how.is_resumed {
        reader.download_file(&job.target, how.options, progress).await?;
        return Ok(0);
    }
    let resumed = reader.resume_file(&job.target, how.options, progress).await?;
    if resumed.source_changed {
        context.say(&format!(
            "{} has changed since it was downloaded in part: fetched from its beginning",
            job.source
        ));
    }
    Ok(resumed.kept)
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
        links: Vec<PlannedLink>,
    }
    #[derive(Serialize)]
    struct PlannedLink {
        source: String,
        target: String,
        stands_for: String,
    }
    let mut links = plan.links.iter().map(|job| PlannedLink {
        source: job.source.to_string(),
        target: job.target.display().to_string(),
        stands_for: job.stands_for.clone(),
    });
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
                links: links.collect(),
            };
            output.object(format, &plans)?;
        }
        Format::Jsonl => planned
            .try_for_each(|planned| output.object(format, &planned))
            .and_then(|()| links.try_for_each(|planned| output.object(format, &planned)))?,
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
            for job in links {
                table.row([
                    "link".to_owned(),
                    text::printable(&job.source).into_owned(),
                    format!(
                        "{} -> {}",
                        text::printable(&job.target),
                        text::printable(&job.stands_for)
                    ),
                ]);
            }
            output.table(&table)?;
        }
    }
    output.flush()?;
    let mut tally = Tally::default();
    tally.done = (plan.files.len() + plan.links.len()) as u64;
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
