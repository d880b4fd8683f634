//! Uploads that outlive their client: found by path and identity, taken over, fenced, kept, and ended.

use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::limits::RESUME_MS_MAX;

use super::*;
use crate::state::key::Kind;
use crate::state::key::chunk::{ChunkKey, Phase};

const KEEP_MS: u64 = 5_000;

fn ann() -> Identity {
    Identity {
        role: Role::Client,
        id: "ann".to_owned(),
    }
}

fn resume_as(owner: Identity, at: &str) -> ClientCommand {
    ClientCommand::ResumeUpload {
        path: path(at),
        options: options(),
        owner,
        keep_ms: KEEP_MS,
    }
}

/// The upload, and length and CRC of what is recorded.
#[track_caller]
fn resumed(outcome: Result<Outcome, Refusal>) -> (Upload, (u64, u32)) {
    let Ok(Outcome::Resumed {
        upload,
        generation,
        length,
        crc,
        ..
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    let mut whole = Running::default();
    whole.append(crc, length);
    let upload = Upload {
        ino: upload,
        generation,
        chunks: std::collections::VecDeque::new(),
        whole,
    };
    (upload, (length, crc))
}

fn grant(machine: &mut Machine, client: &mut Client, upload: &mut Upload, chunks: usize) {
    let command = ClientCommand::GrantChunks {
        upload: upload.ino,
        generation: upload.generation,
        placements: vec![chain(&[1, 2, 3]); chunks],
        abandoned: Vec::new(),
    };
    match client.run(machine, command) {
        Ok(Outcome::Chunks(granted)) => upload.chunks.extend(granted),
        other => panic!("{other:?}"),
    }
}

/// An upload of ann's to `/f` with one chunk of ten bytes recorded, and one open.
fn half_done(machine: &mut Machine, client: &mut Client) -> Upload {
    let (mut upload, recorded) = resumed(client.run(machine, resume_as(ann(), "/f")));
    assert_eq!(recorded, (0, 0));
    grant(machine, client, &mut upload, 2);
    let seal = upload.seal(10, 7);
    assert_eq!(client.run(machine, upload.seal_chunks(vec![seal])), Ok(Outcome::Done));
    machine.check();
    upload
}

#[test]
fn the_same_identity_goes_on_and_the_former_owner_is_fenced() {
    let mut machine = Machine::new();
    let (mut old, mut new) = (Client::new(&machine, 1), Client::new(&machine, 2));
    let mut left = half_done(&mut machine, &mut old);
    let open = left.chunks[0].chunk;
    let (mut upload, recorded) = resumed(new.run(&mut machine, resume_as(ann(), "/f")));
    assert_eq!((upload.ino, recorded), (left.ino, (10, 7)));
    assert!(upload.generation > left.generation);
    let chunk = key::require(&machine.rows, &ChunkKey(open)).unwrap();
    assert!(
        matches!(chunk.phase, Phase::Garbage { .. }),
        "what was open is given up"
    );
    machine.check();
    let late = left.seal(10, 8);
    for command in [left.seal_chunks(vec![late]), left.commit(Vec::new()), left.abort()] {
        assert_eq!(old.refused(&mut machine, command), ErrorCode::Fenced);
    }
    // Also in the same session: what counts is the generation.
    let (taken, _) = resumed(new.run(&mut machine, resume_as(ann(), "/f")));
    assert_eq!(new.refused(&mut machine, upload.abort()), ErrorCode::Fenced);
    upload.generation = taken.generation;
    grant(&mut machine, &mut new, &mut upload, 1);
    let seal = upload.seal(20, 9);
    let file = entry(new.run(&mut machine, upload.commit(vec![seal])));
    assert_eq!((file.ino, file.length, file.crc), (left.ino, 30, upload.whole.crc()));
    machine.check();
    let (fresh, recorded) = resumed(new.run(&mut machine, resume_as(ann(), "/f")));
    assert_ne!(fresh.ino, left.ino, "what is a file is no upload any more");
    assert_eq!(recorded, (0, 0));
    machine.check();
}

#[test]
fn nobody_finds_anothers_upload_nor_one_that_is_not_to_be_found() {
    let mut machine = Machine::new();
    let (mut one, mut two) = (Client::new(&machine, 1), Client::new(&machine, 2));
    let left = half_done(&mut machine, &mut one);
    let plain = one.open(&mut machine, "/f", 1);
    let other = Identity {
        role: Role::Operator,
        ..ann()
    };
    for command in [
        resume_as(other, "/f"),
        resume_as(ann(), "/ff"),
        resume_as(ann(), "/d/f"),
    ] {
        let (upload, recorded) = resumed(two.run(&mut machine, command));
        assert_eq!(recorded, (0, 0));
        assert!(upload.ino != left.ino && upload.ino != plain.ino);
    }
    machine.check();
    assert_eq!(one.run(&mut machine, plain.abort()), Ok(Outcome::Done));
    assert_eq!(
        one.run(&mut machine, left.abort()),
        Ok(Outcome::Done),
        "it is still one's own"
    );
    let (_, recorded) = resumed(one.run(&mut machine, resume_as(ann(), "/f")));
    assert_eq!(recorded, (0, 0), "what was given up is gone");
    machine.check();
}

#[test]
fn it_is_kept_after_its_lease_and_not_for_ever() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let left = half_done(&mut machine, &mut client);
    machine.tick(SETTINGS.upload_lease_ms);
    machine.check();
    let open = key::require(&machine.rows, &ChunkKey(left.chunks[0].chunk)).unwrap();
    assert!(
        matches!(open.phase, Phase::Garbage { .. }),
        "nobody writes what was open"
    );
    assert_eq!(client.refused(&mut machine, left.commit(Vec::new())), ErrorCode::Fenced);
    machine.tick(KEEP_MS - 1);
    let mut client = Client::new(&machine, 2);
    let (upload, recorded) = resumed(client.run(&mut machine, resume_as(ann(), "/f")));
    assert_eq!((upload.ino, recorded), (left.ino, (10, 7)));
    machine.check();
    // From the takeover on it has a lease, and is kept after that one.
    machine.tick(SETTINGS.upload_lease_ms + KEEP_MS - 1);
    machine.check();
    let mut client = Client::new(&machine, 3);
    let (upload, recorded) = resumed(client.run(&mut machine, resume_as(ann(), "/f")));
    assert_eq!((upload.ino, recorded), (left.ino, (10, 7)));
    machine.tick(SETTINGS.upload_lease_ms + KEEP_MS);
    machine.check();
    let rows = machine.rows.0.keys().filter_map(|key| Kind::of(key));
    let rows: Vec<_> = rows
        .filter(|kind| matches!(kind, Kind::Resumable | Kind::UploadLease))
        .collect();
    assert_eq!(rows, [], "it is gone, with all that led to it");
}

#[test]
fn it_is_taken_over_as_it_would_be_begun() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let left = half_done(&mut machine, &mut client);
    let with = |options| ClientCommand::ResumeUpload {
        path: path("/f"),
        options,
        owner: ann(),
        keep_ms: u64::MAX,
    };
    let careful = UploadOptions {
        replace: false,
        mode: 0o600,
        modified_ms: Some(77),
        ..options()
    };
    let (upload, recorded) = resumed(client.run(&mut machine, with(careful.clone())));
    assert_eq!((upload.ino, recorded.0), (left.ino, 10));
    // Another file got the name meanwhile.
    client.put(&mut machine, "/f", 1);
    assert_eq!(
        client.refused(&mut machine, upload.commit(Vec::new())),
        ErrorCode::Exists
    );
    assert_eq!(client.refused(&mut machine, with(careful.clone())), ErrorCode::Exists);
    let replace = UploadOptions {
        replace: true,
        ..careful
    };
    let (upload, _) = resumed(client.run(&mut machine, with(replace)));
    let file = entry(client.run(&mut machine, upload.commit(Vec::new())));
    assert_eq!((file.mode, file.modified_ms, file.length), (0o600, 77, 10));
    machine.check();
    // Stored in another way: nothing of it can be used.
    let left = half_done(&mut machine, &mut client);
    let fewer = UploadOptions {
        replicas: Some(2),
        ..options()
    };
    let (upload, recorded) = resumed(client.run(&mut machine, with(fewer)));
    assert_eq!(recorded, (0, 0));
    assert_ne!(upload.ino, left.ino);
    assert_eq!(client.refused(&mut machine, left.commit(Vec::new())), ErrorCode::Fenced);
    machine.check();
    // However long one asks for it.
    machine.tick(SETTINGS.upload_lease_ms);
    machine.tick(RESUME_MS_MAX);
    machine.settle();
    let left = machine
        .rows
        .0
        .keys()
        .filter(|key| Kind::of(key) == Some(Kind::Resumable));
    assert_eq!(left.count(), 0);
    machine.check();
}
