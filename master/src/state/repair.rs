//! Repair: background copies of sealed chunks, and which copies may go because others are there.
//!
//! A copy's life: [`add`] makes its row (Copying, a new number) before any server makes a file; [`made`] makes it Live
//! once its server has it on disk and has compared it with the masters' length and CRC; [`give_up`] makes it Dropping
//! instead. [`drop_surplus`] makes a Live copy Dropping. The rest is as for every copy (`chunks`): the server's drop
//! order follows from the row, and so does the end.
//!
//! Invariants:
//! * a plan names all rows of its chunk; if they are others by now, the chunk stays as it is and the leader plans anew,
//!   so that two leaders, or one that repeats itself, never repair the same thing twice;
//! * a server gets a copy only if it has no row of the chunk at all, not even one that is being dropped: its disk has
//!   one place for a chunk;
//! * no decision here leaves fewer good copies than wanted. A copy its own server calls damaged is no good one: it may
//!   go, to make room for a good one in its place, as soon as others enough for an acknowledgement are there.
//!
//! Copies on a server that is drained or removed may be sources, and are no copies to rely on (`conditions`).
//!
//! Which servers live is not known here, and no business of the log: planners look after that.

use std::collections::BTreeSet;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::chunks::{self, needed};
use super::conditions;
use super::key::chunk::{Chunk, ChunkKey, Phase, Replica, ReplicaState};
use super::key::copying::CopyingKey;
use super::key::server::ServerKey;
use super::key::surplus::{Excess, SurplusKey};
use super::key::{self, Key as _, Kind};
use super::read;
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::servers::bound;
use super::tx::{Stop, Tx};

/// Chunks one command adds copies to, or drops copies of: with all their rows they fit a log entry.
pub const REPAIR_BATCH_MAX: usize = 100;
/// Rows a chunk may come to have: rows of lost servers stay, and the chunk's row must stay small.
pub const COPIES_MAX: usize = 40;

/// Copies to add to a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPlan {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its rows as they were when this was planned.
    pub planned: Vec<Replica>,
    /// Who gets a copy.
    pub targets: Vec<ServerId>,
}

/// A copy that may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyDrop {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its rows as they were when this was planned.
    pub planned: Vec<Replica>,
    /// Whose copy goes.
    pub server: ServerId,
}

/// A copy that was made, as its server read and stored it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeCopy {
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy.
    pub number: ReplicaNumber,
    /// Its bytes.
    pub length: u64,
    /// Their CRC.
    pub crc: u32,
}

/// Adds Copying rows. Chunks that changed since the plan stay as they are.
pub(super) fn add(tx: &mut Tx<'_>, plans: &[CopyPlan]) -> Result<Outcome, Stop> {
    bounded(plans.len())?;
    let mut refused = Vec::new();
    for plan in plans {
        match addable(tx, plan)? {
            Ok(old) => {
                let mut new = old.clone();
                for server in &plan.targets {
                    new.replicas.push(Replica {
                        server: *server,
                        number: tx.next_replica()?,
                        state: ReplicaState::Copying,
                    });
                }
                chunks::change(tx, plan.chunk, &old, Some(&new))?;
            }
            Err(refusal) => refused.push((plan.chunk, refusal)),
        }
    }
    Ok(Outcome::Repaired { refused })
}

/// The chunk as planned, if every target may get a copy of it.
pub(super) fn addable(tx: &Tx<'_>, plan: &CopyPlan) -> Result<Result<Chunk, Refusal>, RowsError> {
    let chunk = plan.chunk;
    let old = match as_planned(tx, chunk, &plan.planned)? {
        Ok(old) => old,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let asked = old.replicas.len() + plan.targets.len();
    if asked > COPIES_MAX {
        let (asked, limit) = (asked as u64, COPIES_MAX as u64);
        return Ok(Err(Refusal::TooMany { asked, limit }));
    }
    let mut taken: BTreeSet<ServerId> = old.replicas.iter().map(|replica| replica.server).collect();
    for server in plan.targets.iter().copied() {
        let registered = tx.get(&ServerKey(server))?.is_some_and(|row| !row.retired);
        let serves = registered && conditions::of(tx.rows(), server)?.is_none();
        if !serves || !taken.insert(server) {
            return Ok(Err(Refusal::CopyTarget { chunk, server }));
        }
    }
    Ok(Ok(old))
}

/// The sealed chunk, if its rows are those a plan was made for.
fn as_planned(tx: &Tx<'_>, id: ChunkId, planned: &[Replica]) -> Result<Result<Chunk, Refusal>, RowsError> {
    Ok(match tx.get(&ChunkKey(id))? {
        Some(chunk) if chunk.phase == Phase::Sealed && chunk.replicas == planned => Ok(chunk),
        Some(chunk) if chunk.phase == Phase::Sealed => Err(Refusal::CopiesChanged { chunk: id }),
        Some(_) | None => Err(Refusal::ChunkNotSealed { chunk: id }),
    })
}

/// Copying → Live for copies that are what the chunk is; Copying → Dropping for one that is something else. A copy
/// that is not being made (any more) stays as it is: the report came late, or twice.
pub(super) fn made(tx: &mut Tx<'_>, server: ServerId, made: &[MadeCopy]) -> Result<Outcome, Stop> {
    bound(made.len())?;
    let mut refused = Vec::new();
    for copy in made {
        let is_right = |chunk: &Chunk| (chunk.length, chunk.crc) == (copy.length, copy.crc);
        let becomes = |chunk: &Chunk| {
            if is_right(chunk) {
                ReplicaState::Live
            } else {
                ReplicaState::Dropping
            }
        };
        let changed = change_copying(tx, copy.chunk, server, copy.number, becomes)?;
        if changed == Some(ReplicaState::Dropping) {
            refused.push((copy.chunk, Refusal::CopyDiffers { chunk: copy.chunk }));
        }
    }
    Ok(Outcome::Repaired { refused })
}

/// Copying → Dropping.
pub(super) fn give_up(tx: &mut Tx<'_>, copies: &[(ChunkId, ServerId, ReplicaNumber)]) -> Result<Outcome, Stop> {
    bound(copies.len())?;
    for (chunk, server, number) in copies.iter().copied() {
        change_copying(tx, chunk, server, number, |_| ReplicaState::Dropping)?;
    }
    Ok(Outcome::Done)
}

/// Changes one background copy that is being made, and only that; what it became.
fn change_copying(
    tx: &mut Tx<'_>,
    id: ChunkId,
    server: ServerId,
    number: ReplicaNumber,
    becomes: impl Fn(&Chunk) -> ReplicaState,
) -> Result<Option<ReplicaState>, RowsError> {
    let Some(old) = tx.get(&ChunkKey(id))?.filter(|chunk| chunk.phase == Phase::Sealed) else {
        return Ok(None);
    };
    let copying = Replica {
        server,
        number,
        state: ReplicaState::Copying,
    };
    let Some(at) = old.replicas.iter().position(|replica| *replica == copying) else {
        return Ok(None);
    };
    let mut new = old.clone();
    let state = becomes(&old);
    new.replicas[at].state = state;
    chunks::change(tx, id, &old, Some(&new))?;
    Ok(Some(state))
}

/// Live → Dropping for copies that others make superfluous, or that are damaged.
pub(super) fn drop_surplus(tx: &mut Tx<'_>, drops: &[CopyDrop]) -> Result<Outcome, Stop> {
    bounded(drops.len())?;
    let mut refused = Vec::new();
    for drop in drops {
        match droppable(tx, drop)? {
            Ok((old, at)) => {
                let mut new = old.clone();
                new.replicas[at].state = ReplicaState::Dropping;
                chunks::change(tx, drop.chunk, &old, Some(&new))?;
            }
            Err(refusal) => refused.push((drop.chunk, refusal)),
        }
    }
    Ok(Outcome::Repaired { refused })
}

/// The chunk as planned and where in it the copy is, if it may go.
fn droppable(tx: &Tx<'_>, drop: &CopyDrop) -> Result<Result<(Chunk, usize), Refusal>, RowsError> {
    let id = drop.chunk;
    let old = match as_planned(tx, id, &drop.planned)? {
        Ok(old) => old,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let live = |replica: &Replica| replica.state == ReplicaState::Live;
    let Some(at) = old
        .replicas
        .iter()
        .position(|replica| replica.server == drop.server && live(replica))
    else {
        return Ok(Err(Refusal::CopiesChanged { chunk: id }));
    };
    let reports = read::damaged(tx.rows(), id)?;
    let is_reported = |server: ServerId| reports.iter().any(|(of, _)| *of == server);
    // What somebody only says of a copy is no reason to drop it, and reason enough not to rely on it.
    let is_damaged = reports
        .iter()
        .any(|(of, damage)| *of == drop.server && damage.confirmed);
    let others = old.replicas.iter().filter(|replica| replica.server != drop.server);
    let mut left = 0u8;
    for replica in others.filter(|replica| live(replica) && !is_reported(replica.server)) {
        // What is about to go is nothing to rely on.
        left = left.saturating_add(u8::from(!conditions::is_leaving(tx.rows(), replica.server)?));
    }
    let needed = if is_damaged { needed(old.wanted) } else { old.wanted }.max(1);
    if left < needed {
        return Ok(Err(Refusal::CopiesNeeded {
            chunk: id,
            left,
            needed,
        }));
    }
    Ok(Ok((old, at)))
}

/// Refuses more chunks than one command may name.
pub(super) fn bounded(asked: usize) -> Result<(), Refusal> {
    if asked > REPAIR_BATCH_MAX {
        let (asked, limit) = (asked as u64, REPAIR_BATCH_MAX as u64);
        return Err(Refusal::TooMany { asked, limit });
    }
    Ok(())
}

/// Background copies being made on `server`, at most `limit`.
///
/// # Errors
/// [`RowsError`], as everywhere here.
pub fn copying_on(rows: &dyn Rows, server: ServerId, limit: usize) -> Result<Vec<CopyingKey>, RowsError> {
    let found = key::scan_prefix::<CopyingKey>(rows, &CopyingKey::prefix(server), limit)?;
    Ok(found.into_iter().map(|(key, _)| key).collect())
}

/// Background copies being made anywhere, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn copying(rows: &dyn Rows, limit: usize) -> Result<Vec<CopyingKey>, RowsError> {
    let found = key::scan_prefix::<CopyingKey>(rows, &[Kind::Copying as u8], limit)?;
    Ok(found.into_iter().map(|(key, _)| key).collect())
}

/// Chunks after `after` that have more live copies than wanted, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn surplus(rows: &dyn Rows, after: Option<ChunkId>, limit: usize) -> Result<Vec<(ChunkId, Excess)>, RowsError> {
    let kind = [Kind::Surplus as u8];
    let mut from = after.map_or_else(|| kind.to_vec(), |id| SurplusKey(id).encode());
    if after.is_some() {
        from.push(0);
    }
    let found = key::scan::<SurplusKey>(rows, &from, &key::prefix_end(&kind), limit)?;
    Ok(found.into_iter().map(|(SurplusKey(id), excess)| (id, excess)).collect())
}
