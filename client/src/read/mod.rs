//! Reading a file: where its bytes are, whole blocks of them from the best copy, and proof that they are right.
//!
//! `locate` keeps what the masters told of the file's extents, `fetch` gets verified blocks from one copy or another,
//! `stream` reads in order with several reads in flight, `download` puts a whole file beside its name and renames it,
//! `resume` goes on with one that was interrupted.
//!
//! Invariant: no byte leaves this module whose block did not have its CRC. In-order reads prove more: the CRC of each
//! whole chunk, and of the whole file if it is known, are those the masters agreed on. Ranges that nobody wrote read as
//! zeros; `locate` has them as extents without a chunk.

mod download;
mod fetch;
mod locate;
mod resume;
mod stream;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::messages::master::{Entry, Extent};
use gabion_protocol::{ErrorCode, FsPath, WireError};
use parking_lot::Mutex;

use crate::Error;
use crate::client::Inner;
use crate::error::Context as _;
pub use download::DownloadOptions;
use fetch::Blocks;
use locate::Map;
pub use resume::Resumed;
pub use stream::FileStream;

/// Bytes asked for at once: the packet size, for the same reasons.
const PIECE_BYTES: u64 = gabion_protocol::limits::PACKET_BYTES as u64;

/// A file open for reading. Clones share what is known of its locations.
#[derive(Debug, Clone)]
pub struct FileReader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    path: FsPath,
    entry: Entry,
    map: Mutex<Map>,
    /// Copies found wrong through this handle.
    distrusted: Mutex<HashSet<(ChunkId, ServerId)>>,
}

/// A part of an extent that is read at once.
#[derive(Debug, Clone)]
struct Piece {
    extent: Arc<Extent>,
    /// First byte wanted, in the file.
    offset: u64,
    /// Bytes wanted.
    length: u64,
}

impl FileReader {
    pub(crate) async fn open(inner: &Arc<Inner>, path: &FsPath) -> Result<Self, Error> {
        let mut located = locate::ask(inner, path, None, 0)
            .await
            .context(|| format!("cannot open {path}"))?;
        let entry = located.entry.clone();
        inner.servers.learn(std::mem::take(&mut located.servers));
        let mut map = Map::default();
        map.learn(0, located);
        Ok(Self(Arc::new(Shared {
            inner: Arc::clone(inner),
            path: path.clone(),
            entry,
            map: Mutex::new(map),
            distrusted: Mutex::default(),
        })))
    }

    /// The file as it was when it was opened.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &FsPath {
        &self.0.path
    }

    /// Reads `length` bytes at `offset`, fewer only at the end of the file. The whole range is held in memory.
    ///
    /// # Errors
    /// Why the range cannot be read; with wrong or missing copies, each is named.
    pub async fn read_at(&self, offset: u64, length: u64) -> Result<Bytes, Error> {
        let end = offset.saturating_add(length).min(self.0.entry.length);
        let length = end.saturating_sub(offset);
        let mut stream = self.stream_range(offset, length);
        let Some(first) = stream.next().await? else {
            return Ok(Bytes::new());
        };
        if first.len() as u64 == length {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(length).map_err(|_| too_long(length))?);
        whole.extend_from_slice(&first);
        while let Some(next) = stream.next().await? {
            whole.extend_from_slice(&next);
        }
        Ok(whole.freeze())
    }

    /// Reads the whole file in order. At its end the CRC of the whole has been compared.
    #[must_use]
    pub fn stream(&self) -> FileStream {
        self.stream_range(0, self.0.entry.length)
    }

    /// Reads a range in order.
    #[must_use]
    pub fn stream_range(&self, offset: u64, length: u64) -> FileStream {
        FileStream::new(self.clone(), offset, length)
    }

    /// All extents of the file, in order. What lies between them are zeros.
    ///
    /// # Errors
    /// If the masters cannot tell.
    pub async fn all_extents(&self) -> Result<(Entry, Vec<Extent>), Error> {
        let mut extents = Vec::new();
        let mut offset = 0;
        while offset < self.0.entry.length {
            let extent = self.extent_at(offset).await?;
            offset = extent.offset + extent.length;
            if !locate::is_hole(&extent) {
                extents.push(Extent::clone(&extent));
            }
        }
        Ok((self.0.entry.clone(), extents))
    }

    /// The extent that holds `offset`, with tokens that are valid for a while.
    async fn extent_at(&self, offset: u64) -> Result<Arc<Extent>, Error> {
        if let Some(extent) = self.0.map.lock().at(offset) {
            return Ok(extent);
        }
        self.refresh(offset).await
    }

    /// Asks the masters afresh.
    async fn refresh(&self, offset: u64) -> Result<Arc<Extent>, Error> {
        let shared = &self.0;
        let mut located = locate::ask(&shared.inner, &shared.path, Some(shared.entry.ino), offset)
            .await
            .context(|| format!("cannot read {}", shared.path))?;
        shared.inner.servers.learn(std::mem::take(&mut located.servers));
        if located.entry.length <= offset {
            return Err(self.changed("it became shorter while it was read"));
        }
        let mut map = shared.map.lock();
        map.learn(offset, located);
        map.at(offset).ok_or_else(|| {
            Error::new(
                ErrorCode::Protocol,
                format!(
                    "cannot read {}: the masters tell no place for offset {offset}",
                    shared.path
                ),
            )
        })
    }

    /// The file is not any more what it was when it was opened.
    fn changed(&self, how: &str) -> Error {
        let message = format!("cannot read {}: {how}", self.0.path);
        let error = WireError::new(ErrorCode::Conflict, message);
        error.help("begin again to read it as it is now").into()
    }

    /// Whether the file has been changed since it was opened, other than by bytes at its end: the whole of what was read
    /// then need not be what it was at any moment.
    async fn has_changed(&self) -> bool {
        let Ok(now) = locate::ask(&self.0.inner, &self.0.path, Some(self.0.entry.ino), 0).await else {
            return false;
        };
        (now.entry.length, now.entry.crc) != (self.0.entry.length, self.0.entry.crc)
    }

    /// The piece that begins at `offset` and ends before `end`, cut so that reads are whole blocks.
    async fn piece_at(&self, offset: u64, end: u64) -> Result<Piece, Error> {
        let extent = self.extent_at(offset).await?;
        let in_chunk = extent.chunk_offset + (offset - extent.offset);
        // Pieces end where aligned ones would, whatever the first offset.
        let to_boundary = PIECE_BYTES - in_chunk % PIECE_BYTES;
        let to_extent_end = extent.offset + extent.length - offset;
        Ok(Piece {
            offset,
            length: to_boundary.min(to_extent_end).min(end - offset),
            extent,
        })
    }

    /// Reads one piece, whatever it takes.
    async fn fetch(&self, piece: Piece) -> Result<(Piece, Blocks), Error> {
        fetch::Fetch::new(self, piece).run().await
    }

    /// A copy was found wrong: it is not read again through this handle, and the masters are told.
    fn distrust(&self, extent: &Extent, server: ServerId, what: String) {
        if !self.0.distrusted.lock().insert((extent.chunk, server)) {
            return;
        }
        tracing::warn!(path = %self.0.path, chunk = %extent.chunk, %server, what, "a copy cannot be trusted");
        let Some(replica) = extent.replicas.iter().find(|replica| replica.server == server) else {
            return;
        };
        let op = gabion_protocol::messages::master::Op::ReportDamage {
            chunk: extent.chunk,
            server,
            replica: replica.token.grant.replica,
            what,
        };
        let inner = Arc::clone(&self.0.inner);
        // At most one per copy and handle; a reader does not wait for it.
        tokio::spawn(async move {
            if let Err(error) = inner.masters.command(op).await {
                tracing::warn!(%error, "cannot report a damaged copy");
            }
        });
    }

    fn is_distrusted(&self, chunk: ChunkId, server: ServerId) -> bool {
        self.0.distrusted.lock().contains(&(chunk, server))
    }
}

fn too_long(length: u64) -> Error {
    Error::new(
        ErrorCode::InvalidArgument,
        format!("{length} bytes do not fit into memory"),
    )
}
