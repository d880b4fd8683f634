//! What is said of uploads that outlive their client, and of attributes.

use super::*;

fn resume_op() -> master::Op {
    master::Op::ResumeUpload {
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
    }
}

/// All commands, for the count of variants.
pub(super) fn ops() -> Vec<master::Op> {
    let mut all = vec![resume_op()];
    all.extend(attribute_ops());
    all
}

/// All of it, after what was frozen before.
pub(super) fn resume() -> Vec<String> {
    let resumed = master::Response::Resumed {
        upload: Ino(2),
        generation: UploadGeneration(3),
        chunk_bytes: 64,
        replicas: 3,
        length: 300,
        crc: 5,
    };
    let mut all = lines("op", &[resume_op()]);
    all.extend(lines("master response", &[resumed]));
    all
}

fn attribute_ops() -> Vec<master::Op> {
    use master::{AttributeChange, Op};
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
    changes
        .map(|change| Op::ChangeAttributes { path: path(), change })
        .into()
}

/// Owner, group and extended attributes, after that.
pub(super) fn attributes() -> Vec<String> {
    use master::{Attributes, Query, Response};
    let told = Attributes {
        owner: "ann".into(),
        group: "1000".into(),
        extended: vec![("n".into(), vec![0, 255])],
    };
    let mut all = lines("op", &attribute_ops());
    all.extend(lines("query", &[Query::Attributes { path: path() }]));
    all.extend(lines("master response", &[Response::Attributes(told)]));
    all
}
