//! Changes of files after their upload.

use super::*;
use master::{Change, FileChange, Op, Request, Response, SpliceAt};

pub(super) fn change_ops() -> Vec<Op> {
    let seal = || master::Seal {
        chunk: chunk(),
        generation: Generation(1),
        file_offset: 0,
        length: 3,
        crc: 4,
        members: vec![ServerId(3)],
    };
    let splice = |at| Change::Splice {
        upload: Ino(9),
        generation: UploadGeneration(1),
        seals: vec![seal()],
        at,
    };
    let changes = [
        splice(SpliceAt::End),
        splice(SpliceAt::Offset(300)),
        Change::Truncate { length: 300 },
        Change::SetReplicas { replicas: 2, from: 300 },
        Change::TakeLease {
            ms: 300,
            holder: "ann".into(),
        },
        Change::EndLease,
    ];
    let op = |what| {
        let (file, lease) = (Ino(2), Some(300));
        Op::ChangeFile(FileChange { file, lease, what })
    };
    changes.into_iter().map(op).collect()
}

pub(super) fn change_requests() -> Vec<Request> {
    let request = RequestId {
        session: session(),
        sequence: 1,
    };
    let command = |op| Request::Command {
        request,
        answered_below: 1,
        op,
    };
    change_ops().into_iter().map(command).collect()
}

pub(super) fn change_responses() -> Vec<Response> {
    vec![
        Response::Spliced { offset: 1, length: 300 },
        Response::Truncated { length: 300 },
        Response::ReplicasSet { next: None },
        Response::WriteLease {
            lease: 300,
            until: StateTime(7),
        },
    ]
}
