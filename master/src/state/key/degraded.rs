//! Index of sealed chunks with fewer live copies than wanted, those with the fewest first.

use gabion_protocol::ids::ChunkId;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Wanting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DegradedKey {
    /// Live copies.
    pub live: u8,
    /// The chunk.
    pub chunk: ChunkId,
}

impl Key for DegradedKey {
    const KIND: Kind = Kind::Degraded;
    type Value = Wanting;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.live);
        out.extend(self.chunk.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [live] = fields.take()?;
        let chunk = ChunkId::from_bytes(fields.take()?);
        Some(Self { live, chunk })
    }
}

/// How many copies it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanting {
    /// Copies wanted.
    pub wanted: u8,
}

impl Value for Wanting {}
