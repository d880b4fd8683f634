//! One copy: its bytes come from another server over the way clients read, block by block with their CRCs, and are
//! compared with the masters' length and CRC before anything calls them the chunk.
//!
//! One source gives a whole copy: if it fails or is wrong, the copy begins anew with the next. Bytes that are wrong say
//! that either they were damaged on their way or the source has a bad copy; the source is asked to read it again, and
//! sets it aside itself.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::checksum;
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::{CHUNK_BYTES_MAX, SMALL_CHUNK_BYTES};
use gabion_protocol::messages::data::{Request, Response, Verdict};
use gabion_protocol::messages::master::{CopyOrder, CopySource, OrderDone};
use gabion_protocol::net::Connection;
use gabion_protocol::token::Token;
use gabion_protocol::{ChunkId, ErrorCode, ServerId, WireError};
use tokio::sync::watch;

use crate::disk::{DiskError, NewChunk, OpenChunk, Packet};
use crate::pace::Share;

use super::Means;

/// Longest wait for one answer of a source: its disk may be busy, and nobody waits for this copy but safety.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a source to read a whole copy again.
const VERIFY: Duration = Duration::from_secs(120);

/// One copy to be made.
pub(super) struct Pull {
    means: Means,
    share: Share,
    order: watch::Receiver<CopyOrder>,
}

/// What became of it.
pub(super) struct Outcome {
    /// What the masters are told; nothing if they have ordered the copy dropped meanwhile.
    pub(super) done: Option<OrderDone>,
    /// Sources whose bytes were wrong.
    pub(super) doubts: Vec<Doubt>,
}

/// A source whose bytes were wrong.
pub(super) struct Doubt {
    pub(super) connection: Connection,
    pub(super) source: Token,
    pub(super) chunk: ChunkId,
    /// What the masters know of the chunk: length and CRC.
    pub(super) known: (u64, u32),
}

/// Why a source did not give the copy.
pub(super) enum Failure {
    /// The masters want it no more.
    Dropped,
    /// This server cannot store it.
    Own(DiskError),
    /// The source does not answer, or refuses.
    Source(WireError),
    /// The source's bytes are not the chunk.
    Wrong(String),
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Own(error)
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Source(error)
    }
}

impl Pull {
    pub(super) fn new(means: Means, order: watch::Receiver<CopyOrder>) -> Self {
        let is_last = order.borrow().sources.len() < 2;
        let share = if is_last { Share::Half } else { Share::Small };
        Self { means, share, order }
    }

    /// Tries the sources in turn.
    pub(super) async fn run(self) -> Outcome {
        let order = self.order.borrow().clone();
        let CopyOrder { chunk, replica, .. } = order;
        let mut doubts = Vec::new();
        let failed = |why: String| {
            tracing::warn!(%chunk, %replica, why, "a copy could not be made");
            Some(OrderDone::CopyFailed { chunk, replica, why })
        };
        if order.length == 0 || order.length > CHUNK_BYTES_MAX {
            let done = failed(format!("a chunk has no {} bytes", order.length));
            return Outcome { done, doubts };
        }
        let mut reasons = Vec::new();
        for source in &order.sources {
            let server = source.access.server;
            let connection = match self.means.peers.connection_by(&source.access).await {
                Ok(connection) => connection,
                Err(error) => {
                    reasons.push(format!("c{server}: {error}"));
                    continue;
                }
            };
            match self.copy_from(server, &connection).await {
                Ok(()) => {
                    let CopyOrder { length, crc, .. } = order;
                    tracing::info!(%chunk, %replica, from = %server, length, "chunk copied");
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
                Err(Failure::Own(error)) => {
                    let done = failed(error.to_string());
                    return Outcome { done, doubts };
                }
                Err(Failure::Source(error)) => {
                    self.means.peers.note(server, &connection, &error);
                    reasons.push(format!("c{server}: {error}"));
                }
                Err(Failure::Wrong(what)) => {
                    tracing::warn!(%chunk, from = %server, what, "a source's bytes are wrong");
                    reasons.push(format!("c{server}: {what}"));
                    doubts.push(Doubt {
                        connection,
                        source: source.token,
                        chunk,
                        known: (order.length, order.crc),
                    });
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("no server is named to copy it from".to_owned());
        }
        let done = failed(reasons.join("; "));
        Outcome { done, doubts }
    }

    /// Makes the copy from one source. When this returns, it is as durable as any sealed chunk.
    async fn copy_from(&self, server: ServerId, connection: &Connection) -> Result<(), Failure> {
        let order = self.order.borrow().clone();
        if let Some(there) = self.means.store.sealed(order.chunk, order.replica).await? {
            // Made before a restart, or the report was lost with it.
            if there == (order.length, order.crc) {
                return Ok(());
            }
        }
        let new = self.describe(server, connection, &order).await?;
        if order.length <= SMALL_CHUNK_BYTES {
            let packet = self.read(server, connection, 0, &order).await?;
            check_whole(
                &order,
                order.length,
                checksum::combine_blocks(packet.crcs(), order.length),
            )?;
            let stored = self.means.together.put(self.share, new, packet).await;
            return stored.map_err(|error| self.dropped_or(&order, error));
        }
        let opening = self.means.pace.turn(self.share).await;
        let chunk = match self.means.store.open_write(new).await {
            Ok(chunk) => chunk,
            Err(error) => return Err(self.dropped_or(&order, error)),
        };
        drop(opening);
        let chunk = self.fill(chunk, server, connection, &order).await?;
        check_whole(&order, chunk.length(), chunk.crc())?;
        let _turn = self.means.pace.turn(self.share).await;
        chunk.seal(order.length, order.crc).await?;
        Ok(())
    }

    /// A copy that was dropped meanwhile failed for no reason worth telling.
    fn dropped_or(&self, order: &CopyOrder, error: DiskError) -> Failure {
        if self.means.store.was_dropped(order.chunk, order.replica) {
            return Failure::Dropped;
        }
        Failure::Own(error)
    }

    /// What the source's index says, which is kept beside the copy, too.
    async fn describe(
        &self,
        server: ServerId,
        connection: &Connection,
        order: &CopyOrder,
    ) -> Result<NewChunk, Failure> {
        let token = self.source(server, order).token;
        let request = Request::Describe { token };
        let asked = connection
            .call(Kind::DataRequest, &request, Bytes::new(), ANSWER)
            .await?;
        let (
            Response::Described {
                owner,
                file_offset,
                length,
                crc,
            },
            _,
        ) = asked
        else {
            return Err(unexpected(server).into());
        };
        if (length, crc) != (order.length, order.crc) {
            return Err(Failure::Wrong(format!(
                "its index has {length} bytes with CRC {crc:08x}, the masters have {} with {:08x}",
                order.length, order.crc
            )));
        }
        Ok(NewChunk {
            chunk: order.chunk,
            generation: order.generation,
            replica: order.replica,
            owner,
            file_offset,
            bytes_max: order.length,
        })
    }

    /// Reads packet after packet; the one before is stored meanwhile.
    async fn fill(
        &self,
        mut chunk: OpenChunk,
        server: ServerId,
        connection: &Connection,
        order: &CopyOrder,
    ) -> Result<OpenChunk, Failure> {
        let mut packet = self.read(server, connection, 0, order).await?;
        loop {
            let at = chunk.length();
            chunk
                .append(&packet)
                .map_err(|error| Failure::Wrong(error.to_string()))?;
            let storing = async {
                let _turn = self.means.pace.turn(self.share).await;
                chunk.write(at, vec![packet.bytes().clone()]).await
            };
            let next = chunk.length();
            let step = async {
                if next == order.length {
                    storing.await?;
                    return Ok(None);
                }
                let (stored, read) = tokio::join!(storing, self.read(server, connection, next, order));
                stored?;
                read.map(Some)
            };
            let next_packet: Result<_, Failure> = tokio::select! {
                next = step => next,
                () = chunk.cancelled() => return Err(Failure::Dropped),
            };
            match next_packet? {
                Some(next) => packet = next,
                None => return Ok(chunk),
            }
        }
    }

    /// One packet from `offset` on, checked against its blocks' CRCs.
    async fn read(
        &self,
        server: ServerId,
        connection: &Connection,
        offset: u64,
        order: &CopyOrder,
    ) -> Result<Packet, Failure> {
        let wanted = (order.length - offset).min(self.means.pace.piece_bytes() as u64);
        let request = Request::Read {
            token: self.source(server, order).token,
            offset,
            length: wanted as u32,
        };
        let read = connection
            .call(Kind::DataRequest, &request, Bytes::new(), ANSWER)
            .await?;
        let (Response::Blocks { offset: from, crcs, .. }, payload) = read else {
            return Err(unexpected(server).into());
        };
        if (from, payload.len() as u64) != (offset, wanted) {
            return Err(Failure::Wrong(format!(
                "{} bytes from {from} on came instead of {wanted} from {offset} on",
                payload.len()
            )));
        }
        Packet::verify(order.chunk, offset, crcs, payload).map_err(|error| Failure::Wrong(error.to_string()))
    }

    /// The source with its newest token.
    fn source(&self, server: ServerId, order: &CopyOrder) -> CopySource {
        let newest = self.order.borrow();
        let mut sources = newest.sources.iter().chain(&order.sources);
        let found = sources.find(|source| source.access.server == server);
        found.cloned().expect("the source is one of the order's")
    }
}

/// Whether what came is the chunk the masters know.
fn check_whole(order: &CopyOrder, length: u64, crc: u32) -> Result<(), Failure> {
    if (length, crc) == (order.length, order.crc) {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "its {length} bytes have CRC {crc:08x}, the masters have {} with {:08x}",
        order.length, order.crc
    )))
}

pub(super) fn unexpected(server: ServerId) -> WireError {
    WireError::new(ErrorCode::Protocol, format!("server {server} answered something else"))
}

impl Doubt {
    /// Asks the source to read its copy again. If it is damaged, the source says so to the masters itself; if it is
    /// sound and another than the masters know, they must be told.
    pub(super) async fn settle(self) -> Option<OrderDone> {
        let request = Request::Verify { token: self.source };
        let asked = self
            .connection
            .call(Kind::DataRequest, &request, Bytes::new(), VERIFY)
            .await;
        let (chunk, server) = (self.chunk, self.source.grant.server);
        match asked {
            Ok((Response::Verified(Verdict::Good { length, crc }), _)) => {
                let differs = (length, crc) != self.known;
                differs.then(|| OrderDone::SourceDiffers {
                    chunk,
                    server,
                    replica: self.source.grant.replica,
                    what: format!("its bytes are {length} with CRC {crc:08x}, sound and another chunk's"),
                })
            }
            Ok((answer, _)) => {
                tracing::info!(%chunk, %server, ?answer, "a source has read its copy again");
                None
            }
            Err(error) => {
                tracing::debug!(%chunk, %server, %error, "a source was not asked to read again");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::{Generation, ReplicaNumber};

    use super::*;

    #[test]
    fn only_what_the_masters_know_is_the_chunk() {
        let order = CopyOrder {
            chunk: ChunkId::from_bytes([0; 14]),
            generation: Generation(1),
            replica: ReplicaNumber(2),
            length: 300,
            crc: 5,
            sources: Vec::new(),
        };
        assert!(check_whole(&order, 300, 5).is_ok());
        for (length, crc) in [(300, 6), (299, 5), (0, 0)] {
            assert!(matches!(check_whole(&order, length, crc), Err(Failure::Wrong(_))));
        }
    }
}
