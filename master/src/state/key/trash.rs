//! Unlinked inodes, taken apart in bounded steps once their deadline has passed.

use gabion_protocol::ids::{Ino, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Trashed`], the earliest deadline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashKey {
    /// When it may be taken apart.
    pub deadline: StateTime,
    /// The inode.
    pub ino: Ino,
}

impl Key for TrashKey {
    const KIND: Kind = Kind::Trash;
    type Value = Trashed;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.deadline.0.to_be_bytes());
        out.extend(self.ino.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            deadline: StateTime(fields.u64()?),
            ino: Ino(fields.u64()?),
        })
    }
}

/// The key says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed;

impl Value for Trashed {}
