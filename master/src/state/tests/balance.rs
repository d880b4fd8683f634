//! Moves of copies: how they begin and end, and that their row is there exactly as long.

use gabion_protocol::messages::master::Damage;

use super::repair::{drop_of, made, refused, row, states, stored};
use super::*;
use crate::state::balance::{self, CopyMove};
use crate::state::key::chunk::ReplicaState::{Copying, Dropping, Live};
use crate::state::key::moving::Move;

fn move_of(machine: &Machine, id: ChunkId, from: u32, to: u32) -> Command {
    Command::MoveCopies {
        moves: vec![CopyMove {
            chunk: id,
            planned: row(machine, id).replicas,
            from: ServerId(from),
            to: ServerId(to),
        }],
    }
}

/// A chunk on servers 1, 2 and 3 whose copy on server 1 is being moved to server 4.
fn moving() -> (Machine, Client, ChunkId, Move) {
    let (mut machine, client, id) = stored();
    let command = move_of(&machine, id, 1, 4);
    assert_eq!(refused(&mut machine, &command), []);
    let under_way = balance::of(&machine.rows, id).unwrap().unwrap();
    machine.check();
    (machine, client, id, under_way)
}

fn is_over(machine: &Machine, id: ChunkId) -> bool {
    machine.check();
    balance::of(&machine.rows, id).unwrap().is_none()
}

#[test]
fn a_move_is_a_copy_more_and_then_one_less() {
    let (mut machine, _, id, under_way) = moving();
    let goes = row(&machine, id).replicas[0].number;
    assert_eq!((under_way.from, under_way.goes), (ServerId(1), goes));
    assert_eq!(
        (under_way.to, row(&machine, id).replicas[3].number),
        (ServerId(4), under_way.comes)
    );
    assert_eq!(states(&machine, id), [(1, Live), (2, Live), (3, Live), (4, Copying)]);
    let early = drop_of(&machine, id, 1);
    let needed = Refusal::CopiesNeeded {
        chunk: id,
        left: 2,
        needed: 3,
    };
    assert_eq!(
        refused(&mut machine, &early),
        [needed],
        "not before the other copy is there"
    );
    let done = made(&machine, id, under_way.comes, 4);
    refused(&mut machine, &done);
    assert_eq!(
        balance::of(&machine.rows, id).unwrap(),
        Some(under_way),
        "the old copy is still to go"
    );
    machine.check();
    let drop = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &drop), []);
    assert!(is_over(&machine, id), "with the drop, in the same entry");
    assert_eq!(states(&machine, id), [(1, Dropping), (2, Live), (3, Live), (4, Live)]);
    machine.obey();
    assert_eq!(states(&machine, id), [(2, Live), (3, Live), (4, Live)]);
    machine.check();
}

#[test]
fn what_changed_since_the_plan_stays_and_nothing_begins_twice() {
    let (mut machine, _, id) = stored();
    let command = move_of(&machine, id, 1, 4);
    let other = move_of(&machine, id, 2, 4);
    assert_eq!(refused(&mut machine, &command), []);
    let rows = machine.rows.clone();
    for again in [command, other, move_of(&machine, id, 1, 4), move_of(&machine, id, 2, 5)] {
        assert_eq!(refused(&mut machine, &again).len(), 1, "{again:?}");
        assert_eq!(machine.rows, rows);
    }
    machine.check();
}

#[test]
fn a_plan_for_other_rows_is_refused_also_when_nothing_is_under_way() {
    let (mut machine, _, id) = stored();
    machine.register("c5", None, 5, 1).unwrap();
    let old = move_of(&machine, id, 1, 5);
    // Another copy moves meanwhile, and that ends.
    let command = move_of(&machine, id, 2, 4);
    assert_eq!(refused(&mut machine, &command), []);
    let comes = balance::of(&machine.rows, id).unwrap().unwrap().comes;
    let done = made(&machine, id, comes, 4);
    refused(&mut machine, &done);
    let drop = drop_of(&machine, id, 2);
    assert_eq!(refused(&mut machine, &drop), []);
    machine.obey();
    assert_eq!(refused(&mut machine, &old), [Refusal::CopiesChanged { chunk: id }]);
    assert!(is_over(&machine, id));
}

#[test]
fn only_a_chunk_at_rest_moves_and_only_to_who_has_none() {
    let (mut machine, _, id) = stored();
    machine.register("c5", None, 5, 1).unwrap();
    let cannot = |server| Refusal::CopyTarget {
        chunk: id,
        server: ServerId(server),
    };
    for (from, to, why) in [
        (1, 2, cannot(2)),
        (1, 9, cannot(9)),
        (4, 5, Refusal::CopiesChanged { chunk: id }),
    ] {
        let command = move_of(&machine, id, from, to);
        assert_eq!(refused(&mut machine, &command), [why]);
        assert!(is_over(&machine, id));
    }
    // One copy more or less than wanted, or one under way: that is repair's.
    let drop = |machine: &mut Machine, server| {
        let damage = Damage {
            chunk: id,
            replica: row(machine, id).replicas[0].number,
            what: "x".to_owned(),
        };
        let found = vec![damage];
        let server = ServerId(server);
        machine.apply(&Command::DamageFound { server, found }).0.unwrap();
        let drop = drop_of(machine, id, 1);
        assert_eq!(refused(machine, &drop), []);
        machine.obey();
    };
    drop(&mut machine, 1);
    let command = move_of(&machine, id, 2, 4);
    assert_eq!(refused(&mut machine, &command), [Refusal::CopiesChanged { chunk: id }]);
    assert!(is_over(&machine, id));
}

#[test]
fn a_move_ends_with_its_copy_whatever_ends_that() {
    // Given up.
    let (mut machine, _, id, under_way) = moving();
    let copies = vec![(id, ServerId(4), under_way.comes)];
    machine.apply(&Command::CopiesGivenUp { copies }).0.unwrap();
    assert!(is_over(&machine, id));
    assert_eq!(states(&machine, id)[0], (1, Live));
    // Made of something else.
    let (mut machine, _, id, under_way) = moving();
    let Command::CopiesMade { server, mut made } = made(&machine, id, under_way.comes, 4) else {
        unreachable!()
    };
    made[0].crc ^= 1;
    refused(&mut machine, &Command::CopiesMade { server, made });
    assert!(is_over(&machine, id));
    // The file is removed: the row goes when the copies are ordered dropped.
    let (mut machine, mut client, id, _) = moving();
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    machine.check();
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    assert!(is_over(&machine, id));
    machine.obey();
    machine.check();
}

#[test]
fn a_copy_that_is_needed_by_now_stays_and_so_does_the_other() {
    // Another copy was found damaged meanwhile and dropped for the one that came.
    let (mut machine, _, id, under_way) = moving();
    let done = made(&machine, id, under_way.comes, 4);
    refused(&mut machine, &done);
    let damage = Damage {
        chunk: id,
        replica: row(&machine, id).replicas[1].number,
        what: "x".to_owned(),
    };
    let found = vec![damage];
    let server = ServerId(2);
    machine.apply(&Command::DamageFound { server, found }).0.unwrap();
    let drop = drop_of(&machine, id, 2);
    assert_eq!(refused(&mut machine, &drop), []);
    assert!(is_over(&machine, id), "three are there and wanted: nothing is to go");
    let drop = drop_of(&machine, id, 1);
    assert_eq!(refused(&mut machine, &drop).len(), 1);
    assert_eq!(states(&machine, id)[0], (1, Live));
}

#[test]
fn an_operator_stops_it_and_it_stays_stopped() {
    let (mut machine, mut client, id) = stored();
    assert!(balance::runs(&machine.rows).unwrap(), "without a word it runs");
    client
        .run(&mut machine, ClientCommand::SetBalance { runs: false })
        .unwrap();
    let command = move_of(&machine, id, 1, 4);
    assert_eq!(machine.apply(&command).0, Err(Refusal::BalanceStopped));
    assert!(is_over(&machine, id));
    // What is under way may still end.
    client
        .run(&mut machine, ClientCommand::SetBalance { runs: true })
        .unwrap();
    assert_eq!(refused(&mut machine, &command), []);
    client
        .run(&mut machine, ClientCommand::SetBalance { runs: false })
        .unwrap();
    assert!(!balance::runs(&machine.rows).unwrap());
    assert!(!is_over(&machine, id));
}
