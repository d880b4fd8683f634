//! `gabion snapshot`: what a directory held at a moment.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_client::{SnapshotInfo, snapshot_path};
use gabion_protocol::messages::master::{Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;

use crate::args::{SnapshotCreate, SnapshotDiff, SnapshotList, SnapshotRemove, SnapshotState};
use crate::context::Context;
use crate::records;

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// A snapshot. A field is never renamed without a new schema number.
#[derive(Debug, Serialize)]
struct Record {
    directory: String,
    name: String,
    created: String,
    files: u64,
    directories: u64,
    bytes: u64,
    /// Where it is read.
    path: String,
}

impl Record {
    fn new(info: &SnapshotInfo) -> Result<Self, Failure> {
        Ok(Self {
            directory: info.directory.to_string(),
            name: info.name.clone(),
            created: text::rfc3339(info.created_ms),
            files: info.files,
            directories: info.directories,
            bytes: info.bytes,
            path: snapshot_path(&info.directory, &info.name)?.to_string(),
        })
    }
}

#[derive(Serialize)]
struct Listing {
    snapshots: Vec<Record>,
}

pub(crate) async fn create(context: &Context, create: SnapshotCreate) -> Result<(), Failure> {
    let SnapshotCreate { of } = create;
    let made = context.client.create_snapshot(&of.directory, &of.name).await;
    let info = made.map_err(|error| {
        let help = format!("choose another name, or remove that one: gabion snapshot rm {of}");
        Failure::from(error).advise(ErrorCode::Exists, &help)
    })?;
    context.say(&format!(
        "made {of}: {}, {}; read it at {}",
        text::count(info.files, "file"),
        text::size(info.bytes),
        snapshot_path(&of.directory, &of.name)?
    ));
    Ok(())
}

pub(crate) async fn remove(context: &Context, remove: SnapshotRemove) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for of in &remove.snapshots {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.remove_snapshot(&of.directory, &of.name).await {
            Ok(()) => tally.succeeded(),
            Err(error) => tally.failed(&of.to_string(), error.into()),
        }
    }
    tally.finish("snapshot", "removed", &mut |line| eprintln!("{line}"))
}

pub(crate) async fn list(context: &Context, list: SnapshotList) -> Result<(), Failure> {
    let found = context.client.snapshots(list.path.as_ref()).await?;
    let records: Vec<Record> = found.iter().map(Record::new).collect::<Result<_, _>>()?;
    let mut output = Output::stdout();
    match list.printing.output {
        Format::Json => output.object(Format::Json, &Listing { snapshots: records })?,
        Format::Jsonl => records
            .iter()
            .try_for_each(|record| output.object(Format::Jsonl, record))?,
        Format::Table => {
            let mut table = Table::new(&[
                Column::Words("created"),
                Column::Numbers("files"),
                Column::Numbers("size"),
                Column::Words("snapshot"),
            ]);
            for record in &records {
                table.row([
                    record.created.clone(),
                    record.files.to_string(),
                    text::size_or_bytes(record.bytes, list.bytes),
                    text::printable(&format!("{}@{}", record.directory, record.name)).into_owned(),
                ]);
            }
            output.table(&table)?;
        }
    }
    output.flush()?;
    Ok(())
}

/// A difference between two states of a directory.
#[derive(Debug, Serialize)]
struct Difference {
    /// `added`, `removed` or `changed`.
    change: &'static str,
    kind: &'static str,
    path: String,
}

/// Pages of a directory, an entry at a time; nothing if it is missing.
struct Names<'a> {
    context: &'a Context,
    directory: FsPath,
    page: std::vec::IntoIter<Entry>,
    last: Option<String>,
    more: bool,
}

impl<'a> Names<'a> {
    fn new(context: &'a Context, directory: FsPath) -> Self {
        Self {
            context,
            directory,
            page: Vec::new().into_iter(),
            last: None,
            more: true,
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
            let page = self
                .context
                .client
                .list(&self.directory, self.last.as_deref(), PAGE)
                .await?;
            self.more = page.more && !page.entries.is_empty();
            self.last = page.entries.last().map(|entry| entry.name.clone());
            self.page = page.entries.into_iter();
        }
    }
}

pub(crate) async fn diff(context: &Context, diff: SnapshotDiff) -> Result<(), Failure> {
    let before = snapshot_path(&diff.from.directory, &diff.from.name)?;
    let after = match &diff.to {
        None | Some(SnapshotState::Now) => diff.from.directory.clone(),
        Some(SnapshotState::Then(to)) => snapshot_path(&to.directory, &to.name)?,
    };
    let mut output = Output::stdout();
    let mut found = Vec::new();
    // Directories still to be compared, by their paths below the two.
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        let at = |root: &FsPath| FsPath::parse(&format!("{root}{below}")).map_err(gabion_client::Error::from);
        let mut olds = Names::new(context, at(&before)?);
        let mut news = Names::new(context, at(&after)?);
        let (mut old, mut new) = (olds.next().await?, news.next().await?);
        loop {
            let order = match (&old, &new) {
                (None, None) => break,
                (Some(old), Some(new)) => old.name.as_bytes().cmp(new.name.as_bytes()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let (left, right) = (
                order.is_le().then(|| old.take()).flatten(),
                order.is_ge().then(|| new.take()).flatten(),
            );
            if left.is_some() {
                old = olds.next().await?;
            }
            if right.is_some() {
                new = news.next().await?;
            }
            compare(&below, left, right, &mut found, &mut todo);
        }
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
            kind: records::kind(entry.kind),
            path: format!("{below}/{}", entry.name),
        });
    };
    match (old, new) {
        (Some(old), Some(new)) if old.ino == new.ino => {
            let told = |entry: &Entry| (entry.mode, entry.modified_ms);
            let held = |entry: &Entry| (entry.length, entry.crc);
            let is_directory = old.kind == EntryKind::Directory;
            if told(&old) != told(&new) || (!is_directory && held(&old) != held(&new)) {
                note("changed", &new);
            }
            if is_directory {
                todo.push(format!("{below}/{}", new.name));
            }
        }
        // Another file under the same name is a change of what the name holds.
        (Some(old), Some(new)) if old.kind == EntryKind::File && new.kind == EntryKind::File => note("changed", &new),
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
