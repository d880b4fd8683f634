//! Quotas, what is reserved, and copies of directories under way.

use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::{QuotaChange, QuotaLimits, Room, TreeCopy as Step, TreeProgress};

use super::*;
use crate::state::key::meta::{QuotasInUse, QuotasInUseKey};
use crate::state::key::quota::{Quota, QuotaKey};
use crate::state::key::reservation::{Reservation, ReservationKey};
use crate::state::key::tree_copy::{Frame, PartFile, TreeCopy, TreeCopyKey};

pub(super) fn all(golden: &mut Golden) {
    rows(golden);
    let quota = |name: &str, change| {
        let path = path("/a");
        (format!("set_quota.{name}"), ClientCommand::SetQuota { path, change })
    };
    let limits = QuotaLimits {
        bytes: Some(300),
        entries: None,
    };
    let begin = Step::Begin {
        source: path("/a"),
        to: path("/b"),
        parents: true,
        keep_times: false,
    };
    let go_on = Step::GoOn {
        copy: Ino(2),
        generation: UploadGeneration(1),
        limit: 300,
    };
    let open = ClientCommand::OpenSized {
        path: path("/a"),
        options: options(),
        placements: vec![vec![SERVER]],
        room: Room::Whole { length: 300 },
    };
    let resume = ClientCommand::ResumeSized {
        path: path("/a"),
        options: options(),
        owner: Identity {
            role: Role::Client,
            id: "ann".to_owned(),
        },
        keep_ms: 300,
        length: 301,
    };
    let commands = [
        quota("set", QuotaChange::Set(limits)),
        quota("clear", QuotaChange::Clear),
        ("open_sized".to_owned(), open),
        ("resume_sized".to_owned(), resume),
        ("copy_tree.begin".to_owned(), ClientCommand::CopyTree(begin)),
        ("copy_tree.go_on".to_owned(), ClientCommand::CopyTree(go_on)),
    ];
    for (name, op) in commands {
        golden.client(&name, op);
    }
    let progress = TreeProgress {
        copy: Ino(2),
        generation: UploadGeneration(1),
        files: 3,
        directories: 4,
        bytes: 5,
        files_total: 6,
        directories_total: 7,
        bytes_total: 300,
        entry: None,
    };
    golden.reply("tree_copied", Ok(Outcome::TreeCopied(progress)));
}

fn rows(golden: &mut Golden) {
    let total = Total {
        files: 1,
        directories: 2,
        bytes: 3,
        reserved: 4,
        deepest: 5,
        longest: 6,
        since: Moment(0),
        reserved_entries: 7,
    };
    golden.row("total.reserved", &TotalKey(Ino(2)), &total);
    let quota = Quota {
        bytes: Some(300),
        entries: None,
    };
    golden.row("quota", &QuotaKey(Ino(2)), &quota);
    for (name, room) in [
        ("growing", Room::Growing),
        ("whole", Room::Whole { length: 300 }),
        ("appended", Room::Appended),
        ("overwritten", Room::Overwritten),
    ] {
        let held = Reservation {
            directory: Ino(2),
            room,
            replaced: 3,
            bytes: 300,
            entries: 1,
        };
        golden.row(&format!("reservation.{name}"), &ReservationKey(Ino(5)), &held);
    }
    let in_use = QuotasInUse {
        quotas: 1,
        reservations: 300,
    };
    golden.row("meta.quotas_in_use", &QuotasInUseKey, &in_use);
    let copy = TreeCopy {
        root: Ino(6),
        pin: Pin {
            moment: Moment(300),
            root: Ino(2),
        },
        keep_times: true,
        todo: vec![Frame {
            source: Ino(2),
            target: Ino(6),
            last: "ü".to_owned(),
        }],
        part: Some(PartFile {
            source: Ino(3),
            target: Ino(7),
            next: 300,
        }),
        files: 1,
        directories: 2,
        bytes: 3,
    };
    golden.row("tree_copy", &TreeCopyKey(Ino(5)), &copy);
}
