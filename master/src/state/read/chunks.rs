//! Queries about chunks, their copies and the servers that hold them.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::messages::master::{ChunkInfo, ChunkState, ReplicaState};

use crate::state::key::chunk::{self, Chunk, ChunkKey, Phase};
use crate::state::key::damage::{Damage, DamageKey};
use crate::state::key::degraded::DegradedKey;
use crate::state::key::dropping::DroppingKey;
use crate::state::key::replica::{Held, ReplicaKey};
use crate::state::key::server::{Server, ServerKey};
use crate::state::key::{self, Key, Kind};
use crate::state::rows::{Rows, RowsError};

/// Chunkservers a query names: far more than one Raft group serves.
const SERVERS_MAX: usize = 1 << 16;
/// Reports of one chunk's copies: one per server that holds one.
const DAMAGE_ROWS_MAX: usize = 64;

/// The reports about a chunk's copies.
///
/// # Errors
/// [`RowsError`].
pub fn damaged(rows: &dyn Rows, chunk: ChunkId) -> Result<Vec<(ServerId, Damage)>, RowsError> {
    let reports = key::scan_prefix::<DamageKey>(rows, &DamageKey::prefix(chunk), DAMAGE_ROWS_MAX)?;
    Ok(reports.into_iter().map(|(key, damage)| (key.server, damage)).collect())
}

/// All reports about copies, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn damage_reports(rows: &dyn Rows, limit: usize) -> Result<Vec<(DamageKey, Damage)>, RowsError> {
    key::scan_prefix(rows, &[Kind::Damage as u8], limit)
}

/// Reports about copies after `after`, at most `limit`, in the order of chunks and servers.
///
/// # Errors
/// [`RowsError`].
pub fn damage_reports_after(
    rows: &dyn Rows,
    after: Option<&DamageKey>,
    limit: usize,
) -> Result<Vec<(DamageKey, Damage)>, RowsError> {
    let kind = [Kind::Damage as u8];
    let mut from = after.map_or_else(|| kind.to_vec(), Key::encode);
    if after.is_some() {
        from.push(0);
    }
    key::scan(rows, &from, &key::prefix_end(&kind), limit)
}

/// The report about a server's copy of a chunk.
///
/// # Errors
/// [`RowsError`].
pub fn damage(rows: &dyn Rows, chunk: ChunkId, server: ServerId) -> Result<Option<Damage>, RowsError> {
    key::get(rows, &DamageKey { chunk, server })
}

/// A chunk's row.
///
/// # Errors
/// [`RowsError`].
pub fn chunk(rows: &dyn Rows, id: ChunkId) -> Result<Option<Chunk>, RowsError> {
    key::get(rows, &ChunkKey(id))
}

/// Chunks after `after`, at most `limit`, in the order of ids.
///
/// # Errors
/// [`RowsError`].
pub fn chunks(rows: &dyn Rows, after: Option<ChunkId>, limit: usize) -> Result<Vec<(ChunkId, Chunk)>, RowsError> {
    let kind = [Kind::Chunk as u8];
    let mut from = after.map_or_else(|| kind.to_vec(), |id| ChunkKey(id).encode());
    if after.is_some() {
        from.push(0);
    }
    let found = key::scan::<ChunkKey>(rows, &from, &key::prefix_end(&kind), limit)?;
    Ok(found.into_iter().map(|(ChunkKey(id), chunk)| (id, chunk)).collect())
}

/// A chunk as users see it.
#[must_use]
pub fn chunk_info(id: ChunkId, chunk: &Chunk) -> ChunkInfo {
    ChunkInfo {
        chunk: id,
        state: match chunk.phase {
            Phase::Open => ChunkState::Open,
            Phase::Sealed => ChunkState::Sealed,
            Phase::Garbage { .. } => ChunkState::Garbage,
        },
        generation: chunk.generation,
        length: chunk.length,
        crc: chunk.crc,
        references: chunk.references,
        wanted: chunk.wanted,
        replicas: chunk
            .replicas
            .iter()
            .map(|replica| (replica.server, replica.number, replica_state(replica.state)))
            .collect(),
    }
}

fn replica_state(state: chunk::ReplicaState) -> ReplicaState {
    match state {
        chunk::ReplicaState::Copying => ReplicaState::Copying,
        chunk::ReplicaState::Live => ReplicaState::Live,
        chunk::ReplicaState::Dropping => ReplicaState::Dropping,
    }
}

/// Sealed chunks with fewer live copies than wanted, those with the fewest first, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn degraded(rows: &dyn Rows, limit: usize) -> Result<Vec<DegradedKey>, RowsError> {
    let found = key::scan_prefix::<DegradedKey>(rows, &[Kind::Degraded as u8], limit)?;
    Ok(found.into_iter().map(|(key, _)| key).collect())
}

/// The registered chunkservers, retired ones too.
///
/// # Errors
/// [`RowsError`].
pub fn servers(rows: &dyn Rows) -> Result<Vec<(ServerId, Server)>, RowsError> {
    let found = key::scan_prefix::<ServerKey>(rows, &[Kind::Server as u8], SERVERS_MAX)?;
    Ok(found.into_iter().map(|(ServerKey(id), server)| (id, server)).collect())
}

/// One chunkserver.
///
/// # Errors
/// [`RowsError`].
pub fn server(rows: &dyn Rows, id: ServerId) -> Result<Option<Server>, RowsError> {
    key::get(rows, &ServerKey(id))
}

/// Copies a server is told to remove, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn drop_orders(
    rows: &dyn Rows,
    server: ServerId,
    limit: usize,
) -> Result<Vec<(ChunkId, ReplicaNumber)>, RowsError> {
    let found = key::scan_prefix::<DroppingKey>(rows, &DroppingKey::prefix(server), limit)?;
    Ok(found.into_iter().map(|(key, _)| (key.chunk, key.number)).collect())
}

/// Copies a server holds or makes, after `after`, at most `limit`, in the order of chunk ids.
///
/// # Errors
/// [`RowsError`].
pub fn held(
    rows: &dyn Rows,
    server: ServerId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<(ChunkId, Held)>, RowsError> {
    let prefix = ReplicaKey::prefix(server);
    let from = match after {
        Some(chunk) => {
            let mut from = ReplicaKey { server, chunk }.encode();
            from.push(0);
            from
        }
        None => prefix.clone(),
    };
    let found = key::scan::<ReplicaKey>(rows, &from, &key::prefix_end(&prefix), limit)?;
    Ok(found.into_iter().map(|(key, held)| (key.chunk, held)).collect())
}
