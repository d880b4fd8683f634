//! Repair: what may become of the copies of a sealed chunk, and what never.

use std::collections::BTreeMap;

use gabion_protocol::messages::master::{ConditionChange, Damage};
use proptest::prelude::*;

use super::*;
use crate::state::balance::CopyMove;
use crate::state::key::chunk::{Chunk, Phase, Replica, ReplicaState};
use crate::state::repair::{self, CopyDrop, CopyPlan, MadeCopy};

/// One thing a leader or a chunkserver may say about copies; numbers choose among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Add {
        chunk: usize,
        targets: Vec<u32>,
        stale: bool,
    },
    Made {
        copy: usize,
        wrong: bool,
    },
    Move {
        chunk: usize,
        from: u32,
        to: u32,
        stale: bool,
    },
    GiveUp {
        copy: usize,
    },
    Drop {
        chunk: usize,
        server: u32,
        stale: bool,
    },
    Damage {
        chunk: usize,
        server: u32,
        confirmed: bool,
    },
    Condition {
        server: u32,
        change: ConditionChange,
    },
}

fn any_change() -> impl Strategy<Value = Step> {
    // Uploads of the model need the first four servers: only the fifth is removed.
    let change = prop_oneof![
        2 => Just(ConditionChange::Serve),
        2 => Just(ConditionChange::Drain),
        1 => (0u64..3000).prop_map(|for_ms| ConditionChange::Maintain { for_ms }),
    ];
    prop_oneof![
        3 => (1u32..7, change).prop_map(|(server, change)| Step::Condition { server, change }),
        1 => Just(Step::Condition { server: 5, change: ConditionChange::Remove }),
    ]
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let (chunk, server) = (0usize..6, 1u32..7);
    let stale = prop::bool::weighted(0.1);
    let targets = prop_oneof![
        4 => prop::sample::select(vec![vec![4], vec![1], vec![4, 1], vec![5]]),
        1 => proptest::collection::vec(1u32..7, 0..4)
    ];
    prop_oneof![
        3 => (chunk.clone(), targets, stale)
            .prop_map(|(chunk, targets, stale)| Step::Add { chunk, targets, stale }),
        3 => (0usize..4, prop::bool::weighted(0.2)).prop_map(|(copy, wrong)| Step::Made { copy, wrong }),
        3 => (chunk.clone(), server.clone(), server.clone(), stale)
            .prop_map(|(chunk, from, to, stale)| Step::Move { chunk, from, to, stale }),
        1 => (0usize..4).prop_map(|copy| Step::GiveUp { copy }),
        4 => (chunk.clone(), server.clone(), stale)
            .prop_map(|(chunk, server, stale)| Step::Drop { chunk, server, stale }),
        2 => (chunk, server, any::<bool>())
            .prop_map(|(chunk, server, confirmed)| Step::Damage { chunk, server, confirmed }),
        2 => any_change(),
    ]
}

fn sealed(machine: &Machine) -> Vec<(ChunkId, Chunk)> {
    let mut chunks = read::chunks(&machine.rows, None, 1000).unwrap();
    chunks.retain(|(_, chunk)| chunk.phase == Phase::Sealed);
    chunks
}

/// Live copies nobody says anything against, of every sealed chunk, and how many are wanted.
pub(super) fn good(machine: &Machine) -> BTreeMap<ChunkId, (usize, usize)> {
    let count = |(id, chunk): (ChunkId, Chunk)| {
        let damaged = read::damaged(&machine.rows, id).unwrap();
        let reported = |server| damaged.iter().any(|(of, _)| *of == server);
        let live = chunk.replicas.iter().filter(|copy| copy.state == ReplicaState::Live);
        let good = live.filter(|copy| !reported(copy.server)).count();
        (id, (good, usize::from(chunk.wanted)))
    };
    sealed(machine).into_iter().map(count).collect()
}

/// Runs a step; whatever it asks for, no chunk ends with fewer good copies than it wants, unless it had no more.
pub(crate) fn run(machine: &mut Machine, step: &Step) {
    let before = good(machine);
    let chunks = sealed(machine);
    let chunk = |at: usize| chunks.get(at % chunks.len().max(1)).cloned();
    let copies = repair::copying(&machine.rows, 100).unwrap();
    let copy = |at: usize| copies.get(at % copies.len().max(1)).copied();
    let planned = |chunk: &Chunk, stale: bool| {
        let mut planned = chunk.replicas.clone();
        if stale {
            planned.pop();
        }
        planned
    };
    let command = match step {
        Step::Add {
            chunk: at,
            targets,
            stale,
        } => chunk(*at).map(|(id, row)| Command::AddCopies {
            plans: vec![CopyPlan {
                chunk: id,
                planned: planned(&row, *stale),
                targets: chain(targets),
            }],
        }),
        Step::Made { copy: at, wrong } => copy(*at).map(|key| {
            let row = read::chunk(&machine.rows, key.chunk).unwrap().unwrap();
            let made = MadeCopy {
                chunk: key.chunk,
                number: key.number,
                length: row.length,
                crc: row.crc ^ u32::from(*wrong),
            };
            Command::CopiesMade {
                server: key.server,
                made: vec![made],
            }
        }),
        Step::Move {
            chunk: at,
            from,
            to,
            stale,
        } => chunk(*at).map(|(id, row)| Command::MoveCopies {
            moves: vec![CopyMove {
                chunk: id,
                planned: planned(&row, *stale),
                from: ServerId(*from),
                to: ServerId(*to),
            }],
        }),
        Step::GiveUp { copy: at } => copy(*at).map(|key| Command::CopiesGivenUp {
            copies: vec![(key.chunk, key.server, key.number)],
        }),
        Step::Drop {
            chunk: at,
            server,
            stale,
        } => chunk(*at).map(|(id, row)| Command::DropCopies {
            drops: vec![CopyDrop {
                chunk: id,
                planned: planned(&row, *stale),
                server: ServerId(*server),
            }],
        }),
        Step::Damage {
            chunk: at,
            server,
            confirmed,
        } => chunk(*at).and_then(|(id, row)| {
            let held = row.replicas.iter().find(|copy| copy.server == ServerId(*server))?;
            let damage = Damage {
                chunk: id,
                replica: held.number,
                what: "x".to_owned(),
            };
            let server = held.server;
            Some(match confirmed {
                true => Command::DamageFound {
                    server,
                    found: vec![damage],
                },
                false => Command::DamageSuspected {
                    found: vec![(server, damage)],
                },
            })
        }),
        Step::Condition { server, change } => {
            let (server, change) = (ServerId(*server), *change);
            let random = 1 << 32 | machine.index;
            Some(Client::new(machine, random).command(ClientCommand::SetCondition { server, change }))
        }
    };
    let Some(command) = command else { return };
    let reply = machine.apply(&command);
    if matches!(step, Step::Condition { .. }) {
        let expected = matches!(
            reply.0,
            Ok(Outcome::Done)
                | Err(Refusal::ServerUnknown { .. } | Refusal::ServerRemoved { .. } | Refusal::MaintenanceTime { .. })
        );
        assert!(expected, "{step:?}: {reply:?}");
    } else {
        assert!(reply.0.is_ok(), "{command:?}: {reply:?}");
    }
    if matches!(step, Step::Damage { .. }) {
        return;
    }
    for (id, (now, wanted)) in good(machine) {
        let (then, _) = before[&id];
        assert!(
            now >= then.min(wanted),
            "chunk {id} has {now} good copies, it had {then} of {wanted}: {step:?}"
        );
    }
}

/// A machine with one file of one chunk on servers 1, 2 and 3.
pub(super) fn stored() -> (Machine, Client, ChunkId) {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/f", 1);
    let id = read::extents(&machine.rows, file.ino, None, 0, 1).unwrap().0[0]
        .extent
        .chunk;
    (machine, client, id)
}

pub(super) fn row(machine: &Machine, id: ChunkId) -> Chunk {
    read::chunk(&machine.rows, id).unwrap().unwrap()
}

fn plan(machine: &Machine, id: ChunkId, targets: &[u32]) -> Command {
    Command::AddCopies {
        plans: vec![CopyPlan {
            chunk: id,
            planned: row(machine, id).replicas,
            targets: chain(targets),
        }],
    }
}

pub(super) fn drop_of(machine: &Machine, id: ChunkId, server: u32) -> Command {
    Command::DropCopies {
        drops: vec![CopyDrop {
            chunk: id,
            planned: row(machine, id).replicas,
            server: ServerId(server),
        }],
    }
}

pub(super) fn made(machine: &Machine, id: ChunkId, number: ReplicaNumber, server: u32) -> Command {
    let chunk = row(machine, id);
    Command::CopiesMade {
        server: ServerId(server),
        made: vec![MadeCopy {
            chunk: id,
            number,
            length: chunk.length,
            crc: chunk.crc,
        }],
    }
}

/// What a command refused, of those that speak of single chunks.
#[track_caller]
pub(super) fn refused(machine: &mut Machine, command: &Command) -> Vec<Refusal> {
    match machine.apply(command).0.unwrap() {
        Outcome::Repaired { refused } => refused.into_iter().map(|(_, refusal)| refusal).collect(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn states(machine: &Machine, id: ChunkId) -> Vec<(u32, ReplicaState)> {
    let replicas = row(machine, id).replicas;
    replicas.iter().map(|copy| (copy.server.0, copy.state)).collect()
}

#[test]
fn a_copy_is_logged_then_made_then_live() {
    use ReplicaState::{Copying, Live};
    let (mut machine, _, id) = stored();
    let command = plan(&machine, id, &[4]);
    assert_eq!(refused(&mut machine, &command), []);
    assert_eq!(states(&machine, id), [(1, Live), (2, Live), (3, Live), (4, Copying)]);
    let orders = repair::copying_on(&machine.rows, ServerId(4), 9).unwrap();
    assert_eq!((orders.len(), orders[0].chunk), (1, id));
    machine.check();

    // Another leader, or the same one again, planned from the same rows: nothing is repaired twice.
    assert_eq!(refused(&mut machine, &command), [Refusal::CopiesChanged { chunk: id }]);
    let number = orders[0].number;
    let before = machine.rows.clone();
    for (number, server) in [(ReplicaNumber(number.0 + 1), 4), (number, 3), (number, 77)] {
        let other = made(&machine, id, number, server);
        assert_eq!(refused(&mut machine, &other), []);
        assert_eq!(machine.rows, before, "only exactly that copy becomes live");
    }
    let done = made(&machine, id, number, 4);
    assert_eq!(refused(&mut machine, &done), []);
    assert_eq!(states(&machine, id)[3], (4, Live));
    assert_eq!(repair::surplus(&machine.rows, None, 9).unwrap().len(), 1);
    assert_eq!(refused(&mut machine, &done), [], "the report comes twice");
    assert_eq!(states(&machine, id)[3], (4, Live));
    machine.check();
}

#[test]
fn a_copy_that_is_something_else_never_becomes_live() {
    let (mut machine, _, id) = stored();
    let command = plan(&machine, id, &[4]);
    refused(&mut machine, &command);
    let number = repair::copying_on(&machine.rows, ServerId(4), 9).unwrap()[0].number;
    let Command::CopiesMade { server, mut made } = made(&machine, id, number, 4) else {
        unreachable!()
    };
    made[0].crc ^= 1;
    let lie = Command::CopiesMade { server, made };
    assert_eq!(refused(&mut machine, &lie), [Refusal::CopyDiffers { chunk: id }]);
    assert_eq!(states(&machine, id)[3], (4, ReplicaState::Dropping));
    machine.check();
    machine.obey();
    assert_eq!(row(&machine, id).replicas.len(), 3);
    machine.check();
}

#[test]
fn no_server_gets_two_copies_and_no_retired_one_any() {
    let (mut machine, _, id) = stored();
    machine.register("c4", None, 44, 1).unwrap();
    for (targets, server) in [(vec![1], 1), (vec![5, 5], 5), (vec![4], 4), (vec![9], 9)] {
        let command = plan(&machine, id, &targets);
        let expected = Refusal::CopyTarget {
            chunk: id,
            server: ServerId(server),
        };
        assert_eq!(refused(&mut machine, &command), [expected], "{targets:?}");
    }
    // While a copy is being removed its server's place for the chunk is taken, too.
    let command = plan(&machine, id, &[5]);
    assert_eq!(refused(&mut machine, &command), []);
    let number = repair::copying_on(&machine.rows, ServerId(5), 9).unwrap()[0].number;
    let copies = vec![(id, ServerId(5), number)];
    machine.apply(&Command::CopiesGivenUp { copies }).0.unwrap();
    let command = plan(&machine, id, &[5]);
    let (chunk, server) = (id, ServerId(5));
    assert_eq!(refused(&mut machine, &command), [Refusal::CopyTarget { chunk, server }]);
    machine.check();
}

#[test]
fn what_is_dropped_leaves_enough_good_copies() {
    let (mut machine, mut client, id) = stored();
    let needed = |left, needed| Refusal::CopiesNeeded {
        chunk: id,
        left,
        needed,
    };
    let command = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &command), [needed(2, 3)]);
    // A reader's word is no reason to drop.
    let copy = row(&machine, id).replicas[0];
    let report = ClientCommand::ReportDamage {
        chunk: id,
        server: copy.server,
        replica: copy.number,
        what: "x".to_owned(),
    };
    client.run(&mut machine, report).unwrap();
    let command = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &command), [needed(2, 3)]);
    // Nor is such a copy one to rely on.
    let command = plan(&machine, id, &[4]);
    refused(&mut machine, &command);
    let number = repair::copying_on(&machine.rows, ServerId(4), 9).unwrap()[0].number;
    let done = made(&machine, id, number, 4);
    refused(&mut machine, &done);
    let command = drop_of(&machine, id, 2);
    assert_eq!(refused(&mut machine, &command), [needed(2, 3)]);
    // The four live rows of which one is damaged leave three good ones when that one goes.
    let command = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &command), []);
    assert!(read::damage_reports(&machine.rows, 9).unwrap().is_empty());
    let command = drop_of(&machine, id, 2);
    assert_eq!(refused(&mut machine, &command), [needed(2, 3)]);
    machine.check();
}

#[test]
fn a_damaged_copy_makes_room_for_a_good_one_but_the_last_ones_stay() {
    let (mut machine, _, id) = stored();
    let found = |machine: &mut Machine, server: u32| {
        let copies = row(machine, id).replicas;
        let copy = copies.iter().find(|copy| copy.server == ServerId(server)).unwrap();
        let damage = Damage {
            chunk: id,
            replica: copy.number,
            what: "block 3".to_owned(),
        };
        let server = ServerId(server);
        let command = Command::DamageFound {
            server,
            found: vec![damage],
        };
        machine.apply(&command).0.unwrap();
    };
    found(&mut machine, 1);
    let command = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &command), []);
    machine.check();
    found(&mut machine, 2);
    let command = drop_of(&machine, id, 2);
    let expected = Refusal::CopiesNeeded {
        chunk: id,
        left: 1,
        needed: 2,
    };
    assert_eq!(refused(&mut machine, &command), [expected]);
    found(&mut machine, 3);
    for server in [2, 3] {
        let command = drop_of(&machine, id, server);
        assert_eq!(
            refused(&mut machine, &command).len(),
            1,
            "all that is left may be worth something"
        );
    }
    machine.check();
}

#[test]
fn a_degraded_file_is_whole_again_when_its_chunks_are() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut upload = client.open(&mut machine, "/f", 1);
    let mut seal = upload.seal(10, 1);
    seal.members.pop();
    let file = entry(client.run(&mut machine, upload.commit(vec![seal])));
    assert!(file.degraded);
    machine.obey();
    let id = read::degraded(&machine.rows, 9).unwrap()[0].chunk;
    let command = plan(&machine, id, &[4]);
    refused(&mut machine, &command);
    machine.check();
    assert!(read::stat(&machine.rows, &path("/f")).unwrap().degraded);
    let number = repair::copying_on(&machine.rows, ServerId(4), 9).unwrap()[0].number;
    let done = made(&machine, id, number, 4);
    refused(&mut machine, &done);
    assert!(!read::stat(&machine.rows, &path("/f")).unwrap().degraded);
    assert!(read::degraded(&machine.rows, 9).unwrap().is_empty());
    machine.check();
}

#[test]
fn a_copy_of_garbage_goes_with_the_rest() {
    let (mut machine, mut client, id) = stored();
    let command = plan(&machine, id, &[4]);
    refused(&mut machine, &command);
    let number = repair::copying_on(&machine.rows, ServerId(4), 9).unwrap()[0].number;
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    assert!(
        repair::copying_on(&machine.rows, ServerId(4), 9).unwrap().is_empty(),
        "nobody is told to make it"
    );
    let done = made(&machine, id, number, 4);
    refused(&mut machine, &done);
    let command = plan(&machine, id, &[4]);
    assert_eq!(refused(&mut machine, &command), [Refusal::ChunkNotSealed { chunk: id }]);
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    assert_eq!(
        read::drop_orders(&machine.rows, ServerId(4), 9).unwrap(),
        [(id, number)]
    );
    machine.obey();
    assert_eq!(read::chunk(&machine.rows, id).unwrap(), None);
    machine.check();
}

#[test]
fn batches_are_bounded() {
    let (mut machine, _, id) = stored();
    let one = CopyDrop {
        chunk: id,
        planned: Vec::new(),
        server: ServerId(1),
    };
    let drops = vec![one; repair::REPAIR_BATCH_MAX + 1];
    let refused = machine.apply(&Command::DropCopies { drops }).0.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::LimitExceeded);
    let row = Replica {
        server: ServerId(u32::MAX),
        number: ReplicaNumber(u64::MAX),
        state: ReplicaState::Live,
    };
    let plan = CopyPlan {
        chunk: id,
        planned: vec![row; repair::COPIES_MAX],
        targets: vec![ServerId(u32::MAX); 3],
    };
    let plans = vec![plan; repair::REPAIR_BATCH_MAX];
    let bytes = Command::AddCopies { plans }.encode().len();
    assert!(bytes < gabion_protocol::limits::MESSAGE_BYTES_MAX, "{bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    /// Whatever is planned, stale or reported, the state stays sound and enough good copies stay.
    #[test]
    fn no_plan_loses_copies(steps in proptest::collection::vec(any_step(), 1..60), obey in proptest::collection::vec(any::<bool>(), 60)) {
        let mut machine = Machine::new();
        let mut client = Client::new(&machine, 1);
        client.put(&mut machine, "/f", 2);
        client.put(&mut machine, "/g", 1);
        for (step, obey) in steps.iter().zip(obey) {
            run(&mut machine, step);
            if obey {
                machine.obey();
            }
            machine.check();
        }
    }
}
