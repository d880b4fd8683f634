//! Chunkservers: identity, damage, confirmed removals.

use gabion_protocol::messages::master::Damage;

use super::*;

fn is(server: u32) -> Result<Outcome, Refusal> {
    Ok(Outcome::Registered {
        server: ServerId(server),
    })
}

#[test]
fn a_directory_is_known_by_number_name_life_and_boots() {
    let mut machine = Machine::new();
    assert_eq!(machine.register("c1", None, 1, 1), is(1), "the answer was lost");
    assert_eq!(machine.register("c1", Some(1), 1, 5), is(1));
    assert_eq!(machine.register("c1", Some(1), 1, 5), is(1));
    for (name, server, life, boot) in [
        ("c1", Some(1), 1, 4),
        ("c1", Some(1), 9, 6),
        ("c2", Some(1), 1, 6),
        ("c1", None, 1, 4),
    ] {
        let refused = machine.register(name, server, life, boot).unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::StaleDirectory,
            "{name} {server:?} {life} {boot}"
        );
    }
    assert_eq!(
        machine.register("c9", Some(9), 9, 1).unwrap_err().code(),
        ErrorCode::NotFound
    );
    assert_eq!(
        machine.register("", None, 9, 1).unwrap_err().code(),
        ErrorCode::InvalidArgument
    );
    machine.check();
}

#[test]
fn an_empty_directory_takes_a_name_over_under_a_new_number() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 1);
    assert_eq!(machine.register("c1", None, 50, 1), is(5));
    assert_eq!(machine.register("c1", None, 50, 1), is(5));
    let refused = machine.register("c1", Some(1), 1, 9).unwrap_err();
    let by = ServerId(5);
    assert_eq!(
        refused,
        Refusal::ServerRetired {
            server: ServerId(1),
            by
        }
    );
    assert_eq!(
        read::held(&machine.rows, ServerId(1), None, 9).unwrap().len(),
        1,
        "its copies are not forgotten"
    );
    let taken = ClientCommand::OpenUpload {
        path: path("/g"),
        options: options(),
        placements: vec![chain(&[1, 2])],
    };
    assert_eq!(
        client.refused(&mut machine, taken),
        ErrorCode::TooFewServers,
        "it gets no more"
    );
    machine.check();
}

#[test]
fn only_ordered_removals_are_forgotten() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/f", 1);
    let extent = read::extents(&machine.rows, file.ino, None, 0, 1).unwrap().0.remove(0);
    let (id, copy) = (extent.extent.chunk, extent.chunk.replicas[0]);
    let before = machine.rows.clone();
    for (server, number) in [
        (copy.server, copy.number),
        (ServerId(4), copy.number),
        (ServerId(77), copy.number),
    ] {
        let done = vec![(id, number)];
        assert_eq!(
            machine.apply(&Command::ReplicasDropped { server, done }).0,
            Ok(Outcome::Done)
        );
    }
    assert_eq!(
        machine.rows, before,
        "a live copy is not forgotten because its server says so"
    );
}

#[test]
fn reports_of_damage_last_until_the_copy_is_gone_or_cleared() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/f", 1);
    let extent = read::extents(&machine.rows, file.ino, None, 0, 1).unwrap().0.remove(0);
    let (chunk, copy) = (extent.extent.chunk, extent.chunk.replicas[1]);
    let report = |replica, what: &str| ClientCommand::ReportDamage {
        chunk,
        server: copy.server,
        replica,
        what: what.to_owned(),
    };
    let reports = |machine: &Machine| read::damage_reports(&machine.rows, 9).unwrap();
    client
        .run(&mut machine, report(ReplicaNumber(999), "another copy"))
        .unwrap();
    assert!(reports(&machine).is_empty());
    client.run(&mut machine, report(copy.number, &"ü".repeat(500))).unwrap();
    assert_eq!(reports(&machine)[0].1.what.len(), DAMAGE_TEXT_BYTES_MAX);
    assert!(!reports(&machine)[0].1.confirmed);
    machine.check();
    let found = vec![Damage {
        chunk,
        replica: copy.number,
        what: "block 3".to_owned(),
    }];
    let server = copy.server;
    machine.apply(&Command::DamageFound { server, found }).0.unwrap();
    assert!(reports(&machine)[0].1.confirmed);
    assert_eq!(
        read::extents(&machine.rows, file.ino, None, 0, 1).unwrap().0[0].damaged,
        [server]
    );
    let intact = vec![(chunk, copy.number)];
    machine.apply(&Command::DamageCleared { server, intact }).0.unwrap();
    assert!(reports(&machine).is_empty());

    client.run(&mut machine, report(copy.number, "again")).unwrap();
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    machine.tick(SETTINGS.token_ms);
    assert!(reports(&machine).is_empty());
    machine.check();
}
