//! Chunks: state, checksum, references and the whole replica set.

use gabion_protocol::ids::{ChunkId, Generation, Ino, ReplicaNumber, ServerId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Chunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkKey(pub ChunkId);

impl Key for ChunkKey {
    const KIND: Kind = Kind::Chunk;
    type Value = Chunk;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.take().map(|bytes| Self(ChunkId::from_bytes(bytes)))
    }
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where it is in its life.
    pub phase: Phase,
    /// Counts its seal attempts.
    pub generation: Generation,
    /// Bytes; 0 while open.
    pub length: u64,
    /// CRC of its bytes; 0 while open.
    pub crc: u32,
    /// Extent rows that name it.
    pub references: u64,
    /// Copies wanted.
    pub wanted: u8,
    /// The file it was written for.
    pub owner: Ino,
    /// Its copies, in the order of the chain it was written along.
    pub replicas: Vec<Replica>,
}

/// Where a chunk is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being written by its one pipeline.
    Open,
    /// Immutable.
    Sealed,
    /// Wanted no more.
    Garbage {
        /// When the last token for it has expired.
        tokens_end: StateTime,
    },
}

/// A copy of a chunk, logged before its file is made and until its file is known to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Where.
    pub server: ServerId,
    /// Its number; orders name it.
    pub number: ReplicaNumber,
    /// What is happening to it.
    pub state: ReplicaState,
}

/// What is happening to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// It is being made.
    Copying,
    /// It holds the chunk.
    Live,
    /// It is being removed.
    Dropping,
}

impl Chunk {
    /// Copies that hold the chunk.
    #[must_use]
    pub fn live(&self) -> usize {
        self.replicas.iter().filter(|r| r.state == ReplicaState::Live).count()
    }

    /// Whether it is sealed with fewer live copies than wanted.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.phase == Phase::Sealed && self.live() < usize::from(self.wanted)
    }
}

impl Value for Chunk {}
