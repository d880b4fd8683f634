//! Quotas: how much a directory may hold with all below it, and the room that is kept for what is being written.

use serde::{Deserialize, Serialize};

use crate::path::FsPath;

/// How much a directory may hold, itself not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotaLimits {
    /// Bytes of all files, without their copies; as many as there are if `None`.
    pub bytes: Option<u64>,
    /// Files and directories; as many as there are if `None`.
    pub entries: Option<u64>,
}

/// How a quota is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaChange {
    /// Sets the limits that are named; one that is not stays as it was.
    Set(QuotaLimits),
    /// The directory has no quota any more.
    Clear,
}

/// What its writer knows of the room an upload will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    /// A file of unknown length: room is reserved chunk by chunk.
    Growing,
    /// A file of this length, at most: its room is reserved at once.
    Whole {
        /// Bytes.
        length: u64,
    },
    /// Bytes for the end of a file that is there: room is reserved chunk by chunk.
    Appended,
    /// Bytes to write over others: whether they fit is seen when they are put into the file.
    Overwritten,
}

/// A quota, and what counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUse {
    /// Names that lead to its directory, counted from the root: the beginning of [`QuotaReport::path`].
    pub depth: u16,
    /// The quota; of the directory asked for perhaps none.
    pub limits: QuotaLimits,
    /// Bytes of the files below.
    pub bytes: u64,
    /// Files and directories below.
    pub entries: u64,
    /// Bytes reserved by writes under way.
    pub reserved_bytes: u64,
    /// Entries reserved by them.
    pub reserved_entries: u64,
}

impl QuotaUse {
    /// Bytes that still fit; `None` if there is no such limit.
    #[must_use]
    pub fn bytes_left(&self) -> Option<u64> {
        let taken = self.bytes.saturating_add(self.reserved_bytes);
        self.limits.bytes.map(|limit| limit.saturating_sub(taken))
    }

    /// Entries that still fit; `None` if there is no such limit.
    #[must_use]
    pub fn entries_left(&self) -> Option<u64> {
        let taken = self.entries.saturating_add(self.reserved_entries);
        self.limits.entries.map(|limit| limit.saturating_sub(taken))
    }
}

/// All quotas that what is written into a directory counts against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaReport {
    /// The directory.
    pub path: FsPath,
    /// What it holds, with its quota if it has one.
    pub own: QuotaUse,
    /// The directories above it that have a quota, the nearest first.
    pub above: Vec<QuotaUse>,
}
