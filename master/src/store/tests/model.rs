//! The programs that compare the state machine with a model, on RocksDB: there they must give what they give in memory.
//!
//! A program's log is applied as Raft has it applied: some commands at a time, each time one write. Between two writes the
//! database may be flushed or opened anew, lose what it remembers of its rows, or go back to an earlier moment, after which
//! the rest of the log is applied again. Whatever happens, each reply is the one in memory, and so is each row after every
//! write.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gabion_protocol::ids::MasterId;
use proptest::prelude::*;

use super::*;
use crate::state::check::check;
use crate::state::rows::{Batch, MemoryRows};
use crate::state::tests::model::Program;
use crate::state::{Command, LogAt, Reply, StateMachine};

/// What becomes of the database after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Then {
    GoOn,
    Flush,
    /// So much else is read that some or all of the rows that are remembered give way.
    Crowd {
        reads: u8,
    },
    Reopen,
    /// A copy is made, as Raft's snapshots are.
    Keep,
    /// The rows are those of the last copy, or none: a master was killed, or follows another's snapshot.
    GoBack,
}

fn any_then() -> impl Strategy<Value = Then> {
    prop_oneof![
        14 => Just(Then::GoOn),
        2 => Just(Then::Flush),
        2 => (2u8..4).prop_map(|reads| Then::Crowd { reads }),
        1 => Just(Then::Reopen),
        1 => Just(Then::Keep),
        1 => Just(Then::GoBack),
    ]
}

fn at(index: u64) -> LogAt {
    LogAt {
        index,
        term: 1,
        leader: MasterId(1),
    }
}

/// The rows in memory before the log and after each of its commands, which are applied one by one.
fn history(log: &[(Command, Reply)]) -> Vec<MemoryRows> {
    let mut rows = MemoryRows::default();
    let mut history = vec![rows.clone()];
    for (index, (command, reply)) in (1..).zip(log) {
        let mut batch = Batch::new(&rows);
        assert_eq!(crate::state::apply(&mut batch, at(index), command).unwrap(), *reply);
        let changes = batch.into_changes();
        rows.store(changes);
        history.push(rows.clone());
    }
    history
}

/// How many commands of the log are in the rows.
fn done(db: &StateDb) -> usize {
    db.applied().unwrap().last.map_or(0, |id| id.index as usize)
}

/// Applies the next commands of the log, at most so many, in one write.
fn write(db: &StateDb, log: &[(Command, Reply)], count: usize) {
    let done = done(db);
    let next = &log[done..log.len().min(done + count)];
    let mut batch = Batch::new(db);
    let mut index = done as u64;
    for (command, expected) in next {
        index += 1;
        let (reply, _) = StateMachine
            .apply_bytes(&mut batch, at(index), &command.encode())
            .unwrap();
        assert_eq!(&Reply::decode(&reply).unwrap(), expected, "{index}: {command:?}");
    }
    let mut changes = batch.into_changes();
    if !next.is_empty() {
        db.store(&mut changes, &applied(index)).unwrap();
    }
}

/// A walk over the database finds the rows that are in memory.
fn compare_walk(db: &Arc<StateDb>, history: &[MemoryRows]) {
    let (done, mut walked) = (done(db), BTreeMap::new());
    let each = |key: &[u8], value: &[u8]| {
        walked.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    db.view().for_each(each).unwrap();
    let expected = &history[done].0;
    let mut keys = walked.keys().chain(expected.keys());
    let differs = keys.find(|key| walked.get(*key) != expected.get(*key));
    assert_eq!(differs, None, "this row differs after {done} commands");
}

/// Each row that there is, was or will be reads as it is in memory; many of them are remembered.
fn compare_reads(db: &StateDb, history: &[MemoryRows]) {
    let done = done(db);
    let keys: BTreeSet<_> = history.iter().flat_map(|rows| rows.0.keys()).collect();
    for key in keys {
        let read = db.get(key).unwrap();
        assert_eq!(
            read.as_ref(),
            history[done].0.get(key),
            "{key:02x?} after {done} commands"
        );
    }
}

/// Reads rows that do not exist. That they do not is remembered, too: two of their keys fill a generation.
fn crowd(db: &StateDb, reads: u8) {
    for number in 0..reads {
        assert_eq!(db.get(&vec![u8::MAX - number; 1 << 20]).unwrap(), None);
    }
}

/// Applies a log in so many commands at a time, and the rest at once.
fn replay(log: &[(Command, Reply)], writes: &[(usize, Then)]) {
    let (root, memory) = (tempfile::tempdir().unwrap(), memory());
    let open = |path: &Path| Arc::new(StateDb::open(path, &memory).unwrap());
    let history = history(log);
    let (mut db, mut kept) = (open(&root.path().join("first")), None);
    for (number, (count, then)) in writes.iter().enumerate() {
        write(&db, log, *count);
        compare_walk(&db, &history);
        match then {
            Then::GoOn => {}
            Then::Flush => db.flush().unwrap(),
            Then::Crowd { reads } => crowd(&db, *reads),
            Then::Reopen => {
                compare_reads(&db, &history);
                let path = db.path().to_owned();
                drop(db);
                db = open(&path);
            }
            Then::Keep => {
                let copy = root.path().join(format!("copy-{number}"));
                db.checkpoint(&copy).unwrap();
                kept = Some(copy);
            }
            Then::GoBack => {
                compare_reads(&db, &history);
                let empty = || root.path().join(format!("empty-{number}"));
                db = open(&kept.take().unwrap_or_else(empty));
            }
        }
    }
    write(&db, log, log.len());
    assert_eq!(done(&db), log.len());
    compare_walk(&db, &history);
    compare_reads(&db, &history);
    assert_eq!(check(&db.view()).unwrap().findings, Vec::<String>::new());
}

/// However writes are cut, and whatever becomes of the database in between.
#[test]
fn programs_give_the_same_on_rocksdb_as_in_memory() {
    let config = ProptestConfig {
        cases: 100,
        ..ProptestConfig::default()
    };
    let writes = proptest::collection::vec((1usize..10, any_then()), 0..40);
    let (commands, happened) = (RefCell::new(0), RefCell::new(BTreeMap::<Then, u32>::new()));
    proptest!(config, |(program in Program::any(), writes in writes)| {
        let machine = program.run();
        replay(&machine.log, &writes);
        *commands.borrow_mut() += machine.log.len();
        for (_, then) in writes {
            *happened.borrow_mut().entry(then).or_default() += 1;
        }
    });
    let happened = happened.into_inner();
    println!("{} commands, then {happened:?}", commands.into_inner());
    // Both numbers of reads.
    assert_eq!(happened.len(), 7, "not everything happened: {happened:?}");
}
