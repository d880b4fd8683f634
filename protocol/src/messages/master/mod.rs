//! What is said to a master, by clients, operators and chunkservers.
//!
//! A [`Request::Command`] changes the namespace and goes through the Raft log; it carries a [`RequestId`] and is
//! sent again, the same, after a lost answer. A [`Request::Query`] is linearizable unless it asks for less.
//!
//! [`Request`] and [`Response`] are here; `namespace`, `attributes`, `change`, `trash`, `fleet`,
//! `cluster`, `chunk`, `condition`, `balance`, `disk`, `scrub`, `inventory`, `links`, `quota` and `tree` hold what
//! they are made of.

mod attributes;
mod balance;
mod change;
mod chunk;
mod cluster;
mod condition;
mod disk;
mod fleet;
mod inventory;
mod links;
mod namespace;
mod quota;
mod scrub;
mod snapshots;
mod trash;
mod tree;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Ino, MasterId, RequestId, ServerId, StateTime, UploadGeneration};
use crate::path::FsPath;

pub use attributes::{AttributeChange, Attributes};
pub use balance::{BalancePlan, ServerFill, ServerMoves};
pub use change::{Change, FileChange, SpliceAt};
pub use chunk::{ChunkReport, CopyCounts, CopyReport};
pub use cluster::{
    Admin, ChunkInfo, ChunkState, ChunkTrouble, Defaults, Health, MasterInfo, ReplicaState, ServerInfo, Status,
    TroubledChunk,
};
pub use condition::{Condition, ConditionChange, ServerPlan, ServerState};
pub use disk::{DiskInfo, DiskOrder, DiskReport, DiskState, ServerDisks};
pub use fleet::{
    Beat, BuildOrder, BuildPiece, CopyOrder, CopySource, Damage, Load, Order, OrderDone, Registration, ServerAccess,
};
pub use inventory::{BucketAsk, BucketPage, InventoryReport, ServerInventory};
pub use links::LinkChange;
pub use namespace::{
    ChunkGrant, CopyFiles, Entry, EntryKind, Extent, FileVersion, Located, Op, Page, Query, Replica, Seal,
    UploadOptions,
};
pub use quota::{QuotaChange, QuotaLimits, QuotaReport, QuotaUse, Room};
pub use scrub::{ScrubPass, ScrubProgress, ScrubReport, ServerScrub};
pub use snapshots::{SnapshotAfter, SnapshotInfo, SnapshotPage};
pub use trash::{TrashAfter, TrashEntry, TrashId, TrashPage, TrashRef, TrashTotals};
pub use tree::{TreeCopy, TreeProgress};

/// A request; answered with `Result<`[`Response`]`, WireError>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Gives the state time a session id is made of, and the cluster's defaults. Logs nothing.
    OpenSession,
    /// Runs once, however often it is sent.
    Command {
        /// Who asks, and which of its commands this is.
        request: RequestId,
        /// Every sequence below this is answered and known to the client: its reply may be forgotten.
        answered_below: u64,
        /// What to do.
        op: Op,
    },
    /// Reads.
    Query {
        /// What to read.
        query: Query,
        /// How fresh the answer must be.
        freshness: Freshness,
    },
    /// How to reach a chunkserver: for any authenticated peer, at any master.
    Access {
        /// The server.
        server: ServerId,
    },
    /// A chunkserver says who it is and where it listens.
    Register(Registration),
    /// A chunkserver is alive, and asks for orders.
    Beat(Beat),
    /// An operator's request.
    Admin(Admin),
    /// A chunkserver tells the leader how far its scrub is, and asks whether to begin a pass. Beside its beats, which
    /// are too frequent to carry it.
    ScrubReport(ScrubReport),
    /// A chunkserver tells the leader which copies it holds, after each of its beats. A bucket's copies are listed when
    /// the answer asks for it.
    Inventory(Box<InventoryReport>),
    /// A chunkserver tells the leader how its disks are. Answer: [`Response::Done`].
    Disks(Box<DiskReport>),
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Every change acknowledged before the read began is seen; the leader answers.
    Linearizable,
    /// Whatever the asked master has applied.
    Stale,
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Nothing more to say.
    Done,
    /// A session may begin.
    Session {
        /// State time for the session id.
        now: StateTime,
        /// The cluster's defaults.
        defaults: Defaults,
        /// Client addresses of all masters.
        masters: Vec<(MasterId, String)>,
    },
    /// A file or directory.
    Entry(Entry),
    /// An upload has begun.
    Upload {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// Bytes of a chunk.
        chunk_bytes: u64,
        /// Copies wanted.
        replicas: u8,
        /// The first chunks.
        chunks: Vec<ChunkGrant>,
        /// How to reach their servers.
        servers: Vec<ServerAccess>,
    },
    /// Chunks granted.
    Chunks {
        /// The chunks.
        chunks: Vec<ChunkGrant>,
        /// How to reach their servers.
        servers: Vec<ServerAccess>,
    },
    /// What went away.
    Removed {
        /// Files.
        files: u64,
        /// Directories.
        directories: u64,
        /// Bytes of the files.
        bytes: u64,
    },
    /// A page of a directory.
    Page(Page),
    /// Where a file's bytes are.
    Located(Located),
    /// A chunk.
    Chunk(ChunkInfo),
    /// The cluster.
    Status(Box<Status>),
    /// A hash was ordered at this index.
    Marked {
        /// The log index.
        index: u64,
    },
    /// This master's state hash at that index; `None` while it has not got there, or has forgotten it.
    StateHash {
        /// SHA-256.
        hash: Option<[u8; 32]>,
        /// Last applied index.
        applied: u64,
    },
    /// How to reach a server.
    Access(ServerAccess),
    /// A chunkserver is registered.
    Registered {
        /// Its number, for ever.
        server: ServerId,
    },
    /// A beat's answer.
    BeatAnswer {
        /// The answering master's epoch, if it leads.
        epoch: Option<Epoch>,
        /// State time.
        now: StateTime,
        /// What to do, at most [`crate::limits::BATCH_ROWS_MAX`].
        orders: Vec<Order>,
        /// Client addresses of all masters as the answering one knows them, so that a chunkserver also beats on a
        /// master that was added after its configuration was written.
        masters: Vec<String>,
    },
    /// What went into the trash.
    Trashed {
        /// Its number there.
        ino: Ino,
        /// Files.
        files: u64,
        /// Directories.
        directories: u64,
        /// Bytes of the files.
        bytes: u64,
        /// How long it is kept, milliseconds.
        keep_ms: u64,
    },
    /// A page of the trash.
    Trash(TrashPage),
    /// One thing in the trash.
    TrashEntry(TrashEntry),
    /// A page of chunks that are not as they should be.
    ChunkPage {
        /// The chunks.
        chunks: Vec<TroubledChunk>,
        /// Ask again for those after this one; `None` at the end. A page may be empty and yet not the last.
        next: Option<crate::ids::ChunkId>,
    },
    /// What repair does.
    Repairs {
        /// Copies being made.
        copying: u64,
    },
    /// A scrub report's answer.
    ScrubAnswer {
        /// The answering master's epoch, if it leads.
        epoch: Option<Epoch>,
        /// The operator's request to begin a pass for, until a report says that it was obeyed.
        start: Option<u64>,
    },
    /// A scrub was asked for.
    ScrubStarted {
        /// Servers that have begun: it is on their disks.
        begun: Vec<ServerId>,
        /// Servers that have not said so yet.
        waiting: Vec<ServerId>,
    },
    /// How far scrub passes are.
    ScrubStatus(Vec<ServerScrub>),
    /// A part of a file was added to an upload.
    Copied {
        /// Which content it is a part of.
        version: FileVersion,
        /// Where in the file to go on.
        next: u64,
        /// Whether more follows.
        more: bool,
        /// Bytes of the upload now.
        length: u64,
        /// Its CRC, if it is known.
        crc: Option<u32>,
    },
    /// A resumable upload, and what is recorded of it.
    Resumed {
        /// The upload.
        upload: Ino,
        /// Its owner's generation; former owners are refused.
        generation: UploadGeneration,
        /// Bytes of a chunk.
        chunk_bytes: u64,
        /// Copies wanted.
        replicas: u8,
        /// Bytes recorded, from the file's beginning.
        length: u64,
        /// Their CRC.
        crc: u32,
    },
    /// Owner, group and extended attributes.
    Attributes(Attributes),
    /// Chunks are part of a file.
    Spliced {
        /// Where the first of them begins.
        offset: u64,
        /// The file's length now.
        length: u64,
    },
    /// A file is shorter or longer.
    Truncated {
        /// Its length now: what was asked for, or more if there is more to do.
        length: u64,
    },
    /// Chunks want another number of copies.
    ReplicasSet {
        /// Ask again from here; `None` at the file's end.
        next: Option<u64>,
    },
    /// The right to be a file's only writer.
    WriteLease {
        /// Its number.
        lease: u64,
        /// When it ends, unless it is renewed before.
        until: StateTime,
    },
    /// The chunkservers.
    Servers {
        /// State time.
        now: StateTime,
        /// All that are registered, retired ones too.
        servers: Vec<ServerState>,
    },
    /// What a chunkserver holds.
    ServerPlan(Box<ServerPlan>),
    /// An inventory report's answer.
    InventoryAnswer {
        /// The answering master's epoch, if it leads.
        epoch: Option<Epoch>,
        /// What to list with the next report.
        list: Option<BucketAsk>,
    },
    /// The servers' inventories.
    Inventories(Vec<ServerInventory>),
    /// The servers' disks.
    Disks(Vec<ServerDisks>),
    /// A chunk and its copies.
    ChunkReport(Box<ChunkReport>),
    /// How full the chunkservers are.
    BalancePlan(Box<BalancePlan>),
    /// A snapshot.
    Snapshot(SnapshotInfo),
    /// A page of snapshots.
    Snapshots(SnapshotPage),
    /// A disk report's answer, if the leader wants something of the disks; else it is `Done`.
    DiskAnswer {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it wants; at most [`crate::limits::DISKS_MAX`].
        orders: Vec<DiskOrder>,
    },
    /// Quotas and what counts against them.
    Quota(QuotaReport),
    /// How far the copy of a directory is.
    TreeCopied(TreeProgress),
    /// Where a path leads.
    Resolved {
        /// The same place by a path without a link.
        path: FsPath,
        /// What is there.
        entry: Entry,
    },
    /// What becomes of small chunks.
    Merges {
        /// Large chunks that took the place of small ones since this master leads.
        done: u64,
        /// Large chunks being made.
        under_way: u64,
        /// Files that may lie in small chunks, a thousand at most.
        waiting: u64,
    },
    /// Where a path leads, or would lead.
    Place {
        /// The same place by a path without a link.
        path: FsPath,
        /// Whether something is there.
        taken: bool,
    },
}
