//! Copies that are to be moved from a full server to an emptier one.
//!
//! A row is there exactly as long as its move is under way: the copy that goes is Live, and the one made for it is being
//! made, or is Live and the chunk has more live copies than it wants. `state::chunks` writes it together with the chunk.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Move`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveKey(pub ChunkId);

impl Key for MoveKey {
    const KIND: Kind = Kind::Move;
    type Value = Move;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.take().map(|bytes| Self(ChunkId::from_bytes(bytes)))
    }
}

/// One copy takes another one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Whose copy goes.
    pub from: ServerId,
    /// That copy.
    pub goes: ReplicaNumber,
    /// Who gets one for it.
    pub to: ServerId,
    /// That copy.
    pub comes: ReplicaNumber,
}

impl Value for Move {}
