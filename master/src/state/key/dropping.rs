//! Index of the copies a server is told to remove: its drop orders, found without walking its chunks.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of an [`Order`]. The number is part of it: a server may remove one copy and make another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppingKey {
    /// The server.
    pub server: ServerId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy.
    pub number: ReplicaNumber,
}

impl DroppingKey {
    /// What all keys of a server begin with.
    #[must_use]
    pub fn prefix(server: ServerId) -> Vec<u8> {
        let mut prefix = vec![Kind::Dropping as u8];
        prefix.extend(server.0.to_be_bytes());
        prefix
    }
}

impl Key for DroppingKey {
    const KIND: Kind = Kind::Dropping;
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
