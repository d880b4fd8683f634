//! Chunkservers: who they are, what they removed, which of their copies cannot be trusted.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::limits::{BATCH_ROWS_MAX, NAME_BYTES_MAX};
use gabion_protocol::messages::master::{Damage as Found, Registration};

use super::key::chunk::{ChunkKey, ReplicaState};
use super::key::damage::{Damage, DamageKey};
use super::key::server::{Server, ServerKey};
use super::key::server_name::{Named, ServerNameKey};
use super::reply::{Outcome, Refusal};
use super::rows::RowsError;
use super::tx::{Stop, Tx};
use super::{DAMAGE_TEXT_BYTES_MAX, chunks, conditions, inventory};

/// Registers a chunkserver, or lets a known one in again.
///
/// A directory is known by its number, name and incarnation, and its boot counter only grows: a copied, older or
/// foreign one is refused. An empty directory gets a new number, also under an old name: the old number is retired,
/// and what the masters know of its copies stays.
pub(super) fn register(tx: &mut Tx<'_>, name: &str, registration: &Registration) -> Result<Outcome, Stop> {
    let Registration { address, rack, .. } = registration;
    let fits = |text: &str| text.len() <= NAME_BYTES_MAX;
    if name.is_empty() || address.is_empty() || ![name, address, rack].into_iter().all(fits) {
        return Err(Refusal::ServerName.into());
    }
    let named = tx.get(&ServerNameKey(name.to_owned()))?;
    let server = match registration.server {
        Some(server) => {
            admit(tx, server, name, named, registration)?;
            server
        }
        None => match named {
            Some(Named { server }) if tx.require(&ServerKey(server))?.incarnation == registration.incarnation => {
                // The answer to its first registration was lost.
                admit(tx, server, name, named, registration)?;
                server
            }
            Some(Named { server }) => {
                let mut old = tx.require(&ServerKey(server))?;
                old.retired = true;
                tx.put(&ServerKey(server), &old);
                tx.next_server()?
            }
            None => tx.next_server()?,
        },
    };
    let row = Server {
        name: name.to_owned(),
        incarnation: registration.incarnation,
        boot: registration.boot,
        address: address.clone(),
        rack: rack.clone(),
        retired: false,
    };
    tx.put(&ServerKey(server), &row);
    tx.put(&ServerNameKey(name.to_owned()), &Named { server });
    Ok(Outcome::Registered { server })
}

/// Whether a directory is the one registered under this number.
fn admit(
    tx: &Tx<'_>,
    server: ServerId,
    name: &str,
    named: Option<Named>,
    registration: &Registration,
) -> Result<(), Stop> {
    let Some(known) = tx.get(&ServerKey(server))? else {
        return Err(conditions::absent(tx, server)?.into());
    };
    if conditions::was_removed(tx.rows(), server)? {
        return Err(Refusal::ServerRemoved { server }.into());
    }
    if known.name != name || known.incarnation != registration.incarnation {
        return Err(Refusal::ServerForeign { server }.into());
    }
    if known.retired {
        let by = named.map_or(server, |named| named.server);
        return Err(Refusal::ServerRetired { server, by }.into());
    }
    if registration.boot < known.boot {
        let boot = known.boot;
        return Err(Refusal::ServerStale { server, boot }.into());
    }
    Ok(())
}

/// Forgets copies a server has removed as it was told.
pub(super) fn dropped(tx: &mut Tx<'_>, server: ServerId, done: &[(ChunkId, ReplicaNumber)]) -> Result<Outcome, Stop> {
    bound(done.len())?;
    for (chunk, number) in done {
        chunks::dropped(tx, server, *chunk, *number)?;
        inventory::gone(tx, server, *chunk, *number)?;
    }
    Ok(Outcome::Done)
}

/// Keeps what a server found out about its own copies.
pub(super) fn damage_found(tx: &mut Tx<'_>, server: ServerId, found: &[Found]) -> Result<Outcome, Stop> {
    bound(found.len())?;
    for damage in found {
        note(tx, damage.chunk, server, damage.replica, &damage.what, true)?;
    }
    Ok(Outcome::Done)
}

/// Forgets reports that a server has found wrong by reading again.
pub(super) fn damage_cleared(
    tx: &mut Tx<'_>,
    server: ServerId,
    intact: &[(ChunkId, ReplicaNumber)],
) -> Result<Outcome, Stop> {
    bound(intact.len())?;
    for (chunk, number) in intact {
        let report = DamageKey { chunk: *chunk, server };
        if tx.get(&report)?.is_some_and(|damage| damage.number == *number) {
            tx.delete(&report);
        }
    }
    Ok(Outcome::Done)
}

/// Keeps what servers that copied from others say about the others' copies, until these have read again themselves.
pub(super) fn damage_suspected(tx: &mut Tx<'_>, found: &[(ServerId, Found)]) -> Result<Outcome, Stop> {
    bound(found.len())?;
    for (server, damage) in found {
        note(tx, damage.chunk, *server, damage.replica, &damage.what, false)?;
    }
    Ok(Outcome::Done)
}

/// Keeps what a reader says about a copy. About a copy that is not held (any more) there is nothing to keep.
pub(super) fn report_damage(
    tx: &mut Tx<'_>,
    chunk: ChunkId,
    server: ServerId,
    number: ReplicaNumber,
    what: &str,
) -> Result<Outcome, RowsError> {
    note(tx, chunk, server, number, what, false)?;
    Ok(Outcome::Done)
}

fn note(
    tx: &mut Tx<'_>,
    id: ChunkId,
    server: ServerId,
    number: ReplicaNumber,
    what: &str,
    confirmed: bool,
) -> Result<(), RowsError> {
    let held = tx.get(&ChunkKey(id))?.is_some_and(|chunk| {
        let mut replicas = chunk.replicas.iter();
        replicas.any(|r| (r.server, r.number) == (server, number) && r.state != ReplicaState::Dropping)
    });
    let key = DamageKey { chunk: id, server };
    let known = tx.get(&key)?.is_some_and(|damage| damage.confirmed || !confirmed);
    if held && !known {
        let damage = Damage {
            number,
            confirmed,
            what: clip(what),
        };
        tx.put(&key, &damage);
    }
    Ok(())
}

fn clip(text: &str) -> String {
    let longest = DAMAGE_TEXT_BYTES_MAX.min(text.len());
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

pub(super) fn bound(asked: usize) -> Result<(), Refusal> {
    if asked > BATCH_ROWS_MAX {
        return Err(Refusal::TooMany {
            asked: asked as u64,
            limit: BATCH_ROWS_MAX as u64,
        });
    }
    Ok(())
}
