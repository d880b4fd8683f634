//! Names and files: what clients ask the masters to change and to read, and where bytes are.

use serde::{Deserialize, Serialize};

use super::{
    AttributeChange, FileChange, LinkChange, QuotaChange, Room, ServerAccess, TrashAfter, TrashId, TrashRef, TreeCopy,
};
use crate::ids::{ChunkId, Generation, Ino, ReplicaNumber, ServerId, UploadGeneration};
use crate::path::FsPath;
use crate::token::Token;

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
    /// Makes a directory. Answer: `Response::Entry`.
    Mkdir {
        /// Where.
        path: FsPath,
        /// Whether missing directories above are made, and an existing directory is fine.
        parents: bool,
        /// Permission bits.
        mode: u32,
    },
    /// Begins an upload: an invisible inode and its first chunks. Answer: `Response::Upload`.
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
    /// Grants more chunks to an upload. Answer: `Response::Chunks`.
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
    /// Records sealed chunks, at most [`crate::limits::BATCH_ROWS_MAX`]. Answer: `Response::Done`.
    SealChunks {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks, in file order, following those recorded before.
        seals: Vec<Seal>,
    },
    /// Records the last sealed chunks and makes the file appear. Answer: `Response::Entry`.
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
    /// Gives an upload up. Answer: `Response::Done`, also if it is gone already.
    AbortUpload {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
    },
    /// Keeps uploads and the session alive. Answer: `Response::Done`.
    Renew {
        /// The uploads.
        uploads: Vec<(Ino, UploadGeneration)>,
    },
    /// Renames a file or directory. Answer: `Response::Entry`.
    Rename {
        /// From.
        from: FsPath,
        /// To.
        to: FsPath,
        /// Whether a file (or an empty directory, by a directory) may be replaced.
        replace: bool,
    },
    /// Removes a file or directory for good. Answer: `Response::Removed`.
    Remove {
        /// What.
        path: FsPath,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// Tells of a copy that cannot be trusted. Answer: `Response::Done`. The masters keep it as a report until
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
    /// Makes an empty file, in one log entry and without a chunk. Answer: `Response::Entry`.
    CreateFile {
        /// Where.
        path: FsPath,
        /// How bytes appended later are stored; whether it may replace a file.
        options: UploadOptions,
    },
    /// Grants chunks for small files that nobody has named yet, one chunk each. Answer: `Response::Upload`: the stock's
    /// number, which is renewed and given up like an upload's. The file that takes the n-th chunk (from 0) will be
    /// the inode n + 1 after it; chunkservers are told that inode.
    OpenStock {
        /// Copies of each; the cluster's default if `None`.
        replicas: Option<u8>,
        /// Chunks to grant, at most [`crate::limits::GRANT_CHUNKS_MAX`].
        chunks: u8,
        /// Servers the writer found slow or dead.
        avoid: Vec<ServerId>,
    },
    /// Makes a file appear whose only chunk is one of a stock. Answer: `Response::Entry`.
    PutFile {
        /// Where.
        path: FsPath,
        /// How it is stored; its copies must be the stock's.
        options: UploadOptions,
        /// The stock.
        stock: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunk, at offset 0: its length and CRC are the file's.
        seal: Seal,
    },
    /// Moves a file or directory to the trash, or removes it for good if the cluster keeps none. Answer:
    /// `Response::Trashed`, or `Response::Removed`.
    MoveToTrash {
        /// What.
        path: FsPath,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// Takes a file or whole tree back out of the trash, in one step. Answer: `Response::Entry`.
    Restore {
        /// What.
        what: TrashRef,
        /// Where to; where it was if `None`.
        to: Option<FsPath>,
    },
    /// Removes things in the trash for good, at most [`crate::limits::BATCH_ROWS_MAX`]. Those that are there no more
    /// are passed over. Answer: `Response::Removed`.
    EmptyTrash {
        /// Which.
        entries: Vec<TrashId>,
    },
    /// Changes what is told of a file or directory, not what it holds. Answer: `Response::Entry`.
    SetAttributes {
        /// Of what.
        path: FsPath,
        /// Permission bits, if they change.
        mode: Option<u32>,
        /// Modification time, milliseconds since 1970, if it changes.
        modified_ms: Option<i64>,
    },
    /// Makes a file of the contents of others, one after the other, in one step and without moving a byte: it shares
    /// their chunks. Later changes to one do not show in the other. Answer: `Response::Entry`.
    Copy(CopyFiles),
    /// Adds a part of a file's content to the end of an upload, by reference: for copies of more extents than one
    /// step makes. Answer: `Response::Copied`.
    CopyExtents {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The file.
        source: FsPath,
        /// Where in the file to go on: the end of what was copied before.
        offset: u64,
        /// What the step before answered; the file must not have changed since.
        version: Option<FileVersion>,
    },
    /// Begins an upload that outlives its client, or takes over the one the same identity left on the way to the same
    /// path. Grants no chunk. Answer: `Response::Resumed`.
    ResumeUpload {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored. What was begun with other copies or another chunk size is given up.
        options: UploadOptions,
        /// Milliseconds it is kept after its lease has ended, at most [`crate::limits::RESUME_MS_MAX`].
        keep_ms: u64,
    },
    /// Changes owner, group or an extended attribute of a file or directory. Answer: `Response::Entry`.
    ChangeAttributes {
        /// Of what.
        path: FsPath,
        /// The change.
        change: AttributeChange,
    },
    /// Changes a file that is there. Answer: what the [`FileChange`] says.
    ChangeFile(FileChange),
    /// Changes what a chunkserver is there for. For operators only. Answer: `Response::Done`.
    SetCondition {
        /// The server.
        server: ServerId,
        /// How.
        change: super::ConditionChange,
        /// Also if chunks have fewer copies than wanted, or none, that can be read meanwhile. Never lets a needed copy
        /// be removed.
        force: bool,
    },
    /// Lets copies be moved from full chunkservers to empty ones, or not. For operators only. Answer: `Response::Done`.
    SetBalance {
        /// Whether they are.
        runs: bool,
    },
    /// Makes a snapshot of a directory, at once. Answer: `Response::Snapshot`.
    CreateSnapshot {
        /// The directory.
        path: FsPath,
        /// The snapshot's name: one name of a path, without an at sign.
        name: String,
    },
    /// Removes a snapshot. Answer: `Response::Done`.
    RemoveSnapshot {
        /// Its directory.
        path: FsPath,
        /// Its name.
        name: String,
    },
    /// As [`Op::OpenUpload`], by a writer who says what room it will take: that is reserved where quotas ask for it.
    /// Answer: `Response::Upload`.
    OpenSized {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// Chunks to grant at once, at most [`crate::limits::GRANT_CHUNKS_MAX`].
        chunks: u8,
        /// Servers the writer found slow or dead.
        avoid: Vec<ServerId>,
        /// The room.
        room: Room,
    },
    /// As [`Op::ResumeUpload`], of a file whose length is known. Answer: `Response::Resumed`.
    ResumeSized {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// Milliseconds it is kept after its lease has ended, at most [`crate::limits::RESUME_MS_MAX`].
        keep_ms: u64,
        /// Bytes of the whole file.
        length: u64,
    },
    /// Changes how much a directory may hold. For operators only. Answer: `Response::Done`.
    SetQuota {
        /// The directory.
        path: FsPath,
        /// How.
        change: QuotaChange,
    },
    /// Copies a directory with all it holds, in steps. Answer: `Response::TreeCopied`.
    CopyTree(TreeCopy),
    /// Makes a symbolic link, or changes what is told of one. Answer: `Response::Entry`.
    Link(LinkChange),
}

/// A copy by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFiles {
    /// The files, at most [`crate::limits::BATCH_ROWS_MAX`]; together at most
    /// [`crate::limits::COPY_EXTENTS_MAX`] extents.
    pub sources: Vec<FsPath>,
    /// Where.
    pub to: FsPath,
    /// Whether a file may be replaced.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Whether the first file's modification time is taken over, too.
    pub keep_time: bool,
}

/// What a file's content was at a moment: two equal ones mean that it has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// The inode.
    pub ino: Ino,
    /// Counts the changes of its content.
    pub generation: u32,
}

/// A read of the masters' state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Answer: `Response::Entry`.
    Stat {
        /// Of what.
        path: FsPath,
    },
    /// A page of a directory in name order. Answer: `Response::Page`.
    List {
        /// The directory.
        path: FsPath,
        /// Names after this one.
        after: Option<String>,
        /// At most so many entries, and at most [`crate::limits::LIST_PAGE_MAX`].
        limit: u32,
    },
    /// Where a file's bytes are. Answer: `Response::Located`.
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
    /// One chunk's row. Answer: `Response::Chunk`.
    Chunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The cluster at a glance. Answer: `Response::Status`.
    Status,
    /// This master's state hash at a log index, if it has it yet. Answer: `Response::StateHash`.
    StateHash {
        /// The log index of a mark (`Admin::MarkHash`).
        index: u64,
    },
    /// A page of the trash, what goes first in front. Answer: `Response::Trash`.
    Trash {
        /// After this entry.
        after: Option<TrashAfter>,
        /// At most so many entries, and at most [`crate::limits::LIST_PAGE_MAX`].
        limit: u32,
    },
    /// One thing in the trash. Answer: `Response::TrashEntry`.
    Trashed {
        /// Which.
        what: TrashRef,
    },
    /// A page of the chunks that are not as they should be, in the order of ids. Answer: `Response::ChunkPage`.
    Troubled {
        /// How.
        trouble: super::ChunkTrouble,
        /// Chunks after this one.
        after: Option<ChunkId>,
    },
    /// What repair does. Answer: `Response::Repairs`.
    Repairs,
    /// Owner, group and extended attributes. Answer: `Response::Attributes`.
    Attributes {
        /// Of what.
        path: FsPath,
    },
    /// The chunkservers and their conditions. Answer: `Response::Servers`.
    Servers,
    /// What a chunkserver holds and what would become of it: a walk over its copies. Answer: `Response::ServerPlan`.
    ServerPlan {
        /// The server.
        server: ServerId,
    },
    /// How full the chunkservers are, and what would be moved between them: a walk over copies of full ones. Answer:
    /// `Response::BalancePlan`.
    BalancePlan,
    /// A page of the snapshots of a directory, or of all. Answer: `Response::Snapshots`.
    Snapshots {
        /// The directory; all if `None`.
        path: Option<FsPath>,
        /// After this one.
        after: Option<super::SnapshotAfter>,
        /// At most so many, and at most [`crate::limits::LIST_PAGE_MAX`].
        limit: u32,
    },
    /// The quotas of a directory and of those above it. Answer: `Response::Quota`.
    Quota {
        /// The directory.
        path: FsPath,
    },
    /// Where a path leads when every symbolic link is followed, also one at its end. Answer: `Response::Resolved`.
    Resolve {
        /// The path.
        path: FsPath,
    },
    /// What becomes of small chunks. Answer: `Response::Merges`.
    Merges,
    /// The same where nothing need be at the end, in a directory that is there. Answer: `Response::Place`.
    Place {
        /// The path.
        path: FsPath,
    },
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// The path it stands for: absolute, or from the directory that the link is in. Nothing need be there.
        target: String,
    },
}

/// A file, directory or symbolic link as `stat` and `list` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in its directory; `/` for the root.
    pub name: String,
    /// Its inode.
    pub ino: Ino,
    /// File, directory or link.
    pub kind: EntryKind,
    /// Bytes of the file; of all files and links below for a directory; of its target for a link.
    pub length: u64,
    /// CRC of the whole file; 0 for others. 0 also stands for a CRC that nobody knows, see [`Entry::known_crc`].
    pub crc: u32,
    /// Copies wanted; 0 for all but files.
    pub replicas: u8,
    /// Bytes of a chunk; 0 for all but files.
    pub chunk_bytes: u64,
    /// Chunks of the file; entries below a directory; 0 for a link.
    pub children: u64,
    /// Permission bits.
    pub mode: u32,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// Some chunk was written with fewer copies than wanted and not topped up yet.
    pub degraded: bool,
}

impl Entry {
    /// Whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    /// The target, if it is a symbolic link.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match &self.kind {
            EntryKind::Link { target } => Some(target),
            EntryKind::File | EntryKind::Directory => None,
        }
    }

    /// The CRC of the whole file, if it is known. An overwrite in the middle makes it unknown; one whose CRC happens to
    /// be 0 passes for unknown, too, which only costs a comparison.
    #[must_use]
    pub fn known_crc(&self) -> Option<u32> {
        (self.crc != 0 || self.length == 0).then_some(self.crc)
    }
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
