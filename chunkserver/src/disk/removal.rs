//! Dropping copies, by a master's order and by nothing else.
//!
//! The record goes first, then the file: a crash in between leaves a file without a record, which promises nothing and
//! goes when the masters repeat the order, as they do until it is confirmed. The other way round would leave a record of
//! a sealed chunk without its file, which is what damage looks like; and a reader that comes in between would see it too.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gabion_protocol::limits::TOKEN_MS;
use gabion_protocol::{ChunkId, ReplicaNumber};

use super::directory::{Disk, chunk_path};
use super::durable::sync_dir;
use super::error::DiskError;
use super::index::Change;
use super::store::{Claim, Found, Store};

/// How long a drop is remembered: until every token given out before it has expired, and a minute for clocks.
const DROPPED_KEPT: Duration = Duration::from_millis(TOKEN_MS + 60_000);
/// Drops remembered (some 20 MiB); beyond them the oldest is forgotten.
const DROPPED_MAX: usize = 1 << 18;

/// Copies dropped lately, in the order of their drops.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    copies: HashSet<(ChunkId, ReplicaNumber)>,
    order: VecDeque<(Instant, (ChunkId, ReplicaNumber))>,
}

impl Dropped {
    /// Whether the copy was dropped not long ago.
    pub(super) fn contains(&self, copy: (ChunkId, ReplicaNumber)) -> bool {
        self.copies.contains(&copy)
    }

    fn insert(&mut self, copy: (ChunkId, ReplicaNumber), now: Instant) {
        let expired = |at: Instant| now.duration_since(at) > DROPPED_KEPT;
        while let Some((at, oldest)) = self.order.front().copied() {
            if !expired(at) && self.order.len() < DROPPED_MAX {
                break;
            }
            self.order.pop_front();
            self.copies.remove(&oldest);
        }
        if self.copies.insert(copy) {
            self.order.push_back((now, copy));
        }
    }
}

impl Store {
    /// Carries out drop orders that the Raft log stands behind; returns those done, also for copies that were never
    /// here. A copy being written is not dropped: its writer is told to stop, and the order comes again. All of them go side
    /// by side: it is the caller who knows how many are too many.
    pub async fn drop_copies(&self, orders: &[(ChunkId, ReplicaNumber)]) -> Vec<(ChunkId, ReplicaNumber)> {
        // They share the index's syncs; in order, so that answers do not depend on chance.
        futures_util::stream::iter(orders.to_vec())
            .map(|(chunk, replica)| self.obey_drop(chunk, replica))
            .buffered(orders.len().max(1))
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// One drop; its copy if that is done.
    async fn obey_drop(&self, chunk: ChunkId, replica: ReplicaNumber) -> Option<(ChunkId, ReplicaNumber)> {
        let store = self.clone();
        let dropping = async move { store.drop_copy(chunk, replica).await };
        match self.to_the_end(dropping).await {
            Ok(()) => return Some((chunk, replica)),
            Err(DiskError::InUse { .. }) => match self.0.claims.lock().get(&chunk) {
                Some((holder, cancelled)) if *holder == replica => cancelled.cancel(),
                _ => {}
            },
            Err(error) => tracing::warn!(%chunk, %replica, %error, "a copy could not be dropped yet"),
        }
        None
    }

    async fn drop_copy(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<(), DiskError> {
        self.0.dropped.lock().insert((chunk, replica), Instant::now());
        let claim = self.claim(chunk, replica)?;
        let seen = self.look(chunk).await;
        if let Some(error) = seen.unknown {
            return Err(error);
        }
        let mut here = false;
        for found in seen.found.iter().filter(|found| found.record.replica == replica) {
            here = true;
            self.remove(found, chunk, &claim).await?;
        }
        if here {
            self.0.damage.lock().remove(&chunk);
            tracing::info!(%chunk, %replica, "copy dropped");
            return Ok(());
        }
        // A crash may leave a file without a record: of a write nobody was told of, or of a drop cut short.
        let of_another = |disk: &Arc<Disk>| seen.found.iter().any(|found| Arc::ptr_eq(&found.disk, disk));
        for disk in self.serving().filter(|disk| !of_another(disk)) {
            remove_file(disk, chunk, Arc::clone(&claim)).await?;
        }
        self.silence(&seen).map_or(Ok(()), Err)
    }

    /// Removes a chunk from a disk: the record first, then the file.
    async fn remove(&self, found: &Found, chunk: ChunkId, claim: &Arc<Claim>) -> Result<(), DiskError> {
        let disk = &found.disk;
        let deletion = async || {
            disk.commit(vec![Change::Delete { chunk }]).await?;
            disk.count_unsealed(chunk, &found.record);
            Ok(())
        };
        self.0.warm.forget(chunk);
        match deletion().await {
            Ok(()) => remove_file(disk, chunk, Arc::clone(claim)).await?,
            // The index has no room for as much as a deletion: the file's may help. A crash before the second try
            // leaves a record without a file, which a start takes for damage; the order comes again all the same.
            Err(DiskError::Full { .. }) => {
                remove_file(disk, chunk, Arc::clone(claim)).await?;
                deletion().await?;
            }
            Err(error) => return Err(error),
        }
        disk.count_dropped();
        self.0.warm.forget(chunk);
        Ok(())
    }
}

/// Removes a chunk's file durably, if there is one.
async fn remove_file(disk: &Arc<Disk>, chunk: ChunkId, claim: Arc<Claim>) -> Result<(), DiskError> {
    let path = chunk_path(&disk.dir, chunk);
    let remove = move || {
        let _claim = claim;
        match std::fs::remove_file(&path) {
            Ok(()) => path.parent().map_or(Ok(()), sync_dir),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(DiskError::io("remove", &path, e)),
        }
    };
    disk.writes.run(remove).await
}
