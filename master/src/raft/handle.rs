//! What the rest of a master does with Raft: propose commands, read state, watch who leads, stop.
//!
//! Invariants: a view from [`RaftHandle::linearizable_view`] or [`RaftHandle::read_index_view`] holds every command
//! that was acknowledged before the call, by any master; after a pause of the process or a sleep of the machine no
//! lease is believed that was not proven afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use gabion_protocol::error::ErrorCode;
use gabion_protocol::process::monotonic;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Instant as _, RaftMetrics, ServerState};
use openraft_rt::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::clock::SleepWatch;
use super::directory::Directory;
use super::gather::Gathering;
use super::links::{Links, Purpose};
use super::log_store::{LogStore, Writer};
use super::log_writer::WriterStats;
use super::machine::Inner;
use super::metrics::Metrics;
use super::service::Raft;
use super::types::{AppliedReply, KnownLeader, LoggedCommand, ProposeError, TypeConfig, log_id};
use super::wire::{Request, Response};
use crate::space::Space;
use crate::space::judge::Voter;
use crate::store::state_db::View;

/// Bytes of one command.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Bytes of commands proposed and not yet applied, against a disk or majority that hangs.
const PROPOSED_BYTES_MAX: usize = 64 << 20;
/// Longest wait for proof of leadership.
const READ_TIMEOUT: Duration = Duration::from_millis(1000);
/// Longest wait for a successor when this leader hands over.
pub(crate) const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time the runtime's tasks get to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Who leads, as far as this master knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: u64,
    /// Its leader.
    pub leader: Option<u64>,
    /// This master is the leader, has applied all of earlier terms, and a majority answered it a moment ago.
    pub established: bool,
}

pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<Inner>,
    pub(crate) links: Arc<Links>,
    pub(crate) stats: Arc<WriterStats>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Why Raft has ended, once it has.
    pub(crate) ended: watch::Receiver<Option<String>>,
    pub(crate) sleep: SleepWatch,
    /// The time without an election after a majority's answer.
    pub(crate) lease: Duration,
    pub(crate) proposed: Arc<Semaphore>,
    pub(crate) gathering: Arc<Gathering>,
    /// The last term in which this master began to hand its leadership over, 0 for none: its lease proves nothing then.
    pub(crate) handing_over: AtomicU64,
    pub(crate) boot: u64,
    pub(crate) space: Arc<Space>,
    /// Monotonic milliseconds when a leader last sent something.
    pub(crate) heard: Arc<AtomicU64>,
    /// What is taken down in the end; `None` once it is.
    pub(crate) parts: Mutex<Option<Parts>>,
}

/// What must end before the directory is free.
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) log: LogStore,
    pub(crate) writer: Writer,
    pub(crate) directory: Directory,
}

/// Raft on this master; clones share it.
#[derive(Clone)]
pub struct RaftHandle(pub(crate) Arc<Node>);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

pub(crate) fn proposal_budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PROPOSED_BYTES_MAX))
}

type Watched = RaftMetrics<TypeConfig>;

/// Time since a majority last answered, on a leader.
pub(crate) fn quorum_age(metrics: &Watched) -> Option<Duration> {
    metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
}

/// Who leads according to `metrics`, believing a lease of length `lease`.
pub(crate) fn leadership(metrics: &Watched, lease: Duration) -> Leadership {
    let own_entry_applied = metrics
        .last_applied
        .is_some_and(|id| id.leader_id.term == metrics.current_term);
    let members = metrics.membership_config.membership();
    // Nobody answers a leader that votes alone, and nobody has to.
    let alone = members.voter_ids().all(|id| id == metrics.id);
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader,
        established: metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.current_leader == Some(metrics.id)
            && own_entry_applied
            && (alone || quorum_age(metrics).is_some_and(|age| age < lease)),
    }
}

impl RaftHandle {
    /// This master's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.links.local().id
    }

    /// How often this master was started, this time included.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.0.boot
    }

    pub(crate) fn watched(&self) -> Watched {
        self.0.raft.metrics().borrow_watched().clone()
    }

    /// Logs a command and waits until it is applied; gives its index and the state machine's reply.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may still be carried out.
    pub async fn propose(&self, command: Bytes, deadline: Duration) -> Result<(u64, Bytes), ProposeError> {
        self.propose_command(command, None, deadline).await
    }

    /// Like [`Self::propose`], but refused unless this master is the leader of `term`: for decisions made from what
    /// the leader of that term knew.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: Bytes,
        deadline: Duration,
    ) -> Result<(u64, Bytes), ProposeError> {
        self.propose_command(command, Some(term), deadline).await
    }

    async fn propose_command(
        &self,
        command: Bytes,
        term: Option<u64>,
        deadline: Duration,
    ) -> Result<(u64, Bytes), ProposeError> {
        let until = tokio::time::Instant::now() + deadline;
        let bytes = command.len();
        if bytes > COMMAND_BYTES_MAX {
            let max = COMMAND_BYTES_MAX;
            return Err(ProposeError::TooLarge { bytes, max });
        }
        let weight = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.0.proposed).acquire_many_owned(weight);
        let Ok(Ok(_permit)) = tokio::time::timeout_at(until, waiting).await else {
            return Err(ProposeError::RetrySoon(
                "too many commands wait for the disks".to_owned(),
            ));
        };
        let Ok(_pass) = tokio::time::timeout_at(until, self.0.gathering.pass()).await else {
            return Err(ProposeError::RetrySoon(
                "commands before it wait for a majority".to_owned(),
            ));
        };
        let (responder, done) = ProgressResponder::complete_only();
        let mut write = self.0.raft.write(LoggedCommand(command)).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(log_id(term, self.id(), 0).leader_id);
        }
        let submitted = tokio::time::timeout_at(until, async { write.await }).await;
        match submitted {
            Ok(Ok(())) => {}
            Ok(Err(fatal)) => return Err(stopped(&fatal)),
            Err(_) => {
                return Err(ProposeError::OutcomeUnknown("raft did not take it in time".to_owned()));
            }
        }
        match tokio::time::timeout_at(until, done).await {
            Ok(Ok(Ok(written))) => {
                let AppliedReply(reply) = written.data;
                Ok((written.log_id.index, reply))
            }
            Ok(Ok(Err(error))) => Err(self.write_error(error)),
            Ok(Err(_)) => Err(ProposeError::OutcomeUnknown("raft stopped meanwhile".to_owned())),
            Err(_) => {
                let millis = deadline.as_millis();
                Err(ProposeError::OutcomeUnknown(format!("no majority within {millis} ms")))
            }
        }
    }

    fn write_error(&self, error: ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(forward) => self.forward(forward),
            ClientWriteError::LogEntryDiscarded(_) => {
                ProposeError::OutcomeUnknown("the leader changed before it was on a majority".to_owned())
            }
            ClientWriteError::ChangeMembershipError(error) => ProposeError::RetrySoon(error.to_string()),
            ClientWriteError::PreconditionFailed(error) => ProposeError::RetrySoon(error.to_string()),
        }
    }

    pub(crate) fn raft_write_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
        match error {
            RaftError::APIError(error) => self.write_error(error),
            RaftError::Fatal(fatal) => stopped(&fatal),
        }
    }

    fn forward(&self, forward: ForwardToLeader<TypeConfig>) -> ProposeError {
        match forward.reason {
            ForwardReason::LeaseExpired => {
                ProposeError::RetrySoon("the leader waits for a majority to answer".to_owned())
            }
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                let known = forward.leader_id.filter(|id| *id != self.id()).zip(forward.leader_node);
                let leader: Option<KnownLeader> = known;
                ProposeError::NotLeader {
                    leader,
                    term: self.0.leadership.borrow().term,
                }
            }
        }
    }

    /// The state as of now: holds everything acknowledged before this call. Only on the leader. Costs nothing while
    /// the leader's lease is fresh.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] or [`ProposeError::RetrySoon`].
    pub async fn linearizable_view(&self) -> Result<View, ProposeError> {
        // Half of the lease: the other half is for clocks that run at different speeds.
        self.view_proven_within(self.0.lease / 2).await
    }

    /// Like [`Self::linearizable_view`], without trust in any clock: asks a majority.
    ///
    /// # Errors
    /// As [`Self::linearizable_view`].
    pub async fn read_index_view(&self) -> Result<View, ProposeError> {
        self.view_proven_within(Duration::ZERO).await
    }

    /// Proves leadership again if the machine has slept since it was last proven: until then this master does not say
    /// that it leads.
    ///
    /// # Errors
    /// As [`Self::linearizable_view`].
    pub async fn prove_after_sleep(&self) -> Result<(), ProposeError> {
        if self.0.sleep.new_sleep().is_some() {
            drop(self.read_index_view().await?);
        }
        Ok(())
    }

    async fn view_proven_within(&self, age_max: Duration) -> Result<View, ProposeError> {
        let until = Instant::now() + READ_TIMEOUT;
        loop {
            let started = Instant::now();
            let slept = self.0.sleep.new_sleep();
            let age = if slept.is_some() { Duration::ZERO } else { age_max };
            if age.is_zero() || !self.leads_by_lease(age) {
                self.ask_for_proof(age, until.saturating_duration_since(started))
                    .await?;
            }
            if let Some(slept) = slept {
                self.0.sleep.proven(slept);
            }
            let view = self.0.machine.view();
            // A process that was paused between proof and answer must not answer as the leader it was.
            let limit = if age.is_zero() {
                READ_TIMEOUT
            } else {
                self.0.lease - age
            };
            // After the view: a machine that slept since the proof may have been replaced while its clock stood still.
            let awake = self.0.sleep.new_sleep().is_none();
            if awake && started.elapsed() < limit {
                return Ok(view);
            }
            if Instant::now() >= until {
                return Err(ProposeError::RetrySoon("this master was paused".to_owned()));
            }
        }
    }

    /// Whether a majority has renewed this leader's lease within `age_max`, by what Raft has published: no question to
    /// Raft's own task, which may be busy with writes. All that was acknowledged before is in the rows then, because
    /// replies leave after the apply, and those of earlier terms are there with this term's first entry.
    pub(crate) fn leads_by_lease(&self, age_max: Duration) -> bool {
        let metrics = self.0.raft.metrics();
        let now = metrics.borrow_watched();
        // Followers that are told to elect somebody else do not wait for the lease to end.
        leadership(&now, age_max).established && self.0.handing_over.load(Ordering::SeqCst) != now.current_term
    }

    async fn ask_for_proof(&self, age_max: Duration, left: Duration) -> Result<(), ProposeError> {
        let option = LinearizerOption::new(Some(age_max), true);
        match timeout(left, self.0.raft.ensure_linearizable(option)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.read_error(error)),
            Err(_) => Err(ProposeError::RetrySoon("no majority has answered".to_owned())),
        }
    }

    fn read_error(&self, error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ProposeError {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => self.forward(forward),
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => {
                ProposeError::RetrySoon(format!("no majority has answered: {error}"))
            }
            RaftError::Fatal(fatal) => stopped(&fatal),
        }
    }

    /// The state this master has, which may be old. On any master.
    #[must_use]
    pub fn stale_view(&self) -> View {
        self.0.machine.view()
    }

    /// Follows who leads.
    #[must_use]
    pub fn leader_watch(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The term this master leads at this very moment.
    #[must_use]
    pub fn established_term(&self) -> Option<u64> {
        let now = leadership(&self.0.raft.metrics().borrow_watched(), self.0.lease);
        // The clock last: a sleep before the metrics were read makes them worthless.
        (now.established && self.0.sleep.new_sleep().is_none()).then_some(now.term)
    }

    /// Whether this master leads at this very moment: unlike the watch, right also directly after a pause.
    #[must_use]
    pub fn is_established_leader(&self) -> bool {
        self.established_term().is_some()
    }

    /// The known leader and how to reach it.
    #[must_use]
    pub fn known_leader(&self) -> Option<KnownLeader> {
        let metrics = self.watched();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some((id, node.clone()))
    }

    /// How long a follower has heard nothing of a leader. The known leader may then be dead.
    #[must_use]
    pub fn leader_silence(&self) -> Duration {
        let heard = Duration::from_millis(self.0.heard.load(Ordering::Relaxed));
        monotonic().saturating_sub(heard)
    }

    /// How the last attempt to reach each other master went, as far as there was one.
    #[must_use]
    pub fn peer_reports(&self) -> BTreeMap<u64, String> {
        self.0.links.reports()
    }

    /// Looks at the room on this master's disk, and gives its reserve back or makes it anew if it is time.
    pub async fn look_at_disk(&self) {
        let space = Arc::clone(&self.0.space);
        if let Err(error) = tokio::task::spawn_blocking(move || space.look()).await {
            tracing::error!(%error, "cannot look at the room on this master's disk");
        }
    }

    /// How much room the voters' disks have, this master's among them, as far as they answer in time.
    pub async fn rooms(&self, deadline: Duration) -> BTreeMap<u64, Voter> {
        let members = self.watched().membership_config.membership().clone();
        let own = self.id();
        let voters = members.voter_ids().filter(|id| *id != own);
        let asked = voters.filter_map(|id| Some((id, members.get_node(&id)?.clone())));
        let asked = asked.map(|(id, node)| async move {
            let to = (id, &node);
            let answer = self
                .0
                .links
                .ask(to, Purpose::Control, &Request::Space, Bytes::new(), deadline);
            let voter = match answer.await {
                Ok(Response::Space(room)) => Voter::Said(room),
                // Of an earlier version.
                Ok(_) => Voter::Unknown,
                Err(error) if error.code == ErrorCode::Protocol => Voter::Unknown,
                Err(_) => Voter::Silent,
            };
            (id, voter)
        });
        let mut all: BTreeMap<u64, Voter> = join_all(asked).await.into_iter().collect();
        if members.voter_ids().any(|id| id == own) {
            all.insert(own, Voter::Said(self.0.space.room()));
        }
        all
    }

    /// All members, voters and learners, and where clients reach them. Cheap: every beat's answer names them.
    #[must_use]
    pub fn client_addresses(&self) -> Vec<(u64, String)> {
        let metrics = self.0.raft.metrics();
        let now = metrics.borrow_watched();
        let nodes = now.membership_config.membership().nodes();
        nodes.map(|(id, node)| (*id, node.client_address.clone())).collect()
    }

    /// As if the machine had slept.
    #[cfg(test)]
    pub(crate) fn make_up_sleep(&self, sleep: Duration) {
        self.0.sleep.make_up(sleep);
    }

    /// As if this master's disk had so much room.
    #[cfg(test)]
    pub(crate) fn pretend_room(&self, level: Option<crate::space::Level>) {
        self.0.space.pretend(level);
    }

    /// Waits until everything that is in this leader's log now is applied. Whether that was in time.
    pub async fn applied_all(&self, deadline: Duration) -> bool {
        let last = self.watched().last_log_index;
        let applied = self.0.raft.wait(Some(deadline));
        applied.applied_index_at_least(last, "what is in the log").await.is_ok()
    }

    /// Begins to build a snapshot of the state as it is now.
    ///
    /// # Errors
    /// [`ProposeError::Fatal`] if Raft has stopped.
    pub async fn build_snapshot(&self) -> Result<(), ProposeError> {
        let begun = self.0.raft.trigger().snapshot().await;
        begun.map_err(|fatal| stopped(&fatal))
    }

    /// The last few hashes of the state, by log index: the same on every master that has one for an index.
    #[must_use]
    pub fn state_hashes(&self) -> BTreeMap<u64, String> {
        self.0.machine.hashes()
    }

    /// What an operator may want to know.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let watched = self.watched();
        let stats = &self.0.stats;
        let micros = |counter: &AtomicU64| Duration::from_micros(counter.load(Ordering::Relaxed));
        let members = watched.membership_config.membership();
        let nodes = |ids: Vec<u64>| {
            ids.into_iter()
                .filter_map(|id| Some((id, members.get_node(&id)?.clone())))
                .collect()
        };
        Metrics {
            id: watched.id,
            term: watched.current_term,
            role: match watched.state {
                ServerState::Leader => "leader",
                ServerState::Candidate => "candidate",
                ServerState::Follower => "follower",
                ServerState::Learner => "learner",
                ServerState::Shutdown => "stopped",
            },
            leader: watched.current_leader,
            last_log: watched.last_log_index.unwrap_or(0),
            committed: watched.local_committed.map_or(0, |id| id.index),
            applied: watched.last_applied.map_or(0, |id| id.index),
            snapshot: watched.snapshot.map_or(0, |id| id.index),
            purged: watched.purged.map_or(0, |id| id.index),
            matched: watched
                .replication
                .iter()
                .flatten()
                .map(|(id, matched)| (*id, matched.map_or(0, |id| id.index)))
                .collect(),
            quorum_age: quorum_age(&watched),
            voters: nodes(members.voter_ids().collect()),
            learners: nodes(members.learner_ids().collect()),
            log_syncs: stats.syncs.load(Ordering::Relaxed),
            log_entries: stats.entries.load(Ordering::Relaxed),
            log_sync_time: micros(&stats.sync_micros),
            log_sync_max: micros(&stats.sync_micros_max),
            state_bytes: self.0.machine.state_bytes(),
            refused: self.0.links.refused(),
            failed: watched.running_state.err().map(|fatal| fatal.to_string()),
        }
    }

    /// Waits until Raft has stopped on this master and says why: the process must then end.
    pub async fn failed(&self) -> String {
        let mut ended = self.0.ended.clone();
        let why = ended.wait_for(Option::is_some).await;
        why.ok()
            .and_then(|why| why.clone())
            .unwrap_or_else(|| "raft has ended".to_owned())
    }

    /// Stops: hands leadership over, makes everything durable, frees the directory. Later calls do nothing.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.stop(true).await;
    }

    /// Stops at once without handing over or flushing, as a crash would; for tests of recovery.
    pub async fn abort(&self) {
        self.stop(false).await;
    }

    async fn stop(&self, flush: bool) {
        let Some(parts) = self.0.parts.lock().take() else {
            return;
        };
        if flush {
            if let Err(error) = self.0.raft.shutdown().await {
                tracing::warn!(%error, "raft did not stop cleanly");
            }
            if let Err(error) = parts.log.barrier().await {
                tracing::warn!(%error, "the log was not synced at the end");
            }
        }
        let machine = Arc::clone(&self.0.machine);
        // Ending a runtime blocks, which an async task must not.
        let ended = tokio::task::spawn_blocking(move || {
            if flush && let Err(error) = machine.flush() {
                tracing::warn!(%error, "state rows were not flushed; the log will be applied again");
            }
            parts.runtime.shutdown_timeout(STOP_TIMEOUT);
            drop(parts.log);
            parts.writer.join();
            drop(parts.directory);
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "raft did not end cleanly");
        }
    }
}

pub(crate) fn stopped(fatal: &Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Fatal(fatal.to_string())
}
