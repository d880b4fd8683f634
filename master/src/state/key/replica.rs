//! Index of the copies a server holds or makes: what a full report is compared with.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Held`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaKey {
    /// The server.
    pub server: ServerId,
    /// The chunk.
    pub chunk: ChunkId,
}

impl ReplicaKey {
    /// What all keys of a server begin with.
    #[must_use]
    pub fn prefix(server: ServerId) -> Vec<u8> {
        let mut prefix = vec![Kind::Replica as u8];
        prefix.extend(server.0.to_be_bytes());
        prefix
    }
}

impl Key for ReplicaKey {
    const KIND: Kind = Kind::Replica;
    type Value = Held;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.server.0.to_be_bytes());
        out.extend(self.chunk.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            server: ServerId(fields.u32()?),
            chunk: ChunkId::from_bytes(fields.take()?),
        })
    }
}

/// A copy that is Copying or Live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its number.
    pub number: ReplicaNumber,
    /// Whether it holds the chunk already.
    pub live: bool,
}

impl Value for Held {}
