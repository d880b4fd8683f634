//! One chunk, as operators look at it.

use serde::{Deserialize, Serialize};

use super::{ChunkInfo, Health};
use crate::ids::{Ino, ServerId};

/// A chunk with all that is known of its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkReport {
    /// Its row.
    pub info: ChunkInfo,
    /// The file it was written for.
    pub owner: Ino,
    /// Where that file is, if it has a path.
    pub owner_path: Option<String>,
    /// What is known of each of its copies, in the order of the row.
    pub copies: Vec<CopyReport>,
}

/// What is known of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Where it is.
    pub server: ServerId,
    /// That server's name.
    pub name: String,
    /// Whether it beats.
    pub health: Health,
    /// How the copy counts.
    pub counts: CopyCounts,
    /// What somebody said against it, and whether its own server did.
    pub said: Option<(String, bool)>,
}

/// How a copy counts for repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyCounts {
    /// It is there.
    Present,
    /// Its server is silent for a moment, or in maintenance: it is expected back.
    Expected,
    /// It can be read and is made anew elsewhere: its server is drained, or its disk fails.
    Leaving,
    /// It counts no more: its server is lost, removed, or comes and goes.
    Gone,
    /// Its own server calls it damaged, missing or out of reach.
    Damaged,
    /// It is being made.
    Copying,
    /// It is being removed.
    Dropping,
}
