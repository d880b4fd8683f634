//! The bridge from Raft to the state machine: applies committed entries in batches, and makes and installs snapshots.
//!
//! A batch of entries becomes one atomic write of rows together with the applied log id. Replies leave only after
//! that write. Commands see the rows as the entries before them left them, also within the batch.
//!
//! Invariants: entries are applied once each, in order, without gaps; an error of the store below stops Raft on this
//! master, because a skipped entry would make it differ from the others.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gabion_protocol::MasterId;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;

use super::codec::AppliedState;
use super::snapshots::{SnapshotDir, Snapshots};
use super::types::{AppliedReply, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::space::Space;
use crate::state::LogAt;
use crate::state::rows::{Batch, Changes, Rows, RowsError};
use crate::store::StoreError;
use crate::store::hash::state_hash;
use crate::store::state_db::View;
use crate::store::states::States;

/// Entries applied in one write.
const BATCH_ENTRIES: usize = 1024;
/// State hashes remembered.
const HASHES_MAX: usize = 16;
/// Hashes waiting to be computed; each holds a view.
const HASHES_WAITING_MAX: usize = 2;

/// What applying a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The encoded reply, for whoever proposed the command.
    pub reply: Vec<u8>,
    /// Whether the state right after this command is to be hashed, for comparison with other masters.
    pub mark_hash: bool,
}

/// A deterministic state machine.
pub trait Machine: Send + Sync + 'static {
    /// Applies one command. Must be total: a bad command is a reply. Must depend on nothing but the arguments.
    ///
    /// # Errors
    /// [`RowsError`] if the rows cannot be read; this master then stops.
    fn apply(&self, batch: &mut Batch<'_>, at: LogAt, command: &[u8]) -> Result<Applied, RowsError>;

    /// Is told what one write is about to change: the entries up to log index `index`, over `rows`. For what is kept in
    /// memory about rows; a write that then fails ends the process.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    fn watch(&self, rows: &dyn Rows, changes: &Changes, index: u64) -> Result<(), RowsError> {
        let _ = (rows, changes, index);
        Ok(())
    }

    /// Is told that the rows were replaced as a whole.
    fn replaced(&self) {}
}

type Item = (Entry, Option<ApplyResponder<TypeConfig>>);

/// The last few state hashes by log index; filled by a background thread.
#[derive(Debug, Default)]
pub(crate) struct StateHashes(Mutex<BTreeMap<u64, String>>);

impl StateHashes {
    pub(crate) fn all(&self) -> BTreeMap<u64, String> {
        self.0.lock().clone()
    }

    fn insert(&self, index: u64, hash: String) {
        let mut hashes = self.0.lock();
        hashes.insert(index, hash);
        while hashes.len() > HASHES_MAX {
            hashes.pop_first();
        }
    }
}

/// State machine, rows and snapshots of one master.
pub(crate) struct Inner {
    machine: Arc<dyn Machine>,
    states: States,
    snapshots: Snapshots,
    applied: Mutex<AppliedState>,
    /// Whether an entry must directly follow the one before; only openraft's own storage tests leave gaps.
    gapless: bool,
    hashes: Arc<StateHashes>,
    to_hash: SyncSender<(u64, View)>,
    /// Helps when the disk is full.
    space: Option<Arc<Space>>,
}

impl Inner {
    pub(crate) fn view(&self) -> View {
        self.states.current().view()
    }

    pub(crate) fn hashes(&self) -> BTreeMap<u64, String> {
        self.hashes.all()
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    pub(crate) fn applied(&self) -> AppliedState {
        self.applied.lock().clone()
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.states.current().flush()
    }

    pub(crate) fn state_bytes(&self) -> u64 {
        self.states.current().bytes()
    }

    /// Applies all items; ends a write early where a hash is marked.
    fn apply_all(&self, mut items: VecDeque<Item>) -> io::Result<()> {
        while !items.is_empty() {
            self.apply_one_write(&mut items)?;
        }
        Ok(())
    }

    fn apply_one_write(&self, items: &mut VecDeque<Item>) -> io::Result<()> {
        let db = self.states.current();
        let mut applied = self.applied.lock();
        let mut batch = Batch::new(&*db);
        let mut replies = Vec::with_capacity(items.len());
        let mut mark = None;
        while let Some((entry, responder)) = items.pop_front() {
            let id = entry.log_id;
            if let Some(last) = applied.last {
                let follows = id.index == last.index + 1 || (!self.gapless && id.index > last.index);
                assert!(
                    follows && id.leader_id >= last.leader_id,
                    "entry {id} is applied after {last}"
                );
            }
            let mut reply = Bytes::new();
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    applied.seen.extend(membership.nodes().map(|(id, _)| *id));
                    applied.membership = StoredMembership::new(Some(id), membership.clone());
                }
                EntryPayload::Normal(command) => {
                    let at = LogAt {
                        index: id.index,
                        term: id.leader_id.term,
                        leader: MasterId(id.leader_id.node_id),
                    };
                    let outcome = self
                        .machine
                        .apply(&mut batch, at, &command.0)
                        .map_err(|error| io::Error::other(format!("cannot apply entry {id}: {error}")))?;
                    reply = outcome.reply.into();
                    mark = outcome.mark_hash.then_some(id.index);
                }
            }
            applied.last = Some(id);
            if let Some(responder) = responder {
                replies.push((responder, AppliedReply(reply)));
            }
            if mark.is_some() {
                break;
            }
        }
        let mut changes = batch.into_changes();
        let index = applied.last.map_or(0, |id| id.index);
        let watched = self.machine.watch(&*db, &changes, index);
        watched.map_err(|error| io::Error::other(format!("cannot keep account of rows: {error}")))?;
        self.with_relief(|| db.store(&mut changes, &applied))?;
        drop(applied);
        for (responder, reply) in replies {
            responder.send(reply);
        }
        if let Some(index) = mark {
            self.hash_in_background(index, db.view());
        }
        Ok(())
    }

    fn with_relief<T>(&self, write: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut write = write;
        match &self.space {
            Some(space) => space.with_relief(write),
            None => write(),
        }
    }

    fn hash_in_background(&self, index: u64, view: View) {
        match self.to_hash.try_send((index, view)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!(index, "state hash skipped, earlier ones are still being computed");
            }
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!(index, "state hash skipped, its thread has ended")
            }
        }
    }
}

/// openraft's state machine; clones share one.
#[derive(Clone)]
pub(crate) struct StateMachine(pub(crate) Arc<Inner>);

impl StateMachine {
    /// Puts `machine` over the given rows and snapshots.
    pub(crate) fn new(
        machine: Arc<dyn Machine>,
        states: States,
        snapshots: Snapshots,
        space: Option<Arc<Space>>,
    ) -> io::Result<Self> {
        Self::with_gaps(machine, states, snapshots, true, space)
    }

    pub(crate) fn with_gaps(
        machine: Arc<dyn Machine>,
        states: States,
        snapshots: Snapshots,
        gapless: bool,
        space: Option<Arc<Space>>,
    ) -> io::Result<Self> {
        let applied = states.current().applied()?;
        let hashes = Arc::new(StateHashes::default());
        let (to_hash, waiting) = sync_channel::<(u64, View)>(HASHES_WAITING_MAX);
        let results = Arc::clone(&hashes);
        std::thread::Builder::new()
            .name("state-hash".to_owned())
            .spawn(move || {
                for (index, view) in waiting {
                    match state_hash(&view) {
                        Ok(hash) => results.insert(index, hash),
                        Err(error) => tracing::error!(index, %error, "cannot hash the state"),
                    }
                }
            })?;
        Ok(Self(Arc::new(Inner {
            machine,
            states,
            snapshots,
            applied: Mutex::new(applied),
            gapless,
            hashes,
            to_hash,
            space,
        })))
    }
}

/// Runs disk work off the Raft runtime, whose threads must never wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotDir>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.0.applied();
        Ok((applied.last, applied.membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            let items = chunk.into_iter().collect::<Result<VecDeque<Item>, io::Error>>()?;
            let inner = Arc::clone(&self.0);
            blocking(move || inner.apply_all(items)).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Arc<SnapshotDir>) -> Result<(), io::Error> {
        if snapshot.meta() != *meta {
            return Err(io::Error::other(format!(
                "the snapshot in {} covers {:?}, announced was {:?}",
                snapshot.path().display(),
                snapshot.applied().last,
                meta.last_log_id
            )));
        }
        let inner = Arc::clone(&self.0);
        blocking(move || {
            // The snapshot first: after a crash in between, rows behind a snapshot are replaced by it at the start,
            // but rows ahead of the newest snapshot, with the log purged between, would leave a gap for followers.
            inner.snapshots.keep(&snapshot)?;
            inner.states.install(snapshot.path(), snapshot.applied())?;
            *inner.applied.lock() = snapshot.applied().clone();
            inner.machine.replaced();
            Ok(())
        })
        .await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Arc<SnapshotDir>>>, io::Error> {
        Ok(self.0.snapshots.current().map(as_openraft))
    }
}

fn as_openraft(snapshot: Arc<SnapshotDir>) -> Snapshot<Arc<SnapshotDir>> {
    Snapshot {
        meta: snapshot.meta(),
        snapshot,
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotDir>;

    async fn build_snapshot(&mut self) -> Result<Snapshot<Arc<SnapshotDir>>, io::Error> {
        let inner = Arc::clone(&self.0);
        let snapshot = blocking(move || {
            let build = || inner.snapshots.build(&inner.states.current());
            Ok(inner.with_relief(build)?)
        })
        .await?;
        Ok(as_openraft(snapshot))
    }
}
