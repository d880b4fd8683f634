//! Index of the background copies a server is told to make: its copy orders, found without walking its chunks.
//!
//! Copies a client's pipeline makes of an open chunk are not here: nobody orders them.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of an [`Order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyingKey {
    /// The server that makes the copy.
    pub server: ServerId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy.
    pub number: ReplicaNumber,
}

impl CopyingKey {
    /// What all keys of a server begin with.
    #[must_use]
    pub fn prefix(server: ServerId) -> Vec<u8> {
        let mut prefix = vec![Kind::Copying as u8];
        prefix.extend(server.0.to_be_bytes());
        prefix
    }
}

impl Key for CopyingKey {
    const KIND: Kind = Kind::Copying;
    type Value = Order;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.server.0.to_be_bytes());
        out.extend(self.chunk.to_bytes());
        out.extend(self.number.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            server: ServerId(fields.u32()?),
            chunk: ChunkId::from_bytes(fields.take()?),
            number: ReplicaNumber(fields.u64()?),
        })
    }
}

/// The key says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order;

impl Value for Order {}
