//! All disks of a server as one store of chunks.
//!
//! Invariants: one operation that changes a chunk runs at a time (a [`Claim`]), and a claim is held until every job it
//! started on a disk thread has ended, also when the caller went away; a disk that is out of service makes its chunks
//! *unavailable*, never *absent*.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use gabion_protocol::buffer::Pool;
use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{Damage, Load};
use gabion_protocol::{ChunkId, ClusterId, Epoch, ReplicaNumber, ServerId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::choice;
use super::directory::{Disk, Space};
use super::error::DiskError;
use super::identity::DiskIdentity;
use super::index::Change;
use super::read::Warm;
use super::record::{Record, State};
use super::recover::Recovered;
use super::removal::Dropped;
use super::start::{Start, leave_out};

/// Reports of damage kept until a master has taken them; the rest is found again by the next read or start.
const DAMAGE_MAX: usize = BATCH_ROWS_MAX;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// One directory per disk.
    pub dirs: Vec<PathBuf>,
    /// The cluster they belong to.
    pub cluster: ClusterId,
    /// Bytes kept free on each disk; `None` for 1 GiB or a twentieth of the disk, whichever is less.
    pub reserve: Option<u64>,
    /// Whether data is written past the page cache where the file system lets us.
    pub direct_io: bool,
    /// Aligned memory.
    pub pool: Pool,
}

/// The store of a server.
#[derive(Debug, Clone)]
pub struct Store(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    disks: Vec<Arc<Disk>>,
    /// Directories that could not be opened, with the reason.
    absent: Vec<(PathBuf, DiskError)>,
    pub(super) claims: Mutex<HashMap<ChunkId, (ReplicaNumber, CancellationToken)>>,
    /// Copies ordered dropped whose write tokens may still be valid: they are not written again.
    pub(super) dropped: Mutex<Dropped>,
    pub(super) warm: Warm,
    pub(super) damage: Mutex<BTreeMap<ChunkId, Damage>>,
    pub(super) verifying: tokio::sync::Semaphore,
    tasks: TaskTracker,
}

/// The right to change a chunk; given back when the last share is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    chunk: ChunkId,
    store: Arc<Inner>,
    /// Cancelled when the holder should give up.
    pub(crate) cancelled: CancellationToken,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.claims.lock().remove(&self.chunk);
    }
}

/// A chunk and where it is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) disk: Arc<Disk>,
    pub(super) record: Arc<Record>,
}

/// What the disks say about a chunk.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its records, at most one on each disk.
    pub(super) found: Vec<Found>,
    /// Why a disk out of service is.
    failed: Option<DiskError>,
    /// What kept a disk in service from telling.
    pub(super) unknown: Option<DiskError>,
}

impl Seen {
    /// The record that counts among those that are `wanted`: a sealed one, else that of the highest generation, which
    /// fences older ones, wherever it was found.
    fn best(&self, wanted: impl Fn(&Record) -> bool) -> Option<Found> {
        let wanted = self.found.iter().filter(|found| wanted(&found.record));
        let best = wanted.max_by_key(|found| {
            let Record {
                state,
                generation,
                replica,
                ..
            } = *found.record;
            (state == State::Sealed, generation, state == State::SetAside, replica)
        });
        best.cloned()
    }
}

impl Store {
    /// Locks and opens the directories; reports what was found in each. A disk that cannot be opened is left out as
    /// long as another serves.
    ///
    /// # Errors
    /// [`DiskError`] if no disk serves, or a directory is in use or belongs elsewhere.
    pub fn open(options: &StoreOptions) -> Result<(Self, Vec<Recovered>), DiskError> {
        let Start {
            disks: found,
            mut absent,
        } = Start::prepare(&options.dirs, options.cluster)?;
        let mut disks = Vec::new();
        let mut recovered = Vec::new();
        for (disk, identity) in found {
            let dir = disk.dir.clone();
            match disk.open(identity, options) {
                Ok((disk, found)) => {
                    disks.push(Arc::new(disk));
                    recovered.push(found);
                }
                Err(e) => leave_out(&mut absent, &dir, e),
            }
        }
        if disks.is_empty() {
            return Err(absent.into_iter().next().map_or(DiskError::NoDisk, |(_, error)| error));
        }
        let store = Self(Arc::new(Inner {
            disks,
            absent,
            claims: Mutex::default(),
            dropped: Mutex::default(),
            warm: Warm::default(),
            damage: Mutex::default(),
            verifying: tokio::sync::Semaphore::new(1),
            tasks: TaskTracker::new(),
        }));
        store.take_note(&recovered);
        Ok((store, recovered))
    }

    fn take_note(&self, recovered: &[Recovered]) {
        for (chunk, record, what) in recovered.iter().flat_map(|found| &found.damaged) {
            tracing::error!(%chunk, replica = %record.replica, what, "damaged chunk");
            self.report(*chunk, record.replica, what);
        }
    }

    /// What the directories say about this server.
    ///
    /// # Errors
    /// [`DiskError::NoDisk`].
    pub fn identity(&self) -> Result<DiskIdentity, DiskError> {
        self.0
            .disks
            .first()
            .map(|disk| disk.identity())
            .ok_or(DiskError::NoDisk)
    }

    /// Remembers on every disk the number the masters gave.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub async fn set_server(&self, server: ServerId) -> Result<(), DiskError> {
        for disk in &self.0.disks {
            let this = Arc::clone(disk);
            disk.writes.run(move || this.set_server(server)).await?;
        }
        Ok(())
    }

    /// The highest epoch obeyed.
    ///
    /// # Errors
    /// [`DiskError`] if no disk can tell.
    pub async fn epoch(&self) -> Result<Epoch, DiskError> {
        let mut highest = None;
        for disk in self.serving() {
            let index = disk.index()?;
            let epoch = disk
                .reads
                .run(move || index.epoch())
                .await
                .inspect_err(|e| disk.note(e));
            highest = highest.max(epoch.ok());
        }
        highest.ok_or(DiskError::NoDisk)
    }

    /// Remembers durably, on every disk, that `epoch` was obeyed.
    ///
    /// # Errors
    /// [`DiskError`] if a disk in service cannot.
    pub async fn set_epoch(&self, epoch: Epoch) -> Result<(), DiskError> {
        for disk in self.serving() {
            disk.commit(vec![Change::Epoch(epoch)]).await?;
        }
        Ok(())
    }

    /// Space and load. `streams` is not known here.
    #[must_use]
    pub fn load(&self) -> Load {
        let mut load = Load {
            disks_failed: self.0.absent.len() as u16,
            ..Load::default()
        };
        for disk in &self.0.disks {
            load.chunks += disk.chunk_count();
            // A disk that writing failed on serves what it has, but somebody must look at it.
            if disk.is_failing() || !disk.serves() {
                load.disks_failed += 1;
                continue;
            }
            load.disks_ok += 1;
            // What it has is on its way to others: it is no room of this server any more.
            if disk.is_draining() {
                continue;
            }
            let space = Space::of(&disk.dir).unwrap_or_default();
            load.bytes_total += space.total;
            if disk.writable(space.free) {
                let spare = space.free.saturating_sub(disk.reserve);
                // Small chunks that are gone leave their room later. Not more than is free, so that it is there in time.
                let garbage = disk.index().map_or(0, |index| index.garbage());
                load.bytes_free += spare + garbage.min(spare);
            }
        }
        load
    }

    /// Damage found and not yet taken by a master.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.0.damage.lock().values().cloned().collect()
    }

    /// Forgets reports a master has taken.
    pub fn damage_taken(&self, taken: &[Damage]) {
        let mut damage = self.0.damage.lock();
        damage.retain(|_, kept| !taken.contains(kept));
    }

    /// Whether more damage can be reported before a master takes some.
    pub(crate) fn takes_reports(&self) -> bool {
        self.0.damage.lock().len() < DAMAGE_MAX
    }

    /// Every disk opened, whether it serves or not.
    pub(crate) fn disks(&self) -> &[Arc<Disk>] {
        &self.0.disks
    }

    /// Tells the masters with the next beat that a copy cannot be trusted.
    pub(crate) fn report(&self, chunk: ChunkId, replica: ReplicaNumber, what: &str) {
        let mut damage = self.0.damage.lock();
        if damage.len() < DAMAGE_MAX {
            damage.insert(
                chunk,
                Damage {
                    chunk,
                    replica,
                    what: what.to_owned(),
                },
            );
        }
    }

    /// Directories that could not be opened, with the reason.
    pub(super) fn absent(&self) -> &[(PathBuf, DiskError)] {
        &self.0.absent
    }

    /// Whether every directory of the configuration could be opened.
    pub(super) fn all_opened(&self) -> bool {
        self.0.absent.is_empty()
    }

    pub(super) fn serving(&self) -> impl Iterator<Item = &Arc<Disk>> {
        self.0.disks.iter().filter(|disk| disk.serves())
    }

    /// The right to write a copy of `chunk`, which a drop that was ordered before has ended for good: its writer's
    /// token may outlive the order.
    pub(super) fn claim_to_write(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Arc<Claim>, DiskError> {
        let claim = self.claim(chunk, replica)?;
        // After the claim: a drop that comes later finds it.
        if self.0.dropped.lock().contains((chunk, replica)) {
            let why = format!("copy {replica} was dropped");
            return Err(DiskError::Fenced { chunk, why });
        }
        Ok(claim)
    }

    /// The right to change copy `replica` of `chunk`.
    pub(super) fn claim(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Arc<Claim>, DiskError> {
        let mut claims = self.0.claims.lock();
        if claims.contains_key(&chunk) {
            return Err(DiskError::InUse { chunk });
        }
        let cancelled = CancellationToken::new();
        claims.insert(chunk, (replica, cancelled.clone()));
        Ok(Arc::new(Claim {
            chunk,
            store: Arc::clone(&self.0),
            cancelled,
        }))
    }

    /// Where copy `replica` of `chunk` is; `None` only if every disk says that it has no record of it.
    pub(super) async fn find(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Option<Found>, DiskError> {
        let seen = self.look(chunk).await;
        let copy = seen.best(|record| record.replica == replica);
        match (copy, self.silence(&seen)) {
            // Sealed is final, whatever a disk that does not tell may hold.
            (Some(copy), _) if copy.record.state == State::Sealed => Ok(Some(copy)),
            (copy, _) if seen.unknown.is_none() && copy.is_some() => Ok(copy),
            (copy, silence) => silence.map_or(Ok(copy), Err),
        }
    }

    /// Where `chunk` is, for a new write: disks out of service count as empty, or one of several that failed would
    /// refuse every write. A record on one of them is of an older try or of a copy the masters have given up.
    pub(super) async fn find_to_write(&self, chunk: ChunkId) -> Result<Option<Found>, DiskError> {
        let seen = self.look(chunk).await;
        let best = seen.best(|_| true);
        seen.unknown.map_or(Ok(best), Err)
    }

    /// Why it is not certain that the disks looked at hold all records of a chunk, if so.
    pub(super) fn silence(&self, seen: &Seen) -> Option<DiskError> {
        let absent = || {
            self.0.absent.first().map(|(dir, error)| DiskError::Failed {
                dir: dir.clone(),
                why: error.to_string(),
            })
        };
        let told = seen.unknown.clone().or_else(|| seen.failed.clone());
        told.or_else(absent)
    }

    /// Asks every disk for `chunk`. A disk that was out of service for a while may hold a record beside another's.
    pub(super) async fn look(&self, chunk: ChunkId) -> Seen {
        let mut seen = Seen::default();
        for disk in &self.0.disks {
            let record = match disk.index() {
                Ok(index) => match index.record_in_memory(chunk) {
                    Some(record) => Ok(record),
                    None => disk.reads.run(move || index.record(chunk)).await,
                },
                Err(e) => Err(e),
            };
            match record {
                Ok(Some(record)) => seen.found.push(Found {
                    disk: Arc::clone(disk),
                    record: Arc::new(record),
                }),
                Ok(None) => {}
                Err(e) => {
                    disk.note(&e);
                    if disk.serves() {
                        seen.unknown = Some(e);
                    } else {
                        seen.failed = Some(e);
                    }
                }
            }
        }
        seen
    }

    /// The disk for a new chunk, one that takes chunks before all others. One that takes nothing says so itself.
    pub(super) fn disk_for(&self, chunk: ChunkId) -> Result<Arc<Disk>, DiskError> {
        let draw = |disk: &Arc<Disk>| {
            let free = Space::of(&disk.dir).map_or(0, |space| space.free);
            let spare = free.saturating_sub(disk.reserve);
            (disk.writable(free), choice::draw(chunk, disk.identity().disk, spare))
        };
        let chosen = match self.serving().collect::<Vec<_>>()[..] {
            [only] => Some(only),
            ref several => {
                let draws = several.iter().map(|disk| (draw(disk), *disk));
                let better =
                    |one: &(bool, f64), other: &(bool, f64)| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1));
                draws
                    .max_by(|(one, _), (other, _)| better(one, other))
                    .map(|(_, disk)| disk)
            }
        };
        chosen.cloned().ok_or(DiskError::NoDisk)
    }

    /// Runs `work` to its end, also if the caller stops waiting: a change of disk and index is not left half done.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DiskError>> + Send + 'static,
    ) -> Result<T, DiskError> {
        let task = self.0.tasks.spawn(work);
        task.await.map_err(|_| DiskError::Stopping)?
    }

    /// Marks a copy as not to be trusted, durably, and tells the masters with the next beat. Its bytes are kept.
    pub async fn set_aside(&self, chunk: ChunkId, replica: ReplicaNumber, what: &str) {
        tracing::error!(%chunk, %replica, what, "chunk set aside");
        self.report(chunk, replica, what);
        self.0.warm.forget(chunk);
        let store = self.clone();
        let result = self
            .to_the_end(async move {
                let _claim = store.claim(chunk, replica)?;
                let found = store.find(chunk, replica).await?;
                let Some(found) = found.filter(|found| found.record.state != State::SetAside) else {
                    return Ok(());
                };
                let record = Record {
                    state: State::SetAside,
                    ..(*found.record).clone()
                };
                found.disk.commit(vec![put(chunk, Arc::new(record))]).await?;
                found.disk.count_unsealed(chunk, &found.record);
                store.0.warm.forget(chunk);
                Ok(())
            })
            .await;
        if let Err(error) = result {
            tracing::warn!(%chunk, %error, "the damage is not recorded; the next read finds it again");
        }
    }

    /// Waits for what is under way and closes the disks in good order.
    pub async fn close(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        for disk in &self.0.disks {
            let closing = Arc::clone(disk);
            let closed = disk.writes.run(move || {
                closing.close();
                Ok(())
            });
            if let Err(error) = closed.await {
                tracing::warn!(%error, "a disk was not closed");
            }
        }
    }
}

/// A change that writes a record.
pub(super) fn put(chunk: ChunkId, record: Arc<Record>) -> Change {
    Change::Put {
        chunk,
        record,
        blob: None,
    }
}
