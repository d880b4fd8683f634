//! `gabion trash`: what was removed and can be had back.

use std::io::{BufRead as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gabion_client::Removed;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_protocol::messages::master::{EntryKind, TrashEntry, TrashId, TrashPage, TrashRef};
use gabion_protocol::{ErrorCode, FsPath};
use rustix::termios::isatty;
use serde::Serialize;

use crate::args::{TrashEmpty, TrashList, TrashRestore};
use crate::context::Context;
use crate::names::removed_summary;
use crate::records;

#[derive(Serialize)]
struct Listing {
    entries: Vec<Record>,
    /// How long what is removed now can be restored; 0 if not at all.
    keep_ms: u64,
    total_entries: u64,
    total_files: u64,
    total_bytes: u64,
}

/// Something in the trash. A field is never renamed without a new schema number.
#[derive(Debug, Serialize)]
struct Record {
    id: u64,
    path: String,
    kind: &'static str,
    /// Of the file, or of all files below a directory.
    bytes: u64,
    /// Files and directories below a directory; `null` for a file.
    entries: Option<u64>,
    removed: String,
    /// When it goes for good, by this machine's clock.
    goes: String,
    goes_in_ms: u64,
}

impl Record {
    fn new(entry: &TrashEntry, left: Duration, now_ms: i64) -> Self {
        let is_directory = entry.entry.is_directory();
        Self {
            id: entry.id.ino.0,
            path: entry.path.to_string(),
            kind: records::kind(&entry.entry.kind),
            bytes: entry.entry.length,
            entries: is_directory.then_some(entry.entry.children),
            removed: text::rfc3339(entry.removed_ms),
            goes: text::rfc3339(after(now_ms, left)),
            goes_in_ms: millis(left),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn after(now_ms: i64, left: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
}

/// How long an entry can still be restored.
fn left(page: &TrashPage, entry: &TrashEntry) -> Duration {
    Duration::from_millis(entry.goes.0.saturating_sub(page.now.0))
}

/// This machine's wall clock: the masters tell spans, people read times.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) async fn list(context: &Context, list: TrashList) -> Result<(), Failure> {
    let page = context.client.trash_all().await?;
    let now_ms = wall_ms();
    let mut output = Output::stdout();
    let mut records = page
        .entries
        .iter()
        .map(|entry| Record::new(entry, left(&page, entry), now_ms));
    match list.printing.output {
        Format::Json => {
            let listing = Listing {
                entries: records.collect(),
                keep_ms: page.keep_ms,
                total_entries: page.totals.entries,
                total_files: page.totals.files,
                total_bytes: page.totals.bytes,
            };
            output.object(Format::Json, &listing)?;
        }
        Format::Jsonl => records.try_for_each(|record| output.object(Format::Jsonl, &record))?,
        Format::Table => output.table(&table(&page, &list, now_ms))?,
    }
    output.flush()?;
    if page.keep_ms == 0 {
        context.say("this cluster keeps no trash: what is removed is gone (cluster.trash of the masters)");
    }
    Ok(())
}

fn table(page: &TrashPage, list: &TrashList, now_ms: i64) -> Table {
    use Column::{Numbers, Words};
    let mut table = if list.long {
        Table::new(&[
            Numbers("id"),
            Words("kind"),
            Numbers("size"),
            Numbers("entries"),
            Words("removed"),
            Words("goes"),
            Words("path"),
        ])
    } else {
        Table::new(&[
            Numbers("id"),
            Words("kind"),
            Numbers("size"),
            Words("goes in"),
            Words("path"),
        ])
    };
    for entry in &page.entries {
        let id = entry.id.ino.to_string();
        let kind = records::short_kind(&entry.entry.kind).to_owned();
        let size = text::size_or_bytes(entry.entry.length, list.bytes);
        let path = text::printable(entry.path.as_str()).into_owned();
        let left = left(page, entry);
        if list.long {
            let entries = match entry.entry.is_directory() {
                true => entry.entry.children.to_string(),
                false => "-".to_owned(),
            };
            let removed = text::table_time(entry.removed_ms);
            table.row([
                id,
                kind,
                size,
                entries,
                removed,
                text::table_time(after(now_ms, left)),
                path,
            ]);
        } else {
            table.row([id, kind, size, text::span(left), path]);
        }
    }
    table
}

pub(crate) async fn restore(context: &Context, restore: TrashRestore) -> Result<(), Failure> {
    if restore.to.is_some() && restore.what.len() > 1 {
        return Err(Failure::usage(
            "--to goes with one thing to restore",
            "restore them one by one, or name a directory for each",
        ));
    }
    let mut tally = Tally::default();
    for what in &restore.what {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match restore_one(context, what, restore.to.as_ref()).await {
            Ok(line) => {
                tally.succeeded();
                context.say(&line);
            }
            Err(failure) => tally.failed(what.to_string(), failure),
        }
    }
    tally.finish("path", "restored", &mut |line| eprintln!("{line}"))
}

/// Restores one thing; what there is to say of it.
async fn restore_one(context: &Context, what: &TrashRef, to: Option<&FsPath>) -> Result<String, Failure> {
    // By its number from here on: by its path, another removal may be the newest by then.
    let found = context.client.trash_entry(what).await?;
    let to = match to {
        None => found.path.clone(),
        Some(to) => match (context.find(to).await?, found.path.name()) {
            (Some(there), Some(name)) if there.is_directory() => to.join(name).map_err(gabion_client::Error::from)?,
            _ => to.clone(),
        },
    };
    let entry = context.client.restore(&TrashRef::Ino(found.id.ino), Some(&to)).await?;
    let holds = match entry.kind {
        EntryKind::File | EntryKind::Link { .. } => String::new(),
        EntryKind::Directory => format!(" with {}", text::count(entry.children, "entry")),
    };
    Ok(format!(
        "restored {}{holds}, {}",
        text::printable(to.as_str()),
        text::size(entry.length)
    ))
}

pub(crate) async fn empty(context: &Context, empty: TrashEmpty) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut chosen: Vec<TrashEntry> = Vec::new();
    if empty.what.is_empty() {
        chosen = context.client.trash_all().await?.entries;
    }
    for what in &empty.what {
        match context.client.trash_entry(what).await {
            Ok(entry) => {
                tally.succeeded();
                chosen.push(entry);
            }
            Err(error) => tally.failed(what.to_string(), error.into()),
        }
    }
    if !chosen.is_empty() && !empty.force {
        ask(&chosen)?;
    }
    let ids: Vec<TrashId> = chosen.iter().map(|entry| entry.id).collect();
    let mut removed = Removed::default();
    for batch in ids.chunks(gabion_protocol::limits::BATCH_ROWS_MAX) {
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
        let gone = context.client.empty_trash(batch).await?;
        removed.files += gone.files;
        removed.directories += gone.directories;
        removed.bytes += gone.bytes;
    }
    if empty.what.is_empty() || tally.done > 0 {
        context.say(&removed_summary("removed for good", &removed));
    }
    tally.finish("path", "removed", &mut |line| eprintln!("{line}"))
}

/// Has the user say that it may go for good.
fn ask(chosen: &[TrashEntry]) -> Result<(), Failure> {
    let bytes = chosen.iter().map(|entry| entry.entry.length).sum();
    let what = format!(
        "{} of the trash, {}",
        text::count(chosen.len() as u64, "entry"),
        text::size(bytes)
    );
    if !isatty(std::io::stdin()) {
        return Err(Failure::usage(
            format!("cannot ask whether {what} may go for good: standard input is no terminal"),
            "say that it may: --force",
        ));
    }
    eprint!("remove {what}, for good? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stderr()
        .flush()
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    read.map_err(|error| Failure::local("read", "the answer", &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::code(
            ErrorCode::Interrupted,
            "nothing was removed: the answer was not y",
            "ask again, or say --force",
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use gabion_protocol::ids::StateTime;
    use gabion_protocol::messages::master::TrashTotals;
    use gabion_protocol::{FsPath, Ino};

    use super::*;
    use crate::args::{Arguments, Trash, Verb};
    use crate::records::tests::entry;

    fn page() -> TrashPage {
        let trashed = |ino, path: &str, kind, goes| TrashEntry {
            id: TrashId {
                ino: Ino(ino),
                removed: 7,
            },
            path: FsPath::parse(path).unwrap(),
            entry: entry("x", kind, 1_288_490_189, 0),
            removed_ms: 1_600_000_000_000,
            goes: StateTime(goes),
        };
        TrashPage {
            entries: vec![
                trashed(12, "/d/a\u{1b}", EntryKind::File, 3_661_000),
                trashed(9, "/d", EntryKind::Directory, 86_400_000),
            ],
            more: false,
            now: StateTime(1_000),
            keep_ms: 86_400_000,
            totals: TrashTotals::default(),
        }
    }

    fn list(line: &str) -> TrashList {
        match Arguments::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Trash(Trash::List(list)) => list,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tables_are_pinned() {
        let expected = "\
ID  KIND     SIZE  GOES IN      PATH
12  file  1.2 GiB  1 h 1 min    /d/a\\u{1b}
 9  dir   1.2 GiB  23 h 59 min  /d
";
        assert_eq!(table(&page(), &list("gabion trash list"), 0).to_string(), expected);
        let expected = "\
ID  KIND        SIZE  ENTRIES  REMOVED              GOES                 PATH
12  file  1288490189        -  2020-09-13 12:26:40  2020-09-13 13:27:40  /d/a\\u{1b}
 9  dir   1288490189        2  2020-09-13 12:26:40  2020-09-14 12:26:39  /d
";
        let long = list("gabion trash ls -l --bytes");
        assert_eq!(table(&page(), &long, 1_600_000_000_000).to_string(), expected);
    }

    #[test]
    fn json_is_pinned() {
        let page = page();
        let record = Record::new(&page.entries[1], left(&page, &page.entries[1]), 1_600_000_000_000);
        let expected = r#"{"id":9,"path":"/d","kind":"directory","bytes":1288490189,"entries":2,"removed":"2020-09-13T12:26:40Z","goes":"2020-09-14T12:26:39Z","goes_in_ms":86399000}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), expected);
    }

    #[test]
    fn what_is_named_is_a_number_or_a_path() {
        let line = "gabion trash restore 12 /a gabion:/b";
        let Verb::Trash(Trash::Restore(restore)) = Arguments::try_parse_from(line.split(' ')).unwrap().verb else {
            panic!("not a restoration");
        };
        let path = |text| TrashRef::Path(FsPath::parse(text).unwrap());
        assert_eq!(restore.what, [TrashRef::Ino(Ino(12)), path("/a"), path("/b")]);
        let wrong = Arguments::try_parse_from(["gabion", "trash", "restore", "a"]).unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        assert!(wrong.to_string().contains("neither a number"), "{wrong}");
    }
}
