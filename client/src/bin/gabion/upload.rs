//! `gabion upload`: stores files whole or not at all, several at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, Tally, text};
use gabion_client::{CreateOptions, FileWriter, LinkOptions};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::{self, Upload};
use crate::below::Links;
use crate::compare;
use crate::context::Context;
use crate::jobs::Jobs;
use crate::local;
use crate::preserve::{self, Losses, Same};
use crate::records::{EntryRecord, Totals};
use crate::upload_plan::{Job, LinkJob, Plan, Source, Target};

/// Permission bits of directories made on the way.
const DIRECTORY_MODE: u32 = 0o755;
/// Directories made at one time.
const DIRECTORIES_AT_ONCE: usize = 16;
/// Permission bits of a file that comes from a pipe.
const FILE_MODE: u32 = 0o644;
/// How long giving an upload up may take; its lease ends it anyway.
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// How long counting copies for the summary may take.
const COUNT_WAIT: Duration = Duration::from_secs(2);

/// How files are stored.
#[derive(Debug, Clone)]
pub(crate) struct Storing {
    pub(crate) options: CreateOptions,
    pub(crate) jobs: Jobs,
    /// Whether what an earlier upload stored is kept.
    pub(crate) is_resumed: bool,
}

/// A stored file, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Stored {
    source: String,
    /// Bytes that were stored already and were not sent again.
    kept_bytes: u64,
    #[serde(flatten)]
    entry: EntryRecord,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    files: &'a [Stored],
}

pub(crate) async fn run(context: &Context, upload: Upload) -> Result<(), Failure> {
    if upload.resume && upload.paths.iter().any(|path| path == Path::new("-")) {
        return Err(Failure::usage(
            "standard input can be read only once, so that no upload of it can be resumed",
            "leave --resume out, or name a file",
        ));
    }
    let plan = make_plan(context, &upload).await?;
    for note in plan.notes.iter().filter(|_| !context.quiet) {
        eprintln!("{note}");
    }
    if upload.dry_run {
        return show(plan, upload.printing.output);
    }
    let progress = Progress::new(context.quiet, plan.files.len() as u64, plan.bytes());
    let mut tally = Tally::default();
    let mut totals = Totals::default();
    for (source, failure) in plan.failures {
        tally.failed(source, failure);
    }
    make_directories(context, &upload, &plan.directories, &mut tally, &mut totals).await;
    let how = Storing {
        options: CreateOptions {
            replicas: upload.replicas,
            chunk_bytes: upload.chunk_size.map(|size| size.0),
            replace: upload.force,
            parents: upload.parents,
            ..CreateOptions::default()
        },
        jobs: Jobs::new(upload.parallel.jobs),
        is_resumed: upload.resume,
    };
    let preserved = match upload.keeping.preserve {
        true => all_of(&plan.trees, &plan.files, &plan.links),
        false => Vec::new(),
    };
    let stored = store_all(context, &how, plan.files, &progress, &mut tally, &mut totals).await;
    let links = LinkOptions {
        replace: upload.force,
        parents: upload.parents,
        modified_ms: None,
    };
    make_links(context, &plan.links, links, &mut tally, &mut totals).await;
    let mut losses = Losses::default();
    if !tally.is_hopeless() {
        preserve::up(context, preserved, &mut losses).await?;
    }
    let took = progress.finish();
    // What became of the files counts also if nobody reads the list of them.
    let printed = print(&stored, upload.printing.output);
    if totals.files + totals.directories + totals.links > 0 {
        context.say(&totals.uploaded(took));
    }
    if upload.resume && !tally.is_clean() {
        context.say("what is stored is kept for a day: the same command goes on from there");
    }
    let kept = losses.tell();
    tally.finish("file", "uploaded", &mut |line| eprintln!("{line}"))?;
    totals.check_degraded()?;
    kept?;
    printed
}

/// All that comes from this machine, with where it goes.
fn all_of(trees: &[(PathBuf, FsPath)], files: &[Job], links: &[LinkJob]) -> Vec<Same> {
    let files = files.iter().filter_map(|job| match &job.source {
        Source::File(path) if job.length.is_some() => Some((path, &job.target)),
        Source::File(_) | Source::Stdin => None,
    });
    let links = links.iter().map(|job| (&job.source, &job.target));
    let trees = trees.iter().map(|(local, remote)| (local, remote));
    let all = trees.chain(files).chain(links);
    all.map(|(local, remote)| Same {
        local: local.clone(),
        remote: remote.clone(),
    })
    .collect()
}

/// Makes links when all else is there, several at the same time.
async fn make_links(
    context: &Context,
    links: &[LinkJob],
    options: LinkOptions,
    tally: &mut Tally,
    totals: &mut Totals,
) {
    if tally.is_hopeless() || context.stop.is_cancelled() {
        return;
    }
    let client = &context.client;
    let mut running = futures_util::stream::iter(links)
        .map(|job| async move {
            let found = job.source.symlink_metadata().ok();
            let options = LinkOptions {
                modified_ms: found.as_ref().and_then(local::modified_ms),
                ..options
            };
            let made = client.link(&job.stands_for, &job.target, options).await;
            // The same link is no reason to refuse: the command may have run before.
            let is_there = match &made {
                Err(error) if error.code() == ErrorCode::Exists => client
                    .read_link(&job.target)
                    .await
                    .is_ok_and(|there| there == job.stands_for),
                _ => false,
            };
            (job, if is_there { Ok(()) } else { made.map(drop) })
        })
        .buffer_unordered(DIRECTORIES_AT_ONCE);
    while let Some((job, made)) = running.next().await {
        match made {
            Ok(()) => {
                tally.succeeded();
                totals.links += 1;
            }
            Err(error) => tally.failed(job.source.display().to_string(), with_advice(error)),
        }
        if context.stop.is_cancelled() || tally.is_hopeless() {
            return;
        }
    }
}

async fn make_plan(context: &Context, upload: &Upload) -> Result<Plan, Failure> {
    let Some((target, sources)) = upload.paths.split_last() else {
        return Err(Failure::usage("nothing to upload", "gabion upload SRC… DST"));
    };
    let (target, slash) = remote_target(target)?;
    let found = match context.find(&target).await? {
        None => Target::Absent,
        Some(entry) if entry.is_directory() => Target::Directory,
        Some(_) => Target::File,
    };
    let links = Links::of(upload.keeping.dereference);
    Plan::make(sources, &target, found, slash, upload.recursive, links)
}

fn remote_target(target: &Path) -> Result<(FsPath, bool), Failure> {
    let wrong = |why: String| {
        Failure::code(
            ErrorCode::InvalidPath,
            format!("{:?} cannot be the target: {why}", target.display().to_string()),
            "the last argument is the remote target: gabion upload SRC… DST",
        )
    };
    let text = target.to_str().ok_or_else(|| wrong("it is not UTF-8".to_owned()))?;
    Ok((args::remote_path(text).map_err(wrong)?, text.ends_with('/')))
}

/// Directories are made before any file, so that a tree's empty ones appear too.
async fn make_directories(
    context: &Context,
    upload: &Upload,
    directories: &[FsPath],
    tally: &mut Tally,
    totals: &mut Totals,
) {
    // A tree brings its directories; a target that ends in a slash is made only if its parent is there.
    let parents = upload.recursive || upload.parents;
    let client = &context.client;
    // Each with those above it, so that the order of several at one time does not matter.
    let mut running = futures_util::stream::iter(directories)
        .map(|directory| async move { (directory, client.mkdir(directory, parents, DIRECTORY_MODE).await) })
        .buffer_unordered(DIRECTORIES_AT_ONCE);
    while let Some((directory, made)) = running.next().await {
        match made {
            Ok(_) => totals.directories += u64::from(upload.recursive),
            Err(error) => tally.failed(directory.as_str(), error.into()),
        }
        if context.stop.is_cancelled() || tally.is_hopeless() {
            return;
        }
    }
}

/// Stores files, several at the same time; what became of each is in `tally` and `totals`.
pub(crate) async fn store_all(
    context: &Context,
    how: &Storing,
    jobs: Vec<Job>,
    progress: &Progress,
    tally: &mut Tally,
    totals: &mut Totals,
) -> Vec<Stored> {
    // Set by the first failure that would meet every other file too.
    let hopeless = CancellationToken::new();
    if tally.is_hopeless() {
        hopeless.cancel();
    }
    let mut running = futures_util::stream::iter(jobs)
        .map(|job| {
            let context = context.clone();
            let (how, progress, hopeless) = (how.clone(), progress.clone(), hopeless.clone());
            async move {
                let _place = how.jobs.begin(job.length).await;
                if hopeless.is_cancelled() || context.stop.is_cancelled() {
                    return (job, None);
                }
                let bar = progress.file(job.target.as_str(), job.length.unwrap_or(0));
                let of_job = job.clone();
                // A task of its own: its checksums are made on another thread than its neighbours'.
                let task = tokio::spawn(async move { store(&context, &of_job, how, bar).await });
                let stored = task.await.unwrap_or_else(|panic| Err(Failure::defect(panic)));
                (job, Some(stored))
            }
        })
        .buffer_unordered(how.jobs.most());
    let mut stored = Vec::new();
    while let Some((job, result)) = running.next().await {
        match result {
            None => tally.skipped(),
            Some(Ok((entry, kept))) => {
                tally.succeeded();
                totals.add(&entry);
                totals.keep(kept);
                if entry.degraded {
                    totals.add_copies(&entry, copies(context, &job.target, &entry).await);
                }
                stored.push(Stored {
                    source: job.source.to_string(),
                    kept_bytes: kept,
                    entry: EntryRecord::new(&job.target, &entry),
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
    stored.sort_by(|a, b| a.source.cmp(&b.source));
    stored
}

/// Fewest and most copies of any chunk of a file just stored; `None` if they cannot be counted.
async fn copies(context: &Context, target: &FsPath, stored: &Entry) -> Option<(u8, u8)> {
    let located = tokio::time::timeout(COUNT_WAIT, context.client.locate(target)).await;
    let (found, extents) = located.ok()?.ok()?;
    let counts = extents.iter().map(|extent| extent.replicas.len());
    let (least, most) = (counts.clone().min()?, counts.max()?);
    let small = |count: usize| u8::try_from(count).ok();
    (found.ino == stored.ino).then_some((small(least)?, small(most)?))
}

/// Stores one file: its entry, and the bytes of it that were stored already.
async fn store(context: &Context, job: &Job, how: Storing, bar: FileProgress) -> Result<(Entry, u64), Failure> {
    let mut options = how.options;
    let (file, before) = open(&job.source)?;
    let Some(before) = before.filter(std::fs::Metadata::is_file) else {
        if how.is_resumed {
            return Err(Failure::usage(
                format!("cannot resume an upload of {}: it can be read only once", job.source),
                "leave --resume out, or name a file",
            ));
        }
        options.mode = FILE_MODE;
        return Ok((store_pipe(context, job, options, file, &bar).await?, 0));
    };
    options.mode = local::mode_of(&before);
    options.modified_ms = local::modified_ms(&before);
    options.length_hint = Some(before.len());
    let same_file = file
        .try_clone()
        .map_err(|error| Failure::local("read", &job.source, &error))?;
    if how.is_resumed
        && let Some(entry) = stored_before(context, job, before.len(), &bar).await?
    {
        bar.reach(before.len());
        return Ok((entry, before.len()));
    }
    let bar = Arc::new(bar);
    let reached = Arc::clone(&bar);
    let progress = move |done| reached.reach(done);
    tokio::select! {
        stored = store_bytes(context, job, how.is_resumed, options, (file, before.len()), progress) => {
            let stored = match stored {
                // The last word of the client that was killed may have arrived only now.
                Err(failure) if how.is_resumed && failure.name() == ErrorCode::Exists.name() => {
                    let entry = stored_before(context, job, before.len(), &bar).await?;
                    entry.map(|entry| (entry, before.len())).ok_or(failure)?
                }
                stored => stored?,
            };
            require_unchanged(job, &before, &same_file)?;
            Ok(stored)
        }
        () = context.stop.cancelled() => Err(Failure::interrupted()),
    }
}

/// The file that is at the target already, if it has the source's bytes: an earlier run has come so far.
async fn stored_before(
    context: &Context,
    job: &Job,
    length: u64,
    bar: &FileProgress,
) -> Result<Option<Entry>, Failure> {
    let Source::File(path) = &job.source else {
        return Ok(None);
    };
    let there = context.find_or_nothing(&job.target).await?;
    let Some(entry) = there.filter(|entry| entry.is_file() && entry.length == length) else {
        return Ok(None);
    };
    let here = compare::checksum(path, length, &Arc::new(bar.silent())).await?;
    Ok((here == Some(entry.crc)).then_some(entry))
}

async fn store_bytes(
    context: &Context,
    job: &Job,
    is_resumed: bool,
    options: CreateOptions,
    (file, length): (File, u64),
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> Result<(Entry, u64), Failure> {
    let client = &context.client;
    if !is_resumed {
        let stored = client.upload_file(&job.target, options, file, length, progress).await;
        return Ok((stored.map_err(with_advice)?, 0));
    }
    let stored = client.resume_upload(&job.target, options, file, length, progress).await;
    let (entry, resumed) = stored.map_err(with_advice)?;
    if resumed.source_changed {
        context.say(&format!(
            "{} has changed since it was uploaded in part: sent from its beginning",
            job.source
        ));
    }
    Ok((entry, resumed.kept))
}

/// Stores what a pipe brings, which can be read only once.
async fn store_pipe(
    context: &Context,
    job: &Job,
    options: CreateOptions,
    file: File,
    bar: &FileProgress,
) -> Result<Entry, Failure> {
    let mut writer = tokio::select! {
        created = context.client.create(&job.target, options) => created.map_err(with_advice)?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    let copied = tokio::select! {
        copied = copy(file, job, &mut writer, bar) => copied,
        () = context.stop.cancelled() => Err(Failure::interrupted()),
    };
    match copied {
        // From here on it is the masters' to decide: an interrupt waits for their word.
        Ok(()) => writer.finish().await.map_err(with_advice),
        Err(failure) => {
            // If the masters cannot be told, the upload's lease ends it.
            let _ = tokio::time::timeout(ABORT_WAIT, writer.abort()).await;
            Err(failure)
        }
    }
}

async fn copy(file: File, job: &Job, writer: &mut FileWriter, bar: &FileProgress) -> Result<(), Failure> {
    let mut parts = local::read_ahead(file);
    while let Some(part) = parts.recv().await {
        let part = part.map_err(|error| Failure::local("read", &job.source, &error))?;
        writer.write(&part).await?;
        bar.advance(part.len() as u64);
    }
    Ok(())
}

/// What a person may do about errors that options of this command remedy.
fn with_advice(error: gabion_client::Error) -> Failure {
    Failure::from(error)
        .advise(ErrorCode::Exists, "replace it with --force, or choose another name")
        .advise(ErrorCode::NotFound, "make the directories above it too: --parents")
}

/// Tells of a file that was written to while it was read: what is stored may be neither its old nor its new content.
fn require_unchanged(job: &Job, before: &std::fs::Metadata, file: &File) -> Result<(), Failure> {
    let after = file
        .metadata()
        .map_err(|error| Failure::local("read", &job.source, &error))?;
    if after.len() == before.len() && after.modified().ok() == before.modified().ok() {
        return Ok(());
    }
    Err(Failure::code(
        ErrorCode::Conflict,
        format!(
            "{} changed while it was read: what is stored as {} may mix old and new",
            job.source, job.target
        ),
        "store it again with --force when nothing writes to it",
    ))
}

fn open(source: &Source) -> Result<(File, Option<std::fs::Metadata>), Failure> {
    let Source::File(path) = source else {
        let wrong = |error: std::io::Error| Failure::local("read", "standard input", &error);
        let stdin = rustix::io::dup(std::io::stdin()).map_err(|error| wrong(error.into()))?;
        return Ok((stdin.into(), None));
    };
    let wrong = |error: std::io::Error| Failure::local("read", path.display(), &error);
    let file = File::open(path).map_err(wrong)?;
    let found = file.metadata().map_err(wrong)?;
    if found.is_dir() {
        return Err(wrong(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok((file, Some(found)))
}

fn show(plan: Plan, format: Format) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Planned {
        source: String,
        target: String,
        bytes: Option<u64>,
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
    let mut output = Output::stdout();
    let mut links = plan.links.iter().map(|job| PlannedLink {
        source: job.source.display().to_string(),
        target: job.target.to_string(),
        stands_for: job.stands_for.clone(),
    });
    let planned = plan.files.iter().map(|job| Planned {
        source: job.source.to_string(),
        target: job.target.to_string(),
        bytes: job.length,
    });
    match format {
        Format::Json => {
            let plans = Plans {
                dry_run: true,
                directories: plan.directories.iter().map(FsPath::to_string).collect(),
                files: planned.collect(),
                links: links.collect(),
            };
            output.object(format, &plans)?;
        }
        Format::Jsonl => planned
            .into_iter()
            .try_for_each(|planned| output.object(format, &planned))
            .and_then(|()| links.try_for_each(|planned| output.object(format, &planned)))?,
        Format::Table => {
            let mut table = Table::new(&[
                Column::Numbers("size"),
                Column::Words("source"),
                Column::Words("target"),
            ]);
            for job in &plan.files {
                let size = job.length.map_or_else(|| "?".to_owned(), text::size);
                let source = job.source.to_string();
                table.row([
                    size,
                    text::printable(&source).into_owned(),
                    text::printable(job.target.as_str()).into_owned(),
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
    tally.finish("file", "uploaded", &mut |line| eprintln!("{line}"))
}

fn print(stored: &[Stored], format: Format) -> Result<(), Failure> {
    let mut output = Output::stdout();
    match format {
        // Nothing was asked for but the files themselves; the summary is on standard error.
        Format::Table => {}
        Format::Json => output.object(format, &Report { files: stored })?,
        Format::Jsonl => stored.iter().try_for_each(|stored| output.object(format, stored))?,
    }
    output.flush()
}
