//! The one thread that writes the Raft log's database.
//!
//! Everything goes through one queue and into one write-ahead log, in queue order, so a vote can never be reordered
//! with entries. Whatever has queued up while the last sync ran becomes one batch and one sync: the running sync is
//! the batching window, there is no timer.
//!
//! Invariants: an entry's callback and a vote's answer fire only after the sync that covers them; after a failed
//! write or sync nothing is known about the disk, so the process aborts. The one exception is a full disk: RocksDB then
//! refuses every write until it has written its buffers out anew, into other files than the one that failed, and only
//! after that takes the same batch again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use openraft::storage::IOFlushed;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use super::log_keys;
use super::types::TypeConfig;
use crate::space::Space;

/// Bytes after which a batch is written though more is queued: a sync of more would only add latency.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Operations that may be queued. The log store waits for room when a disk hangs; memory stays bounded.
pub(crate) const QUEUE_MAX: usize = 1024;

/// What one append stores.
pub(crate) struct Appended {
    /// Encoded entries under their keys.
    pub(crate) rows: Vec<([u8; 9], Vec<u8>)>,
    /// The committed log id, of entries before these, if it is new: a write of its own for each would cost every command
    /// a thread switch, and a start asks the leader anyway.
    pub(crate) committed: Option<Vec<u8>>,
    /// Counts appends, so that the cache knows which entries the database has.
    pub(crate) number: u64,
}

/// One change of the log's database.
pub(crate) enum Operation {
    /// Stores entries; the callback fires when they are durable.
    Append {
        appended: Appended,
        flushed: IOFlushed<TypeConfig>,
    },
    /// Stores the vote; answered when it is durable.
    Vote {
        value: Vec<u8>,
        durable: oneshot::Sender<()>,
    },
    /// Removes entries `from..`.
    TruncateFrom { from: u64 },
    /// Removes entries `from..=upto` and stores the purged log id.
    Purge { from: u64, upto: u64, value: Vec<u8> },
    /// Answered when all before it is written and synced.
    Barrier { done: oneshot::Sender<()> },
}

/// What the writer has done so far.
#[derive(Debug, Default)]
pub(crate) struct WriterStats {
    /// Syncs.
    pub(crate) syncs: AtomicU64,
    /// Entries made durable.
    pub(crate) entries: AtomicU64,
    /// Microseconds spent in synced writes.
    pub(crate) sync_micros: AtomicU64,
    /// Microseconds of the slowest synced write.
    pub(crate) sync_micros_max: AtomicU64,
    /// Number of the last append that is in the database: its entries need no cache.
    pub(crate) written_append: AtomicU64,
}

/// Runs until the queue is closed and empty.
pub(crate) fn run(db: &DB, mut queue: mpsc::Receiver<Operation>, stats: &Arc<WriterStats>, space: Option<&Space>) {
    while let Some(first) = queue.blocking_recv() {
        let mut pending = Pending::default();
        pending.add(first);
        while pending.batch.size_in_bytes() < BATCH_BYTES_MAX {
            match queue.try_recv() {
                Ok(operation) => pending.add(operation),
                Err(_) => break,
            }
        }
        pending.write(db, stats, space);
    }
}

#[derive(Default)]
struct Pending {
    batch: WriteBatch,
    needs_sync: bool,
    entries: u64,
    written_append: Option<u64>,
    flushed: Vec<IOFlushed<TypeConfig>>,
    durable: Vec<oneshot::Sender<()>>,
}

impl Pending {
    fn add(&mut self, operation: Operation) {
        match operation {
            Operation::Append { appended, flushed } => {
                self.entries += appended.rows.len() as u64;
                for (key, value) in appended.rows {
                    self.batch.put(key, value);
                }
                if let Some(value) = appended.committed {
                    self.batch.put(log_keys::COMMITTED, value);
                }
                self.written_append = Some(appended.number);
                self.flushed.push(flushed);
                self.needs_sync = true;
            }
            Operation::Vote { value, durable } => {
                self.batch.put(log_keys::VOTE, value);
                self.durable.push(durable);
                self.needs_sync = true;
            }
            Operation::TruncateFrom { from } => {
                self.batch.delete_range(log_keys::entry(from), log_keys::entry_end());
            }
            Operation::Purge { from, upto, value } => {
                self.batch.put(log_keys::PURGED, value);
                self.batch
                    .delete_range(log_keys::entry(from), log_keys::entry(upto.saturating_add(1)));
            }
            Operation::Barrier { done } => {
                self.durable.push(done);
                self.needs_sync = true;
            }
        }
    }

    fn write(self, db: &DB, stats: &WriterStats, space: Option<&Space>) {
        let started = Instant::now();
        let mut options = WriteOptions::default();
        options.set_sync(self.needs_sync);
        let bytes = self.batch.data();
        let write = || db.write_opt(WriteBatch::from_data(bytes), &options);
        let written = space.map_or_else(write, |space| space.with_relief(write));
        if let Err(error) = written {
            let why = format!("cannot write the raft log in {}: {error}", db.path().display());
            for flushed in self.flushed {
                flushed.io_completed(Err(io::Error::other(why.clone())));
            }
            tracing::error!(%error, path = %db.path().display(), "cannot write the raft log; the process stops");
            std::process::abort();
        }
        if self.needs_sync {
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            stats.syncs.fetch_add(1, Ordering::Relaxed);
            stats.sync_micros.fetch_add(micros, Ordering::Relaxed);
            stats.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
        }
        stats.entries.fetch_add(self.entries, Ordering::Relaxed);
        if let Some(number) = self.written_append {
            // Release: whoever sees the number also finds the entries in the database.
            stats.written_append.store(number, Ordering::Release);
        }
        for durable in self.durable {
            // The asker may have stopped waiting; the write stands.
            let _ = durable.send(());
        }
        for flushed in self.flushed {
            flushed.io_completed(Ok(()));
        }
    }
}
