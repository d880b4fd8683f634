//! Disks of chunkservers: what each server tells of its own, and what operators see.

use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, Incarnation, ReplicaNumber, ServerId};

/// What a disk is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskState {
    /// It serves and takes new chunks.
    Serving,
    /// It serves what it has and has no room for more.
    Full,
    /// A write to it failed: it serves what it has, takes no new chunks, and what it has is made anew elsewhere.
    Failing,
    /// Nothing on it can be reached.
    OutOfService,
    /// An operator wants it empty: it serves what it has, takes no new chunks, and what it has is made anew elsewhere.
    Draining,
}

/// One disk as its server tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its own number; `None` if it could not be opened.
    pub disk: Option<[u8; 16]>,
    /// Its directory.
    pub directory: String,
    /// What it is good for.
    pub state: DiskState,
    /// Why not for all; at most [`crate::limits::ERROR_TEXT_BYTES_MAX`] bytes.
    pub why: String,
    /// Bytes of its file system.
    pub bytes_total: u64,
    /// Bytes free for chunks, its reserve not counted.
    pub bytes_free: u64,
    /// Copies it holds; `None` if it could not be opened.
    pub copies: Option<u64>,
}

/// What a chunkserver tells the leader about its disks. Beside its beats, which are too frequent to carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Who.
    pub server: ServerId,
    /// The life of its directories.
    pub incarnation: Incarnation,
    /// Its disks, those it could not open too; at most [`crate::limits::DISKS_MAX`].
    pub disks: Vec<DiskInfo>,
    /// Some of the copies on failing and draining disks, in turn; at most [`crate::limits::LEAVING_PAGE`].
    pub leaving: Vec<(ChunkId, ReplicaNumber)>,
}

/// What a leader tells a chunkserver about one of its disks. Repeated until a report says that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOrder {
    /// The disk's own number.
    pub disk: [u8; 16],
    /// Whether it is to be drained, or to serve again.
    pub drain: bool,
}

/// A chunkserver's disks as operators see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerDisks {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Milliseconds since its last report; `None` if this leader has had none.
    pub age_ms: Option<u64>,
    /// What that report said.
    pub disks: Vec<DiskInfo>,
}
