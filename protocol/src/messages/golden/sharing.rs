//! Copies by reference, snapshots.

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

pub(super) fn snapshot_ops() -> Vec<master::Op> {
    use master::Op;
    vec![
        Op::CreateSnapshot {
            path: path(),
            name: "s".into(),
        },
        Op::RemoveSnapshot {
            path: path(),
            name: "s".into(),
        },
    ]
}

pub(super) fn snapshot_queries() -> Vec<master::Query> {
    vec![master::Query::Snapshots {
        path: Some(path()),
        after: Some(master::SnapshotAfter {
            root: Ino(2),
            name: "s".into(),
        }),
        limit: 300,
    }]
}

pub(super) fn snapshot_responses() -> Vec<master::Response> {
    let info = master::SnapshotInfo {
        directory: path(),
        root: Ino(2),
        name: "s".into(),
        moment: 300,
        created_ms: -2,
        files: 1,
        directories: 2,
        bytes: 3,
    };
    vec![
        master::Response::Snapshot(info.clone()),
        master::Response::Snapshots(master::SnapshotPage {
            snapshots: vec![info],
            more: true,
        }),
    ]
}
