//! Unlinked inodes that can still be restored: what the inode itself does not say any more.
//!
//! Its row in [`super::trash`] says when it goes. Both go, and the row in [`super::kept_path`], as soon as it is
//! restored or its being taken apart begins.

use gabion_protocol::ids::{Ino, StateTime};
use gabion_protocol::path::FsPath;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of a [`Kept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptKey(pub Ino);

impl Key for KeptKey {
    const KIND: Kind = Kind::Kept;
    type Value = Kept;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where it was.
    pub path: FsPath,
    /// When it was removed.
    pub removed: Moment,
    /// The same for people: milliseconds since 1970.
    pub removed_ms: i64,
    /// When it may be taken apart.
    pub deadline: StateTime,
}

impl Value for Kept {}
