//! Chunks: allocation, seals, references, copies, garbage.
//!
//! Every change of a chunk goes through [`store`], which keeps the indexes by server and by need as [`index`] says.

use std::collections::{BTreeMap, BTreeSet};

use gabion_protocol::ids::{ChunkId, Generation, Ino, ReplicaNumber, ServerId, StateTime};
use gabion_protocol::messages::master::Seal;

use super::balance;
use super::clock;
use super::key::chunk::{Chunk, ChunkKey, Phase, Replica, ReplicaState};
use super::key::copying::{self, CopyingKey};
use super::key::damage::DamageKey;
use super::key::degraded::{DegradedKey, Wanting};
use super::key::dropping::{DroppingKey, Order};
use super::key::garbage::{GarbageKey, Waiting};
use super::key::inode::{Body, InodeKey};
use super::key::replica::{Held, ReplicaKey};
use super::key::server::ServerKey;
use super::key::surplus::{Excess, SurplusKey};
use super::key::{self, Key, Kind, Value};
use super::reply::{GrantedChunk, Refusal};
use super::rows::RowsError;
use super::tx::{Stop, Tx};

/// Servers that must hold a chunk before its write is acknowledged.
pub(super) fn needed(wanted: u8) -> u8 {
    wanted.min(2)
}

/// The index rows a chunk has.
pub(super) fn index(id: ChunkId, chunk: &Chunk) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for replica in &chunk.replicas {
        let Replica { server, number, state } = *replica;
        let (key, value) = match state {
            ReplicaState::Copying | ReplicaState::Live => {
                let live = state == ReplicaState::Live;
                (
                    ReplicaKey { server, chunk: id }.encode(),
                    Held { number, live }.encode(),
                )
            }
            ReplicaState::Dropping => {
                let key = DroppingKey {
                    server,
                    chunk: id,
                    number,
                };
                (key.encode(), Order.encode())
            }
        };
        rows.insert(key, value);
        if chunk.phase == Phase::Sealed && state == ReplicaState::Copying {
            let key = CopyingKey {
                server,
                chunk: id,
                number,
            };
            rows.insert(key.encode(), copying::Order.encode());
        }
    }
    let (live, wanted) = (u8::try_from(chunk.live()).unwrap_or(u8::MAX), chunk.wanted);
    if chunk.is_degraded() {
        rows.insert(DegradedKey { live, chunk: id }.encode(), Wanting { wanted }.encode());
    }
    if chunk.phase == Phase::Sealed && live > wanted {
        rows.insert(SurplusKey(id).encode(), Excess { live, wanted }.encode());
    }
    if let Phase::Garbage { tokens_end } = chunk.phase
        && chunk
            .replicas
            .iter()
            .any(|replica| replica.state != ReplicaState::Dropping)
    {
        rows.insert(GarbageKey { tokens_end, chunk: id }.encode(), Waiting.encode());
    }
    rows
}

/// Writes a chunk and its index rows; `None` removes them.
pub(super) fn store(tx: &mut Tx<'_>, id: ChunkId, old: Option<&Chunk>, new: Option<&Chunk>) -> Result<(), RowsError> {
    let before = old.map(|chunk| index(id, chunk)).unwrap_or_default();
    let after = new.map(|chunk| index(id, chunk)).unwrap_or_default();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        tx.delete_raw(key.clone());
    }
    for (key, value) in after {
        if before.get(&key) != Some(&value) {
            tx.put_raw(key, value);
        }
    }
    let lost_copies = forget_damage(tx, id, old, new)?;
    balance::settle(tx, id, old, new, lost_copies)?;
    match new {
        Some(chunk) => tx.put(&ChunkKey(id), chunk),
        None => tx.delete(&ChunkKey(id)),
    }
    Ok(())
}

/// Removes the reports about copies that are held no more; whether there are such copies.
fn forget_damage(tx: &mut Tx<'_>, id: ChunkId, old: Option<&Chunk>, new: Option<&Chunk>) -> Result<bool, RowsError> {
    let held = |chunk: Option<&Chunk>| -> BTreeSet<(ServerId, ReplicaNumber)> {
        let replicas = chunk.into_iter().flat_map(|chunk| &chunk.replicas);
        let held = replicas.filter(|replica| replica.state != ReplicaState::Dropping);
        held.map(|replica| (replica.server, replica.number)).collect()
    };
    let (before, after) = (held(old), held(new));
    for (server, _) in before.difference(&after) {
        let report = DamageKey {
            chunk: id,
            server: *server,
        };
        if tx.get(&report)?.is_some() {
            tx.delete(&report);
        }
    }
    Ok(!before.is_subset(&after))
}

/// Allocates an open chunk on the servers of `chain` that are registered.
pub(super) fn open(tx: &mut Tx<'_>, owner: Ino, wanted: u8, chain: &[ServerId]) -> Result<GrantedChunk, Stop> {
    let mut usable: Vec<ServerId> = Vec::new();
    for server in chain {
        let registered = tx.get(&ServerKey(*server))?.is_some_and(|server| !server.retired);
        if registered && !usable.contains(server) && usable.len() < usize::from(wanted) {
            usable.push(*server);
        }
    }
    if usable.len() < usize::from(needed(wanted)) {
        return Err(Refusal::TooFewServers {
            usable: u8::try_from(usable.len()).unwrap_or(u8::MAX),
            needed: needed(wanted),
        }
        .into());
    }
    let id = tx.next_chunk()?;
    let mut replicas = Vec::with_capacity(usable.len());
    for server in usable {
        replicas.push(Replica {
            server,
            number: tx.next_replica()?,
            state: ReplicaState::Copying,
        });
    }
    let chunk = Chunk {
        phase: Phase::Open,
        generation: Generation(1),
        length: 0,
        crc: 0,
        references: 0,
        wanted,
        owner,
        replicas,
    };
    store(tx, id, None, Some(&chunk))?;
    Ok(GrantedChunk {
        chunk: id,
        generation: chunk.generation,
        replicas: chunk.replicas.iter().map(|r| (r.server, r.number)).collect(),
    })
}

/// Seals an open chunk for the one extent of `owner` that is about to name it; whether it is degraded.
pub(super) fn seal(tx: &mut Tx<'_>, seal: &Seal, owner: Ino) -> Result<bool, Stop> {
    let id = seal.chunk;
    let old = tx.require(&ChunkKey(id))?;
    if old.phase != Phase::Open {
        return Err(Refusal::ChunkNotOpen { chunk: id }.into());
    }
    if seal.generation != old.generation {
        let generation = old.generation;
        return Err(Refusal::ChunkFenced { chunk: id, generation }.into());
    }
    check_members(&old, seal)?;
    let mut new = old.clone();
    new.phase = Phase::Sealed;
    new.length = seal.length;
    new.crc = seal.crc;
    new.references = 1;
    new.owner = owner;
    for replica in &mut new.replicas {
        replica.state = if seal.members.contains(&replica.server) {
            ReplicaState::Live
        } else {
            ReplicaState::Dropping
        };
    }
    store(tx, id, Some(&old), Some(&new))?;
    Ok(new.is_degraded())
}

/// Members must be distinct, of the chunk's set, and enough for the promise.
fn check_members(chunk: &Chunk, seal: &Seal) -> Result<(), Refusal> {
    for (i, server) in seal.members.iter().enumerate() {
        let twice = seal.members[..i].contains(server);
        if twice || !chunk.replicas.iter().any(|replica| replica.server == *server) {
            return Err(Refusal::SealMember {
                chunk: seal.chunk,
                server: *server,
            });
        }
    }
    let members = u8::try_from(seal.members.len()).unwrap_or(u8::MAX);
    let needed = needed(chunk.wanted);
    if members < needed {
        return Err(Refusal::TooFewMembers {
            chunk: seal.chunk,
            members,
            needed,
        });
    }
    Ok(())
}

/// Stores a sealed chunk that changed, and keeps its file's count of degraded chunks right.
pub(super) fn change(tx: &mut Tx<'_>, id: ChunkId, old: &Chunk, new: Option<&Chunk>) -> Result<(), RowsError> {
    store(tx, id, Some(old), new)?;
    let is_degraded = new.is_some_and(Chunk::is_degraded);
    if old.is_degraded() == is_degraded {
        return Ok(());
    }
    let Some(mut inode) = tx.get(&InodeKey(old.owner))? else {
        return Ok(());
    };
    let content = match &mut inode.body {
        Body::File(content) => content,
        Body::Upload(upload) => &mut upload.content,
        Body::Directory | Body::Link { .. } => return Ok(()),
    };
    content.degraded = if is_degraded {
        content.degraded.saturating_add(1)
    } else {
        content.degraded.saturating_sub(1)
    };
    tx.put(&InodeKey(old.owner), &inode);
    Ok(())
}

/// Adds a reference. No index row says anything of references, so that only the chunk's own row is written.
///
/// A chunk whose last extent the same command has taken away, and that a snapshot still sees, is no garbage after all.
pub(super) fn share(tx: &mut Tx<'_>, id: ChunkId) -> Result<(), RowsError> {
    let old = tx.require(&ChunkKey(id))?;
    let mut new = old.clone();
    new.references = old
        .references
        .checked_add(1)
        .ok_or_else(|| key::corrupt(&ChunkKey(id).encode(), "its references have reached their end"))?;
    if let Phase::Garbage { .. } = old.phase {
        new.phase = Phase::Sealed;
        return change(tx, id, &old, Some(&new));
    }
    tx.put(&ChunkKey(id), &new);
    Ok(())
}

/// Takes one reference away; without any the chunk is garbage.
pub(super) fn release(tx: &mut Tx<'_>, id: ChunkId) -> Result<(), RowsError> {
    let old = tx.require(&ChunkKey(id))?;
    let mut new = old.clone();
    new.references = old
        .references
        .checked_sub(1)
        .ok_or_else(|| key::corrupt(&ChunkKey(id).encode(), "an extent names it and its references are none"))?;
    if new.references == 0 {
        return waste(tx, id, &old);
    }
    store(tx, id, Some(&old), Some(&new))
}

/// Gives an open chunk up.
pub(super) fn abandon(tx: &mut Tx<'_>, id: ChunkId) -> Result<(), RowsError> {
    let old = tx.require(&ChunkKey(id))?;
    waste(tx, id, &old)
}

/// Makes a chunk garbage. Its copies stay until no token lets anyone read or write them: a writer with a token could
/// make the file of a dropped copy anew.
fn waste(tx: &mut Tx<'_>, id: ChunkId, old: &Chunk) -> Result<(), RowsError> {
    let mut new = old.clone();
    new.references = 0;
    new.phase = Phase::Garbage {
        tokens_end: tx.now().plus(tx.world.cluster.settings.token_ms),
    };
    settle(tx, id, old, new)
}

/// Stores a chunk, or removes it if it is garbage without a copy.
fn settle(tx: &mut Tx<'_>, id: ChunkId, old: &Chunk, new: Chunk) -> Result<(), RowsError> {
    let gone = matches!(new.phase, Phase::Garbage { .. }) && new.replicas.is_empty();
    change(tx, id, old, (!gone).then_some(&new))
}

/// Orders the copies of garbage removed whose last token has expired, at most `limit` chunks; whether more are due.
pub(super) fn drop_garbage(tx: &mut Tx<'_>, swept: &mut StateTime, limit: usize) -> Result<bool, RowsError> {
    let (due, more) = clock::due::<GarbageKey>(tx, Kind::Garbage, swept, limit)?;
    for GarbageKey { chunk: id, .. } in due {
        let old = tx.require(&ChunkKey(id))?;
        let mut new = old.clone();
        for replica in &mut new.replicas {
            replica.state = ReplicaState::Dropping;
        }
        store(tx, id, Some(&old), Some(&new))?;
    }
    Ok(more)
}

/// A server has removed a copy. Only a copy that was ordered removed is forgotten.
pub(super) fn dropped(tx: &mut Tx<'_>, server: ServerId, id: ChunkId, number: ReplicaNumber) -> Result<(), RowsError> {
    let Some(old) = tx.get(&ChunkKey(id))? else {
        return Ok(());
    };
    let gone = Replica {
        server,
        number,
        state: ReplicaState::Dropping,
    };
    if !old.replicas.contains(&gone) {
        return Ok(());
    }
    let mut new = old.clone();
    new.replicas.retain(|replica| *replica != gone);
    settle(tx, id, &old, new)
}
