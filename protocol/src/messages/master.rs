//! What is said to a master, by clients, operators and chunkservers.
//!
//! A [`Request::Command`] changes the namespace and goes through the Raft log; it carries a [`RequestId`] and is
//! sent again, the same, after a lost answer. A [`Request::Query`] is linearizable unless it asks for less.

use serde::{Deserialize, Serialize};

use crate::ids::{
    ChunkId, Epoch, Generation, Incarnation, Ino, MasterId, ReplicaNumber, RequestId, ServerId, StateTime,
    UploadGeneration,
};
use crate::keys::Ticket;
use crate::path::FsPath;
use crate::token::Token;

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
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Every change acknowledged before the read began is seen; the leader answers.
    Linearizable,
    /// Whatever the asked master has applied.
    Stale,
}

/// How an upload is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadOptions {
    /// Copies of each chunk; the cluster's default if `None`.
    pub replicas: Option<u8>,
    /// Bytes of a chunk; the cluster's default if `None`.
    pub chunk_bytes: Option<u64>,
    /// Whether Commit may replace a file.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Permission bits.
    pub mode: u32,
    /// Modification time the file shall show, milliseconds since 1970; the commit's if `None`.
    pub modified_ms: Option<i64>,
}

/// A sealed chunk as its writer tells the masters. Seals of a file come in file order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The chunk.
    pub chunk: ChunkId,
    /// The generation that was sealed.
    pub generation: Generation,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// Its length.
    pub length: u64,
    /// Its CRC.
    pub crc: u32,
    /// The servers that acknowledged the seal. Copies of the others are dropped.
    pub members: Vec<ServerId>,
}

/// A change to the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Makes a directory. Answer: [`Response::Entry`].
    Mkdir {
        /// Where.
        path: FsPath,
        /// Whether missing directories above are made, and an existing directory is fine.
        parents: bool,
        /// Permission bits.
        mode: u32,
    },
    /// Begins an upload: an invisible inode and its first chunks. Answer: [`Response::Upload`].
    OpenUpload {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// Chunks to grant at once, at most [`crate::limits::GRANT_CHUNKS_MAX`].
        chunks: u8,
        /// Servers the writer found slow or dead.
        avoid: Vec<ServerId>,
    },
    /// Grants more chunks to an upload. Answer: [`Response::Chunks`].
    GrantChunks {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// Chunks to grant.
        chunks: u8,
        /// Servers the writer found slow or dead.
        avoid: Vec<ServerId>,
        /// Granted chunks the writer gave up.
        abandoned: Vec<ChunkId>,
    },
    /// Records sealed chunks, at most [`crate::limits::BATCH_ROWS_MAX`]. Answer: [`Response::Done`].
    SealChunks {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks, in file order, following those recorded before.
        seals: Vec<Seal>,
    },
    /// Records the last sealed chunks and makes the file appear. Answer: [`Response::Entry`].
    Commit {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks not recorded yet.
        seals: Vec<Seal>,
        /// Length of the file, compared with the chunks'.
        length: u64,
        /// CRC of the file, compared with the chunks'.
        crc: u32,
    },
    /// Gives an upload up. Answer: [`Response::Done`], also if it is gone already.
    AbortUpload {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
    },
    /// Keeps uploads and the session alive. Answer: [`Response::Done`].
    Renew {
        /// The uploads.
        uploads: Vec<(Ino, UploadGeneration)>,
    },
    /// Renames a file or directory. Answer: [`Response::Entry`].
    Rename {
        /// From.
        from: FsPath,
        /// To.
        to: FsPath,
        /// Whether a file (or an empty directory, by a directory) may be replaced.
        replace: bool,
    },
    /// Removes a file or directory. Answer: [`Response::Removed`].
    Remove {
        /// What.
        path: FsPath,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// Tells of a copy that cannot be trusted. Answer: [`Response::Done`]. The masters keep it as a report until
    /// the server's own re-read confirms it; readers are pointed to other copies first.
    ReportDamage {
        /// The chunk.
        chunk: ChunkId,
        /// Where.
        server: ServerId,
        /// Which copy.
        replica: ReplicaNumber,
        /// What was found.
        what: String,
    },
    /// Makes an empty file, in one log entry and without a chunk. Answer: [`Response::Entry`].
    CreateFile {
        /// Where.
        path: FsPath,
        /// How bytes appended later are stored; whether it may replace a file.
        options: UploadOptions,
    },
}

/// A read of the masters' state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Answer: [`Response::Entry`].
    Stat {
        /// Of what.
        path: FsPath,
    },
    /// A page of a directory in name order. Answer: [`Response::Page`].
    List {
        /// The directory.
        path: FsPath,
        /// Names after this one.
        after: Option<String>,
        /// At most so many entries, and at most [`crate::limits::LIST_PAGE_MAX`].
        limit: u32,
    },
    /// Where a file's bytes are. Answer: [`Response::Located`].
    Locate {
        /// The file.
        path: FsPath,
        /// If given, the file must still be this inode, so that pages fit together.
        ino: Option<Ino>,
        /// First byte of interest.
        offset: u64,
        /// Extents in the answer, at most [`crate::limits::GRANT_CHUNKS_MAX`] × 4.
        limit: u32,
        /// Makes read tokens for this session.
        session: crate::ids::SessionId,
    },
    /// One chunk's row. Answer: [`Response::Chunk`].
    Chunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The cluster at a glance. Answer: [`Response::Status`].
    Status,
    /// This master's state hash at a log index, if it has it yet. Answer: [`Response::StateHash`].
    StateHash {
        /// The log index of a mark ([`Admin::MarkHash`]).
        index: u64,
    },
}

/// An operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admin {
    /// Every master hashes its state at the log index of this entry. Answer: [`Response::Marked`].
    MarkHash,
    /// Adds a master: as a learner, then as a voter when it has caught up. Answer: [`Response::Done`].
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
    /// Removes a master. Its id is never used again. Answer: [`Response::Done`].
    RemoveMaster {
        /// The master.
        id: MasterId,
    },
    /// Hands leadership over. Answer: [`Response::Done`].
    TransferLeader {
        /// To whom; the most advanced follower if `None`.
        to: Option<MasterId>,
    },
    /// Builds a snapshot now. Answer: [`Response::Done`].
    Snapshot,
}

/// A chunkserver's introduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The number its directory holds; `None` if it is new and empty.
    pub server: Option<ServerId>,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// Counts its starts.
    pub boot: u64,
    /// Where clients and other servers reach it, `host:port`.
    pub address: String,
    /// Servers of one rack fail together.
    pub rack: String,
}

/// A chunkserver's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub server: ServerId,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// Highest epoch it obeyed.
    pub epoch: Epoch,
    /// Space and load.
    pub load: Load,
    /// Orders carried out since the last answered beat.
    pub done: Vec<OrderDone>,
    /// Copies found damaged by the server itself.
    pub damaged: Vec<Damage>,
}

/// Space and load of a chunkserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Bytes of its disks.
    pub bytes_total: u64,
    /// Bytes free for chunks, its reserve not counted.
    pub bytes_free: u64,
    /// Chunks it holds.
    pub chunks: u64,
    /// Streams open now.
    pub streams: u32,
    /// Disks that failed.
    pub disks_failed: u16,
    /// Disks that serve.
    pub disks_ok: u16,
}

/// A copy found damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy.
    pub replica: ReplicaNumber,
    /// What was found.
    pub what: String,
}

/// A master's order to a chunkserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Remove this copy: the Raft log says so.
    Drop {
        /// The chunk.
        chunk: ChunkId,
        /// The copy; another copy of the same chunk stays.
        replica: ReplicaNumber,
    },
}

/// An order that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderDone {
    /// The copy is gone (or was never there).
    Dropped {
        /// The chunk.
        chunk: ChunkId,
        /// The copy.
        replica: ReplicaNumber,
    },
}

/// How to reach a chunkserver: its address, a ticket, and the connection key that goes with the ticket, wrapped so
/// that only the asker can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAccess {
    /// The server.
    pub server: ServerId,
    /// Its name, for people.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Shown to the server.
    pub ticket: Ticket,
    /// The connection key, wrapped ([`crate::keys::unwrap_connection_key`]).
    pub wrapped_key: [u8; 32],
}

/// A copy of a chunk and the right to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Where.
    pub server: ServerId,
    /// The right.
    pub token: Token,
    /// Whether the masters think the server can be reached and the copy is not reported damaged.
    pub healthy: bool,
}

/// A chunk granted for writing. The chain is in the order of `replicas`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkGrant {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// The chain.
    pub replicas: Vec<Replica>,
}

/// A range of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The chunk that holds them.
    pub chunk: ChunkId,
    /// Where in the chunk they begin.
    pub chunk_offset: u64,
    /// The chunk's length.
    pub chunk_length: u64,
    /// The chunk's CRC, agreed by the masters.
    pub chunk_crc: u32,
    /// The chunk's generation.
    pub generation: Generation,
    /// Its copies.
    pub replicas: Vec<Replica>,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// A file or directory as `stat` and `list` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in its directory; `/` for the root.
    pub name: String,
    /// Its inode.
    pub ino: Ino,
    /// File or directory.
    pub kind: EntryKind,
    /// Bytes of the file; of all files below for a directory.
    pub length: u64,
    /// CRC of the whole file; 0 for a directory.
    pub crc: u32,
    /// Copies wanted; 0 for a directory.
    pub replicas: u8,
    /// Bytes of a chunk; 0 for a directory.
    pub chunk_bytes: u64,
    /// Chunks of the file; entries below a directory (files and directories).
    pub children: u64,
    /// Permission bits.
    pub mode: u32,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// Some chunk was written with fewer copies than wanted and not topped up yet.
    pub degraded: bool,
}

/// A page of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Entries in name order.
    pub entries: Vec<Entry>,
    /// Whether more follow the last.
    pub more: bool,
}

/// A file and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The file.
    pub entry: Entry,
    /// Extents from the one that holds the asked offset on.
    pub extents: Vec<Extent>,
    /// How to reach the servers of all replicas named.
    pub servers: Vec<ServerAccess>,
    /// Whether extents follow the last.
    pub more: bool,
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
}
