//! Starts and stops a master.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::Incarnation;
use gabion_protocol::keys::KeyFileError;
use gabion_protocol::net::{SeatCounts, Seats};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Keys;
use super::balance::{self, Balancing};
use super::connection::Limits;
use super::disks::Disks;
use super::inventory::Inventories;
use super::merge::Merging;
use super::repair::Repairs;
use super::scrub::Scrubs;
use super::shared::{Master, ShellSettings};
use super::space::Rooms;
use super::tail::Tail;
use super::{leader, listen, space};
use crate::config::Config;
use crate::fleet::{Periods, Watched};
use crate::ledger::Ledger;
use crate::plan::repair::Budget;
use crate::raft::directory::DirectoryError;
use crate::raft::{self, Applied, Machine, MasterNode, RaftHandle, RaftOptions, STALE_HELP, STALE_WHY, Tuning};
use crate::space::is_full;
use crate::state::rows::{Batch, Changes, Rows, RowsError};
use crate::state::{LogAt, Settings, StateMachine};
use crate::store::memory::MemoryLimits;

/// Why a master does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {source}")]
    Listen {
        /// The setting that holds the address.
        key: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
}

impl StartError {
    /// The error as it is shown, with its exit code.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let error = |code| WireError::new(code, format!("cannot start the master: {self}"));
        match self {
            Self::Key(_) => error(ErrorCode::WrongKey)
                .help("make a root key with `gabion-master keys new --out root.key`, and give every master a copy"),
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => error(ErrorCode::Busy)
                .why("another process listens there")
                .help("stop it, or give this master another port"),
            Self::Listen { .. } => error(ErrorCode::Unreachable).help("give an address of this machine"),
            Self::Raft(cause) if is_full(cause) => error(ErrorCode::NoSpace)
                .why("the disk is full, and its reserve is used up")
                .help("make room on it, or move the master's directory to a larger disk while it is stopped"),
            Self::Raft(raft::StartError::Forgotten { .. }) => {
                error(ErrorCode::StaleDirectory).why(STALE_WHY).help(STALE_HELP)
            }
            Self::Raft(raft::StartError::Directory(DirectoryError::InUse { .. })) => error(ErrorCode::Conflict),
            Self::Raft(raft::StartError::Directory(DirectoryError::NotOurs { .. })) => error(ErrorCode::WrongCluster),
            Self::Raft(raft::StartError::Directory(DirectoryError::Incomplete { .. })) => {
                error(ErrorCode::StaleDirectory)
            }
            Self::Raft(_) => error(ErrorCode::DiskFailed),
        }
    }
}

/// The state machine as Raft drives it.
#[derive(Debug)]
struct Applier {
    state: StateMachine,
    ledger: Arc<Ledger>,
}

impl Machine for Applier {
    fn apply(&self, batch: &mut Batch<'_>, at: LogAt, command: &[u8]) -> Result<Applied, RowsError> {
        let (reply, mark_hash) = self.state.apply_bytes(batch, at, command)?;
        Ok(Applied { reply, mark_hash })
    }

    fn watch(&self, rows: &dyn Rows, changes: &Changes, index: u64) -> Result<(), RowsError> {
        self.ledger.watch(rows, changes, index)
    }

    fn replaced(&self) {
        self.ledger.forget();
    }
}

/// A master that runs.
#[derive(Debug)]
pub struct Running {
    master: Arc<Master>,
    leading: CancellationToken,
    tasks: TaskTracker,
    stop_within: Duration,
}

/// Starts a master on the current runtime; Raft brings its own.
///
/// # Errors
/// [`StartError`]; nothing is left running.
pub async fn start(config: &Config) -> Result<Running, StartError> {
    start_with(config, SeatCounts::of_this_process()).await
}

/// As [`start`], for so many connections.
pub(super) async fn start_with(config: &Config, seats: SeatCounts) -> Result<Running, StartError> {
    let key = config.root_key()?;
    // Ports first: a second process on the same settings fails before it touches the directory.
    let raft_listener = bind("raft_listen", &config.raft_listen)?;
    let client_listener = bind("client_listen", &config.client_listen)?;
    let incarnation = Incarnation::random();
    let keys = Keys {
        cluster: key.cluster,
        root: key.key,
    };
    let ledger = Arc::<Ledger>::default();
    let raft = raft::start(RaftOptions {
        id: config.id,
        cluster: keys.cluster,
        root_key: keys.root.clone(),
        incarnation,
        dir: config.dir.clone(),
        listener: raft_listener,
        members: members(config),
        machine: Arc::new(Applier {
            state: StateMachine,
            ledger: Arc::clone(&ledger),
        }),
        tuning: tuning(config),
        reserve: config.reserve.map(|size| size.0),
    })
    .await?;
    let master = Arc::new(Master {
        id: config.master_id(),
        keys,
        boot: raft.boot(),
        incarnation,
        settings: settings(config),
        raft,
        fleet: Watched::new(Periods {
            suspect: config.timing.suspect.0,
            lost: config.timing.lost.0,
        }),
        census: Arc::default(),
        suspects: Arc::default(),
        scrubs: Scrubs::default(),
        inventories: Inventories::default(),
        disks: Disks::default(),
        tail: Tail::default(),
        ledger,
        limits: Limits::default(),
        rooms: Rooms::default(),
        repairs: Repairs::default(),
        balancing: Balancing::default(),
        merging: Merging::default(),
        stopping: CancellationToken::new(),
        requests: TaskTracker::new(),
        connections: TaskTracker::new(),
    });
    let (leading, tasks) = (CancellationToken::new(), TaskTracker::new());
    let follow = leading
        .clone()
        .run_until_cancelled_owned(leader::follow(Arc::clone(&master)));
    tasks.spawn(follow);
    let watch = leading
        .clone()
        .run_until_cancelled_owned(space::watch(Arc::clone(&master)));
    tasks.spawn(watch);
    tasks.spawn(listen::accept_all(
        Arc::clone(&master),
        client_listener,
        Seats::new(seats),
    ));
    Ok(Running {
        master,
        leading,
        tasks,
        stop_within: config.timing.stop.0,
    })
}

fn bind<L: Listener>(key: &'static str, address: &str) -> Result<L, StartError> {
    L::bind(address).map_err(|source| StartError::Listen {
        key,
        address: address.to_owned(),
        source,
    })
}

/// Raft brings its own runtime and takes the plain listener; the shell's belongs to this runtime.
trait Listener: Sized {
    fn bind(address: &str) -> std::io::Result<Self>;
}

impl Listener for TcpListener {
    fn bind(address: &str) -> std::io::Result<Self> {
        Self::bind(address)
    }
}

impl Listener for tokio::net::TcpListener {
    fn bind(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Self::from_std(listener)
    }
}

/// The first members; none for a master that is to be added.
fn members(config: &Config) -> BTreeMap<u64, MasterNode> {
    if config.join {
        return BTreeMap::new();
    }
    let node = |member: &crate::config::Member| MasterNode {
        raft_address: member.raft.clone(),
        client_address: member.client.clone(),
    };
    config.members.iter().map(|member| (member.id, node(member))).collect()
}

fn settings(config: &Config) -> ShellSettings {
    ShellSettings {
        tick: config.timing.tick.0,
        placement_wait: config.timing.placement_wait.0,
        suspect: config.timing.suspect.0,
        urgent: config.repair.urgent.0,
        budget: Budget {
            source: config.repair.source.0,
            target: config.repair.target.0,
            cluster: config.repair.cluster.0,
        },
        balance: balance::policy(&config.balance),
        bootstrap: Settings {
            replicas: config.cluster.replicas,
            chunk_bytes: config.cluster.chunk_size.0,
            session_ms: config.timing.session.millis(),
            upload_lease_ms: config.timing.upload_lease.millis(),
            token_ms: config.timing.token.millis(),
        },
        trash_ms: config.cluster.trash.millis(),
        keep_unknown: config.inventory.keep_unknown.0,
        inventory_quiet: config.inventory.quiet.0,
    }
}

fn tuning(config: &Config) -> Tuning {
    let bytes = |size: gabion_protocol::config::Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    Tuning {
        snapshot_every: config.raft.snapshot_every,
        keep_entries: config.raft.keep_log,
        memory: MemoryLimits {
            block_cache_bytes: bytes(config.memory.cache),
            write_buffer_bytes: bytes(config.memory.write_buffer),
            write_buffers_bytes: bytes(config.memory.write_buffers),
        },
        ..Tuning::default()
    }
}

impl Running {
    /// Raft on this master.
    #[must_use]
    pub fn raft(&self) -> &RaftHandle {
        &self.master.raft
    }

    /// Waits until Raft has failed, and says why: the process must end.
    pub async fn failed(&self) -> String {
        self.master.raft.failed().await
    }

    /// Stops gracefully: another master leads first, requests under way end, everything is made durable.
    pub async fn stop(self) {
        self.master.raft.hand_over().await;
        self.leading.cancel();
        self.master.stopping.cancel();
        self.tasks.close();
        self.master.requests.close();
        self.master.connections.close();
        let ended = async {
            self.tasks.wait().await;
            self.master.requests.wait().await;
            self.master.connections.wait().await;
        };
        if tokio::time::timeout(self.stop_within, ended).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        self.master.raft.shutdown().await;
    }

    /// Stops at once, as a crash would; for tests.
    pub async fn abort(self) {
        self.leading.cancel();
        self.master.stopping.cancel();
        self.master.raft.abort().await;
    }
}
