//! Large chunks that are being made to take the place of small ones.

use gabion_protocol::checksum::Running;
use gabion_protocol::ids::{ChunkId, Ino};
use serde::{Deserialize, Serialize};

use super::extent::Extent;
use super::{Fields, Key, Kind, Value};

/// Key of a [`Merge`]: the large chunk, which is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeKey(pub ChunkId);

impl Key for MergeKey {
    const KIND: Kind = Kind::Merge;
    type Value = Merge;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.take().map(|bytes| Self(ChunkId::from_bytes(bytes)))
    }
}

/// What a large chunk is made of, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// The file.
    pub file: Ino,
    /// Where in it the first piece begins.
    pub offset: u64,
    /// The extents whose place it takes, one after the other without gaps.
    pub pieces: Vec<Piece>,
}

/// An extent as it was when the large chunk was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in the chunk it begins.
    pub chunk_offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Their CRC, if it is known.
    pub crc: Option<u32>,
}

impl From<&Extent> for Piece {
    fn from(extent: &Extent) -> Self {
        Self {
            chunk: extent.chunk,
            chunk_offset: extent.chunk_offset,
            length: extent.length,
            crc: extent.crc,
        }
    }
}

impl Merge {
    /// Bytes of all pieces.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| piece.length)
            .fold(0, u64::saturating_add)
    }

    /// Where in the file the last piece ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length())
    }

    /// The CRC of all pieces, if that of each is known.
    #[must_use]
    pub fn crc(&self) -> Option<u32> {
        let mut whole = Running::default();
        for piece in &self.pieces {
            whole.append(piece.crc?, piece.length);
        }
        Some(whole.crc())
    }
}

impl Value for Merge {}
