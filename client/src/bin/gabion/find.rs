//! `gabion find` and `gabion tree`: walks, a page of names at a time, each directory before what it holds.
//!
//! A page goes on after the last name of the one before, so that a failover in between is not noticed, and what was
//! there all the time is shown once, whatever comes and goes around it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gabion_client::Walk;
use gabion_client::terminal::{Failure, Format, Output, Tally, text};
use gabion_protocol::messages::master::{Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};
use rustix::termios::isatty;
use serde::Serialize;

use crate::args::{Find, Sort, Tree};
use crate::context::Context;
use crate::glob;
use crate::records::{self, EntryRecord};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries asked for at once.
const PAGE: u32 = 500;

#[derive(Serialize)]
struct Found {
    entries: Vec<EntryRecord>,
}

/// Where found entries go: at once, but for one JSON document.
struct Sink {
    output: Output,
    format: Format,
    end: &'static [u8],
    escaped: bool,
    records: Vec<EntryRecord>,
}

impl Sink {
    fn new(format: Format, print0: bool) -> Self {
        Self {
            output: Output::stdout(),
            format,
            end: if print0 { b"\0" } else { b"\n" },
            escaped: !print0 && isatty(std::io::stdout()),
            records: Vec::new(),
        }
    }

    fn take(&mut self, path: &FsPath, entry: &Entry) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                self.records.push(EntryRecord::new(path, entry));
                Ok(())
            }
            Format::Jsonl => self.output.object(Format::Jsonl, &EntryRecord::new(path, entry)),
            Format::Table => {
                match self.escaped {
                    true => self.output.bytes(text::printable(path.as_str()).as_bytes())?,
                    false => self.output.bytes(path.as_str().as_bytes())?,
                }
                self.output.bytes(self.end)
            }
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        if self.format == Format::Json {
            let entries = self.records;
            self.output.object(Format::Json, &Found { entries })?;
        }
        self.output.flush()
    }
}

pub(crate) async fn find(context: &Context, find: Find) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let paths = glob::expand(context, &find.paths, &mut tally).await;
    let mut sink = Sink::new(find.printing.output, find.print0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for path in &paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match find_below(context, &find, path, now, &mut sink).await {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    sink.end()?;
    tally.finish("path", "searched", &mut |line| eprintln!("{line}"))
}

async fn find_below(
    context: &Context,
    find: &Find,
    root: &FsPath,
    now: Duration,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let entry = context.client.stat(root).await?;
    if find.mindepth == 0 && is_wanted(find, root, &entry, now) {
        sink.take(root, &entry)?;
    }
    if !entry.is_directory() || find.maxdepth == Some(0) {
        return Ok(());
    }
    let above = root.names().count();
    let mut walk = match find.maxdepth {
        Some(depth) => Walk::to_depth(context.client.clone(), root.clone(), depth),
        None => Walk::new(context.client.clone(), root.clone()),
    };
    while let Some(next) = walk.next().await {
        match next {
            Ok((path, entry)) => {
                let depth = path.names().count().saturating_sub(above);
                debug_assert!(depth > 0, "a walk stays below its root");
                if depth >= find.mindepth && is_wanted(find, &path, &entry, now) {
                    sink.take(&path, &entry)?;
                }
            }
            // A directory that was removed, or replaced by a file, since its name was read.
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotDirectory) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_wanted(find: &Find, path: &FsPath, entry: &Entry, now: Duration) -> bool {
    let of_kind = find.kind.is_none_or(|kind| match kind {
        Sort::File => entry.is_file(),
        Sort::Directory => entry.is_directory(),
        Sort::Link => entry.target().is_some(),
    });
    // What a directory holds is not its size.
    let of_size = find
        .size
        .is_none_or(|size| !entry.is_directory() && size.takes(entry.length));
    let of_age = find.mtime.is_none_or(|days| {
        let modified = u64::try_from(entry.modified_ms).unwrap_or(0);
        let age = now.saturating_sub(Duration::from_millis(modified));
        days.takes(age.as_secs() / DAY.as_secs())
    });
    let named = find.name.as_ref().is_none_or(|name| glob::matches(name, &entry.name));
    let lower = |name: &String| glob::matches(&name.to_lowercase(), &entry.name.to_lowercase());
    let named = named && find.iname.as_ref().is_none_or(lower);
    let placed = find
        .path
        .as_ref()
        .is_none_or(|wanted| glob::matches(wanted, path.as_str()));
    let holds_nothing = match entry.kind {
        EntryKind::File => entry.length == 0,
        EntryKind::Directory => entry.children == 0,
        EntryKind::Link { .. } => false,
    };
    of_kind && of_size && of_age && named && placed && (holds_nothing || !find.empty)
}

/// A directory of a tree being shown.
#[derive(Debug)]
struct Level {
    path: FsPath,
    page: std::collections::VecDeque<Entry>,
    after: Option<String>,
    more: bool,
}

impl Level {
    fn new(path: FsPath) -> Self {
        Self {
            path,
            page: Default::default(),
            after: None,
            more: true,
        }
    }

    /// Has the next entry at hand, if there is one: to draw an entry, it must be known whether another one follows.
    async fn fill(&mut self, context: &Context, directories: bool) -> Result<(), Failure> {
        while self.page.is_empty() && self.more {
            let page = match context.client.list(&self.path, self.after.as_deref(), PAGE).await {
                Ok(page) => page,
                // It was removed or replaced since its name was read.
                Err(error)
                    if self.path.names().count() > 0
                        && matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotDirectory) =>
                {
                    self.more = false;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            self.after = page.entries.last().map(|entry| entry.name.clone());
            self.more = page.more && self.after.is_some();
            let wanted = |entry: &Entry| !directories || entry.is_directory();
            self.page = page.entries.into_iter().filter(wanted).collect();
        }
        Ok(())
    }
}

pub(crate) async fn tree(context: &Context, tree: Tree) -> Result<(), Failure> {
    let (_, root) = context.client.resolve(&tree.path).await?;
    let mut sink = Sink::new(tree.printing.output, false);
    let drawn = tree.printing.output == Format::Table;
    sink.take(&tree.path, &root)?;
    let deepest = tree.level.map_or(usize::MAX, usize::from);
    let mut levels = Vec::new();
    if root.is_directory() {
        levels.push(Level::new(tree.path.clone()));
    }
    let (mut files, mut directories) = (0u64, 0u64);
    while let Some(level) = levels.last_mut() {
        level.fill(context, tree.directories).await?;
        let Some(entry) = level.page.pop_front() else {
            levels.pop();
            continue;
        };
        level.fill(context, tree.directories).await?;
        let path = level.path.join(&entry.name).map_err(gabion_client::Error::from)?;
        match entry.kind {
            EntryKind::File | EntryKind::Link { .. } => files += 1,
            EntryKind::Directory => directories += 1,
        }
        if drawn {
            let name = records::shown_name(&entry.name, &entry);
            sink.output.line(&(lines(&levels) + &name))?;
        } else {
            sink.take(&path, &entry)?;
        }
        if entry.is_directory() && levels.len() < deepest {
            levels.push(Level::new(path));
        }
    }
    if drawn {
        let files = match tree.directories {
            true => String::new(),
            false => format!(", {}", text::count(files, "file")),
        };
        sink.output
            .line(&format!("\n{}{files}", text::count(directories, "directory")))?;
    }
    sink.end()
}

/// The lines in front of a name: whether more follows on each level.
fn lines(levels: &[Level]) -> String {
    let Some((last, above)) = levels.split_last() else {
        return String::new();
    };
    let has_more = |level: &Level| !level.page.is_empty();
    let mut drawn: String = above
        .iter()
        .map(|level| if has_more(level) { "│   " } else { "    " })
        .collect();
    drawn.push_str(if has_more(last) { "├── " } else { "└── " });
    drawn
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Verb};
    use crate::records::tests::entry;

    fn wanted(line: &str, kind: EntryKind, name: &str, length: u64, days_old: u64) -> bool {
        let Verb::Find(find) = Arguments::try_parse_from(line.split(' ')).unwrap().verb else {
            panic!("not a search");
        };
        let now = DAY * 1000;
        let modified = now - DAY * u32::try_from(days_old).unwrap() - Duration::from_secs(1);
        is_wanted(
            &find,
            &FsPath::parse("/d").unwrap().join(name).unwrap(),
            &entry(name, kind, length, i64::try_from(modified.as_millis()).unwrap()),
            now,
        )
    }

    #[test]
    fn all_tests_are_to_be_met() {
        let line = "gabion find / --name *.log --type f --size +1k --mtime +7";
        assert!(wanted(line, EntryKind::File, "a.log", 2000, 8));
        assert!(!wanted(line, EntryKind::File, "a.txt", 2000, 8));
        assert!(!wanted(line, EntryKind::Directory, "a.log", 2000, 8));
        assert!(!wanted(line, EntryKind::File, "a.log", 1000, 8));
        assert!(!wanted(line, EntryKind::File, "a.log", 2000, 7));
        assert!(wanted("gabion find / --type d", EntryKind::Directory, "a", 2000, 0));
        assert!(!wanted("gabion find / --size -1k", EntryKind::Directory, "a", 0, 0));
        assert!(wanted("gabion find / --iname A.L*", EntryKind::File, "a.Log", 1, 0));
        assert!(!wanted(
            "gabion find / --iname A.L* --empty",
            EntryKind::File,
            "a.Log",
            1,
            0
        ));
        assert!(wanted(
            "gabion find / --path /*.log --empty",
            EntryKind::File,
            "a.log",
            0,
            0
        ));
        assert!(!wanted("gabion find / --path /e*", EntryKind::File, "a.log", 0, 0));
        assert!(wanted("gabion find / --mtime 0", EntryKind::File, "a", 0, 0));
        assert!(wanted("gabion find / --mtime -1", EntryKind::File, "a", 0, 0));
        assert!(!wanted("gabion find / --mtime -1", EntryKind::File, "a", 0, 1));
    }
}
