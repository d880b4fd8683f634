//! Writing a file: packets with their CRCs, chunks down chains of servers, seals and the commit that makes the file
//! appear.
//!
//! `packet` cuts and keeps what is written, `chunk` pushes it, `chain` judges the servers it is pushed to, `upload` is
//! what the masters know of it all, `stock` has chunks at hand for small files, `resume` goes on where an upload was
//! interrupted. `target` and `appender` write to files that are there, `gather` has small records go there together.
//!
//! Invariants: a CRC is made once, here, from the bytes the program gave; what is in flight or kept is bounded by
//! the chunks in flight; nothing appears before [`FileWriter::finish`] has succeeded.

mod appender;
mod chain;
mod chunk;
mod gather;
mod packet;
mod resume;
mod stock;
mod stream;
mod target;
mod upload;

use std::fs::File;
use std::sync::Arc;

use gabion_protocol::buffer::Buffer;
use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use gabion_protocol::messages::master::{Entry, Op, Response, Room, Seal, UploadOptions};
use gabion_protocol::{ErrorCode, FsPath, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Error;
use crate::client::{Inner, unexpected};
use crate::error::Context as _;
pub use appender::Appender;
use chunk::{ChunkJob, Seals};
pub(crate) use gather::Gatherings;
use packet::{Feed, Packet, Piece, Replay, packet_len};
pub use resume::ResumedUpload;
pub(crate) use resume::resume_file;
pub(crate) use stock::Stocks;
pub use stream::WriteStream;
pub(crate) use target::{Cached, Target};
pub(crate) use upload::Uploads;
use upload::{Progress, Upload};

/// Packets between the one who cuts them and the one who sends them.
const QUEUE_PACKETS: usize = 4;
/// Most bytes of packets kept for chunks that are not sealed yet.
const KEPT_BYTES_MAX: u64 = 128 << 20;

/// How a file is stored.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Copies of each chunk; the cluster's default if `None`.
    pub replicas: Option<u8>,
    /// Bytes of a chunk; the cluster's default if `None`.
    pub chunk_bytes: Option<u64>,
    /// Whether an existing file may be replaced.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Permission bits.
    pub mode: u32,
    /// Modification time to show, milliseconds since 1970; the commit's if `None`.
    pub modified_ms: Option<i64>,
    /// The file's length, if it is known: chunks are then granted neither late nor in vain. That a small file may not
    /// appear at its path is then said in the end, not at once.
    pub length_hint: Option<u64>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            replicas: None,
            chunk_bytes: None,
            replace: false,
            parents: false,
            mode: 0o644,
            modified_ms: None,
            length_hint: None,
        }
    }
}

impl From<CreateOptions> for UploadOptions {
    fn from(options: CreateOptions) -> Self {
        Self {
            replicas: options.replicas,
            chunk_bytes: options.chunk_bytes,
            replace: options.replace,
            parents: options.parents,
            mode: options.mode,
            modified_ms: options.modified_ms,
        }
    }
}

/// A file being written. It appears when [`FileWriter::finish`] succeeds; dropped without that, it is given up.
#[must_use = "a file that is not finished does not appear"]
pub struct FileWriter {
    inner: Arc<Inner>,
    path: FsPath,
    options: CreateOptions,
    chunk_bytes: u64,
    /// Opened with the first chunk if the file promises to be small: it may need none.
    upload: Option<Arc<Upload>>,
    progress: Option<Progress>,
    /// The packet being filled, and its bytes so far.
    filling: Option<(Buffer, usize)>,
    /// The first packet, while the file may still turn out small.
    first: Option<Packet>,
    /// The chunk that takes packets now.
    chunk: Option<OpenChunk>,
    /// Bytes handed to chunks.
    handed: u64,
    jobs: JoinSet<Result<Seal, Error>>,
    seals: Seals,
    /// Where what must be sent again is read; kept in memory if `None`.
    source: Option<Arc<File>>,
    /// The file at whose end it writes; a new one if `None`.
    target: Option<Target>,
    failed: Option<Error>,
    is_over: bool,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter")
            .field("path", &self.path)
            .field("upload", &self.upload)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct OpenChunk {
    pieces: mpsc::Sender<Piece>,
    length: u64,
}

impl FileWriter {
    pub(crate) async fn create(inner: &Arc<Inner>, path: &FsPath, options: CreateOptions) -> Result<Self, Error> {
        let session = inner.masters.session().await;
        let defaults = session.map_err(|error| cannot_write(path, error))?.defaults();
        let chunk_bytes = options.chunk_bytes.unwrap_or(defaults.chunk_bytes).max(1);
        let is_small = matches!(options.length_hint, Some(1..=SMALL_CHUNK_BYTES));
        let mut writer = Self {
            inner: Arc::clone(inner),
            path: path.clone(),
            options,
            chunk_bytes,
            upload: None,
            progress: None,
            filling: None,
            first: None,
            chunk: None,
            handed: 0,
            jobs: JoinSet::new(),
            seals: Seals::default(),
            source: None,
            target: None,
            failed: None,
            is_over: false,
        };
        if !is_small {
            let opened = writer.upload().await.map(drop);
            opened.map_err(|error| cannot_write(path, error))?;
        }
        Ok(writer)
    }

    /// The upload, begun if it has not.
    async fn upload(&mut self) -> Result<Arc<Upload>, WireError> {
        if let Some(upload) = &self.upload {
            return Ok(Arc::clone(upload));
        }
        let options = self.options.clone();
        let room = match options.length_hint {
            Some(length) => Room::Whole { length },
            None => Room::Growing,
        };
        let upload = match &self.target {
            Some(target) => target.open(Room::Appended).await?,
            None => Upload::open(&self.inner, &self.path, options.into(), room).await?,
        };
        if let Some(progress) = self.progress.take() {
            upload.on_progress(progress);
        }
        self.chunk_bytes = upload.chunk_bytes;
        Ok(Arc::clone(self.upload.insert(Arc::new(upload))))
    }

    /// Where the file will appear.
    #[must_use]
    pub fn path(&self) -> &FsPath {
        &self.path
    }

    /// Bytes written so far; they need not be stored yet.
    #[must_use]
    pub fn written(&self) -> u64 {
        let first = self.first.as_ref().map_or(0, |packet| packet.bytes.len() as u64);
        self.handed + first + self.filling.as_ref().map_or(0, |(_, filled)| *filled as u64)
    }

    /// Calls `progress` with the bytes stored on whole chains so far.
    pub fn on_progress(&mut self, progress: impl Fn(u64) + Send + Sync + 'static) {
        self.tell_progress(Box::new(progress));
    }

    fn tell_progress(&mut self, progress: Progress) {
        match &self.upload {
            Some(upload) => upload.on_progress(progress),
            None => self.progress = Some(progress),
        }
    }

    /// Writes all of `bytes` at the end. Waits while too much is in flight.
    ///
    /// # Errors
    /// Why the file cannot be written; later calls fail the same way.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let mut bytes = bytes.as_ref();
        while !bytes.is_empty() {
            let taken = self.fill(bytes);
            bytes = &bytes[taken..];
            if let Some(packet) = self.full_packet() {
                self.take(packet).await?;
            }
        }
        Ok(())
    }

    /// Copies what fits into the packet being filled.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let capacity = self.next_packet_len();
        let (buffer, filled) = self.filling.get_or_insert_with(|| (packet::buffer(capacity), 0));
        let room = &mut buffer.as_mut()[*filled..];
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        *filled += taken;
        taken
    }

    /// The packet being filled, if it is full.
    fn full_packet(&mut self) -> Option<Packet> {
        let (buffer, filled) = self
            .filling
            .take_if(|(buffer, filled)| *filled == buffer.as_ref().len())?;
        Some(Packet::new(buffer.freeze().slice(..filled)))
    }

    /// Bytes of the packet that is cut next.
    fn next_packet_len(&self) -> usize {
        packet_len(self.chunk_bytes, self.chunk.as_ref().map_or(0, |chunk| chunk.length))
    }

    /// Takes a packet cut by [`Self::next_packet_len`].
    async fn take(&mut self, packet: Packet) -> Result<(), Error> {
        let is_first = self.handed == 0 && self.first.is_none();
        if is_first && packet.bytes.len() as u64 <= SMALL_CHUNK_BYTES {
            self.first = Some(packet);
            return Ok(());
        }
        if let Some(first) = self.first.take() {
            self.hand(first).await?;
        }
        self.hand(packet).await
    }

    /// Hands a packet to its chunk, which is begun if needed.
    async fn hand(&mut self, packet: Packet) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let handed = self.hand_on(packet).await;
        handed.map_err(|error| self.fail(error))
    }

    async fn hand_on(&mut self, packet: Packet) -> Result<(), Error> {
        let len = packet.bytes.len() as u64;
        let mut chunk = match self.chunk.take() {
            Some(chunk) => chunk,
            None => self.begin_chunk().await?,
        };
        if chunk.pieces.send(Piece::Packet(packet)).await.is_err() {
            return Err(self.why_ended().await);
        }
        let half = self.chunk_bytes / 2;
        if (chunk.length..chunk.length + len).contains(&half)
            && let Some(upload) = &self.upload
        {
            upload.grant_ahead();
        }
        chunk.length += len;
        self.handed += len;
        if chunk.length < self.chunk_bytes {
            self.chunk = Some(chunk);
        } else if chunk.pieces.send(Piece::End).await.is_err() {
            return Err(self.why_ended().await);
        }
        Ok(())
    }

    async fn begin_chunk(&mut self) -> Result<OpenChunk, Error> {
        let upload = self.upload().await?;
        let chunk_bytes = self.chunk_bytes;
        let config = &self.inner.config;
        let most = match self.source {
            Some(_) => config.chunks_in_flight as u64,
            None => (config.chunks_in_flight as u64).min(KEPT_BYTES_MAX / chunk_bytes),
        };
        // A sealed chunk that waits for one before it is not logged: it counts as if it were on its way.
        while !self.jobs.is_empty() && (self.jobs.len() + self.seals.waiting()) as u64 >= most.max(1) {
            self.collect_one().await?;
        }
        // Those that are done already make room for the log.
        while let Some(done) = self.jobs.try_join_next() {
            self.collect(done).await?;
        }
        let replay = match &self.source {
            Some(file) => Replay::File {
                file: Arc::clone(file),
                offset: self.handed,
            },
            None => Replay::Kept(Vec::new()),
        };
        let (pieces, live) = mpsc::channel(QUEUE_PACKETS);
        let job = ChunkJob {
            upload,
            file_offset: self.handed,
            feed: Feed::new(live, replay, chunk_bytes),
        };
        self.jobs.spawn(job.run());
        Ok(OpenChunk { pieces, length: 0 })
    }

    async fn collect_one(&mut self) -> Result<(), Error> {
        match self.jobs.join_next().await {
            Some(done) => self.collect(done).await,
            None => Ok(()),
        }
    }

    async fn collect(&mut self, done: Result<Result<Seal, Error>, tokio::task::JoinError>) -> Result<(), Error> {
        let sealed =
            done.map_err(|error| Error::new(ErrorCode::Internal, format!("a task of the upload ended: {error}")))?;
        self.seals.add(sealed?);
        match &self.upload {
            Some(_) if self.target.is_some() => self.append_sealed().await,
            Some(upload) => chunk::log_seals(upload, &mut self.seals).await,
            None => Ok(()),
        }
    }

    /// A chunk's job has ended before its time: its error.
    async fn why_ended(&mut self) -> Error {
        while !self.jobs.is_empty() {
            if let Err(error) = self.collect_one().await {
                return error;
            }
        }
        Error::interrupted("the upload was given up")
    }

    fn fail(&mut self, error: Error) -> Error {
        let error = cannot_write(&self.path, error);
        self.jobs.abort_all();
        self.chunk = None;
        self.failed = Some(error.clone());
        error
    }

    /// Stores what is left and makes the file appear. After success every byte is on the disks of all servers of its
    /// chain, and the file is in the masters' log.
    ///
    /// # Errors
    /// Why the file did not appear. After [`gabion_protocol::ErrorCode::OutcomeUnknown`] it may have.
    pub async fn finish(mut self) -> Result<Entry, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.finish_all().await {
            Ok(entry) => {
                self.is_over = true;
                Ok(entry)
            }
            Err(error) => {
                let error = self.fail(error);
                self.give_up().await;
                Err(error)
            }
        }
    }

    async fn finish_all(&mut self) -> Result<Entry, Error> {
        if let Some((buffer, filled)) = self.filling.take() {
            self.take(Packet::new(buffer.freeze().slice(..filled))).await?;
        }
        let first = self.first.take();
        let Some(upload) = self.upload.clone() else {
            return self.finish_small(first).await;
        };
        if let Some(first) = first {
            let seal = chunk::put_small(&upload, first).await?;
            self.seals.add(seal);
        }
        if let Some(chunk) = self.chunk.take()
            && chunk.pieces.send(Piece::End).await.is_err()
        {
            return Err(self.why_ended().await);
        }
        while !self.jobs.is_empty() {
            self.collect_one().await?;
        }
        let (seals, length, crc) = self.seals.rest();
        match upload.commit(seals, length, crc).await {
            // Unavailable: it may have been carried out all the same.
            Err(error) if error.code == ErrorCode::OutcomeUnknown || error.code.exit_code() == 5 => {
                upload.committed().await.ok_or_else(|| error.into())
            }
            committed => Ok(committed?),
        }
    }

    /// Makes a file appear that is one small packet, or nothing.
    async fn finish_small(&mut self, packet: Option<Packet>) -> Result<Entry, Error> {
        let options = self.options.clone().into();
        let Some(packet) = packet else {
            return create_empty(&self.inner, &self.path, options).await;
        };
        let entry = stock::put_file(&self.inner, &self.path, &options, &packet).await?;
        if let Some(progress) = &self.progress {
            progress(packet.bytes.len() as u64);
        }
        Ok(entry)
    }

    /// Gives the file up: nothing appears, and what was stored is dropped.
    ///
    /// # Errors
    /// If the masters cannot be told; they find out when the upload's lease ends.
    pub async fn abort(mut self) -> Result<(), Error> {
        self.is_over = true;
        self.jobs.abort_all();
        match &self.upload {
            Some(upload) => {
                let aborted = upload.abort().await;
                aborted.context(|| format!("cannot give up the upload of {}", self.path))
            }
            None => Ok(()),
        }
    }

    async fn give_up(&mut self) {
        self.is_over = true;
        if let Some(upload) = &self.upload {
            upload.give_up().await;
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Best effort: the lease ends the upload anyway.
        let Some(upload) = self.upload.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { upload.give_up().await });
        }
    }
}

/// An error as the one who writes `path` wants to read it.
fn cannot_write(path: &FsPath, error: impl Into<Error>) -> Error {
    retold(format!("cannot write {path}"), path, error)
}

/// An error as one wants to read it who does `what` with `path`: a master's words for a step are replaced.
pub(crate) fn retold(what: String, path: &FsPath, error: impl Into<Error>) -> Error {
    let mut wire = error.into().into_details();
    if let Some((step, why)) = wire.message.split_once(": ")
        && (step.starts_with("cannot ") && (!step.contains('/') || step.ends_with(path.as_str())))
    {
        wire.message = why.to_owned();
    }
    Error::from(wire).context(what)
}

/// Uploads the first `length` bytes of a local file.
pub(crate) async fn upload_file(
    inner: &Arc<Inner>,
    path: &FsPath,
    options: CreateOptions,
    file: File,
    length: u64,
    progress: Progress,
) -> Result<Entry, Error> {
    if length == 0 {
        // One log entry instead of two.
        return create_empty(inner, path, options.into()).await;
    }
    let options = CreateOptions {
        length_hint: Some(length),
        ..options
    };
    let mut writer = FileWriter::create(inner, path, options).await?;
    writer.tell_progress(progress);
    copy_file(writer, Arc::new(file), length).await
}

/// Writes what follows the bytes that are stored already, and finishes the file.
async fn copy_file(mut writer: FileWriter, file: Arc<File>, length: u64) -> Result<Entry, Error> {
    writer.source = Some(Arc::clone(&file));
    let (packets, mut cut) = mpsc::channel(QUEUE_PACKETS);
    let (from, chunk_bytes) = (writer.handed, writer.chunk_bytes);
    let reader = tokio::task::spawn_blocking(move || read_packets(&file, from..length, chunk_bytes, &packets));
    while let Some(packet) = cut.recv().await {
        writer.take(packet).await?;
    }
    let read = reader
        .await
        .map_err(|_| Error::interrupted("cannot read the local file"));
    match read.and_then(|read| read) {
        Ok(()) => writer.finish().await,
        Err(error) => {
            let error = writer.fail(error);
            writer.give_up().await;
            Err(error)
        }
    }
}

/// Makes an empty file.
pub(crate) async fn create_empty(inner: &Inner, path: &FsPath, options: UploadOptions) -> Result<Entry, Error> {
    let op = Op::CreateFile {
        path: path.clone(),
        options,
    };
    match inner.masters.command(op).await {
        Ok(Response::Entry(entry)) => Ok(entry),
        Ok(_) => Err(cannot_write(path, unexpected())),
        Err(error) => Err(cannot_write(path, error)),
    }
}

/// Cuts a range of a file, from where a chunk begins, into packets; ends early if nobody takes them any more.
fn read_packets(
    file: &File,
    range: std::ops::Range<u64>,
    chunk_bytes: u64,
    packets: &mpsc::Sender<Packet>,
) -> Result<(), Error> {
    let mut offset = range.start;
    while offset < range.end {
        let left = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let len = packet_len(chunk_bytes, offset % chunk_bytes).min(left);
        let packet =
            Packet::read(file, offset, len).map_err(|error| Error::local("cannot read the local file", &error))?;
        if packet.bytes.len() < len {
            return Err(packet::became_shorter());
        }
        offset += len as u64;
        if packets.blocking_send(packet).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
