//! Replies: what a command did, or the rule by which it was refused **[format]**.
//!
//! A reply is stored for retries, so every byte of it must be equal on all masters, also while they run different
//! releases. Therefore a refusal holds facts, not text: [`Refusal::to_wire`] makes the text when it leaves the master.

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, Generation, Ino, ReplicaNumber, ServerId, StateTime, UploadGeneration};
use gabion_protocol::messages::master::{Entry, FileVersion, SnapshotInfo, TreeProgress};
use serde::{Deserialize, Serialize};

use super::command::CommandError;
pub use super::refusal::Refusal;

/// The version byte of an encoded reply.
pub const REPLY_VERSION: u8 = 1;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reply(pub Result<Outcome, Refusal>);

impl Reply {
    /// The reply's bytes as `apply` gives them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::key::versioned(REPLY_VERSION, self)
    }

    /// The reply of these bytes.
    ///
    /// # Errors
    /// [`CommandError`] if this program does not know it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        match bytes.split_first() {
            Some((&REPLY_VERSION, rest)) => Ok(gabion_protocol::messages::decode(rest)?),
            Some((&version, _)) => Err(CommandError::Version { version }),
            None => Err(CommandError::Empty),
        }
    }

    /// The outcome, or the refusal as an error that begins with `cannot` ([`super::Command::cannot`]).
    ///
    /// # Errors
    /// The refusal.
    pub fn into_wire(self, cannot: &str) -> Result<Outcome, WireError> {
        self.0.map_err(|refusal| refusal.to_wire(cannot))
    }
}

/// What a command did. The order is the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing more to say.
    Done,
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
        chunks: Vec<GrantedChunk>,
    },
    /// Chunks granted.
    Chunks(Vec<GrantedChunk>),
    /// What went away.
    Removed {
        /// Files.
        files: u64,
        /// Directories.
        directories: u64,
        /// Bytes of the files.
        bytes: u64,
    },
    /// A chunkserver is registered.
    Registered {
        /// Its number, for ever.
        server: ServerId,
    },
    /// Every master hashes its state at this log index.
    Marked {
        /// The index.
        index: u64,
    },
    /// Time has moved.
    Ticked {
        /// State time.
        now: StateTime,
        /// Whether more was due than one tick does: tick again soon.
        more: bool,
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
    /// Copies were added, made or dropped, except those that are named.
    Repaired {
        /// Chunks that stayed as they were, each with the reason.
        refused: Vec<(ChunkId, Refusal)>,
    },
    /// A part of a file was copied.
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
    /// A resumable upload has begun, or was taken over.
    Resumed {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// Bytes of a chunk.
        chunk_bytes: u64,
        /// Copies wanted.
        replicas: u8,
        /// Bytes recorded.
        length: u64,
        /// Their CRC.
        crc: u32,
    },
    /// Chunks are part of a file.
    Spliced {
        /// Where the first of them begins.
        offset: u64,
        /// The file's length now.
        length: u64,
    },
    /// A file is shorter or longer.
    Truncated {
        /// Its length now.
        length: u64,
    },
    /// Chunks want another number of copies.
    ReplicasSet {
        /// Where the next step begins; `None` at the file's end.
        next: Option<u64>,
    },
    /// The right to be a file's only writer.
    WriteLease {
        /// Its number.
        lease: u64,
        /// When it ends.
        until: StateTime,
    },
    /// A snapshot was made.
    Snapshot(SnapshotInfo),
    /// A part of a directory was copied.
    TreeCopied(TreeProgress),
}

/// A chunk granted for writing. The server shell adds tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// The chain.
    pub replicas: Vec<(ServerId, ReplicaNumber)>,
}
