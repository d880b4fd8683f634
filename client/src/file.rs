//! Files that are there and change: bytes put at their end or over what they hold, and their length.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::limits::{FILE_BYTES_MAX, SMALL_CHUNK_BYTES, WRITE_LEASE_MS_MAX};
use gabion_protocol::messages::master::{Change, Op, Response, SpliceAt};
use gabion_protocol::{ErrorCode, FsPath, WireError};

use crate::client::{Inner, unexpected};
use crate::write::{Appender, Cached, Target, retold};
use crate::{Client, Error};

/// How long a write lease lasts without renewal: a writer that died holds others up so long.
const LEASE_MS: u64 = WRITE_LEASE_MS_MAX / 4;
/// Between renewals: two may be lost.
const RENEW: Duration = Duration::from_millis(LEASE_MS / 3);

/// A file open for changes. Clones share it.
///
/// Every call that succeeds has put its bytes on the disks of all replicas, and into the file. Calls on one handle may
/// run at the same time; those that append are put one behind another, each in one piece, as those of other writers are.
/// The handle stays with its file when that is renamed, and refuses to write when it is removed or replaced.
#[derive(Debug, Clone)]
pub struct File(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Target,
    upload: Cached,
}

impl Client {
    /// Opens a file for changes. Others may change it, too.
    ///
    /// # Errors
    /// Why not.
    pub async fn open_file(&self, path: &FsPath) -> Result<File, Error> {
        let target = self.target(path).await?;
        Ok(File(Arc::new(Shared {
            target,
            upload: Cached::default(),
        })))
    }

    /// Opens a file for changes by nobody else, until the last clone of the handle is dropped. If the masters hear
    /// nothing of this client for a while, the right ends, and every later write through the handle fails.
    ///
    /// # Errors
    /// Why not; also if someone else has it open so, who is named then.
    pub async fn open_exclusive(&self, path: &FsPath) -> Result<File, Error> {
        let mut target = self.target(path).await?;
        let lease = take_lease(&target).await;
        let lease = lease.map_err(|error| retold(format!("cannot become the only writer of {path}"), path, error))?;
        target.lease = Some(lease);
        let shared = Arc::new(Shared {
            target,
            upload: Cached::default(),
        });
        tokio::spawn(renew(Arc::downgrade(&shared)));
        Ok(File(shared))
    }

    async fn target(&self, path: &FsPath) -> Result<Target, Error> {
        let (found, entry) = self.resolve(path).await?;
        if found.is_in_snapshot() {
            // The masters are told the file's number from here on, which it has outside of the snapshot, too.
            let message = format!("cannot write to {path}: it is in a snapshot, which never changes");
            let error = WireError::new(ErrorCode::ReadOnly, message);
            return Err(error
                .help("copy what you need out of it, and change that: gabion cp")
                .into());
        }
        if !entry.is_file() {
            let message = format!("cannot write to {path}: it is a directory");
            return Err(Error::new(ErrorCode::IsDirectory, message));
        }
        Ok(Target {
            inner: Arc::clone(&self.inner),
            path: path.clone(),
            file: entry.ino,
            lease: None,
            replicas: Arc::new(AtomicU8::new(entry.replicas)),
            chunk_bytes: entry.chunk_bytes,
        })
    }
}

impl File {
    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &FsPath {
        &self.0.target.path
    }

    /// Puts bytes at the end, in one piece and one step; where they begin. They are held in memory until then.
    ///
    /// Small records that are appended to one file at the same time, through any handles of one [`Client`], go together:
    /// many writers in one process cost little more than one. If this call is given up meanwhile, its bytes may be
    /// appended all the same.
    ///
    /// # Errors
    /// Why not. After [`ErrorCode::OutcomeUnknown`] they may be there.
    pub async fn append(&self, bytes: impl Into<Bytes>) -> Result<u64, Error> {
        let bytes: Bytes = bytes.into();
        let put = match bytes.len() as u64 {
            1..=SMALL_CHUNK_BYTES => self.0.target.append_small(bytes).await,
            _ => self.put(bytes, SpliceAt::End).await,
        };
        put.map_err(|error| self.cannot(format!("append to {}", self.path()), error))
    }

    /// Puts bytes in place of those from `offset` on; beyond the end, zeros come to lie in between. What fits a chunk is
    /// put in one step; more, in several from the beginning on.
    ///
    /// # Errors
    /// Why not. After [`ErrorCode::OutcomeUnknown`] they may be there; after others, a part of more than a chunk.
    pub async fn write_at(&self, offset: u64, bytes: impl Into<Bytes>) -> Result<(), Error> {
        let mut rest: Bytes = bytes.into();
        let (mut at, mut step) = (offset, usize::try_from(self.0.target.chunk_bytes).unwrap_or(usize::MAX));
        let end = offset.checked_add(rest.len() as u64);
        let fits = end.is_some_and(|end| end <= FILE_BYTES_MAX);
        while !rest.is_empty() {
            let piece = rest.slice(..rest.len().min(step.max(1)));
            let len = piece.len();
            match self.put(piece, SpliceAt::Offset(at)).await {
                Ok(_) => {
                    at += len as u64;
                    rest = rest.slice(len..);
                }
                // What is there is in more pieces than one step may replace.
                Err(error) if error.code() == ErrorCode::LimitExceeded && len > 1 && fits => step = len / 2,
                Err(error) => return Err(self.cannot(format!("write to {} at offset {at}", self.path()), error)),
            }
        }
        Ok(())
    }

    async fn put(&self, bytes: Bytes, at: SpliceAt) -> Result<u64, Error> {
        let Shared { target, upload } = &*self.0;
        Ok(target.put(upload, bytes, at).await?.offset)
    }

    /// Makes the file shorter or longer; new bytes are zeros. A file in very many pieces becomes shorter in steps.
    ///
    /// # Errors
    /// Why not.
    pub async fn truncate(&self, length: u64) -> Result<(), Error> {
        let what = || format!("truncate {}", self.path());
        loop {
            match self.command(Change::Truncate { length }, what).await? {
                Response::Truncated { length: now } if now == length => return Ok(()),
                Response::Truncated { .. } => {}
                _ => return Err(self.cannot(what(), unexpected())),
            }
        }
    }

    /// Sets how many copies the file shall have. They are made, or dropped, in the background.
    ///
    /// # Errors
    /// Why not; some chunks may have been told already.
    pub async fn set_replicas(&self, replicas: u8) -> Result<(), Error> {
        let what = || format!("set the copies of {}", self.path());
        let mut from = 0;
        loop {
            match self.command(Change::SetReplicas { replicas, from }, what).await? {
                Response::ReplicasSet { next: Some(next) } => from = next,
                Response::ReplicasSet { next: None } => return Ok(()),
                _ => return Err(self.cannot(what(), unexpected())),
            }
        }
    }

    /// A writer at the end that gathers what it is given. Its pieces are whole chunks, or what it had at an
    /// [`Appender::sync`]; those of other writers may come to lie between them.
    pub fn appender(&self) -> Appender {
        // It holds the file open: the lease lasts as long as it does.
        Appender::new(self.0.target.clone(), Arc::clone(&self.0) as _)
    }

    /// Ends the right to be the only writer, of all clones, now; dropping the last one does it in the background.
    ///
    /// # Errors
    /// If the masters cannot be told: it then ends by itself.
    pub async fn close(self) -> Result<(), Error> {
        if self.0.target.lease.is_none() {
            return Ok(());
        }
        let closed = self.command(Change::EndLease, || format!("close {}", self.path()));
        closed.await.map(drop)
    }

    async fn command(&self, change: Change, what: impl Fn() -> String) -> Result<Response, Error> {
        let target = &self.0.target;
        let answer = target.inner.masters.command(target.change(change)).await;
        answer.map_err(|error| self.cannot(what(), error))
    }

    fn cannot(&self, what: String, error: impl Into<Error>) -> Error {
        retold(format!("cannot {what}"), self.path(), error)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.upload.give_back();
        if self.target.lease.is_none() {
            return;
        }
        // Best effort: the lease ends anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let target = self.target.clone();
            runtime.spawn(async move {
                let op = target.change(Change::EndLease);
                target.inner.masters.command(op).await
            });
        }
    }
}

/// Takes the write lease of a file, or renews the one that is held.
async fn take_lease(target: &Target) -> Result<u64, WireError> {
    let op: Op = target.change(Change::TakeLease {
        ms: LEASE_MS,
        holder: holder(&target.inner),
    });
    match target.inner.masters.command(op).await? {
        Response::WriteLease { lease, .. } => Ok(lease),
        _ => Err(unexpected()),
    }
}

/// Who this is, for those who find the file leased.
fn holder(inner: &Inner) -> String {
    let host = rustix::system::uname();
    let id = inner.config.identity().map(|identity| identity.id).unwrap_or_default();
    let mut text = format!(
        "{id} on {}, process {}",
        host.nodename().to_string_lossy(),
        std::process::id()
    );
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=text.len().min(gabion_protocol::limits::NAME_BYTES_MAX))
        .rev()
        .find(fits);
    text.truncate(end.unwrap_or(0));
    text
}

/// Keeps a lease as long as its file is open. When it is lost, the next write is told.
async fn renew(file: std::sync::Weak<Shared>) {
    loop {
        tokio::time::sleep(RENEW).await;
        let Some(target) = file.upgrade().map(|shared| shared.target.clone()) else {
            return;
        };
        match take_lease(&target).await {
            Ok(_) => {}
            Err(error) if error.is_transient() => tracing::warn!(%error, "cannot renew a write lease"),
            Err(error) => {
                tracing::warn!(%error, path = %target.path, "a write lease is lost");
                return;
            }
        }
    }
}
