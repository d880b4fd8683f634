//! Writing along a chain: what comes from above is checked, passed on and stored at the same time.
//!
//! * [`open`] decides whether a stream may begin: token, then memory, then disk and the next hop side by side;
//! * [`stream`] runs it: packets down, acks up, one seal;
//! * [`small`] writes a whole small chunk along the chain in one request.
//!
//! Invariants: nothing touches a disk before its token was checked; nothing is stored or passed on before its CRCs
//! were; an answer goes up only after this server's own part is durable *and* the answer from below came, so the
//! head's word speaks for the whole chain; memory is reserved when a stream opens, and a peer that sends beyond it
//! loses its stream, so no stream can make another wait.

mod open;
mod progress;
mod small;
mod stream;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use gabion_protocol::limits::{CHAIN_HOPS_MAX, CHUNK_BYTES_MAX};
use gabion_protocol::messages::data::WriteSpec;
use gabion_protocol::token::{Grant, Mode};
use gabion_protocol::{ErrorCode, ServerId, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::disk::{NewChunk, Store};
use crate::foreground::Foreground;
use crate::masters::Masters;
use crate::pace::Pace;
use crate::peers::Peers;

pub(crate) use open::{Inbox, Writer};

/// Memory is counted in units of so many bytes: a semaphore's permits are 32-bit numbers.
const UNIT_BYTES: u64 = 1 << 10;
/// One connection holds at most this part of the memory: a peer that stalls leaves room for others.
const SHARES: usize = 4;

/// Least rest between pieces sent to servers that make copies while clients are served: at most 64 MiB a second. Reading
/// from the page cache takes no time, and sending is the network's work.
const SENDING_REST: Duration = Duration::from_millis(2);

/// What every write needs.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) store: Store,
    pub(crate) masters: Masters,
    pub(crate) peers: Peers,
    pub(crate) streams: Arc<AtomicU32>,
    /// What clients have this server do.
    pub(crate) clients: Arc<Foreground>,
    /// Of what is sent to servers that make copies.
    pub(crate) sending: Pace,
    memory: Arc<Semaphore>,
    /// Units one connection may hold.
    share_units: usize,
}

/// What one connection may take of the memory for packets.
#[derive(Debug, Clone)]
pub(crate) struct Share(Arc<Semaphore>);

/// Memory for packets; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    _all: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl Pipeline {
    /// A pipeline whose streams together hold at most `memory` bytes of packets.
    pub(crate) fn new(store: Store, masters: Masters, memory: u64, streams: Arc<AtomicU32>) -> Self {
        let units = usize::try_from(memory / UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        let units = units.min(Semaphore::MAX_PERMITS);
        let clients = Arc::new(Foreground::default());
        Self {
            peers: Peers::new(masters.clone()),
            sending: Pace::new(&clients, SENDING_REST),
            clients,
            store,
            masters,
            streams,
            memory: Arc::new(Semaphore::new(units)),
            // One packet at least: all memory is four of them or more.
            share_units: units / SHARES,
        }
    }

    /// The share of a new connection.
    pub(crate) fn share(&self) -> Share {
        Share(Arc::new(Semaphore::new(self.share_units)))
    }

    /// Reserves memory, or says that there is none.
    fn reserve(&self, share: &Share, bytes: u64) -> Result<Reserved, WireError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let take = |from: &Arc<Semaphore>, whose: &str| {
            Arc::clone(from).try_acquire_many_owned(units).map_err(|_| {
                WireError::new(
                    ErrorCode::Busy,
                    format!("cannot take more writes now: all memory for packets{whose} is in use"),
                )
                .help("try again when a write has ended, or use another server")
            })
        };
        Ok(Reserved {
            _share: take(&share.0, " of this connection")?,
            _all: take(&self.memory, "")?,
        })
    }

    /// Bytes a stream on a connection with this share could reserve.
    fn memory_free(&self, share: &Share) -> u64 {
        let units = self.memory.available_permits().min(share.0.available_permits());
        units as u64 * UNIT_BYTES
    }

    /// Checks the form of a write and the right to it: before any IO.
    fn admit(&self, spec: &WriteSpec) -> Result<(ServerId, Grant), WireError> {
        let (own, now) = self.masters.standing()?;
        let malformed = |why: &str| {
            WireError::new(
                ErrorCode::InvalidArgument,
                format!("cannot write chunk {}: {why}", spec.chunk),
            )
        };
        let Some(head) = spec.chain.first() else {
            return Err(malformed("the chain is empty"));
        };
        if spec.chain.len() > CHAIN_HOPS_MAX {
            return Err(malformed("the chain is too long"));
        }
        if spec.chain.iter().skip(1).any(|hop| hop.server == own) {
            return Err(malformed("the chain comes back to its head"));
        }
        let grant = head.token.check(own, self.masters.key(), Mode::Write, now)?;
        if (grant.chunk, grant.generation) != (spec.chunk, spec.generation) {
            return Err(WireError::new(
                ErrorCode::BadToken,
                format!(
                    "cannot write chunk {} generation {}: the token is for {} generation {}",
                    spec.chunk, spec.generation, grant.chunk, grant.generation
                ),
            ));
        }
        if spec.bytes_max == 0 || spec.bytes_max > CHUNK_BYTES_MAX {
            return Err(malformed("its maximum length is out of range"));
        }
        Ok((own, grant))
    }
}

fn new_chunk(spec: &WriteSpec, grant: &Grant) -> NewChunk {
    NewChunk {
        chunk: spec.chunk,
        generation: spec.generation,
        replica: grant.replica,
        owner: spec.owner,
        file_offset: spec.file_offset,
        bytes_max: spec.bytes_max,
    }
}

/// What the next hop is asked: the same, for the rest of the chain.
fn rest_of(spec: &WriteSpec) -> Option<(ServerId, WriteSpec)> {
    let next = spec.chain.get(1)?.server;
    let rest = WriteSpec {
        chain: spec.chain[1..].to_vec(),
        ..spec.clone()
    };
    Some((next, rest))
}

/// The same error, saying which server of the chain it came from.
fn from_below(server: ServerId, error: WireError) -> WireError {
    let result = error.to_string();
    error.tried(format!("server {server}"), result)
}
