//! What is said to a chunkserver, by clients and by the server before it in a chain.
//!
//! A write is a stream: [`Request::OpenWrite`] opens it, then [`ToServer`] frames flow down and [`FromServer`]
//! frames flow up on the same stream id until `Sealed`, `Failed` or an abort. Everything else is one request and
//! one answer.

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::ids::{ChunkId, Generation, Ino, ServerId};
use crate::token::Token;

/// One server of a write chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The server.
    pub server: ServerId,
    /// Where it listens.
    pub address: String,
    /// The right to write there.
    pub token: Token,
}

/// What a write stream or small put is about. The chain's first hop is the receiver; it passes on the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSpec {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// The receiver first.
    pub chain: Vec<Hop>,
    /// The file it is written for, kept beside the chunk for disaster recovery.
    pub owner: Ino,
    /// Where in that file it begins.
    pub file_offset: u64,
    /// Most bytes the chunk may take.
    pub bytes_max: u64,
}

/// A request; answered with `Result<`[`Response`]`, WireError>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens a write stream along the chain; answered with [`Response::Opened`] when every hop is ready.
    OpenWrite(WriteSpec),
    /// Writes and seals a whole small chunk (the frame's payload) along the chain; answered with
    /// [`Response::Sealed`] when every hop has it on disk.
    PutSmall {
        /// What is written.
        spec: WriteSpec,
        /// CRC of each block of the payload.
        crcs: Vec<u32>,
    },
    /// Reads whole blocks of a sealed chunk that cover a range; answered with [`Response::Blocks`] and payload.
    Read {
        /// The right to read.
        token: Token,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted, at most [`crate::limits::READ_BYTES_MAX`] including the rounding to blocks.
        length: u32,
    },
    /// Re-reads a chunk from its disk (past the page cache where that is possible) and checks it; answered with
    /// [`Response::Verified`].
    Verify {
        /// The right to read.
        token: Token,
    },
    /// Whether the server is alive; answered with [`Response::Alive`]. A writer probes a hop that makes no progress.
    Probe,
    /// What the index says about a sealed chunk; answered with [`Response::Described`]. Who copies it keeps it, too.
    Describe {
        /// The right to read.
        token: Token,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The stream is open on every hop.
    Opened {
        /// Bytes that may be in flight before their ack: memory reserved for the stream.
        window_bytes: u32,
    },
    /// The chunk is on disk on every hop of the chain.
    Sealed {
        /// Its length.
        length: u64,
        /// Its CRC.
        crc: u32,
    },
    /// Blocks of a chunk, in the payload.
    Blocks {
        /// Offset in the chunk of the payload's first byte, a multiple of the block size.
        offset: u64,
        /// CRC stored for each block of the payload.
        crcs: Vec<u32>,
        /// Length of the whole chunk.
        chunk_length: u64,
        /// CRC of the whole chunk as this server's index has it.
        chunk_crc: u32,
    },
    /// What a re-read found.
    Verified(Verdict),
    /// The server is alive.
    Alive,
    /// What the index says about a sealed chunk.
    Described {
        /// The file it was written for.
        owner: Ino,
        /// Where in that file it begins.
        file_offset: u64,
        /// Its length.
        length: u64,
        /// Its CRC.
        crc: u32,
    },
}

/// What re-reading a chunk found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every block has its CRC; these are the chunk's own.
    Good {
        /// Length.
        length: u64,
        /// CRC of the bytes as read.
        crc: u32,
    },
    /// Not on this server.
    Missing,
    /// Still open: never sealed here.
    Unsealed {
        /// Length proved by its CRCs.
        length: u64,
    },
    /// Bytes do not have their CRC, or the file is shorter than the index says.
    Damaged {
        /// First bad byte's block offset in the chunk.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The disk could not read it.
    Unreadable {
        /// The error.
        what: String,
    },
}

/// What flows down an open write stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    /// Bytes for the chunk, in the frame's payload. Packets are in order without gaps; all but the last of a
    /// chunk are whole blocks.
    Packet {
        /// Offset in the chunk.
        offset: u64,
        /// CRC of each block of the payload.
        crcs: Vec<u32>,
    },
    /// Ends the chunk: every hop syncs it, records it, and answers up the chain with [`FromServer::Sealed`].
    Seal {
        /// Its length.
        length: u64,
        /// Its CRC, which every hop compares with its own.
        crc: u32,
    },
    /// Gives the stream up: every hop forgets it. What was stored stays until the masters order it dropped.
    Abort,
}

/// What flows up an open write stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer {
    /// Progress of each hop, the sender first: bytes verified and handed to the disk.
    Ack {
        /// Bytes stored per hop.
        stored: Vec<u64>,
    },
    /// The chunk is synced and recorded on this hop and every later one.
    Sealed {
        /// Its length.
        length: u64,
        /// Its CRC.
        crc: u32,
    },
    /// A hop failed; the stream is over.
    Failed {
        /// Which hop of the sender's chain (0 is the sender itself).
        hop: u8,
        /// Why.
        error: WireError,
    },
}
