//! The types Raft is instantiated with, and the errors that leave this module.
//!
//! Nothing of openraft leaves `raft/`: its types are no format (disk and wire have their own, see [`super::codec`]
//! and [`super::wire`]) and no interface (callers see [`ProposeError`]). So a new version of it is a code change in
//! one module, never a migration of data.

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use serde::{Deserialize, Serialize};

/// An encoded command. Raft never looks inside, so it is encoded once: by who proposes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedCommand(pub Bytes);

impl std::fmt::Display for LoggedCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// An encoded reply of the state machine; empty for entries that carry no command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedReply(pub Bytes);

/// Where a master can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MasterNode {
    /// `host:port` that other masters dial.
    pub raft_address: String,
    /// `host:port` that everyone else dials.
    pub client_address: String,
}

impl std::fmt::Display for MasterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "raft {}, clients {}", self.raft_address, self.client_address)
    }
}

openraft::declare_raft_types!(
    /// The types of the masters' Raft group. A leader id is (term, node), so that two candidates of one term cannot
    /// block each other.
    pub TypeConfig:
        D = LoggedCommand,
        R = AppliedReply,
        NodeId = u64,
        Node = MasterNode,
);

pub(crate) type CommittedLeader = LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId<u64, u64>>;
pub(crate) type Payload = openraft::EntryPayload<LoggedCommand, u64, MasterNode>;
pub(crate) type Entry = openraft::Entry<CommittedLeader, Payload>;
pub(crate) type Membership = openraft::Membership<u64, MasterNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, MasterNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, MasterNode>;
pub(crate) type Snapshot<D> = openraft::Snapshot<CommittedLeader, u64, MasterNode, D>;

/// The log id `(term, node, index)`.
pub(crate) fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id: node },
        index,
    }
}

/// A leader, as far as this master knows: its id and how to reach it.
pub type KnownLeader = (u64, MasterNode);

/// Why a command was not carried out, by what the caller should do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Ask the leader instead. The command was surely not logged.
    #[error("this master is not the leader of term {term}; {}", describe_leader(leader))]
    NotLeader {
        /// The leader, if known.
        leader: Option<KnownLeader>,
        /// The term this master knows of.
        term: u64,
    },
    /// Ask again in some 10–50 ms. The command was surely not logged.
    #[error("the masters cannot take this now: {0}; retry")]
    RetrySoon(String),
    /// The command can never be logged: split it.
    #[error("a command of {bytes} bytes is over the limit of {max}; split it")]
    TooLarge {
        /// Bytes of the command.
        bytes: usize,
        /// Most bytes of a command.
        max: usize,
    },
    /// The command may or may not be carried out: ask again under the same request id.
    #[error("the outcome of the command is unknown: {0}; repeat it under the same request id")]
    OutcomeUnknown(String),
    /// This master cannot go on: its process must end.
    #[error("this master's raft has stopped: {0}; see its log and restart it")]
    Fatal(String),
}

fn describe_leader(leader: &Option<KnownLeader>) -> String {
    match leader {
        Some((id, node)) => format!("ask master {id} at {}", node.client_address),
        None => "no leader is known, retry soon".to_owned(),
    }
}
