//! Balance: copies that move from full servers to emptier ones.
//!
//! A move is one copy more, then one less. [`begin`] adds the Copying row of the copy that comes and, in the same entry, a
//! [`Move`] row that says which one goes for it. From then on it is a background copy like those of repair: `repair::made`
//! makes it Live, and the copy that goes is dropped as surplus, by the rule that as many as are wanted stay. A leader that
//! dies in between leaves all that is to know in the rows.
//!
//! Invariants:
//! * a plan names all rows of its chunk; a chunk whose rows are others, that lacks copies or has some under way is left
//!   to repair;
//! * a Move row is there exactly as long as [`is_under_way`] says, whatever ends the move: the drop, a copy that is given
//!   up or turns out wrong, a copy that goes for another reason, a file that is removed. `chunks::store` sees to that;
//! * nothing begins while an operator has stopped it.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::chunks;
use super::key::chunk::{Chunk, ChunkKey, Phase, Replica, ReplicaState};
use super::key::meta::{Balance, BalanceKey};
use super::key::moving::{Move, MoveKey};
use super::key::{self, Kind};
use super::repair::{self, CopyPlan};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};

/// A copy to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyMove {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its rows as they were when this was planned.
    pub planned: Vec<Replica>,
    /// Whose copy goes.
    pub from: ServerId,
    /// Who gets one for it.
    pub to: ServerId,
}

/// Lets copies be moved, or not.
pub(super) fn set(tx: &mut Tx<'_>, runs: bool) -> Outcome {
    tx.put(&BalanceKey, &Balance { runs });
    Outcome::Done
}

/// Adds the copies that come. Chunks that changed since the plan stay as they are.
pub(super) fn begin(tx: &mut Tx<'_>, moves: &[CopyMove]) -> Result<Outcome, Stop> {
    repair::bounded(moves.len())?;
    if !runs(tx.rows())? {
        return Err(Refusal::BalanceStopped.into());
    }
    let mut refused = Vec::new();
    for one in moves {
        match movable(tx, one)? {
            Ok((old, goes)) => {
                let comes = tx.next_replica()?;
                let mut new = old.clone();
                new.replicas.push(Replica {
                    server: one.to,
                    number: comes,
                    state: ReplicaState::Copying,
                });
                chunks::change(tx, one.chunk, &old, Some(&new))?;
                let (from, to) = (one.from, one.to);
                tx.put(&MoveKey(one.chunk), &Move { from, goes, to, comes });
            }
            Err(refusal) => refused.push((one.chunk, refusal)),
        }
    }
    Ok(Outcome::Repaired { refused })
}

/// The chunk as planned and the number of the copy that goes, if it may.
fn movable(tx: &Tx<'_>, one: &CopyMove) -> Result<Result<(Chunk, ReplicaNumber), Refusal>, RowsError> {
    let chunk = one.chunk;
    let plan = CopyPlan {
        chunk,
        planned: one.planned.clone(),
        targets: vec![one.to],
    };
    let old = match repair::addable(tx, &plan)? {
        Ok(old) => old,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let is_at_rest =
        old.live() == usize::from(old.wanted) && old.replicas.iter().all(|copy| copy.state != ReplicaState::Copying);
    let goes = old
        .replicas
        .iter()
        .find(|copy| copy.server == one.from && copy.state == ReplicaState::Live);
    Ok(match goes {
        Some(copy) if is_at_rest => Ok((old.clone(), copy.number)),
        Some(_) | None => Err(Refusal::CopiesChanged { chunk }),
    })
}

/// Whether a move goes on: the copy that comes is being made, or is there and the other one has not gone yet.
#[must_use]
pub fn is_under_way(chunk: &Chunk, row: &Move) -> bool {
    let state = |server, number| {
        let mut copies = chunk.replicas.iter();
        let copy = copies.find(|copy| (copy.server, copy.number) == (server, number));
        copy.map(|copy| copy.state)
    };
    state(row.from, row.goes) == Some(ReplicaState::Live)
        && match state(row.to, row.comes) {
            Some(ReplicaState::Copying) => true,
            Some(ReplicaState::Live) => chunk.live() > usize::from(chunk.wanted),
            Some(ReplicaState::Dropping) | None => false,
        }
}

/// Ends a chunk's move if the chunk's change ends it. Looks for one only if the change is of a kind that may.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    id: ChunkId,
    old: Option<&Chunk>,
    new: Option<&Chunk>,
    lost_copies: bool,
) -> Result<(), RowsError> {
    let Some(old) = old else { return Ok(()) };
    let counts = |chunk: &Chunk| (chunk.live(), chunk.wanted);
    let recounted = old.phase == Phase::Sealed && new.is_some_and(|new| counts(new) != counts(old));
    if !lost_copies && !recounted {
        return Ok(());
    }
    if let Some(row) = tx.get(&MoveKey(id))?
        && !new.is_some_and(|chunk| is_under_way(chunk, &row))
    {
        tx.delete(&MoveKey(id));
    }
    Ok(())
}

/// Whether copies may be moved.
///
/// # Errors
/// [`RowsError`], as everywhere here.
pub fn runs(rows: &dyn Rows) -> Result<bool, RowsError> {
    Ok(key::get(rows, &BalanceKey)?.unwrap_or_default().runs)
}

/// A chunk's move, if it has one.
///
/// # Errors
/// [`RowsError`].
pub fn of(rows: &dyn Rows, chunk: ChunkId) -> Result<Option<Move>, RowsError> {
    key::get(rows, &MoveKey(chunk))
}

/// Moves under way, at most `limit`, each with its chunk.
///
/// # Errors
/// [`RowsError`].
pub fn moves(rows: &dyn Rows, limit: usize) -> Result<Vec<(ChunkId, Move, Chunk)>, RowsError> {
    let found = key::scan_prefix::<MoveKey>(rows, &[Kind::Move as u8], limit)?;
    let mut moves = Vec::with_capacity(found.len());
    for (MoveKey(id), row) in found {
        moves.push((id, row, key::require(rows, &ChunkKey(id))?));
    }
    Ok(moves)
}
