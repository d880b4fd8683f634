//! Downloading a whole file into a local one: beside its name first, renamed when it is proved.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gabion_protocol::checksum::Running;
use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use gabion_protocol::{Action, ErrorCode, WireError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::FileReader;
use super::stream::{FileStream, StreamError};
use crate::Error;
use crate::random;

/// Pieces between the network and the disk.
const QUEUE_PIECES: usize = 4;
/// Times one download goes back to a chunk that turned out wrong: once per copy, and a few for several chunks.
const BACK_MAX: usize = 32;

/// How a download is put into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DownloadOptions {
    /// Whether an existing local file may be replaced.
    pub replace: bool,
    /// Whether the bytes and the name are on the disk when it is done.
    pub sync: bool,
}

impl DownloadOptions {
    /// Whether an existing local file may be replaced.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Whether the bytes and the name are on the disk when it is done.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }
}

impl FileReader {
    /// Writes the whole file into `file` from its beginning, calling `progress` with the bytes written so far. On
    /// success the CRC of the whole is the one the masters agreed on.
    ///
    /// # Errors
    /// Why not; `file` then holds anything.
    pub async fn download_to(&self, file: File, progress: impl Fn(u64) + Send + Sync) -> Result<(), Error> {
        self.download_after(Running::default(), file, progress).await
    }

    /// As [`Self::download_to`], of what follows the `beginning` that the file holds already.
    pub(super) async fn download_after(
        &self,
        beginning: Running,
        file: File,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Error> {
        let (pieces, queue) = mpsc::channel(QUEUE_PIECES);
        let writer = tokio::task::spawn_blocking(move || write_pieces(&file, queue));
        let stream = FileStream::after(self.clone(), beginning);
        let read = self.send_pieces(stream, pieces, &progress).await;
        let written = writer
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()));
        // A full disk ends the reading too; it is the cause, and told first.
        written.map_err(|error| Error::local(format!("cannot download {}", self.path()), &error))?;
        read
    }

    async fn send_pieces(
        &self,
        mut stream: FileStream,
        pieces: mpsc::Sender<(u64, Bytes)>,
        progress: &(impl Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let mut times_back = 0;
        loop {
            match stream.next_piece().await {
                Ok(None) => return Ok(()),
                Ok(Some((offset, bytes))) => {
                    let end = offset + bytes.len() as u64;
                    if pieces.send((offset, bytes)).await.is_err() {
                        return Err(Error::interrupted(format!("cannot download {}", self.path())));
                    }
                    progress(end);
                }
                Err(StreamError::WrongChunk { offset, .. }) if times_back < BACK_MAX => {
                    times_back += 1;
                    stream.back_to(offset);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Downloads to `target`: into a temporary file beside it, which takes its name when the whole is proved. After
    /// a failure nothing is left.
    ///
    /// # Errors
    /// Why not.
    pub async fn download_file(
        &self,
        target: &Path,
        options: DownloadOptions,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Error> {
        let failed = |error: &std::io::Error| Error::local(format!("cannot write {}", target.display()), error);
        check_target(target, options)?;
        if self.entry().length <= SMALL_CHUNK_BYTES
            && let Ok(bytes) = self.read_at(0, self.entry().length).await
        {
            return self.place_small(bytes, target, options, progress).await;
        }
        // Larger ones, and those that need another look, piece by piece.
        let temporary = Temporary::beside(target, self.entry().mode).map_err(|error| failed(&error))?;
        let file = temporary.file.try_clone().map_err(|error| failed(&error))?;
        self.download_to(file, progress).await?;
        let (target_path, shown) = (target.to_owned(), target.display().to_string());
        let placed = tokio::task::spawn_blocking(move || temporary.take_name(&target_path, options));
        placed
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
            .map_err(|error| Error::local(format!("cannot write {shown}"), &error))
    }
}

impl FileReader {
    /// Writes a small file, which was read and proved whole, in one go: who fetches thousands waits for a disk thread once
    /// for each.
    async fn place_small(
        &self,
        bytes: Bytes,
        target: &Path,
        options: DownloadOptions,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Error> {
        let (length, mode) = (bytes.len() as u64, self.entry().mode);
        let (to, shown) = (target.to_owned(), target.display().to_string());
        let placed = tokio::task::spawn_blocking(move || {
            let temporary = Temporary::beside(&to, mode)?;
            temporary.file.write_all_at(&bytes, 0)?;
            temporary.take_name(&to, options)
        });
        placed
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
            .map_err(|error| Error::local(format!("cannot write {shown}"), &error))?;
        progress(length);
        Ok(())
    }
}

/// Refuses a target that no download may take, before the first byte moves.
pub(super) fn check_target(target: &Path, options: DownloadOptions) -> Result<(), Error> {
    check_replaceable(target)?;
    if !options.replace && target.symlink_metadata().is_ok() {
        let error = std::io::ErrorKind::AlreadyExists.into();
        return Err(Error::local(format!("cannot write {}", target.display()), &error));
    }
    Ok(())
}

/// Gives a file that is complete its name.
pub(super) fn place(file: &File, from: &Path, target: &Path, options: DownloadOptions) -> std::io::Result<()> {
    if options.sync {
        file.sync_all()?;
    }
    if options.replace {
        std::fs::rename(from, target)?;
    } else {
        rename_new(from, target)?;
    }
    if options.sync {
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Renames, and never replaces what appeared at `to` meanwhile.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot; a link does not replace either, but not every file system has them.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// Refuses what a file must not take the place of: a device or a pipe would be lost, a directory stays anyway. Links
/// are followed, for the sake of `/dev/stdout`.
fn check_replaceable(target: &Path) -> Result<(), Error> {
    let found = match std::fs::metadata(target) {
        Ok(found) if !found.is_file() => found,
        _ => return Ok(()),
    };
    let (code, what, help) = if found.is_dir() {
        (ErrorCode::IsDirectory, "a directory", "name a file, or move it away")
    } else {
        let help = "write to standard output instead (- as the target), or choose another name";
        (ErrorCode::Exists, "a device, pipe or socket", help)
    };
    let message = format!(
        "cannot write {}: it is {what}, which no download replaces",
        target.display()
    );
    Err(WireError::new(code, message).action(Action::GiveUp).help(help).into())
}

fn write_pieces(file: &File, mut queue: mpsc::Receiver<(u64, Bytes)>) -> std::io::Result<()> {
    while let Some((offset, bytes)) = queue.blocking_recv() {
        file.write_all_at(&bytes, offset)?;
    }
    Ok(())
}

/// A file that is removed unless it takes its final name.
struct Temporary {
    file: Arc<File>,
    path: PathBuf,
    is_placed: bool,
}

impl Temporary {
    fn beside(target: &Path, mode: u32) -> std::io::Result<Self> {
        let name = target.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
        // Hidden, and short enough beside the longest name.
        let shown: String = name.to_string_lossy().chars().take(48).collect();
        let path = target.with_file_name(format!(".{shown}.{:016x}.gabion", random()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        // Permission bits only: nobody's set-user-id bit comes from the network.
        let file = options.mode(mode & 0o777).open(&path)?;
        Ok(Self {
            file: Arc::new(file),
            path,
            is_placed: false,
        })
    }

    fn take_name(mut self, target: &Path, options: DownloadOptions) -> std::io::Result<()> {
        place(&self.file, &self.path, target, options)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_placed {
            // Nothing better can be done than to leave it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
