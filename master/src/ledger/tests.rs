use std::sync::Arc;

use gabion_protocol::ids::{MasterId, Timeline, VolumeId};
use proptest::prelude::*;

use super::*;
use crate::raft::codec::AppliedState;
use crate::raft::types::log_id;
use crate::state::rows::Batch;
use crate::state::tests::{Client, Machine, inventory as unknown, remove, repair};
use crate::state::{LogAt, apply, key};
use crate::store::memory::{Memory, MemoryLimits};
use crate::store::state_db::StateDb;

const SERVERS: [ServerId; 4] = [ServerId(1), ServerId(2), ServerId(3), ServerId(4)];

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Remove(u8),
    Tick(u64),
    Obey,
    Repair(repair::Step),
    Unknown(unknown::Step),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4).prop_map(Step::Put),
        2 => (0u8..4).prop_map(Step::Remove),
        2 => (0u64..2_000).prop_map(Step::Tick),
        1 => Just(Step::Obey),
        4 => repair::any_step().prop_map(Step::Repair),
        2 => unknown::any_step().prop_map(Step::Unknown),
    ]
}

/// The commands of a program.
fn log(steps: &[Step]) -> Vec<crate::state::Command> {
    let mut machine = Machine::new();
    for (number, step) in steps.iter().enumerate() {
        let mut client = Client::new(&machine, number as u64 + 1);
        match step {
            Step::Put(name) => drop(client.put(&mut machine, &format!("/{name}"), 2)),
            Step::Remove(name) => drop(client.run(&mut machine, remove(&format!("/{name}"), false))),
            Step::Tick(ms) => drop(machine.tick(*ms)),
            Step::Obey => machine.obey(),
            Step::Repair(step) => repair::run(&mut machine, step),
            Step::Unknown(step) => unknown::run(&mut machine, step),
        }
    }
    machine.log.into_iter().map(|(command, _)| command).collect()
}

/// Digests made from the rows in the plainest way.
fn naive(rows: &dyn Rows, server: ServerId) -> Digests {
    let mut digests = Digests::default();
    for counter in 1..200 {
        let chunk = ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter,
        };
        if let Some(number) = expected(rows, server, chunk).unwrap() {
            digests.add(chunk, number);
        }
    }
    for (row, _) in key::scan_prefix::<UnknownKey>(rows, &UnknownKey::prefix(server), 1000).unwrap() {
        digests.add(row.chunk, row.number);
    }
    digests
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Whenever the walk begins, whenever its view is taken, and however applies are batched: the digests are those of the
    /// rows.
    #[test]
    fn digests_follow_the_rows(
        steps in proptest::collection::vec(any_step(), 5..40),
        begins in 0usize..60, takes in 0usize..20, ends in 0usize..20, cut in 1usize..5,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(StateDb::open(dir.path(), &Memory::new(MemoryLimits::default())).unwrap());
        let ledger = Ledger::default();
        let (mut walks, mut views) = (Vec::new(), None);
        let (takes, ends) = (begins + takes, begins + takes + ends);
        let mut index = 0;
        let log = log(&steps);
        for (number, commands) in log.chunks(cut).enumerate() {
            if number == begins {
                walks = SERVERS.iter().filter_map(|server| ledger.begin(*server)).collect();
            }
            if number == takes {
                views = Some(db.view());
            }
            if let Some(view) = views.as_ref().filter(|_| number == ends) {
                walks.drain(..).for_each(|walk| ledger.walk(&walk, view).unwrap());
            }
            let mut batch = Batch::new(&*db);
            for command in commands {
                index += 1;
                apply(&mut batch, LogAt { index, term: 1, leader: MasterId(1) }, command).unwrap();
            }
            let mut changes = batch.into_changes();
            ledger.watch(&*db, &changes, index).unwrap();
            let applied = AppliedState { last: Some(log_id(1, 1, index)), ..AppliedState::default() };
            db.store(&mut changes, &applied).unwrap();
        }
        let view = views.unwrap_or_else(|| db.view());
        walks.drain(..).for_each(|walk| ledger.walk(&walk, &view).unwrap());
        for server in SERVERS {
            let expected = naive(&*db, server);
            for bucket in [0, 1].map(|number| Bucket::new(number).unwrap()) {
                if let Some(known) = ledger.known(server, bucket) {
                    prop_assert_eq!(known.digest, expected.of(bucket), "c{}", server);
                }
            }
        }
        let begun = begins * cut < log.len();
        let kept = ledger.known(SERVERS[0], Bucket::new(0).unwrap()).is_some();
        prop_assert!(kept || !begun, "a walk ends in digests");
        ledger.forget();
        prop_assert_eq!(ledger.known(SERVERS[0], Bucket::new(0).unwrap()), None);
    }
}

/// A write that was looked at before the walk was known of, and is stored after its view was taken, is not lost.
#[test]
fn a_view_that_misses_a_write_under_way_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(StateDb::open(dir.path(), &Memory::new(MemoryLimits::default())).unwrap());
    let ledger = Ledger::default();
    let store = |index| {
        let applied = AppliedState {
            last: Some(log_id(1, 1, index)),
            ..AppliedState::default()
        };
        db.store(&mut Changes::new(), &applied).unwrap();
    };
    store(1);
    ledger.watch(&*db, &Changes::new(), 2).unwrap();
    let walk = ledger.begin(SERVERS[0]).unwrap();
    let early = db.view();
    store(2);
    ledger.walk(&walk, &early).unwrap();
    let bucket = Bucket::new(0).unwrap();
    assert_eq!(ledger.known(SERVERS[0], bucket), None);
    let again = ledger.begin(SERVERS[0]).unwrap();
    ledger.walk(&again, &db.view()).unwrap();
    assert!(ledger.known(SERVERS[0], bucket).is_some());
}

/// What a million copies cost a new leader, and a comparison of one bucket: for BENCHMARKS.md.
#[test]
#[ignore = "a measurement, in ops/BENCHMARKS.md; run it by name with --ignored"]
fn a_million_copies() {
    use crate::state::key::Value as _;
    use gabion_protocol::messages::master::{BucketAsk, BucketPage};
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(StateDb::open(dir.path(), &Memory::new(MemoryLimits::default())).unwrap());
    let machine = Machine::new();
    let applied = |index| AppliedState {
        last: Some(log_id(1, 1, index)),
        ..AppliedState::default()
    };
    let chunk = |counter| ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    };
    let rows = machine.rows.0.into_iter().map(|(key, value)| (key, Some(value)));
    db.store(&mut rows.collect(), &applied(1)).unwrap();
    for part in 0..1000u64 {
        let held = (0..1000).map(|at| {
            let counter = part * 1000 + at;
            let (server, number) = (SERVERS[0], ReplicaNumber(counter));
            let chunk = chunk(counter);
            let held = Held { number, live: true };
            (ReplicaKey { server, chunk }.encode(), Some(held.encode()))
        });
        db.store(&mut held.collect(), &applied(part + 2)).unwrap();
    }
    db.flush().unwrap();
    let ledger = Ledger::default();
    let walk = ledger.begin(SERVERS[0]).unwrap();
    let began = monotonic();
    ledger.walk(&walk, &db.view()).unwrap();
    println!("walk over 1,000,000 rows: {:?}", monotonic().saturating_sub(began));
    let ask = BucketAsk {
        bucket: 7,
        after: None,
        number: 1,
    };
    let mut copies: Vec<_> = (7 * 1024..8 * 1024).map(|n| (chunk(n), ReplicaNumber(n))).collect();
    copies.retain(|(chunk, _)| chunk.counter % 100 != 0);
    let page = BucketPage {
        ask,
        quiet_ms: 0,
        copies,
        more: false,
    };
    let began = monotonic();
    let found = crate::plan::inventory::compare(&db.view(), SERVERS[0], &page).unwrap();
    println!(
        "a bucket of 1,024 copies compared: {:?}",
        monotonic().saturating_sub(began)
    );
    assert_eq!(found.missing.len(), 10);
}
