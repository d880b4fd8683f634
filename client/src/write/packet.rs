//! Packets, and a chunk's packets in order: new ones as they come, and again from the start when a chain failed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gabion_protocol::buffer::{Buffer, Pool};
use gabion_protocol::checksum::block_crcs;
use gabion_protocol::limits::PACKET_BYTES;
use tokio::sync::mpsc;

use crate::Error;

/// Idle bytes kept in packet buffers: the packets of one default chunk, so that a pipe's kept packets are reused.
const POOL_BYTES: usize = 64 << 20;

/// An empty packet buffer.
pub(super) fn buffer(len: usize) -> Buffer {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(POOL_BYTES)).take(len)
}

/// Bytes of the packet that begins at `offset` of a chunk of at most `chunk_bytes`.
pub(super) fn packet_len(chunk_bytes: u64, offset: u64) -> usize {
    usize::try_from(chunk_bytes - offset).map_or(PACKET_BYTES, |left| left.min(PACKET_BYTES))
}

/// Bytes with the CRC of each block, made once.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) bytes: Bytes,
    pub(super) crcs: Vec<u32>,
}

impl Packet {
    pub(super) fn new(bytes: Bytes) -> Self {
        let crcs = block_crcs(&bytes);
        Self { bytes, crcs }
    }

    /// Reads `len` bytes at `offset`; fewer only at the end of the file.
    pub(super) fn read(file: &File, offset: u64, len: usize) -> std::io::Result<Self> {
        let mut buffer = buffer(len);
        let memory = buffer.as_mut();
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut memory[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::new(buffer.freeze().slice(..filled)))
    }
}

/// What comes down the channel to a chunk's writer.
#[derive(Debug)]
pub(super) enum Piece {
    Packet(Packet),
    /// The chunk is complete. A channel that closes without it was abandoned.
    End,
}

/// Where a chunk's packets come from when they are needed again.
#[derive(Debug)]
pub(super) enum Replay {
    /// They are kept until the chunk is sealed: a pipe cannot be read twice.
    Kept(Vec<Packet>),
    /// They are read again, so that a file costs no memory.
    File {
        file: Arc<File>,
        /// Where in the file the chunk begins.
        offset: u64,
    },
}

/// A chunk's packets in order.
#[derive(Debug)]
pub(super) struct Feed {
    live: mpsc::Receiver<Piece>,
    replay: Replay,
    chunk_bytes: u64,
    /// Bytes that came from the channel.
    received: u64,
    /// Bytes given out since the last rewind.
    given: u64,
    /// Packets given out since the last rewind.
    index: usize,
    ended: bool,
}

impl Feed {
    pub(super) fn new(live: mpsc::Receiver<Piece>, replay: Replay, chunk_bytes: u64) -> Self {
        Self {
            live,
            replay,
            chunk_bytes,
            received: 0,
            given: 0,
            index: 0,
            ended: false,
        }
    }

    /// Begins again with the first packet.
    pub(super) fn rewind(&mut self) {
        self.given = 0;
        self.index = 0;
    }

    /// The next packet; `None` at the end of the chunk. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Packet>, Error> {
        let packet = if self.given < self.received {
            self.again().await?
        } else if self.ended {
            return Ok(None);
        } else {
            match self.live.recv().await {
                Some(Piece::Packet(packet)) => packet,
                Some(Piece::End) => {
                    self.ended = true;
                    return Ok(None);
                }
                None => return Err(Error::interrupted("the upload was given up")),
            }
        };
        let is_new = self.given == self.received;
        self.given += packet.bytes.len() as u64;
        self.index += 1;
        if is_new {
            self.received = self.given;
            if let Replay::Kept(kept) = &mut self.replay {
                kept.push(packet.clone());
            }
        }
        Ok(Some(packet))
    }

    async fn again(&self) -> Result<Packet, Error> {
        match &self.replay {
            Replay::Kept(kept) => Ok(kept[self.index].clone()),
            Replay::File { file, offset } => {
                let (file, at) = (Arc::clone(file), offset + self.given);
                let left = usize::try_from(self.received - self.given).unwrap_or(PACKET_BYTES);
                let len = packet_len(self.chunk_bytes, self.given).min(left);
                read_packet(file, at, len).await
            }
        }
    }
}

/// Reads a packet of exactly `len` bytes on a thread that may block.
async fn read_packet(file: Arc<File>, offset: u64, len: usize) -> Result<Packet, Error> {
    let what = "cannot read the local file again";
    let packet = tokio::task::spawn_blocking(move || Packet::read(&file, offset, len))
        .await
        .map_err(|_| Error::interrupted(what))?
        .map_err(|error| Error::local(what, &error))?;
    if packet.bytes.len() < len {
        return Err(became_shorter());
    }
    Ok(packet)
}

/// The local file is not what it was when the upload began.
pub(super) fn became_shorter() -> Error {
    gabion_protocol::WireError::new(
        gabion_protocol::ErrorCode::Conflict,
        "the local file became shorter while it was uploaded",
    )
    .action(gabion_protocol::Action::GiveUp)
    .help("upload it again when nobody writes to it")
    .into()
}
