//! One piece of a chunk, verified, from whichever copy gives it.
//!
//! Copies are asked one after another; a slow one is not given up, another is asked beside it. A copy whose bytes or
//! numbers are wrong is reported and never asked again. When all have failed the masters are asked where the copies
//! are now. Whoever has waited for a chunk's servers in vain gives them up for a while: until one of them shows a sign of
//! life, the next reader looks once and does not wait all over again.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gabion_protocol::checksum::{block_crcs, first_bad_block};
use gabion_protocol::frame::Kind;
use gabion_protocol::ids::ServerId;
use gabion_protocol::limits::BLOCK_BYTES;
use gabion_protocol::messages::data::{Request, Response};
use gabion_protocol::messages::master::{Extent, Replica};
use gabion_protocol::{Action, ErrorCode, WireError};

use super::locate::is_hole;
use super::{FileReader, PIECE_BYTES, Piece};
use crate::Error;
use crate::client::unexpected;
use crate::policy::chain::Pulse;
use crate::policy::replicas::{Candidate, order};
use crate::random;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Longest wait for one server's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Drawn once a process, so that processes that read the same chunk spread over its servers.
static LOT: LazyLock<u64> = LazyLock::new(random);

/// Whole blocks of a chunk, each with its CRC.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Offset in the chunk of the first byte.
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    pub(super) crcs: Vec<u32>,
    /// Who gave them.
    pub(super) server: ServerId,
}

impl Blocks {
    /// What a piece reads as that no chunk holds.
    fn zeros(piece: &Piece) -> Self {
        static ZEROS: [u8; PIECE_BYTES as usize] = [0; PIECE_BYTES as usize];
        let bytes = Bytes::from_static(&ZEROS[..piece.length.min(PIECE_BYTES) as usize]);
        Self {
            start: in_chunk(piece),
            crcs: block_crcs(&bytes),
            bytes,
            server: ServerId(0),
        }
    }

    /// The bytes `piece` asked for.
    pub(super) fn wanted(&self, piece: &Piece) -> Bytes {
        let from = usize::try_from(in_chunk(piece) - self.start).unwrap_or(usize::MAX);
        let len = usize::try_from(piece.length).unwrap_or(usize::MAX);
        self.bytes.slice(from..from + len)
    }
}

fn in_chunk(piece: &Piece) -> u64 {
    piece.extent.chunk_offset + (piece.offset - piece.extent.offset)
}

/// Why one copy did not serve.
struct Refusal {
    error: WireError,
    /// The copy itself is wrong, not only its server slow or gone.
    is_wrong: bool,
}

/// One piece being fetched.
pub(super) struct Fetch<'a> {
    reader: &'a FileReader,
    piece: Piece,
    deadline: Instant,
    tried: Vec<(ServerId, Refusal)>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(reader: &'a FileReader, piece: Piece) -> Self {
        Self {
            reader,
            piece,
            deadline: Instant::now() + reader.0.inner.config.wait,
            tried: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(Piece, Blocks), Error> {
        if is_hole(&self.piece.extent) {
            let zeros = Blocks::zeros(&self.piece);
            return Ok((self.piece, zeros));
        }
        let mut round = 0;
        loop {
            let is_given_up = self.is_given_up().await?;
            let found = match is_given_up {
                true => self.look().await,
                false => self.round().await,
            };
            if let Some(blocks) = found {
                return Ok((self.piece, blocks));
            }
            round += 1;
            // Fresh places after the first round prove that no sound copy is left.
            let is_lost = round > 1 && self.tried.iter().all(|(_, refusal)| refusal.is_wrong);
            let is_away = is_given_up || Instant::now() > self.deadline;
            if is_away && !is_lost {
                self.give_up();
            }
            if is_lost || is_away {
                return Err(self.failure());
            }
            if round > 1 {
                tokio::time::sleep(Duration::from_millis(50 + random() % 100)).await;
            }
            self.relocate().await?;
        }
    }

    /// Asks the masters where the copies are now.
    async fn relocate(&mut self) -> Result<(), Error> {
        self.reader.0.map.lock().forget(self.piece.extent.offset);
        let (piece, extent) = (&self.piece, self.reader.refresh(self.piece.offset).await?);
        if extent.offset + extent.length < piece.offset + piece.length || is_hole(&extent) {
            return Err(self.reader.changed("it was overwritten while it was read"));
        }
        self.piece.extent = extent;
        Ok(())
    }

    /// Whether every server that may have a sound copy was given up a short while ago, wherever the copies are by now.
    async fn is_given_up(&mut self) -> Result<bool, Error> {
        if !self.all_given_up() {
            return Ok(false);
        }
        self.relocate().await?;
        Ok(self.all_given_up())
    }

    fn all_given_up(&self) -> bool {
        let servers = &self.reader.0.inner.servers;
        let mut trusted = self.trusted().peekable();
        trusted.peek().is_some() && trusted.all(|replica| servers.is_given_up(replica.server))
    }

    /// A round among servers that were given up: only if one of them shows a sign of life. A slow one gets its time.
    async fn look(&mut self) -> Option<Blocks> {
        let inner = &self.reader.0.inner;
        let asked: Vec<ServerId> = self.trusted().map(|replica| replica.server).collect();
        let pulses = inner.servers.probe(&inner.masters, &asked).await;
        if pulses.contains(&Pulse::Alive) {
            return self.round().await;
        }
        for server in asked {
            let error = WireError::new(
                ErrorCode::Timeout,
                "gave no answer a short while ago, and gives none now",
            );
            self.tried.push((server, refusal(error)));
        }
        None
    }

    /// Nobody else waits long for the servers that gave no answer.
    fn give_up(&self) {
        for (server, refusal) in &self.tried {
            if matches!(refusal.error.code, ErrorCode::Unreachable | ErrorCode::Timeout) {
                self.reader.0.inner.servers.give_up(*server);
            }
        }
    }

    /// Asks each copy at most once.
    async fn round(&mut self) -> Option<Blocks> {
        let servers = &self.reader.0.inner.servers;
        let mut waiting = self.order();
        let mut asked = FuturesUnordered::new();
        self.tried.retain(|(_, refusal)| refusal.is_wrong);
        let mut patience = Duration::ZERO;
        // No timer before the first request: the shortest takes a millisecond.
        let mut asks_now = true;
        // Asked and not heard of, in the order of asking.
        let mut silent = Vec::new();
        loop {
            if std::mem::take(&mut asks_now)
                && let Some(replica) = waiting.pop_front()
            {
                patience = servers.patience(replica.server);
                silent.push(replica.server);
                asked.push(ask(self.reader, self.piece.clone(), replica));
            }
            tokio::select! {
                biased;
                Some((server, answer)) = asked.next(), if !asked.is_empty() => match answer {
                    Ok(blocks) => {
                        // Whoever was asked before and is silent still has lost the race: later reads begin elsewhere.
                        let slow = silent.iter().take_while(|asked| **asked != server);
                        slow.for_each(|slow| servers.failed(*slow));
                        return Some(blocks);
                    }
                    Err(refusal) => {
                        silent.retain(|asked| *asked != server);
                        self.refused(server, refusal);
                        asks_now = true;
                    }
                },
                () = tokio::time::sleep(patience), if !waiting.is_empty() => asks_now = true,
                else => return None,
            }
        }
    }

    /// The copies that were not found wrong.
    fn trusted(&self) -> impl Iterator<Item = &Replica> {
        let extent = &self.piece.extent;
        let of_chunk = extent.replicas.iter();
        of_chunk.filter(|replica| !self.reader.is_distrusted(extent.chunk, replica.server))
    }

    /// The copies in the order of asking.
    fn order(&self) -> VecDeque<Replica> {
        let servers = &self.reader.0.inner.servers;
        let extent = &self.piece.extent;
        let trusted: Vec<&Replica> = self.trusted().collect();
        let candidates: Vec<Candidate> = trusted
            .iter()
            .map(|replica| {
                let (troubled, latency) = servers.record(replica.server);
                Candidate {
                    healthy: replica.healthy,
                    troubled,
                    latency,
                }
            })
            .collect();
        // By chunk, so that a stream stays with one server and its read-ahead.
        let lot = (extent.chunk.counter ^ *LOT).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        order(&candidates, lot)
            .into_iter()
            .map(|position| trusted[position].clone())
            .collect()
    }

    fn refused(&mut self, server: ServerId, refusal: Refusal) {
        let servers = &self.reader.0.inner.servers;
        if refusal.is_wrong {
            self.reader
                .distrust(&self.piece.extent, server, refusal.error.message.clone());
        } else if refusal.error.code != ErrorCode::BadToken {
            servers.failed(server);
        }
        self.tried.push((server, refusal));
    }

    fn failure(&self) -> Error {
        let extent = &self.piece.extent;
        let path = &self.reader.0.path;
        let servers = &self.reader.0.inner.servers;
        let wrong = self.tried.iter().filter(|(_, refusal)| refusal.is_wrong).count();
        let what = format!("cannot read {path} at offset {}", self.piece.offset);
        let error = if wrong > 0 && wrong == self.tried.len() {
            let code = if self.tried.iter().any(|(_, r)| r.error.code == ErrorCode::Corrupt) {
                ErrorCode::Corrupt
            } else {
                ErrorCode::Missing
            };
            WireError::new(code, format!("{what}: no sound copy of chunk {} is left", extent.chunk))
                .help("bring back a server that held a copy, or restore the file from elsewhere")
        } else {
            WireError::new(
                ErrorCode::Unreachable,
                format!("{what}: no copy of chunk {} can be reached", extent.chunk),
            )
            // Of this file's servers only: other files may be read.
            .action(Action::Refresh)
            .help("start the chunkservers that are down; see gabion admin status")
        };
        let error = self.tried.iter().fold(error, |error, (server, refusal)| {
            error.tried(servers.label(*server), refusal.error.message.clone())
        });
        error.into()
    }
}

/// Asks one copy, and verifies what it gives.
async fn ask(reader: &FileReader, piece: Piece, replica: Replica) -> (ServerId, Result<Blocks, Refusal>) {
    let server = replica.server;
    let servers = &reader.0.inner.servers;
    let asked = Instant::now();
    let answer = async {
        let start = in_chunk(&piece) / BLOCK * BLOCK;
        let end = (in_chunk(&piece) + piece.length)
            .next_multiple_of(BLOCK)
            .min(piece.extent.chunk_length);
        let request = Request::Read {
            token: replica.token,
            offset: start,
            length: u32::try_from(end - start).map_err(|_| unexpected())?,
        };
        let connection = servers.connection(&reader.0.inner.masters, server).await?;
        let answer = connection
            .call(Kind::DataRequest, &request, Bytes::new(), ANSWER)
            .await?;
        Ok((start, end, answer))
    };
    let answer = match answer.await {
        Ok((start, end, (response, payload))) => {
            servers.served(server, asked.elapsed());
            verify(&piece.extent, server, start..end, response, payload)
        }
        Err(error) => Err(refusal(error)),
    };
    (server, answer)
}

fn refusal(error: WireError) -> Refusal {
    let is_wrong = matches!(
        error.code,
        ErrorCode::Corrupt | ErrorCode::Missing | ErrorCode::NotFound | ErrorCode::ChecksumMismatch
    );
    Refusal { error, is_wrong }
}

fn verify(
    extent: &Extent,
    server: ServerId,
    wanted: std::ops::Range<u64>,
    response: Response,
    bytes: Bytes,
) -> Result<Blocks, Refusal> {
    let wrong = |what: String| {
        Err(Refusal {
            error: WireError::new(ErrorCode::Corrupt, what),
            is_wrong: true,
        })
    };
    let Response::Blocks {
        offset,
        crcs,
        chunk_length,
        chunk_crc,
    } = response
    else {
        return Err(refusal(unexpected()));
    };
    if (chunk_length, chunk_crc) != (extent.chunk_length, extent.chunk_crc) {
        return wrong(format!(
            "its copy has {chunk_length} bytes with CRC {chunk_crc:08x}, the masters agreed on {} with {:08x}",
            extent.chunk_length, extent.chunk_crc
        ));
    }
    if offset != wanted.start || bytes.len() as u64 != wanted.end - wanted.start {
        return wrong(format!(
            "asked for bytes {} to {}, it gave {} from {offset}",
            wanted.start,
            wanted.end,
            bytes.len()
        ));
    }
    if let Some(block) = first_bad_block(&bytes, &crcs) {
        let at = offset + (block * BLOCK_BYTES) as u64;
        return wrong(format!("the block at {at} does not have its checksum"));
    }
    Ok(Blocks {
        start: offset,
        bytes,
        crcs,
        server,
    })
}
