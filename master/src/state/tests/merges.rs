//! Large chunks in the place of small ones, rule by rule: what the random programs do not reach.

use gabion_protocol::limits::{BATCH_ROWS_MAX, MERGE_PIECES_MAX, MERGES_MAX};
use gabion_protocol::messages::master::{Change, CopyFiles, FileChange, SpliceAt};

use super::*;
use crate::state::key::Kind;
use crate::state::key::chunk::Phase;
use crate::state::key::extent::Extent;
use crate::state::merges::{self, MergePlan, MergeStep, RUN_MIN};

fn change(file: Ino, what: Change) -> ClientCommand {
    let lease = None;
    ClientCommand::ChangeFile(FileChange { file, lease, what })
}

/// Puts chunks of some bytes into a file.
fn splice(client: &mut Client, machine: &mut Machine, file: Ino, at: SpliceAt, chunks: usize, length: u64) {
    let mut upload = client.open(machine, "/upload", chunks);
    let seals = (0..chunks).map(|i| upload.seal(length, 7 + i as u32)).collect();
    let what = Change::Splice {
        upload: upload.ino,
        generation: upload.generation,
        seals,
        at,
    };
    client.run(machine, change(file, what)).unwrap();
    client.run(machine, upload.abort()).unwrap();
}

/// A file of so many pieces of 10 bytes.
fn file_of(client: &mut Client, machine: &mut Machine, at: &str, pieces: usize) -> Ino {
    let file = client.put(machine, at, 0).ino;
    let mut left = pieces;
    while left > 0 {
        let now = left.min(16);
        splice(client, machine, file, SpliceAt::End, now, 10);
        left -= now;
    }
    file
}

fn extents(machine: &Machine, file: Ino) -> Vec<(u64, Extent)> {
    merges::extents(&machine.rows, file, 0, 5000).unwrap()
}

fn plan(file: Ino, from: u64, to: u64) -> MergePlan {
    let targets = chain(&[1, 2, 3]);
    MergePlan {
        file,
        from,
        to,
        targets,
    }
}

fn step(machine: &mut Machine, step: MergeStep) -> Result<Outcome, Refusal> {
    machine.apply(&Command::Merge(step)).0
}

/// Begins to merge a range; the seal of the chunk when all copies of it are made.
fn begin(machine: &mut Machine, file: Ino, from: u64, to: u64) -> Seal {
    let before: Vec<_> = merges::under_way(&machine.rows).unwrap();
    assert_eq!(step(machine, MergeStep::Begin(plan(file, from, to))), Ok(Outcome::Done));
    let now = merges::under_way(&machine.rows).unwrap();
    let (chunk, row) = now.into_iter().find(|one| !before.contains(one)).unwrap();
    let made = read::chunk(&machine.rows, chunk).unwrap().unwrap();
    Seal {
        chunk,
        generation: made.generation,
        file_offset: row.offset,
        length: row.length(),
        crc: row.crc().unwrap_or(99),
        members: made.replicas.iter().map(|copy| copy.server).collect(),
    }
}

fn exchange(machine: &mut Machine, seal: &Seal) -> Result<Outcome, Refusal> {
    step(machine, MergeStep::Exchange { seal: seal.clone() })
}

fn give_up(machine: &mut Machine, seal: &Seal) {
    assert_eq!(
        step(machine, MergeStep::GiveUp { chunk: seal.chunk }),
        Ok(Outcome::Done)
    );
}

/// Chunks that are not garbage.
fn chunks(machine: &Machine) -> usize {
    let all = read::chunks(&machine.rows, None, 5000).unwrap();
    all.iter()
        .filter(|(_, chunk)| !matches!(chunk.phase, Phase::Garbage { .. }))
        .count()
}

fn reclaim(machine: &mut Machine) {
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    machine.obey();
    machine.check();
}

#[test]
fn where_bytes_are_changes_and_nothing_else() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = file_of(&mut client, &mut machine, "/f", 12);
    let before = read::stat(&machine.rows, &path("/f")).unwrap();
    let totals = read::totals(&machine.rows).unwrap();
    let version = key::get(&machine.rows, &InodeKey(file)).unwrap().unwrap().generation;
    let seal = begin(&mut machine, file, 10, 110);
    machine.check();
    assert_eq!(extents(&machine, file).len(), 12, "nothing has changed yet");
    assert_eq!(exchange(&mut machine, &seal), Ok(Outcome::Done));
    machine.check();
    let found: Vec<_> = extents(&machine, file)
        .iter()
        .map(|(at, of)| (*at, of.length))
        .collect();
    assert_eq!(found, [(0, 10), (10, 100), (110, 10)]);
    let after = read::stat(&machine.rows, &path("/f")).unwrap();
    assert_eq!(after, Entry { children: 3, ..before });
    assert_eq!(read::totals(&machine.rows).unwrap(), totals);
    let inode = key::get(&machine.rows, &InodeKey(file)).unwrap().unwrap();
    assert_eq!(inode.generation, version, "readers need not begin anew");
    assert_eq!(chunks(&machine), 3, "ten became one");
    let all = read::chunks(&machine.rows, None, 100).unwrap();
    assert_eq!(all.len(), 13, "old ones wait for their readers");
    reclaim(&mut machine);
    assert_eq!(read::chunks(&machine.rows, None, 100).unwrap().len(), 3);
    assert_eq!(
        exchange(&mut machine, &seal),
        Err(Refusal::ChunkNotOpen { chunk: seal.chunk })
    );
}

#[test]
fn a_file_that_changed_meanwhile_keeps_what_it_has() {
    /// Changes a file.
    type Meddling = fn(&mut Client, &mut Machine, Ino);
    let changes: [(&str, Meddling, bool); 8] = [
        (
            "overwritten",
            |c, m, file| splice(c, m, file, SpliceAt::Offset(55), 1, 3),
            false,
        ),
        (
            "overwritten whole",
            |c, m, file| splice(c, m, file, SpliceAt::Offset(50), 1, 10),
            false,
        ),
        (
            "cut",
            |c, m, file| drop(c.run(m, change(file, Change::Truncate { length: 95 })).unwrap()),
            false,
        ),
        ("removed", |c, m, _| drop(c.run(m, discard("/f")).unwrap()), false),
        (
            "wanted with other copies",
            |c, m, file| {
                let (replicas, from) = (2, 0);
                drop(c.run(m, change(file, Change::SetReplicas { replicas, from })).unwrap());
            },
            false,
        ),
        (
            "appended to",
            |c, m, file| splice(c, m, file, SpliceAt::End, 1, 10),
            true,
        ),
        (
            "overwritten before",
            |c, m, file| splice(c, m, file, SpliceAt::Offset(0), 1, 10),
            true,
        ),
        (
            "renamed",
            |c, m, _| drop(c.run(m, rename("/f", "/g", false)).unwrap()),
            true,
        ),
    ];
    for (what, change, fits) in changes {
        let mut machine = Machine::new();
        let mut client = Client::new(&machine, 1);
        let file = file_of(&mut client, &mut machine, "/f", 12);
        let seal = begin(&mut machine, file, 10, 110);
        change(&mut client, &mut machine, file);
        let before = extents(&machine, file);
        let done = exchange(&mut machine, &seal);
        assert_eq!(done.is_ok(), fits, "{what}: {done:?}");
        machine.check();
        if !fits {
            assert_eq!(extents(&machine, file), before, "{what}");
            give_up(&mut machine, &seal);
            give_up(&mut machine, &seal);
            machine.check();
            reclaim(&mut machine);
            assert_eq!(
                read::chunk(&machine.rows, seal.chunk).unwrap(),
                None,
                "{what}: it is left over"
            );
        }
    }
}

#[test]
fn a_chunk_counts_only_with_all_its_copies_and_the_right_bytes() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = file_of(&mut client, &mut machine, "/f", 12);
    let seal = begin(&mut machine, file, 0, 120);
    let chunk = seal.chunk;
    let two = seal.members[..2].to_vec();
    let twice = vec![seal.members[0], seal.members[0], seal.members[1]];
    let wrong = [
        (
            Seal {
                members: two,
                ..seal.clone()
            },
            Refusal::CopiesChanged { chunk },
        ),
        (
            Seal {
                members: twice,
                ..seal.clone()
            },
            Refusal::SealMember {
                chunk,
                server: seal.members[0],
            },
        ),
        (
            Seal {
                length: 119,
                ..seal.clone()
            },
            Refusal::CopyDiffers { chunk },
        ),
        (
            Seal {
                crc: seal.crc ^ 1,
                ..seal.clone()
            },
            Refusal::CopyDiffers { chunk },
        ),
    ];
    for (wrong, refusal) in wrong {
        let before = machine.rows.clone();
        assert_eq!(exchange(&mut machine, &wrong), Err(refusal));
        assert_eq!(machine.rows, before);
    }
    assert_eq!(exchange(&mut machine, &seal), Ok(Outcome::Done));
    machine.check();
}

#[test]
fn a_snapshot_keeps_its_own_extents_for_as_long_as_it_is_there() {
    for before_begin in [true, false] {
        let mut machine = Machine::new();
        let mut client = Client::new(&machine, 1);
        let file = file_of(&mut client, &mut machine, "/d/f", 12);
        let create = ClientCommand::CreateSnapshot {
            path: path("/d"),
            name: "s".to_owned(),
        };
        let mut seal = None;
        if !before_begin {
            seal = Some(begin(&mut machine, file, 0, 120));
        }
        client.run(&mut machine, create).unwrap();
        let shown = |machine: &Machine| {
            let place = read::resolve(&machine.rows, &path("/d/.snapshot/s/f")).unwrap();
            let (extents, _) = read::extents(&machine.rows, place.ino, place.at, 0, 100).unwrap();
            let extents: Vec<_> = extents.iter().map(|of| (of.offset, of.extent)).collect();
            (extents, read::stat(&machine.rows, &path("/d/.snapshot/s/f")).unwrap())
        };
        let then = shown(&machine);
        let seal = seal.unwrap_or_else(|| begin(&mut machine, file, 0, 120));
        assert_eq!(exchange(&mut machine, &seal), Ok(Outcome::Done));
        reclaim(&mut machine);
        assert_eq!(shown(&machine), then);
        assert_eq!(extents(&machine, file).len(), 1);
        assert_eq!(chunks(&machine), 13, "the snapshot has its own");
        let forget = ClientCommand::RemoveSnapshot {
            path: path("/d"),
            name: "s".to_owned(),
        };
        client.run(&mut machine, forget).unwrap();
        machine.settle();
        reclaim(&mut machine);
        assert_eq!(
            read::chunks(&machine.rows, None, 100).unwrap().len(),
            1,
            "space comes back"
        );
    }
}

#[test]
fn what_shares_chunks_keeps_them() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = file_of(&mut client, &mut machine, "/f", 12);
    let copy = ClientCommand::Copy(CopyFiles {
        sources: vec![path("/f")],
        to: path("/g"),
        replace: false,
        parents: false,
        keep_time: false,
    });
    let other = entry(client.run(&mut machine, copy)).ino;
    let before = extents(&machine, other);
    let seal = begin(&mut machine, file, 0, 120);
    assert_eq!(exchange(&mut machine, &seal), Ok(Outcome::Done));
    reclaim(&mut machine);
    assert_eq!(extents(&machine, other), before);
}

#[test]
fn ranges_that_are_no_runs_are_not_begun() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = file_of(&mut client, &mut machine, "/f", 12);
    client
        .run(&mut machine, change(file, Change::Truncate { length: 200 }))
        .unwrap();
    splice(&mut client, &mut machine, file, SpliceAt::Offset(150), 3, 10);
    let changed = Err(Refusal::ExtentsChanged { file });
    for (from, to) in [
        (0, 10),
        (5, 50),
        (0, 55),
        (0, 0),
        (50, 20),
        (100, 180),
        (150, 190),
        (500, 600),
    ] {
        let before = machine.rows.clone();
        assert_eq!(
            step(&mut machine, MergeStep::Begin(plan(file, from, to))),
            changed,
            "{from} to {to}"
        );
        assert_eq!(machine.rows, before);
    }
    let mut few = plan(file, 0, 50);
    few.targets.truncate(2);
    let refused = step(&mut machine, MergeStep::Begin(few));
    assert_eq!(refused, Err(Refusal::TooFewServers { usable: 2, needed: 3 }));
    let gone = Ino(999);
    let refused = step(&mut machine, MergeStep::Begin(plan(gone, 0, 50)));
    assert_eq!(refused, Err(Refusal::FileGone { file: gone }));
    let many = file_of(&mut client, &mut machine, "/many", MERGE_PIECES_MAX + 1);
    let refused = step(
        &mut machine,
        MergeStep::Begin(plan(many, 0, 10 * (MERGE_PIECES_MAX as u64 + 1))),
    );
    assert_eq!(refused, Err(Refusal::ExtentsChanged { file: many }));
    for _ in 0..MERGES_MAX {
        begin(&mut machine, many, 0, 10 * MERGE_PIECES_MAX as u64);
    }
    machine.check();
    let refused = step(&mut machine, MergeStep::Begin(plan(many, 0, 100)));
    assert!(matches!(refused, Err(Refusal::TooMany { .. })), "{refused:?}");
}

#[test]
fn files_in_small_chunks_are_noted_until_they_are_looked_at_or_gone() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let noted = |machine: &Machine| merges::fragmented(&machine.rows, None, 10).unwrap();
    let few = file_of(&mut client, &mut machine, "/few", RUN_MIN - 1);
    assert_eq!(noted(&machine), []);
    splice(&mut client, &mut machine, few, SpliceAt::End, 1, SETTINGS.chunk_bytes);
    assert_eq!(noted(&machine), [], "large chunks are no reason");
    machine.tick(100);
    splice(&mut client, &mut machine, few, SpliceAt::Offset(0), 1, 5);
    let [(file, row)] = noted(&machine)[..] else { panic!() };
    assert_eq!((file, row.changed), (few, machine.now()));
    machine.tick(100);
    splice(&mut client, &mut machine, few, SpliceAt::End, 1, 5);
    let settle = |changed| MergeStep::Settle { file: few, changed };
    step(&mut machine, settle(row.changed)).unwrap();
    let [(_, later)] = noted(&machine)[..] else {
        panic!("it has changed since")
    };
    step(&mut machine, settle(later.changed)).unwrap();
    assert_eq!(noted(&machine), []);
    splice(&mut client, &mut machine, few, SpliceAt::End, 1, 5);
    client.run(&mut machine, remove("/few", false)).unwrap();
    machine.settle();
    assert_eq!(noted(&machine), []);
    client.run(&mut machine, mkdir("/d")).unwrap();
    file_of(&mut client, &mut machine, "/d/f", 20);
    assert_eq!(noted(&machine).len(), 1);
    client.run(&mut machine, remove("/d", true)).unwrap();
    machine.settle();
    assert_eq!(noted(&machine), []);
    machine.check();
    let left = |kind: Kind| machine.rows.0.keys().filter(|key| Kind::of(key) == Some(kind)).count();
    assert_eq!(left(Kind::Inode), 1);
}

/// A long copy goes on in the middle of what has become one extent meanwhile, and leaves nothing out.
#[test]
fn a_copy_in_steps_goes_on_where_it_was_across_a_merge() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let pieces = BATCH_ROWS_MAX + 20;
    let file = file_of(&mut client, &mut machine, "/f", pieces);
    let copy = client.open(&mut machine, "/copy", 0);
    let mut part = |machine: &mut Machine, offset, version| {
        let what = ClientCommand::CopyExtents {
            upload: copy.ino,
            generation: copy.generation,
            source: path("/f"),
            offset,
            version,
        };
        match client.run(machine, what).unwrap() {
            Outcome::Copied {
                version,
                next,
                more,
                length,
                ..
            } => (version, next, more, length),
            other => panic!("{other:?}"),
        }
    };
    let (version, next, more, _) = part(&mut machine, 0, None);
    let middle = 10 * BATCH_ROWS_MAX as u64;
    assert_eq!((next, more), (middle, true));
    let seal = begin(&mut machine, file, middle - 50, middle + 50);
    assert_eq!(exchange(&mut machine, &seal), Ok(Outcome::Done));
    let (_, next, more, length) = part(&mut machine, next, Some(version));
    assert_eq!((next, more, length), (10 * pieces as u64, false, 10 * pieces as u64));
    machine.check();
    let copied = extents(&machine, copy.ino);
    let (at, rest) = copied.iter().find(|(_, of)| of.chunk == seal.chunk).unwrap();
    assert_eq!((*at, rest.chunk_offset, rest.length), (middle, 50, 50));
    let ends = copied.iter().map(|(at, of)| at + of.length);
    let begins = copied.iter().skip(1).map(|(at, _)| *at);
    assert!(ends.zip(begins).all(|(end, begin)| end == begin), "a part is missing");
}
