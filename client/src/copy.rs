//! Copies by reference: files that share the chunks of others. No byte is moved.

use gabion_protocol::FsPath;
use gabion_protocol::limits::COPY_EXTENTS_MAX;
use gabion_protocol::messages::master::{CopyFiles, Entry, FileVersion, Op, Response, Room, UploadOptions};
use gabion_protocol::{ErrorCode, Ino, WireError};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

/// How a copy appears.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Whether an existing file may be replaced.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Whether the modification time is that of the (first) original.
    pub keep_time: bool,
}

/// An upload that takes parts of files.
#[derive(Debug, Clone, Copy)]
struct Draft {
    upload: Ino,
    generation: gabion_protocol::ids::UploadGeneration,
    length: u64,
    crc: Option<u32>,
}

impl Client {
    /// Makes a file of the contents of others, one after the other, without moving a byte: it appears whole, and
    /// later changes to one do not show in the other. With one source it is a copy.
    ///
    /// Originals of more than some thousand chunks in all are taken over in steps, each original as it was when its
    /// turn came; if one changes during its turn, nothing appears.
    ///
    /// # Errors
    /// Why not.
    pub async fn copy(&self, sources: &[FsPath], to: &FsPath, options: CopyOptions) -> Result<Entry, Error> {
        let what = || match sources {
            [source] => format!("cannot copy {source} to {to}"),
            _ => format!("cannot make {to} of other files"),
        };
        let op = Op::Copy(CopyFiles {
            sources: sources.to_vec(),
            to: to.clone(),
            replace: options.replace,
            parents: options.parents,
            keep_time: options.keep_time,
        });
        let refused = match self.inner.masters.command(op).await {
            Ok(Response::Entry(entry)) => return Ok(entry),
            Ok(_) => return Err(unexpected()).context(what),
            Err(error) => error,
        };
        // Too many files and too many extents are refused alike; only the latter can be copied in steps.
        if refused.code != ErrorCode::LimitExceeded {
            return Err(refused).context(what);
        }
        let mut originals = Vec::new();
        for source in sources {
            originals.push(self.resolve(source).await?.1);
        }
        let extents: u64 = originals.iter().map(|entry| entry.children).sum();
        if originals.iter().any(|entry| !entry.is_file()) || extents <= COPY_EXTENTS_MAX as u64 {
            return Err(refused).context(what);
        }
        self.copy_in_steps(sources, &originals, to, options).await.context(what)
    }

    async fn copy_in_steps(
        &self,
        sources: &[FsPath],
        originals: &[Entry],
        to: &FsPath,
        options: CopyOptions,
    ) -> Result<Entry, WireError> {
        let first = originals.first().ok_or_else(unexpected)?;
        let length = originals.iter().map(|entry| entry.length).fold(0, u64::saturating_add);
        let open = Op::OpenSized {
            path: to.clone(),
            options: UploadOptions {
                replicas: Some(first.replicas),
                chunk_bytes: Some(first.chunk_bytes),
                replace: options.replace,
                parents: options.parents,
                mode: first.mode,
                modified_ms: options.keep_time.then_some(first.modified_ms),
            },
            chunks: 0,
            avoid: Vec::new(),
            room: Room::Whole { length },
        };
        let masters = &self.inner.masters;
        let Response::Upload { upload, generation, .. } = masters.command(open).await? else {
            return Err(unexpected());
        };
        let mut draft = Draft {
            upload,
            generation,
            length: 0,
            crc: Some(0),
        };
        let built = self.build(&mut draft, sources).await;
        if built.is_err() {
            // It would end by itself when its lease does, too.
            let _ = masters.command(Op::AbortUpload { upload, generation }).await;
        }
        built
    }

    async fn build(&self, draft: &mut Draft, sources: &[FsPath]) -> Result<Entry, WireError> {
        for source in sources {
            self.take_over(draft, source).await?;
        }
        let commit = Op::Commit {
            upload: draft.upload,
            generation: draft.generation,
            seals: Vec::new(),
            length: draft.length,
            crc: draft.crc.unwrap_or(0),
        };
        match self.inner.masters.command(commit).await? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()),
        }
    }

    async fn take_over(&self, draft: &mut Draft, source: &FsPath) -> Result<(), WireError> {
        let mut version: Option<FileVersion> = None;
        let mut offset = 0;
        loop {
            let part = Op::CopyExtents {
                upload: draft.upload,
                generation: draft.generation,
                source: source.clone(),
                offset,
                version,
            };
            let Response::Copied {
                version: found,
                next,
                more,
                length,
                crc,
            } = self.inner.masters.command(part).await?
            else {
                return Err(unexpected());
            };
            (draft.length, draft.crc) = (length, crc);
            (version, offset) = (Some(found), next);
            if !more {
                return Ok(());
            }
        }
    }
}
