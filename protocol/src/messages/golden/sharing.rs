//! Copies by reference.

use super::*;

pub(super) fn ops() -> Vec<master::Op> {
    use master::Op;
    vec![
        Op::Copy(master::CopyFiles {
            sources: vec![path()],
            to: path(),
            replace: true,
            parents: false,
            keep_time: true,
        }),
        Op::CopyExtents {
            upload: Ino(2),
            generation: UploadGeneration(1),
            source: path(),
            offset: 300,
            version: Some(version()),
        },
    ]
}

fn version() -> master::FileVersion {
    master::FileVersion {
        ino: Ino(2),
        generation: 300,
    }
}

pub(super) fn responses() -> Vec<master::Response> {
    vec![master::Response::Copied {
        version: version(),
        next: 300,
        more: true,
        length: 301,
        crc: Some(5),
    }]
}
