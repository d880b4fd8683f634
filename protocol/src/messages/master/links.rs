//! Symbolic links: what clients ask the masters to change about them.

use serde::{Deserialize, Serialize};

use crate::path::FsPath;

/// A change to a symbolic link itself. All other changes go through a link to what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkChange {
    /// Makes one.
    Make {
        /// Where.
        path: FsPath,
        /// What it stands for: 1 to [`crate::limits::PATH_BYTES_MAX`] bytes, none of them zero.
        target: String,
        /// Whether a file or another link may be replaced.
        replace: bool,
        /// Whether missing directories above are made.
        parents: bool,
        /// Modification time to show, milliseconds since 1970; now if `None`.
        modified_ms: Option<i64>,
    },
    /// Changes what is told of what the path names, also if that is a link.
    Tell {
        /// Of what.
        path: FsPath,
        /// Modification time, milliseconds since 1970, if it changes.
        modified_ms: Option<i64>,
        /// The new owner, a name or number; empty for none.
        owner: Option<String>,
        /// The new group, a name or number; empty for none.
        group: Option<String>,
    },
}
