//! One disk: a directory with its lock, identity, index and threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_protocol::buffer::Pool;
use gabion_protocol::{ChunkId, ServerId};
use parking_lot::Mutex;

use super::database;
use super::drain::Drain;
use super::durable::{sync_dir, temporary_name};
use super::error::DiskError;
use super::file::ChunkFile;
use super::identity::{DiskIdentity, FILE_NAME};
use super::index::{Change, Index};
use super::inventory::Holdings;
use super::lock::DirLock;
use super::record::{Record, State};
use super::recover::{Recovered, recover};
use super::store::StoreOptions;
use super::threads::Threads;
use crate::foreground::Foreground;

/// Directory of the chunks' files.
pub(crate) const DATA: &str = "data";

/// Threads that write and sync: enough to keep a disk's queue filled while one of them waits for a sync.
const WRITE_THREADS: usize = 4;
/// Threads that read: a cold read holds one for as long as the disk takes.
const READ_THREADS: usize = 4;

/// Most bytes kept free where nothing else is said: enough for the index to compact and for orders to be recorded.
const RESERVE_MAX: u64 = 1 << 30;

/// The file of a chunk in a disk's directory.
pub(crate) fn chunk_path(dir: &Path, chunk: ChunkId) -> PathBuf {
    dir.join(DATA)
        .join(format!("{:02x}", chunk.counter as u8))
        .join(chunk.to_string())
}

/// Room of a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// Free for us.
    pub free: u64,
}

impl Space {
    /// The room of the file system that holds `dir`.
    pub(crate) fn of(dir: &Path) -> Result<Self, DiskError> {
        let stat = rustix::fs::statvfs(dir).map_err(|e| DiskError::io("look at the space of", dir, e))?;
        Ok(Self {
            total: stat.f_blocks * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
        })
    }
}

/// A directory that is locked and whose identity is known, but whose index is not open yet.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) dir: PathBuf,
    pub(crate) identity: Option<DiskIdentity>,
    /// Whether a file system of its own is mounted on the directory.
    pub(crate) mount_point: bool,
    lock: DirLock,
}

impl Claimed {
    /// Locks `dir`, made if it is not there, and reads its identity.
    pub(crate) fn claim(dir: &Path) -> Result<Self, DiskError> {
        std::fs::create_dir_all(dir).map_err(|e| DiskError::io("make", dir, e))?;
        let lock = DirLock::acquire(dir)?;
        let identity = DiskIdentity::load(dir)?;
        let holds = |name: &str| dir.join(name).exists();
        if identity.is_none() && (holds(database::DIR_NAME) || holds(DATA)) {
            return Err(DiskError::Identity {
                path: dir.join(FILE_NAME),
                why: "it is missing from a directory that holds chunks".to_owned(),
            });
        }
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            mount_point: is_mount_point(dir)?,
            lock,
        })
    }

    /// Opens the disk as `identity`, which is published first.
    pub(crate) fn open(
        self,
        mut identity: DiskIdentity,
        options: &StoreOptions,
    ) -> Result<(Disk, Recovered), DiskError> {
        let dir = self.dir;
        let leftover = temporary_name(&dir.join(FILE_NAME));
        if leftover.exists() {
            std::fs::remove_file(&leftover).map_err(|e| DiskError::io("remove", &leftover, e))?;
        }
        identity.store(&dir)?;
        if !identity.indexed {
            make_data_dirs(&dir)?;
        }
        let index = Index::open(&dir, !identity.indexed)?;
        if !identity.indexed {
            sync_dir(&dir)?;
            identity.indexed = true;
            identity.store(&dir)?;
        }
        let draining = Drain::load(&dir)?;
        let holdings = Holdings::default();
        let recovered = recover(&dir, &index, &holdings)?;
        let space = Space::of(&dir)?;
        let threads =
            |name: &str, count| Threads::start(name, count).map_err(|e| DiskError::io("start threads for", &dir, e));
        let foreground = std::sync::Arc::new(Foreground::default());
        let disk = Disk {
            writes: threads("disk-write", WRITE_THREADS)?.before_background(&foreground),
            reads: threads("disk-read", READ_THREADS)?.before_background(&foreground),
            scrubs: threads("disk-scrub", 1)?,
            foreground,
            chunks: AtomicU64::new(recovered.chunks),
            holdings,
            sealed_bytes: AtomicU64::new(recovered.sealed_bytes),
            identity: Mutex::new(identity),
            failed: Mutex::new(None),
            failing: AtomicBool::new(false),
            draining: AtomicBool::new(draining),
            room: Mutex::new(()),
            index: Mutex::new(Some(std::sync::Arc::new(index))),
            pool: options.pool.clone(),
            reserve: options.reserve.unwrap_or_else(|| RESERVE_MAX.min(space.total / 20)),
            direct_io: options.direct_io,
            dir,
            _lock: self.lock,
        };
        Ok((disk, recovered))
    }
}

fn is_mount_point(dir: &Path) -> Result<bool, DiskError> {
    let device = |path: &Path| {
        let meta = std::fs::metadata(path).map_err(|e| DiskError::io("look at", path, e))?;
        Ok(std::os::unix::fs::MetadataExt::dev(&meta))
    };
    Ok(device(dir)? != device(&dir.join(".."))?)
}

fn make_data_dirs(dir: &Path) -> Result<(), DiskError> {
    let data = dir.join(DATA);
    for low in 0..=u8::MAX {
        let sub = data.join(format!("{low:02x}"));
        std::fs::create_dir_all(&sub).map_err(|e| DiskError::io("make", &sub, e))?;
    }
    sync_dir(&data)
}

/// A disk in service, or one that failed while it was.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) dir: PathBuf,
    pub(crate) writes: Threads,
    pub(crate) reads: Threads,
    /// Reads for the scrub, so that foreground jobs never queue behind them.
    pub(crate) scrubs: Threads,
    /// Work that the scrub gives way to.
    pub(crate) foreground: std::sync::Arc<Foreground>,
    pub(crate) chunks: AtomicU64,
    /// Its sealed copies as digests.
    pub(crate) holdings: Holdings,
    /// Bytes of sealed chunks: what a scrub pass reads.
    sealed_bytes: AtomicU64,
    pub(crate) pool: Pool,
    pub(crate) reserve: u64,
    pub(crate) direct_io: bool,
    identity: Mutex<DiskIdentity>,
    failed: Mutex<Option<String>>,
    /// A write or sync of some file failed: what comes next may fail too, or get lost without a word.
    failing: AtomicBool,
    /// An operator wants it empty.
    draining: AtomicBool,
    /// Held while space is looked at and taken, so that no two files take the same.
    room: Mutex<()>,
    /// Taken at the end, when nothing uses it any more.
    index: Mutex<Option<std::sync::Arc<Index>>>,
    _lock: DirLock,
}

impl Disk {
    /// The index, if the disk serves.
    pub(crate) fn index(&self) -> Result<std::sync::Arc<Index>, DiskError> {
        if let Some(why) = self.failed.lock().clone() {
            return Err(DiskError::Failed {
                dir: self.dir.clone(),
                why,
            });
        }
        self.index.lock().clone().ok_or(DiskError::Stopping)
    }

    pub(crate) fn serves(&self) -> bool {
        self.failed.lock().is_none()
    }

    /// Whether it takes new chunks, with so many bytes free.
    pub(crate) fn writable(&self, free: u64) -> bool {
        !self.is_failing() && !self.is_draining() && self.index().is_ok_and(|index| index.takes_writes(free))
    }

    /// Whether writing to it failed in this run: it serves what it has and takes no new chunks.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Whether an operator wants it empty: it serves what it has and takes no new chunks, also after a restart.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Makes an operator's word durable, and obeys it. Not for a runtime's thread.
    pub(crate) fn set_draining(&self, drain: bool) -> Result<(), DiskError> {
        if self.is_draining() != drain {
            Drain::store(&self.dir, drain)?;
            self.draining.store(drain, Ordering::Relaxed);
            tracing::info!(dir = %self.dir.display(), drain, "an operator's word about the disk is obeyed");
        }
        Ok(())
    }

    /// Takes note of an error: one of the index ends the disk's service.
    pub(crate) fn note(&self, error: &DiskError) {
        if let DiskError::Index { why, .. } = error {
            let mut failed = self.failed.lock();
            if failed.is_none() {
                tracing::error!(dir = %self.dir.display(), why, "disk out of service");
                *failed = Some(why.clone());
            }
        }
    }

    /// Takes note that a file could not be made, written or synced: unless it was a lack of ours or of room, the disk
    /// takes no new chunks until a restart.
    pub(crate) fn note_write(&self, error: &DiskError) {
        if matches!(error, DiskError::Io { .. }) && !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(dir = %self.dir.display(), %error, "the disk takes no new chunks until a restart");
        }
    }

    /// Makes changes of the index durable.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<(), DiskError> {
        let _working = self.foreground.begin();
        let result = self.index()?.commit(changes).await;
        result.inspect_err(|error| self.note(error))
    }

    /// Takes space for `file` up to `end`, and more as far as the reserve stays whole.
    pub(crate) fn make_room(&self, file: &ChunkFile, end: u64) -> Result<(), DiskError> {
        if file.growth(end) == 0 {
            return Ok(());
        }
        let _one_at_a_time = self.room.lock();
        let spare = self.check_room(file.growth(end))?;
        file.allocate(end, spare)
    }

    /// Refuses unless `bytes` more leave the reserve whole; says how many would.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<u64, DiskError> {
        if self.is_failing() {
            return Err(DiskError::Failed {
                dir: self.dir.clone(),
                why: "writing to it failed; it takes no new chunks until the server is restarted".to_owned(),
            });
        }
        if self.is_draining() {
            return Err(DiskError::Failed {
                dir: self.dir.clone(),
                why: "it is being drained; it takes no new chunks".to_owned(),
            });
        }
        let free = Space::of(&self.dir)?.free;
        let spare = free.checked_sub(self.reserve).filter(|spare| *spare >= bytes);
        if let Some(spare) = spare.filter(|_| self.writable(free)) {
            return Ok(spare);
        }
        if let Ok(index) = self.index() {
            index.want_room();
        }
        Err(DiskError::NoSpace {
            dir: self.dir.clone(),
            free,
            reserve: self.reserve,
        })
    }

    pub(crate) fn identity(&self) -> DiskIdentity {
        self.identity.lock().clone()
    }

    /// Remembers the server's number, durably.
    pub(crate) fn set_server(&self, server: ServerId) -> Result<(), DiskError> {
        let mut identity = self.identity.lock();
        let changed = DiskIdentity {
            server: Some(server),
            ..identity.clone()
        };
        changed.store(&self.dir)?;
        *identity = changed;
        Ok(())
    }

    /// Takes one chunk less into account.
    pub(crate) fn count_dropped(&self) {
        let less = |chunks: u64| Some(chunks.saturating_sub(1));
        // Never refused: the closure always has a value.
        let _ = self.chunks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Takes a chunk that was sealed into account.
    pub(crate) fn count_sealed(&self, chunk: ChunkId, record: &Record) {
        self.holdings.sealed(chunk, record.replica);
        self.sealed_bytes.fetch_add(record.length, Ordering::Relaxed);
    }

    /// Takes into account that a chunk is gone or set aside, if it was sealed.
    pub(crate) fn count_unsealed(&self, chunk: ChunkId, record: &Record) {
        if record.state == State::Sealed {
            self.holdings.unsealed(chunk, record.replica);
            let less = |bytes: u64| Some(bytes.saturating_sub(record.length));
            // Never refused: the closure always has a value.
            let _ = self
                .sealed_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Bytes of sealed chunks on this disk.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Relaxed)
    }

    /// Chunks on this disk, small ones included.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Ends the index in good order if nothing else uses it.
    pub(crate) fn close(&self) {
        let index = self.index.lock().take();
        if let Some(mut index) = index.and_then(std::sync::Arc::into_inner)
            && let Err(error) = index.close()
        {
            tracing::warn!(%error, "the index was not flushed; the next start replays its log");
        }
    }
}
