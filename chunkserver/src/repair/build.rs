//! One chunk made of parts of others: they are read one after the other, from this server or another, over the way
//! clients read. Each block is compared with its CRC, each chunk that is read from with what the masters know of it, and
//! each part, as it is put into the new chunk, with its own CRC if that is known.
//!
//! What the parts make together no single CRC says for sure; the masters compare what all servers built.

use std::collections::BTreeMap;

use bytes::Bytes;
use gabion_protocol::checksum::{self, Running, block_crcs};
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX, MERGE_PIECES_MAX, READ_BYTES_MAX, SMALL_CHUNK_BYTES};
use gabion_protocol::messages::data::{Request, Response};
use gabion_protocol::messages::master::{BuildOrder, BuildPiece, OrderDone, ServerAccess};
use gabion_protocol::net::Connection;
use gabion_protocol::token::Token;
use gabion_protocol::{ServerId, WireError};
use tokio::sync::watch;

use crate::disk::{NewChunk, Packet};
use crate::pace::Share;

use super::Means;
use super::board::Ordered as _;
use super::pull::{ANSWER, Doubt, Failure, Outcome, unexpected};

/// Nobody is in need of a large chunk.
const SHARE: Share = Share::Small;

/// One chunk to be made.
pub(super) struct Build {
    means: Means,
    order: watch::Receiver<BuildOrder>,
}

impl Build {
    pub(super) fn new(means: Means, order: watch::Receiver<BuildOrder>) -> Self {
        Self { means, order }
    }

    /// Makes the chunk. What is reported is as durable as any sealed chunk.
    pub(super) async fn run(self) -> Outcome {
        let order = self.order.borrow().clone();
        let BuildOrder { chunk, replica, .. } = order;
        let mut pieces = Pieces::new(&self, &order);
        let built = match check(&order) {
            Ok(()) => self.build(&order, &mut pieces).await,
            Err(why) => Err(Failure::Wrong(why)),
        };
        let doubts = pieces.doubts;
        let why = match built {
            Ok((length, crc)) => {
                tracing::info!(%chunk, %replica, pieces = order.pieces.len(), length, "chunk made of others");
                let done = OrderDone::Copied {
                    chunk,
                    replica,
                    length,
                    crc,
                };
                return Outcome {
                    done: Some(done),
                    doubts,
                };
            }
            Err(Failure::Dropped) => return Outcome { done: None, doubts },
            Err(Failure::Own(error)) => error.to_string(),
            Err(Failure::Source(error)) => error.to_string(),
            Err(Failure::Wrong(what)) => what,
        };
        tracing::warn!(%chunk, %replica, why, "a chunk could not be made of others");
        Outcome {
            done: Some(OrderDone::CopyFailed { chunk, replica, why }),
            doubts,
        }
    }

    /// Its length and CRC.
    async fn build(&self, order: &BuildOrder, pieces: &mut Pieces<'_>) -> Result<(u64, u32), Failure> {
        let length = order.length();
        if let Some(there) = self.means.store.sealed(order.chunk, order.replica).await?
            && there.0 == length
        {
            // Made before a restart, or the report was lost with it.
            return Ok(there);
        }
        let new = NewChunk {
            chunk: order.chunk,
            generation: order.generation,
            replica: order.replica,
            owner: order.owner,
            file_offset: order.file_offset,
            bytes_max: length,
        };
        let stored = if length <= SMALL_CHUNK_BYTES {
            let packet = pieces.packet(0, length).await?;
            let crc = checksum::combine_blocks(packet.crcs(), length);
            let stored = self.means.together.put(SHARE, new, packet).await;
            stored.map(|()| (length, crc)).map_err(Failure::Own)
        } else {
            self.stream(new, pieces).await
        };
        // A copy that was dropped meanwhile failed for no reason worth telling.
        stored.map_err(|failure| match failure {
            Failure::Own(_) if self.means.store.was_dropped(order.chunk, order.replica) => Failure::Dropped,
            other => other,
        })
    }

    /// Writes a chunk with a file of its own: a packet is stored while the next is read.
    async fn stream(&self, new: NewChunk, pieces: &mut Pieces<'_>) -> Result<(u64, u32), Failure> {
        let opening = self.means.pace.turn(SHARE).await;
        let mut chunk = self.means.store.open_write(new).await?;
        drop(opening);
        let length = new.bytes_max;
        let mut packet = pieces.packet(0, length).await?;
        loop {
            let at = chunk.length();
            chunk.append(&packet)?;
            let storing = async {
                let _turn = self.means.pace.turn(SHARE).await;
                chunk.write(at, vec![packet.bytes().clone()]).await
            };
            let next = chunk.length();
            let step = async {
                if next == length {
                    storing.await?;
                    return Ok(None);
                }
                let (stored, read) = tokio::join!(storing, pieces.packet(next, length));
                stored?;
                read.map(Some)
            };
            let next_packet: Result<_, Failure> = tokio::select! {
                next = step => next,
                () = chunk.cancelled() => return Err(Failure::Dropped),
            };
            match next_packet? {
                Some(next) => packet = next,
                None => break,
            }
        }
        let crc = chunk.crc();
        let _turn = self.means.pace.turn(SHARE).await;
        chunk.seal(length, crc).await?;
        Ok((length, crc))
    }
}

/// Whether an order can be carried out at all.
fn check(order: &BuildOrder) -> Result<(), String> {
    let length = order.length();
    if length == 0 || length > CHUNK_BYTES_MAX || order.pieces.len() > MERGE_PIECES_MAX {
        return Err(format!("{} parts of {length} bytes make no chunk", order.pieces.len()));
    }
    let lies_within = |piece: &BuildPiece| {
        let end = piece.offset.checked_add(piece.length);
        piece.length > 0 && end.is_some_and(|end| end <= piece.chunk_length)
    };
    match order.pieces.iter().find(|piece| !lies_within(piece)) {
        Some(piece) => Err(format!("a part does not lie within chunk {}", piece.chunk)),
        None => Ok(()),
    }
}

/// The pieces of an order as one stream of bytes.
struct Pieces<'a> {
    build: &'a Build,
    order: &'a BuildOrder,
    accesses: BTreeMap<ServerId, &'a ServerAccess>,
    /// The piece that is read, and what was read of it.
    at: usize,
    read: Running,
    doubts: Vec<Doubt>,
}

impl<'a> Pieces<'a> {
    fn new(build: &'a Build, order: &'a BuildOrder) -> Self {
        let accesses = order.accesses.iter().map(|access| (access.server, access));
        Self {
            build,
            order,
            accesses: accesses.collect(),
            at: 0,
            read: Running::default(),
            doubts: Vec::new(),
        }
    }

    /// The next packet of the new chunk, which begins at `offset` in it and has `length` bytes in all: whole blocks, but
    /// at the end.
    async fn packet(&mut self, offset: u64, length: u64) -> Result<Packet, Failure> {
        let most = (self.build.means.pace.piece_bytes() as u64).max(SMALL_CHUNK_BYTES);
        let wanted = (length - offset).min(most) as usize;
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            self.read_on(&mut bytes, wanted).await?;
        }
        let bytes = Bytes::from(bytes);
        Ok(Packet::verify(self.order.chunk, offset, block_crcs(&bytes), bytes)?)
    }

    /// Reads on in the piece that is read, at most until there are `wanted` bytes.
    async fn read_on(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> Result<(), Failure> {
        let piece = &self.order.pieces[self.at];
        let offset = piece.offset + self.read.len();
        let most = (READ_BYTES_MAX - BLOCK_BYTES) as u64;
        let length = (piece.length - self.read.len())
            .min((wanted - bytes.len()) as u64)
            .min(most);
        let part = self.fetch(piece, offset, length).await?;
        let from = bytes.len();
        bytes.extend_from_slice(&part);
        // Of the bytes where they are now, not where they came from.
        self.read.append(checksum::crc(&bytes[from..]), length);
        if self.read.len() == piece.length {
            if piece.crc.is_some_and(|crc| crc != self.read.crc()) {
                return Err(Failure::Wrong(format!(
                    "a part of chunk {} has CRC {:08x}, the masters know another",
                    piece.chunk,
                    self.read.crc()
                )));
            }
            self.at += 1;
            self.read = Running::default();
        }
        Ok(())
    }

    /// Some bytes of a piece's chunk, from the first source that has them.
    async fn fetch(&mut self, piece: &BuildPiece, offset: u64, length: u64) -> Result<Bytes, Failure> {
        let mut reasons = Vec::new();
        for source in &self.sources(piece) {
            let server = source.grant.server;
            let Some(access) = self.accesses.get(&server) else {
                continue;
            };
            let connection = match self.build.means.peers.connection_by(access).await {
                Ok(connection) => connection,
                Err(error) => {
                    reasons.push(format!("c{server}: {error}"));
                    continue;
                }
            };
            match read(&connection, source, piece, offset, length).await {
                Ok(bytes) => return Ok(bytes),
                Err(Failure::Source(error)) => {
                    self.build.means.peers.note(server, &connection, &error);
                    reasons.push(format!("c{server}: {error}"));
                }
                Err(Failure::Wrong(what)) => {
                    tracing::warn!(chunk = %piece.chunk, from = %server, what, "a source's bytes are wrong");
                    reasons.push(format!("c{server}: {what}"));
                    self.doubts.push(Doubt {
                        connection,
                        source: *source,
                        chunk: piece.chunk,
                        known: (piece.chunk_length, piece.chunk_crc),
                    });
                }
                Err(own) => return Err(own),
            }
        }
        if reasons.is_empty() {
            reasons.push("no server is named to read it from".to_owned());
        }
        Err(Failure::Wrong(format!(
            "cannot read chunk {}: {}",
            piece.chunk,
            reasons.join("; ")
        )))
    }

    /// Whom to read a piece from, with the newest tokens.
    fn sources(&self, piece: &BuildPiece) -> Vec<Token> {
        let newest = self.build.order.borrow();
        let same = newest.pieces.get(self.at).filter(|newest| newest.chunk == piece.chunk);
        same.unwrap_or(piece).sources.clone()
    }
}

/// Reads from one source, and compares what comes with its CRCs.
async fn read(
    connection: &Connection,
    source: &Token,
    piece: &BuildPiece,
    offset: u64,
    length: u64,
) -> Result<Bytes, Failure> {
    let request = Request::Read {
        token: *source,
        offset,
        length: length as u32,
    };
    let answer: Result<_, WireError> = connection.call(Kind::DataRequest, &request, Bytes::new(), ANSWER).await;
    let (
        Response::Blocks {
            offset: from,
            crcs,
            chunk_length,
            chunk_crc,
        },
        payload,
    ) = answer?
    else {
        return Err(unexpected(source.grant.server).into());
    };
    if (chunk_length, chunk_crc) != (piece.chunk_length, piece.chunk_crc) {
        return Err(Failure::Wrong(format!(
            "its index has {chunk_length} bytes with CRC {chunk_crc:08x}, the masters have {} with {:08x}",
            piece.chunk_length, piece.chunk_crc
        )));
    }
    let end = from.saturating_add(payload.len() as u64);
    if from > offset || offset + length > end {
        return Err(Failure::Wrong(format!(
            "bytes {from} to {end} came instead of {length} from {offset} on"
        )));
    }
    let blocks = Packet::verify(piece.chunk, from, crcs, payload).map_err(|error| Failure::Wrong(error.to_string()))?;
    let begin = (offset - from) as usize;
    Ok(blocks.bytes().slice(begin..begin + length as usize))
}

#[cfg(test)]
mod tests {
    use gabion_protocol::{ChunkId, Generation, Ino, ReplicaNumber};

    use super::*;

    fn order(pieces: &[(u64, u64, u64)]) -> BuildOrder {
        let piece = |(chunk_length, offset, length): &(u64, u64, u64)| BuildPiece {
            chunk: ChunkId::from_bytes([0; 14]),
            chunk_length: *chunk_length,
            chunk_crc: 1,
            offset: *offset,
            length: *length,
            crc: None,
            sources: Vec::new(),
        };
        BuildOrder {
            chunk: ChunkId::from_bytes([0; 14]),
            generation: Generation(1),
            replica: ReplicaNumber(1),
            owner: Ino(5),
            file_offset: 0,
            pieces: pieces.iter().map(piece).collect(),
            accesses: Vec::new(),
        }
    }

    #[test]
    fn parts_lie_within_their_chunks_and_make_one() {
        assert!(check(&order(&[(10, 0, 10), (10, 9, 1)])).is_ok());
        for parts in [
            &[][..],
            &[(10, 0, 0)],
            &[(10, 5, 6)],
            &[(10, u64::MAX, 2)],
            &[(CHUNK_BYTES_MAX, 0, CHUNK_BYTES_MAX), (1, 0, 1)],
            &[(1, 0, 1); MERGE_PIECES_MAX + 1],
        ] {
            assert!(check(&order(parts)).is_err(), "{} parts", parts.len());
        }
    }
}
