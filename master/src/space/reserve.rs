//! The file `reserve`, and what the file system says of its room.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};

use crate::store::{StoreError, durable};

/// Bytes written at a time where the file system cannot allocate.
const PIECE_BYTES: usize = 1 << 20;

/// The reserve of one directory.
#[derive(Debug)]
pub(super) struct ReserveFile {
    dir: PathBuf,
    path: PathBuf,
    bytes: u64,
}

impl ReserveFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            path: dir.join("reserve"),
            bytes: 0,
        }
    }

    /// Decides how large it shall be; one of another size goes.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
        if self.path.exists() && (bytes == 0 || !self.is_held()) {
            self.release();
        }
    }

    fn stat(&self) -> Result<StatVfs, StoreError> {
        rustix::io::retry_on_intr(|| statvfs(&self.dir))
            .map_err(|error| StoreError::file("look at the room of", &self.dir)(error.into()))
    }

    /// Bytes of the file system.
    pub(super) fn disk_bytes(&self) -> Result<u64, StoreError> {
        let stat = self.stat()?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Bytes free on it.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let stat = self.stat()?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether all of it is there, in real blocks.
    pub(super) fn is_held(&self) -> bool {
        self.bytes == 0
            || std::fs::metadata(&self.path)
                .is_ok_and(|data| data.len() == self.bytes && data.blocks().saturating_mul(512) >= self.bytes)
    }

    /// Gives the blocks back.
    pub(super) fn release(&self) {
        match std::fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(path = %self.path.display(), bytes = self.bytes, "the disk gets its reserve back"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(path = %self.path.display(), %error, "cannot give the reserve back"),
        }
    }

    /// Makes it. Without room for all of it there is none.
    pub(super) fn make(&self) {
        if let Err(error) = self.try_make() {
            tracing::warn!(path = %self.path.display(), %error, "cannot make the reserve yet");
            self.release();
        }
    }

    fn try_make(&self) -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path)?;
        let allocated = rustix::io::retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, self.bytes));
        match allocated {
            Err(rustix::io::Errno::OPNOTSUPP) => self.fill(&mut file)?,
            Err(error) => return Err(error.into()),
            // Some file systems say yes and allocate nothing.
            Ok(()) if !self.is_held() => self.fill(&mut file)?,
            Ok(()) => {}
        }
        file.sync_all()?;
        durable::sync_dir(&self.dir)?;
        Ok(())
    }

    /// Bytes that no file system can leave out or compress.
    fn fill(&self, file: &mut File) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = self.bytes;
        while left > 0 {
            getrandom::fill(&mut piece).map_err(std::io::Error::other)?;
            let count = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            file.write_all(&piece[..count])?;
            left -= count as u64;
        }
        Ok(())
    }
}
