//! Copies a server holds that no row names: set aside, and removed when their time is over.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of an [`Unknown`]. The number is part of it: a server with several disks may hold several copies of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownKey {
    /// The server.
    pub server: ServerId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy.
    pub number: ReplicaNumber,
}

impl UnknownKey {
    /// What all keys of a server begin with.
    #[must_use]
    pub fn prefix(server: ServerId) -> Vec<u8> {
        let mut prefix = vec![Kind::Unknown as u8];
        prefix.extend(server.0.to_be_bytes());
        prefix
    }
}

impl Key for UnknownKey {
    const KIND: Kind = Kind::Unknown;
    type Value = Unknown;

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

/// What happens to such a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unknown {
    /// It is kept, at least until then.
    Kept {
        /// In state time.
        until: StateTime,
    },
    /// Its server is told to remove it: a [`super::dropping`] row says so, too.
    Dropping,
}

impl Value for Unknown {}
