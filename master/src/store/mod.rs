//! What masters keep on disk: state rows on RocksDB, and the few durable file operations around them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`durable`] | the one way files are written, renamed and linked |
//! | [`memory`] | one memory cap for every RocksDB of the process |
//! | [`state_db`] | the state rows of one directory, and consistent views of them |
//! | [`states`] | `state/<n>/` directories and the pointer to the current one |
//! | [`hash`] | the hash two masters compare at one index |
//! | [`offline`] | verification of a stopped master's directory |

pub mod durable;
pub mod hash;
pub mod memory;
pub mod offline;
mod recent;
pub mod state_db;
pub mod states;

use std::path::PathBuf;

/// A directory of the store that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// RocksDB failed.
    #[error("cannot {action} the state rows in {path}: {source}")]
    Database {
        /// What was tried, as a verb.
        action: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// What lies there is not what was written.
    #[error("{path} is damaged: {why}; replace this master under a new id")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl StoreError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn database(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rocksdb::Error) -> Self {
        let path = path.into();
        move |source| Self::Database { action, path, source }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests;
