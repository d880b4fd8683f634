//! What chunkservers are there for: who is drained, left alone for a while, or removed.
//!
//! A server in service has no row, so that all this costs nothing where nothing is going on. *Draining* changes no copy
//! by itself: its copies count no more, repair makes others, and the surplus rule drops what is too much. *Maintenance*
//! is a promise that a silent server comes back; state time ends it. *Removing* forgets rows in bounded steps: a server
//! that never comes back cannot say what it dropped.
//!
//! Invariants:
//! * a removed server's row goes last, after all rows of its copies, so that no chunk names a server that is unknown;
//! * a step of a removal forgets a live copy only if as many as are wanted, that nobody speaks against, are on servers
//!   that stay. What is needed there keeps the server's row, and the removal can be taken back until the row is gone;
//! * numbers of servers only grow: one below the counter without a row was removed.

use std::collections::BTreeMap;

use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::limits::MAINTENANCE_MS_MAX;
use gabion_protocol::messages::master::ConditionChange;

use super::key::chunk::{Chunk, ChunkKey, Phase, ReplicaState};
use super::key::condition::{Condition, ConditionKey};
use super::key::meta::CountersKey;
use super::key::server::ServerKey;
use super::key::server_name::ServerNameKey;
use super::key::{self, Kind};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};
use super::{chunks, inventory, read};

/// Conditions read at once: as many as there can be servers.
const CONDITIONS_MAX: usize = 1 << 16;

/// Changes what a server is there for.
pub(super) fn set(tx: &mut Tx<'_>, server: ServerId, change: ConditionChange) -> Result<Outcome, Stop> {
    if tx.get(&ServerKey(server))?.is_none() {
        return Err(absent(tx, server)?.into());
    }
    let condition = match change {
        ConditionChange::Serve => {
            tx.delete(&ConditionKey(server));
            return Ok(Outcome::Done);
        }
        ConditionChange::Drain => Condition::Draining,
        ConditionChange::Maintain { for_ms } if (1..=MAINTENANCE_MS_MAX).contains(&for_ms) => Condition::Maintenance {
            until: tx.now().plus(for_ms),
        },
        ConditionChange::Maintain { for_ms } => return Err(Refusal::MaintenanceTime { asked: for_ms }.into()),
        ConditionChange::Remove => Condition::Removing { after: None },
    };
    tx.put(&ConditionKey(server), &condition);
    Ok(Outcome::Done)
}

/// Why a server has no row.
pub(super) fn absent(tx: &Tx<'_>, server: ServerId) -> Result<Refusal, RowsError> {
    Ok(if was_removed(tx.rows(), server)? {
        Refusal::ServerRemoved { server }
    } else {
        Refusal::ServerUnknown { server }
    })
}

/// Whether a server was removed, or is about to be.
///
/// # Errors
/// [`RowsError`].
pub fn was_removed(rows: &dyn Rows, server: ServerId) -> Result<bool, RowsError> {
    if key::get(rows, &ServerKey(server))?.is_some() {
        return Ok(matches!(of(rows, server)?, Some(Condition::Removing { .. })));
    }
    let next = key::get(rows, &CountersKey)?.map_or(0, |counters| counters.server);
    Ok(server.0 > 0 && server.0 < next)
}

/// Ends maintenance whose time is over and goes on with removals, a bounded part of each; whether more is to do now.
pub(super) fn work_off(tx: &mut Tx<'_>, limit: usize) -> Result<bool, RowsError> {
    let mut more = false;
    for (server, condition) in all(tx.rows())? {
        match condition {
            Condition::Maintenance { until } if until <= tx.now() => tx.delete(&ConditionKey(server)),
            Condition::Maintenance { .. } | Condition::Draining => {}
            Condition::Removing { after } => more |= forget(tx, server, after, limit)?,
        }
    }
    Ok(more)
}

/// One step of a removal; whether the walk over the server's copies has not ended yet.
fn forget(tx: &mut Tx<'_>, server: ServerId, after: Option<ChunkId>, limit: usize) -> Result<bool, RowsError> {
    // First, so that what is left of the orders is about copies that chunks name.
    let unknown = inventory::forget(tx, server, limit)?;
    let drops = read::drop_orders(tx.rows(), server, limit)?;
    for (chunk, number) in &drops {
        chunks::dropped(tx, server, *chunk, *number)?;
    }
    let page = read::held(tx.rows(), server, after, limit)?;
    for (chunk, _) in &page {
        forget_copy(tx, server, *chunk)?;
    }
    let after = page.last().map(|(chunk, _)| *chunk).filter(|_| page.len() == limit);
    let left = unknown == limit
        || !read::held(tx.rows(), server, None, 1)?.is_empty()
        || !read::drop_orders(tx.rows(), server, 1)?.is_empty();
    if left {
        tx.put(&ConditionKey(server), &Condition::Removing { after });
        return Ok(after.is_some() || drops.len() == limit || unknown == limit);
    }
    let row = tx.require(&ServerKey(server))?;
    let name = ServerNameKey(row.name);
    if tx.get(&name)?.is_some_and(|named| named.server == server) {
        tx.delete(&name);
    }
    tx.delete(&ServerKey(server));
    tx.delete(&ConditionKey(server));
    Ok(false)
}

/// Forgets a server's copy of a sealed chunk that has enough others. Those of uploads on their way end with these, and
/// those of garbage when their last token has expired.
fn forget_copy(tx: &mut Tx<'_>, server: ServerId, id: ChunkId) -> Result<(), RowsError> {
    let old = tx.require(&ChunkKey(id))?;
    if old.phase != Phase::Sealed {
        return Ok(());
    }
    let is_live = old
        .replicas
        .iter()
        .any(|copy| copy.server == server && copy.state == ReplicaState::Live);
    if is_live && staying(tx.rows(), id, &old, server)? < usize::from(old.wanted).max(1) {
        return Ok(());
    }
    let mut new = old.clone();
    new.replicas
        .retain(|copy| copy.server != server || copy.state == ReplicaState::Dropping);
    chunks::change(tx, id, &old, Some(&new))
}

/// Live copies of a chunk nobody speaks against, on servers that stay, without `server`.
fn staying(rows: &dyn Rows, id: ChunkId, chunk: &Chunk, server: ServerId) -> Result<usize, RowsError> {
    let reports = read::damaged(rows, id)?;
    let mut count = 0;
    for copy in &chunk.replicas {
        let is_good = copy.server != server
            && copy.state == ReplicaState::Live
            && reports.iter().all(|(of, _)| *of != copy.server)
            && read::server(rows, copy.server)?.is_some_and(|row| !row.retired)
            && !is_leaving(rows, copy.server)?;
        count += usize::from(is_good);
    }
    Ok(count)
}

/// What a server is there for, if not just to serve.
///
/// # Errors
/// [`RowsError`], as everywhere here.
pub fn of(rows: &dyn Rows, server: ServerId) -> Result<Option<Condition>, RowsError> {
    key::get(rows, &ConditionKey(server))
}

/// Whether a server's copies are about to go.
///
/// # Errors
/// [`RowsError`].
pub fn is_leaving(rows: &dyn Rows, server: ServerId) -> Result<bool, RowsError> {
    Ok(match of(rows, server)? {
        Some(Condition::Draining | Condition::Removing { .. }) => true,
        Some(Condition::Maintenance { .. }) | None => false,
    })
}

/// All servers that do not just serve.
///
/// # Errors
/// [`RowsError`].
pub fn all(rows: &dyn Rows) -> Result<BTreeMap<ServerId, Condition>, RowsError> {
    let found = key::scan_prefix::<ConditionKey>(rows, &[Kind::Condition as u8], CONDITIONS_MAX)?;
    Ok(found
        .into_iter()
        .map(|(ConditionKey(id), condition)| (id, condition))
        .collect())
}
