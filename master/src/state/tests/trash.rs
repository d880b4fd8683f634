//! Removals undone, emptied and expired; big trees taken apart in bounded steps.

use std::cell::Cell;

use super::*;
use crate::state::key::Kind;
use crate::state::rows::{Row, Rows, RowsError};

fn rows_of(machine: &Machine, kind: Kind) -> usize {
    let from = [kind as u8];
    machine.rows.scan(&from, &[kind as u8 + 1], usize::MAX).unwrap().len()
}

/// Every row of what can be told about names and files, apart from the session's and the counters'.
fn picture(machine: &Machine) -> Vec<Row> {
    let kinds = [Kind::Dentry, Kind::Extent, Kind::Chunk, Kind::Total, Kind::Garbage];
    let rows = kinds.map(|kind| machine.rows.scan(&[kind as u8], &[kind as u8 + 1], usize::MAX).unwrap());
    rows.into_iter().flatten().collect()
}

fn ids(machine: &Machine) -> Vec<TrashId> {
    let page = read::trash(&machine.rows, None, 1000).unwrap();
    page.entries.into_iter().map(|entry| entry.id).collect()
}

fn empty(entries: Vec<TrashId>) -> ClientCommand {
    ClientCommand::EmptyTrash { entries }
}

#[test]
fn a_removed_tree_comes_back_as_it_was() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/a/b/f", 2);
    client.put(&mut machine, "/a/b/c/g", 1);
    client.put(&mut machine, "/a/h", 1);
    let before = read::totals(&machine.rows).unwrap();
    let chunks = rows_of(&machine, Kind::Chunk);
    let outcome = client.run(&mut machine, discard("/a/b")).unwrap();
    let Outcome::Trashed {
        files,
        directories,
        bytes,
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!((files, directories, bytes), (2, 2, 30));
    assert_eq!(read::stat(&machine.rows, &path("/a")).unwrap().children, 1);
    assert_eq!(read::totals(&machine.rows).unwrap().bytes, 10);
    machine.check();
    machine.tick(TRASH_MS - 1);
    machine.settle();
    machine.check();
    assert_eq!(
        rows_of(&machine, Kind::Chunk),
        chunks,
        "nothing is taken apart before its time"
    );
    let back = entry(client.run(&mut machine, restore("/a/b", None)));
    assert_eq!((back.name.as_str(), back.length, back.children), ("b", 30, 3));
    assert_eq!(read::stat(&machine.rows, &path("/a/b/c/g")).unwrap().length, 10);
    let after = read::totals(&machine.rows).unwrap();
    assert_eq!(
        (after.files, after.directories, after.bytes),
        (before.files, before.directories, before.bytes)
    );
    machine.tick(TRASH_MS * 2);
    machine.check();
    assert_eq!(
        rows_of(&machine, Kind::Chunk),
        chunks,
        "what was restored does not expire"
    );
    assert_eq!(rows_of(&machine, Kind::Kept) + rows_of(&machine, Kind::KeptPath), 0);
}

#[test]
fn a_refused_restoration_changes_nothing_and_says_why() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/d/f", 1);
    client.put(&mut machine, "/g", 1);
    client.run(&mut machine, discard("/d/f")).unwrap();
    client.run(&mut machine, discard("/d")).unwrap();
    let picture_before = picture(&machine);
    for (what, to, refusal) in [
        ("/d/f", None, Refusal::NoPlaceToRestore { directory: path("/d") }),
        ("/d/f", Some("/g"), Refusal::PlaceTaken { path: path("/g") }),
        ("/d/f", Some("/g/x"), Refusal::NotDirectory { path: path("/g") }),
        ("/d/f", Some("/"), Refusal::Root),
        (
            "/g",
            None,
            Refusal::NotInTrash {
                what: TrashRef::Path(path("/g")),
            },
        ),
        (
            "/d/",
            None,
            Refusal::NotInTrash {
                what: TrashRef::Path(path("/d/x")),
            },
        ),
    ] {
        let what = if what == "/d/" { "/d/x" } else { what };
        assert_eq!(client.run(&mut machine, restore(what, to)), Err(refusal));
    }
    let nobody = ClientCommand::Restore {
        what: TrashRef::Ino(Ino::ROOT),
        to: None,
    };
    assert_eq!(client.refused(&mut machine, nobody), ErrorCode::NotFound);
    assert_eq!(picture(&machine), picture_before);
    machine.check();
    // Elsewhere it may come back, and then the directory, without it.
    client.run(&mut machine, restore("/d/f", Some("/f"))).unwrap();
    assert_eq!(entry(client.run(&mut machine, restore("/d", None))).children, 0);
    machine.check();
}

#[test]
fn the_newest_removal_of_a_path_comes_back_first() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for chunks in 1..=3 {
        client.put(&mut machine, "/f", chunks);
        client.run(&mut machine, discard("/f")).unwrap();
    }
    // A path that begins like it is another one.
    client.put(&mut machine, "/f2", 4);
    client.run(&mut machine, discard("/f2")).unwrap();
    for chunks in [3, 2, 1] {
        let back = entry(client.run(&mut machine, restore("/f", Some(&format!("/back{chunks}")))));
        assert_eq!(back.children, chunks);
    }
    assert_eq!(client.refused(&mut machine, restore("/f", None)), ErrorCode::NotFound);
    machine.check();
}

#[test]
fn nothing_is_restored_once_its_time_is_over() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for file in 0..TICK_ROWS_MAX {
        client.put(&mut machine, &format!("/d/f{file}"), 1);
    }
    client.put(&mut machine, "/late", 1);
    client.run(&mut machine, discard("/d")).unwrap();
    client.run(&mut machine, discard("/late")).unwrap();
    let id = ids(&machine)[0];
    assert!(machine.tick(TRASH_MS), "more is left than one tick takes apart");
    machine.check();
    // Its time is over, too, also if no tick has come to it yet.
    assert_eq!(rows_of(&machine, Kind::Kept), 1);
    assert_eq!(
        client.refused(&mut machine, restore("/late", None)),
        ErrorCode::NotFound
    );
    let gone = Refusal::NotInTrash {
        what: TrashRef::Path(path("/d")),
    };
    assert_eq!(client.run(&mut machine, restore("/d", None)), Err(gone));
    let by_number = ClientCommand::Restore {
        what: TrashRef::Ino(id.ino),
        to: Some(path("/e")),
    };
    assert_eq!(client.refused(&mut machine, by_number), ErrorCode::NotFound);
    assert!(ids(&machine).is_empty());
    machine.settle();
    machine.check();
    assert_eq!(
        (rows_of(&machine, Kind::Inode), rows_of(&machine, Kind::Extent)),
        (1, 0)
    );
    assert_eq!(
        (rows_of(&machine, Kind::TakenApart), rows_of(&machine, Kind::Trash)),
        (0, 0)
    );
}

#[test]
fn emptying_takes_what_was_listed_and_nothing_removed_since() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 1);
    client.put(&mut machine, "/g", 2);
    client.run(&mut machine, discard("/f")).unwrap();
    client.run(&mut machine, discard("/g")).unwrap();
    let listed = ids(&machine);
    // Between the list and the order, one comes back and is removed anew.
    client.run(&mut machine, restore("/f", None)).unwrap();
    client.run(&mut machine, discard("/f")).unwrap();
    let removed = client.run(&mut machine, empty(listed.clone())).unwrap();
    let one = Outcome::Removed {
        files: 1,
        directories: 0,
        bytes: 20,
    };
    assert_eq!(removed, one);
    machine.settle();
    machine.check();
    assert_eq!(rows_of(&machine, Kind::Extent), 1, "/f is still there");
    assert_eq!(entry(client.run(&mut machine, restore("/f", None))).length, 10);
    let none = Outcome::Removed {
        files: 0,
        directories: 0,
        bytes: 0,
    };
    assert_eq!(
        client.run(&mut machine, empty(listed)).unwrap(),
        none,
        "all of it is over"
    );
    machine.check();
    let many = vec![
        TrashId {
            ino: Ino(2),
            removed: 1
        };
        gabion_protocol::limits::BATCH_ROWS_MAX + 1
    ];
    assert_eq!(client.refused(&mut machine, empty(many)), ErrorCode::LimitExceeded);
}

#[test]
fn without_a_trash_removals_are_for_good() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 1);
    client.put(&mut machine, "/g", 1);
    client.run(&mut machine, discard("/f")).unwrap();
    // The terms are set once: repeated, the command does nothing.
    machine.apply(&Command::BeginTrash { keep_ms: 0 });
    assert_eq!(read::trash_terms(&machine.rows).unwrap().unwrap().keep_ms, TRASH_MS);
    use crate::state::key::meta::{TrashTerms, TrashTermsKey};
    use crate::state::key::{Key, Value};
    let off = TrashTerms { keep_ms: 0 }.encode();
    machine.rows.0.insert(TrashTermsKey.encode(), off);
    let outcome = client.run(&mut machine, discard("/g")).unwrap();
    assert!(matches!(outcome, Outcome::Removed { files: 1, .. }), "{outcome:?}");
    assert_eq!(client.refused(&mut machine, restore("/g", None)), ErrorCode::NotFound);
    client.run(&mut machine, restore("/f", None)).unwrap();
    machine.check();
}

#[test]
fn a_page_goes_on_where_the_last_one_ended() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for file in 0..7 {
        client.put(&mut machine, &format!("/f{file}"), 0);
        client.run(&mut machine, discard(&format!("/f{file}"))).unwrap();
        machine.tick(file % 2);
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = read::trash(&machine.rows, after, 3).unwrap();
        assert_eq!((page.totals.entries, page.totals.files), (7, 7));
        after = page
            .entries
            .last()
            .map(|last| gabion_protocol::messages::master::TrashAfter {
                goes: last.goes,
                ino: last.id.ino,
            });
        seen.extend(page.entries.into_iter().map(|entry| entry.path.to_string()));
        if !page.more {
            break;
        }
    }
    let expected: Vec<_> = (0..7).map(|file| format!("/f{file}")).collect();
    assert_eq!(seen, expected, "what was removed first goes first");
}

/// Rows that count what is read of them.
struct Counted<'a> {
    rows: &'a MemoryRows,
    /// Removed keys a scan steps over, as a store keeps them for a while.
    graves: &'a std::collections::BTreeSet<Vec<u8>>,
    read: Cell<usize>,
}

impl Rows for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        self.read.set(self.read.get() + 1);
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        let found = self.rows.scan(from, to, limit)?;
        let end = match found.last() {
            Some((last, _)) if found.len() == limit => last.clone(),
            _ => to.to_vec(),
        };
        let graves = self.graves.range(from.to_vec()..end.max(from.to_vec())).count();
        self.read.set(self.read.get() + found.len() + graves);
        Ok(found)
    }
}

/// Whatever a tree holds, its removal and its restoration are a few rows each, and no tick reads or writes more than a
/// fixed number of rows, those counted that earlier ticks removed.
#[test]
fn no_step_grows_with_the_tree() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for (directory, files) in [("d", 20_000), ("d/e", 500), ("g", 500)] {
        for file in 0..files {
            client
                .run(&mut machine, create(&format!("/t/{directory}/f{file:05}")))
                .unwrap();
        }
    }
    client.put(&mut machine, "/t/long", 16);
    let mut graves = std::collections::BTreeSet::new();
    let mut step = |machine: &mut Machine, command: &Command| {
        machine.index += 1;
        let at = LogAt {
            index: machine.index,
            term: 1,
            leader: MasterId(1),
        };
        let counted = Counted {
            rows: &machine.rows,
            graves: &graves,
            read: Cell::new(0),
        };
        let mut batch = Batch::new(&counted);
        let reply = apply(&mut batch, at, command).unwrap();
        let changes = batch.into_changes();
        let cost = (counted.read.get(), changes.len());
        let gone = changes.iter().filter(|(_, value)| value.is_none());
        graves.extend(gone.map(|(key, _)| key.clone()));
        machine.rows.store(changes);
        machine.check();
        (reply.0.unwrap(), cost)
    };
    for command in [discard("/t"), restore("/t", None), discard("/t")] {
        let (_, (read, written)) = step(&mut machine, &client.command(command));
        assert!(read < 60 && written < 20, "read {read}, wrote {written}");
    }
    let (outcome, _) = step(&mut machine, &Command::Tick { advance_ms: TRASH_MS });
    let mut more = matches!(outcome, Outcome::Ticked { more: true, .. });
    let mut ticks = 1;
    while more {
        let (outcome, (read, written)) = step(&mut machine, &Command::Tick { advance_ms: 0 });
        assert!(read < 12 * TICK_ROWS_MAX, "tick {ticks} read {read} rows");
        assert!(written < 6 * TICK_ROWS_MAX, "tick {ticks} wrote {written} rows");
        more = matches!(outcome, Outcome::Ticked { more: true, .. });
        ticks += 1;
        assert!(ticks < 5 * 21_000 / TICK_ROWS_MAX, "it ends");
    }
    assert!(ticks >= 20, "more than one tick's worth");
    assert_eq!(rows_of(&machine, Kind::Inode), 1);
}

fn create(at: &str) -> ClientCommand {
    ClientCommand::CreateFile {
        path: path(at),
        options: options(),
    }
}
