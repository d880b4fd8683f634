//! Copies of whole directories, by reference.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::ids::{Ino, UploadGeneration};
use crate::path::FsPath;

/// A step of a directory's copy. It is built where nobody sees it, of what the directory held when the copy began, and
/// appears whole with its last step. It has a lease, which is renewed and given up like an upload's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeCopy {
    /// Begins. Copies nothing yet.
    Begin {
        /// The directory; it may be in a snapshot.
        source: FsPath,
        /// Where its copy shall appear; there must be nothing.
        to: FsPath,
        /// Whether missing directories above are made.
        parents: bool,
        /// Whether modification times are those of the originals.
        keep_times: bool,
    },
    /// Goes on.
    GoOn {
        /// The copy.
        copy: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// Entries to copy, at most [`crate::limits::BATCH_ROWS_MAX`].
        limit: u32,
    },
}

/// How far the copy of a directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeProgress {
    /// The copy.
    pub copy: Ino,
    /// Its owner's generation.
    pub generation: UploadGeneration,
    /// Files copied.
    pub files: u64,
    /// Directories, the first one not counted.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files there are.
    pub files_total: u64,
    /// Directories there are.
    pub directories_total: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// The copy as it has appeared; `None` while there is more to do.
    pub entry: Option<Entry>,
}
