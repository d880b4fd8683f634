//! Connections to other masters: one per peer and purpose, dialed when first needed and again after they break.
//!
//! Heartbeats and votes have connections of their own, so that neither a large batch nor a snapshot delays them. A
//! dial runs in a task of its own and is shared by everyone who waits: Raft gives up on single requests much faster
//! than a handshake may take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::{ClusterId, Incarnation};
use gabion_protocol::keys::{Identity, Key, Role};
use gabion_protocol::net::{self, Connection, Dialer};
use parking_lot::Mutex;

use super::peers::Peers;
use super::promises::Promises;
use super::types::MasterNode;
use super::wire::{Request, Response};

/// A peer that does not answer within this is taken as unreachable.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1000);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Votes and short questions.
    Control,
    /// Liveness of the leader.
    Heartbeat,
    /// Log entries.
    Replication,
    /// Whole states.
    Snapshot,
}

/// Who this master is.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) id: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) root_key: Key,
    pub(crate) boot: u64,
    pub(crate) incarnation: Incarnation,
}

impl Local {
    pub(crate) fn identity(&self) -> Identity {
        identity(self.id)
    }

    fn dialer(&self, target: u64) -> Dialer {
        Dialer {
            cluster: self.cluster,
            identity: self.identity(),
            boot: self.boot,
            incarnation: self.incarnation,
            key: self.root_key.identity_key(self.cluster, &self.identity()),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: Some(target.to_string()),
            },
        }
    }
}

fn identity(id: u64) -> Identity {
    Identity {
        role: Role::Master,
        id: id.to_string(),
    }
}

type Dialing = Shared<BoxFuture<'static, Result<Connection, WireError>>>;

#[derive(Default)]
struct Slot {
    address: String,
    open: Option<Connection>,
    dialing: Option<Dialing>,
}

/// All connections this master dials.
pub(crate) struct Links {
    local: Local,
    peers: Arc<Peers>,
    /// What the peers are known to have on their disks.
    promises: Promises,
    slots: Mutex<HashMap<(u64, Purpose), Slot>>,
    /// Why a peer said that this master's directory is stale, if one did.
    refused: Mutex<Option<String>>,
    /// How the last dial of each peer went.
    reports: Mutex<BTreeMap<u64, String>>,
}

impl Links {
    pub(crate) fn new(local: Local, peers: Arc<Peers>) -> Self {
        Self {
            local,
            peers,
            promises: Promises::default(),
            slots: Mutex::new(HashMap::new()),
            refused: Mutex::new(None),
            reports: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    pub(crate) fn promises(&self) -> &Promises {
        &self.promises
    }

    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    pub(crate) fn reports(&self) -> BTreeMap<u64, String> {
        self.reports.lock().clone()
    }

    /// The open connection, or a new one.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        target: u64,
        node: &MasterNode,
        purpose: Purpose,
    ) -> Result<Connection, WireError> {
        let dialing = {
            let mut slots = self.slots.lock();
            let slot = slots.entry((target, purpose)).or_default();
            if slot.address != node.raft_address {
                *slot = Slot {
                    address: node.raft_address.clone(),
                    ..Slot::default()
                };
            }
            if let Some(open) = slot.open.as_ref().filter(|open| !open.is_closed()) {
                return Ok(open.clone());
            }
            match &slot.dialing {
                Some(dialing) => dialing.clone(),
                None => {
                    let dialing = self.start_dial(target, node.raft_address.clone(), purpose);
                    slot.dialing = Some(dialing.clone());
                    dialing
                }
            }
        };
        dialing.await
    }

    fn start_dial(self: &Arc<Self>, target: u64, address: String, purpose: Purpose) -> Dialing {
        let links = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = links.dial(target, &address).await;
            let mut slots = links.slots.lock();
            if let Some(slot) = slots.get_mut(&(target, purpose)).filter(|slot| slot.address == address) {
                slot.dialing = None;
                slot.open = result.as_ref().ok().cloned();
            }
            result
        });
        let ended = |error: tokio::task::JoinError| WireError::new(ErrorCode::Internal, format!("dial ended: {error}"));
        async move { task.await.map_err(ended)? }.boxed().shared()
    }

    async fn dial(&self, target: u64, address: &str) -> Result<Connection, WireError> {
        let dialed = net::dial(address, &self.local.dialer(target), DIAL_TIMEOUT).await;
        let report = match &dialed {
            Ok(_) => "connected".to_owned(),
            Err(error) => error.message.clone(),
        };
        self.reports.lock().insert(target, report);
        let connection = dialed.inspect_err(|error| {
            if error.code == ErrorCode::StaleDirectory {
                tracing::error!(target, %error, "a peer refuses this master");
                *self.refused.lock() = Some(error.message.clone());
            }
        })?;
        let from = connection.peer().introduction.clone();
        let peers = Arc::clone(&self.peers);
        let remembered = tokio::task::spawn_blocking(move || peers.remember(&from)).await;
        let remembered = remembered.map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))?;
        if let Err(error) = remembered {
            tracing::error!(target, %error, "a peer is refused");
            connection.close();
            return Err(error);
        }
        Ok(connection)
    }

    /// Gives up a connection that does not answer; the next request dials anew.
    pub(crate) fn give_up(&self, target: u64, purpose: Purpose) {
        if let Some(slot) = self.slots.lock().get_mut(&(target, purpose))
            && let Some(open) = slot.open.take()
        {
            open.close();
        }
    }

    /// Asks a peer and waits for the answer.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        (target, node): (u64, &MasterNode),
        purpose: Purpose,
        request: &Request,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Response, WireError> {
        let exchange = async {
            let connection = self.connect(target, node, purpose).await?;
            connection.call(Kind::RaftRequest, request, payload, deadline).await
        };
        let timeout = || WireError::new(ErrorCode::Timeout, format!("no answer from master {target}"));
        let answered = tokio::time::timeout(deadline, exchange).await;
        answered
            .unwrap_or_else(|_| Err(timeout()))
            .map(|(response, _)| response)
    }
}
