//! Verbs on names: `mkdir`, `stat`, `mv`, `rm`.

use std::time::Duration;

use gabion_client::terminal::{Failure, Format, Output, Tally, text};
use gabion_client::{Removed, Trashed, Walk};
use gabion_protocol::messages::master::{Attributes, Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;

use crate::args::{self, Mkdir, Move, Remove, Stat};
use crate::context::Context;
use crate::glob;
use crate::records::{self, EntryRecord};

/// Ends a verb that worked on several paths.
fn end(tally: Tally, verb: &str) -> Result<(), Failure> {
    tally.finish("path", verb, &mut |line| eprintln!("{line}"))
}

pub(crate) async fn make_directories(context: &Context, mkdir: Mkdir) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &mkdir.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.mkdir(path, mkdir.parents, mkdir.mode).await {
            Ok(_) => tally.succeeded(),
            Err(error) => {
                let failure = Failure::from(error);
                let failure = failure
                    .advise(ErrorCode::NotFound, "make the directories above it too: --parents")
                    .advise(ErrorCode::Exists, "take a directory that exists as it is: --parents");
                tally.failed(path.as_str(), failure);
            }
        }
    }
    end(tally, "made")
}

/// All that is known of a file or directory, as JSON.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    entry: EntryRecord,
    /// Empty if nobody said.
    owner: &'a str,
    group: &'a str,
    /// Names of its extended attributes.
    attributes: Vec<&'a str>,
}

#[derive(Serialize)]
struct Descriptions<'a> {
    entries: Vec<Described<'a>>,
}

async fn ask(context: &Context, path: &FsPath, follow: bool) -> Result<(Entry, Attributes), gabion_client::Error> {
    let client = &context.client;
    if follow {
        let (path, entry) = client.resolve(path).await?;
        return Ok((entry, client.attributes(&path).await?));
    }
    Ok((client.stat(path).await?, client.attributes(path).await?))
}

pub(crate) async fn stat(context: &Context, stat: Stat) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut found = Vec::new();
    let paths = glob::expand(context, &stat.paths, &mut tally).await;
    for path in &paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match ask(context, path, stat.dereference).await {
            Ok((entry, attributes)) => {
                tally.succeeded();
                found.push((path, entry, attributes));
            }
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    let mut output = Output::stdout();
    let mut records = found.iter().map(|(path, entry, attributes)| Described {
        entry: EntryRecord::new(path, entry),
        owner: &attributes.owner,
        group: &attributes.group,
        attributes: attributes.extended.iter().map(|(name, _)| name.as_str()).collect(),
    });
    match stat.printing.output {
        Format::Json => {
            let entries = records.collect();
            output.object(Format::Json, &Descriptions { entries })?;
        }
        Format::Jsonl => records.try_for_each(|record| output.object(Format::Jsonl, &record))?,
        Format::Table => {
            for (i, (path, entry, attributes)) in found.iter().enumerate() {
                if i > 0 {
                    output.line("")?;
                }
                output.bytes(describe(path, entry, attributes, stat.bytes).as_bytes())?;
            }
        }
    }
    output.flush()?;
    end(tally, "shown")
}

/// All that is known of an entry, a fact per line.
fn describe(path: &FsPath, entry: &Entry, attributes: &Attributes, exact: bool) -> String {
    let mut lines = vec![
        ("path", text::printable(path.as_str()).into_owned()),
        ("kind", records::kind(&entry.kind).to_owned()),
    ];
    match &entry.kind {
        EntryKind::File => {
            let copies = if entry.degraded {
                format!("{} wanted, some chunk has fewer for now", entry.replicas)
            } else {
                entry.replicas.to_string()
            };
            let chunk_size = text::size_or_bytes(entry.chunk_bytes, exact);
            lines.extend([
                ("size", size(entry.length, exact)),
                ("crc32", records::known_crc32(entry)),
                ("chunks", format!("{} of at most {chunk_size}", entry.children)),
                ("copies", copies),
            ]);
        }
        EntryKind::Directory => lines.extend([
            ("holds", text::count(entry.children, "entry")),
            ("size", size(entry.length, exact)),
        ]),
        EntryKind::Link { target } => lines.push(("target", text::printable(target).into_owned())),
    }
    lines.extend([
        ("mode", format!("{:04o} ({})", entry.mode, text::mode(entry.mode))),
        ("modified", text::rfc3339(entry.modified_ms)),
        ("inode", entry.ino.to_string()),
    ]);
    if !(attributes.owner.is_empty() && attributes.group.is_empty()) {
        let or_dash = |name: &str| {
            if name.is_empty() {
                "-".to_owned()
            } else {
                text::printable(name).into_owned()
            }
        };
        let (owner, group) = (or_dash(&attributes.owner), or_dash(&attributes.group));
        lines.push(("owner", format!("{owner}:{group}")));
    }
    for (name, value) in &attributes.extended {
        let bytes = text::count(value.len() as u64, "byte");
        lines.push(("xattr", format!("{} ({bytes})", text::printable(name))));
    }
    lines
        .into_iter()
        .map(|(name, value)| format!("{name:<8}  {value}\n"))
        .collect()
}

fn size(bytes: u64, exact: bool) -> String {
    if exact || bytes < 1024 {
        return bytes.to_string() + if exact { "" } else { " B" };
    }
    format!("{} ({bytes} bytes)", text::size(bytes))
}

/// Where a verb with `SRC… DST` puts what it takes.
pub(crate) struct Target {
    pub(crate) path: FsPath,
    /// Whether it is a directory that takes each source under its own name.
    into: bool,
}

impl Target {
    /// Splits `SRC… DST`, all on the cluster; `verb` as the user writes it.
    pub(crate) async fn split(
        context: &Context,
        verb: &str,
        paths: &[String],
        no_target_directory: bool,
    ) -> Result<(Vec<FsPath>, Self), Failure> {
        let usage = format!("gabion {verb} SRC… DST");
        let mut sources = Vec::new();
        for path in paths {
            let parsed = args::remote_path(path).map_err(|why| {
                let what = format!("{path:?} is no remote path: {why}");
                Failure::code(ErrorCode::InvalidPath, what, format!("{usage}, all on the cluster"))
            });
            sources.push(parsed?);
        }
        let (Some(path), Some(last)) = (sources.pop(), paths.last()) else {
            return Err(Failure::usage("no paths are named", usage));
        };
        let must_be_directory = sources.len() > 1 || last.ends_with('/');
        let into = !no_target_directory && is_directory(context, verb, &path, must_be_directory).await?;
        Ok((sources, Self { path, into }))
    }

    /// Where a source goes.
    pub(crate) fn of(&self, source: &FsPath) -> Result<FsPath, Failure> {
        match source.name() {
            Some(name) if self.into => Ok(self.path.join(name).map_err(gabion_client::Error::from)?),
            _ => Ok(self.path.clone()),
        }
    }
}

pub(crate) async fn move_all(context: &Context, moves: Move) -> Result<(), Failure> {
    let (sources, target) = Target::split(context, "mv", &moves.paths, moves.no_target_directory).await?;
    let mut tally = Tally::default();
    for source in &sources {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match move_one(context, source, &target, moves.force).await {
            Ok(()) => tally.succeeded(),
            // The masters decide it with the move itself: nothing that appears meanwhile is replaced.
            Err(failure) if moves.no_clobber && failure.name() == ErrorCode::Exists.name() => tally.succeeded(),
            Err(failure) => tally.failed(source.as_str(), failure),
        }
    }
    end(tally, "moved")
}

async fn is_directory(context: &Context, verb: &str, target: &FsPath, required: bool) -> Result<bool, Failure> {
    match context.find(target).await? {
        Some(entry) if entry.is_directory() => Ok(true),
        None if !required => Ok(false),
        Some(_) if !required => Ok(false),
        None => Err(Failure::code(
            ErrorCode::NotFound,
            format!("cannot {verb} into {target}: there is no such directory"),
            format!("make it: gabion mkdir {target}"),
        )),
        Some(_) => Err(Failure::code(
            ErrorCode::NotDirectory,
            format!("cannot {verb} into {target}: it is a file"),
            "name a directory as the target",
        )),
    }
}

async fn move_one(context: &Context, source: &FsPath, target: &Target, force: bool) -> Result<(), Failure> {
    let to = target.of(source)?;
    let moved = context.client.rename(source, &to, force).await;
    let help = "replace it with --force, or choose another name";
    moved
        .map(drop)
        .map_err(|error| Failure::from(error).advise(ErrorCode::Exists, help))
}

pub(crate) async fn remove(context: &Context, remove: Remove) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut removed = Removed::default();
    let mut keep = None;
    for path in &removable(context, &remove, &mut tally).await {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match remove_one(context, path, &remove).await {
            Ok(gone) => {
                tally.succeeded();
                removed.files += gone.removed.files;
                removed.directories += gone.removed.directories;
                removed.bytes += gone.removed.bytes;
                keep = keep.or_else(|| gone.id.map(|_| gone.keep));
            }
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    let verb = if remove.dry_run { "would remove" } else { "removed" };
    if remove.dry_run || tally.done > 0 {
        let trash = keep.map_or_else(String::new, |keep| {
            format!("; in the trash for {}: gabion trash list", text::span(keep))
        });
        context.say(&(removed_summary(verb, &removed) + &trash));
    }
    end(tally, "removed")
}

/// The paths to remove. A pattern that matches nothing is fine where a missing path is.
async fn removable(context: &Context, remove: &Remove, tally: &mut Tally) -> Vec<FsPath> {
    let mut all = Vec::new();
    for path in &remove.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match glob::expand_one(context, path).await {
            Ok(mut found) => all.append(&mut found),
            Err(failure) if remove.force && failure.name() == ErrorCode::NotFound.name() => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    all
}

/// What went, in a line.
pub(crate) fn removed_summary(verb: &str, removed: &Removed) -> String {
    let directories = match removed.directories {
        0 => String::new(),
        number => format!(" and {}", text::count(number, "directory")),
    };
    format!(
        "{verb} {}{directories}, {}",
        text::count(removed.files, "file"),
        text::size(removed.bytes)
    )
}

async fn remove_one(context: &Context, path: &FsPath, remove: &Remove) -> Result<Trashed, Failure> {
    if path.is_root() {
        return Err(Failure::code(
            ErrorCode::InvalidArgument,
            "cannot remove /: the root directory always exists",
            "name what is in it: gabion list /",
        ));
    }
    let for_good = |removed| Trashed {
        removed,
        id: None,
        keep: Duration::ZERO,
    };
    let help = |error: gabion_client::Error| {
        let help = "remove it with all it holds: -r";
        if remove.recursive {
            return Failure::from(error);
        }
        Failure::from(error)
            .advise(ErrorCode::NotEmpty, help)
            .advise(ErrorCode::IsDirectory, help)
    };
    let result = if remove.dry_run {
        look_at(context, path, remove.recursive).await.map(for_good)
    } else if remove.now {
        let removed = context.client.remove(path, remove.recursive).await;
        removed.map(for_good).map_err(help)
    } else {
        let trashed = context.client.trash(path, remove.recursive).await;
        let room = "make room on the disks named above; the trash needs some, removing for good does not: --now";
        trashed.map_err(|error| help(error).advise(ErrorCode::NoSpace, room))
    };
    match result {
        Err(Failure::Cluster(error)) if remove.force && error.code == ErrorCode::NotFound => {
            Ok(for_good(Removed::default()))
        }
        other => other,
    }
}

/// What a removal would take away; says each path on standard output.
async fn look_at(context: &Context, path: &FsPath, recursive: bool) -> Result<Removed, Failure> {
    let mut output = Output::stdout();
    let entry = context.client.stat(path).await?;
    let mut found = Removed::default();
    let mut add = |path: &FsPath, entry: &Entry| {
        match entry.kind {
            EntryKind::File | EntryKind::Link { .. } => {
                found.files += 1;
                found.bytes += entry.length;
            }
            EntryKind::Directory => found.directories += 1,
        }
        output.line(&text::printable(path.as_str()))
    };
    add(path, &entry)?;
    if entry.is_directory() {
        if entry.children > 0 && !recursive {
            return Err(Failure::code(
                ErrorCode::NotEmpty,
                format!(
                    "cannot remove {path}: it holds {}",
                    text::count(entry.children, "entry")
                ),
                "remove it with all it holds: -r",
            ));
        }
        let mut walk = Walk::new(context.client.clone(), path.clone());
        while let Some(next) = walk.next().await {
            let (path, entry) = next?;
            add(&path, &entry)?;
        }
    }
    output.flush()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::entry;

    #[test]
    fn a_description_is_pinned() {
        let path = FsPath::parse("/d/a").unwrap();
        let file = entry("a", EntryKind::File, 1_288_490_189, 1_500);
        let expected = "\
path      /d/a
kind      file
size      1.2 GiB (1288490189 bytes)
crc32     cbf43926
chunks    2 of at most 64 MiB
copies    3
mode      0644 (rw-r--r--)
modified  1970-01-01T00:00:01.5Z
inode     7
";
        let none = Attributes::default();
        assert_eq!(describe(&path, &file, &none, false), expected);
        let told = Attributes {
            owner: "ann".to_owned(),
            group: String::new(),
            extended: vec![("user.x".to_owned(), vec![1])],
        };
        assert!(describe(&path, &file, &told, false).ends_with("owner     ann:-\nxattr     user.x (1 byte)\n"));
        let directory = entry("/", EntryKind::Directory, 9, 0);
        assert!(describe(&FsPath::root(), &directory, &none, true).contains("holds     2 entries\nsize      9\n"));
    }

    #[test]
    fn removals_are_summed_up() {
        let removed = Removed {
            files: 2000,
            directories: 1,
            bytes: 4096,
        };
        assert_eq!(
            removed_summary("removed", &removed),
            "removed 2000 files and 1 directory, 4.0 KiB"
        );
        assert_eq!(
            removed_summary("would remove", &Removed::default()),
            "would remove 0 files, 0 B"
        );
    }
}
