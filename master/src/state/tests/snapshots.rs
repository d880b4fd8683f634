//! Snapshots, rule by rule: what the random programs do not reach, and what they cost.

use std::cell::Cell;

use gabion_protocol::limits::SNAPSHOTS_MAX;
use gabion_protocol::messages::master::{AttributeChange, Change, FileChange};

use super::*;
use crate::state::key::Kind;
use crate::state::key::attributes::AttributesKey;
use crate::state::key::chunk::{ChunkKey, Phase};
use crate::state::key::meta::PinsKey;
use crate::state::rows::{Row, Rows, RowsError};

fn create(at: &str, name: &str) -> ClientCommand {
    ClientCommand::CreateSnapshot {
        path: path(at),
        name: name.to_owned(),
    }
}

fn forget(at: &str, name: &str) -> ClientCommand {
    ClientCommand::RemoveSnapshot {
        path: path(at),
        name: name.to_owned(),
    }
}

fn own(at: &str, owner: &str) -> ClientCommand {
    let change = AttributeChange::Owner {
        owner: Some(owner.to_owned()),
        group: None,
    };
    ClientCommand::ChangeAttributes { path: path(at), change }
}

fn rows_of(machine: &Machine, kind: Kind) -> usize {
    machine.rows.0.keys().filter(|key| Kind::of(key) == Some(kind)).count()
}

/// Rows below a command, and how many it read.
struct Counted<'a> {
    rows: &'a MemoryRows,
    read: Cell<usize>,
    of_pins: Cell<usize>,
}

impl Rows for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        self.read.set(self.read.get() + 1);
        if key == PinsKey.encode() {
            self.of_pins.set(self.of_pins.get() + 1);
        }
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        let found = self.rows.scan(from, to, limit)?;
        self.read.set(self.read.get() + 1 + found.len());
        Ok(found)
    }
}

/// What a command would read and write: rows it reads, those of the list of snapshots, rows it changes.
fn cost(machine: &Machine, client: &mut Client, op: ClientCommand) -> (usize, usize, usize) {
    let rows = Counted {
        rows: &machine.rows,
        read: Cell::new(0),
        of_pins: Cell::new(0),
    };
    let mut batch = Batch::new(&rows);
    let at = LogAt {
        index: machine.index + 1,
        term: 1,
        leader: MasterId(1),
    };
    let command = client.command(op);
    let reply = apply(&mut batch, at, &command).unwrap();
    assert!(reply.0.is_ok(), "{reply:?}");
    let changed = batch.into_changes().len();
    (rows.read.get(), rows.of_pins.get(), changed)
}

#[test]
fn what_cannot_be_a_snapshot_is_refused() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/d/f", 1);
    let mut refused = |op| client.refused(&mut machine, op);
    assert_eq!(refused(create("/none", "s")), ErrorCode::NotFound);
    assert_eq!(refused(create("/d/f", "s")), ErrorCode::NotDirectory);
    for name in ["", "a/b", "a@b", ".", "..", ".snapshot"] {
        assert_eq!(refused(create("/d", name)), ErrorCode::InvalidPath, "{name:?}");
    }
    assert_eq!(refused(forget("/d", "s")), ErrorCode::NotFound);
    client.run(&mut machine, create("/d", "s")).unwrap();
    let mut refused = |op| client.refused(&mut machine, op);
    assert_eq!(refused(create("/d", "s")), ErrorCode::Exists);
    // The way to snapshots is nobody's name, and nothing below it is written.
    assert_eq!(refused(mkdir("/d/.snapshot")), ErrorCode::ReadOnly);
    assert_eq!(refused(open("/.snapshot/x", 1)), ErrorCode::ReadOnly);
    assert_eq!(refused(create("/d/.snapshot/s", "t")), ErrorCode::ReadOnly);
    assert_eq!(refused(own("/d/.snapshot/s/f", "ann")), ErrorCode::ReadOnly);
    assert_eq!(refused(rename("/d/f", "/d/.snapshot/s/g", false)), ErrorCode::ReadOnly);
    machine.check();
}

#[test]
fn a_directory_that_has_snapshots_stays_until_they_are_gone() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/a/d/f", 1);
    client.run(&mut machine, mkdir("/e")).unwrap();
    client.run(&mut machine, create("/a/d", "s")).unwrap();
    client.run(&mut machine, create("/e", "s")).unwrap();
    for at in ["/a/d", "/a"] {
        assert_eq!(client.refused(&mut machine, remove(at, true)), ErrorCode::NotEmpty);
        assert_eq!(client.refused(&mut machine, discard(at)), ErrorCode::NotEmpty);
    }
    client.run(&mut machine, mkdir("/n")).unwrap();
    assert_eq!(
        client.refused(&mut machine, rename("/n", "/e", true)),
        ErrorCode::NotEmpty
    );
    // It moves, and its snapshots with it.
    client.run(&mut machine, rename("/a/d", "/n/d", false)).unwrap();
    client.run(&mut machine, remove("/a", true)).unwrap();
    client.run(&mut machine, discard("/n/d/f")).unwrap();
    assert_eq!(
        read::stat(&machine.rows, &path("/n/d/.snapshot/s/f")).unwrap().length,
        10
    );
    client.run(&mut machine, forget("/n/d", "s")).unwrap();
    client.run(&mut machine, discard("/n")).unwrap();
    machine.check();
}

/// Live rows and those of history are read in pages of their own: whatever the pages, a listing is the same.
#[test]
fn a_snapshot_is_listed_in_pages_of_any_length() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let names: Vec<String> = (0..24).map(|number| format!("{number:02}")).collect();
    client.run(&mut machine, mkdir("/d")).unwrap();
    for name in &names {
        client.run(&mut machine, mkdir(&format!("/d/{name}"))).unwrap();
    }
    client.run(&mut machine, create("/d", "s")).unwrap();
    // What went, what was replaced, what came: in between and in runs longer than a page.
    for number in [0, 3, 4, 5, 6, 7, 11, 23] {
        client.run(&mut machine, discard(&format!("/d/{number:02}"))).unwrap();
    }
    for name in ["03", "04a", "04b", "04c", "04d", "11", "24", "25"] {
        client.run(&mut machine, mkdir(&format!("/d/{name}"))).unwrap();
    }
    for limit in 1..=26 {
        let (mut listed, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = read::list(&machine.rows, &path("/d/.snapshot/s"), after.as_deref(), limit).unwrap();
            assert!(page.entries.len() <= limit as usize);
            listed.extend(page.entries.into_iter().map(|entry| entry.name));
            if !page.more {
                break;
            }
            after = listed.last().cloned();
        }
        assert_eq!(listed, names, "pages of {limit}");
    }
    machine.check();
}

#[test]
fn without_snapshots_a_command_reads_one_row_more_and_keeps_nothing() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/d/f", 2);
    for op in [
        mkdir("/d/e"),
        rename("/d/f", "/g", false),
        discard("/d"),
        own("/d/f", "ann"),
    ] {
        let (_, of_pins, _) = cost(&machine, &mut client, op.clone());
        // A removal asks once more whether it would take snapshots with it.
        assert!((1..=2).contains(&of_pins), "{op:?} reads {of_pins} rows of snapshots");
        assert!(of_pins == 1 || matches!(op, ClientCommand::MoveToTrash { .. }));
    }
    client.run(&mut machine, rename("/d/f", "/g", false)).unwrap();
    client.run(&mut machine, remove("/g", false)).unwrap();
    assert_eq!(rows_of(&machine, Kind::History), 0);
}

#[test]
fn a_snapshot_of_much_costs_as_much_as_one_of_little() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.run(&mut machine, mkdir("/d")).unwrap();
    let little = cost(&machine, &mut client, create("/d", "s"));
    for n in 0..3000 {
        client.run(&mut machine, mkdir(&format!("/d/{n}"))).unwrap();
    }
    let much = cost(&machine, &mut client, create("/d", "s"));
    assert_eq!((much.0, much.2), (little.0, little.2), "rows read and changed");
    assert!(much.2 <= 6, "{much:?}");
}

/// Who writes where no snapshot was made pays for the number of snapshots in memory only.
#[test]
fn many_snapshots_of_others_cost_no_reads() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/a/b/c/f", 2);
    client.run(&mut machine, mkdir("/other")).unwrap();
    client.run(&mut machine, create("/other", "first")).unwrap();
    let with_one = cost(&machine, &mut client, rename("/a/b/c/f", "/a/g", false)).0;
    for n in 1..SNAPSHOTS_MAX {
        client.run(&mut machine, create("/other", &n.to_string())).unwrap();
    }
    assert_eq!(
        client.refused(&mut machine, create("/other", "last")),
        ErrorCode::LimitExceeded
    );
    let with_many = cost(&machine, &mut client, rename("/a/b/c/f", "/a/g", false)).0;
    assert_eq!(with_many, with_one);
}

#[test]
fn history_goes_in_bounded_steps_and_its_chunks_with_it() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let files = 600;
    for n in 0..files {
        client.put(&mut machine, &format!("/d/{n}"), 1);
    }
    client.run(&mut machine, create("/d", "s")).unwrap();
    for n in 0..files {
        client.run(&mut machine, remove(&format!("/d/{n}"), false)).unwrap();
    }
    machine.settle();
    let kept = rows_of(&machine, Kind::History);
    assert!(kept >= 3 * files, "{kept} rows of history");
    let is_sealed = |machine: &Machine| {
        let all = read::chunks(&machine.rows, None, 10_000).unwrap();
        all.iter()
            .filter(|(_, chunk)| chunk.phase == Phase::Sealed && chunk.references == 1)
            .count()
    };
    assert_eq!(is_sealed(&machine), files);
    machine.check();
    client.run(&mut machine, forget("/d", "s")).unwrap();
    let mut steps = 0;
    loop {
        let before = rows_of(&machine, Kind::History);
        let more = machine.tick(0);
        assert!(before - rows_of(&machine, Kind::History) <= TICK_ROWS_MAX);
        machine.check();
        steps += 1;
        if !more {
            break;
        }
    }
    assert!(steps >= kept / TICK_ROWS_MAX, "{steps} steps");
    assert_eq!((rows_of(&machine, Kind::History), is_sealed(&machine)), (0, 0));
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    machine.obey();
    assert_eq!(rows_of(&machine, Kind::Chunk), 0);
}

/// A snapshot removed while the history of another is being taken away: what only it saw goes, too.
#[test]
fn pruning_begins_again_for_a_snapshot_removed_meanwhile() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for directory in ["/a", "/b"] {
        client.run(&mut machine, mkdir(directory)).unwrap();
        for n in 0..500 {
            client.run(&mut machine, mkdir(&format!("{directory}/{n}"))).unwrap();
        }
        client.run(&mut machine, create(directory, "s")).unwrap();
        for n in 0..500 {
            client
                .run(&mut machine, remove(&format!("{directory}/{n}"), false))
                .unwrap();
        }
    }
    machine.settle();
    client.run(&mut machine, forget("/b", "s")).unwrap();
    assert!(machine.tick(0), "more is to be looked at");
    client.run(&mut machine, forget("/a", "s")).unwrap();
    machine.settle();
    machine.check();
    assert_eq!(rows_of(&machine, Kind::History), 0);
}

#[test]
fn a_snapshot_keeps_owners_and_copies() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/d/f", 1).ino;
    client.run(&mut machine, own("/d/f", "ann")).unwrap();
    client.run(&mut machine, create("/d", "s")).unwrap();
    client.run(&mut machine, own("/d/f", "")).unwrap();
    client.run(&mut machine, own("/d", "bob")).unwrap();
    assert_eq!(rows_of(&machine, Kind::Attributes), 1, "{:?}", AttributesKey(file));
    let owner = |at: &str| read::attributes(&machine.rows, &path(at)).unwrap().owner;
    assert_eq!(
        (owner("/d/.snapshot/s/f"), owner("/d/f")),
        ("ann".to_owned(), String::new())
    );
    assert_eq!(
        (owner("/d/.snapshot/s"), owner("/d")),
        (String::new(), "bob".to_owned())
    );

    let fewer = |replicas| {
        let what = Change::SetReplicas { replicas, from: 0 };
        ClientCommand::ChangeFile(FileChange {
            file,
            lease: None,
            what,
        })
    };
    let at = read::resolve(&machine.rows, &path("/d/f")).unwrap();
    let chunk = read::extents(&machine.rows, at.ino, at.at, 0, 1).unwrap().0[0]
        .extent
        .chunk;
    let wanted = |machine: &Machine| key::require(&machine.rows, &ChunkKey(chunk)).unwrap().wanted;
    client.run(&mut machine, fewer(2)).unwrap();
    assert_eq!(wanted(&machine), 3, "the snapshot's file has three copies");
    assert_eq!(
        read::stat(&machine.rows, &path("/d/.snapshot/s/f")).unwrap().replicas,
        3
    );
    client.run(&mut machine, forget("/d", "s")).unwrap();
    client.run(&mut machine, fewer(2)).unwrap();
    assert_eq!(wanted(&machine), 2);
    machine.check();
}
