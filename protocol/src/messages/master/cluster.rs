//! The cluster itself: an operator's requests, and how masters, chunkservers and chunks are.

use serde::{Deserialize, Serialize};

use super::Load;
use crate::ids::{ChunkId, Generation, MasterId, ReplicaNumber, ServerId, StateTime};

/// An operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admin {
    /// Every master hashes its state at the log index of this entry. Answer: `Response::Marked`.
    MarkHash,
    /// Adds a master: as a learner, then as a voter when it has caught up. Answer: `Response::Done`.
    AddMaster {
        /// Its new, never used id.
        id: MasterId,
        /// Where it listens to masters.
        raft_address: String,
        /// Where it listens to clients.
        client_address: String,
        /// The master it replaces, removed in the same change.
        replaces: Option<MasterId>,
    },
    /// Removes a master. Its id is never used again. Answer: `Response::Done`.
    RemoveMaster {
        /// The master.
        id: MasterId,
    },
    /// Hands leadership over. Answer: `Response::Done`.
    TransferLeader {
        /// To whom; the most advanced follower if `None`.
        to: Option<MasterId>,
    },
    /// Builds a snapshot now. Answer: `Response::Done`.
    Snapshot,
    /// Chunkservers begin a scrub pass now and read as fast as their settings allow. Answer: `Response::ScrubStarted`,
    /// when all of them have begun or the waiting is over; until then, and as long as this master leads, the order is
    /// repeated. Asking again with the same number begins nothing anew.
    StartScrub {
        /// Drawn by the operator's tool; not 0.
        request: u64,
        /// Which servers; all if empty.
        servers: Vec<ServerId>,
    },
    /// How far scrub passes are. Answer: `Response::ScrubStatus`.
    ScrubStatus,
    /// What chunkservers hold, compared with what the masters know. Answer: `Response::Inventories`.
    InventoryStatus,
    /// So many of a server's copies are unknown that nothing is done about them: an operator says that they may be set
    /// aside and removed. Answer: `Response::Done`.
    AcceptUnknown {
        /// The server.
        server: ServerId,
    },
    /// How the chunkservers' disks are. Answer: `Response::Disks`.
    DiskStatus,
    /// A chunk with all that is known of its copies. Answer: `Response::ChunkReport`.
    InspectChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The servers of a chunk read their copies again, and repair looks at it before all others. Answer:
    /// `Response::ChunkReport`, as of then.
    RepairChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// A disk of a chunkserver is to be drained, or to serve again. The leader tells the server for a minute, or until it
    /// has done so, which `DiskStatus` shows. Answer: `Response::Done`.
    DrainDisk {
        /// The server.
        server: ServerId,
        /// The disk's own number.
        disk: [u8; 16],
        /// Whether it is to be drained, or to serve again.
        drain: bool,
        /// Also if other servers are too few to take the copies.
        force: bool,
    },
}

impl Admin {
    /// Whether it changes nothing, anywhere.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::ScrubStatus | Self::InventoryStatus | Self::DiskStatus | Self::InspectChunk { .. } => true,
            Self::MarkHash
            | Self::AddMaster { .. }
            | Self::RemoveMaster { .. }
            | Self::TransferLeader { .. }
            | Self::Snapshot
            | Self::StartScrub { .. }
            | Self::AcceptUnknown { .. }
            | Self::RepairChunk { .. }
            | Self::DrainDisk { .. } => false,
        }
    }
}

/// A chunk's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkState {
    /// Being written.
    Open,
    /// Immutable.
    Sealed,
    /// Wanted no more.
    Garbage,
}

/// A replica's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Being made.
    Copying,
    /// Holds the chunk.
    Live,
    /// Being removed.
    Dropping,
}

/// A chunk as `chunks` and `admin chunk` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its state.
    pub state: ChunkState,
    /// Its generation.
    pub generation: Generation,
    /// Its length.
    pub length: u64,
    /// Its CRC.
    pub crc: u32,
    /// Extent rows that name it.
    pub references: u64,
    /// Copies wanted.
    pub wanted: u8,
    /// Its replica rows.
    pub replicas: Vec<(ServerId, ReplicaNumber, ReplicaState)>,
}

/// How a chunk is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkTrouble {
    /// It has fewer good copies on servers that are not lost than wanted.
    Under,
    /// Somebody reported a copy of it as damaged.
    Damaged,
    /// It has no good copy on a server that answers.
    Missing,
}

/// A chunk that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubledChunk {
    /// The chunk.
    pub info: ChunkInfo,
    /// Servers that answer and whose copy nobody calls damaged.
    pub reachable: Vec<ServerId>,
    /// Servers whose copy was reported damaged, and what was found.
    pub damaged: Vec<(ServerId, String)>,
}

/// What the leader thinks of a chunkserver's beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Beats.
    Alive,
    /// Has missed beats: no new writes go there.
    Suspect,
    /// Has missed so many that its copies are replaced.
    Lost,
}

/// A chunkserver as `admin status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its rack.
    pub rack: String,
    /// Whether it beats.
    pub health: Health,
    /// Milliseconds since its last beat; `None` if this master has had none.
    pub beat_age_ms: Option<u64>,
    /// Space and load as of that beat.
    pub load: Load,
}

/// A master as `admin status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterInfo {
    /// Its id.
    pub id: MasterId,
    /// Where it listens to masters.
    pub raft_address: String,
    /// Where it listens to clients.
    pub client_address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Last log index the answering leader knows it to have; `None` if unknown.
    pub matched: Option<u64>,
}

/// The cluster at a glance, as the answering master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: crate::ids::ClusterId,
    /// Who answers.
    pub answered_by: MasterId,
    /// Who leads, as far as the answering master knows.
    pub leader: Option<MasterId>,
    /// Raft term.
    pub term: u64,
    /// Last log index.
    pub last_log: u64,
    /// Last applied index.
    pub applied: u64,
    /// Index of the newest snapshot.
    pub snapshot: Option<u64>,
    /// State time.
    pub now: StateTime,
    /// Feature level.
    pub level: u32,
    /// The masters.
    pub masters: Vec<MasterInfo>,
    /// The chunkservers.
    pub servers: Vec<ServerInfo>,
    /// Files in the namespace.
    pub files: u64,
    /// Directories in the namespace.
    pub directories: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Chunks by number of live copies on servers that are not lost: `copies[n]` chunks have `n`.
    pub copies: Vec<u64>,
    /// Sealed chunks that have fewer live copies than wanted.
    pub under_replicated: u64,
    /// Copies reported damaged.
    pub damaged: u64,
}

/// The cluster's defaults, told at hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Copies of each chunk.
    pub replicas: u8,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
}
