//! What a directory holds in all, so that `du` and quotas need no walk.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Total`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalKey(pub Ino);

impl Key for TotalKey {
    const KIND: Kind = Kind::Total;
    type Value = Total;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// Everything below a directory, itself not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Total {
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes reserved against a quota by open writes; 0 as long as there are no quotas.
    pub reserved: u64,
    /// At least the names of the deepest path below. Grows only, until the directory is empty.
    pub deepest: u16,
    /// At least the bytes of the longest path below, each name with its slash. Grows only, as `deepest` does.
    pub longest: u16,
}

impl Value for Total {}
