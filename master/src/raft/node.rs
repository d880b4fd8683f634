//! Starts Raft on this master: directory, databases, runtime, listener, first membership.
//!
//! Order: lock and check the directory; open log and rows; ask the peers whether they remember more than is there, and
//! wait until no lease granted before the start can be alive; start Raft; listen. The runtime is Raft's own, so that no
//! client's request can delay a heartbeat.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::ids::{ClusterId, Incarnation};
use gabion_protocol::keys::Key;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use openraft_rt::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::clock::SleepWatch;
use super::directory::{Directory, DirectoryError};
use super::handle::{Leadership, Node, Parts, RaftHandle, leadership, proposal_budget, quorum_age};
use super::links::{Links, Local, Purpose};
use super::log_chain::LogError;
use super::log_store::{LogStore, Writer};
use super::machine::{Machine, StateMachine};
use super::network::Network;
use super::peers::Peers;
use super::recall;
use super::service::{Raft, Service};
use super::snapshot_receiver::SnapshotReceiver;
use super::snapshots::Snapshots;
use super::types::MasterNode;
use super::wire::{Request, Response};
use super::{INCOMING_DIR, LOG_DIR, SNAPSHOT_DIR, STATE_DIR};
use crate::space::SpaceOptions;
use crate::store::StoreError;
use crate::store::memory::{Memory, MemoryLimits};
use crate::store::states::States;

/// Threads of Raft's runtime: one may wait for a lock while the other keeps heartbeats going.
const RUNTIME_THREADS: usize = 2;
/// Longest pause between attempts to form the first membership, while not all listed masters run.
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(200);
/// The first such pause; each is twice the one before. Masters that are started together are there within milliseconds.
const BOOTSTRAP_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest wait for a listed master to say whether it is new.
const BOOTSTRAP_ASK: Duration = Duration::from_millis(1500);

/// Times and sizes; the defaults suit a cluster in one place.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Milliseconds between heartbeats. The slowest sync of the log should stay below it.
    pub heartbeat_ms: u64,
    /// Least milliseconds without a leader before an election.
    pub election_ms_min: u64,
    /// Most milliseconds of the same; also the leader's lease, so a failover takes one to two of it.
    pub election_ms_max: u64,
    /// Entries after which a snapshot is made.
    pub snapshot_every: u64,
    /// Entries kept in the log behind a snapshot: a master that lags less catches up by log.
    pub keep_entries: u64,
    /// Entries removed from the log at a time.
    pub purge_batch: u64,
    /// Bytes of log entries kept in memory.
    pub log_cache_bytes: usize,
    /// Memory of RocksDB.
    pub memory: MemoryLimits,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat_ms: 75,
            election_ms_min: 225,
            election_ms_max: 375,
            snapshot_every: 200_000,
            keep_entries: 50_000,
            purge_batch: 4096,
            log_cache_bytes: 32 << 20,
            memory: MemoryLimits::default(),
        }
    }
}

impl Tuning {
    fn config(&self, cluster: ClusterId) -> Result<Arc<Config>, StartError> {
        let config = Config {
            cluster_name: cluster.to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_ms_min,
            election_timeout_max: self.election_ms_max,
            max_payload_entries: 1024,
            max_append_entries: Some(4096),
            api_channel_size: Some(8192),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: self.purge_batch,
            install_snapshot_timeout: 10_000,
            backoff: "50ms 100ms 200ms 400ms 1s".to_owned(),
            enable_pre_vote: Some(true),
            // The rows are not flushed in apply: a restarted leader must be elected again.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config
            .validate()
            .map_err(|error| StartError::Tuning(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

/// What Raft needs to start.
pub struct RaftOptions {
    /// This master's id: never one whose directory was lost.
    pub id: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's root key: masters derive each other's keys from it.
    pub root_key: Key,
    /// This run of the process.
    pub incarnation: Incarnation,
    /// This master's directory.
    pub dir: PathBuf,
    /// Bound to this master's Raft address.
    pub listener: TcpListener,
    /// The first members, this one included, the same on each of them. Ignored once the cluster exists.
    pub members: BTreeMap<u64, MasterNode>,
    /// What commands do.
    pub machine: Arc<dyn Machine>,
    /// Times and sizes.
    pub tuning: Tuning,
    /// Bytes kept in reserve for a full disk; by the size of the disk if `None`.
    pub reserve: Option<u64>,
}

impl std::fmt::Debug for RaftOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftOptions")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .field("dir", &self.dir)
            .field("members", &self.members)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}

/// Why Raft does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory must not be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Rows or snapshots are damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings contradict each other.
    #[error("the raft settings are not usable: {0}")]
    Tuning(String),
    /// The system refuses something.
    #[error("cannot start raft: {0}")]
    System(#[from] std::io::Error),
    /// The directory is older than what a peer remembers of this master.
    #[error("this master's directory is not the one its peers know: master {peer} says that {what}")]
    Forgotten {
        /// Who remembers.
        peer: u64,
        /// What is missing.
        what: String,
    },
    /// Raft refuses what it found on disk.
    #[error("raft cannot start from what is on disk: {0}; replace this master under a new id")]
    Raft(String),
}

/// Everything opened from disk.
struct Opened {
    directory: Directory,
    log: LogStore,
    writer: Writer,
    machine: StateMachine,
    peers: Arc<Peers>,
}

/// Starts Raft.
///
/// # Errors
/// [`StartError`] says what to do; nothing is left running.
pub async fn start(options: RaftOptions) -> Result<RaftHandle, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("raft")
        .enable_all()
        .build()?;
    let started = runtime.spawn(start_inside(options));
    match started.await {
        Ok(Ok((mut node, parts))) => {
            node.parts = Mutex::new(Some(parts.with(runtime)));
            Ok(RaftHandle(Arc::new(node)))
        }
        Ok(Err(error)) => {
            runtime.shutdown_background();
            Err(error)
        }
        Err(error) => {
            runtime.shutdown_background();
            Err(StartError::System(std::io::Error::other(error)))
        }
    }
}

struct PartsWithoutRuntime {
    log: LogStore,
    writer: Writer,
    directory: Directory,
}

impl PartsWithoutRuntime {
    fn with(self, runtime: tokio::runtime::Runtime) -> Parts {
        Parts {
            runtime,
            log: self.log,
            writer: self.writer,
            directory: self.directory,
        }
    }
}

fn open(options: &RaftOptions) -> Result<Opened, StartError> {
    let limits = options.tuning.memory;
    let room = SpaceOptions {
        reserve: options.reserve,
        write_buffer: limits.write_buffer_bytes as u64,
        write_buffers: limits.write_buffers_bytes as u64,
    };
    let directory = Directory::open(&options.dir, options.cluster, options.id, room)?;
    directory.check_complete()?;
    let memory = Memory::new(options.tuning.memory);
    let states = States::open(&directory.join(STATE_DIR), &memory)?;
    let snapshots = Snapshots::open(&directory.join(SNAPSHOT_DIR), &memory)?;
    let space = Some(Arc::clone(directory.space()));
    let cache = options.tuning.log_cache_bytes;
    let (log, writer) = LogStore::open(&directory.join(LOG_DIR), &memory, cache, space.clone())?;
    directory.mark_complete()?;
    let machine = StateMachine::new(Arc::clone(&options.machine), states, snapshots, space)?;
    let peers = Arc::new(Peers::open(directory.join("peers"))?);
    if !log.is_pristine() {
        peers.enforce()?;
    }
    Ok(Opened {
        directory,
        log,
        writer,
        machine,
        peers,
    })
}

async fn start_inside(options: RaftOptions) -> Result<(Node, PartsWithoutRuntime), StartError> {
    let config = options.tuning.config(options.cluster)?;
    let lease = Duration::from_millis(options.tuning.election_ms_max);
    let open = move || open(&options).map(|opened| (options, opened));
    let opened = tokio::task::spawn_blocking(open).await.map_err(std::io::Error::other)?;
    let (options, opened) = opened?;
    let (directory, peers) = (opened.directory, opened.peers);
    let (log, writer, machine) = (opened.log, opened.writer, opened.machine);
    let local = Local {
        id: options.id,
        cluster: options.cluster,
        root_key: options.root_key,
        boot: directory.boot(),
        incarnation: directory.incarnation(options.incarnation),
    };
    let links = Arc::new(Links::new(local.clone(), Arc::clone(&peers)));
    // A directory that is used for the first time has forgotten nothing.
    if (!log.is_pristine() || directory.boot() > 1)
        && let Some(forgotten) = settle(&links, &log, &machine, &options.members, lease).await
    {
        close(log, writer).await?;
        return Err(forgotten);
    }
    let inner = Arc::clone(&machine.0);
    let raft = Raft::new(options.id, config, Network(Arc::clone(&links)), log.clone(), machine)
        .await
        .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
    options.listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(options.listener)?;
    let heard = Arc::new(AtomicU64::new(0));
    let service = Service {
        links: Arc::clone(&links),
        space: Arc::clone(directory.space()),
        heard: Arc::clone(&heard),
        local,
        raft: raft.clone(),
        log: log.clone(),
        machine: Arc::clone(&inner),
        peers: Arc::clone(&peers),
        receiver: Arc::new(Mutex::new(SnapshotReceiver::new(directory.join(INCOMING_DIR)))),
    };
    tokio::spawn(Arc::new(service).run(listener));
    let (told, watched) = watch::channel(Leadership::default());
    let (ends, ended) = watch::channel(None);
    let watching = watch_leadership(raft.clone(), log.clone(), peers, lease, told);
    tokio::spawn(async move { ends.send_replace(Some(watching.await)) });
    tokio::spawn(bootstrap(
        raft.clone(),
        log.clone(),
        Arc::clone(&links),
        options.members,
    ));
    let node = Node {
        stats: Arc::clone(log.stats()),
        raft,
        machine: inner,
        links,
        leadership: watched,
        ended,
        sleep: SleepWatch::new(),
        lease,
        proposed: proposal_budget(),
        gathering: Arc::default(),
        handing_over: AtomicU64::new(0),
        boot: directory.boot(),
        space: Arc::clone(directory.space()),
        heard,
        parts: Mutex::new(None),
    };
    Ok((node, PartsWithoutRuntime { log, writer, directory }))
}

/// Closes the log, before the directory is free again.
async fn close(log: LogStore, writer: Writer) -> Result<(), StartError> {
    drop(log);
    let joined = tokio::task::spawn_blocking(move || writer.join()).await;
    Ok(joined.map_err(std::io::Error::other)?)
}

/// Waits until this master may take part, or says why it must not.
async fn settle(
    links: &Arc<Links>,
    log: &LogStore,
    machine: &StateMachine,
    members: &BTreeMap<u64, MasterNode>,
    lease: Duration,
) -> Option<StartError> {
    // A vote given before the restart promised its leader this much time, and openraft has forgotten when.
    let wait = tokio::time::sleep(lease);
    tokio::join!(recall::forgotten(links, log, &machine.0, members), wait).0
}

/// Tells who leads, and begins to hold peers to what was seen once this master has a past itself. Ends with Raft, and says
/// why.
async fn watch_leadership(
    raft: Raft,
    log: LogStore,
    peers: Arc<Peers>,
    lease: Duration,
    told: watch::Sender<Leadership>,
) -> String {
    let mut metrics = raft.metrics();
    let mut roles = raft.server_metrics();
    let id = raft.node_id();
    let mut enforced = false;
    loop {
        let (now, age) = {
            let metrics = metrics.borrow_and_update();
            if let Err(fatal) = &metrics.running_state {
                told.send_modify(|now| now.established = false);
                return fatal.to_string();
            }
            (leadership(&metrics, lease), quorum_age(&metrics))
        };
        let is_rising = now.leader == Some(*id) && !now.established;
        // One that leads looks again when its lease ends, unless it was renewed meanwhile.
        let wait = match age {
            Some(age) if now.established && age < lease => lease - age,
            _ => lease / 4,
        };
        told.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if !enforced && !log.is_pristine() {
            let peers = Arc::clone(&peers);
            match tokio::task::spawn_blocking(move || peers.enforce()).await {
                Ok(Ok(())) => enforced = true,
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot store what is known of the other masters")
                }
                Err(error) => {
                    tracing::error!(%error, "cannot store what is known of the other masters")
                }
            }
        }
        // All metrics change with each entry, several times, and each change would wake this task: only a leader that is
        // not established yet is in a hurry to hear of them.
        let heard = async {
            if is_rising {
                metrics.changed().await.is_ok()
            } else {
                roles.changed().await.is_ok()
            }
        };
        if timeout(wait, heard).await == Ok(false) && metrics.borrow_and_update().running_state.is_ok() {
            return "raft has ended".to_owned();
        }
    }
}

/// Forms the first membership: the lowest listed id does, once every listed master has said that it is new. The
/// others only ask, so that one whose directory was emptied is told by its peers, in its own log, that it is refused.
async fn bootstrap(raft: Raft, log: LogStore, links: Arc<Links>, members: BTreeMap<u64, MasterNode>) {
    let id = links.local().id;
    let forms = members.first_key_value().is_some_and(|(lowest, _)| *lowest == id);
    let others: Vec<(u64, &MasterNode)> = members
        .iter()
        .map(|(id, node)| (*id, node))
        .filter(|(other, _)| *other != id)
        .collect();
    let mut pause = BOOTSTRAP_PAUSE_FIRST;
    while log.is_pristine() {
        match ask_whether_new(&links, &others).await {
            Everyone::New if !forms => return,
            Everyone::New => match raft.initialize(members.clone()).await {
                Ok(()) => return tracing::info!(members = ?members.keys(), "the cluster begins"),
                Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return,
                Err(error) => tracing::error!(%error, "cannot form the first membership"),
            },
            Everyone::Exists(other) => {
                return tracing::info!(other, "the cluster exists; waiting for its leader");
            }
            Everyone::Silent(why) => {
                tracing::debug!(%why, "waiting for all listed masters to form the cluster")
            }
        }
        if let Some(why) = links.refused() {
            return tracing::error!(
                why,
                "this master takes no part: its directory is older than its peers remember, or empty; \
                 give it an empty directory and an unused id with join = true, and run gabion admin raft add"
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BOOTSTRAP_PAUSE);
    }
}

enum Everyone {
    New,
    Exists(u64),
    Silent(String),
}

async fn ask_whether_new(links: &Arc<Links>, others: &[(u64, &MasterNode)]) -> Everyone {
    let mut silent = None;
    for (other, node) in others {
        let asked = links.ask(
            (*other, *node),
            Purpose::Control,
            &Request::Status,
            Bytes::new(),
            BOOTSTRAP_ASK,
        );
        match asked.await {
            Ok(Response::Status { pristine: true, .. }) => {}
            Ok(Response::Status { pristine: false, .. }) => return Everyone::Exists(*other),
            Ok(unexpected) => silent = Some(format!("master {other} answered {unexpected:?}")),
            Err(error) => silent = Some(error.to_string()),
        }
    }
    silent.map_or(Everyone::New, Everyone::Silent)
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
