//! The index of one disk: RocksDB, and the one thread that writes to it.
//!
//! **Group commit.** Writers queue their changes; the thread takes all that wait, makes one batch, syncs the WAL once,
//! and then answers everyone. Hundreds of small chunks share one sync, and a seal waits for one sync at most twice.
//!
//! Invariants: an answer is given only after the synced write that holds the change; a failed write is final for the
//! disk's index (RocksDB's state after it is unknown): everything queued and every later write fails.
//!
//! **No room.** If a write failed for want of room, reads go on, and so do writes once there is room: RocksDB, which
//! stays read-only after such an error, is closed and opened again, as a restart would. Replaying its log may bring back
//! a change whose sender was told that it failed, also as a restart would; recovery writes what it replays to new,
//! synced tables, so nothing then depends on pages that a failed sync left in the cache.
//!
//! Large values (small chunks' bytes) go to RocksDB's blob files, so that compaction does not copy them over and over
//! (`reclaim` says when it does).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gabion_protocol::process::says_full;
use gabion_protocol::{ChunkId, Epoch, MasterId};
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use rocksdb::{DB, IteratorMode, ReadOptions, ReadTier, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use super::database::{DIR_NAME, log_bytes, open_db, options};
use super::directory::Space;
use super::error::{DiskError, tells_of_lack};
use super::reclaim::{Looks, Waker, looks, reclaim};
use super::record::{KeyKind, Record, chunk_key};
use super::verify::drop_cache;

/// Changes that wait for the writer; more make their senders wait.
const QUEUE_MAX: usize = 1024;
/// Bytes of values in one batch: bounds the memory of a burst and the wait of its first change.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Free space beyond the size of the log from which a full index is opened again: replaying the log writes it to tables.
const ROOM_TO_REOPEN: u64 = 4 << 20;
/// Between two times that a full index is opened again, if room alone does not tell when (a quota, for example).
const REOPEN_AGAIN: Duration = Duration::from_secs(5);

/// One change of the index.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Writes a record, and a blob if the chunk is one.
    Put {
        chunk: ChunkId,
        record: Arc<Record>,
        blob: Option<Bytes>,
    },
    /// Removes a record and its blob.
    Delete { chunk: ChunkId },
    /// Remembers the highest epoch obeyed.
    Epoch(Epoch),
    /// Remembers how far the scrub is: bytes of its own format.
    Scrub(Vec<u8>),
}

impl Change {
    fn removes(&self) -> bool {
        matches!(self, Self::Delete { .. })
    }
}

/// A key and its value.
type Row = (Box<[u8]>, Box<[u8]>);

struct Queued {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), DiskError>>,
}

/// The index of one disk.
pub(crate) struct Index {
    shared: Arc<Shared>,
    dir: PathBuf,
    queue: Option<mpsc::Sender<Queued>>,
    writer: Option<std::thread::JoinHandle<()>>,
    cleaner: Option<std::thread::JoinHandle<()>>,
    waker: Option<Waker>,
}

/// What readers and the writer share.
struct Shared {
    /// `None` if it could not be opened again.
    db: RwLock<Option<DB>>,
    /// Bytes that must be free for writes to be taken again after there was no room; 0 as long as there is.
    room_wanted: AtomicU64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index of the disk in `disk_dir`; makes it only if `make` is set, so that a lost index is not
    /// mistaken for an empty one.
    pub(crate) fn open(disk_dir: &Path, make: bool) -> Result<Self, DiskError> {
        let db = open_db(disk_dir, make)?;
        let shared = Shared::new(db);
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (waker, looks) = looks();
        let mut index = Self {
            shared: Arc::clone(&shared),
            dir: disk_dir.to_owned(),
            queue: Some(queue),
            writer: None,
            cleaner: None,
            waker: Some(waker.clone()),
        };
        let writer = Writer {
            shared: Arc::clone(&shared),
            dir: disk_dir.to_owned(),
            failed: None,
            reopened: None,
            waker,
        };
        index.writer = Some(index.thread("index-writer", move || writer.run(waiting))?);
        let dir = disk_dir.to_owned();
        index.cleaner = Some(index.thread("index-cleaner", move || clean(&shared, &dir, &looks))?);
        Ok(index)
    }

    fn thread(
        &self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<std::thread::JoinHandle<()>, DiskError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(|e| DiskError::Index {
            dir: self.dir.clone(),
            why: e.to_string(),
        })
    }

    /// Opens an index to look at it: nothing is replayed into it and nothing changes.
    pub(crate) fn open_read_only(disk_dir: &Path) -> Result<Self, DiskError> {
        let db = DB::open_for_read_only(&options(), disk_dir.join(DIR_NAME), false).map_err(|e| DiskError::Index {
            dir: disk_dir.to_owned(),
            why: e.into_string(),
        })?;
        Ok(Self {
            shared: Shared::new(db),
            dir: disk_dir.to_owned(),
            queue: None,
            writer: None,
            cleaner: None,
            waker: None,
        })
    }

    /// Bytes that come back when blobs are rewritten, as far as is known.
    pub(crate) fn garbage(&self) -> u64 {
        self.waker.as_ref().map_or(0, Waker::garbage)
    }

    /// Somebody found no room on the disk.
    pub(crate) fn want_room(&self) {
        self.waker.iter().for_each(Waker::want_room);
    }

    /// Whether it takes writes with so many bytes free: false after there was no room, until there is.
    pub(crate) fn takes_writes(&self, free: u64) -> bool {
        free >= self.shared.room_wanted.load(Ordering::Relaxed)
    }

    /// RocksDB, to be used and let go of at once: the writer may have to open it again.
    fn db(&self) -> Result<MappedRwLockReadGuard<'_, DB>, DiskError> {
        let db = self.shared.db.read();
        RwLockReadGuard::try_map(db, Option::as_ref).map_err(|_| self.failed("it could not be opened again"))
    }

    /// Makes changes durable, together with whatever else waits.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<(), DiskError> {
        let (done, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(DiskError::Stopping)?;
        queue
            .send(Queued { changes, done })
            .await
            .map_err(|_| DiskError::Stopping)?;
        answer.await.map_err(|_| DiskError::Stopping)?
    }

    fn failed(&self, why: impl ToString) -> DiskError {
        let (dir, why) = (self.dir.clone(), why.to_string());
        if tells_of_lack(&why) {
            let (what, path) = ("read the index of", dir);
            return DiskError::Lacking { what, path, why };
        }
        DiskError::Index { dir, why }
    }

    /// A chunk's record. May read the disk.
    pub(crate) fn record(&self, chunk: ChunkId) -> Result<Option<Record>, DiskError> {
        let db = self.db()?;
        let value = db
            .get_pinned(chunk_key(KeyKind::Record, chunk))
            .map_err(|e| self.failed(e))?;
        let decode = |value: rocksdb::DBPinnableSlice<'_>| {
            Record::decode(&value).map_err(|why| self.failed(format!("chunk {chunk}: {why}")))
        };
        value.map(decode).transpose()
    }

    /// A chunk's record, or that there is none, if that can be told from memory: then looking for it costs no thread
    /// switch.
    pub(crate) fn record_in_memory(&self, chunk: ChunkId) -> Option<Option<Record>> {
        match self.in_memory(chunk_key(KeyKind::Record, chunk))? {
            Some(value) => Record::decode(&value).ok().map(Some),
            None => Some(None),
        }
    }

    /// A small chunk's bytes if they are in memory.
    pub(crate) fn blob_in_memory(&self, chunk: ChunkId) -> Option<Bytes> {
        self.in_memory(chunk_key(KeyKind::Blob, chunk))?.map(Bytes::from)
    }

    /// A value, or that there is none; `None` if that cannot be told without waiting, or without an error.
    fn in_memory(&self, key: impl AsRef<[u8]>) -> Option<Option<Vec<u8>>> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        // Whoever opens the index again holds this for long.
        let db = self.shared.db.try_read()?;
        db.as_ref()?.get_opt(key, &options).ok()
    }

    /// A small chunk's bytes. May read the disk. Damage here is the chunk's, not the disk's: nothing else depends on
    /// these bytes.
    pub(crate) fn blob(&self, chunk: ChunkId) -> Result<Bytes, DiskError> {
        let damaged = |what: String| DiskError::Damaged { chunk, what };
        match self.db()?.get(chunk_key(KeyKind::Blob, chunk)) {
            Ok(Some(bytes)) => Ok(Bytes::from(bytes)),
            Ok(None) => Err(damaged("its bytes are gone from the index".to_owned())),
            Err(e) if e.kind() == rocksdb::ErrorKind::Corruption => Err(damaged(e.into_string())),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// The highest epoch obeyed.
    pub(crate) fn epoch(&self) -> Result<Epoch, DiskError> {
        let Some(value) = self.db()?.get(epoch_key()).map_err(|e| self.failed(e))? else {
            return Ok(Epoch::default());
        };
        let (Some(term), Some(leader), 16) = (u64_at(&value, 0), u64_at(&value, 8), value.len()) else {
            return Err(self.failed("the epoch does not decode"));
        };
        Ok(Epoch {
            term,
            leader: MasterId(leader),
        })
    }

    /// Calls `see` with every record, in key order; a record that does not decode is an `Err`.
    pub(crate) fn for_each_record(
        &self,
        mut see: impl FnMut(ChunkId, Result<Record, String>),
    ) -> Result<(), DiskError> {
        let mut reading = ReadOptions::default();
        // A whole scan would push out what readers use.
        reading.fill_cache(false);
        reading.set_iterate_lower_bound([KeyKind::Record as u8]);
        reading.set_iterate_upper_bound([KeyKind::Record as u8 + 1]);
        for row in self.db()?.iterator_opt(IteratorMode::Start, reading) {
            let (key, value) = row.map_err(|e| self.failed(e))?;
            let id = key.get(1..).and_then(|id| <[u8; ChunkId::BYTES]>::try_from(id).ok());
            let Some(id) = id else {
                return Err(self.failed("a key is no chunk id"));
            };
            see(ChunkId::from_bytes(id), Record::decode(&value));
        }
        Ok(())
    }

    /// How far the scrub is, as [`Change::Scrub`] said last.
    pub(crate) fn scrub(&self) -> Result<Option<Vec<u8>>, DiskError> {
        self.db()?.get(setting_key("scrub")).map_err(|e| self.failed(e))
    }

    /// Records from `from` on, or from the first; in key order, until `take` says that it has enough.
    pub(crate) fn records_from(
        &self,
        from: Option<ChunkId>,
        mut take: impl FnMut(ChunkId, Record) -> bool,
    ) -> Result<(), DiskError> {
        let mut reading = ReadOptions::default();
        // The scrub must not push out what readers use, nor believe what memory says of the disk.
        reading.fill_cache(false);
        reading.set_iterate_lower_bound(from.map_or_else(
            || vec![KeyKind::Record as u8],
            |chunk| chunk_key(KeyKind::Record, chunk).to_vec(),
        ));
        reading.set_iterate_upper_bound([KeyKind::Record as u8 + 1]);
        for row in self.db()?.iterator_opt(IteratorMode::Start, reading) {
            let (chunk, record) = self.row(row)?;
            if !take(chunk, record) {
                break;
            }
        }
        Ok(())
    }

    /// The last chunk there is.
    pub(crate) fn last_chunk(&self) -> Result<Option<ChunkId>, DiskError> {
        let mut reading = ReadOptions::default();
        reading.set_iterate_lower_bound([KeyKind::Record as u8]);
        reading.set_iterate_upper_bound([KeyKind::Record as u8 + 1]);
        let last = self.db()?.iterator_opt(IteratorMode::End, reading).next();
        Ok(last.map(|row| self.row(row)).transpose()?.map(|(chunk, _)| chunk))
    }

    fn row(&self, row: Result<Row, rocksdb::Error>) -> Result<(ChunkId, Record), DiskError> {
        let (key, value) = row.map_err(|e| self.failed(e))?;
        let id = key.get(1..).and_then(|id| <[u8; ChunkId::BYTES]>::try_from(id).ok());
        let chunk = ChunkId::from_bytes(id.ok_or_else(|| self.failed("a key is no chunk id"))?);
        let record = Record::decode(&value).map_err(|why| self.failed(format!("chunk {chunk}: {why}")))?;
        Ok((chunk, record))
    }

    /// Asks the kernel to forget what it holds of the tables and blob files, so that they are read from the disk.
    pub(crate) fn forget_cached(&self) {
        let entries = std::fs::read_dir(self.dir.join(DIR_NAME))
            .into_iter()
            .flatten()
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.extension().is_some_and(|ext| ext == "sst" || ext == "blob")
                && let Ok(file) = std::fs::File::open(&path)
            {
                drop_cache(&file);
            }
        }
    }

    /// Ends the writer after what is queued, and empties the WAL so that the next start replays nothing.
    pub(crate) fn close(&mut self) -> Result<(), DiskError> {
        self.queue = None;
        self.join_writer();
        let flushed = self.db()?.flush().map_err(|e| self.failed(e));
        self.stop();
        flushed
    }

    /// Ends both threads. A compaction under way is given up.
    fn stop(&mut self) {
        self.queue = None;
        self.join_writer();
        self.waker = None;
        self.shared.give_up_compactions();
        if self.cleaner.take().is_some_and(|cleaner| cleaner.join().is_err()) {
            tracing::error!(dir = %self.dir.display(), "the index cleaner panicked");
        }
    }

    fn join_writer(&mut self) {
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!(dir = %self.dir.display(), "the index writer panicked");
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn new(db: DB) -> Arc<Self> {
        Arc::new(Self {
            db: RwLock::new(Some(db)),
            room_wanted: AtomicU64::new(0),
        })
    }

    /// Makes compactions end soon, for good: right before the database is closed.
    fn give_up_compactions(&self) {
        if let Some(db) = &*self.db.read() {
            db.cancel_all_background_work(false);
        }
    }
}

/// Rewrites blob files when enough was removed, until the writer ends.
fn clean(shared: &Shared, dir: &Path, looks: &Looks) {
    if let Some(db) = &*shared.db.read() {
        looks.note(db);
    }
    while looks.wait() {
        let db = shared.db.read();
        let Some(db) = &*db else { continue };
        let free = || Space::of(dir).map_or(0, |space| space.free);
        if let Err(error) = reclaim(db, &free) {
            tracing::warn!(dir = %dir.display(), %error, "space of removed small chunks stays taken for now");
        }
        looks.note(db);
    }
}

struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    failed: Option<DiskError>,
    /// When it was last opened again.
    reopened: Option<Instant>,
    waker: Waker,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Queued>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut batch = WriteBatch::default();
            let mut answers = Vec::new();
            let mut next = Some(first);
            let mut removed = 0;
            while let Some(queued) = next {
                queued.changes.iter().for_each(|change| add(&mut batch, change));
                removed += queued.changes.iter().filter(|change| change.removes()).count();
                answers.push(queued.done);
                let room = batch.size_in_bytes() < BATCH_BYTES_MAX && answers.len() < QUEUE_MAX;
                next = if room { waiting.try_recv().ok() } else { None };
            }
            let result = self.write(batch);
            self.waker.removed(removed as u64);
            // A caller that went away does not need its answer.
            answers.into_iter().for_each(|done| drop(done.send(result.clone())));
        }
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), DiskError> {
        if matches!(self.failed, Some(DiskError::Full { .. })) && self.may_reopen() {
            self.reopen();
        }
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let db = self.shared.db.read();
        let written = match &*db {
            Some(db) => db.write_opt(batch, &options).map_err(rocksdb::Error::into_string),
            None => Err("it is closed".to_owned()),
        };
        drop(db);
        written.map_err(|why| self.fail(why))
    }

    /// Takes note of a failure: nothing is written on top of a log that ends somewhere.
    fn fail(&mut self, why: String) -> DiskError {
        let error = if says_full(&why) {
            let wanted = log_bytes(&self.dir) + ROOM_TO_REOPEN;
            self.shared.room_wanted.store(wanted, Ordering::Relaxed);
            let dir = self.dir.display();
            tracing::error!(%dir, why, wanted, "the index has no room: the disk is read-only until so many bytes are free");
            DiskError::Full {
                path: self.dir.join(DIR_NAME),
            }
        } else {
            let dir = self.dir.clone();
            tracing::error!(dir = %dir.display(), why, "the index cannot be written any more");
            DiskError::Index { dir, why }
        };
        self.failed = Some(error.clone());
        error
    }

    fn may_reopen(&self) -> bool {
        let wanted = self.shared.room_wanted.load(Ordering::Relaxed);
        let room = Space::of(&self.dir).is_ok_and(|space| space.free >= wanted);
        room && self.reopened.is_none_or(|at| at.elapsed() >= REOPEN_AGAIN)
    }

    /// Closes RocksDB and opens it again; without room for that after all, it is opened for reading only.
    fn reopen(&mut self) {
        self.reopened = Some(Instant::now());
        self.shared.give_up_compactions();
        let mut db = self.shared.db.write();
        // Closed before it is opened: it locks its directory.
        *db = None;
        match open_db(&self.dir, false) {
            Ok(opened) => {
                *db = Some(opened);
                self.failed = None;
                self.shared.room_wanted.store(0, Ordering::Relaxed);
                tracing::info!(dir = %self.dir.display(), "there is room again: the index takes writes");
            }
            Err(error) => {
                tracing::error!(%error, "the index cannot be opened again for writing");
                match DB::open_for_read_only(&options(), self.dir.join(DIR_NAME), false) {
                    Ok(opened) if may_pass(&error.to_string()) => *db = Some(opened),
                    // Neither for want of room nor for a lack of ours: a restart would not serve it either.
                    Ok(_) | Err(_) => self.failed = Some(error),
                }
            }
        }
    }
}

fn may_pass(why: &str) -> bool {
    says_full(why) || tells_of_lack(why)
}

fn add(batch: &mut WriteBatch, change: &Change) {
    match change {
        Change::Put { chunk, record, blob } => {
            batch.put(chunk_key(KeyKind::Record, *chunk), record.encode());
            if let Some(blob) = blob {
                batch.put(chunk_key(KeyKind::Blob, *chunk), blob);
            }
        }
        Change::Delete { chunk } => {
            batch.delete(chunk_key(KeyKind::Record, *chunk));
            batch.delete(chunk_key(KeyKind::Blob, *chunk));
        }
        Change::Epoch(epoch) => {
            let mut value = [0; 16];
            value[..8].copy_from_slice(&epoch.term.to_be_bytes());
            value[8..].copy_from_slice(&epoch.leader.0.to_be_bytes());
            batch.put(epoch_key(), value);
        }
        Change::Scrub(mark) => batch.put(setting_key("scrub"), mark),
    }
}

fn epoch_key() -> Vec<u8> {
    setting_key("epoch")
}

fn setting_key(name: &str) -> Vec<u8> {
    [&[KeyKind::Setting as u8], name.as_bytes()].concat()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
