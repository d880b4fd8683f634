//! Symbolic links.

use super::*;

pub(super) fn ops() -> Vec<master::Op> {
    use master::{LinkChange, Op};
    vec![
        Op::Link(LinkChange::Make {
            path: path(),
            target: "../ü".into(),
            replace: true,
            parents: false,
            modified_ms: Some(-2),
        }),
        Op::Link(LinkChange::Tell {
            path: path(),
            modified_ms: None,
            owner: Some("ann".into()),
            group: Some(String::new()),
        }),
    ]
}

pub(super) fn queries() -> Vec<master::Query> {
    vec![master::Query::Resolve { path: path() }]
}

pub(super) fn responses() -> Vec<master::Response> {
    let entry = master::Entry {
        name: "l".into(),
        ino: Ino(2),
        kind: master::EntryKind::Link { target: "../ü".into() },
        length: 5,
        crc: 0,
        replicas: 0,
        chunk_bytes: 0,
        children: 0,
        mode: 0o777,
        modified_ms: -2,
        degraded: false,
    };
    vec![
        master::Response::Entry(entry.clone()),
        master::Response::Resolved { path: path(), entry },
    ]
}

pub(super) fn place_queries() -> Vec<master::Query> {
    vec![master::Query::Place { path: path() }]
}

pub(super) fn place_responses() -> Vec<master::Response> {
    vec![master::Response::Place {
        path: path(),
        taken: true,
    }]
}
