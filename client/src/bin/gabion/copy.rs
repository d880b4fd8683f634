//! `gabion cp` and `gabion concat`: files and directories by reference, without moving a byte.

use std::time::{Duration, Instant};

use gabion_client::terminal::{Failure, Progress, Tally, text};
use gabion_client::{CopyOptions, Entry, EntryKind, LinkOptions, TreeCopier};
use gabion_protocol::{ErrorCode, FsPath};

use crate::args::{Concat, Copy};
use crate::context::Context;
use crate::names::Target;

pub(crate) async fn copy_all(context: &Context, copy: Copy) -> Result<(), Failure> {
    let (sources, target) = Target::split(context, "cp", &copy.paths, copy.no_target_directory).await?;
    let options = CopyOptions {
        replace: copy.force,
        parents: copy.parents,
        keep_time: copy.preserve,
    };
    let mut tally = Tally::default();
    let mut copied = Copied::default();
    let began = Instant::now();
    for source in &sources {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        // As with -r everywhere: what is in a tree stays a link, and so does what is named.
        let copied_one = match copy.no_dereference || copy.recursive {
            true => copy_link(context, source, &target, (options, copy.recursive)).await,
            false => copy_one(context, source, &target, (options, false)).await,
        };
        match copied_one {
            Ok(one) => {
                copied.files += one.files;
                copied.directories += one.directories;
                copied.bytes += one.bytes;
                tally.succeeded();
            }
            Err(failure) => tally.failed(source.as_str(), failure),
        }
    }
    if tally.done > 0 {
        context.say(&copied.summary(began.elapsed()));
    }
    tally.finish("path", "copied", &mut |line| eprintln!("{line}"))
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default)]
struct Copied {
    files: u64,
    directories: u64,
    bytes: u64,
}

impl Copied {
    fn summary(&self, took: Duration) -> String {
        let files = text::count(self.files, "file");
        let directories = match self.directories {
            0 => String::new(),
            number => format!(" and {}", text::count(number, "directory")),
        };
        let rate = match self.directories {
            0 => String::new(),
            _ => format!(
                " in {} ({:.0} files/s)",
                text::span(took),
                self.files as f64 / took.as_secs_f64().max(0.001)
            ),
        };
        let size = text::size(self.bytes);
        format!("copied {files}{directories}, {size}, by reference{rate}")
    }
}

async fn copy_one(
    context: &Context,
    source: &FsPath,
    target: &Target,
    (options, recursive): (CopyOptions, bool),
) -> Result<Copied, Failure> {
    let to = target.of(source)?;
    // One that is a file, as most are, costs no look before.
    let is_directory = recursive && context.client.stat(source).await?.kind == EntryKind::Directory;
    if is_directory {
        return copy_tree(context, source, &to, options).await;
    }
    let copied = context.client.copy(std::slice::from_ref(source), &to, options).await;
    let entry: Entry = copied.map_err(|error| {
        advised(error).advise(
            ErrorCode::IsDirectory,
            "copy a directory with all it holds: gabion cp -r; a file does not replace one",
        )
    })?;
    Ok(Copied {
        files: 1,
        directories: 0,
        bytes: entry.length,
    })
}

async fn copy_tree(context: &Context, source: &FsPath, to: &FsPath, options: CopyOptions) -> Result<Copied, Failure> {
    let begun = context.client.begin_tree_copy(source, to, options).await;
    let mut copier = begun.map_err(|error| {
        let help = "a directory is not replaced: choose another name, or remove what is there";
        Failure::from(error).advise(ErrorCode::Exists, help)
    })?;
    let all = copier.progress();
    let progress = Progress::new(context.quiet, all.files_total, all.bytes_total);
    let bar = progress.file(source.as_str(), all.bytes_total);
    let done = loop {
        let step = tokio::select! {
            step = copier.step() => step.map_err(Failure::from),
            () = context.stop.cancelled() => Err(Failure::interrupted()),
        };
        bar.reach(copier.progress().bytes);
        match step {
            Ok(Some(_)) => break Ok(()),
            Ok(None) => {}
            Err(failure) => break Err(failure),
        }
    };
    drop(bar);
    progress.finish();
    match done {
        Ok(()) => {
            let all = copier.progress();
            Ok(Copied {
                files: all.files,
                directories: all.directories + 1,
                bytes: all.bytes,
            })
        }
        Err(failure) => {
            give_up(context, copier).await;
            Err(failure)
        }
    }
}

/// What was copied so far goes, at once if the masters can be told.
async fn give_up(context: &Context, copier: TreeCopier) {
    if let Err(error) = copier.abort().await {
        context.say(&format!(
            "{error}; the masters do that by themselves, within a minute or so"
        ));
    }
}

/// Copies a link as a link, and anything else as ever.
async fn copy_link(
    context: &Context,
    source: &FsPath,
    target: &Target,
    (options, recursive): (CopyOptions, bool),
) -> Result<Copied, Failure> {
    let entry = context.client.stat(source).await?;
    let Some(stands_for) = entry.target() else {
        return copy_one(context, source, target, (options, recursive)).await;
    };
    let options = LinkOptions {
        replace: options.replace,
        parents: options.parents,
        modified_ms: options.keep_time.then_some(entry.modified_ms),
    };
    let made = context.client.link(stands_for, &target.of(source)?, options).await;
    let entry = made.map_err(advised)?;
    Ok(Copied {
        files: 1,
        directories: 0,
        bytes: entry.length,
    })
}

/// The failure, with advice in the words of the command line.
fn advised(error: gabion_client::Error) -> Failure {
    Failure::from(error).advise(ErrorCode::Exists, "replace it with --force, or choose another name")
}

pub(crate) async fn concat(context: &Context, concat: Concat) -> Result<(), Failure> {
    let (sources, target) = Target::split(context, "concat", &concat.paths, true).await?;
    let options = CopyOptions {
        replace: concat.force,
        parents: concat.parents,
        keep_time: false,
    };
    let entry = context
        .client
        .copy(&sources, &target.path, options)
        .await
        .map_err(advised)?;
    let files = text::count(sources.len() as u64, "file");
    context.say(&format!(
        "made {} of {files}, {}, by reference",
        text::printable(target.path.as_str()),
        text::size(entry.length)
    ));
    Ok(())
}
