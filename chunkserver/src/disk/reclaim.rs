//! Space of removed small chunks comes back: when the index's blob files are rewritten without what was removed.
//!
//! RocksDB's own way rewrites the oldest quarter of all blobs in each compaction, garbage or not: the more small files a
//! disk held, the slower every write became. Here compactions leave blobs where they are, and a thread looks at them
//! after so many removals that looking costs little: the tables (keys, no blobs) are compacted, which tells how much
//! garbage there is, and only if that is a third of all are blobs rewritten, the oldest first, until it is less. A byte
//! that comes back has then cost two that were rewritten, at most; more on a disk that has less free than that garbage.
//! What is known to be garbage counts as free towards the masters, who would otherwise move chunks away in vain.
//!
//! Invariants: nothing is rewritten while little is garbage; a rewrite takes no more than half of the free space.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use rocksdb::{BottommostLevelCompaction, CompactOptions, DB};

/// Removals after which it is worth to look, at least.
const REMOVALS_MIN: u64 = 10_000;
/// One in so many chunks must have been removed since the last look, which reads and writes the keys of all.
const REMOVALS_OF_CHUNKS: u64 = 16;
/// Garbage that is worth a rewrite, in bytes, at least.
const GARBAGE_MIN: u64 = 64 << 20;
/// Of all blobs, garbage or not, one rewrite takes so many: it needs room for what is not.
const PART_MAX: f64 = 0.25;
/// Less than this is not worth the compaction that finds it.
const PART_MIN: f64 = 0.01;

/// What the blob files hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    total: u64,
    garbage: u64,
}

impl Held {
    fn of(db: &DB) -> Result<Self, rocksdb::Error> {
        let bytes = |name: &str| Ok::<_, rocksdb::Error>(db.property_int_value(name)?.unwrap_or(0));
        Ok(Self {
            total: bytes("rocksdb.live-blob-file-size")?,
            garbage: bytes("rocksdb.live-blob-file-garbage-size")?,
        })
    }

    /// The part of the blob files, from the oldest on, to rewrite now with so many bytes free.
    fn part(self, free: u64, garbage_min: u64) -> Option<f64> {
        let is_much = self.garbage >= self.total / 3 || self.garbage >= free;
        if self.garbage < garbage_min || !is_much {
            return None;
        }
        let kept = self.total.saturating_sub(self.garbage).max(1);
        let part = PART_MAX.min(free as f64 / 2.0 / kept as f64);
        (part >= PART_MIN).then_some(part)
    }
}

/// Counts removals, and wakes whoever looks.
#[derive(Debug)]
pub(super) struct Removals {
    /// Since somebody was woken.
    since: AtomicU64,
    /// Until the next look.
    wanted: AtomicU64,
    /// Bytes of garbage as of the last one.
    garbage: AtomicU64,
}

/// The right to wake; no look comes after the last one is dropped.
#[derive(Debug, Clone)]
pub(super) struct Waker {
    removals: Arc<Removals>,
    wake: SyncSender<()>,
}

/// When to look next.
#[derive(Debug)]
pub(super) struct Looks {
    removals: Arc<Removals>,
    woken: Receiver<()>,
}

/// The two ends.
pub(super) fn looks() -> (Waker, Looks) {
    let (wake, woken) = sync_channel(1);
    let removals = Arc::new(Removals {
        since: AtomicU64::new(0),
        wanted: AtomicU64::new(REMOVALS_MIN),
        garbage: AtomicU64::new(0),
    });
    let waker = Waker {
        removals: Arc::clone(&removals),
        wake,
    };
    (waker, Looks { removals, woken })
}

impl Waker {
    /// So many more chunks are gone.
    pub(super) fn removed(&self, count: u64) {
        let since = self.removals.since.fetch_add(count, Ordering::Relaxed) + count;
        if since >= self.removals.wanted.load(Ordering::Relaxed) {
            self.wake(since);
        }
    }

    /// Somebody wants room and there is none: whatever was removed is looked at now.
    pub(super) fn want_room(&self) {
        let since = self.removals.since.load(Ordering::Relaxed);
        if since > 0 {
            self.wake(since);
        }
    }

    fn wake(&self, since: u64) {
        match self.wake.try_send(()) {
            Ok(()) => _ = self.removals.since.fetch_sub(since, Ordering::Relaxed),
            // A look is about to come, and there will be one more after it; or none any more.
            Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => (),
        }
    }

    /// Bytes of the blob files that are known to be garbage.
    pub(super) fn garbage(&self) -> u64 {
        self.removals.garbage.load(Ordering::Relaxed)
    }
}

impl Looks {
    /// Waits for the next; false when there will be none.
    pub(super) fn wait(&self) -> bool {
        self.woken.recv().is_ok()
    }

    /// Takes note of what there is now.
    pub(super) fn note(&self, db: &DB) {
        if let Ok(held) = Held::of(db) {
            self.removals.garbage.store(held.garbage, Ordering::Relaxed);
        }
        let rows = db.property_int_value("rocksdb.estimate-num-keys");
        let rows = rows.ok().flatten().unwrap_or(0);
        let wanted = (rows / REMOVALS_OF_CHUNKS).max(REMOVALS_MIN);
        self.removals.wanted.store(wanted, Ordering::Relaxed);
    }
}

/// Finds out what is garbage, and rewrites blob files as long as too much is.
///
/// # Errors
///
/// If RocksDB takes no new setting: its disk is full or fails, and nothing is rewritten.
pub(super) fn reclaim(db: &DB, free: &dyn Fn() -> u64) -> Result<(), rocksdb::Error> {
    reclaim_from(db, free, GARBAGE_MIN)
}

fn reclaim_from(db: &DB, free: &dyn Fn() -> u64, garbage_min: u64) -> Result<(), rocksdb::Error> {
    compact(db, BottommostLevelCompaction::IfHaveCompactionFilter);
    let mut before = Held::of(db)?;
    while let Some(part) = before.part(free(), garbage_min) {
        let part = part.to_string();
        db.set_options(&[("blob_garbage_collection_age_cutoff", part.as_str())])?;
        compact(db, BottommostLevelCompaction::ForceOptimized);
        db.set_options(&[("blob_garbage_collection_age_cutoff", "0")])?;
        let after = Held::of(db)?;
        tracing::info!(?before, ?after, part, "blob files rewritten without what was removed");
        if after.total >= before.total {
            // The database is being closed, or its disk fails: the next look tries again.
            break;
        }
        before = after;
    }
    Ok(())
}

/// Compacts all tables. Blobs stay where they are but for those of the oldest files, as many as the cutoff says.
fn compact(db: &DB, bottommost: BottommostLevelCompaction) {
    let mut options = CompactOptions::default();
    // Writers go on meanwhile, and with them the compactions that they need.
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(bottommost);
    db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
}

#[cfg(test)]
mod tests;
