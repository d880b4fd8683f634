//! Downloads that do not start again: what an earlier one left beside the target is proved and kept.
//!
//! The bytes are collected in a partial file whose name follows from the target's, so that the next run finds it. Beside
//! it lies a note of the source. How much can be kept is not written anywhere: chunk by chunk, the local bytes are read
//! again and compared with the CRC the masters hold, so that a crash, a lost page cache or another program's writing
//! costs no more than the chunks it touched. The note only serves to tell the user that the source is another one now.
//!
//! Invariants: whoever writes the partial file holds its lock, and has seen after locking it that the name still leads
//! to it; a partial file takes the target's name only when the CRC of the whole is the one the masters agreed on.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gabion_protocol::checksum::{Running, crc};
use gabion_protocol::{Action, ErrorCode, WireError};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::FileReader;
use super::download::{self, DownloadOptions};
use crate::{Error, local_crc};

/// What a partial file's owner may do with it, whatever the target's bits: the next run opens it again.
const OWNER_WRITES: u32 = 0o600;

/// What a resumed download found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    /// Bytes an earlier download had brought, proved and not fetched again.
    pub kept: u64,
    /// An earlier download was of another content: all was fetched anew.
    pub source_changed: bool,
}

/// Which content a partial file is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    cluster: String,
    path: String,
    inode: u64,
    bytes: u64,
    crc32: u32,
    modified_ms: i64,
}

/// How an earlier download left the partial file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    Other,
}

/// A download's bytes on their way to a name.
#[derive(Debug)]
struct Partial {
    file: Arc<File>,
    path: PathBuf,
    note: PathBuf,
    /// Permission bits of the target.
    mode: u32,
    found: Found,
}

impl FileReader {
    /// Downloads to `target` as [`FileReader::download_file`] does, and keeps what an earlier call for the same content
    /// left there when it failed or was killed: at most one chunk is fetched again. After a failure the next call goes
    /// on.
    ///
    /// # Errors
    /// Why not; [`ErrorCode::Conflict`] if another process downloads to the same target.
    pub async fn resume_file(
        &self,
        target: &Path,
        options: DownloadOptions,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<Resumed, Error> {
        let failed = |error: &io::Error| Error::local(format!("cannot write {}", target.display()), error);
        download::check_target(target, options)?;
        let partial = Partial::open(target, &self.source(), self.entry().mode).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => busy(target),
            _ => failed(&error),
        })?;
        let kept = match partial.found {
            Found::Same => self.proved_beginning(&partial).await?,
            Found::Nothing | Found::Other => Running::default(),
        };
        partial.file.set_len(kept.len()).map_err(|error| failed(&error))?;
        progress(kept.len());
        let file = partial.file.try_clone().map_err(|error| failed(&error))?;
        self.download_after(kept, file, progress).await?;
        let resumed = Resumed {
            kept: kept.len(),
            source_changed: partial.found == Found::Other,
        };
        let (to, shown) = (target.to_owned(), target.display().to_string());
        let placed = tokio::task::spawn_blocking(move || partial.take_name(&to, options));
        placed
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
            .map_err(|error| Error::local(format!("cannot write {shown}"), &error))?;
        Ok(resumed)
    }

    fn source(&self) -> Source {
        let entry = self.entry();
        Source {
            cluster: self.0.inner.config.key.cluster.to_string(),
            path: self.path().to_string(),
            inode: entry.ino.0,
            bytes: entry.length,
            crc32: entry.crc,
            modified_ms: entry.modified_ms,
        }
    }

    /// The whole chunks the partial file begins with: their length and CRC. What is no whole chunk has no CRC of its own,
    /// and ends it.
    async fn proved_beginning(&self, partial: &Partial) -> Result<Running, Error> {
        let cannot = |error: io::Error| Error::local(format!("cannot read {}", partial.path.display()), &error);
        let entry = self.entry();
        let length = partial.file.metadata().map_err(cannot)?.len().min(entry.length);
        let mut proved = Running::default();
        while proved.len() < length {
            let extent = self.extent_at(proved.len()).await?;
            let is_whole = extent.offset == proved.len() && extent.length == extent.chunk_length;
            if !is_whole || extent.chunk_offset != 0 || extent.offset + extent.length > length {
                break;
            }
            let file = Arc::clone(&partial.file);
            let found = local_crc(file, extent.offset, extent.length, |_| {})
                .await
                .map_err(cannot)?;
            if found != Some(extent.chunk_crc) {
                break;
            }
            proved.append(extent.chunk_crc, extent.length);
        }
        let is_wrong = proved.len() == entry.length && proved.crc() != entry.crc;
        Ok(if is_wrong { Running::default() } else { proved })
    }
}

fn busy(target: &Path) -> Error {
    let message = format!("cannot write {}: another download to it is under way", target.display());
    WireError::new(ErrorCode::Conflict, message)
        .action(Action::GiveUp)
        .help("wait for it, or stop it")
        .into()
}

impl Partial {
    /// Where the bytes for `target` and the note are: hidden beside it, the same each time, and short enough beside the
    /// longest name.
    fn paths(target: &Path) -> io::Result<(PathBuf, PathBuf)> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let shown: String = name.to_string_lossy().chars().take(48).collect();
        let base = format!(".{shown}.{:08x}.gabion", crc(name.as_encoded_bytes()));
        Ok((
            target.with_file_name(format!("{base}-part")),
            target.with_file_name(format!("{base}-from")),
        ))
    }

    /// The partial file, locked: what is there, or a new one.
    fn open(target: &Path, source: &Source, mode: u32) -> io::Result<Self> {
        let (path, note) = Self::paths(target)?;
        let mut was_other = false;
        loop {
            let (file, is_new) = match open(&path, false, mode) {
                Ok(file) => (file, false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => match open(&path, true, mode) {
                    Ok(file) => (file, true),
                    // Another process was faster: its lock says whether it still lives.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            };
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            if !leads_to(&path, &file)? {
                // Its former owner has given it the target's name meanwhile: it is not ours to write.
                continue;
            }
            let is_empty = file.metadata()?.len() == 0;
            let found = match read_note(&note) {
                _ if is_new || is_empty => Found::Nothing,
                Some(noted) if noted == *source => Found::Same,
                Some(_) | None => Found::Other,
            };
            if found == Found::Other {
                // A new file, with the permission bits of the new source.
                was_other = true;
                std::fs::remove_file(&path)?;
                continue;
            }
            if found == Found::Nothing {
                write_note(&note, source)?;
            }
            return Ok(Self {
                file: Arc::new(file),
                path,
                note,
                mode,
                found: if was_other { Found::Other } else { found },
            });
        }
    }

    fn take_name(self, target: &Path, options: DownloadOptions) -> io::Result<()> {
        let mode = self.file.metadata()?.mode();
        let of_owner = OWNER_WRITES & !self.mode;
        if mode & of_owner != 0 {
            self.file
                .set_permissions(Permissions::from_mode(mode & 0o777 & !of_owner))?;
        }
        download::place(&self.file, &self.path, target, options)?;
        // Without its partial file a note says nothing: the next download writes its own.
        let _ = std::fs::remove_file(&self.note);
        Ok(())
    }
}

/// Never through a link: whoever can write here could lead it anywhere.
fn open(path: &Path, new: bool, mode: u32) -> io::Result<File> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(new).custom_flags(no_link);
    // Permission bits only: nobody's set-user-id bit comes from the network.
    options.mode(mode & 0o777 | OWNER_WRITES).open(path)
}

fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A note that cannot be read says nothing.
fn read_note(note: &Path) -> Option<Source> {
    serde_json::from_slice(&std::fs::read(note).ok()?).ok()
}

/// Replaced whole. Not synced: what it says is only told, never relied on.
fn write_note(note: &Path, source: &Source) -> io::Result<()> {
    let next = note.with_extension("gabion-next");
    std::fs::write(&next, serde_json::to_vec(source)?)?;
    std::fs::rename(next, note)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn source(crc32: u32) -> Source {
        Source {
            cluster: "c".to_owned(),
            path: "/a".to_owned(),
            inode: 7,
            bytes: 9,
            crc32,
            modified_ms: 0,
        }
    }

    #[test]
    fn a_partial_file_is_found_again_and_belongs_to_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a");
        let open = |crc32| Partial::open(&target, &source(crc32), 0o640);
        let first = open(1).unwrap();
        assert_eq!(first.found, Found::Nothing);
        first.file.write_all_at(b"123", 0).unwrap();
        assert_eq!(
            open(1).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "it is under way"
        );
        drop(first);
        let again = open(1).unwrap();
        assert_eq!((again.found, again.file.metadata().unwrap().len()), (Found::Same, 3));
        drop(again);
        // Another source: nothing of the old bytes stays.
        let other = open(2).unwrap();
        assert_eq!((other.found, other.file.metadata().unwrap().len()), (Found::Other, 0));
        assert_eq!(other.file.metadata().unwrap().mode() & 0o777, 0o640);
        drop(other);
        // Without its note a partial file is of nobody knows what.
        let partial = open(2).unwrap();
        partial.file.write_all_at(b"123", 0).unwrap();
        std::fs::remove_file(&partial.note).unwrap();
        drop(partial);
        let strange = open(2).unwrap();
        assert_eq!(
            (strange.found, strange.file.metadata().unwrap().len()),
            (Found::Other, 0)
        );
        strange.take_name(&target, DownloadOptions::default()).unwrap();
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn no_partial_file_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a");
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        let (path, _) = Partial::paths(&target).unwrap();
        std::os::unix::fs::symlink(&victim, path).unwrap();
        Partial::open(&target, &source(1), 0o644).unwrap_err();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
    }
}
