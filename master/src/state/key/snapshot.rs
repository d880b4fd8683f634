//! Snapshots by directory: a name for what the directory held at a moment.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of a [`Snapshot`]: a directory's snapshots lie together, in the order of their names' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotKey {
    /// The directory.
    pub root: Ino,
    /// The snapshot's name.
    pub name: String,
}

impl SnapshotKey {
    /// What all keys of a directory begin with.
    #[must_use]
    pub fn prefix(root: Ino) -> Vec<u8> {
        let mut prefix = vec![Kind::Snapshot as u8];
        prefix.extend(root.0.to_be_bytes());
        prefix
    }
}

impl Key for SnapshotKey {
    const KIND: Kind = Kind::Snapshot;
    type Value = Snapshot;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.root.0.to_be_bytes());
        out.extend(self.name.as_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let root = Ino(fields.u64()?);
        let name = String::from_utf8(fields.rest().to_vec()).ok()?;
        Some(Self { root, name })
    }
}

/// A snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it shows: everything as it was after the command of this moment.
    pub moment: Moment,
    /// The same for people: milliseconds since 1970.
    pub created_ms: i64,
}

impl Value for Snapshot {}
