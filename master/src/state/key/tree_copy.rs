//! Copies of directories under way.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::meta::Pin;
use super::{Fields, Key, Kind, Value};

/// Key of a [`TreeCopy`]: the upload that keeps its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeCopyKey(pub Ino);

impl Key for TreeCopyKey {
    const KIND: Kind = Kind::TreeCopy;
    type Value = TreeCopy;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// The copy of a directory under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeCopy {
    /// The directory that will appear; nobody sees it before.
    pub root: Ino,
    /// The moment it is a copy of, kept as a snapshot's.
    pub pin: Pin,
    /// Whether modification times are those of the originals.
    pub keep_times: bool,
    /// Directories whose entries are not all copied yet; the last one is next.
    pub todo: Vec<Frame>,
    /// A file of many extents that is half copied.
    pub part: Option<PartFile>,
    /// Copied so far: files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A directory being copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// From.
    pub source: Ino,
    /// To.
    pub target: Ino,
    /// The last name that was copied; empty at the beginning.
    pub last: String,
}

/// A file being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// From.
    pub source: Ino,
    /// To.
    pub target: Ino,
    /// Where its next extent begins, or after.
    pub next: u64,
}

impl Value for TreeCopy {}
