//! Verification of a stopped master's directory: every log entry, every row, and the state's hash.
//!
//! Opens both databases read-only and changes nothing, so it can also run on a copy.

use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use rocksdb::{DB, Options};

use super::hash::state_hash;
use super::memory::{Memory, MemoryLimits};
use super::state_db::StateDb;
use super::{StoreError, states};
use crate::raft::log_chain::LogError;
use crate::raft::log_store;
use crate::state::rows::RowsError;

/// What a verified directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Index of the first and last entry in the log, if it has any.
    pub log: Option<(u64, u64)>,
    /// Entries verified.
    pub entries: u64,
    /// Entries that carry a command.
    pub commands: u64,
    /// The term of the stored vote.
    pub term: u64,
    /// Index of the last entry that is applied to the rows on disk.
    pub applied: u64,
    /// State rows verified.
    pub rows: u64,
    /// SHA-256 over the state rows on disk, in hexadecimal.
    pub state_hash: String,
}

/// Why a directory does not verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The log is damaged or unreadable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state rows are damaged or unreadable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state row is damaged or unreadable.
    #[error("in {path}: {source}")]
    Row {
        /// The rows' directory.
        path: PathBuf,
        /// What is wrong.
        source: RowsError,
    },
    /// A log entry's command does not decode.
    #[error("the command in log entry {index} does not decode: {why}")]
    Command {
        /// The entry's index.
        index: u64,
        /// What the decoder said.
        why: String,
    },
    /// Log and rows cannot belong together.
    #[error("the rows are applied up to {applied}, but the log begins at {first}: entries between are lost")]
    Gap {
        /// Index the rows are applied to.
        applied: u64,
        /// First index in the log.
        first: u64,
    },
}

/// Verifies the master directory `dir`; `row` and `command` decode what this module does not understand.
///
/// # Errors
/// [`OfflineError`] naming the first thing that is wrong.
pub fn verify(
    dir: &Path,
    mut row: impl FnMut(&[u8], &[u8]) -> Result<(), RowsError>,
    mut command: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Report, OfflineError> {
    let log_path = dir.join(crate::raft::LOG_DIR);
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    // As the log itself is opened: the default would take a flipped bit in the WAL for its end, and call the rest good.
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    let log = DB::open_for_read_only(&options, &log_path, false).map_err(|source| LogError::Database {
        path: log_path.clone(),
        source,
    })?;
    let (mut first, mut entries, mut commands) = (None, 0, 0);
    let mut undecodable = None;
    let verified = log_store::verify(&log, &log_path, &mut |entry| {
        first.get_or_insert(entry.log_id.index);
        entries += 1;
        if let EntryPayload::Normal(logged) = &entry.payload {
            commands += 1;
            if let Err(why) = command(&logged.0) {
                undecodable.get_or_insert((entry.log_id.index, why));
            }
        }
        Ok(())
    })?;
    if let Some((index, why)) = undecodable {
        return Err(OfflineError::Command { index, why });
    }
    drop(log);

    let root = dir.join(crate::raft::STATE_DIR);
    let number = states::current_number(&root)?.ok_or_else(|| StoreError::Damaged {
        path: root.join("CURRENT"),
        why: "the pointer to the current rows is missing".to_owned(),
    })?;
    let path = root.join(number.to_string());
    let db = std::sync::Arc::new(StateDb::open_read_only(&path, &Memory::new(MemoryLimits::default()))?);
    let applied = db.applied()?.last.map_or(0, |id| id.index);
    let view = db.view();
    let mut rows = 0;
    let in_rows = |source| OfflineError::Row {
        path: path.clone(),
        source,
    };
    view.for_each(|key, value| {
        rows += 1;
        row(key, value)
    })
    .map_err(in_rows)?;
    let state_hash = state_hash(&view).map_err(in_rows)?;
    if let Some(first) = first.filter(|first| *first > applied + 1) {
        return Err(OfflineError::Gap { applied, first });
    }
    Ok(Report {
        log: first.zip(verified.last.map(|id| id.index)),
        entries,
        commands,
        term: verified.vote.map_or(0, |vote| vote.leader_id.term),
        applied,
        rows,
        state_hash,
    })
}
