//! Conditions of chunkservers: what draining, maintenance and removal do to rows, and what they never do.

use gabion_protocol::limits::MAINTENANCE_MS_MAX;
use gabion_protocol::messages::master::ConditionChange;

use super::*;
use crate::state::conditions;
use crate::state::key::chunk::{Chunk, ReplicaState};
use crate::state::key::condition::Condition;
use crate::state::repair::{CopyDrop, CopyPlan, MadeCopy, copying};

const C1: ServerId = ServerId(1);

fn change(
    machine: &mut Machine,
    client: &mut Client,
    server: ServerId,
    change: ConditionChange,
) -> Result<Outcome, Refusal> {
    client.run(machine, ClientCommand::SetCondition { server, change })
}

fn chunk(machine: &Machine) -> (ChunkId, Chunk) {
    read::chunks(&machine.rows, None, 1).unwrap().remove(0)
}

/// Adds a copy on `server`, made at once if `made`.
fn copy_to(machine: &mut Machine, server: u32, made: bool) -> Vec<(ChunkId, Refusal)> {
    let (id, row) = chunk(machine);
    let plans = vec![CopyPlan {
        chunk: id,
        planned: row.replicas,
        targets: chain(&[server]),
    }];
    let Ok(Outcome::Repaired { refused }) = machine.apply(&Command::AddCopies { plans }).0 else {
        panic!("no answer");
    };
    for key in copying(&machine.rows, 9).unwrap().into_iter().filter(|_| made) {
        let copy = MadeCopy {
            chunk: id,
            number: key.number,
            length: row.length,
            crc: row.crc,
        };
        let server = key.server;
        machine
            .apply(&Command::CopiesMade {
                server,
                made: vec![copy],
            })
            .0
            .unwrap();
    }
    refused
}

fn drop_of(machine: &mut Machine, server: u32) -> Vec<(ChunkId, Refusal)> {
    let (id, row) = chunk(machine);
    let drops = vec![CopyDrop {
        chunk: id,
        planned: row.replicas,
        server: ServerId(server),
    }];
    match machine.apply(&Command::DropCopies { drops }).0.unwrap() {
        Outcome::Repaired { refused } => refused,
        other => panic!("{other:?}"),
    }
}

/// A machine with one chunk on servers 1, 2 and 3.
fn stored() -> (Machine, Client) {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 1);
    (machine, client)
}

#[test]
fn copies_on_a_draining_server_are_no_copies_to_rely_on() {
    let (mut machine, mut client) = stored();
    change(&mut machine, &mut client, C1, ConditionChange::Drain).unwrap();
    assert_eq!(copy_to(&mut machine, 4, true), []);
    assert!(matches!(
        drop_of(&mut machine, 2)[..],
        [(_, Refusal::CopiesNeeded { left: 2, needed: 3, .. })]
    ));
    assert_eq!(drop_of(&mut machine, 1), [], "three are left without it");
    machine.obey();
    machine.check();
    assert!(
        matches!(copy_to(&mut machine, 1, true)[..], [(_, Refusal::CopyTarget { .. })]),
        "it gets none"
    );
    change(&mut machine, &mut client, C1, ConditionChange::Serve).unwrap();
    assert_eq!(copy_to(&mut machine, 1, true), []);
    machine.check();
}

#[test]
fn maintenance_ends_by_itself_or_by_word_and_has_bounds() {
    let (mut machine, mut client) = stored();
    for for_ms in [0, MAINTENANCE_MS_MAX + 1] {
        let refused = change(&mut machine, &mut client, C1, ConditionChange::Maintain { for_ms });
        assert_eq!(refused, Err(Refusal::MaintenanceTime { asked: for_ms }));
    }
    change(
        &mut machine,
        &mut client,
        C1,
        ConditionChange::Maintain { for_ms: 1000 },
    )
    .unwrap();
    assert!(matches!(copy_to(&mut machine, 4, true)[..], []));
    machine.tick(999);
    assert!(conditions::of(&machine.rows, C1).unwrap().is_some());
    assert!(!conditions::is_leaving(&machine.rows, C1).unwrap());
    machine.tick(1);
    assert_eq!(conditions::of(&machine.rows, C1).unwrap(), None);
    change(
        &mut machine,
        &mut client,
        C1,
        ConditionChange::Maintain { for_ms: 1000 },
    )
    .unwrap();
    change(&mut machine, &mut client, C1, ConditionChange::Serve).unwrap();
    assert!(conditions::all(&machine.rows).unwrap().is_empty());
    machine.check();
}

#[test]
fn a_removal_waits_for_what_is_needed_and_leaves_no_row() {
    let (mut machine, mut client) = stored();
    change(&mut machine, &mut client, C1, ConditionChange::Remove).unwrap();
    machine.tick(1);
    machine.settle();
    assert!(
        chunk(&machine).1.replicas.iter().any(|copy| copy.server == C1),
        "two others are not three"
    );
    // It may not serve, and can be taken back as long as its row is there.
    let back = machine.register("c1", Some(1), 1, 2);
    assert_eq!(back, Err(Refusal::ServerRemoved { server: C1 }));
    change(&mut machine, &mut client, C1, ConditionChange::Serve).unwrap();
    machine.register("c1", Some(1), 1, 2).unwrap();
    change(&mut machine, &mut client, C1, ConditionChange::Remove).unwrap();
    assert_eq!(copy_to(&mut machine, 4, true), []);
    machine.tick(1);
    machine.settle();
    machine.check();
    assert!(read::server(&machine.rows, C1).unwrap().is_none());
    assert_eq!(chunk(&machine).1.live(), 3);
    let gone = Err(Refusal::ServerRemoved { server: C1 });
    assert_eq!(machine.register("c1", Some(1), 1, 3), gone);
    assert_eq!(change(&mut machine, &mut client, C1, ConditionChange::Serve), gone);
    let unknown = Err(Refusal::ServerUnknown { server: ServerId(9) });
    assert_eq!(
        change(&mut machine, &mut client, ServerId(9), ConditionChange::Drain),
        unknown
    );
    // Its name is free, its number is not.
    let again = machine.register("c1", None, 9, 1).unwrap();
    assert_eq!(again, Outcome::Registered { server: ServerId(5) });
    machine.check();
}

#[test]
fn a_removal_counts_neither_damaged_copies_nor_those_of_others_that_leave() {
    let (mut machine, mut client) = stored();
    assert_eq!(copy_to(&mut machine, 4, true), []);
    change(&mut machine, &mut client, ServerId(2), ConditionChange::Drain).unwrap();
    change(&mut machine, &mut client, C1, ConditionChange::Remove).unwrap();
    machine.settle();
    assert_eq!(chunk(&machine).1.live(), 4, "the second server leaves, too");
    change(&mut machine, &mut client, ServerId(2), ConditionChange::Serve).unwrap();
    let (id, row) = chunk(&machine);
    let report = ClientCommand::ReportDamage {
        chunk: id,
        server: ServerId(2),
        replica: row.replicas[1].number,
        what: "x".to_owned(),
    };
    client.run(&mut machine, report).unwrap();
    machine.settle();
    assert_eq!(
        chunk(&machine).1.live(),
        4,
        "somebody speaks against the second one's copy"
    );
    machine.apply(&Command::DamageCleared {
        server: ServerId(2),
        intact: vec![(id, row.replicas[1].number)],
    });
    machine.settle();
    assert_eq!(chunk(&machine).1.live(), 3);
    machine.check();
}

#[test]
fn a_removal_goes_on_in_bounded_steps_over_copies_drops_and_copies_under_way() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for file in 0..5 {
        client.put(&mut machine, &format!("/f{file}"), 1);
    }
    assert_eq!(copy_to(&mut machine, 4, true), []);
    assert_eq!(drop_of(&mut machine, 1), [], "its server never says that it is gone");
    let (id, row) = read::chunks(&machine.rows, None, 9).unwrap().remove(1);
    let plans = vec![CopyPlan {
        chunk: id,
        planned: row.replicas,
        targets: chain(&[4]),
    }];
    machine.apply(&Command::AddCopies { plans }).0.unwrap();
    change(&mut machine, &mut client, ServerId(4), ConditionChange::Remove).unwrap();
    change(&mut machine, &mut client, C1, ConditionChange::Remove).unwrap();
    let at = LogAt {
        index: 1000,
        term: 1,
        leader: MasterId(1),
    };
    let mut more = true;
    for _ in 0..3 {
        let mut batch = Batch::new(&machine.rows);
        let mut tx = Tx::new(World::load(&batch, at).unwrap().unwrap(), &batch);
        more = conditions::work_off(&mut tx, 2).unwrap();
        let changes = tx.into_changes();
        batch.absorb(changes);
        let changes = batch.into_changes();
        machine.rows.store(changes);
        machine.check();
    }
    assert!(!more, "five copies in steps of two");
    let replicas = |at: usize| read::chunks(&machine.rows, None, 9).unwrap()[at].1.replicas.clone();
    assert!(
        replicas(0).iter().all(|copy| copy.server != C1),
        "what was dropped is forgotten"
    );
    assert!(
        replicas(1).iter().all(|copy| copy.state == ReplicaState::Live),
        "a copy under way is, too"
    );
    assert!(replicas(2).iter().any(|copy| copy.server == C1), "it is needed");
    let all = conditions::all(&machine.rows).unwrap();
    assert_eq!(all[&C1], Condition::Removing { after: None }, "the walk begins anew");
}
