//! Owner, group and extended attributes.

use gabion_protocol::limits::{ATTRIBUTES_BYTES_MAX, NAME_BYTES_MAX};
use gabion_protocol::messages::master::{AttributeChange, Attributes};

use super::*;
use crate::state::key::Kind;

fn change(at: &str, change: AttributeChange) -> ClientCommand {
    ClientCommand::ChangeAttributes { path: path(at), change }
}

fn set(at: &str, name: &str, value: &[u8]) -> ClientCommand {
    let (name, value) = (name.to_owned(), value.to_vec());
    change(at, AttributeChange::Set { name, value })
}

fn unset(at: &str, name: &str) -> ClientCommand {
    change(at, AttributeChange::Remove { name: name.to_owned() })
}

fn own(at: &str, owner: Option<&str>, group: Option<&str>) -> ClientCommand {
    let (owner, group) = (owner.map(str::to_owned), group.map(str::to_owned));
    change(at, AttributeChange::Owner { owner, group })
}

fn shown(machine: &Machine, at: &str) -> Attributes {
    read::attributes(&machine.rows, &path(at)).unwrap()
}

fn rows(machine: &Machine) -> usize {
    let of = |key: &&Vec<u8>| Kind::of(key) == Some(Kind::Attributes);
    machine.rows.0.keys().filter(of).count()
}

#[test]
fn attributes_stay_with_the_file_and_go_with_it() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/d/f", 1);
    for command in [
        own("/d/f", Some("ann"), Some("1000")),
        own("/d/f", None, Some("staff")),
        set("/d/f", "user.b", b"\0\xff"),
        set("/d/f", "user.a", b"1"),
        set("/d/f", "user.a", b"2"),
        set("/d", "kept", b"by the directory"),
    ] {
        entry(client.run(&mut machine, command));
        machine.check();
    }
    let expected = Attributes {
        owner: "ann".to_owned(),
        group: "staff".to_owned(),
        extended: vec![
            ("user.a".to_owned(), b"2".to_vec()),
            ("user.b".to_owned(), vec![0, 0xff]),
        ],
    };
    assert_eq!(shown(&machine, "/d/f"), expected);
    entry(client.run(&mut machine, rename("/d", "/e", false)));
    assert_eq!(shown(&machine, "/e/f"), expected);
    client.run(&mut machine, discard("/e")).unwrap();
    machine.check();
    entry(client.run(&mut machine, restore("/e", Some("/g"))));
    assert_eq!(shown(&machine, "/g/f"), expected);
    // A file in its place is another one.
    client.put(&mut machine, "/g/f", 1);
    assert_eq!(shown(&machine, "/g/f"), Attributes::default());
    machine.settle();
    machine.check();
    assert_eq!(rows(&machine), 1, "only the directory has some");
    client.run(&mut machine, remove("/g", true)).unwrap();
    machine.settle();
    machine.check();
    assert_eq!(rows(&machine), 0);
}

#[test]
fn what_is_empty_is_no_row_and_limits_hold() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 1);
    entry(client.run(&mut machine, own("/f", Some("ann"), None)));
    entry(client.run(&mut machine, own("/f", Some(""), None)));
    entry(client.run(&mut machine, set("/f", "a", b"")));
    assert_eq!(rows(&machine), 1, "an empty value is a value");
    entry(client.run(&mut machine, unset("/f", "a")));
    assert_eq!(rows(&machine), 0);
    assert_eq!(client.refused(&mut machine, unset("/f", "a")), ErrorCode::NotFound);
    assert_eq!(
        client.refused(&mut machine, set("/none", "a", b"")),
        ErrorCode::NotFound
    );
    let longest = "n".repeat(NAME_BYTES_MAX);
    let all = vec![7; ATTRIBUTES_BYTES_MAX - NAME_BYTES_MAX];
    entry(client.run(&mut machine, set("/f", &longest, &all)));
    machine.check();
    assert_eq!(
        client.refused(&mut machine, set("/f", "a", b"")),
        ErrorCode::LimitExceeded
    );
    entry(client.run(&mut machine, set("/f", &longest, &all[1..])));
    entry(client.run(&mut machine, set("/f", "a", b"")));
    for name in ["", "a\0", &"n".repeat(NAME_BYTES_MAX + 1)] {
        assert_eq!(
            client.refused(&mut machine, set("/f", name, b"")),
            ErrorCode::InvalidArgument
        );
    }
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(
        client.refused(&mut machine, own("/f", None, Some(&long))),
        ErrorCode::InvalidArgument
    );
    machine.check();
}
