//! All disks of a server as one store of chunks.
//!
//! Invariants: one operation that changes a chunk runs at a time (a [`Claim`]), and a claim is held until every job it
//! started on a disk thread has ended, also when the caller went away; a disk that is out of service makes its chunks
//! *unavailable*, never *absent*.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gabion_protocol::buffer::Pool;
use gabion_protocol::limits::{BATCH_ROWS_MAX, TOKEN_MS};
use gabion_protocol::messages::master::{Damage, Load};
use gabion_protocol::{ChunkId, ClusterId, Epoch, ReplicaNumber, ServerId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::directory::{Disk, Space, chunk_path};
use super::durable::sync_dir;
use super::error::DiskError;
use super::identity::DiskIdentity;
use super::index::Change;
use super::read::Warm;
use super::record::{Record, State};
use super::recover::Recovered;
use super::start::{Start, leave_out};

/// Reports of damage kept until a master has taken them; the rest is found again by the next read or start.
const DAMAGE_MAX: usize = BATCH_ROWS_MAX;

/// How long a drop is remembered: until every token given out before it has expired, and a minute for clocks.
const DROPPED_KEPT: Duration = Duration::from_millis(TOKEN_MS + 60_000);
/// Drops remembered (some 20 MiB); beyond them the oldest is forgotten.
const DROPPED_MAX: usize = 1 << 18;

/// Drops under way at one time.
const DROPS_AT_A_TIME: usize = 16;

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
    claims: Mutex<HashMap<ChunkId, (ReplicaNumber, CancellationToken)>>,
    /// Copies ordered dropped whose write tokens may still be valid: they are not written again.
    dropped: Mutex<Dropped>,
    pub(super) warm: Warm,
    damage: Mutex<BTreeMap<ChunkId, Damage>>,
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

/// Copies dropped lately, in the order of their drops.
#[derive(Debug, Default)]
struct Dropped {
    copies: HashSet<(ChunkId, ReplicaNumber)>,
    order: VecDeque<(Instant, (ChunkId, ReplicaNumber))>,
}

impl Dropped {
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

/// A chunk and where it is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) disk: Arc<Disk>,
    pub(super) record: Arc<Record>,
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
            if !disk.serves() {
                load.disks_failed += 1;
                continue;
            }
            load.disks_ok += 1;
            let space = Space::of(&disk.dir).unwrap_or_default();
            load.bytes_total += space.total;
            if disk.writable() {
                load.bytes_free += space.free.saturating_sub(disk.reserve);
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

    fn report(&self, chunk: ChunkId, replica: ReplicaNumber, what: &str) {
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

    fn serving(&self) -> impl Iterator<Item = &Arc<Disk>> {
        self.0.disks.iter().filter(|disk| disk.serves())
    }

    /// The right to write a copy of `chunk`, which a drop that was ordered before has ended for good: its writer's
    /// token may outlive the order.
    pub(super) fn claim_to_write(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Arc<Claim>, DiskError> {
        let claim = self.claim(chunk, replica)?;
        // After the claim: a drop that comes later finds it.
        if self.0.dropped.lock().copies.contains(&(chunk, replica)) {
            let why = format!("copy {replica} was dropped");
            return Err(DiskError::Fenced { chunk, why });
        }
        Ok(claim)
    }

    /// The right to change copy `replica` of `chunk`.
    fn claim(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Arc<Claim>, DiskError> {
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

    /// Where `chunk` is; `None` only if every disk says that it has no record of it.
    pub(super) async fn find(&self, chunk: ChunkId) -> Result<Option<Found>, DiskError> {
        let absent = self.0.absent.first().map(|(dir, error)| DiskError::Failed {
            dir: dir.clone(),
            why: error.to_string(),
        });
        match self.find_in_service(chunk).await? {
            (None, failed) => failed.or(absent).map_or(Ok(None), Err),
            (found, _) => Ok(found),
        }
    }

    /// Where `chunk` is, for a new write: disks out of service count as empty, or one of several that failed would
    /// refuse every write. A record on one of them is of an older try or of a copy the masters have given up.
    pub(super) async fn find_to_write(&self, chunk: ChunkId) -> Result<Option<Found>, DiskError> {
        let (found, _) = self.find_in_service(chunk).await?;
        Ok(found)
    }

    /// Where `chunk` is among the disks in service, and why one is not in service.
    ///
    /// # Errors
    /// What kept a disk in service from telling.
    async fn find_in_service(&self, chunk: ChunkId) -> Result<(Option<Found>, Option<DiskError>), DiskError> {
        let mut failed = None;
        let mut unknown = None;
        for disk in &self.0.disks {
            let record = match disk.index() {
                Ok(index) => disk.reads.run(move || index.record(chunk)).await,
                Err(e) => Err(e),
            };
            match record {
                Ok(Some(record)) => {
                    let found = Found {
                        disk: Arc::clone(disk),
                        record: Arc::new(record),
                    };
                    return Ok((Some(found), failed));
                }
                Ok(None) => {}
                Err(e) => {
                    disk.note(&e);
                    if disk.serves() {
                        unknown = Some(e);
                    } else {
                        failed = Some(e);
                    }
                }
            }
        }
        unknown.map_or(Ok((None, failed)), Err)
    }

    /// The disk for a new chunk: the one in service with the most room. One that takes nothing says so itself.
    pub(super) fn roomiest(&self) -> Result<Arc<Disk>, DiskError> {
        let free = |disk: &Arc<Disk>| {
            let free = Space::of(&disk.dir).map_or(0, |space| space.free);
            (disk.writable(), free)
        };
        let roomiest = match self.serving().collect::<Vec<_>>()[..] {
            [only] => Some(only),
            ref several => several.iter().copied().max_by_key(|disk| free(disk)),
        };
        roomiest.cloned().ok_or(DiskError::NoDisk)
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
                let Some(found) = store.find(chunk).await? else {
                    return Ok(());
                };
                if found.record.replica != replica || found.record.state == State::SetAside {
                    return Ok(());
                }
                let record = Record {
                    state: State::SetAside,
                    ..(*found.record).clone()
                };
                found.disk.commit(vec![put(chunk, Arc::new(record))]).await?;
                store.0.warm.forget(chunk);
                Ok(())
            })
            .await;
        if let Err(error) = result {
            tracing::warn!(%chunk, %error, "the damage is not recorded; the next read finds it again");
        }
    }

    /// Carries out drop orders that the Raft log stands behind; returns those done, also for copies that were never
    /// here. A copy being written is not dropped: its writer is told to stop, and the order comes again.
    pub async fn drop_copies(&self, orders: &[(ChunkId, ReplicaNumber)]) -> Vec<(ChunkId, ReplicaNumber)> {
        // Side by side, so that they share the index's syncs; in order, so that answers do not depend on chance.
        futures_util::stream::iter(orders.to_vec())
            .map(|(chunk, replica)| self.obey_drop(chunk, replica))
            .buffered(DROPS_AT_A_TIME)
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
        let Some(found) = self.find(chunk).await? else {
            return self.drop_orphan(chunk, claim).await;
        };
        if found.record.replica != replica {
            // Another copy of the chunk; the one named is not here.
            return Ok(());
        }
        remove_file(&found.disk, chunk, Arc::clone(&claim)).await?;
        found.disk.commit(vec![Change::Delete { chunk }]).await?;
        found.disk.count_dropped();
        self.0.warm.forget(chunk);
        self.0.damage.lock().remove(&chunk);
        tracing::info!(%chunk, %replica, "copy dropped");
        Ok(())
    }

    /// A crash may leave a file whose record never became durable; nobody was told of its bytes.
    async fn drop_orphan(&self, chunk: ChunkId, claim: Arc<Claim>) -> Result<(), DiskError> {
        for disk in self.serving() {
            remove_file(disk, chunk, Arc::clone(&claim)).await?;
        }
        Ok(())
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
