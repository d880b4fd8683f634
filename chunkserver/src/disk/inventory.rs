//! What a disk holds, as digests in memory: what the masters compare with what they know.
//!
//! Only sealed records count: copies the disk can serve. The digests are summed up from the index at a start, and each
//! change of a record changes them right after it is durable, under the chunk's claim. They say where to look; what is
//! listed then is read from the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gabion_protocol::inventory::{Bucket, Digests, following};
use gabion_protocol::{ChunkId, ReplicaNumber};
use parking_lot::Mutex;

use super::directory::Disk;
use super::error::DiskError;
use super::index::Index;
use super::record::{Record, State};
use super::store::Store;

/// The copies of one disk.
#[derive(Debug)]
pub(crate) struct Holdings(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    digests: Digests,
    copies: u64,
    highest: Option<ChunkId>,
    highest_number: ReplicaNumber,
    opened: Instant,
    changed: BTreeMap<Bucket, Instant>,
}

impl Default for Holdings {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            digests: Digests::default(),
            copies: 0,
            highest: None,
            highest_number: ReplicaNumber(0),
            opened: Instant::now(),
            changed: BTreeMap::new(),
        }))
    }
}

impl Inner {
    fn see(&mut self, chunk: ChunkId, replica: ReplicaNumber) {
        self.highest = self.highest.max(Some(chunk));
        self.highest_number = self.highest_number.max(replica);
    }
}

impl Holdings {
    /// Takes a record into account that was found at a start.
    pub(crate) fn found(&self, chunk: ChunkId, record: &Record) {
        let mut inner = self.0.lock();
        inner.see(chunk, record.replica);
        if record.state == State::Sealed {
            inner.digests.add(chunk, record.replica);
            inner.copies += 1;
        }
    }

    /// Takes into account that a copy was sealed.
    pub(crate) fn sealed(&self, chunk: ChunkId, replica: ReplicaNumber) {
        let mut inner = self.0.lock();
        inner.see(chunk, replica);
        inner.digests.add(chunk, replica);
        inner.copies += 1;
        inner.changed.insert(Bucket::of(chunk), Instant::now());
    }

    /// Takes into account that a sealed copy is gone or set aside.
    pub(crate) fn unsealed(&self, chunk: ChunkId, replica: ReplicaNumber) {
        let mut inner = self.0.lock();
        inner.digests.remove(chunk, replica);
        inner.copies = inner.copies.saturating_sub(1);
        inner.changed.insert(Bucket::of(chunk), Instant::now());
    }

    /// Sealed copies.
    pub(crate) fn copies(&self) -> u64 {
        self.0.lock().copies
    }

    fn quiet(&self, bucket: Bucket) -> Duration {
        let inner = self.0.lock();
        inner.changed.get(&bucket).unwrap_or(&inner.opened).elapsed()
    }
}

/// What a server holds, its disks in service taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Copies.
    pub(crate) copies: u64,
    /// The highest chunk seen.
    pub(crate) highest: Option<ChunkId>,
    /// The highest number of a copy seen.
    pub(crate) highest_number: ReplicaNumber,
    /// Whether every disk of the server is in service.
    pub(crate) complete: bool,
    /// Which of the disks are.
    pub(crate) serving: Vec<bool>,
}

/// Copies of a part of a bucket, and whether there are more.
pub(crate) type Listed = (Vec<(ChunkId, ReplicaNumber)>, bool);

impl Store {
    /// What this server holds.
    pub(crate) fn stock(&self) -> Stock {
        let mut stock = Stock {
            complete: self.has_all_disks(),
            ..Stock::default()
        };
        for disk in self.disks() {
            stock.serving.push(disk.serves());
            let inner = disk.holdings.0.lock();
            stock.highest = stock.highest.max(inner.highest);
            stock.highest_number = stock.highest_number.max(inner.highest_number);
            if disk.serves() {
                stock.copies += inner.copies;
            }
        }
        stock
    }

    /// Whether all disks the server ever had, those let go of apart, are in service.
    fn has_all_disks(&self) -> bool {
        let serving: BTreeSet<_> = self.serving().map(|disk| disk.identity().disk).collect();
        let all = self.disks().iter().flat_map(|disk| disk.identity().disks);
        self.all_opened() && all.collect::<BTreeSet<_>>().is_subset(&serving)
    }

    /// The digest of a bucket.
    pub(crate) fn digest(&self, bucket: Bucket) -> u64 {
        let of = |disk: &Arc<Disk>| disk.holdings.0.lock().digests.of(bucket);
        self.serving().map(of).fold(0, u64::wrapping_add)
    }

    /// How long a bucket has not changed.
    pub(crate) fn quiet(&self, bucket: Bucket) -> Duration {
        let quiet = self.serving().map(|disk| disk.holdings.quiet(bucket));
        quiet.min().unwrap_or_default()
    }

    /// Lists copies of a bucket after `after`, in the order of chunks, at most `limit` or so as to end with a whole chunk.
    ///
    /// # Errors
    /// [`DiskError`] if a disk in service cannot tell: what it holds must not look missing.
    pub(crate) async fn list_bucket(
        &self,
        bucket: Bucket,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Listed, DiskError> {
        let mut copies = BTreeSet::new();
        let mut whole_until = None;
        for disk in self.serving() {
            let index = disk.index()?;
            let list = move || list(&index, bucket, after, limit);
            let (listed, more) = disk.reads.run(list).await.inspect_err(|error| disk.note(error))?;
            if let Some((last, _)) = listed.last().filter(|_| more) {
                // Another disk's list may go on further: what lies in between is for the next page.
                let until = whole_until.map_or(*last, |until: ChunkId| until.min(*last));
                whole_until = Some(until);
            }
            copies.extend(listed);
        }
        let mut copies: Vec<_> = copies.into_iter().collect();
        if let Some(until) = whole_until {
            copies.retain(|(chunk, _)| *chunk <= until);
        }
        let mut more = whole_until.is_some();
        if copies.len() > limit {
            more = true;
            let first_left_out = copies[limit].0;
            copies.truncate(limit);
            // The copies of one chunk, one on each of several disks, belong together.
            copies.retain(|(chunk, _)| *chunk < first_left_out);
        }
        Ok((copies, more))
    }
}

/// Lists sealed copies of a bucket in one index, block by block.
fn list(index: &Index, bucket: Bucket, after: Option<ChunkId>, limit: usize) -> Result<Listed, DiskError> {
    let mut copies = Vec::new();
    let mut more = false;
    let mut from = match after {
        None => bucket.next(ChunkId::from_bytes([0; ChunkId::BYTES])),
        Some(after) => following(after).and_then(|next| bucket.next(next)),
    };
    while let Some(look) = from.take() {
        index.records_from(Some(look), |chunk, record| {
            if Bucket::of(chunk) != bucket {
                from = bucket.next(chunk);
                return false;
            }
            if copies.len() == limit {
                more = true;
                return false;
            }
            if record.state == State::Sealed {
                copies.push((chunk, record.replica));
            }
            true
        })?;
    }
    Ok((copies, more))
}

#[cfg(test)]
mod tests;
