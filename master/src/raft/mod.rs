//! The masters' agreement: one log, kept by a majority, applied by all. openraft inside, nothing of it outside.
//!
//! Start at [`node`]: [`node::start`] gives a [`node::RaftHandle`], through which everyone else proposes commands and
//! reads state.
//!
//! | module | what it holds |
//! |---|---|
//! | [`types`] | what Raft is instantiated with; errors |
//! | [`codec`] | the log's bytes on disk |
//! | `log_store`, `log_writer`, `log_keys` | the log on RocksDB, one thread that groups syncs |
//! | [`machine`] | committed entries into state rows |
//! | [`snapshots`] | complete copies of the rows, for masters that lag too far |

pub(crate) mod codec;
mod log_keys;
pub(crate) mod log_store;
mod log_writer;
pub mod machine;
pub mod snapshots;
pub mod types;

/// The log's directory below a master's.
pub(crate) const LOG_DIR: &str = "raft";
/// The state rows' directory below a master's.
pub(crate) const STATE_DIR: &str = "state";
/// The snapshots' directory below a master's.
pub(crate) const SNAPSHOT_DIR: &str = "snapshots";
