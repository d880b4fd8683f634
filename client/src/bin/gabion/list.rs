//! `gabion list`: what directories hold.

use std::cmp::Reverse;

use gabion_client::Walk;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};
use rustix::termios::isatty;
use serde::Serialize;

use crate::args::List;
use crate::context::Context;
use crate::glob;
use crate::records::{self, EntryRecord};

/// A file or directory to show, and the name to show it under.
#[derive(Debug)]
struct Found {
    shown: String,
    path: FsPath,
    entry: Entry,
}

#[derive(Serialize)]
struct Listing {
    entries: Vec<EntryRecord>,
}

pub(crate) async fn run(context: &Context, list: List) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let mut tally = Tally::default();
    let mut found = Vec::new();
    let mut roots = Vec::new();
    for asked in &list.paths {
        let paths = glob::expand(context, std::slice::from_ref(&asked.path), &mut tally).await;
        roots.extend(paths.into_iter().map(|path| Root {
            path,
            is_kept: (list.directory || list.long) && !asked.slash,
        }));
    }
    let is_one = roots.len() == 1;
    for root in &roots {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let path = &root.path;
        match gather(context, &list, root, is_one, &mut found).await {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    sort(&mut found, &list);
    print(&mut output, &list, &found)?;
    output.flush()?;
    tally.finish("path", "listed", &mut |line| eprintln!("{line}"))
}

/// What is to be shown.
struct Root {
    path: FsPath,
    /// Whether a link is shown itself, and not what the directory holds that it leads to: as `ls` has it, with -l or -d,
    /// unless the path ends in a slash.
    is_kept: bool,
}

/// Adds what is to be shown of `root`.
async fn gather(
    context: &Context,
    list: &List,
    root: &Root,
    is_one: bool,
    found: &mut Vec<Found>,
) -> Result<(), Failure> {
    let Root { path: root, is_kept } = root;
    // Of several, each is shown with its whole path; of one, its names are enough.
    let shown = |path: &FsPath| match path.as_str().strip_prefix(root.as_str()) {
        Some(rest) if is_one && !rest.is_empty() => rest.trim_start_matches('/').to_owned(),
        _ => path.to_string(),
    };
    let is_link = async || Ok::<_, Failure>(context.client.stat(root).await?.target().is_some());
    if list.directory || (*is_kept && is_link().await?) {
        let entry = match is_kept {
            true => context.client.stat(root).await?,
            false => context.client.resolve(root).await?.1,
        };
        found.push(Found {
            shown: shown(root),
            path: root.clone(),
            entry,
        });
        return Ok(());
    }
    let mut after: Option<String> = None;
    if list.recursive {
        let mut walk = Walk::new(context.client.clone(), root.clone());
        let mut is_first = true;
        while let Some(next) = walk.next().await {
            match next {
                Ok((path, entry)) => found.push(Found {
                    shown: shown(&path),
                    path,
                    entry,
                }),
                Err(error) if is_first && error.code() == ErrorCode::NotDirectory => {
                    return add_file(context, root, found).await;
                }
                // A directory that was removed since its name was read.
                Err(error) if !is_first && error.code() == ErrorCode::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            is_first = false;
        }
        return Ok(());
    }
    loop {
        let page = match context.client.list(root, after.as_deref(), PAGE).await {
            Ok(page) => page,
            Err(error) if error.code() == ErrorCode::NotDirectory => return add_file(context, root, found).await,
            // A link that leads nowhere, or in a circle, is there, too.
            Err(error)
                if matches!(error.code(), ErrorCode::NotFound | ErrorCode::LimitExceeded)
                    && is_link().await.unwrap_or(false) =>
            {
                return add_file(context, root, found).await;
            }
            Err(error) => return Err(error.into()),
        };
        after = page.entries.last().map(|entry| entry.name.clone());
        for entry in page.entries {
            let path = root.join(&entry.name).map_err(gabion_client::Error::from)?;
            found.push(Found {
                shown: shown(&path),
                path,
                entry,
            });
        }
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}

/// Entries asked for at once.
const PAGE: u32 = 1000;

async fn add_file(context: &Context, path: &FsPath, found: &mut Vec<Found>) -> Result<(), Failure> {
    let entry = context.client.stat(path).await?;
    found.push(Found {
        shown: path.to_string(),
        path: path.clone(),
        entry,
    });
    Ok(())
}

/// By name as found, else by the asked key, equal ones by name.
fn sort(found: &mut [Found], list: &List) {
    if list.by_time {
        found.sort_by_key(|found| Reverse(found.entry.modified_ms));
    } else if list.by_size {
        found.sort_by_key(|found| Reverse(found.entry.length));
    }
    if list.reverse {
        found.reverse();
    }
}

fn print(output: &mut Output, list: &List, found: &[Found]) -> Result<(), Failure> {
    let record = |found: &Found| EntryRecord::new(&found.path, &found.entry);
    match list.printing.output {
        Format::Json => output.object(
            Format::Json,
            &Listing {
                entries: found.iter().map(record).collect(),
            },
        ),
        Format::Jsonl => found
            .iter()
            .try_for_each(|found| output.object(Format::Jsonl, &record(found))),
        Format::Table if list.names => {
            let on_terminal = isatty(std::io::stdout());
            found.iter().try_for_each(|found| match on_terminal {
                true => output.line(&text::printable(&found.shown)),
                false => output.line(&found.shown),
            })
        }
        Format::Table => output.table(&table(list, found)),
    }
}

fn table(list: &List, found: &[Found]) -> Table {
    use Column::{Numbers, Words};
    let mut table = if list.long {
        Table::new(&[
            Words("kind"),
            Words("mode"),
            Numbers("size"),
            Numbers("replicas"),
            Numbers("chunks"),
            Numbers("chunk size"),
            Words("crc32"),
            Words("modified"),
            Words("name"),
        ])
    } else {
        Table::new(&[
            Words("kind"),
            Numbers("size"),
            Numbers("replicas"),
            Words("modified"),
            Words("name"),
        ])
    };
    for Found { shown, entry, .. } in found {
        let is_file = entry.is_file();
        let of_file = |text: String| if is_file { text } else { "-".to_owned() };
        let kind = records::short_kind(&entry.kind).to_owned();
        let size = text::size_or_bytes(entry.length, list.bytes);
        let modified = text::table_time(entry.modified_ms);
        let name = records::shown_name(shown, entry);
        if list.long {
            table.row([
                kind,
                text::mode(entry.mode),
                size,
                records::replicas(entry),
                of_file(entry.children.to_string()),
                of_file(text::size_or_bytes(entry.chunk_bytes, list.bytes)),
                of_file(records::known_crc32(entry)),
                modified,
                name,
            ]);
        } else {
            table.row([kind, size, records::replicas(entry), modified, name]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use gabion_protocol::messages::master::EntryKind;

    use super::*;
    use crate::args::{Arguments, Verb};
    use crate::records::tests::entry;

    fn list(line: &str) -> List {
        match Arguments::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::List(list) => list,
            other => panic!("not a list: {other:?}"),
        }
    }

    fn found() -> Vec<Found> {
        let mut degraded = entry("b\n", EntryKind::File, 1_288_490_189, 1_700_000_000_000);
        degraded.degraded = true;
        [
            entry("a", EntryKind::File, 9, 1_600_000_000_000),
            degraded,
            entry("photos", EntryKind::Directory, 64 << 20, 1_650_000_000_000),
        ]
        .map(|entry| Found {
            shown: entry.name.clone(),
            path: FsPath::root().join(&entry.name).unwrap(),
            entry,
        })
        .into()
    }

    #[test]
    fn the_table_is_pinned() {
        let expected = "\
KIND     SIZE  REPLICAS  MODIFIED             NAME
file      9 B         3  2020-09-13 12:26:40  a
file  1.2 GiB        <3  2023-11-14 22:13:20  b\\n
dir    64 MiB         -  2022-04-15 05:20:00  photos
";
        assert_eq!(table(&list("gabion list"), &found()).to_string(), expected);
    }

    #[test]
    fn the_long_table_is_pinned() {
        let expected = "\
KIND  MODE             SIZE  REPLICAS  CHUNKS  CHUNK SIZE  CRC32     MODIFIED             NAME
file  rw-r--r--           9         3       2    67108864  cbf43926  2020-09-13 12:26:40  a
file  rw-r--r--  1288490189        <3       2    67108864  cbf43926  2023-11-14 22:13:20  b\\n
dir   rw-r--r--    67108864         -       -           -  -         2022-04-15 05:20:00  photos
";
        assert_eq!(table(&list("gabion list -l --bytes"), &found()).to_string(), expected);
    }

    #[test]
    fn orders_are_as_asked() {
        for (line, order) in [
            ("gabion list", ["a", "b\n", "photos"]),
            ("gabion list -t", ["b\n", "photos", "a"]),
            ("gabion list -S", ["b\n", "photos", "a"]),
            ("gabion list -S --reverse", ["a", "photos", "b\n"]),
            ("gabion list --reverse", ["photos", "b\n", "a"]),
        ] {
            let mut found = found();
            sort(&mut found, &list(line));
            let names: Vec<_> = found.iter().map(|found| found.shown.as_str()).collect();
            assert_eq!(names, order, "{line}");
        }
    }
}
