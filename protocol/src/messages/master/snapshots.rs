//! Snapshots: what a directory held at a moment.

use serde::{Deserialize, Serialize};

use crate::ids::Ino;
use crate::path::FsPath;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Where its directory is now.
    pub directory: FsPath,
    /// The directory.
    pub root: Ino,
    /// Its name.
    pub name: String,
    /// What it shows, as a log position: everything up to then.
    pub moment: u64,
    /// When it was made, milliseconds since 1970 on the leader's wall clock; for people only.
    pub created_ms: i64,
    /// Files it shows.
    pub files: u64,
    /// Directories, itself not counted.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Where a page of snapshots begins: after this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAfter {
    /// The directory.
    pub root: Ino,
    /// The name.
    pub name: String,
}

/// A page of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// Those of a directory lie together, in the order of their names.
    pub snapshots: Vec<SnapshotInfo>,
    /// Whether more follow the last.
    pub more: bool,
}
