//! The state rows of one directory, and consistent views of them.
//!
//! Writes go without a write-ahead log: after a crash the rows are those of the last flush, the applied log id among
//! them says which, and Raft applies the rest of its log again. One batch is one atomic write, so rows and applied
//! id never disagree.
//!
//! Keys whose first byte is 0x00 belong to this side (applied log id and membership), all others to the state machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Direction, ErrorKind, IteratorMode, ReadOptions, ReadTier, Snapshot, WriteBatch};

use super::memory::Memory;
use super::recent::Recent;
use super::{StoreError, durable};
use crate::raft::codec::{self, AppliedState};
use crate::state::rows::{Changes, Row, Rows, RowsError};

/// Key of the applied log id and membership.
pub(crate) const APPLIED: [u8; 2] = [0x00, 0x01];
/// The first key that belongs to the state machine.
pub(crate) const FIRST_ROW: [u8; 1] = [0x01];

/// An open database of state rows.
#[derive(Debug)]
pub struct StateDb {
    // Dropped before the cleanup, which may remove the directory.
    db: DB,
    recent: Recent,
    cleanup: Cleanup,
}

#[derive(Debug)]
struct Cleanup {
    path: PathBuf,
    remove: AtomicBool,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if self.remove.load(Ordering::Acquire)
            && let Err(error) = durable::remove_dir(&self.path)
        {
            // Harmless: the next start removes it.
            tracing::warn!(%error, "cannot remove replaced state rows");
        }
    }
}

fn read_error(error: &rocksdb::Error) -> RowsError {
    RowsError::Read(error.to_string())
}

impl StateDb {
    /// Opens the rows in `path`, making an empty set if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if RocksDB cannot open them.
    pub(crate) fn open(path: &Path, memory: &Memory) -> Result<Self, StoreError> {
        let db = DB::open(&memory.state_options(), path).map_err(StoreError::database("open", path))?;
        Ok(Self::new(db, path))
    }

    /// Opens the rows in `path` without changing them.
    ///
    /// # Errors
    /// [`StoreError`] if RocksDB cannot open them.
    pub(crate) fn open_read_only(path: &Path, memory: &Memory) -> Result<Self, StoreError> {
        let mut options = memory.state_options();
        options.create_if_missing(false);
        let db = DB::open_for_read_only(&options, path, false).map_err(StoreError::database("open", path))?;
        Ok(Self::new(db, path))
    }

    fn new(db: DB, path: &Path) -> Self {
        let cleanup = Cleanup {
            path: path.to_owned(),
            remove: false.into(),
        };
        Self {
            db,
            recent: Recent::default(),
            cleanup,
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.cleanup.path
    }

    /// Removes the directory once nobody uses these rows any more.
    pub(crate) fn remove_when_unused(&self) {
        self.cleanup.remove.store(true, Ordering::Release);
    }

    /// How far these rows are.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the stored value does not decode.
    pub(crate) fn applied(&self) -> Result<AppliedState, StoreError> {
        let bytes = self
            .db
            .get(APPLIED)
            .map_err(StoreError::database("read", self.path()))?;
        match bytes {
            None => Ok(AppliedState::default()),
            Some(bytes) => codec::decode_applied(&bytes).map_err(|error| StoreError::Damaged {
                path: self.path().to_owned(),
                why: error.to_string(),
            }),
        }
    }

    /// Stores changed rows together with how far they are, and takes them out of `changes`.
    ///
    /// # Errors
    /// [`StoreError`] if RocksDB fails; what is stored is then unknown and the process must stop.
    ///
    /// # Panics
    /// If the changes touch a key that is not the state machine's.
    pub(crate) fn store(&self, changes: &mut Changes, applied: &AppliedState) -> Result<(), StoreError> {
        self.recent.store(changes, |changes| self.write(changes, applied))
    }

    fn write(&self, changes: &Changes, applied: &AppliedState) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            assert!(
                key.as_slice() >= &FIRST_ROW[..],
                "the state machine wrote key {key:02x?}"
            );
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let value = codec::encode_applied(applied).map_err(|error| StoreError::Damaged {
            path: self.path().to_owned(),
            why: error.to_string(),
        })?;
        batch.put(APPLIED, value);
        self.db
            .write_without_wal(batch)
            .map_err(StoreError::database("write", self.path()))
    }

    /// Makes all rows durable.
    ///
    /// # Errors
    /// [`StoreError`] if RocksDB fails.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(StoreError::database("flush", self.path()))
    }

    /// Writes a complete, durable copy of the rows as of now into `target`, which must not exist. Writes may go on.
    ///
    /// # Errors
    /// [`StoreError`] if RocksDB fails.
    pub(crate) fn checkpoint(&self, target: &Path) -> Result<(), StoreError> {
        // Log size 0: always flushes first, without which rows that have no write-ahead log would be missing.
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(target, 0))
            .map_err(StoreError::database("copy", self.path()))
    }

    /// The rows as of now, for good.
    #[must_use]
    pub fn view(self: &Arc<Self>) -> View {
        View {
            rows: Pinned::new(Arc::clone(self), |db| db.db.snapshot()),
            memory_only: false,
            missed: AtomicBool::new(false),
        }
    }

    /// Bytes of table files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let property = self.db.property_int_value("rocksdb.total-sst-files-size");
        property.ok().flatten().unwrap_or(0)
    }
}

impl Rows for StateDb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        self.recent
            .get(key, || self.db.get(key).map_err(|error| read_error(&error)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows = self.db.iterator_opt(forward(from), range_options(to));
        rows.take(limit).map(into_row).collect()
    }
}

fn forward(from: &[u8]) -> IteratorMode<'_> {
    IteratorMode::From(from, Direction::Forward)
}

fn range_options(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

type RawRow = (Box<[u8]>, Box<[u8]>);

fn into_row(row: Result<RawRow, rocksdb::Error>) -> Result<Row, RowsError> {
    row.map(|(key, value)| (key.into(), value.into()))
        .map_err(|error| read_error(&error))
}

self_cell::self_cell!(
    struct Pinned {
        owner: Arc<StateDb>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// State rows as they were at one moment. Keeps them readable, and their space taken, until dropped.
pub struct View {
    rows: Pinned,
    /// Set by [`View::in_memory`] while it runs.
    memory_only: bool,
    /// A row was not in memory.
    missed: AtomicBool,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("path", &self.rows.borrow_owner().path())
            .finish_non_exhaustive()
    }
}

impl View {
    /// Runs `read` if all it needs is in memory, so that it may run where nobody may wait for a disk. `None`: it may
    /// have failed or been mistaken for lack of a row; run it again where waiting is fine.
    pub(crate) fn in_memory<T>(&mut self, read: impl FnOnce(&Self) -> T) -> Option<T> {
        self.memory_only = true;
        let done = read(self);
        self.memory_only = false;
        let missed = std::mem::take(self.missed.get_mut());
        (!missed).then_some(done)
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if self.memory_only {
            options.set_read_tier(ReadTier::BlockCache);
        }
        options
    }

    fn error(&self, error: &rocksdb::Error) -> RowsError {
        if self.memory_only && error.kind() == ErrorKind::Incomplete {
            self.missed.store(true, Ordering::Relaxed);
            return RowsError::Away;
        }
        read_error(error)
    }

    /// How far these rows are: the index of the last entry applied to them, 0 for none.
    ///
    /// # Errors
    /// [`RowsError`] if it cannot be read.
    pub fn applied_index(&self) -> Result<u64, RowsError> {
        let corrupt = |why: String| RowsError::Corrupt {
            key: "0001".to_owned(),
            why,
        };
        match self.get(&APPLIED)? {
            None => Ok(0),
            Some(bytes) => {
                let applied = codec::decode_applied(&bytes).map_err(|error| corrupt(error.to_string()))?;
                Ok(applied.last.map_or(0, |id| id.index))
            }
        }
    }

    /// Calls `each` for every row of the state machine, in key order, without keeping them in the cache.
    ///
    /// # Errors
    /// [`RowsError`] if a row cannot be read, or what `each` returned.
    pub fn for_each(&self, each: impl FnMut(&[u8], &[u8]) -> Result<(), RowsError>) -> Result<(), RowsError> {
        self.each_row(&FIRST_ROW, ReadOptions::default(), each)
    }

    /// As [`Self::for_each`], for the rows with `from <= key < to`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn for_each_between(
        &self,
        from: &[u8],
        to: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<(), RowsError>,
    ) -> Result<(), RowsError> {
        self.each_row(from, range_options(to), each)
    }

    fn each_row(
        &self,
        from: &[u8],
        mut options: ReadOptions,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), RowsError>,
    ) -> Result<(), RowsError> {
        options.fill_cache(false);
        for row in self.rows.borrow_dependent().iterator_opt(forward(from), options) {
            let (key, value) = row.map_err(|error| read_error(&error))?;
            each(&key, &value)?;
        }
        Ok(())
    }
}

impl Rows for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        let rows = self.rows.borrow_dependent();
        rows.get_opt(key, self.options()).map_err(|error| self.error(&error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let mut options = self.options();
        options.set_iterate_upper_bound(to);
        let rows = self.rows.borrow_dependent().iterator_opt(forward(from), options);
        rows.take(limit)
            .map(|row| {
                row.map_err(|error| self.error(&error))
                    .map(|(key, value)| (key.into(), value.into()))
            })
            .collect()
    }
}
