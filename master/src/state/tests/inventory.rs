//! Copies no row names: set aside, kept, removed; and all that must never be removed.

use proptest::prelude::*;

use super::*;
use crate::state::inventory::{self as rules, Standing, UNKNOWN_ALWAYS, believed, standing};
use crate::state::key::chunk::ReplicaState;
use crate::state::key::damage::DamageKey;
use crate::state::key::doubt::Doubt;
use crate::state::key::meta::{LostTail, LostTailKey};
use crate::state::key::unknown::UnknownKey;
use gabion_protocol::messages::master::ConditionChange;

const KEEP_MS: u64 = 3_000;
const SERVER: ServerId = ServerId(1);

fn chunk(counter: u64) -> ChunkId {
    ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    }
}

/// A machine with a file of two chunks, and `gone` chunks that were removed for good.
fn stored(gone: usize) -> (Machine, Client) {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for _ in 0..gone {
        client.put(&mut machine, "/gone", 1);
        client.run(&mut machine, remove("/gone", false)).unwrap();
    }
    machine.settle();
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    machine.obey();
    client.put(&mut machine, "/f", 2);
    machine.check();
    (machine, client)
}

fn found(machine: &mut Machine, server: ServerId, held: u64, copies: &[(u64, u64)]) {
    let copies = copies
        .iter()
        .map(|(counter, number)| (chunk(*counter), ReplicaNumber(*number)));
    let command = Command::UnknownFound {
        server,
        held,
        keep_ms: KEEP_MS,
        copies: copies.collect(),
    };
    assert_eq!(machine.apply(&command), Reply(Ok(Outcome::Done)));
    machine.check();
}

fn doubt(machine: &Machine) -> Option<Doubt> {
    rules::doubt(&machine.rows, SERVER).unwrap()
}

fn orders(machine: &Machine) -> Vec<(ChunkId, ReplicaNumber)> {
    read::drop_orders(&machine.rows, SERVER, 100).unwrap()
}

fn stands(machine: &Machine, counter: u64, number: u64) -> Standing {
    standing(&machine.rows, SERVER, chunk(counter), ReplicaNumber(number)).unwrap()
}

#[test]
fn an_unknown_copy_is_kept_for_its_time_then_removed_and_forgotten() {
    let (mut machine, _) = stored(1);
    assert_eq!(stands(&machine, 1, 1), Standing::Unknown);
    found(&mut machine, SERVER, 100, &[(1, 1)]);
    assert_eq!(stands(&machine, 1, 1), Standing::SetAside);
    // Found once more: it does not gain time, nor is it counted twice.
    machine.tick(KEEP_MS - 1);
    found(&mut machine, SERVER, 100, &[(1, 1)]);
    assert_eq!((orders(&machine), doubt(&machine).unwrap().unknown), (vec![], 1));
    machine.tick(1);
    assert_eq!(orders(&machine), [(chunk(1), ReplicaNumber(1))]);
    machine.check();
    machine.obey();
    assert_eq!((orders(&machine), doubt(&machine)), (vec![], None));
    assert_eq!(
        stands(&machine, 1, 1),
        Standing::Unknown,
        "if it came back, it would begin anew"
    );
    machine.check();
}

#[test]
fn copies_with_a_row_are_never_set_aside_whatever_is_logged() {
    let (mut machine, mut client) = stored(0);
    let live = read::chunk(&machine.rows, chunk(1)).unwrap().unwrap().replicas[0];
    assert_eq!(live.server, SERVER);
    assert_eq!(stands(&machine, 1, live.number.0), Standing::Known(ReplicaState::Live));
    found(&mut machine, SERVER, 1_000_000, &[(1, live.number.0)]);
    assert_eq!(doubt(&machine), None);
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    found(&mut machine, SERVER, 1_000_000, &[(1, live.number.0)]);
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    assert_eq!(
        stands(&machine, 1, live.number.0),
        Standing::Known(ReplicaState::Dropping)
    );
    found(&mut machine, SERVER, 1_000_000, &[(1, live.number.0)]);
    assert_eq!(doubt(&machine), None);
}

#[test]
fn what_was_never_given_out_is_never_set_aside() {
    let (mut machine, _) = stored(1);
    let next = read_counters(&machine);
    for (counter, number) in [
        (next.chunk, 1),
        (next.chunk + 5, 1),
        (1, next.replica),
        (u64::MAX, u64::MAX),
        (0, 1),
        (1, 0),
    ] {
        assert_eq!(
            stands(&machine, counter, number),
            Standing::Forgotten,
            "{counter} {number}"
        );
        found(&mut machine, SERVER, 1_000_000, &[(counter, number)]);
    }
    for (volume, timeline) in [(0, 0), (0, 2), (1, 1)] {
        let other = ChunkId {
            volume: VolumeId(volume),
            timeline: Timeline(timeline),
            counter: 1,
        };
        let stands = standing(&machine.rows, SERVER, other, ReplicaNumber(1)).unwrap();
        assert_eq!(stands, Standing::Forgotten, "{other}");
        let command = Command::UnknownFound {
            server: SERVER,
            held: 1_000_000,
            keep_ms: 0,
            copies: vec![(other, ReplicaNumber(1))],
        };
        machine.apply(&command).0.unwrap();
    }
    assert_eq!(doubt(&machine), None);
    machine.tick(KEEP_MS);
    assert_eq!(orders(&machine), []);
}

fn read_counters(machine: &Machine) -> Counters {
    key::require(&machine.rows, &CountersKey).unwrap()
}

/// Masters were started from an old copy and go on: what they forgot stays forgotten, and no number of it is used again.
#[test]
fn a_lost_tail_stays_lost_and_its_numbers_are_not_given_out_again() {
    let (mut machine, mut client) = stored(1);
    let before = read_counters(&machine);
    let tail_lost = |machine: &mut Machine, counter, number| {
        let (highest, number) = (chunk(counter), ReplicaNumber(number));
        machine.apply(&Command::TailLost { highest, number }).0.unwrap();
        machine.check();
        key::get(&machine.rows, &LostTailKey).unwrap()
    };
    assert_eq!(
        tail_lost(&mut machine, before.chunk - 1, before.replica - 1),
        None,
        "all is known"
    );
    let expected = LostTail {
        timeline: Timeline(1),
        from: before.chunk,
        to: before.chunk + 4,
        number_from: before.replica,
        number_to: before.replica + 9,
    };
    assert_eq!(
        tail_lost(&mut machine, before.chunk + 3, before.replica + 8),
        Some(expected)
    );
    let after = read_counters(&machine);
    assert_eq!((after.chunk, after.replica), (before.chunk + 4, before.replica + 9));
    // Told by another server too, that has less.
    assert_eq!(tail_lost(&mut machine, before.chunk + 1, 1), Some(expected));
    client.put(&mut machine, "/g", 3);
    client.run(&mut machine, remove("/g", false)).unwrap();
    for _ in 0..2 {
        machine.tick(SETTINGS.token_ms);
        machine.settle();
    }
    machine.obey();
    assert_eq!(
        stands(&machine, after.chunk, after.replica),
        Standing::Unknown,
        "given out and dropped"
    );
    for (counter, number) in [
        (before.chunk, 1),
        (before.chunk + 3, 1),
        (1, before.replica),
        (1, before.replica + 8),
    ] {
        assert_eq!(stands(&machine, counter, number), Standing::Forgotten);
        found(&mut machine, SERVER, 1_000_000, &[(counter, number)]);
    }
    assert_eq!(doubt(&machine), None);
    let far = tail_lost(&mut machine, u64::MAX, u64::MAX);
    assert_eq!(
        (far, read_counters(&machine).chunk),
        (Some(expected), after.chunk + 3),
        "nobody can have come so far"
    );
}

#[test]
fn too_many_at_once_stop_everything_until_an_operator_accepts() {
    let many = UNKNOWN_ALWAYS as usize + 2;
    let (mut machine, _) = stored(many);
    let copies: Vec<_> = (0..many as u64).map(|n| (n + 1, 3 * n + 1)).collect();
    assert_eq!(believed(100), UNKNOWN_ALWAYS);
    assert_eq!(believed(100_000), 1000);
    let (first, rest) = copies.split_at(many - 2);
    found(&mut machine, SERVER, 100, first);
    assert!(!doubt(&machine).unwrap().stopped, "so many are believed");
    machine.tick(KEEP_MS / 2);
    found(&mut machine, SERVER, 100, rest);
    let stopped = doubt(&machine).unwrap();
    assert!(stopped.stopped && stopped.unknown == many as u64);
    machine.tick(10 * KEEP_MS);
    machine.settle();
    assert_eq!(orders(&machine), [], "also those that were believed wait");
    let accept = Command::UnknownAccepted { server: SERVER };
    machine.apply(&accept).0.unwrap();
    machine.check();
    machine.tick(0);
    machine.settle();
    assert_eq!(orders(&machine).len(), many);
    machine.check();
    machine.obey();
    assert_eq!(doubt(&machine), None);
    // What was accepted is over: the next flood is stopped again.
    machine.apply(&accept).0.unwrap();
    found(&mut machine, SERVER, 100, &copies);
    assert!(doubt(&machine).unwrap().stopped);
}

#[test]
fn a_confirmed_damage_that_its_server_takes_back_is_looked_at_again() {
    let (mut machine, _) = stored(0);
    let live = read::chunk(&machine.rows, chunk(1)).unwrap().unwrap().replicas[0];
    let damage = gabion_protocol::messages::master::Damage {
        chunk: chunk(1),
        replica: live.number,
        what: "unavailable".to_owned(),
    };
    let server = live.server;
    let found = vec![damage];
    machine.apply(&Command::DamageFound { server, found }).0.unwrap();
    let expected = |machine: &Machine| rules::expected(&machine.rows, server, chunk(1)).unwrap();
    assert_eq!(expected(&machine), None);
    for (number, counts) in [(ReplicaNumber(99), None), (live.number, Some(live.number))] {
        let copies = vec![(chunk(1), number)];
        machine.apply(&Command::DamageDoubted { server, copies }).0.unwrap();
        assert_eq!(expected(&machine), counts);
    }
    let report = key::get(
        &machine.rows,
        &DamageKey {
            chunk: chunk(1),
            server,
        },
    )
    .unwrap();
    assert!(!report.unwrap().confirmed, "its server is asked to read it");
    machine.check();
}

/// What inventory reports may lead to.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Found {
        server: u32,
        held: u64,
        copies: Vec<(u64, u64)>,
    },
    Accept {
        server: u32,
    },
    Doubt {
        server: u32,
        copies: Vec<(u64, u64)>,
    },
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let copies = || proptest::collection::vec((0u64..25, 0u64..60), 0..12);
    prop_oneof![
        6 => (1u32..5, prop_oneof![Just(10u64), Just(5000)], copies())
            .prop_map(|(server, held, copies)| Step::Found { server, held, copies }),
        1 => (1u32..5).prop_map(|server| Step::Accept { server }),
        1 => (1u32..5, copies()).prop_map(|(server, copies)| Step::Doubt { server, copies }),
    ]
}

pub(crate) fn run(machine: &mut Machine, step: &Step) {
    let copies = |copies: &[(u64, u64)]| -> Vec<_> {
        let copies = copies.iter();
        copies
            .map(|(counter, number)| (chunk(*counter), ReplicaNumber(*number)))
            .collect()
    };
    let command = match step {
        Step::Found {
            server,
            held,
            copies: found,
        } => Command::UnknownFound {
            server: ServerId(*server),
            held: *held,
            keep_ms: KEEP_MS,
            copies: copies(found),
        },
        Step::Accept { server } => Command::UnknownAccepted {
            server: ServerId(*server),
        },
        Step::Doubt { server, copies: of } => Command::DamageDoubted {
            server: ServerId(*server),
            copies: copies(of),
        },
    };
    assert_eq!(machine.apply(&command), Reply(Ok(Outcome::Done)));
}

/// Lets everything that is set aside go.
pub(super) fn accept_all(machine: &mut Machine) {
    for server in 1..5 {
        run(machine, &Step::Accept { server });
    }
    machine.tick(KEEP_MS);
    machine.settle();
    machine.obey();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Whatever is reported and whoever accepts: a copy that a row names is never set aside, what was never given out is
    /// never dropped, and what is dropped was set aside for as long as was said.
    #[test]
    fn nothing_wanted_is_ever_dropped(steps in proptest::collection::vec((any_step(), 0u64..4_000, any::<bool>()), 1..40)) {
        let (mut machine, _) = stored(5);
        let mut since = std::collections::BTreeMap::new();
        for (step, ms, put) in steps {
            if put {
                let mut client = Client::new(&machine, machine.index);
                client.put(&mut machine, "/g", 1);
            }
            run(&mut machine, &step);
            for server in 1..5 {
                let prefix = UnknownKey::prefix(ServerId(server));
                for (row, _) in key::scan_prefix::<UnknownKey>(&machine.rows, &prefix, 1000).unwrap() {
                    let next = read_counters(&machine);
                    prop_assert!(row.chunk.counter < next.chunk && row.number.0 < next.replica);
                    since.entry((row.server, row.chunk, row.number)).or_insert_with(|| machine.now());
                }
            }
            machine.tick(ms);
            machine.settle();
            machine.check();
            for server in 1..5 {
                for (chunk, number) in read::drop_orders(&machine.rows, ServerId(server), 1000).unwrap() {
                    if let Some(at) = since.get(&(ServerId(server), chunk, number)) {
                        prop_assert!(machine.now() >= at.plus(KEEP_MS));
                    }
                }
            }
        }
    }
}

#[test]
fn a_removed_server_takes_its_unknown_copies_along() {
    let (mut machine, mut client) = stored(2);
    let copies = [1, 2].map(|counter| (counter, counter));
    found(&mut machine, SERVER, 100, &copies[..1]);
    machine.tick(KEEP_MS);
    machine.settle();
    found(&mut machine, SERVER, 100, &copies);
    assert_eq!((orders(&machine).len(), doubt(&machine).unwrap().unknown), (1, 2));
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    let change = ConditionChange::Remove;
    let server = SERVER;
    client
        .run(&mut machine, ClientCommand::SetCondition { server, change })
        .unwrap();
    machine.tick(1);
    machine.settle();
    machine.check();
    assert!(
        read::server(&machine.rows, SERVER).unwrap().is_none(),
        "nobody waits for its word"
    );
    assert_eq!((orders(&machine), doubt(&machine)), (vec![], None));
}
