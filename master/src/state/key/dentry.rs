//! Directory entries: what a name leads to.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of a [`Dentry`]: a directory's entries lie together, in the order of their names' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DentryKey {
    /// The directory.
    pub parent: Ino,
    /// The name.
    pub name: String,
}

impl DentryKey {
    /// What all keys of a directory begin with.
    #[must_use]
    pub fn prefix(parent: Ino) -> Vec<u8> {
        let mut prefix = vec![Kind::Dentry as u8];
        prefix.extend(parent.0.to_be_bytes());
        prefix
    }
}

impl Key for DentryKey {
    const KIND: Kind = Kind::Dentry;
    type Value = Dentry;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.parent.0.to_be_bytes());
        out.extend(self.name.as_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let parent = Ino(fields.u64()?);
        let name = String::from_utf8(fields.rest().to_vec()).ok()?;
        Some(Self { parent, name })
    }
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dentry {
    /// The inode.
    pub ino: Ino,
    /// Whether it is a directory: a walk down a path reads no inode on its way.
    pub directory: bool,
    /// Since when.
    pub since: Moment,
}

impl Value for Dentry {}
