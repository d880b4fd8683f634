//! Index of sealed chunks with more live copies than wanted: what a server that came back leaves behind.

use gabion_protocol::ids::ChunkId;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of an [`Excess`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurplusKey(pub ChunkId);

impl Key for SurplusKey {
    const KIND: Kind = Kind::Surplus;
    type Value = Excess;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.take().map(|bytes| Self(ChunkId::from_bytes(bytes)))
    }
}

/// How many copies it has and wants. Copies on lost servers count here: their rows stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excess {
    /// Live copies.
    pub live: u8,
    /// Copies wanted.
    pub wanted: u8,
}

impl Value for Excess {}
