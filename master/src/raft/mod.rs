//! The masters' agreement: one log, kept by a majority, applied by all. openraft inside, nothing of it outside.
//!
//! Start at [`node`]: [`node::start`] gives a [`node::RaftHandle`], through which everyone else proposes commands and
//! reads state.
//!
//! | module | what it holds |
//! |---|---|
//! | [`types`] | what Raft is instantiated with; errors |
//! | [`codec`] | the log's bytes on disk |
//! | `log_store`, `log_writer`, `log_chain`, `log_keys` | the log on RocksDB, one thread that groups syncs |
//! | [`machine`] | committed entries into state rows |
//! | [`snapshots`] | complete copies of the rows, for masters that lag too far |
//! | `snapshot_sender`, `snapshot_receiver` | such a copy from one master to another, resumable |
//! | `wire`, `links`, `network`, `service` | messages, connections, the asking and the answering side |
//! | [`directory`], `peers`, `promises`, `recall` | whose directory it is, and whether it is the one the peers know |
//! | [`node`] | start: everything above put together |
//! | [`handle`], `membership`, `metrics` | propose, read, watch, change members, stop |

mod clock;
pub(crate) mod codec;
pub mod directory;
mod gather;
pub mod handle;
mod links;
pub(crate) mod log_chain;
mod log_keys;
pub(crate) mod log_store;
mod log_writer;
pub mod machine;
mod membership;
mod metrics;
mod network;
pub mod node;
mod peers;
mod promises;
mod recall;
mod service;
mod snapshot_receiver;
mod snapshot_sender;
pub mod snapshots;
pub mod types;
mod wire;

pub use codec::CodecError;
pub use handle::{Leadership, RaftHandle};
pub use log_chain::LogError;
pub use machine::{Applied, Machine};
pub use membership::MembershipError;
pub use metrics::Metrics;
pub use node::{RaftOptions, StartError, Tuning, start};
pub(crate) use peers::{STALE_HELP, STALE_WHY};
pub use types::{MasterNode, ProposeError};

/// The log's directory below a master's.
pub(crate) const LOG_DIR: &str = "raft";
/// The state rows' directory below a master's.
pub(crate) const STATE_DIR: &str = "state";
/// The snapshots' directory below a master's.
pub(crate) const SNAPSHOT_DIR: &str = "snapshots";
/// Where a snapshot is received, below a master's directory.
pub(crate) const INCOMING_DIR: &str = "incoming";
