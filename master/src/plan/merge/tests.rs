//! What runs are like, how merging ends, and what it costs.

#![allow(clippy::single_range_in_vec_init, reason = "a run is a range, and there may be one")]

use proptest::prelude::*;

use super::*;

const CHUNK: u64 = 1 << 20;
const TERMS: Terms = Terms {
    least: 8,
    most: 256,
    bytes_max: CHUNK,
};

/// Extents one after the other, each with whether a gap follows it.
fn parts(lengths: &[(u64, bool)]) -> Vec<Part> {
    let mut offset = 0;
    let part = |(length, gap): &(u64, bool)| {
        let part = Part {
            offset,
            length: *length,
            is_free: true,
        };
        offset += length + u64::from(*gap);
        part
    };
    lengths.iter().map(part).collect()
}

fn even(count: usize, length: u64) -> Vec<Part> {
    parts(&vec![(length, false); count])
}

/// Makes one extent of each run; the bytes that were written for it.
fn merge(parts: &mut Vec<Part>, runs: &[Range<usize>]) -> u64 {
    let mut written = 0;
    for run in runs.iter().rev() {
        let length = parts[run.clone()].iter().map(|part| part.length).sum();
        let first = parts[run.start];
        parts.splice(run.clone(), [Part { length, ..first }]);
        written += length;
    }
    written
}

/// Merges until nothing is left to be merged; the bytes written.
fn merge_all(parts: &mut Vec<Part>, terms: &Terms) -> u64 {
    let mut written = 0;
    loop {
        let runs = runs(parts, terms);
        if runs.is_empty() {
            return written;
        }
        written += merge(parts, &runs);
    }
}

#[test]
fn small_neighbours_become_one() {
    assert!(runs(&even(7, 10), &TERMS).is_empty());
    assert_eq!(runs(&even(8, 10), &TERMS), [0..8]);
    assert_eq!(runs(&even(600, 10), &TERMS), [0..256, 256..512, 512..600]);
    assert_eq!(runs(&even(40, CHUNK / 10), &TERMS), [0..10, 10..20, 20..30, 30..40]);
    assert!(runs(&even(40, CHUNK / 4), &TERMS).is_empty(), "too few fit one chunk");
}

#[test]
fn what_is_large_is_left_alone() {
    let mut extents = vec![(10, false); 8];
    extents.insert(0, (1000, false));
    assert_eq!(runs(&parts(&extents), &TERMS), [1..9]);
    extents.extend(vec![(100, false); 10]);
    assert_eq!(
        runs(&parts(&extents), &TERMS),
        [0..19],
        "as much as all others is not larger"
    );
}

#[test]
fn gaps_and_what_may_not_be_merged_end_a_run() {
    let mut extents = vec![(10, false); 20];
    extents[9].1 = true;
    let mut extents = parts(&extents);
    assert_eq!(runs(&extents, &TERMS), [0..10, 10..20]);
    extents[11].is_free = false;
    assert_eq!(runs(&extents, &TERMS), [0..10, 12..20]);
}

/// Each append of some bytes is followed by what a leader would merge, or not, as it comes.
#[test]
fn a_file_that_grows_for_long_costs_its_bytes_some_times() {
    for every in [1, 10, 100, 1000] {
        let (mut file, mut written, mut offset) = (Vec::new(), 0, 0);
        for count in 0..20_000u64 {
            file.push(Part {
                offset,
                length: 50,
                is_free: true,
            });
            offset += 50;
            if count % every == 0 {
                let found = runs(&file, &TERMS);
                written += merge(&mut file, &found);
            }
        }
        written += merge_all(&mut file, &TERMS);
        assert!(
            written <= offset * 15,
            "{offset} bytes cost {written}, looking at every {every}"
        );
        assert!(
            file.len() < 64,
            "{} extents are left, looking at every {every}",
            file.len()
        );
    }
}

mod judging {
    use gabion_protocol::ids::{Generation, Ino, Timeline, VolumeId};

    use super::*;
    use crate::state::key::chunk::{Phase, Replica, ReplicaState};
    use crate::state::key::merge::Piece;

    const ID: ChunkId = ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter: 9,
    };

    fn row(crcs: &[Option<u32>]) -> Merge {
        let piece = |crc: &Option<u32>| Piece {
            chunk: ID,
            chunk_offset: 0,
            length: 10,
            crc: *crc,
        };
        Merge {
            file: Ino(5),
            offset: 100,
            pieces: crcs.iter().map(piece).collect(),
        }
    }

    fn chunk() -> Chunk {
        let copy = |number: u32| Replica {
            server: ServerId(number),
            number: ReplicaNumber(u64::from(number)),
            state: ReplicaState::Copying,
        };
        Chunk {
            phase: Phase::Open,
            generation: Generation(1),
            length: 0,
            crc: 0,
            references: 0,
            wanted: 3,
            owner: Ino(5),
            replicas: (1..=3).map(copy).collect(),
        }
    }

    /// The verdict when each of three servers has said this, and those are lost.
    fn verdict(row: &Merge, heard: [Option<Heard>; 3], lost: &[u32]) -> Verdict {
        let heard = |number: ReplicaNumber| heard[number.0 as usize - 1];
        judge((ID, row), &chunk(), heard, |server| lost.contains(&server.0))
    }

    fn made(length: u64, crc: u32) -> Option<Heard> {
        Some(Heard::Made { length, crc })
    }

    #[test]
    fn nothing_is_exchanged_before_all_copies_are_made_and_agree() {
        let row = row(&[None, Some(7)]);
        let right = made(20, 8);
        assert_eq!(verdict(&row, [right, right, None], &[]), Verdict::Wait);
        assert_eq!(verdict(&row, [None; 3], &[]), Verdict::Wait);
        let Verdict::Exchange(seal) = verdict(&row, [right; 3], &[2]) else {
            panic!("all are there, whoever was lost since")
        };
        assert_eq!((seal.file_offset, seal.length, seal.crc), (100, 20, 8));
        assert_eq!(seal.members, [1, 2, 3].map(ServerId));
        for (heard, lost) in [
            ([right, right, made(20, 9)], &[][..]),
            ([right, made(19, 8), right], &[]),
            ([made(19, 8); 3], &[]),
            ([right, right, Some(Heard::Failed)], &[]),
            ([None, None, Some(Heard::Failed)], &[]),
            ([right, right, None], &[3]),
            ([None, right, right], &[1]),
        ] {
            let verdict = verdict(&row, heard, lost);
            assert!(
                matches!(verdict, Verdict::GiveUp(_)),
                "{heard:?}, {lost:?} lost: {verdict:?}"
            );
        }
    }

    #[test]
    fn what_follows_from_the_pieces_must_be_what_was_made() {
        let row = row(&[Some(3), Some(7)]);
        let crc = row.crc().unwrap();
        assert!(matches!(verdict(&row, [made(20, crc); 3], &[]), Verdict::Exchange(_)));
        assert!(matches!(verdict(&row, [made(20, crc ^ 1); 3], &[]), Verdict::GiveUp(_)));
    }
}

proptest! {
    /// A run is what the rules say, and runs do not overlap.
    #[test]
    fn runs_keep_the_rules(
        lengths in proptest::collection::vec((1u64..CHUNK, prop::bool::weighted(0.05)), 0..400),
        small in 1u64..1000, least in 2usize..20, most in 20usize..100,
    ) {
        let lengths: Vec<_> = lengths.into_iter().map(|(length, gap)| (1 + length / small, gap)).collect();
        let parts = parts(&lengths);
        let terms = Terms { least, most, bytes_max: CHUNK };
        let mut last = 0;
        for run in runs(&parts, &terms) {
            let of = &parts[run.clone()];
            let sum: u64 = of.iter().map(|part| part.length).sum();
            prop_assert!(run.start >= last && (least..=most).contains(&of.len()));
            prop_assert!(sum <= CHUNK && of.iter().all(|part| part.length * 2 <= sum));
            prop_assert!(of.windows(2).all(|two| two[0].offset + two[0].length == two[1].offset));
            last = run.end;
        }
    }

    /// Merging ends, keeps each byte at its place, and writes none more often than its extent can double.
    #[test]
    fn merging_ends_and_its_cost_is_bounded(
        lengths in proptest::collection::vec((1u64..5000, prop::bool::weighted(0.02)), 0..600),
    ) {
        let before = parts(&lengths);
        let mut after = before.clone();
        let written = merge_all(&mut after, &TERMS);
        let bytes = |parts: &[Part]| parts.iter().map(|part| part.length).sum::<u64>();
        prop_assert_eq!(bytes(&before), bytes(&after));
        prop_assert!(written <= bytes(&before) * u64::from(CHUNK.ilog2()));
        for part in &before {
            let holds = |one: &Part| one.offset <= part.offset && part.offset + part.length <= one.offset + one.length;
            prop_assert_eq!(after.iter().filter(|one| holds(one)).count(), 1);
        }
    }
}
