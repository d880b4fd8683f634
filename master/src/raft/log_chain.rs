//! Whether log entries are whole and follow each other, and what is said when they do not.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::codec::{self, CodecError, StoredEntry};
use super::log_keys;
use super::types::LogId;

/// A log that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// RocksDB failed.
    #[error("cannot use the raft log in {path}: {source}; if the disk is healthy, replace this master under a new id")]
    Database {
        /// The log's directory.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// A stored value does not decode.
    #[error("the raft log in {path} is damaged at {place}: {source}; replace this master under a new id")]
    Damaged {
        /// The log's directory.
        path: PathBuf,
        /// Which value.
        place: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Entries are missing or do not follow each other.
    #[error("the raft log in {path} has a hole: {why}; replace this master under a new id")]
    Hole {
        /// The log's directory.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// The thread could not be started.
    #[error("cannot start the raft log's writer: {0}")]
    Thread(io::Error),
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Checks that entries follow each other.
pub(crate) struct Chain<'a> {
    path: &'a Path,
    /// The index the next entry must have.
    pub(crate) next: u64,
    before: Option<LogId>,
    crc: Option<u32>,
}

impl<'a> Chain<'a> {
    pub(crate) fn starting_at(path: &'a Path, next: u64, before: Option<LogId>) -> Self {
        Self {
            path,
            next,
            before,
            crc: None,
        }
    }

    pub(crate) fn next(&mut self, key: &[u8], bytes: Bytes) -> Result<StoredEntry, LogError> {
        let hole = |why: String| LogError::Hole {
            path: self.path.to_owned(),
            why,
        };
        let next = self.next;
        let index = log_keys::entry_index(key).ok_or_else(|| hole(format!("key {key:02x?} is no entry's")))?;
        if index != next {
            return Err(hole(format!("entry {next} is missing, {index} is there")));
        }
        let stored = codec::decode_entry(&bytes).map_err(|source| LogError::Damaged {
            path: self.path.to_owned(),
            place: format!("entry {index}"),
            source,
        })?;
        self.link(&stored).map_err(hole)?;
        Ok(stored)
    }

    /// Checks that `stored` follows what was seen before, and takes it as seen.
    pub(crate) fn link(&mut self, stored: &StoredEntry) -> Result<(), String> {
        let id = stored.entry.log_id;
        if id.index != self.next {
            return Err(format!("where entry {} belongs lies {id}", self.next));
        }
        if self.before.is_some_and(|before| before.leader_id > id.leader_id) {
            return Err(format!("entry {id} is of an older term than the one before"));
        }
        let linked = stored.previous == 0 || self.crc.is_none_or(|crc| crc == stored.previous);
        if !linked {
            return Err(format!("entry {id} does not follow the entry that lies before it"));
        }
        self.next += 1;
        self.before = Some(id);
        self.crc = Some(stored.crc);
        Ok(())
    }
}
