//! Chunkservers: how they introduce themselves, their heartbeats, their orders, and how they are reached.

use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, Epoch, Generation, Incarnation, Ino, ReplicaNumber, ServerId};
use crate::keys::Ticket;
use crate::token::Token;

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
    /// Make this copy: the Raft log has its row. Repeated with each beat until it is reported made or failed.
    Copy(CopyOrder),
    /// Re-read this copy, which a reader reported, and say whether it is damaged.
    Verify {
        /// The chunk.
        chunk: ChunkId,
        /// The copy.
        replica: ReplicaNumber,
    },
    /// Make this copy of a chunk that is to take the place of small ones: the Raft log has its row. Repeated with each
    /// beat until it is reported made or failed.
    Build(BuildOrder),
}

/// A copy to be made of a sealed chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrder {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// The copy.
    pub replica: ReplicaNumber,
    /// The chunk's bytes, as the masters know them.
    pub length: u64,
    /// Their CRC.
    pub crc: u32,
    /// Whom to copy it from, in this order; at most [`crate::limits::COPY_SOURCES_MAX`].
    pub sources: Vec<CopySource>,
}

/// A server that holds a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySource {
    /// How to reach it.
    pub access: ServerAccess,
    /// The right to read its copy.
    pub token: Token,
}

/// A copy of a chunk that is made of parts of others, one after the other. What became of it is told as of a [`CopyOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOrder {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// The copy.
    pub replica: ReplicaNumber,
    /// The file it is for, kept beside the chunk for disaster recovery.
    pub owner: Ino,
    /// Where in that file it begins.
    pub file_offset: u64,
    /// What it is made of; at most [`crate::limits::MERGE_PIECES_MAX`].
    pub pieces: Vec<BuildPiece>,
    /// How to reach the servers of all pieces.
    pub accesses: Vec<ServerAccess>,
}

/// A part of a sealed chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildPiece {
    /// The chunk.
    pub chunk: ChunkId,
    /// The whole chunk's bytes, as the masters know them.
    pub chunk_length: u64,
    /// Their CRC.
    pub chunk_crc: u32,
    /// Where in the chunk the part begins.
    pub offset: u64,
    /// Bytes of the part.
    pub length: u64,
    /// Their CRC, if it is known.
    pub crc: Option<u32>,
    /// The right to read copies, in the order to try them; at most [`crate::limits::MERGE_SOURCES_MAX`].
    pub sources: Vec<Token>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderDone {
    /// The copy is gone (or was never there).
    Dropped {
        /// The chunk.
        chunk: ChunkId,
        /// The copy.
        replica: ReplicaNumber,
    },
    /// The copy is on disk, synced, with this length and CRC.
    Copied {
        /// The chunk.
        chunk: ChunkId,
        /// The copy.
        replica: ReplicaNumber,
        /// Its bytes.
        length: u64,
        /// Their CRC.
        crc: u32,
    },
    /// The copy could not be made.
    CopyFailed {
        /// The chunk.
        chunk: ChunkId,
        /// The copy.
        replica: ReplicaNumber,
        /// Why.
        why: String,
    },
    /// Another server's copy is sound in itself and not the chunk the masters know.
    SourceDiffers {
        /// The chunk.
        chunk: ChunkId,
        /// Whose copy.
        server: ServerId,
        /// Which copy.
        replica: ReplicaNumber,
        /// What was found.
        what: String,
    },
    /// The copy was re-read from its disk and is whole. A damaged one is in [`Beat::damaged`] instead.
    Intact {
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
