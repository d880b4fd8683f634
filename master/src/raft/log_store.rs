//! The Raft log on RocksDB: openraft's log storage over a database of its own and one writer thread.
//!
//! `append` returns as soon as the entries can be read: from the tail cache, because the writer may not have them
//! yet. The cache drops an entry only once the database has it, and otherwise keeps as many bytes as it is allowed,
//! so that followers and the state machine rarely read from disk.
//!
//! Invariants: indexes are consecutive from the purged one on, checked on append, at open and on every read; an
//! entry below the cache is in the database. A hole or a damaged entry is an error, never a shorter log.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use futures_util::Stream;
use gabion_protocol::torn;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use rocksdb::{DB, IteratorMode, Options, ReadOptions};
use tokio::sync::{mpsc, oneshot};

use super::codec::{self, StoredEntry};
use super::log_chain::{Chain, LogError};
use super::log_keys;
use super::log_writer::{self, Appended, Operation, WriterStats};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::space::Space;
use crate::store::memory::Memory;

/// Bytes one read for replication or apply gives: what one message carries.
const READ_BYTES_MAX: usize = gabion_protocol::limits::RAFT_BATCH_BYTES_MAX;

/// What is known of the log without reading it.
#[derive(Default)]
struct Tail {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// It changed since it was last handed to the writer.
    committed_is_new: bool,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Index of the first entry the log holds, or would hold.
    first: u64,
    /// The CRC of the last entry, 0 if the log holds none.
    last_crc: u32,
    /// Counts appends.
    appends: u64,
    /// The newest entries, consecutive, ending with the last one.
    cached: VecDeque<Cached>,
    cached_bytes: usize,
}

#[derive(Clone)]
struct Cached {
    stored: StoredEntry,
    bytes: usize,
    /// The append that brought it: once the writer has written that one, the database has the entry.
    append: u64,
}

impl Tail {
    fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The committed log id as it is stored, if it changed since this was last asked.
    fn new_committed(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.committed_is_new).then(|| codec::encode_log_id(self.committed.as_ref()))
    }

    /// Entries below this index are in the database only.
    fn cache_start(&self) -> u64 {
        self.next_index() - self.cached.len() as u64
    }
}

struct Shared {
    db: DB,
    path: PathBuf,
    tail: Mutex<Tail>,
    stats: Arc<WriterStats>,
    cache_bytes_max: usize,
}

/// The log store; clones share one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Operation>,
}

/// Reads the log; does not keep the writer alive.
#[derive(Clone)]
pub(crate) struct LogReader(Arc<Shared>);

/// Waits for the writer thread: it ends when every [`LogStore`] is dropped.
#[must_use = "the log's directory is free only after the writer has ended"]
pub(crate) struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until everything queued is written and the database is closed.
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the raft log's writer panicked; the process stops");
            std::process::abort();
        }
    }
}

impl LogStore {
    /// Opens the log in `path`, creating an empty one if there is none, and verifies every entry. `space` helps when
    /// the disk is full.
    ///
    /// # Errors
    /// [`LogError`] if the log is damaged, has a hole or cannot be opened.
    pub(crate) fn open(
        path: &Path,
        memory: &Memory,
        cache_bytes_max: usize,
        space: Option<Arc<Space>>,
    ) -> Result<(Self, Writer), LogError> {
        Self::open_with(&memory.log_options(), path, cache_bytes_max, space)
    }

    fn open_with(
        options: &Options,
        path: &Path,
        cache_bytes_max: usize,
        space: Option<Arc<Space>>,
    ) -> Result<(Self, Writer), LogError> {
        let database = |source| LogError::Database {
            path: path.to_owned(),
            source,
        };
        let db = match DB::open(options, path) {
            Err(source) if source.kind() == rocksdb::ErrorKind::Corruption => {
                // Only what a power cut left unsynced ends in zeros; other damage stays an error.
                let Ok(Some(cut)) = torn::cut_zeros(path) else {
                    return Err(database(source));
                };
                tracing::warn!(?cut, "the log ended in zeros after a power cut; opening it again");
                DB::open(options, path)
            }
            opened => opened,
        };
        let db = db.map_err(database)?;
        let tail = scan(&db, path, &mut |_| Ok(()))?;
        let stats = Arc::new(WriterStats::default());
        let shared = Arc::new(Shared {
            db,
            path: path.to_owned(),
            tail: Mutex::new(tail),
            stats,
            cache_bytes_max,
        });
        let (queue, operations) = mpsc::channel(log_writer::QUEUE_MAX);
        let owned = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || {
                log_writer::run(&owned.db, operations, &owned.stats, space.as_deref());
                owned.store_committed();
            })
            .map_err(LogError::Thread)?;
        Ok((Self { shared, queue }, Writer(thread)))
    }

    pub(crate) fn stats(&self) -> &Arc<WriterStats> {
        &self.shared.stats
    }

    /// Whether this master ever voted or logged anything.
    pub(crate) fn is_pristine(&self) -> bool {
        let tail = self.shared.tail.lock();
        tail.vote.is_none() && tail.last.is_none()
    }

    /// The vote as it is on disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.tail.lock().vote
    }

    /// The last entry's log id; the last purged one's if no entry follows.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.tail.lock().last
    }

    /// Index of the last entry, 0 for an empty log.
    pub(crate) fn last_index(&self) -> u64 {
        self.shared.tail.lock().last.map_or(0, |last| last.index)
    }

    async fn enqueue(&self, operation: Operation) -> io::Result<()> {
        let stopped = |_| io::Error::other("the raft log's writer has stopped");
        self.queue.send(operation).await.map_err(stopped)
    }

    /// Returns when everything enqueued before is durable.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.enqueue(Operation::Barrier { done }).await?;
        wait.await.map_err(io::Error::other)
    }
}

/// What a verified log holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified {
    pub(crate) last: Option<LogId>,
    pub(crate) vote: Option<Vote>,
}

/// Reads and verifies the whole log; `each` sees every entry.
pub(crate) fn verify(
    db: &DB,
    path: &Path,
    each: &mut dyn FnMut(&Entry) -> Result<(), LogError>,
) -> Result<Verified, LogError> {
    let tail = scan(db, path, each)?;
    Ok(Verified {
        last: tail.last,
        vote: tail.vote,
    })
}

fn scan(db: &DB, path: &Path, each: &mut dyn FnMut(&Entry) -> Result<(), LogError>) -> Result<Tail, LogError> {
    let value = |key: &[u8]| {
        db.get(key).map_err(|source| LogError::Database {
            path: path.to_owned(),
            source,
        })
    };
    let damaged = |place: &str| {
        let place = place.to_owned();
        move |source| LogError::Damaged {
            path: path.to_owned(),
            place,
            source,
        }
    };
    let mut tail = Tail::default();
    if let Some(bytes) = value(&log_keys::VOTE)? {
        tail.vote = Some(codec::decode_vote(&bytes).map_err(damaged("the vote"))?);
    }
    if let Some(bytes) = value(&log_keys::COMMITTED)? {
        tail.committed = codec::decode_log_id(&bytes).map_err(damaged("the committed log id"))?;
    }
    if let Some(bytes) = value(&log_keys::PURGED)? {
        tail.purged = codec::decode_log_id(&bytes).map_err(damaged("the purged log id"))?;
    }
    tail.last = tail.purged;
    tail.first = tail.purged.map_or(0, |purged| purged.index + 1);
    let mut chain = Chain::starting_at(path, tail.first, tail.purged);
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_iterate_upper_bound(log_keys::entry_end());
    let from = log_keys::entry(0);
    for row in db.iterator_opt(IteratorMode::From(&from, rocksdb::Direction::Forward), options) {
        let (key, bytes) = row.map_err(|source| LogError::Database {
            path: path.to_owned(),
            source,
        })?;
        let stored = chain.next(&key, bytes.into())?;
        tail.last = Some(stored.entry.log_id);
        tail.last_crc = stored.crc;
        each(&stored.entry)?;
    }
    Ok(tail)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn weight(entry: &Entry) -> usize {
    let body = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    body + size_of::<Cached>()
}

impl Shared {
    /// The entries with `start <= index < end` that the log holds, cut after `bytes_max` but never empty for that.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        // The snapshot is taken under the lock: what the lock says is in the database stays there for this read,
        // whatever the writer removes meanwhile.
        let (below, cached, mut chain) = {
            let tail = self.tail.lock();
            let start = start.max(tail.first);
            let end = end.min(tail.next_index());
            if start >= end {
                return Ok(entries);
            }
            let cache_start = tail.cache_start();
            let below = (start < cache_start).then(|| (start, end.min(cache_start), self.db.snapshot()));
            let skip = usize::try_from(start.saturating_sub(cache_start)).unwrap_or(usize::MAX);
            let take = usize::try_from(end.saturating_sub(start.max(cache_start))).unwrap_or(usize::MAX);
            let mut cached = Vec::new();
            let mut cached_bytes = 0;
            for item in tail.cached.iter().skip(skip).take(take) {
                if cached_bytes >= bytes_max {
                    break;
                }
                cached_bytes += item.bytes;
                cached.push(item.clone());
            }
            (below, cached, Chain::starting_at(&self.path, start, None))
        };
        if let Some((from, to, snapshot)) = below {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(log_keys::entry(to));
            let first = log_keys::entry(from);
            for row in snapshot.iterator_opt(IteratorMode::From(&first, rocksdb::Direction::Forward), options) {
                let (key, value) = row.map_err(|source| LogError::Database {
                    path: self.path.clone(),
                    source,
                })?;
                bytes += value.len() + size_of::<Cached>();
                entries.push(chain.next(&key, value.into())?.entry);
                if bytes >= bytes_max {
                    return Ok(entries);
                }
            }
            if chain.next != to {
                return Err(LogError::Hole {
                    path: self.path.clone(),
                    why: format!("entry {} is missing", chain.next),
                });
            }
        }
        for item in cached {
            if bytes >= bytes_max && !entries.is_empty() {
                break;
            }
            chain.link(&item.stored).map_err(|why| LogError::Hole {
                path: self.path.clone(),
                why,
            })?;
            bytes += item.bytes;
            entries.push(item.stored.entry);
        }
        Ok(entries)
    }

    /// Stores what no append has taken along. The next start asks the leader again for what is lost of it.
    fn store_committed(&self) {
        let Some(value) = self.tail.lock().new_committed() else {
            return;
        };
        if let Err(error) = self.db.put(log_keys::COMMITTED, value) {
            tracing::warn!(%error, path = %self.path.display(), "the committed log id is not stored");
        }
    }

    /// Takes entries into the tail; gives what the writer has to know, but for the callback.
    ///
    /// # Panics
    /// If the entries do not follow the last one: a hole in the log is the one thing Raft cannot survive.
    fn extend(&self, entries: impl IntoIterator<Item = Entry>) -> io::Result<Appended> {
        let mut tail = self.tail.lock();
        tail.appends += 1;
        let append = tail.appends;
        let mut rows = Vec::new();
        for entry in entries {
            let id = entry.log_id;
            match tail.last {
                Some(last) => assert!(
                    id.index == last.index + 1 && id.leader_id >= last.leader_id,
                    "entry {id} is appended after {last}"
                ),
                None => tail.first = id.index,
            }
            let (bytes, crc) = codec::encode_entry(&entry, tail.last_crc).map_err(io::Error::other)?;
            rows.push((log_keys::entry(id.index), bytes));
            let stored = StoredEntry {
                previous: tail.last_crc,
                crc,
                entry,
            };
            let bytes = weight(&stored.entry);
            tail.cached_bytes += bytes;
            tail.cached.push_back(Cached { stored, bytes, append });
            tail.last = Some(id);
            tail.last_crc = crc;
        }
        self.shrink(&mut tail);
        Ok(Appended {
            rows,
            committed: tail.new_committed(),
            number: append,
        })
    }

    /// Drops cached entries above the memory limit, those first that the database has.
    fn shrink(&self, tail: &mut Tail) {
        let written = self.stats.written_append.load(Ordering::Acquire);
        while tail.cached_bytes > self.cache_bytes_max {
            match tail.cached.front() {
                Some(front) if front.append <= written => {
                    tail.cached_bytes -= front.bytes;
                    tail.cached.pop_front();
                }
                _ => break,
            }
        }
    }

    /// The log id and CRC of the entry at `index`, or of the purged one.
    fn link_at(&self, index: u64) -> Result<(LogId, u32), LogError> {
        let purged = self.tail.lock().purged;
        if let Some(purged) = purged.filter(|purged| purged.index == index) {
            return Ok((purged, 0));
        }
        let cached = {
            let tail = self.tail.lock();
            let cache_start = tail.cache_start();
            index
                .checked_sub(cache_start)
                .and_then(|at| tail.cached.get(usize::try_from(at).ok()?))
                .map(|item| (item.stored.entry.log_id, item.stored.crc))
        };
        if let Some(found) = cached {
            return Ok(found);
        }
        let key = log_keys::entry(index);
        let bytes = self.db.get(key).map_err(|source| LogError::Database {
            path: self.path.clone(),
            source,
        })?;
        let Some(bytes) = bytes else {
            return Err(LogError::Hole {
                path: self.path.clone(),
                why: format!("entry {index} is missing"),
            });
        };
        let stored = Chain::starting_at(&self.path, index, None).next(&key, bytes.into())?;
        Ok((stored.entry.log_id, stored.crc))
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        Ok(self.0.read(start, end, usize::MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.0.read(start, end, READ_BYTES_MAX)?)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let shared = Arc::clone(&self.0);
        let mut next = Some(start);
        let mut ready = VecDeque::new();
        futures_util::stream::iter(std::iter::from_fn(move || {
            if ready.is_empty() {
                let start = next?;
                match shared.read(start, end, READ_BYTES_MAX) {
                    Ok(entries) => {
                        next = entries.last().map(|entry| entry.log_id.index + 1);
                        ready.extend(entries);
                    }
                    Err(error) => {
                        next = None;
                        return Some(Err(error.into()));
                    }
                }
            }
            ready.pop_front().map(Ok)
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.shared.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader(Arc::clone(&self.shared))
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (durable, wait) = oneshot::channel();
        let value = codec::encode_vote(vote);
        self.enqueue(Operation::Vote { value, durable }).await?;
        wait.await.map_err(io::Error::other)?;
        self.shared.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut tail = self.shared.tail.lock();
        tail.committed = committed;
        tail.committed_is_new = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.tail.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let appended = self.shared.extend(entries)?;
        let flushed = callback;
        self.enqueue(Operation::Append { appended, flushed }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        {
            let tail = self.shared.tail.lock();
            assert!(
                from >= tail.first,
                "truncating from {from}, but entries up to {:?} are purged, hence applied",
                tail.purged
            );
            if from >= tail.next_index() {
                return Ok(());
            }
        }
        let link = match last_log_id {
            Some(last) => Some(self.shared.link_at(last.index)?),
            None => None,
        };
        {
            let mut tail = self.shared.tail.lock();
            while let Some(back) = tail.cached.back().filter(|back| back.stored.entry.log_id.index >= from) {
                tail.cached_bytes -= back.bytes;
                tail.cached.pop_back();
            }
            tail.last = link.map(|(id, _)| id);
            if tail.last.is_none() {
                tail.first = 0;
            }
            tail.last_crc = link.map_or(0, |(_, crc)| crc);
        }
        self.enqueue(Operation::TruncateFrom { from }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let from = {
            let mut tail = self.shared.tail.lock();
            if tail.purged.is_some_and(|purged| purged.index >= log_id.index) {
                return Ok(());
            }
            let from = tail.first;
            tail.purged = Some(log_id);
            tail.first = log_id.index + 1;
            if tail.last.is_none_or(|last| last.index <= log_id.index) {
                // A snapshot was installed beyond the log: its next entry follows nothing that is here.
                tail.last = Some(log_id);
                tail.last_crc = 0;
            }
            while let Some(front) = tail
                .cached
                .front()
                .filter(|front| front.stored.entry.log_id.index <= log_id.index)
            {
                tail.cached_bytes -= front.bytes;
                tail.cached.pop_front();
            }
            from
        };
        self.enqueue(Operation::Purge {
            from,
            upto: log_id.index,
            value: codec::encode_log_id(Some(&log_id)),
        })
        .await
    }
}

#[cfg(test)]
#[path = "log_store_tests.rs"]
mod tests;
