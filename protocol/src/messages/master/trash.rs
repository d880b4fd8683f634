//! The trash: what was removed and can still be had back.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::ids::{Ino, StateTime};
use crate::path::FsPath;

/// One removal. What was removed, restored and removed again has the same inode and is another removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrashId {
    /// What was removed: the number people name it by.
    pub ino: Ino,
    /// When, as a log position.
    pub removed: u64,
}

/// Names something in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrashRef {
    /// By its number.
    Ino(Ino),
    /// What was removed last from this path.
    Path(FsPath),
}

impl std::fmt::Display for TrashRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ino(ino) => write!(f, "{ino}"),
            Self::Path(path) => write!(f, "{path}"),
        }
    }
}

/// A file or a whole tree in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashEntry {
    /// Which removal.
    pub id: TrashId,
    /// Where it was removed from.
    pub path: FsPath,
    /// What it is.
    pub entry: Entry,
    /// When it was removed, milliseconds since 1970 on the leader's wall clock; for people only.
    pub removed_ms: i64,
    /// When it goes for good.
    pub goes: StateTime,
}

/// Where a page of the trash begins: after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashAfter {
    /// When the last entry of the page before goes.
    pub goes: StateTime,
    /// Its number.
    pub ino: Ino,
}

/// What all of the trash holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrashTotals {
    /// Removals: files and whole trees.
    pub entries: u64,
    /// Files, those in trees too.
    pub files: u64,
    /// Directories, those in trees too.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// A page of the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashPage {
    /// Entries, what goes first in front.
    pub entries: Vec<TrashEntry>,
    /// Whether more follow the last.
    pub more: bool,
    /// State time: how long an entry still has is its `goes` less this.
    pub now: StateTime,
    /// How long what is removed now is kept, milliseconds; 0 if there is no trash.
    pub keep_ms: u64,
    /// What all of it holds. Expired entries count until they are being taken apart.
    pub totals: TrashTotals,
}
