//! Inventory: what a chunkserver holds, told by digests, and copy by copy where they differ from the masters' rows.

use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, Incarnation, ReplicaNumber, ServerId};

/// What a chunkserver tells the leader about its copies. Only sealed copies on disks in service count: what it could
/// serve to a reader now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryReport {
    /// Who.
    pub server: ServerId,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// Copies that count.
    pub copies: u64,
    /// The highest chunk it has a record of, sealed or not.
    pub highest: Option<ChunkId>,
    /// The highest number of a copy it has a record of; 0 if it has none.
    pub highest_number: ReplicaNumber,
    /// Orders refused since its start because they came from a leader that another one had overruled.
    pub refused: u64,
    /// Whether every disk it ever had, and was not told to let go of, is in service. If not, copies that are not here
    /// may still be on a disk that is out of service.
    pub complete: bool,
    /// The bucket of the first digest.
    pub first: u16,
    /// Digests of as many buckets, one after the other: 64-bit sums, big-endian. At most
    /// [`crate::limits::INVENTORY_DIGESTS`].
    pub digests: Vec<[u8; 8]>,
    /// What was asked for.
    pub listed: Option<BucketPage>,
}

/// A part of a bucket a leader wants listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketAsk {
    /// Which.
    pub bucket: u16,
    /// Copies of chunks after this one; from the first if `None`.
    pub after: Option<ChunkId>,
    /// Drawn by the leader, and named by the page: one that was listed before this was asked says nothing about it.
    pub number: u64,
}

/// The copies of a part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketPage {
    /// What was asked for.
    pub ask: BucketAsk,
    /// Milliseconds since the bucket changed last.
    pub quiet_ms: u64,
    /// The copies that count, in the order of chunks; at most [`crate::limits::INVENTORY_PAGE`].
    pub copies: Vec<(ChunkId, ReplicaNumber)>,
    /// Whether others follow the last of them.
    pub more: bool,
}

/// A chunkserver's inventory as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInventory {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Milliseconds since its last report; `None` if this leader has had none.
    pub age_ms: Option<u64>,
    /// Copies it can serve.
    pub copies: u64,
    /// Whether all its disks are in service.
    pub complete: bool,
    /// Orders it refused since its start because they came from an overruled leader.
    pub refused: u64,
    /// Buckets whose digests this leader has heard.
    pub heard: u16,
    /// Buckets that differ now. A few always do while files are written.
    pub differing: u16,
    /// Buckets compared copy by copy since this leader leads.
    pub compared: u64,
    /// Copies found missing since this leader leads.
    pub missing: u64,
    /// Copies no row names, set aside to be removed.
    pub unknown: u64,
    /// Whether so many are unknown that nothing is judged until an operator accepts it.
    pub stopped: bool,
    /// Copies of chunks the masters never knew or have forgotten: kept for ever.
    pub forgotten: u64,
}
