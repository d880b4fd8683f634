//! One command, one effect, one answer.

use super::*;

#[test]
fn a_retry_gets_the_first_answer_and_changes_nothing() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let make = client.command(mkdir("/a"));
    machine.apply(&make).0.unwrap();
    let refused = client.command(mkdir("/a"));
    let second = machine.apply(&refused);
    assert_eq!(second.0.as_ref().unwrap_err().code(), ErrorCode::Exists);
    client
        .run(&mut machine, ClientCommand::Renew { uploads: Vec::new() })
        .unwrap();
    let before = machine.rows.clone();
    assert_eq!(
        machine.apply(&refused),
        Reply(Err(Refusal::AnsweredBefore)),
        "the client knew the answer"
    );
    assert_eq!(machine.rows, before);

    let mut client = Client::new(&machine, 2);
    let make = client.request(1, 1, mkdir("/b"));
    let (first, again) = (machine.apply(&make), machine.apply(&make));
    assert_eq!(first, again);
    client.sequence = 1;
    let remove = client.request(2, 1, remove("/b", false));
    machine.apply(&remove).0.unwrap();
    let before = machine.rows.clone();
    assert_eq!(machine.apply(&make), first, "a late duplicate does not make it again");
    assert_eq!(
        machine.apply(&remove).0.unwrap(),
        Outcome::Removed {
            files: 0,
            directories: 1,
            bytes: 0
        }
    );
    assert_eq!(machine.rows, before);
    machine.check();
}

#[test]
fn the_window_is_bounded_and_moves_with_the_clients_word() {
    let mut machine = Machine::new();
    let client = Client::new(&machine, 1);
    let renew = || ClientCommand::Renew { uploads: Vec::new() };
    for sequence in (1..=64).rev() {
        assert_eq!(
            machine.apply(&client.request(sequence, 1, renew())).0,
            Ok(Outcome::Done)
        );
    }
    let beyond = machine.apply(&client.request(65, 1, renew())).0;
    assert_eq!(beyond, Err(Refusal::WindowExceeded { answered_below: 1 }));
    assert_eq!(machine.apply(&client.request(65, 2, renew())).0, Ok(Outcome::Done));
    assert_eq!(
        machine.apply(&client.request(1, 1, renew())).0,
        Err(Refusal::AnsweredBefore)
    );
    assert_eq!(
        machine.apply(&client.request(2, 1, renew())).0,
        Ok(Outcome::Done),
        "still stored"
    );
    machine.check();
}

#[test]
fn an_old_unknown_session_never_runs() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut late = Client::new(&machine, 2);
    let mut future = Client::new(&machine, 3);
    future.session.opened = StateTime(machine.now().0 + 1);
    assert_eq!(
        future.refused(&mut machine, mkdir("/future")),
        ErrorCode::OutcomeUnknown
    );
    let make = client.command(mkdir("/a"));
    machine.apply(&make).0.unwrap();
    machine.tick(SETTINGS.session_ms - 1);
    client.run(&mut machine, remove("/a", false)).unwrap();
    machine.tick(SETTINGS.session_ms - 1);
    client
        .run(&mut machine, ClientCommand::Renew { uploads: Vec::new() })
        .unwrap();
    assert_eq!(late.refused(&mut machine, mkdir("/late")), ErrorCode::OutcomeUnknown);
    machine.tick(SETTINGS.session_ms);
    let before = machine.rows.clone();
    assert_eq!(machine.apply(&make), Reply(Err(Refusal::SessionExpired)));
    assert_eq!(machine.rows, before);
    machine.check();
}

#[test]
fn a_refusal_of_the_leaders_choice_may_be_tried_again() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let opened = |servers: &[u32]| ClientCommand::OpenUpload {
        path: path("/f"),
        options: options(),
        placements: vec![chain(servers)],
    };
    client.sequence = 1;
    for bad in [vec![], vec![1], vec![1, 1], vec![1, 99]] {
        let refused = machine.apply(&client.request(1, 1, opened(&bad))).0.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TooFewServers, "{bad:?}");
    }
    machine.check();
    assert!(matches!(
        machine.apply(&client.request(1, 1, opened(&[1, 99, 2]))).0,
        Ok(Outcome::Upload { .. })
    ));
    machine.check();
}

#[test]
fn bytes_that_are_no_command_are_refused_alike() {
    let mut machine = Machine::new();
    let before = machine.rows.clone();
    for bytes in [&[][..], &[9, 9], &[1], &[1, 200], &[1, 7, 0]] {
        let at = LogAt {
            index: 99,
            term: 1,
            leader: MasterId(1),
        };
        let mut batch = Batch::new(&machine.rows);
        let (reply, mark) = StateMachine.apply_bytes(&mut batch, at, bytes).unwrap();
        assert_eq!(
            (Reply::decode(&reply).unwrap(), mark),
            (Reply(Err(Refusal::Malformed)), false)
        );
        machine.rows.store(batch.into_changes());
    }
    assert_eq!(machine.rows, before);
}

#[test]
fn levels_go_up_only_as_far_as_they_are_known() {
    let mut machine = Machine::new();
    assert_eq!(machine.apply(&Command::SetLevel { level: 1 }).0, Ok(Outcome::Done));
    assert_eq!(
        machine.apply(&Command::SetLevel { level: 0 }).0.unwrap_err().code(),
        ErrorCode::Conflict
    );
    let mut batch = Batch::new(&machine.rows);
    let at = LogAt {
        index: 99,
        term: 1,
        leader: MasterId(1),
    };
    let beyond = apply(&mut batch, at, &Command::SetLevel { level: LEVEL_KNOWN + 1 });
    assert!(
        matches!(beyond, Err(RowsError::Newer { .. })),
        "an older program stops instead of guessing"
    );
}

#[test]
fn the_first_command_counts_and_may_be_repeated() {
    let mut machine = Machine::new();
    let mut again = Bootstrap {
        cluster: CLUSTER,
        timeline: Timeline(1),
        settings: SETTINGS,
        wall_ms: 99,
    };
    let before = machine.rows.clone();
    assert_eq!(machine.apply(&Command::Bootstrap(again)).0, Ok(Outcome::Done));
    again.cluster = ClusterId([8; 16]);
    assert_eq!(machine.apply(&Command::Bootstrap(again)).0, Err(Refusal::Bootstrapped));
    assert_eq!(machine.rows, before);
    machine.rows = MemoryRows::default();
    assert_eq!(machine.apply(&Command::MarkHash).0, Err(Refusal::NotReady));
    again.settings.replicas = 0;
    assert_eq!(machine.apply(&Command::Bootstrap(again)).0, Err(Refusal::Settings));
    assert!(machine.rows.0.is_empty());
}
