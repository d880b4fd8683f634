//! Copies by reference: many extents in steps, and what is refused.

use gabion_protocol::limits::{BATCH_ROWS_MAX, COPY_EXTENTS_MAX};
use gabion_protocol::messages::master::{CopyFiles, FileVersion};

use super::*;
use crate::state::key::Key;
use crate::state::key::chunk::ChunkKey;

fn copy(sources: &[&str], to: &str) -> ClientCommand {
    ClientCommand::Copy(CopyFiles {
        sources: sources.iter().map(|source| path(source)).collect(),
        to: path(to),
        replace: false,
        parents: false,
        keep_time: false,
    })
}

/// Copies a file onto itself until it has so many extents.
fn grow(machine: &mut Machine, client: &mut Client, extents: usize) {
    client.put(machine, "/f", 10);
    let mut now = 10;
    while now < extents {
        let parts = (extents / now).clamp(2, 10).min(extents.div_ceil(now));
        entry(client.run(machine, copy(&vec!["/f"; parts], "/g")));
        client.run(machine, rename("/g", "/f", true)).unwrap();
        now *= parts;
    }
}

#[test]
fn a_file_of_many_extents_is_copied_in_steps_as_it_was() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    grow(&mut machine, &mut client, COPY_EXTENTS_MAX);
    entry(client.run(&mut machine, copy(&["/f"], "/whole")));
    machine.check();
    assert_eq!(
        client.refused(&mut machine, copy(&["/f", "/f"], "/more")),
        ErrorCode::LimitExceeded
    );

    let mut upload = client.open(&mut machine, "/steps", 0);
    let part = |offset, version| ClientCommand::CopyExtents {
        upload: upload.ino,
        generation: upload.generation,
        source: path("/f"),
        offset,
        version,
    };
    let (mut at, mut version, mut steps) = (0, None, 0);
    loop {
        let Outcome::Copied {
            version: found,
            next,
            more,
            ..
        } = client.run(&mut machine, part(at, version)).unwrap()
        else {
            panic!();
        };
        machine.check();
        (at, version, steps) = (next, Some(found), steps + 1);
        if !more {
            break;
        }
        let changed = FileVersion {
            generation: found.generation + 1,
            ..found
        };
        assert_eq!(
            client.refused(&mut machine, part(at, Some(changed))),
            ErrorCode::Conflict
        );
    }
    assert_eq!(steps, COPY_EXTENTS_MAX.div_ceil(BATCH_ROWS_MAX));
    let original = read::stat(&machine.rows, &path("/f")).unwrap();
    upload.whole.append(original.crc, original.length);
    let copied = entry(client.run(&mut machine, upload.commit(Vec::new())));
    assert_eq!(
        (copied.length, copied.crc, copied.children),
        (original.length, original.crc, COPY_EXTENTS_MAX as u64)
    );
    machine.check();
}

#[test]
fn a_copy_keeps_its_chunks_when_the_original_goes_and_the_last_one_frees_them() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/f", 2);
    let first = entry(client.run(&mut machine, copy(&["/f"], "/g")));
    let (extents, _) = read::extents(&machine.rows, first.ino, None, 0, 10).unwrap();
    assert!(extents.iter().all(|extent| extent.chunk.references == 2));
    for gone in ["/f", "/g"] {
        for extent in &extents {
            let row = machine.rows.0.get(&ChunkKey(extent.extent.chunk).encode());
            assert!(row.is_some(), "before {gone} goes");
        }
        client.run(&mut machine, remove(gone, false)).unwrap();
        machine.settle();
        machine.tick(SETTINGS.token_ms);
        machine.settle();
        machine.obey();
        machine.check();
    }
    for extent in &extents {
        assert_eq!(read::chunk(&machine.rows, extent.extent.chunk).unwrap(), None);
    }
}

#[test]
fn files_of_different_copies_make_no_file() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    client.put(&mut machine, "/three", 1);
    let two = ClientCommand::CreateFile {
        path: path("/two"),
        options: UploadOptions {
            replicas: Some(2),
            ..options()
        },
    };
    entry(client.run(&mut machine, two));
    assert_eq!(
        client.refused(&mut machine, copy(&["/three", "/two"], "/g")),
        ErrorCode::InvalidArgument
    );
    assert_eq!(
        client.refused(&mut machine, copy(&[], "/g")),
        ErrorCode::InvalidArgument
    );
    assert_eq!(client.refused(&mut machine, copy(&["/two"], "/two")), ErrorCode::Exists);
    assert_eq!(client.refused(&mut machine, copy(&["/"], "/g")), ErrorCode::IsDirectory);
    machine.check();
}
