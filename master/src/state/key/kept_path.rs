//! What was removed from a path, the newest first: restoring by path reads one row, however often it was removed.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of a [`RemovedFrom`]: the path, a zero byte (no path holds one), and how far the removal is from the end of
/// time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPathKey {
    /// Where it was.
    pub path: String,
    /// When it was removed.
    pub removed: Moment,
}

impl KeptPathKey {
    /// Where the keys of a path begin.
    #[must_use]
    pub fn prefix(path: &str) -> Vec<u8> {
        let mut prefix = vec![Kind::KeptPath as u8];
        prefix.extend(path.as_bytes());
        prefix.push(0);
        prefix
    }
}

impl Key for KeptPathKey {
    const KIND: Kind = Kind::KeptPath;
    type Value = RemovedFrom;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.path.as_bytes());
        out.push(0);
        out.extend((!self.removed.0).to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (path, removed) = fields.rest().split_last_chunk::<8>()?;
        let (zero, path) = path.split_last()?;
        if *zero != 0 || path.contains(&0) {
            return None;
        }
        Some(Self {
            path: String::from_utf8(path.to_vec()).ok()?,
            removed: Moment(!u64::from_be_bytes(*removed)),
        })
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedFrom {
    /// The inode.
    pub ino: Ino,
}

impl Value for RemovedFrom {}
