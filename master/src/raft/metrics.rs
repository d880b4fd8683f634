//! What a master tells of its Raft: numbers for operators, taken from what openraft publishes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::types::MasterNode;

/// What an operator may want to know.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// This master.
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// `leader`, `candidate`, `follower`, `learner` or `stopped`.
    pub role: &'static str,
    /// The term's leader, if known.
    pub leader: Option<u64>,
    /// Index of the last log entry.
    pub last_log: u64,
    /// Index of the last entry known to be on a majority.
    pub committed: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Index the newest snapshot covers.
    pub snapshot: u64,
    /// Index of the last entry removed from the log.
    pub purged: u64,
    /// On the leader: index up to which each other member's log is known to match.
    pub matched: BTreeMap<u64, u64>,
    /// Time since a majority last answered this leader.
    pub quorum_age: Option<Duration>,
    /// Voting members.
    pub voters: BTreeMap<u64, MasterNode>,
    /// Members that only follow.
    pub learners: BTreeMap<u64, MasterNode>,
    /// Synced writes of the log.
    pub log_syncs: u64,
    /// Entries made durable.
    pub log_entries: u64,
    /// Time spent in synced writes.
    pub log_sync_time: Duration,
    /// The slowest synced write.
    pub log_sync_max: Duration,
    /// Bytes of state rows on disk.
    pub state_bytes: u64,
    /// Why peers refuse this master's directory, if they do: it must be replaced under a new id.
    pub refused: Option<String>,
    /// Why Raft has stopped on this master, if it has: the process must end.
    pub failed: Option<String>,
}
