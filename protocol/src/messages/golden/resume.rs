//! What is said of uploads that outlive their client, and of attributes.

use super::*;

/// All of it, after what was frozen before.
pub(super) fn resume() -> Vec<String> {
    let op = master::Op::ResumeUpload {
        path: path(),
        options: master::UploadOptions {
            replicas: Some(2),
            chunk_bytes: None,
            replace: true,
            parents: false,
            mode: 0o600,
            modified_ms: Some(-1),
        },
        keep_ms: 300,
    };
    let resumed = master::Response::Resumed {
        upload: Ino(2),
        generation: UploadGeneration(3),
        chunk_bytes: 64,
        replicas: 3,
        length: 300,
        crc: 5,
    };
    let mut all = lines("op", &[op]);
    all.extend(lines("master response", &[resumed]));
    all
}

/// Owner, group and extended attributes, after that.
pub(super) fn attributes() -> Vec<String> {
    use master::{AttributeChange, Attributes, Op, Query, Response};
    let changes = [
        AttributeChange::Owner {
            owner: Some("ann".into()),
            group: None,
        },
        AttributeChange::Set {
            name: "n".into(),
            value: vec![0, 255],
        },
        AttributeChange::Remove { name: "n".into() },
    ];
    let ops = changes.map(|change| Op::ChangeAttributes { path: path(), change });
    let told = Attributes {
        owner: "ann".into(),
        group: "1000".into(),
        extended: vec![("n".into(), vec![0, 255])],
    };
    let mut all = lines("op", &ops);
    all.extend(lines("query", &[Query::Attributes { path: path() }]));
    all.extend(lines("master response", &[Response::Attributes(told)]));
    all
}
