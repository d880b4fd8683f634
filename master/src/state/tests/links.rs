//! Symbolic links, rule by rule.

use gabion_protocol::limits::{DEPTH_MAX, LINKS_MAX, PATH_BYTES_MAX, WALK_NAMES_MAX};
use gabion_protocol::messages::master::{CopyFiles, LinkChange};

use super::*;
use crate::state::read::ReadError;

fn link(target: &str, at: &str) -> ClientCommand {
    ClientCommand::Link(LinkChange::Make {
        path: path(at),
        target: target.to_owned(),
        replace: false,
        parents: false,
        modified_ms: None,
    })
}

fn create(at: &str, replace: bool) -> ClientCommand {
    ClientCommand::CreateFile {
        path: path(at),
        options: UploadOptions {
            replace,
            parents: false,
            ..options()
        },
    }
}

fn snapshot(at: &str, name: &str) -> ClientCommand {
    ClientCommand::CreateSnapshot {
        path: path(at),
        name: name.to_owned(),
    }
}

/// Where a path leads, or the code of why not.
fn led(machine: &Machine, at: &str) -> Result<String, ErrorCode> {
    match read::follow(&machine.rows, &path(at)) {
        Ok((path, _)) => Ok(path.to_string()),
        Err(ReadError::Refused(refusal)) => Err(refusal.code()),
        Err(ReadError::Rows(error)) => panic!("{error}"),
    }
}

fn machine() -> (Machine, Client) {
    let machine = Machine::new();
    let client = Client::new(&machine, 1);
    (machine, client)
}

#[test]
fn links_lead_on_from_their_directory_or_the_root() {
    let (mut machine, mut client) = machine();
    client.put(&mut machine, "/d/e/f", 1);
    client.put(&mut machine, "/f", 1);
    for (target, at) in [
        ("f", "/d/e/same"),
        ("../../f", "/d/e/up"),
        ("/d/e/f", "/absolute"),
        ("d", "/dir"),
        ("dir/e/../e/./f", "/winding"),
        ("../../../..", "/d/e/root"),
        ("nowhere", "/dangling"),
    ] {
        let made = entry(client.run(&mut machine, link(target, at)));
        assert_eq!(
            (made.target(), made.length, made.mode),
            (Some(target), target.len() as u64, 0o777)
        );
        machine.check();
    }
    for (at, expected) in [
        ("/d/e/same", Ok("/d/e/f")),
        ("/d/e/up", Ok("/f")),
        ("/absolute", Ok("/d/e/f")),
        ("/dir/e/same", Ok("/d/e/f")),
        ("/winding", Ok("/d/e/f")),
        ("/d/e/root", Ok("/")),
        ("/dir/e/root/f", Ok("/f")),
        ("/dangling", Err(ErrorCode::NotFound)),
        ("/absolute/x", Err(ErrorCode::NotDirectory)),
    ] {
        assert_eq!(led(&machine, at), expected.map(str::to_owned), "{at}");
    }
    // At the end, a link is itself for who asks so.
    let shown = read::stat(&machine.rows, &path("/dir/e/same")).unwrap();
    assert_eq!((shown.name.as_str(), shown.target()), ("same", Some("f")));
    let names = read::list(&machine.rows, &path("/dir/e"), None, 9).unwrap().entries;
    assert_eq!(
        names.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        ["f", "root", "same", "up"]
    );
    // A link counts as a file of its target's bytes.
    let totals = read::totals(&machine.rows).unwrap();
    assert_eq!(
        (totals.files, totals.directories, totals.bytes),
        (9, 2, 20 + 1 + 7 + 6 + 1 + 14 + 11 + 7)
    );
}

#[test]
fn circles_and_long_ways_end_with_the_path_that_was_asked_for() {
    let (mut machine, mut client) = machine();
    entry(client.run(&mut machine, link("b", "/a")));
    entry(client.run(&mut machine, link("/a", "/b")));
    entry(client.run(&mut machine, link("self", "/self")));
    for at in ["/a", "/b/x", "/self"] {
        assert_eq!(led(&machine, at), Err(ErrorCode::LimitExceeded), "{at}");
        let refusal = client.run(&mut machine, mkdir(&format!("{at}/d"))).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::TooManyLinks {
                path: path(&format!("{at}/d"))
            }
        );
        // They can be looked at, moved and removed all the same.
        if at != "/b/x" {
            read::stat(&machine.rows, &path(at)).unwrap();
        }
    }
    entry(client.run(&mut machine, rename("/self", "/other", false)));
    assert_eq!(led(&machine, "/other"), Err(ErrorCode::NotFound));
    client.run(&mut machine, remove("/a", false)).unwrap();
    assert_eq!(led(&machine, "/b"), Err(ErrorCode::NotFound));
    // As many as Linux follows, and no more.
    entry(client.run(&mut machine, mkdir("/end")));
    entry(client.run(&mut machine, link("/end", "/l1")));
    for number in 2..=LINKS_MAX + 1 {
        let target = format!("l{}", number - 1);
        entry(client.run(&mut machine, link(&target, &format!("/l{number}"))));
    }
    assert_eq!(led(&machine, &format!("/l{LINKS_MAX}")), Ok("/end".to_owned()));
    assert_eq!(
        led(&machine, &format!("/l{}", LINKS_MAX + 1)),
        Err(ErrorCode::LimitExceeded)
    );
    // A short path that stands for very many names costs no more than a bound.
    let target = "end/../".repeat(WALK_NAMES_MAX / 2);
    entry(client.run(&mut machine, link(&target, "/winding")));
    assert_eq!(led(&machine, "/winding"), Err(ErrorCode::LimitExceeded));
    machine.check();
}

#[test]
fn a_file_that_may_replace_goes_where_the_link_leads() {
    let (mut machine, mut client) = machine();
    let before = client.put(&mut machine, "/d/f", 1);
    entry(client.run(&mut machine, link("d/f", "/l")));
    entry(client.run(&mut machine, link("d/new", "/dangling")));
    entry(client.run(&mut machine, link("none/new", "/far")));
    // Exclusively, the link itself is in the way, there or not what it leads to.
    for at in ["/l", "/dangling"] {
        assert_eq!(client.refused(&mut machine, create(at, false)), ErrorCode::Exists);
    }
    let after = client.put(&mut machine, "/l", 2);
    assert_eq!((after.name.as_str(), after.length), ("f", 20));
    assert_ne!(after.ino, before.ino);
    assert_eq!(read::stat(&machine.rows, &path("/l")).unwrap().target(), Some("d/f"));
    entry(client.run(&mut machine, create("/dangling", true)));
    assert_eq!(led(&machine, "/dangling"), Ok("/d/new".to_owned()));
    assert_eq!(client.refused(&mut machine, create("/far", true)), ErrorCode::NotFound);
    machine.check();
    // What is told of a file is told through links, too, but for what asks for the link.
    let told = ClientCommand::SetAttributes {
        path: path("/l"),
        mode: Some(0o600),
        modified_ms: Some(9),
    };
    assert_eq!(entry(client.run(&mut machine, told)).ino, after.ino);
    let itself = ClientCommand::Link(LinkChange::Tell {
        path: path("/l"),
        modified_ms: Some(3),
        owner: Some("ann".to_owned()),
        group: None,
    });
    assert_eq!(entry(client.run(&mut machine, itself)).modified_ms, 3);
    let owner = |machine: &Machine, at: &str| read::attributes(&machine.rows, &path(at)).unwrap().owner;
    assert_eq!(
        (owner(&machine, "/l"), owner(&machine, "/d/f")),
        ("ann".to_owned(), String::new())
    );
    machine.check();
}

#[test]
fn a_place_is_told_whether_something_is_there_or_not() {
    let (mut machine, mut client) = machine();
    client.put(&mut machine, "/d/f", 1);
    for (target, at) in [
        ("d/f", "/l"),
        ("../d/new", "/d/m"),
        ("d/m", "/n"),
        ("none/new", "/far"),
        ("d/f/x", "/through"),
        ("circle", "/circle"),
    ] {
        entry(client.run(&mut machine, link(target, at)));
    }
    for (at, expected) in [
        ("/l", Ok(("/d/f", true))),
        ("/d", Ok(("/d", true))),
        ("/n", Ok(("/d/new", false))),
        ("/d/none", Ok(("/d/none", false))),
        ("/far", Err(ErrorCode::NotFound)),
        ("/through", Err(ErrorCode::NotDirectory)),
        ("/circle", Err(ErrorCode::LimitExceeded)),
    ] {
        let told = match read::place(&machine.rows, &path(at)) {
            Ok((path, taken)) => Ok((path.to_string(), taken)),
            Err(ReadError::Refused(refusal)) => Err(refusal.code()),
            Err(ReadError::Rows(error)) => panic!("{error}"),
        };
        assert_eq!(told, expected.map(|(path, taken)| (path.to_owned(), taken)), "{at}");
    }
}

#[test]
fn rename_knows_a_place_by_any_path() {
    let (mut machine, mut client) = machine();
    client.put(&mut machine, "/d/e/f", 1);
    entry(client.run(&mut machine, link("/d/e", "/l")));
    // Into itself, by a way that does not look so.
    assert_eq!(
        client.refused(&mut machine, rename("/d", "/l/d", false)),
        ErrorCode::InvalidArgument
    );
    assert_eq!(
        client.refused(&mut machine, rename("/d/e", "/l/e", true)),
        ErrorCode::InvalidArgument
    );
    // Onto itself: nothing happens, above all nothing is removed.
    let before = machine.rows.clone();
    entry(client.run(&mut machine, rename("/d/e/f", "/l/f", true)));
    assert_eq!(led(&machine, "/d/e/f"), Ok("/d/e/f".to_owned()));
    assert_eq!(read::totals(&before).unwrap(), read::totals(&machine.rows).unwrap());
    // The link itself moves, gives way, and is never what it leads to.
    entry(client.run(&mut machine, rename("/l", "/d/l", false)));
    assert_eq!(led(&machine, "/d/l/f"), Ok("/d/e/f".to_owned()));
    assert_eq!(
        client.refused(&mut machine, rename("/d/e", "/d/l", true)),
        ErrorCode::NotDirectory
    );
    entry(client.run(&mut machine, rename("/d/e/f", "/d/l", true)));
    assert_eq!(led(&machine, "/d/l"), Ok("/d/l".to_owned()));
    machine.check();
}

#[test]
fn removals_take_the_link_and_find_it_again() {
    let (mut machine, mut client) = machine();
    client.put(&mut machine, "/d/f", 1);
    entry(client.run(&mut machine, link("d", "/l")));
    entry(client.run(&mut machine, link("f", "/d/m")));
    client.run(&mut machine, discard("/l")).unwrap();
    machine.check();
    assert_eq!(led(&machine, "/l"), Err(ErrorCode::NotFound));
    entry(client.run(&mut machine, restore("/l", None)));
    assert_eq!(led(&machine, "/l/f"), Ok("/d/f".to_owned()));
    // Removed by a path with a link, and restored by it or by the path without.
    for (gone, back) in [("/l/f", "/l/f"), ("/l/f", "/d/f"), ("/d/m", "/l/m")] {
        client.run(&mut machine, discard(gone)).unwrap();
        entry(client.run(&mut machine, restore(back, None)));
        machine.check();
    }
    // A tree goes with its links, and nothing that they lead to.
    client.put(&mut machine, "/kept", 1);
    entry(client.run(&mut machine, link("/kept", "/d/k")));
    client.run(&mut machine, remove("/d", true)).unwrap();
    machine.settle();
    machine.check();
    assert_eq!(led(&machine, "/kept"), Ok("/kept".to_owned()));
    assert_eq!(led(&machine, "/l"), Err(ErrorCode::NotFound));
    let totals = read::totals(&machine.rows).unwrap();
    assert_eq!((totals.files, totals.directories), (2, 0));
}

#[test]
fn links_in_a_snapshot_stay_in_it_unless_they_are_absolute() {
    let (mut machine, mut client) = machine();
    client.put(&mut machine, "/p/d/f", 1);
    client.put(&mut machine, "/p/x", 1);
    for (target, at) in [
        ("f", "/p/d/in"),
        ("../x", "/p/d/out"),
        // By names that the way to the snapshot has, and those above it.
        ("../f", "/p/d/own"),
        ("../s/f", "/p/d/again"),
        ("../../../x", "/p/d/higher"),
        ("../../../../p/x", "/p/d/highest"),
        ("/p/d/f", "/p/d/absolute"),
        ("e/..", "/p/d/gone"),
    ] {
        entry(client.run(&mut machine, link(target, at)));
    }
    client.run(&mut machine, snapshot("/p/d", "s")).unwrap();
    client.run(&mut machine, remove("/p/d/f", false)).unwrap();
    client.run(&mut machine, remove("/p/d/in", false)).unwrap();
    machine.check();
    let inside = |name: &str| format!("/p/d/.snapshot/s/{name}");
    assert_eq!(
        read::stat(&machine.rows, &path(&inside("in"))).unwrap().target(),
        Some("f")
    );
    assert_eq!(led(&machine, &inside("in")), Ok(inside("f")));
    for name in ["out", "own", "again", "higher", "highest"] {
        assert_eq!(
            led(&machine, &inside(name)),
            Err(ErrorCode::NotFound),
            "{name}: nothing is above a snapshot"
        );
    }
    assert_eq!(
        led(&machine, &inside("absolute")),
        Err(ErrorCode::NotFound),
        "what is there now"
    );
    assert_eq!(led(&machine, &inside("gone")), Err(ErrorCode::NotFound));
    // From outside links lead into snapshots, and nothing is written there through them.
    entry(client.run(&mut machine, link("/p/d/.snapshot/s", "/then")));
    assert_eq!(led(&machine, "/then/in"), Ok(inside("f")));
    let page = read::list(&machine.rows, &path("/then"), None, 9).unwrap();
    assert_eq!(page.entries.len(), 9);
    let copy = |from: &str, to: &str| {
        ClientCommand::Copy(CopyFiles {
            sources: vec![path(from)],
            to: path(to),
            replace: true,
            parents: false,
            keep_time: false,
        })
    };
    entry(client.run(&mut machine, copy("/then/in", "/back")));
    for command in [
        mkdir("/then/new"),
        create("/then/f", true),
        link("x", "/then/l"),
        rename("/back", "/then/b", true),
        rename("/then/f", "/b", true),
        discard("/then/f"),
        remove("/then/f", false),
        copy("/back", "/then/f"),
        open("/then/f", 1),
        snapshot("/then", "t"),
        ClientCommand::SetAttributes {
            path: path("/then/f"),
            mode: Some(0),
            modified_ms: None,
        },
    ] {
        let what = format!("{command:?}");
        assert_eq!(
            client.run(&mut machine, command).unwrap_err().code(),
            ErrorCode::ReadOnly,
            "{what}"
        );
    }
    // The link itself is no part of it.
    client.run(&mut machine, remove("/then", false)).unwrap();
    machine.check();
}

#[test]
fn limits_hold_on_the_place_and_not_on_the_path() {
    let (mut machine, mut client) = machine();
    for target in ["", "a\0b", &"x".repeat(256), &"x/".repeat(PATH_BYTES_MAX / 2 + 1)] {
        assert_eq!(client.refused(&mut machine, link(target, "/l")), ErrorCode::InvalidPath);
    }
    entry(client.run(&mut machine, link(&"x/".repeat(PATH_BYTES_MAX / 2), "/longest")));
    // As deep as can be; by a short path below it there is no more room.
    let deep = "/d".repeat(DEPTH_MAX);
    let above = "/d".repeat(DEPTH_MAX - 1);
    let parents = ClientCommand::Mkdir {
        path: path(&above),
        parents: true,
        mode: 0o755,
    };
    entry(client.run(&mut machine, parents));
    entry(client.run(&mut machine, link(&above, "/short")));
    entry(client.run(&mut machine, mkdir("/short/d")));
    assert_eq!(led(&machine, "/short/d"), Ok(deep));
    assert_eq!(
        client.refused(&mut machine, mkdir("/short/d/d")),
        ErrorCode::InvalidPath
    );
    assert_eq!(
        client.refused(&mut machine, create("/short/d/d", true)),
        ErrorCode::InvalidPath
    );
    client.put(&mut machine, "/x/y", 1);
    assert_eq!(
        client.refused(&mut machine, rename("/x", "/short/x", false)),
        ErrorCode::InvalidPath
    );
    machine.check();
}

#[test]
fn directories_are_made_through_links_to_directories() {
    let (mut machine, mut client) = machine();
    entry(client.run(&mut machine, mkdir("/d")));
    entry(client.run(&mut machine, link("d", "/l")));
    entry(client.run(&mut machine, link("none", "/dangling")));
    let parents = |at: &str| ClientCommand::Mkdir {
        path: path(at),
        parents: true,
        mode: 0o755,
    };
    assert_eq!(entry(client.run(&mut machine, parents("/l"))).name, "d");
    entry(client.run(&mut machine, parents("/l/x/y")));
    assert_eq!(led(&machine, "/l/x/y"), Ok("/d/x/y".to_owned()));
    for command in [mkdir("/l"), mkdir("/dangling"), parents("/dangling")] {
        assert_eq!(client.refused(&mut machine, command), ErrorCode::Exists);
    }
    machine.check();
}
