//! Uploads that do not start again: the masters keep what was recorded, and whoever has the same key goes on with it.
//!
//! No file on this machine says what was sent. The masters find the upload by its path and the client's identity, and tell
//! length and CRC of what they recorded; the local file begins with just these bytes, or has changed and is sent from its
//! beginning. Every chunk is recorded as soon as those before it are, so that at most the chunks in flight are sent
//! again: one for each stream.

use std::fs::File;
use std::sync::Arc;

use gabion_protocol::FsPath;
use gabion_protocol::checksum::Running;
use gabion_protocol::messages::master::Entry;
use tokio::task::JoinSet;

use super::chunk::Seals;
use super::upload::{Progress, Upload};
use super::{CreateOptions, FileWriter, cannot_write, copy_file, upload_file};
use crate::client::Inner;
use crate::{Error, local_crc};

/// What a resumed upload found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResumedUpload {
    /// Bytes an earlier upload had stored, and that were not sent again.
    pub kept: u64,
    /// The local file is not the one that was uploaded in part: all was sent anew.
    pub source_changed: bool,
}

/// Uploads the first `length` bytes of a local file, but for those that an earlier call has stored.
pub(crate) async fn resume_file(
    inner: &Arc<Inner>,
    path: &FsPath,
    options: CreateOptions,
    file: File,
    length: u64,
    progress: Progress,
) -> Result<(Entry, ResumedUpload), Error> {
    let session = inner.masters.session().await;
    let defaults = session.map_err(|error| cannot_write(path, error))?.defaults();
    if length <= options.chunk_bytes.unwrap_or(defaults.chunk_bytes) {
        // Of a single chunk nothing is kept.
        let entry = upload_file(inner, path, options, file, length, progress).await?;
        return Ok((entry, ResumedUpload::default()));
    }
    let file = Arc::new(file);
    let mut resumed = ResumedUpload::default();
    let (upload, beginning) = loop {
        let opened = Upload::resume(inner, path, options.clone().into(), length).await;
        let (upload, beginning) = opened.map_err(|error| cannot_write(path, error))?;
        if is_beginning(&file, length, beginning).await? {
            break (upload, beginning);
        }
        resumed.source_changed = true;
        upload.abort().await.map_err(|error| cannot_write(path, error))?;
    };
    resumed.kept = beginning.len();
    progress(beginning.len());
    upload.on_progress(progress);
    let writer = FileWriter {
        inner: Arc::clone(inner),
        path: path.clone(),
        options,
        chunk_bytes: upload.chunk_bytes,
        upload: Some(Arc::new(upload)),
        progress: None,
        filling: None,
        first: None,
        chunk: None,
        handed: beginning.len(),
        jobs: JoinSet::new(),
        seals: Seals::after(beginning),
        source: None,
        failed: None,
        is_over: false,
        target: None,
    };
    let entry = copy_file(writer, file, length).await?;
    Ok((entry, resumed))
}

/// Whether the file of `length` bytes begins with the bytes that are recorded.
async fn is_beginning(file: &Arc<File>, length: u64, recorded: Running) -> Result<bool, Error> {
    if recorded.len() > length {
        return Ok(false);
    }
    let found = local_crc(Arc::clone(file), 0, recorded.len(), |_| {}).await;
    let found = found.map_err(|error| Error::local("cannot read the local file", &error))?;
    Ok(found == Some(recorded.crc()))
}
