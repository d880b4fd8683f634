//! Extents: which chunk holds a range of a file.

use gabion_protocol::ids::{ChunkId, Ino};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of an [`Extent`]: a file's extents lie together, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentKey {
    /// The file.
    pub ino: Ino,
    /// Where in the file it begins.
    pub offset: u64,
}

impl ExtentKey {
    /// What all keys of a file begin with.
    #[must_use]
    pub fn prefix(ino: Ino) -> Vec<u8> {
        let mut prefix = vec![Kind::Extent as u8];
        prefix.extend(ino.0.to_be_bytes());
        prefix
    }
}

impl Key for ExtentKey {
    const KIND: Kind = Kind::Extent;
    type Value = Extent;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.ino.0.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            ino: Ino(fields.u64()?),
            offset: fields.u64()?,
        })
    }
}

/// A range of a file. Each row is one reference to its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in the chunk the range begins.
    pub chunk_offset: u64,
    /// Bytes of the range.
    pub length: u64,
    /// CRC of the range; `None` for a part of a chunk that nobody has verified yet.
    pub crc: Option<u32>,
    /// Since when.
    pub since: Moment,
}

impl Value for Extent {}
