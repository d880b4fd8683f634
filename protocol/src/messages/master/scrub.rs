//! Scrub: how far chunkservers have re-read their copies.

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, ServerId, StateTime};

/// What a chunkserver tells the leader about its scrub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Who.
    pub server: ServerId,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// The operator's request that all its disks obeyed last, durably; 0 if none.
    pub obeyed: u64,
    /// How far it is.
    pub progress: ScrubProgress,
}

/// How far a server's scrub is, its disks taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// When this pass began: on the disk that began it first. `None` if no disk has begun its first.
    pub started: Option<StateTime>,
    /// Whether an operator asked for this pass: it reads as fast as the settings allow, not over the whole period.
    pub asked: bool,
    /// Whether copies are left to read in this pass.
    pub running: bool,
    /// Bytes read in this pass.
    pub bytes_done: u64,
    /// Bytes of this pass, as far as they are known.
    pub bytes_total: u64,
    /// Copies read in this pass.
    pub chunks_done: u64,
    /// Damaged copies found in this pass.
    pub damaged: u64,
    /// Times that reading waited for foreground work, since the server's start.
    pub gave_way: u64,
    /// The last pass that read every copy. `None` if a disk has never completed one.
    pub last: Option<ScrubPass>,
}

/// A completed pass of a server, its disks taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// When the first disk began.
    pub started: StateTime,
    /// When the last copy was read: on the disk where that is longest ago.
    pub ended: StateTime,
    /// Bytes read.
    pub bytes: u64,
    /// Copies read.
    pub chunks: u64,
    /// Damaged copies found.
    pub damaged: u64,
}

/// A chunkserver's scrub as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerScrub {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Whether it has yet to obey an operator's request to begin.
    pub waiting: bool,
    /// Milliseconds since its last report; `None` if this leader has had none.
    pub age_ms: Option<u64>,
    /// What that report said.
    pub progress: ScrubProgress,
}
