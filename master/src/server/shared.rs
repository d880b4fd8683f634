//! What every request needs: Raft, the fleet, keys, and errors that tell the client where to go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::{Epoch, Incarnation, MasterId};
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::Defaults;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Keys;
use super::balance::Balancing;
use super::census::Census;
use super::connection::Limits;
use super::disks::Disks;
use super::inventory::Inventories;
use super::merge::Merging;
use super::repair::Repairs;
use super::scrub::Scrubs;
use super::space::Rooms;
use super::suspects::Suspects;
use super::tail::Tail;
use crate::fleet::Watched;
use crate::ledger::Ledger;
use crate::plan::balance::Policy;
use crate::plan::repair::Budget;
use crate::raft::{MasterNode, ProposeError, RaftHandle};
use crate::state::rows::RowsError;
use crate::state::{Command, Reply, Settings, read};
use crate::store::state_db::View;

/// Longest wait for a majority to agree to a command. Then the client asks again, under the same request id.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// A leader that was not heard for so long, several heartbeats, is not named to clients any more.
const LEADER_SILENCE_MAX: Duration = Duration::from_millis(600);

/// What the shell takes from the configuration.
#[derive(Debug, Clone)]
pub(super) struct ShellSettings {
    /// Milliseconds between ticks of state time.
    pub(super) tick: Duration,
    /// How long an upload waits for servers.
    pub(super) placement_wait: Duration,
    /// Silence after which a chunkserver is suspect.
    pub(super) suspect: Duration,
    /// How long after that the last copy of a chunk waits for the others.
    pub(super) urgent: Duration,
    /// Bytes of copies under way.
    pub(super) budget: Budget,
    /// How even the chunkservers shall be.
    pub(super) balance: Policy,
    /// What a new cluster begins with.
    pub(super) bootstrap: Settings,
    /// How long a new cluster keeps what is removed, milliseconds.
    pub(super) trash_ms: u64,
    /// How long a copy no row names is kept.
    pub(super) keep_unknown: Duration,
    /// How long a bucket must have stood still before its copies are compared.
    pub(super) inventory_quiet: Duration,
}

/// A running master.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) id: MasterId,
    pub(super) keys: Keys,
    /// Counts the starts of this directory.
    pub(super) boot: u64,
    /// This run of the process.
    pub(super) incarnation: Incarnation,
    pub(super) settings: ShellSettings,
    pub(super) raft: RaftHandle,
    pub(super) fleet: Watched,
    pub(super) census: Arc<Census>,
    pub(super) suspects: Arc<Suspects>,
    pub(super) scrubs: Scrubs,
    pub(super) inventories: Inventories,
    pub(super) disks: Disks,
    pub(super) tail: Tail,
    /// What the rows say each chunkserver holds.
    pub(super) ledger: Arc<Ledger>,
    pub(super) limits: Limits,
    /// Room on the masters' disks.
    pub(super) rooms: Rooms,
    /// What this leader remembers of repair.
    pub(super) repairs: Repairs,
    /// What wakes its balance.
    pub(super) balancing: Balancing,
    /// What it remembers of merges.
    pub(super) merging: Merging,
    /// No new requests are taken.
    pub(super) stopping: CancellationToken,
    /// Requests under way.
    pub(super) requests: TaskTracker,
    /// Connections.
    pub(super) connections: TaskTracker,
}

impl Master {
    pub(super) fn identity(&self) -> Identity {
        Identity {
            role: Role::Master,
            id: self.id.to_string(),
        }
    }

    /// The cluster's defaults.
    pub(super) fn defaults(&self, view: &View) -> Result<Defaults, WireError> {
        let cluster = read::cluster(view).map_err(row_error)?;
        let beginning = || WireError::new(ErrorCode::NoLeader, "the cluster's state is just beginning");
        let settings = cluster.ok_or_else(beginning)?.settings;
        Ok(Defaults {
            replicas: settings.replicas,
            chunk_bytes: settings.chunk_bytes,
        })
    }

    /// Logs a command and gives its reply.
    pub(super) async fn propose(&self, command: &Command) -> Result<Reply, WireError> {
        let proposed = self.raft.propose(Bytes::from(command.encode()), PROPOSE_MAX).await;
        self.reply(command, proposed)
    }

    /// Logs a command unless this master is no longer the leader of `term`.
    pub(super) async fn propose_in_term(&self, term: u64, command: &Command) -> Result<Reply, WireError> {
        let bytes = Bytes::from(command.encode());
        let proposed = self.raft.propose_in_term(term, bytes, PROPOSE_MAX).await;
        self.reply(command, proposed)
    }

    fn reply(&self, command: &Command, proposed: Result<(u64, Bytes), ProposeError>) -> Result<Reply, WireError> {
        let (_, reply) = proposed.map_err(|error| self.propose_error(&command.cannot(), error))?;
        Reply::decode(&reply).map_err(|error| {
            WireError::new(
                ErrorCode::Internal,
                format!("{}: the reply does not decode: {error}", command.cannot()),
            )
        })
    }

    /// The state with everything acknowledged so far; on the leader only.
    pub(super) async fn view(&self) -> Result<View, WireError> {
        let view = self.raft.linearizable_view().await;
        view.map_err(|error| self.propose_error("cannot read", error))
    }

    /// As [`Self::view`], proven by a majority and not by a clock.
    pub(super) async fn proven_view(&self) -> Result<View, WireError> {
        let view = self.raft.read_index_view().await;
        view.map_err(|error| self.propose_error("cannot read", error))
    }

    /// Reads the state this master has, off the runtime's threads.
    pub(super) async fn read_stale<T: Send + 'static>(
        &self,
        read: impl Fn(&View) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, WireError> {
        read_view(self.raft.stale_view(), move |view| read(view).map_err(row_error)).await
    }

    /// This master's epoch, if it leads and a majority has said so a moment ago.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        let term = self.raft.established_term()?;
        Some(Epoch { term, leader: self.id })
    }

    /// All masters, voters and learners, and where clients and chunkservers reach them.
    pub(super) fn members(&self) -> Vec<(MasterId, String)> {
        let members = self.raft.client_addresses().into_iter();
        members.map(|(id, address)| (MasterId(id), address)).collect()
    }

    /// Waits until another master leads, or none.
    pub(super) async fn deposed(&self) {
        let mut leadership = self.raft.leader_watch();
        // An error means that Raft has ended, and leadership with it.
        let _ = leadership.wait_for(|now| now.leader != Some(self.id.0)).await;
    }

    /// Who leads: this master, or another that was heard a moment ago. One that is not heard may be dead, and is not
    /// named.
    pub(super) fn heard_leader(&self) -> Option<(u64, MasterNode)> {
        let is_heard = |id: u64| id == self.id.0 || self.raft.leader_silence() < LEADER_SILENCE_MAX;
        self.raft.known_leader().filter(|(id, _)| is_heard(*id))
    }

    /// Where to go instead.
    pub(super) fn not_leader(&self) -> WireError {
        match self.heard_leader() {
            Some((id, node)) if id != self.id.0 => {
                WireError::redirect(node.client_address).why(format!("m{id} leads, this is m{}", self.id))
            }
            Some(_) | None => self.no_leader(),
        }
    }

    /// Nobody leads, or nobody follows.
    pub(super) fn no_leader(&self) -> WireError {
        let metrics = self.raft.metrics();
        let masters = metrics.voters.len();
        let mut error = if metrics.leader == Some(self.id.0) {
            WireError::new(
                ErrorCode::NoQuorum,
                format!("m{} has no majority of the masters behind it", self.id),
            )
            .why(format!("{} of {masters} masters must answer", masters / 2 + 1))
            .help("start the masters that are down; nothing is lost meanwhile")
        } else if masters == 0 {
            WireError::new(
                ErrorCode::NoLeader,
                format!("m{} does not belong to a cluster yet", self.id),
            )
            .why("a new cluster begins when every listed master has been started once")
            .help("start all masters of the list, or add this one: gabion admin raft add")
        } else {
            WireError::new(ErrorCode::NoLeader, format!("m{} knows no leader", self.id))
                .why("an election is running, or too few masters are up")
                .help("wait a few seconds, or start the masters that are down")
        };
        let own = format!("{}, term {}, applied {}", metrics.role, metrics.term, metrics.applied);
        error = match &metrics.refused {
            Some(refused) => error.tried(format!("m{}", self.id), format!("{own}, refused by peers: {refused}")),
            None => error.tried(format!("m{}", self.id), own),
        };
        let peers = self.raft.peer_reports();
        metrics
            .voters
            .iter()
            .filter(|(id, _)| **id != self.id.0)
            .fold(error, |error, (id, node)| {
                let report = peers.get(id).map_or("not asked yet", String::as_str);
                error.tried(format!("m{id} {}", node.raft_address), report)
            })
    }

    /// What a client does about a command or read that Raft did not carry out.
    pub(super) fn propose_error(&self, cannot: &str, error: ProposeError) -> WireError {
        match error {
            // This leader is handing over.
            ProposeError::NotLeader {
                leader: Some((id, node)),
                ..
            } if self.raft.leader_watch().borrow().leader == Some(self.id.0) => {
                WireError::redirect(node.client_address).why(format!("m{id} is taking over from m{}", self.id))
            }
            ProposeError::NotLeader { .. } => self.not_leader(),
            ProposeError::RetrySoon(_) if !self.raft.is_established_leader() => self.not_leader(),
            ProposeError::RetrySoon(why) => WireError::new(ErrorCode::Busy, format!("{cannot} now: {why}")),
            ProposeError::TooLarge { .. } => WireError::new(ErrorCode::LimitExceeded, format!("{cannot}: {error}")),
            ProposeError::OutcomeUnknown(why) => WireError::new(ErrorCode::Timeout, format!("{cannot} yet: {why}"))
                .why("whether it was done shows when it is asked again under the same request id"),
            ProposeError::Fatal(why) => {
                WireError::new(ErrorCode::Unreachable, format!("m{} is ending: {why}", self.id))
                    .action(Action::Retry { after_ms: 100 })
                    .help("see its log")
            }
        }
    }
}

/// Reads a few rows: at once if they are in memory, else off the runtime's threads, which must not wait for a disk.
pub(super) async fn read_view<T: Send + 'static>(
    mut view: View,
    read: impl Fn(&View) -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    if let Some(done) = view.in_memory(&read) {
        return done;
    }
    read_many(view, read).await
}

/// Reads many rows, off the runtime's threads.
pub(super) async fn read_many<T: Send + 'static>(
    view: View,
    read: impl FnOnce(&View) -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    let done = tokio::task::spawn_blocking(move || read(&view)).await;
    done.map_err(|error| WireError::new(ErrorCode::Internal, format!("cannot read the state: {error}")))?
}

/// A store that fails: this master cannot answer, another one may.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn row_error(error: RowsError) -> WireError {
    if !matches!(error, RowsError::Away) {
        tracing::error!(%error, "cannot read state rows");
    }
    WireError::new(
        ErrorCode::DiskFailed,
        format!("this master cannot read its state: {error}"),
    )
    .help("replace this master under a new id")
}
