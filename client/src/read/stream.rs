//! Reading in order, with several reads in flight, proving whole chunks and the whole file on the way.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use gabion_protocol::checksum::{Running, combine_blocks, crc};
use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::Extent;
use gabion_protocol::{ErrorCode, WireError};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use super::fetch::Blocks;
use super::{FileReader, Piece};
use crate::Error;

/// A task of its own: its request goes out at once, and any worker may check its CRCs.
type Fetching = AbortOnDropHandle<Result<(Piece, Blocks), Error>>;

/// A stream that reads its next piece, and gives itself back with it.
type Reading = BoxFuture<'static, (Box<FileStream>, Result<Option<Bytes>, Error>)>;

/// Reads a range of a file in order.
pub struct FileStream {
    reader: FileReader,
    /// Where the next piece is asked for.
    asked: u64,
    end: u64,
    fetching: FuturesOrdered<Fetching>,
    proof: Proof,
    /// Why no more can be read: after a failure no later piece is given out as if it followed.
    failed: Option<Error>,
    /// For [`AsyncRead`]: the rest of the last piece.
    rest: Bytes,
    /// For [`AsyncRead`]: the next piece being read.
    reading: Option<Reading>,
}

impl std::fmt::Debug for FileStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStream")
            .field("path", &self.reader.0.path)
            .field("asked", &self.asked)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// What the bytes given out so far prove.
#[derive(Debug, Default)]
struct Proof {
    /// The whole file, if it is read from its beginning.
    file: Option<Running>,
    /// The chunk being read, if it is read from its beginning.
    chunk: Option<ChunkProof>,
}

#[derive(Debug)]
struct ChunkProof {
    extent: Arc<Extent>,
    running: Running,
    /// Who gave its blocks.
    servers: BTreeSet<ServerId>,
    /// The file's proof when the chunk began.
    file_before: Option<Running>,
}

/// Why a stream could not go on.
pub(super) enum StreamError {
    Failed(Error),
    /// All blocks of a chunk have their CRCs, but the whole is not what the masters agreed on.
    WrongChunk {
        /// Where in the file the chunk begins.
        offset: u64,
        error: Error,
    },
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Failed(error) | StreamError::WrongChunk { error, .. } => error,
        }
    }
}

impl FileStream {
    pub(super) fn new(reader: FileReader, offset: u64, length: u64) -> Self {
        let whole = offset == 0 && length == reader.0.entry.length;
        Self {
            asked: offset,
            end: offset.saturating_add(length).min(reader.0.entry.length),
            fetching: FuturesOrdered::new(),
            proof: Proof {
                file: whole.then(Running::default),
                chunk: None,
            },
            failed: None,
            rest: Bytes::new(),
            reading: None,
            reader,
        }
    }

    /// The whole file but its `beginning`, which the caller has and whose CRC counts for the whole's.
    pub(super) fn after(reader: FileReader, beginning: Running) -> Self {
        let left = reader.0.entry.length.saturating_sub(beginning.len());
        let mut stream = Self::new(reader, beginning.len(), left);
        stream.proof.file = Some(beginning);
        stream
    }

    /// The next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// Why no more can be read; later calls fail the same way.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.next_piece().await?.map(|(_, bytes)| bytes))
    }

    /// The next bytes and where in the file they are.
    pub(super) async fn next_piece(&mut self) -> Result<Option<(u64, Bytes)>, StreamError> {
        if let Some(error) = &self.failed {
            return Err(StreamError::Failed(error.clone()));
        }
        let mut next = self.fetch_next().await;
        if let Err(StreamError::Failed(error)) = &next
            && error.code() == ErrorCode::ChecksumMismatch
            && self.reader.has_changed().await
        {
            let how = "it was changed while it was read";
            next = Err(StreamError::Failed(self.reader.changed(how)));
        }
        if let Err(StreamError::Failed(error) | StreamError::WrongChunk { error, .. }) = &next {
            self.failed = Some(error.clone());
            self.fetching = FuturesOrdered::new();
        }
        next
    }

    async fn fetch_next(&mut self) -> Result<Option<(u64, Bytes)>, StreamError> {
        while self.asked < self.end && self.fetching.len() < self.reader.0.inner.config.reads_in_flight.max(1) {
            let piece = self
                .reader
                .piece_at(self.asked, self.end)
                .await
                .map_err(StreamError::Failed)?;
            if self.fetching.is_empty() && self.asked + piece.length == self.end {
                // One read alone needs no task of its own. It counts as asked when it is there: whoever stops waiting
                // for it and comes back asks again.
                let fetched = self.reader.fetch(piece).await.map_err(StreamError::Failed)?;
                self.asked = self.end;
                return self.give(fetched);
            }
            self.asked += piece.length;
            let reader = self.reader.clone();
            let fetching = tokio::spawn(async move { reader.fetch(piece).await });
            self.fetching.push_back(AbortOnDropHandle::new(fetching));
        }
        let Some(fetched) = self.fetching.next().await else {
            return Ok(None);
        };
        let fetched = fetched.unwrap_or_else(|error| {
            let what = format!("cannot read {}: a task of it ended: {error}", self.reader.0.path);
            Err(Error::new(ErrorCode::Internal, what))
        });
        self.give(fetched.map_err(StreamError::Failed)?)
    }

    /// A piece that was read, if it proves what it should.
    fn give(&mut self, (piece, blocks): (Piece, Blocks)) -> Result<Option<(u64, Bytes)>, StreamError> {
        let bytes = blocks.wanted(&piece);
        self.prove(&piece, &blocks, &bytes)?;
        Ok(Some((piece.offset, bytes)))
    }

    /// Goes back to the chunk that begins at `offset`, whose wrong copies are not read again.
    pub(super) fn back_to(&mut self, offset: u64) {
        self.failed = None;
        self.fetching = FuturesOrdered::new();
        self.asked = offset;
        if let Some(chunk) = self.proof.chunk.take() {
            self.proof.file = chunk.file_before;
        }
    }

    fn prove(&mut self, piece: &Piece, blocks: &Blocks, bytes: &Bytes) -> Result<(), StreamError> {
        let extent = &piece.extent;
        let is_whole_chunk = extent.chunk_offset == 0 && extent.length == extent.chunk_length;
        if piece.offset == extent.offset {
            self.proof.chunk = is_whole_chunk.then(|| ChunkProof {
                extent: Arc::clone(extent),
                running: Running::default(),
                servers: BTreeSet::new(),
                file_before: self.proof.file,
            });
        }
        let follows = |chunk: &ChunkProof| {
            chunk.extent.chunk == extent.chunk
                && chunk.running.len() == blocks.start
                && bytes.len() == blocks.bytes.len()
        };
        let len = bytes.len() as u64;
        if self.proof.file.is_none() && self.proof.chunk.is_none() {
            return Ok(());
        }
        let piece_crc = if bytes.len() == blocks.bytes.len() {
            combine_blocks(&blocks.crcs, len)
        } else {
            crc(bytes)
        };
        if let Some(file) = &mut self.proof.file {
            file.append(piece_crc, len);
        }
        match self.proof.chunk.take_if(|chunk| !follows(chunk)) {
            Some(_) => {}
            None => {
                if let Some(chunk) = &mut self.proof.chunk {
                    chunk.running.append(piece_crc, len);
                    chunk.servers.insert(blocks.server);
                }
            }
        }
        self.check_chunk()?;
        self.check_file(piece.offset + len).map_err(StreamError::Failed)
    }

    fn check_chunk(&mut self) -> Result<(), StreamError> {
        let Some(chunk) = &self.proof.chunk else {
            return Ok(());
        };
        let extent = &chunk.extent;
        if chunk.running.len() < extent.chunk_length || chunk.running.crc() == extent.chunk_crc {
            return Ok(());
        }
        let what = format!(
            "its blocks make CRC {:08x}, the masters agreed on {:08x}",
            chunk.running.crc(),
            extent.chunk_crc
        );
        // Two servers' blocks prove nothing against either: both are left out, only a single one is reported.
        let mut error = WireError::new(
            ErrorCode::Corrupt,
            format!(
                "cannot read {}: chunk {} is not the one that was written",
                self.reader.0.path, extent.chunk
            ),
        )
        .help("read it again: another copy will be used");
        for server in &chunk.servers {
            self.reader.distrust(extent, *server, what.clone());
            error = error.tried(self.reader.0.inner.servers.label(*server), what.clone());
        }
        Err(StreamError::WrongChunk {
            offset: extent.offset,
            error: error.into(),
        })
    }

    fn check_file(&self, end: u64) -> Result<(), Error> {
        let entry = &self.reader.0.entry;
        match (self.proof.file, entry.known_crc()) {
            (Some(file), Some(crc)) if end == entry.length && file.crc() != crc => Err(WireError::new(
                ErrorCode::ChecksumMismatch,
                format!(
                    "cannot read {}: its bytes have CRC {:08x}, the masters agreed on {:08x}",
                    self.reader.0.path,
                    file.crc(),
                    crc
                ),
            )
            .into()),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for FileStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.rest.is_empty() {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let stand_in = Self::new(self.reader.clone(), 0, 0);
                    let mut stream = Box::new(std::mem::replace(&mut *self, stand_in));
                    Box::pin(async move {
                        let next = stream.next().await;
                        (stream, next)
                    })
                }
            };
            match reading.as_mut().poll(context) {
                Poll::Pending => {
                    self.reading = Some(reading);
                    return Poll::Pending;
                }
                Poll::Ready((stream, next)) => {
                    *self = *stream;
                    self.rest = next?.unwrap_or_default();
                }
            }
        }
        let len = out.remaining().min(self.rest.len());
        out.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}
