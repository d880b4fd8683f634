//! Snapshots: complete, durable copies of the state rows, one directory each.
//!
//! A snapshot is a RocksDB checkpoint: hard links to table files, made while writes go on. What it covers is read
//! from the copy itself, never from the live rows, so name and content cannot differ. It is made under a temporary
//! name and published by rename.
//!
//! Invariant: one snapshot is current; a replaced one is removed when the last stream that reads it is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::codec::AppliedState;
use super::types::SnapshotMeta;
use crate::store::memory::Memory;
use crate::store::state_db::StateDb;
use crate::store::{StoreError, durable};

/// Bytes read at a time to make a file's CRC.
const READ_BYTES: usize = 1 << 20;

/// One file of a snapshot: what a receiver compares with what it already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// A complete snapshot on disk.
pub struct SnapshotDir {
    path: PathBuf,
    applied: AppliedState,
    files: OnceLock<Vec<SnapshotFile>>,
    replaced: AtomicBool,
}

impl std::fmt::Debug for SnapshotDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotDir")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = durable::remove_dir(&self.path)
        {
            // Harmless: the next start removes it.
            tracing::warn!(%error, "cannot remove a replaced snapshot");
        }
    }
}

/// The length and CRC of a file.
pub(crate) fn measure(path: &Path) -> Result<(u64, u32), StoreError> {
    let read = || -> std::io::Result<(u64, u32)> {
        let mut file = std::fs::File::open(path)?;
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut bytes = 0;
        loop {
            let count = std::io::Read::read(&mut file, &mut buffer)?;
            if count == 0 {
                return Ok((bytes, hasher.finalize()));
            }
            hasher.update(&buffer[..count]);
            bytes += count as u64;
        }
    };
    read().map_err(StoreError::file("read", path))
}

impl SnapshotDir {
    /// Opens a complete snapshot and reads what it covers.
    fn open(path: PathBuf, memory: &Memory) -> Result<Self, StoreError> {
        let applied = StateDb::open_read_only(&path, memory)?.applied()?;
        Ok(Self {
            path,
            applied,
            files: OnceLock::new(),
            replaced: AtomicBool::new(false),
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn applied(&self) -> &AppliedState {
        &self.applied
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied.last,
            last_membership: self.applied.membership.clone(),
        }
    }

    /// Its files with length and CRC. Reads everything the first time.
    pub(crate) fn files(&self) -> Result<&[SnapshotFile], StoreError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let mut files = Vec::new();
        for name in durable::database_files(&self.path)? {
            let (bytes, crc) = measure(&self.path.join(&name))?;
            files.push(SnapshotFile { name, bytes, crc });
        }
        Ok(self.files.get_or_init(|| files))
    }

    fn name(applied: &AppliedState) -> String {
        match applied.last {
            Some(id) => format!("snap-{:020}-{}-{}", id.index, id.leader_id.term, id.leader_id.node_id),
            // Sorts before all others.
            None => "snap--empty".to_owned(),
        }
    }
}

/// The snapshots of one master.
pub(crate) struct Snapshots {
    root: PathBuf,
    memory: Memory,
    current: Mutex<Option<Arc<SnapshotDir>>>,
    made: AtomicU64,
}

impl Snapshots {
    /// Opens `root`, keeps the newest complete snapshot and removes everything else.
    pub(crate) fn open(root: &Path, memory: &Memory) -> Result<Self, StoreError> {
        durable::create_dir(root)?;
        durable::remove_leftovers(root)?;
        let mut names = durable::list(root)?;
        names.retain(|name| name.starts_with("snap-"));
        let newest = names.pop();
        for name in names {
            durable::remove_dir(&root.join(name))?;
        }
        let current = match newest {
            Some(name) => Some(Arc::new(SnapshotDir::open(root.join(name), memory)?)),
            None => None,
        };
        Ok(Self {
            root: root.to_owned(),
            memory: memory.clone(),
            current: Mutex::new(current),
            made: AtomicU64::new(0),
        })
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<Arc<SnapshotDir>> {
        self.current.lock().clone()
    }

    fn temporary(&self) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("new-{number}.tmp"))
    }

    /// Makes a snapshot of the rows as of now.
    pub(crate) fn build(&self, db: &StateDb) -> Result<Arc<SnapshotDir>, StoreError> {
        let temporary = self.temporary();
        durable::remove_dir(&temporary)?;
        db.checkpoint(&temporary)?;
        self.adopt(&temporary)
    }

    /// Takes a snapshot received from another master: every file of it is in `source`, verified and synced.
    pub(crate) fn adopt_received(&self, source: &Path) -> Result<Arc<SnapshotDir>, StoreError> {
        let temporary = self.temporary();
        durable::remove_dir(&temporary)?;
        durable::publish(source, &temporary)?;
        let received = SnapshotDir::open(temporary, &self.memory)?;
        // Not current yet: Raft may still refuse it. Unused, it goes away again.
        received.replaced.store(true, Ordering::Release);
        Ok(Arc::new(received))
    }

    /// Makes a copy of `snapshot`, which may be of another place, the current one.
    pub(crate) fn keep(&self, snapshot: &SnapshotDir) -> Result<Arc<SnapshotDir>, StoreError> {
        if let Some(current) = self.current().filter(|current| current.path == snapshot.path) {
            return Ok(current);
        }
        let temporary = self.temporary();
        durable::remove_dir(&temporary)?;
        durable::clone_database(&snapshot.path, &temporary)?;
        self.adopt(&temporary)
    }

    fn adopt(&self, temporary: &Path) -> Result<Arc<SnapshotDir>, StoreError> {
        let applied = StateDb::open_read_only(temporary, &self.memory)?.applied()?;
        let path = self.root.join(SnapshotDir::name(&applied));
        let mut current = self.current.lock();
        // A build runs beside an installation, and may end with less than what was installed meanwhile.
        let covers = |other: &AppliedState| other.last.map(|id| id.index) >= applied.last.map(|id| id.index);
        if let Some(newer) = current.as_ref().filter(|current| covers(&current.applied)) {
            durable::remove_dir(temporary)?;
            return Ok(Arc::clone(newer));
        }
        durable::remove_dir(&path)?;
        durable::publish(temporary, &path)?;
        let snapshot = Arc::new(SnapshotDir {
            path,
            applied,
            files: OnceLock::new(),
            replaced: AtomicBool::new(false),
        });
        if let Some(old) = current.replace(Arc::clone(&snapshot)) {
            old.replaced.store(true, Ordering::Release);
        }
        Ok(snapshot)
    }
}
