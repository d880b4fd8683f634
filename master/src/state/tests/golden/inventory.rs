//! Everything of copies that no row names: rows and commands.

use super::*;
use crate::state::key::doubt::{Doubt, DoubtKey};
use crate::state::key::meta::{LostTail, LostTailKey};
use crate::state::key::unknown::{Unknown, UnknownKey};

pub(super) fn all(golden: &mut Golden) {
    let key = UnknownKey {
        server: SERVER,
        chunk: CHUNK,
        number: NUMBER,
    };
    let until = StateTime(300);
    golden.row("unknown.kept", &key, &Unknown::Kept { until });
    golden.row("unknown.dropping", &key, &Unknown::Dropping);
    let doubt = Doubt {
        unknown: 300,
        stopped: true,
        accepted: false,
        next: until,
        walked: Some((CHUNK, NUMBER)),
    };
    golden.row("doubt", &DoubtKey(SERVER), &doubt);
    let tail = LostTail {
        timeline: Timeline(1),
        from: 300,
        to: 301,
        number_from: 9,
        number_to: 302,
    };
    golden.row("meta.lost_tail", &LostTailKey, &tail);
    let copies = vec![(CHUNK, NUMBER)];
    let found = Command::UnknownFound {
        server: SERVER,
        held: 300,
        keep_ms: 5,
        copies: copies.clone(),
    };
    golden.command("unknown_found", &found);
    golden.command("unknown_accepted", &Command::UnknownAccepted { server: SERVER });
    let server = SERVER;
    golden.command("damage_doubted", &Command::DamageDoubted { server, copies });
    let (highest, number) = (CHUNK, NUMBER);
    golden.command("tail_lost", &Command::TailLost { highest, number });
}
