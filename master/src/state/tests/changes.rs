//! Files that change, rule by rule: what the random programs do not reach.

use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{Change, FileChange, SpliceAt};

use super::*;

fn change(file: Ino, lease: Option<u64>, what: Change) -> ClientCommand {
    ClientCommand::ChangeFile(FileChange { file, lease, what })
}

fn truncate(file: Ino, length: u64) -> ClientCommand {
    change(file, None, Change::Truncate { length })
}

fn copies(file: Ino, replicas: u8) -> ClientCommand {
    change(file, None, Change::SetReplicas { replicas, from: 0 })
}

fn lease(file: Ino, mine: Option<u64>, ms: u64) -> ClientCommand {
    let holder = "ann".to_owned();
    change(file, mine, Change::TakeLease { ms, holder })
}

/// Puts a chunk of 10 bytes of a new upload into a file.
fn splice(
    client: &mut Client,
    machine: &mut Machine,
    file: Ino,
    lease: Option<u64>,
    at: SpliceAt,
) -> Result<Outcome, Refusal> {
    splice_all(client, machine, (file, lease), at, 1, 10)
}

fn splice_all(
    client: &mut Client,
    machine: &mut Machine,
    (file, lease): (Ino, Option<u64>),
    at: SpliceAt,
    chunks: usize,
    length: u64,
) -> Result<Outcome, Refusal> {
    let mut upload = client.open(machine, "/upload", chunks);
    let seals = (0..chunks).map(|crc| upload.seal(length, crc as u32)).collect();
    let what = Change::Splice {
        upload: upload.ino,
        generation: upload.generation,
        seals,
        at,
    };
    let spliced = client.run(machine, change(file, lease, what));
    client.run(machine, upload.abort()).unwrap();
    spliced
}

fn length(machine: &Machine, at: &str) -> u64 {
    read::stat(&machine.rows, &path(at)).unwrap().length
}

/// A file of many pieces, each of one byte.
fn fragmented(client: &mut Client, machine: &mut Machine, pieces: u64) -> Ino {
    let file = client.put(machine, "/pieces", 0).ino;
    while length(machine, "/pieces") < pieces {
        splice_all(client, machine, (file, None), SpliceAt::End, 16, 1).unwrap();
    }
    file
}

#[test]
fn a_file_of_many_pieces_is_cut_from_its_end_step_by_step() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let pieces = 2 * BATCH_ROWS_MAX as u64 + 500;
    let file = fragmented(&mut client, &mut machine, pieces);
    let mut before = length(&machine, "/pieces");
    for step in 0.. {
        assert!(step < 4, "steps are as long as they may be");
        let Ok(Outcome::Truncated { length }) = client.run(&mut machine, truncate(file, 7)) else {
            panic!("it can be truncated");
        };
        assert!(
            length < before && before - length <= BATCH_ROWS_MAX as u64,
            "{before} to {length}"
        );
        machine.check();
        before = length;
        if length == 7 {
            break;
        }
    }
    assert_eq!(read::totals(&machine.rows).unwrap().bytes, 7);
}

#[test]
fn an_overwrite_of_too_many_pieces_is_refused_and_changes_nothing() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let pieces = BATCH_ROWS_MAX as u64 + 16;
    let file = fragmented(&mut client, &mut machine, pieces);
    let over = |client: &mut Client, machine: &mut Machine, length| {
        splice_all(client, machine, (file, None), SpliceAt::Offset(0), 1, length)
    };
    let limit = BATCH_ROWS_MAX as u64;
    let refused = over(&mut client, &mut machine, limit + 1);
    assert_eq!(refused, Err(Refusal::TooManyPieces { limit }));
    machine.check();
    let length = length(&machine, "/pieces");
    let done = over(&mut client, &mut machine, limit);
    assert_eq!(done, Ok(Outcome::Spliced { offset: 0, length }));
    machine.check();
    assert_eq!(
        read::stat(&machine.rows, &path("/pieces")).unwrap().children,
        length - limit + 1
    );
}

#[test]
fn what_is_in_the_trash_stays_as_it_was_removed() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.run(&mut machine, mkdir("/d")).unwrap();
    let file = client.put(&mut machine, "/d/f", 2).ino;
    client.run(&mut machine, discard("/d")).unwrap();
    let gone = Err(Refusal::FileGone { file });
    assert_eq!(splice(&mut client, &mut machine, file, None, SpliceAt::End), gone);
    for op in [truncate(file, 0), copies(file, 2), lease(file, None, 100)] {
        assert_eq!(client.run(&mut machine, op), gone);
    }
    machine.check();
    client.run(&mut machine, restore("/d", None)).unwrap();
    let restored = splice(&mut client, &mut machine, file, None, SpliceAt::End);
    assert_eq!(restored, Ok(Outcome::Spliced { offset: 20, length: 30 }));
    machine.check();
    // A half removed tree: the file is not taken apart yet, the directory above is.
    client.run(&mut machine, remove("/d", true)).unwrap();
    assert_eq!(splice(&mut client, &mut machine, file, None, SpliceAt::End), gone);
    machine.settle();
    assert_eq!(splice(&mut client, &mut machine, file, None, SpliceAt::End), gone);
    machine.check();
}

#[test]
fn a_handle_follows_its_file_to_a_new_name_and_not_to_a_new_file() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/old", 1).ino;
    client.run(&mut machine, rename("/old", "/new", false)).unwrap();
    splice(&mut client, &mut machine, file, None, SpliceAt::End).unwrap();
    assert_eq!(length(&machine, "/new"), 20);
    client.put(&mut machine, "/new", 1);
    let gone = Err(Refusal::FileGone { file });
    assert_eq!(splice(&mut client, &mut machine, file, None, SpliceAt::End), gone);
    assert_eq!(length(&machine, "/new"), 10);
}

#[test]
fn nobody_else_writes_while_someone_holds_the_lease() {
    let mut machine = Machine::new();
    let (mut ann, mut bob) = (Client::new(&machine, 1), Client::new(&machine, 2));
    let file = ann.put(&mut machine, "/f", 1).ino;
    let Ok(Outcome::WriteLease { lease: mine, until }) = ann.run(&mut machine, lease(file, None, 100)) else {
        panic!("nobody holds it");
    };
    let holder = "ann".to_owned();
    let leased = Err(Refusal::Leased { holder, until });
    assert_eq!(splice(&mut bob, &mut machine, file, None, SpliceAt::End), leased);
    assert_eq!(bob.run(&mut machine, truncate(file, 0)), leased);
    assert_eq!(bob.run(&mut machine, lease(file, None, 100)), leased);
    splice(&mut ann, &mut machine, file, Some(mine), SpliceAt::End).unwrap();
    machine.tick(99);
    ann.run(&mut machine, lease(file, Some(mine), 100)).unwrap();
    machine.tick(99);
    splice(&mut ann, &mut machine, file, Some(mine), SpliceAt::End).unwrap();
    machine.tick(1);
    // It has ended, though nobody else came.
    let lost = |holder: Option<&str>| {
        Err(Refusal::LeaseLost {
            holder: holder.map(str::to_owned),
        })
    };
    assert_eq!(
        splice(&mut ann, &mut machine, file, Some(mine), SpliceAt::End),
        lost(None)
    );
    assert_eq!(ann.run(&mut machine, lease(file, Some(mine), 100)), lost(None));
    splice(&mut bob, &mut machine, file, None, SpliceAt::End).unwrap();
    bob.run(&mut machine, lease(file, None, 100)).unwrap();
    let mine_still = change(file, Some(mine), Change::Truncate { length: 0 });
    assert_eq!(ann.run(&mut machine, mine_still), lost(Some("ann")));
    ann.run(&mut machine, change(file, Some(mine), Change::EndLease))
        .unwrap();
    assert_eq!(
        ann.refused(&mut machine, truncate(file, 0)),
        ErrorCode::Conflict,
        "the other's lease stays"
    );
    machine.check();
    for ms in [0, gabion_protocol::limits::WRITE_LEASE_MS_MAX + 1] {
        assert_eq!(
            ann.refused(&mut machine, lease(file, None, ms)),
            ErrorCode::InvalidArgument
        );
    }
    // The row goes with the file.
    ann.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    machine.check();
}

#[test]
fn chunks_want_what_their_file_is_told_to_have() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let entry = client.put(&mut machine, "/f", 3);
    let wanted = |machine: &Machine| {
        let (extents, _) = read::extents(&machine.rows, entry.ino, None, 0, 64).unwrap();
        extents.iter().map(|extent| extent.chunk.wanted).collect::<Vec<_>>()
    };
    let stat = |machine: &Machine| read::stat(&machine.rows, &path("/f")).unwrap();
    client.run(&mut machine, copies(entry.ino, 4)).unwrap();
    machine.check();
    assert_eq!(wanted(&machine), [4, 4, 4]);
    assert!(stat(&machine).degraded && stat(&machine).replicas == 4);
    client.run(&mut machine, copies(entry.ino, 2)).unwrap();
    machine.check();
    assert_eq!(wanted(&machine), [2, 2, 2]);
    assert!(!stat(&machine).degraded);
    assert_eq!(super::super::repair::surplus(&machine.rows, None, 10).unwrap().len(), 3);
    // A chunk in two pieces keeps what it has: it might as well be shared with another file.
    client.run(&mut machine, copies(entry.ino, 3)).unwrap();
    splice_all(&mut client, &mut machine, (entry.ino, None), SpliceAt::Offset(12), 1, 3).unwrap();
    client.run(&mut machine, copies(entry.ino, 1)).unwrap();
    machine.check();
    assert_eq!(wanted(&machine), [1, 3, 1, 3, 1]);
    let refused = splice(&mut client, &mut machine, entry.ino, None, SpliceAt::End);
    assert_eq!(refused, Err(Refusal::StockCopies { granted: 3, asked: 1 }));
}
