//! Unwanted chunks whose last token has not expired: their copies are not touched before.

use gabion_protocol::ids::{ChunkId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Waiting`], the earliest deadline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GarbageKey {
    /// When the last token has expired.
    pub tokens_end: StateTime,
    /// The chunk.
    pub chunk: ChunkId,
}

impl Key for GarbageKey {
    const KIND: Kind = Kind::Garbage;
    type Value = Waiting;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.tokens_end.0.to_be_bytes());
        out.extend(self.chunk.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            tokens_end: StateTime(fields.u64()?),
            chunk: ChunkId::from_bytes(fields.take()?),
        })
    }
}

/// The key says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting;

impl Value for Waiting {}
