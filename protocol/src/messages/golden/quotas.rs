//! Quotas, uploads that say what room they take, and copies of directories.

use super::*;

pub(super) fn quota_ops() -> Vec<master::Op> {
    use master::{Op, QuotaChange, QuotaLimits, Room, TreeCopy, UploadOptions};
    let options = || UploadOptions {
        replicas: Some(3),
        chunk_bytes: None,
        replace: false,
        parents: true,
        mode: 0o644,
        modified_ms: None,
    };
    let open = |room| Op::OpenSized {
        path: path(),
        options: options(),
        chunks: 1,
        avoid: vec![ServerId(1)],
        room,
    };
    let set = |change| Op::SetQuota { path: path(), change };
    vec![
        open(Room::Growing),
        open(Room::Whole { length: 300 }),
        open(Room::Appended),
        open(Room::Overwritten),
        Op::ResumeSized {
            path: path(),
            options: options(),
            keep_ms: 300,
            length: 301,
        },
        set(QuotaChange::Set(QuotaLimits {
            bytes: Some(300),
            entries: None,
        })),
        set(QuotaChange::Clear),
        Op::CopyTree(TreeCopy::Begin {
            source: path(),
            to: path(),
            parents: true,
            keep_times: false,
        }),
        Op::CopyTree(TreeCopy::GoOn {
            copy: Ino(2),
            generation: UploadGeneration(1),
            limit: 300,
        }),
    ]
}

pub(super) fn quotas() -> Vec<String> {
    use master::{Query, QuotaLimits, QuotaReport, QuotaUse, Response, TreeProgress};
    let usage = |depth| QuotaUse {
        depth,
        limits: QuotaLimits {
            bytes: Some(300),
            entries: None,
        },
        bytes: 1,
        entries: 2,
        reserved_bytes: 3,
        reserved_entries: 4,
    };
    let report = QuotaReport {
        path: path(),
        own: usage(1),
        above: vec![usage(0)],
    };
    let progress = TreeProgress {
        copy: Ino(2),
        generation: UploadGeneration(1),
        files: 3,
        directories: 4,
        bytes: 5,
        files_total: 6,
        directories_total: 7,
        bytes_total: 8,
        entry: Some(entry()),
    };
    let responses = [Response::Quota(report), Response::TreeCopied(progress)];
    let mut all = lines("op", &quota_ops());
    all.extend(lines("query", &[Query::Quota { path: path() }]));
    all.extend(lines("master response", &responses));
    all
}
