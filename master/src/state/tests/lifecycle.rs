//! Chunks and files through their lives: granted, sealed, linked, replaced, reclaimed.

use super::*;
use crate::state::key::Kind;
use crate::state::key::chunk::{Phase, ReplicaState};
use crate::state::rows::Rows;

fn rows_of(machine: &Machine, kind: Kind) -> usize {
    let from = [kind as u8];
    machine.rows.scan(&from, &[kind as u8 + 1], usize::MAX).unwrap().len()
}

#[test]
fn an_upload_appears_whole_and_its_parents_with_it() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut upload = client.open(&mut machine, "/a/b/f", 3);
    let first = upload.seal(10, 0x11);
    client.run(&mut machine, upload.seal_chunks(vec![first])).unwrap();
    assert!(
        read::stat(&machine.rows, &path("/a")).is_err(),
        "nothing is seen before the commit"
    );
    let second = upload.seal(20, 0x22);
    let file = entry(client.run(&mut machine, upload.commit(vec![second])));
    assert_eq!((file.name.as_str(), file.length, file.children), ("f", 30, 2));
    assert_eq!(file.crc, upload.whole.crc());
    let root = read::totals(&machine.rows).unwrap();
    assert_eq!((root.files, root.directories, root.bytes), (1, 2, 30));
    let (extents, more) = read::extents(&machine.rows, file.ino, None, 10, 10).unwrap();
    assert_eq!(
        (extents.len(), extents[0].offset, more),
        (1, 10, false),
        "from the extent that holds the offset"
    );
    let (extents, more) = read::extents(&machine.rows, file.ino, None, 9, 1).unwrap();
    assert_eq!((extents[0].offset, more), (0, true));
    machine.check();

    // The chunk that was granted and not used goes away.
    machine.tick(SETTINGS.token_ms);
    machine.obey();
    assert_eq!(rows_of(&machine, Kind::Chunk), 2);
    machine.check();
}

#[test]
fn copies_of_garbage_stay_until_the_last_token_has_expired() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/f", 1);
    let id = read::extents(&machine.rows, file.ino, None, 0, 1).unwrap().0[0]
        .extent
        .chunk;
    client.run(&mut machine, remove("/f", false)).unwrap();
    machine.settle();
    let garbage = read::chunk(&machine.rows, id).unwrap().unwrap();
    assert!(matches!(garbage.phase, Phase::Garbage { .. }));
    machine.tick(SETTINGS.token_ms - 1);
    assert!(
        read::drop_orders(&machine.rows, ServerId(1), 9).unwrap().is_empty(),
        "a token is still valid"
    );
    machine.tick(1);
    assert_eq!(read::drop_orders(&machine.rows, ServerId(1), 9).unwrap().len(), 1);
    machine.check();
    machine.obey();
    assert_eq!(read::chunk(&machine.rows, id).unwrap(), None);
    machine.check();
}

#[test]
fn a_replaced_file_goes_whole() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let old = client.put(&mut machine, "/f", 3);
    let new = client.put(&mut machine, "/f", 1);
    assert_ne!(old.ino, new.ino);
    machine.check();
    machine.settle();
    machine.tick(SETTINGS.token_ms);
    machine.obey();
    machine.check();
    assert_eq!(rows_of(&machine, Kind::Chunk), 1);
    assert_eq!(rows_of(&machine, Kind::Inode), 2, "the root and the new file");
    let root = read::totals(&machine.rows).unwrap();
    assert_eq!((root.files, root.bytes), (1, 10));
}

#[test]
fn survivors_seal_and_the_others_copies_are_dropped() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut upload = client.open(&mut machine, "/f", 2);
    let mut seal = upload.seal(10, 1);
    let id = seal.chunk;
    seal.members = chain(&[1]);
    let refused = client.run(&mut machine, upload.seal_chunks(vec![seal.clone()]));
    assert_eq!(
        refused.unwrap_err().code(),
        ErrorCode::TooFewServers,
        "one copy is not durable"
    );
    seal.members = chain(&[1, 4]);
    assert_eq!(
        client.refused(&mut machine, upload.seal_chunks(vec![seal.clone()])),
        ErrorCode::InvalidArgument
    );
    seal.members = chain(&[1, 1]);
    assert_eq!(
        client.refused(&mut machine, upload.seal_chunks(vec![seal.clone()])),
        ErrorCode::InvalidArgument
    );
    seal.members = chain(&[3, 1]);
    let file = entry(client.run(&mut machine, upload.commit(vec![seal])));
    assert!(file.degraded);
    let chunk = read::chunk(&machine.rows, id).unwrap().unwrap();
    let states: Vec<_> = chunk.replicas.iter().map(|replica| replica.state).collect();
    assert_eq!(states, [ReplicaState::Live, ReplicaState::Dropping, ReplicaState::Live]);
    assert_eq!(read::degraded(&machine.rows, 9).unwrap().len(), 1);
    assert_eq!(read::drop_orders(&machine.rows, ServerId(2), 9).unwrap().len(), 1);
    machine.obey();
    assert_eq!(read::chunk(&machine.rows, id).unwrap().unwrap().replicas.len(), 2);
    machine.check();
}

#[test]
fn seals_follow_each_other_and_add_up() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut upload = client.open(&mut machine, "/f", 3);
    let (first, second) = (upload.seal(10, 1), upload.seal(10, 2));
    assert_eq!(
        client.refused(&mut machine, upload.seal_chunks(vec![second.clone()])),
        ErrorCode::InvalidArgument
    );
    for (length, generation) in [(0, 1), ((64 << 20) + 1, 1), (10, 2), (10, 0)] {
        let mut wrong = first.clone();
        (wrong.length, wrong.generation) = (length, Generation(generation));
        client.run(&mut machine, upload.seal_chunks(vec![wrong])).unwrap_err();
    }
    // A batch that ends badly changes nothing, also what was well in it.
    let batch = vec![first.clone(), first.clone()];
    assert_eq!(
        client.refused(&mut machine, upload.seal_chunks(batch)),
        ErrorCode::InvalidArgument
    );
    machine.check();
    client
        .run(&mut machine, upload.seal_chunks(vec![first, second]))
        .unwrap();
    for (length, crc) in [(19, upload.whole.crc()), (20, 5)] {
        let lie = ClientCommand::Commit {
            upload: upload.ino,
            generation: upload.generation,
            seals: Vec::new(),
            length,
            crc,
        };
        assert_eq!(client.refused(&mut machine, lie), ErrorCode::ChecksumMismatch);
    }
    entry(client.run(&mut machine, upload.commit(Vec::new())));
    assert_eq!(
        client.refused(&mut machine, upload.commit(Vec::new())),
        ErrorCode::Fenced,
        "it is committed"
    );
    machine.check();
}

#[test]
fn another_owner_is_fenced() {
    let mut machine = Machine::new();
    let (mut client, mut other) = (Client::new(&machine, 1), Client::new(&machine, 2));
    let mut upload = client.open(&mut machine, "/f", 1);
    assert_eq!(
        other.refused(&mut machine, upload.commit(Vec::new())),
        ErrorCode::Fenced
    );
    assert_eq!(other.refused(&mut machine, upload.abort()), ErrorCode::Fenced);
    let current = upload.generation;
    upload.generation = UploadGeneration(2);
    assert_eq!(client.refused(&mut machine, upload.abort()), ErrorCode::Fenced);
    upload.generation = current;
    client.run(&mut machine, upload.abort()).unwrap();
    client.run(&mut machine, upload.abort()).unwrap();
    assert_eq!(
        client.refused(&mut machine, upload.commit(Vec::new())),
        ErrorCode::Fenced
    );
    machine.settle();
    machine.tick(SETTINGS.token_ms);
    machine.obey();
    machine.check();
    assert_eq!((rows_of(&machine, Kind::Chunk), rows_of(&machine, Kind::Inode)), (0, 1));
}

#[test]
fn an_upload_lives_as_long_as_its_owner_is_heard_of() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let (kept, lost) = (
        client.open(&mut machine, "/kept", 1),
        client.open(&mut machine, "/lost", 1),
    );
    let uploads = vec![(kept.ino, kept.generation), (Ino(999), UploadGeneration(1))];
    for _ in 0..3 {
        machine.tick(SETTINGS.upload_lease_ms - 1);
        client
            .run(
                &mut machine,
                ClientCommand::Renew {
                    uploads: uploads.clone(),
                },
            )
            .unwrap();
    }
    machine.check();
    assert_eq!(client.refused(&mut machine, lost.commit(Vec::new())), ErrorCode::Fenced);
    entry(client.run(&mut machine, kept.commit(Vec::new())));
    machine.tick(SETTINGS.upload_lease_ms + SETTINGS.session_ms);
    assert_eq!(rows_of(&machine, Kind::UploadLease), 0);
    assert_eq!(rows_of(&machine, Kind::Session), 0);
    assert_eq!(rows_of(&machine, Kind::Reply), 0);
    machine.check();
}

#[test]
fn a_large_tree_is_unlinked_at_once_and_reclaimed_in_steps() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for directory in 0..3 {
        for file in 0..400 {
            client.put(&mut machine, &format!("/t/d{directory}/f{file}"), 1);
        }
    }
    let removed = client.run(&mut machine, remove("/t", true)).unwrap();
    let all = Outcome::Removed {
        files: 1200,
        directories: 4,
        bytes: 12_000,
    };
    assert_eq!(removed, all);
    assert_eq!(read::totals(&machine.rows).unwrap().files, 0);
    assert!(machine.tick(0), "one tick does a bounded part");
    machine.check();
    machine.settle();
    machine.check();
    machine.tick(SETTINGS.token_ms);
    machine.settle();
    for _ in 0..2 {
        machine.obey();
    }
    machine.check();
    assert_eq!((rows_of(&machine, Kind::Chunk), rows_of(&machine, Kind::Inode)), (0, 1));
    assert_eq!((rows_of(&machine, Kind::Total), rows_of(&machine, Kind::Trash)), (1, 0));
}

#[test]
fn a_target_is_looked_at_again_when_the_upload_commits() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let keep = |replace| ClientCommand::OpenUpload {
        path: path("/f"),
        options: UploadOptions { replace, ..options() },
        placements: Vec::new(),
    };
    let Outcome::Upload { upload, generation, .. } = client.run(&mut machine, keep(false)).unwrap() else {
        panic!("no upload");
    };
    client.put(&mut machine, "/f", 1);
    let late = ClientCommand::Commit {
        upload,
        generation,
        seals: Vec::new(),
        length: 0,
        crc: 0,
    };
    assert_eq!(client.refused(&mut machine, late.clone()), ErrorCode::Exists);
    assert_eq!(client.refused(&mut machine, keep(false)), ErrorCode::Exists);
    client.run(&mut machine, remove("/f", false)).unwrap();
    client.run(&mut machine, mkdir("/f")).unwrap();
    assert_eq!(client.refused(&mut machine, late.clone()), ErrorCode::IsDirectory);
    assert_eq!(client.refused(&mut machine, keep(true)), ErrorCode::IsDirectory);
    client.run(&mut machine, remove("/f", false)).unwrap();
    assert_eq!(entry(client.run(&mut machine, late)).length, 0, "a file may be empty");
    machine.check();
}

#[test]
fn rename_replaces_by_the_rules_of_posix() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/d/f", 1);
    client.put(&mut machine, "/g", 2);
    client.run(&mut machine, mkdir("/e")).unwrap();
    for (from, to, code) in [
        ("/d", "/d/x", ErrorCode::InvalidArgument),
        ("/d", "/d/f/x", ErrorCode::InvalidArgument),
        ("/", "/x", ErrorCode::InvalidArgument),
        ("/d", "/", ErrorCode::InvalidArgument),
        ("/none", "/x", ErrorCode::NotFound),
        ("/d/f", "/none/x", ErrorCode::NotFound),
        ("/d/f", "/g/x", ErrorCode::NotDirectory),
        ("/d", "/g", ErrorCode::NotDirectory),
        ("/g", "/e", ErrorCode::IsDirectory),
        ("/d/f", "/d", ErrorCode::IsDirectory),
        ("/e", "/d", ErrorCode::NotEmpty),
    ] {
        assert_eq!(
            client.refused(&mut machine, rename(from, to, true)),
            code,
            "{from} to {to}"
        );
    }
    assert_eq!(
        client.refused(&mut machine, rename("/d", "/e", false)),
        ErrorCode::Exists
    );
    assert_eq!(entry(client.run(&mut machine, rename("/d", "/e", true))).children, 1);
    assert_eq!(entry(client.run(&mut machine, rename("/g", "/e/f", true))).length, 20);
    assert_eq!(
        entry(client.run(&mut machine, rename("/e", "/e", false))).length,
        20,
        "onto itself"
    );
    machine.check();
    machine.settle();
    machine.check();
}

#[test]
fn attributes_change_alone() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let file = client.put(&mut machine, "/d/f", 2);
    let set = |at: &str, mode, modified_ms| ClientCommand::SetAttributes {
        path: path(at),
        mode,
        modified_ms,
    };
    let changed = entry(client.run(&mut machine, set("/d/f", Some(0o600), None)));
    assert_eq!(
        changed,
        Entry {
            mode: 0o600,
            ..file.clone()
        }
    );
    let changed = entry(client.run(&mut machine, set("/d/f", None, Some(-77))));
    let expected = Entry {
        mode: 0o600,
        modified_ms: -77,
        ..file
    };
    assert_eq!(changed, expected);
    assert_eq!(read::stat(&machine.rows, &path("/d/f")).unwrap(), expected);
    let directory = entry(client.run(&mut machine, set("/d", Some(0o7777), Some(5))));
    assert_eq!(
        (directory.mode, directory.modified_ms, directory.children),
        (0o7777, 5, 1)
    );
    assert_eq!(entry(client.run(&mut machine, set("/", Some(0o700), None))).mode, 0o700);
    machine.check();
    for (at, mode, code) in [
        ("/d/f", 0o10000, ErrorCode::InvalidArgument),
        ("/none", 0, ErrorCode::NotFound),
        ("/d/f/x", 0, ErrorCode::NotDirectory),
    ] {
        assert_eq!(client.refused(&mut machine, set(at, Some(mode), Some(1))), code, "{at}");
    }
    assert_eq!(
        read::stat(&machine.rows, &path("/d/f")).unwrap(),
        expected,
        "a refusal changes nothing"
    );
    // What was changed stays so through the trash.
    client.run(&mut machine, discard("/d")).unwrap();
    client.run(&mut machine, restore("/d", None)).unwrap();
    assert_eq!(read::stat(&machine.rows, &path("/d/f")).unwrap(), expected);
    machine.check();
}
