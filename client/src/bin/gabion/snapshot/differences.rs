//! Two states of a directory, compared entry by entry.

use std::cmp::Ordering;

use gabion_client::snapshot_path;
use gabion_client::terminal::{Failure, Format, Output, text};
use gabion_protocol::FsPath;
use gabion_protocol::messages::master::Entry;
use serde::Serialize;

use crate::args::{SnapshotDiff, SnapshotState};
use crate::context::Context;
use crate::records;

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// A difference between two states of a directory.
#[derive(Debug, Serialize)]
struct Difference {
    /// `added`, `removed` or `changed`.
    change: &'static str,
    kind: &'static str,
    path: String,
}

/// Pages of a directory, an entry at a time.
struct Names<'a> {
    context: &'a Context,
    directory: FsPath,
    page: std::vec::IntoIter<Entry>,
    last: Option<String>,
    more: bool,
}

impl<'a> Names<'a> {
    fn new(context: &'a Context, directory: FsPath, is_there: bool) -> Self {
        Self {
            context,
            directory,
            page: Vec::new().into_iter(),
            last: None,
            more: is_there,
        }
    }

    async fn next(&mut self) -> Result<Option<Entry>, Failure> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            if !self.more {
                return Ok(None);
            }
            if self.context.stop.is_cancelled() {
                return Err(Failure::interrupted());
            }
            let client = &self.context.client;
            let page = client.list(&self.directory, self.last.as_deref(), PAGE).await?;
            self.more = page.more && !page.entries.is_empty();
            self.last = page.entries.last().map(|entry| entry.name.clone());
            self.page = page.entries.into_iter();
        }
    }
}

/// Two states of a directory tree.
pub(super) struct States<'a> {
    pub(super) context: &'a Context,
    pub(super) older: FsPath,
    pub(super) newer: FsPath,
}

/// The path of something by its way below `root`, which begins with a slash, or is empty for the root itself.
pub(super) fn at(root: &FsPath, below: &str) -> Result<FsPath, Failure> {
    let text = match below {
        "" => root.to_string(),
        _ => format!("{}{below}", root.as_str().trim_end_matches('/')),
    };
    Ok(FsPath::parse(&text).map_err(gabion_client::Error::from)?)
}

impl States<'_> {
    /// Goes through all names that a directory has in either state, in their order. The newer state may lack it.
    pub(super) async fn names(
        &self,
        below: &str,
        is_in_newer: bool,
        mut each: impl FnMut(Option<Entry>, Option<Entry>),
    ) -> Result<(), Failure> {
        let mut olds = Names::new(self.context, at(&self.older, below)?, true);
        let mut news = Names::new(self.context, at(&self.newer, below)?, is_in_newer);
        let (mut old, mut new) = (olds.next().await?, news.next().await?);
        loop {
            let order = match (&old, &new) {
                (None, None) => return Ok(()),
                (Some(old), Some(new)) => old.name.as_bytes().cmp(new.name.as_bytes()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let left = order.is_le().then(|| old.take()).flatten();
            let right = order.is_ge().then(|| new.take()).flatten();
            if left.is_some() {
                old = olds.next().await?;
            }
            if right.is_some() {
                new = news.next().await?;
            }
            each(left, right);
        }
    }
}

/// Whether both are files, both are directories, or both links.
pub(super) fn is_like(old: &Entry, new: &Entry) -> bool {
    records::kind(&old.kind) == records::kind(&new.kind)
}

/// Whether two files hold the same bytes, as far as that is known without reading them, or two links stand for the same.
pub(super) fn holds_same(old: &Entry, new: &Entry) -> bool {
    if old.target().is_some() {
        return old.kind == new.kind;
    }
    // In how many chunks they lie says nothing: small ones become large ones by themselves.
    let held = |entry: &Entry| (entry.length, entry.crc);
    if old.ino == new.ino {
        return held(old) == held(new) && old.modified_ms == new.modified_ms;
    }
    // A checksum of zero is one that nobody knows.
    (old.length, old.crc) == (new.length, new.crc) && (old.crc != 0 || old.length == 0)
}

/// What is told of an entry besides its bytes.
pub(super) fn told(entry: &Entry) -> (u32, i64) {
    (entry.mode, entry.modified_ms)
}

pub(crate) async fn diff(context: &Context, diff: SnapshotDiff) -> Result<(), Failure> {
    let states = States {
        context,
        older: snapshot_path(&diff.from.directory, &diff.from.name)?,
        newer: match &diff.to {
            None | Some(SnapshotState::Now) => diff.from.directory.clone(),
            Some(SnapshotState::Then(to)) => snapshot_path(&to.directory, &to.name)?,
        },
    };
    let mut output = Output::stdout();
    let mut found = Vec::new();
    // Directories still to be compared, by their ways below the two.
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        let each = |old, new| compare(&below, old, new, &mut found, &mut todo);
        states.names(&below, true, each).await?;
        if diff.printing.output != Format::Json {
            print(&mut output, diff.printing.output, &found)?;
            found.clear();
        }
    }
    if diff.printing.output == Format::Json {
        output.object(Format::Json, &Differences { differences: found })?;
    }
    output.flush()?;
    Ok(())
}

#[derive(Serialize)]
struct Differences {
    differences: Vec<Difference>,
}

fn print(output: &mut Output, format: Format, found: &[Difference]) -> Result<(), Failure> {
    for difference in found {
        if format == Format::Jsonl {
            output.object(Format::Jsonl, difference)?;
            continue;
        }
        let sign = match difference.change {
            "added" => '+',
            "removed" => '-',
            _ => 'M',
        };
        output.line(&format!("{sign} {}", text::printable(&difference.path)))?;
    }
    Ok(())
}

/// Notes what differs of one name. A directory that is new or gone is told alone: all below it is, too.
fn compare(below: &str, old: Option<Entry>, new: Option<Entry>, found: &mut Vec<Difference>, todo: &mut Vec<String>) {
    let mut note = |change, entry: &Entry| {
        found.push(Difference {
            change,
            kind: records::kind(&entry.kind),
            path: format!("{below}/{}", entry.name),
        });
    };
    match (old, new) {
        (Some(old), Some(new)) if is_like(&old, &new) => {
            let is_directory = old.is_directory();
            if told(&old) != told(&new) || (!is_directory && !holds_same(&old, &new)) {
                note("changed", &new);
            }
            if is_directory {
                todo.push(format!("{below}/{}", new.name));
            }
        }
        (old, new) => {
            if let Some(old) = &old {
                note("removed", old);
            }
            if let Some(new) = &new {
                note("added", new);
            }
        }
    }
}
