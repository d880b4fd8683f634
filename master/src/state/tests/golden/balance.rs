//! Everything of copies that move from full servers to emptier ones: rows and commands.

use super::*;
use crate::state::balance::CopyMove;
use crate::state::key::meta::{Balance, BalanceKey};
use crate::state::key::moving::{Move, MoveKey};

pub(super) fn all(golden: &mut Golden) {
    let (from, to) = (SERVER, ServerId(4));
    let row = Move {
        from,
        goes: NUMBER,
        to,
        comes: ReplicaNumber(300),
    };
    golden.row("move", &MoveKey(CHUNK), &row);
    golden.row("meta.balance", &BalanceKey, &Balance { runs: false });
    let planned = vec![Replica {
        server: SERVER,
        number: NUMBER,
        state: ReplicaState::Live,
    }];
    let moves = vec![CopyMove {
        chunk: CHUNK,
        planned,
        from,
        to,
    }];
    golden.command("move_copies", &Command::MoveCopies { moves });
    golden.client("set_balance", ClientCommand::SetBalance { runs: false });
}
