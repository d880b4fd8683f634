//! One command at work: typed rows, what it knows of the world, and how it ends early.

use gabion_protocol::ids::{ChunkId, Ino, ReplicaNumber, ServerId, StateTime, VolumeId};

use super::key::meta::{ClockKey, Cluster, ClusterKey, Counters, CountersKey, LevelKey};
use super::key::{self, Key, Moment, Value};
use super::reply::Refusal;
use super::rows::{Batch, RowsError};
use super::{LogAt, rows::Rows};

/// Why a command ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    /// A rule forbids it: its changes are dropped, the refusal is its reply.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed: the process must stop.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// The cluster-wide rows every command reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now: StateTime,
    pub(super) level: u32,
    pub(super) moment: Moment,
}

impl World {
    /// The world at a log entry; `None` before the first command.
    pub(super) fn load(rows: &dyn Rows, at: LogAt) -> Result<Option<Self>, RowsError> {
        let Some(cluster) = key::get(rows, &ClusterKey)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            cluster,
            now: key::require(rows, &ClockKey)?.now,
            level: key::require(rows, &LevelKey)?.level,
            moment: Moment(cluster.moment_base.saturating_add(at.index)),
        }))
    }
}

/// A command's view of the rows. Its changes count only if it ends well.
pub(super) struct Tx<'b> {
    pub(super) world: World,
    batch: Batch<'b>,
}

impl<'b> Tx<'b> {
    pub(super) fn new(world: World, base: &'b dyn Rows) -> Self {
        Self {
            world,
            batch: Batch::new(base),
        }
    }

    /// The rows as they were before the command.
    pub(super) fn base(&self) -> &'b dyn Rows {
        self.batch.base()
    }

    /// What the command changes.
    pub(super) fn changes(&self) -> &super::rows::Changes {
        self.batch.changes()
    }

    /// Ends the command well.
    pub(super) fn into_changes(self) -> super::rows::Changes {
        self.batch.into_changes()
    }

    pub(super) fn rows(&self) -> &dyn Rows {
        &self.batch
    }

    pub(super) fn now(&self) -> StateTime {
        self.world.now
    }

    pub(super) fn moment(&self) -> Moment {
        self.world.moment
    }

    pub(super) fn get<K: Key>(&self, key: &K) -> Result<Option<K::Value>, RowsError> {
        key::get(&self.batch, key)
    }

    pub(super) fn require<K: Key>(&self, key: &K) -> Result<K::Value, RowsError> {
        key::require(&self.batch, key)
    }

    pub(super) fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
        self.batch.put(key.encode(), value.encode());
    }

    pub(super) fn put_raw(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    pub(super) fn delete<K: Key>(&mut self, key: &K) {
        self.batch.delete(key.encode());
    }

    pub(super) fn delete_raw(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    pub(super) fn next_ino(&mut self) -> Result<Ino, RowsError> {
        self.count(|counters| &mut counters.ino).map(Ino)
    }

    pub(super) fn next_chunk(&mut self) -> Result<ChunkId, RowsError> {
        let counter = self.count(|counters| &mut counters.chunk)?;
        Ok(ChunkId {
            volume: VolumeId(0),
            timeline: self.world.cluster.timeline,
            counter,
        })
    }

    pub(super) fn next_replica(&mut self) -> Result<ReplicaNumber, RowsError> {
        self.count(|counters| &mut counters.replica).map(ReplicaNumber)
    }

    pub(super) fn next_server(&mut self) -> Result<ServerId, RowsError> {
        let mut counters = self.require(&CountersKey)?;
        let server = counters.server;
        counters.server = server.checked_add(1).ok_or_else(exhausted)?;
        self.put(&CountersKey, &counters);
        Ok(ServerId(server))
    }

    /// Takes the next number. Running out would mean using numbers twice, so the process stops instead.
    fn count(&mut self, counter: impl Fn(&mut Counters) -> &mut u64) -> Result<u64, RowsError> {
        let mut counters = self.require(&CountersKey)?;
        let next = counter(&mut counters);
        let taken = *next;
        *next = taken.checked_add(1).ok_or_else(exhausted)?;
        self.put(&CountersKey, &counters);
        Ok(taken)
    }
}

fn exhausted() -> RowsError {
    key::corrupt(&CountersKey.encode(), "a counter has reached its end")
}
