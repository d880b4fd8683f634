//! Reports of a copy that cannot be trusted, kept until its server has read it again or it is gone.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamageKey {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where.
    pub server: ServerId,
}

impl DamageKey {
    /// What all keys of a chunk begin with.
    #[must_use]
    pub fn prefix(chunk: ChunkId) -> Vec<u8> {
        let mut prefix = vec![Kind::Damage as u8];
        prefix.extend(chunk.to_bytes());
        prefix
    }
}

impl Key for DamageKey {
    const KIND: Kind = Kind::Damage;
    type Value = Damage;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.chunk.to_bytes());
        out.extend(self.server.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            chunk: ChunkId::from_bytes(fields.take()?),
            server: ServerId(fields.u32()?),
        })
    }
}

/// A report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The copy.
    pub number: ReplicaNumber,
    /// Whether its own server found it, not only a reader.
    pub confirmed: bool,
    /// What was found, in words.
    pub what: String,
}

impl Value for Damage {}
