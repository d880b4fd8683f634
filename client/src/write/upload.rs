//! One upload as the masters know it: its lease, and the chunks granted to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gabion_protocol::checksum::Running;
use gabion_protocol::ids::{ChunkId, Ino, ServerId, UploadGeneration};
use gabion_protocol::limits::{BATCH_ROWS_MAX, GRANT_CHUNKS_MAX, RESUME_MS, UPLOAD_LEASE_MS};
use gabion_protocol::messages::master::{ChunkGrant, Entry, Op, Query, Response, Room, Seal, UploadOptions};
use gabion_protocol::{Action, ErrorCode, FsPath, WireError};
use parking_lot::Mutex;

use super::chain::Chain;
use crate::Error;
use crate::client::{Inner, unexpected};
use crate::masters::Session;
use crate::policy::placement;

/// Chunks granted ahead of need: enough that a grant never stalls a stream.
const AHEAD: u64 = 3;
/// Longest wait for what makes an end nicer and changes nothing that lasts.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Lease renewals: three may be lost before the lease ends.
const RENEW: Duration = Duration::from_millis(UPLOAD_LEASE_MS / 4);

/// The uploads a client has open, whose leases must be kept alive, each in the session that opened it.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<BTreeMap<Ino, (UploadGeneration, Arc<Session>)>>);

/// One session's open uploads.
type OfSession = (Arc<Session>, Vec<(Ino, UploadGeneration)>);

impl Uploads {
    /// Keeps the lease of an upload, of a stock or of a directory's copy from now on.
    pub(crate) fn keep(&self, ino: Ino, generation: UploadGeneration, session: &Arc<Session>) {
        self.0.lock().insert(ino, (generation, Arc::clone(session)));
    }

    /// The lease is kept no more.
    pub(crate) fn close(&self, ino: Ino) {
        self.0.lock().remove(&ino);
    }

    /// Renews leases in the background as long as the client lives.
    pub(crate) fn keep_alive(inner: &Arc<Inner>) {
        let weak = Arc::downgrade(inner);
        tokio::spawn(renew_leases(weak));
    }

    fn by_session(&self) -> Vec<OfSession> {
        let mut sessions: Vec<OfSession> = Vec::new();
        for (ino, (generation, session)) in &*self.0.lock() {
            match sessions.iter_mut().find(|(known, _)| Arc::ptr_eq(known, session)) {
                Some((_, uploads)) => uploads.push((*ino, *generation)),
                None => sessions.push((Arc::clone(session), vec![(*ino, *generation)])),
            }
        }
        sessions
    }
}

async fn renew_leases(weak: Weak<Inner>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + RENEW, RENEW);
    loop {
        ticks.tick().await;
        let Some(inner) = weak.upgrade() else {
            return;
        };
        inner.stocks.give_back_idle();
        for (session, uploads) in inner.uploads.by_session() {
            for uploads in uploads.chunks(BATCH_ROWS_MAX) {
                let op = Op::Renew {
                    uploads: uploads.to_vec(),
                };
                if let Err(error) = inner.masters.command_in(&session, op).await {
                    tracing::warn!(%error, "cannot renew the leases of open uploads");
                }
            }
        }
    }
}

/// An upload under way.
pub(super) struct Upload {
    pub(super) inner: Arc<Inner>,
    pub(super) path: FsPath,
    pub(super) ino: Ino,
    /// The file chunkservers are told its chunks are for.
    file: Ino,
    generation: UploadGeneration,
    session: Arc<Session>,
    pub(super) chunk_bytes: u64,
    replicas: u8,
    /// Chunks it will take in all, if its length is known.
    chunks_total: Option<u64>,
    /// Whether the masters keep it for the next client when this one fails.
    is_resumable: bool,
    grants: tokio::sync::Mutex<Grants>,
    stored: AtomicU64,
    progress: Mutex<Option<Progress>>,
}

/// Told the bytes stored so far.
pub(super) type Progress = Box<dyn Fn(u64) + Send + Sync>;

#[derive(Debug)]
struct Grants {
    ready: VecDeque<ChunkGrant>,
    /// Granted, given up, and not told to the masters yet.
    abandoned: Vec<ChunkId>,
    granted: u64,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("path", &self.path)
            .field("ino", &self.ino)
            .finish_non_exhaustive()
    }
}

/// What chunks need of the servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) replicas: u8,
    pub(super) chunk_bytes: u64,
}

/// Runs `op`, made anew for each try, until servers enough can take it or the time is up. Each try is a command of its
/// own: the masters answer a repeated command with its first answer.
pub(super) async fn place(
    inner: &Inner,
    session: &Arc<Session>,
    needs: Needs,
    op: impl Fn(Vec<ServerId>) -> Op,
) -> Result<Response, WireError> {
    let deadline = Instant::now() + inner.config.wait;
    let mut told = None;
    loop {
        let op = op(inner.servers.troubled());
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match inner.masters.command_within(session, op, left).await {
            Err(error) if error.code == ErrorCode::TooFewServers => error,
            // The masters may still be waiting for servers: their time for that is not ours.
            Err(error) if error.code == ErrorCode::Timeout => {
                return Err(match told {
                    Some(told) => told,
                    None => why_not_placed(inner, needs).await.unwrap_or(error),
                });
            }
            answer => return answer,
        };
        let Action::Retry { after_ms } = error.action else {
            return Err(error);
        };
        let pause = Duration::from_millis(u64::from(after_ms));
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        told = Some(error);
        tokio::time::sleep(pause).await;
    }
}

/// Why the masters place no chunk, if it is for lack of servers.
async fn why_not_placed(inner: &Inner, needs: Needs) -> Option<WireError> {
    let asked = tokio::time::timeout(LAST_WORD, inner.masters.query(Query::Status)).await;
    let Ok(Ok(Response::Status(status))) = asked else {
        return None;
    };
    placement::shortage(&status.servers, placement::needed(needs.replicas), needs.chunk_bytes)
}

/// The file at a path, if it is the one that was to appear there: an inode is of one upload only.
pub(super) async fn appeared(inner: &Inner, path: &FsPath, ino: Ino) -> Option<Entry> {
    let query = Query::Stat { path: path.clone() };
    let answer = tokio::time::timeout(LAST_WORD, inner.masters.query(query)).await;
    match answer {
        Ok(Ok(Response::Entry(entry))) if entry.ino == ino => Some(entry),
        _ => None,
    }
}

impl Upload {
    pub(super) async fn open(
        inner: &Arc<Inner>,
        path: &FsPath,
        options: UploadOptions,
        room: Room,
    ) -> Result<Self, WireError> {
        let session = inner.masters.session().await?;
        let defaults = session.defaults();
        let needs = Needs {
            replicas: options.replicas.unwrap_or(defaults.replicas),
            chunk_bytes: options.chunk_bytes.unwrap_or(defaults.chunk_bytes),
        };
        let length = match room {
            Room::Whole { length } => Some(length),
            Room::Growing | Room::Appended | Room::Overwritten => None,
        };
        let first = length.map_or(1, |length| length.div_ceil(needs.chunk_bytes.max(1)).min(AHEAD));
        let open = |avoid| Op::OpenSized {
            path: path.clone(),
            options: options.clone(),
            chunks: first as u8,
            avoid,
            room,
        };
        let Response::Upload {
            upload,
            generation,
            chunk_bytes,
            replicas,
            chunks,
            servers,
        } = place(inner, &session, needs, open).await?
        else {
            return Err(unexpected());
        };
        inner.servers.learn(servers);
        inner.uploads.keep(upload, generation, &session);
        Ok(Self {
            inner: Arc::clone(inner),
            path: path.clone(),
            ino: upload,
            file: upload,
            generation,
            session,
            replicas,
            chunk_bytes: chunk_bytes.max(1),
            chunks_total: length.map(|length| length.div_ceil(chunk_bytes.max(1))),
            is_resumable: false,
            grants: tokio::sync::Mutex::new(Grants {
                granted: chunks.len() as u64,
                ready: chunks.into(),
                abandoned: Vec::new(),
            }),
            stored: AtomicU64::new(0),
            progress: Mutex::new(None),
        })
    }

    /// Takes over the upload that was left on the way to `path`, or begins one: with what is recorded of it.
    pub(super) async fn resume(
        inner: &Arc<Inner>,
        path: &FsPath,
        options: UploadOptions,
        length: u64,
    ) -> Result<(Self, Running), WireError> {
        let session = inner.masters.session().await?;
        let op = Op::ResumeSized {
            path: path.clone(),
            options,
            keep_ms: RESUME_MS,
            length,
        };
        let Response::Resumed {
            upload,
            generation,
            chunk_bytes,
            replicas,
            length: recorded,
            crc,
        } = inner.masters.command_in(&session, op).await?
        else {
            return Err(unexpected());
        };
        inner.uploads.keep(upload, generation, &session);
        let mut beginning = Running::default();
        beginning.append(crc, recorded);
        let chunk_bytes = chunk_bytes.max(1);
        let resumed = Self {
            inner: Arc::clone(inner),
            path: path.clone(),
            ino: upload,
            file: upload,
            generation,
            session,
            replicas,
            chunk_bytes,
            chunks_total: Some(length.saturating_sub(recorded).div_ceil(chunk_bytes)),
            is_resumable: true,
            grants: tokio::sync::Mutex::new(Grants {
                granted: 0,
                ready: VecDeque::new(),
                abandoned: Vec::new(),
            }),
            stored: AtomicU64::new(recorded),
            progress: Mutex::new(None),
        };
        Ok((resumed, beginning))
    }

    /// The same, with chunks that will be part of another file.
    pub(super) fn for_file(mut self, file: Ino) -> Self {
        self.file = file;
        self
    }

    /// Its number, and its owner's generation.
    pub(super) fn owner(&self) -> (Ino, UploadGeneration) {
        (self.ino, self.generation)
    }

    /// A chunk to write, on a chain without servers that failed us lately if that is possible.
    ///
    /// The masters may still think well of such a server. They put what we avoid last, so that with spare servers it
    /// is not in a fresh chain; without, it is left out of the chain, and the chunk is degraded, as long as the rest
    /// is enough for the promise ([`placement::writable`]).
    pub(super) async fn grant(self: &Arc<Self>) -> Result<ChunkGrant, Error> {
        let mut grants = self.grants.lock().await;
        let mut is_fresh = false;
        loop {
            let troubles = self.inner.servers.troubles();
            while let Some(mut grant) = grants.ready.pop_front() {
                let chain: Vec<_> = grant.replicas.iter().map(|replica| replica.server).collect();
                let is_whole = !chain.iter().any(|id| troubles.contains_key(id));
                if !is_whole && !is_fresh {
                    grants.abandoned.push(grant.chunk);
                    grants.granted = grants.granted.saturating_sub(1);
                    continue;
                }
                let writable = placement::writable(&chain, &troubles, placement::needed(self.replicas));
                grant.replicas.retain(|replica| writable.contains(&replica.server));
                return Ok(grant);
            }
            let wanted = self.wanted(&grants, 1).max(1);
            self.ask_for(&mut grants, wanted).await?;
            is_fresh = true;
        }
    }

    /// How many more chunks to ask for, at most `most`.
    fn wanted(&self, grants: &Grants, most: u64) -> u64 {
        let left = self
            .chunks_total
            .map_or(1, |total| total.saturating_sub(grants.granted));
        left.min(most).min(GRANT_CHUNKS_MAX as u64)
    }

    /// Gets chunks in the background, so that the next one needs no waiting.
    pub(super) fn grant_ahead(self: &Arc<Self>) {
        let upload = Arc::downgrade(self);
        tokio::spawn(async move {
            let Some(upload) = upload.upgrade() else {
                return;
            };
            let mut grants = upload.grants.lock().await;
            let wanted = upload.wanted(&grants, AHEAD);
            if !grants.ready.is_empty() || wanted == 0 {
                return;
            }
            // Whoever needs the chunk asks again, and tells.
            if let Err(error) = upload.ask_for(&mut grants, wanted).await {
                tracing::debug!(%error, path = %upload.path, "cannot get chunks ahead of need");
            }
        });
    }

    async fn ask_for(&self, grants: &mut Grants, chunks: u64) -> Result<(), Error> {
        let abandoned = std::mem::take(&mut grants.abandoned);
        let op = |avoid| Op::GrantChunks {
            upload: self.ino,
            generation: self.generation,
            chunks: chunks as u8,
            avoid,
            abandoned: abandoned.clone(),
        };
        let needs = Needs {
            replicas: self.replicas,
            chunk_bytes: self.chunk_bytes,
        };
        match place(&self.inner, &self.session, needs, op).await {
            Ok(Response::Chunks { chunks, servers }) if !chunks.is_empty() => {
                self.inner.servers.learn(servers);
                grants.granted += chunks.len() as u64;
                grants.ready.extend(chunks);
                Ok(())
            }
            Ok(_) => Err(unexpected().into()),
            Err(error) => {
                grants.abandoned = abandoned;
                Err(error.into())
            }
        }
    }

    pub(super) async fn command(&self, op: Op) -> Result<Response, WireError> {
        self.inner.masters.command_in(&self.session, op).await
    }

    /// A granted chunk will not be written.
    pub(super) async fn abandon(&self, chunk: ChunkId) {
        let mut grants = self.grants.lock().await;
        grants.abandoned.push(chunk);
        grants.granted = grants.granted.saturating_sub(1);
    }

    /// Logs sealed chunks, in file order.
    pub(super) async fn log_seals(&self, seals: Vec<Seal>) -> Result<(), WireError> {
        let op = Op::SealChunks {
            upload: self.ino,
            generation: self.generation,
            seals,
        };
        self.command(op).await.map(drop)
    }

    /// Makes the file appear.
    pub(super) async fn commit(&self, seals: Vec<Seal>, length: u64, crc: u32) -> Result<Entry, WireError> {
        let op = Op::Commit {
            upload: self.ino,
            generation: self.generation,
            seals,
            length,
            crc,
        };
        let answer = self.command(op).await?;
        self.close();
        match answer {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()),
        }
    }

    /// Whether the file has appeared although no answer to its commit came.
    pub(super) async fn committed(&self) -> Option<Entry> {
        let entry = appeared(&self.inner, &self.path, self.ino).await?;
        self.close();
        Some(entry)
    }

    /// A granted chunk's servers.
    pub(super) fn chain<'a>(&'a self, grant: &'a ChunkGrant) -> Chain<'a> {
        Chain::new(&self.inner, self.file, self.chunk_bytes, grant)
    }

    /// The client stops before its end. The masters, if they are there, are told that the upload is given up; else its
    /// lease ends it. One that can be resumed is left as it is.
    pub(super) async fn give_up(&self) {
        if self.is_resumable {
            return self.close();
        }
        let told = tokio::time::timeout(LAST_WORD, self.abort()).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(?told, path = %self.path, "cannot tell the masters that an upload is given up");
        }
    }

    /// Gives the upload up.
    pub(super) async fn abort(&self) -> Result<(), WireError> {
        self.close();
        let op = Op::AbortUpload {
            upload: self.ino,
            generation: self.generation,
        };
        self.command(op).await.map(drop)
    }

    /// The lease is renewed no more.
    fn close(&self) {
        self.inner.uploads.close(self.ino);
    }

    pub(super) fn on_progress(&self, progress: Progress) {
        *self.progress.lock() = Some(progress);
    }

    /// So many more bytes are stored on a whole chain.
    pub(super) fn advance(&self, bytes: u64) {
        let stored = self.stored.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &*self.progress.lock() {
            progress(stored);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.close();
    }
}
