//! Bytes for a file that is there: sealed in chunks first, then put into the file by one command.
//!
//! Invariants: an answer means that the bytes are on the disks of all servers of their chunks and in the file; a command
//! that is sent again has the same sequence, so that nothing is put in twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use gabion_protocol::limits::{BATCH_ROWS_MAX, PACKET_BYTES, SMALL_CHUNK_BYTES};
use gabion_protocol::messages::master::{Change, FileChange, Op, Query, Response, Room, Seal, SpliceAt, UploadOptions};
use gabion_protocol::{Action, ErrorCode, FsPath, Ino, WireError};
use tokio::sync::mpsc;

use super::QUEUE_PACKETS;
use super::chunk::{self, ChunkJob};
use super::packet::{Feed, Packet, Piece, Replay};
use super::stock;
use super::upload::Upload;
use crate::Error;
use crate::client::{Inner, unexpected};

/// A file that is written to, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) inner: Arc<Inner>,
    pub(crate) path: FsPath,
    pub(crate) file: Ino,
    /// The write lease that is held.
    pub(crate) lease: Option<u64>,
    /// Copies the file shall have, as last heard of.
    pub(crate) replicas: Arc<AtomicU8>,
    pub(crate) chunk_bytes: u64,
}

/// Where bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spliced {
    pub(crate) offset: u64,
    /// The file's length then.
    pub(crate) length: u64,
}

impl Target {
    /// A change of this file.
    pub(crate) fn change(&self, what: Change) -> Op {
        Op::ChangeFile(FileChange {
            file: self.file,
            lease: self.lease,
            what,
        })
    }

    fn replicas(&self) -> u8 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// Whether the file is to have another number of copies than was heard of: what was refused for that goes well with
    /// chunks of the right number.
    async fn has_other_replicas(&self, error: &Error) -> bool {
        if error.code() != ErrorCode::InvalidArgument {
            return false;
        }
        let query = Query::Stat {
            path: self.path.clone(),
        };
        match self.inner.masters.query(query).await {
            Ok(Response::Entry(entry)) if entry.ino == self.file => {
                self.replicas.swap(entry.replicas, Ordering::Relaxed) != entry.replicas
            }
            _ => false,
        }
    }

    /// Opens an upload whose chunks are for this file.
    pub(super) async fn open(&self, room: Room) -> Result<Upload, WireError> {
        let options = UploadOptions {
            replicas: Some(self.replicas()),
            chunk_bytes: Some(self.chunk_bytes),
            replace: true,
            parents: false,
            mode: 0,
            modified_ms: None,
        };
        let upload = Upload::open(&self.inner, &self.path, options, room).await?;
        Ok(upload.for_file(self.file))
    }

    /// Puts sealed chunks, which follow each other, into the file.
    pub(super) async fn splice(
        &self,
        upload: &Upload,
        mut seals: Vec<Seal>,
        at: SpliceAt,
    ) -> Result<Spliced, WireError> {
        let first = seals.first().map_or(0, |seal| seal.file_offset);
        for seal in &mut seals {
            seal.file_offset -= first;
        }
        let (upload_ino, generation) = upload.owner();
        let op = self.change(Change::Splice {
            upload: upload_ino,
            generation,
            seals,
            at,
        });
        spliced(upload.command(op).await)
    }

    /// Puts one small packet into the file: its chunk comes from a stock, so that it costs one round trip of data and
    /// one log entry.
    pub(super) async fn splice_small(&self, packet: &Packet, at: SpliceAt) -> Result<Spliced, Error> {
        let op = |upload, generation, seal| {
            self.change(Change::Splice {
                upload,
                generation,
                seals: vec![seal],
                at,
            })
        };
        let answer = stock::put_into(&self.inner, self.file, self.replicas(), packet, op).await;
        Ok(spliced(answer.map_err(Error::into_details))?)
    }

    /// Seals bytes in chunks and puts all of them into the file, in one step.
    pub(crate) async fn put(&self, upload: &Cached, bytes: Bytes, at: SpliceAt) -> Result<Spliced, Error> {
        if bytes.len() as u64 <= SMALL_CHUNK_BYTES {
            return self.put_small(&Packet::new(bytes), at).await;
        }
        match self.put_large(upload, &bytes, at).await {
            Err(error) if self.is_worth_another_try(&error).await => self.put_large(upload, &bytes, at).await,
            put => put,
        }
    }

    /// The same for what fits a small chunk.
    pub(super) async fn put_small(&self, packet: &Packet, at: SpliceAt) -> Result<Spliced, Error> {
        match self.splice_small(packet, at).await {
            Err(error) if self.is_worth_another_try(&error).await => self.splice_small(packet, at).await,
            put => put,
        }
    }

    /// Whether nothing was put, and other chunks may do better.
    async fn is_worth_another_try(&self, error: &Error) -> bool {
        // The chunks' lease has ended, as after a long sleep: the bytes are still here.
        error.code() == ErrorCode::Fenced || self.has_other_replicas(error).await
    }

    async fn put_large(&self, cached: &Cached, bytes: &Bytes, at: SpliceAt) -> Result<Spliced, Error> {
        let chunk_bytes = usize::try_from(self.chunk_bytes).unwrap_or(usize::MAX).max(1);
        let chunks = bytes.len().div_ceil(chunk_bytes);
        if chunks > BATCH_ROWS_MAX {
            let message = format!("{} bytes in one piece are too many", bytes.len());
            let error = WireError::new(ErrorCode::LimitExceeded, message);
            return Err(error.help("write them in several pieces").into());
        }
        let cached = cached.of(at);
        let upload = cached.get(self).await?;
        let jobs = (0..chunks).map(|n| {
            let begin = n * chunk_bytes;
            let part = bytes.slice(begin..bytes.len().min(begin + chunk_bytes));
            seal_part(Arc::clone(&upload), begin as u64, part)
        });
        let in_flight = self.inner.config.chunks_in_flight.max(1);
        let sealed = futures_util::stream::iter(jobs)
            .buffered(in_flight)
            .try_collect::<Vec<_>>();
        let put = match sealed.await {
            Ok(seals) => self.splice(&upload, seals, at).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if put.is_err() {
            // What was sealed for nothing goes with the upload.
            cached.forget(&upload).await;
        }
        put
    }
}

/// Writes the bytes of one chunk.
async fn seal_part(upload: Arc<Upload>, file_offset: u64, bytes: Bytes) -> Result<Seal, Error> {
    if bytes.len() as u64 <= SMALL_CHUNK_BYTES {
        let seal = chunk::put_small(&upload, Packet::new(bytes)).await?;
        return Ok(Seal { file_offset, ..seal });
    }
    let (pieces, live) = mpsc::channel(QUEUE_PACKETS);
    let chunk_bytes = upload.chunk_bytes;
    let job = ChunkJob {
        upload,
        file_offset,
        feed: Feed::new(live, Replay::Kept(Vec::new()), chunk_bytes),
    };
    let feeding = async move {
        let mut rest = bytes;
        while !rest.is_empty() {
            let packet = rest.split_to(rest.len().min(PACKET_BYTES));
            if pieces.send(Piece::Packet(Packet::new(packet))).await.is_err() {
                // The job has ended, and says why.
                return;
            }
        }
        let _ = pieces.send(Piece::End).await;
    };
    tokio::join!(job.run(), feeding).0
}

/// The answer to a splice. After silence nobody knows whether it was carried out.
fn spliced(answer: Result<Response, WireError>) -> Result<Spliced, WireError> {
    match answer {
        Ok(Response::Spliced { offset, length }) => Ok(Spliced { offset, length }),
        Ok(_) => Err(unexpected()),
        Err(error)
            if matches!(
                error.code,
                ErrorCode::Timeout | ErrorCode::NoLeader | ErrorCode::NoQuorum | ErrorCode::Unreachable
            ) =>
        {
            let error = WireError {
                code: ErrorCode::OutcomeUnknown,
                ..error
            };
            Err(error
                .action(Action::GiveUp)
                .help("look whether the bytes are in the file before they are written again"))
        }
        Err(error) => Err(error),
    }
}

/// The uploads that a file's chunks come from: opened when one is needed, and kept for the next ones.
#[derive(Debug)]
pub(crate) struct Cached {
    /// For what is put at the end: room is reserved for it.
    appended: Kept,
    /// For what is put anywhere else.
    overwritten: Kept,
}

impl Default for Cached {
    fn default() -> Self {
        let kept = |room| Kept {
            room,
            upload: tokio::sync::Mutex::default(),
        };
        Self {
            appended: kept(Room::Appended),
            overwritten: kept(Room::Overwritten),
        }
    }
}

impl Cached {
    fn of(&self, at: SpliceAt) -> &Kept {
        match at {
            SpliceAt::End => &self.appended,
            SpliceAt::Offset(_) => &self.overwritten,
        }
    }

    /// Gives the uploads back to the masters. Best effort: their leases end them anyway.
    pub(crate) fn give_back(&mut self) {
        for kept in [&mut self.appended, &mut self.overwritten] {
            if let Some(upload) = kept.upload.get_mut().take()
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(async move { upload.abort().await });
            }
        }
    }
}

/// One of them.
#[derive(Debug)]
struct Kept {
    room: Room,
    upload: tokio::sync::Mutex<Option<Arc<Upload>>>,
}

impl Kept {
    async fn get(&self, target: &Target) -> Result<Arc<Upload>, Error> {
        let mut cached = self.upload.lock().await;
        Ok(match &*cached {
            Some(upload) => Arc::clone(upload),
            None => Arc::clone(cached.insert(Arc::new(target.open(self.room).await?))),
        })
    }

    /// The next one needs another upload than this.
    async fn forget(&self, upload: &Arc<Upload>) {
        let mut cached = self.upload.lock().await;
        if cached.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, upload)) {
            *cached = None;
        }
    }
}
