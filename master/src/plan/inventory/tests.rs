use gabion_protocol::ids::{ClusterId, Generation, Ino, Timeline, VolumeId};
use proptest::prelude::*;

use super::*;
use crate::state::Settings;
use crate::state::key::Value as _;
use crate::state::key::chunk::{Chunk, ChunkKey, Phase, Replica};
use crate::state::key::damage::Damage;
use crate::state::key::meta::{Cluster, ClusterKey, Counters, CountersKey};
use crate::state::key::replica::Held;
use crate::state::key::unknown::{Unknown, UnknownKey};
use crate::state::rows::MemoryRows;

const SERVER: ServerId = ServerId(1);
/// Counters and numbers below these were given out.
const NEXT_CHUNK: u64 = 3_000_000;
const NEXT_NUMBER: u64 = 100;

/// What the rows say of a copy that a server holds or does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    None,
    Copying,
    Live,
    Damaged,
    Doubted,
    Dropping,
    SetAside,
}

fn chunk(counter: u64) -> ChunkId {
    ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    }
}

fn put<K: key::Key>(rows: &mut MemoryRows, key: &K, value: &K::Value) {
    rows.0.insert(key.encode(), value.encode());
}

fn rows(copies: &[(u64, u64, Row)]) -> MemoryRows {
    let mut rows = MemoryRows::default();
    let cluster = Cluster {
        cluster: ClusterId([1; 16]),
        timeline: Timeline(1),
        moment_base: 0,
        settings: Settings::default(),
    };
    let counters = Counters {
        ino: 9,
        chunk: NEXT_CHUNK,
        server: 9,
        replica: NEXT_NUMBER,
    };
    put(&mut rows, &ClusterKey, &cluster);
    put(&mut rows, &CountersKey, &counters);
    for (counter, number, row) in copies.iter().copied() {
        let (id, number, server) = (chunk(counter), ReplicaNumber(number), SERVER);
        let state = match row {
            Row::None => continue,
            Row::SetAside => {
                let key = UnknownKey {
                    server,
                    chunk: id,
                    number,
                };
                put(&mut rows, &key, &Unknown::Dropping);
                continue;
            }
            Row::Copying => ReplicaState::Copying,
            Row::Live | Row::Damaged | Row::Doubted => ReplicaState::Live,
            Row::Dropping => ReplicaState::Dropping,
        };
        let replicas = vec![Replica { server, number, state }];
        let row_of = Chunk {
            phase: Phase::Sealed,
            generation: Generation(1),
            length: 1,
            crc: 1,
            references: 1,
            wanted: 1,
            owner: Ino(2),
            replicas,
        };
        put(&mut rows, &ChunkKey(id), &row_of);
        if state != ReplicaState::Dropping {
            let live = state == ReplicaState::Live;
            put(&mut rows, &ReplicaKey { server, chunk: id }, &Held { number, live });
        }
        if matches!(row, Row::Damaged | Row::Doubted) {
            let damage = Damage {
                number,
                confirmed: row == Row::Damaged,
                what: String::new(),
            };
            put(&mut rows, &DamageKey { chunk: id, server }, &damage);
        }
    }
    rows
}

/// All pages of a bucket, as a server that holds these copies lists them.
fn pages(held: &BTreeSet<Copy>, bucket: Bucket, limit: usize) -> Vec<BucketPage> {
    let of_bucket: Vec<_> = held
        .iter()
        .copied()
        .filter(|copy| Bucket::of(copy.0) == bucket)
        .collect();
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let left: Vec<_> = of_bucket.iter().copied().filter(|copy| Some(copy.0) > after).collect();
        let copies: Vec<_> = left.iter().copied().take(limit).collect();
        let more = left.len() > copies.len();
        let ask = BucketAsk {
            bucket: bucket.number(),
            after,
            number: 1,
        };
        after = copies.last().map(|copy| copy.0);
        pages.push(BucketPage {
            ask,
            quiet_ms: 0,
            copies,
            more,
        });
        if !more {
            return pages;
        }
    }
}

fn compare_all(rows: &MemoryRows, held: &BTreeSet<Copy>, limit: usize) -> Differences {
    let mut all = Differences::default();
    for page in Bucket::all().flat_map(|bucket| pages(held, bucket, limit)) {
        assert!(is_sound(&page, &page.ask));
        let found = compare(rows, SERVER, &page).unwrap();
        all.missing.extend(found.missing);
        all.unknown.extend(found.unknown);
        all.forgotten.extend(found.forgotten);
        all.doubted.extend(found.doubted);
    }
    all
}

#[test]
fn what_is_done_about_each_sort_of_copy() {
    let differences = |row, number: u64, counter, is_held: bool| {
        let rows = rows(&[(counter, number, row)]);
        let copy = (chunk(counter), ReplicaNumber(number));
        let held = if is_held { [copy].into() } else { BTreeSet::new() };
        let found = compare_all(&rows, &held, 10);
        [&found.missing, &found.unknown, &found.forgotten, &found.doubted].map(|copies| copies.contains(&copy))
    };
    let [missing, unknown, forgotten, doubted] = [0, 1, 2, 3].map(|at| [0, 1, 2, 3].map(|of| of == at));
    let nothing = [false; 4];
    for (row, held, absent) in [
        (Row::Live, nothing, missing),
        (Row::Doubted, nothing, missing),
        (Row::Damaged, doubted, nothing),
        (Row::Copying, nothing, nothing),
        (Row::Dropping, nothing, nothing),
        (Row::SetAside, nothing, nothing),
        (Row::None, unknown, nothing),
    ] {
        assert_eq!(differences(row, 5, 7, true), held, "{row:?}, held");
        assert_eq!(differences(row, 5, 7, false), absent, "{row:?}, absent");
    }
    assert_eq!(differences(Row::None, NEXT_NUMBER, 7, true), forgotten);
    assert_eq!(differences(Row::None, 5, NEXT_CHUNK, true), forgotten);
    // Another copy than the one the row names.
    let rows = rows(&[(7, 5, Row::Live)]);
    let found = compare_all(&rows, &[(chunk(7), ReplicaNumber(6))].into(), 10);
    assert_eq!(found.missing, [(chunk(7), ReplicaNumber(5))].into());
    assert_eq!(found.unknown, [(chunk(7), ReplicaNumber(6))].into());
}

fn any_row() -> impl Strategy<Value = Row> {
    prop_oneof![
        1 => Just(Row::None),
        1 => Just(Row::Copying),
        4 => Just(Row::Live),
        1 => Just(Row::Damaged),
        1 => Just(Row::Doubted),
        1 => Just(Row::Dropping),
        1 => Just(Row::SetAside),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// However a server's copies are cut into pages: each difference is found once, none is made up, and a copy that any
    /// row names is never unknown.
    #[test]
    fn pages_tell_what_sets_tell(
        copies in proptest::collection::btree_map(0u64..3_100_000, (1u64..110, any_row(), any::<bool>()), 0..80),
        near in proptest::collection::btree_map(2048u64..2100, (1u64..110, any_row(), any::<bool>()), 0..40),
        limit in 1usize..8,
    ) {
        let copies: BTreeMap<_, _> = copies.into_iter().chain(near).collect();
        let told: Vec<_> = copies.iter().map(|(counter, (number, row, _))| (*counter, *number, *row)).collect();
        let held: BTreeSet<Copy> = copies.iter().filter(|(_, (.., held))| *held)
            .map(|(counter, (number, ..))| (chunk(*counter), ReplicaNumber(*number))).collect();
        let found = compare_all(&rows(&told), &held, limit);
        let mut expected = Differences::default();
        for (counter, (number, row, is_held)) in copies {
            let copy = (chunk(counter), ReplicaNumber(number));
            let given_out = counter > 0 && counter < NEXT_CHUNK && number < NEXT_NUMBER;
            let into = match (row, is_held) {
                (Row::Live | Row::Doubted, false) => &mut expected.missing,
                (Row::Damaged, true) => &mut expected.doubted,
                (Row::None, true) if given_out => &mut expected.unknown,
                (Row::None, true) => &mut expected.forgotten,
                _ => continue,
            };
            into.insert(copy);
        }
        prop_assert_eq!(found, expected);
    }
}
