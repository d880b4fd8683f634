//! The file of one large chunk: aligned writes past the page cache, and what makes them durable.
//!
//! **Why `O_DIRECT`.** Storing then overlaps with receiving, a seal does not wait for gigabytes of page cache, and the
//! cache is left to readers. Where a file system refuses it, writes go through the page cache instead.
//!
//! **Lengths.** While a chunk is open its file may be longer than the chunk: preallocated, and padded to the alignment
//! at its tail; space is taken only through [`super::directory::Disk::make_room`], so that preallocation leaves the disk's
//! reserve whole. [`ChunkFile::finish`] cuts it to exactly the chunk's bytes, then syncs; only after that the index calls
//! the chunk sealed.
//!
//! Invariant: after a failed sync or a failed write nothing is tried again on that file; the caller sets it aside. The
//! kernel marks pages clean when a write-back fails, so a second sync would succeed without the data.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use gabion_protocol::buffer::{ALIGNMENT, Pool};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::durable::sync_dir;
use super::error::DiskError;

/// First step of preallocation: most files are small, and need no more.
const PREALLOCATE_FIRST: u64 = 4 << 20;

/// An open chunk's file.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    file: File,
    path: PathBuf,
    direct: AtomicBool,
    allocated: AtomicU64,
    bytes_max: u64,
}

impl ChunkFile {
    /// Makes or empties the file at `path` for at most `bytes_max` bytes, written past the page cache if `direct_io` and
    /// the file system let us.
    pub(crate) fn create(path: PathBuf, bytes_max: u64, direct_io: bool) -> Result<Self, DiskError> {
        let open = |flags: OFlags| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(flags.bits() as i32)
                .open(&path)
        };
        let first = if direct_io { OFlags::DIRECT } else { OFlags::empty() };
        let (file, direct) = match open(first) {
            Ok(file) => (file, direct_io),
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => (
                open(OFlags::empty()).map_err(|e| DiskError::io("create", &path, e))?,
                false,
            ),
            Err(e) => return Err(DiskError::io("create", &path, e)),
        };
        Ok(Self {
            file,
            path,
            direct: AtomicBool::new(direct),
            allocated: AtomicU64::new(0),
            bytes_max,
        })
    }

    /// Bytes of disk the next write up to `end` will newly allocate.
    pub(crate) fn growth(&self, end: u64) -> u64 {
        end.saturating_sub(self.allocated.load(Ordering::Relaxed))
    }

    /// Allocates disk space up to at least `end`, in few large steps: extents stay long, and writes inside the
    /// allocated size need no exclusive lock of the inode. Takes at most `spare` bytes, which cover [`Self::growth`].
    /// Where the file system cannot allocate, writes do. One call runs at a time.
    pub(crate) fn allocate(&self, end: u64, spare: u64) -> Result<(), DiskError> {
        let allocated = self.allocated.load(Ordering::Acquire);
        if end <= allocated {
            return Ok(());
        }
        let target = if end <= PREALLOCATE_FIRST {
            PREALLOCATE_FIRST
        } else {
            self.bytes_max
        };
        let most = self.bytes_max.min(allocated.saturating_add(spare));
        let target = target.min(most).max(end);
        let reached = match self.extend(allocated, target) {
            // The rest of the chunk may not fit where this write still does.
            Err(Errno::NOSPC | Errno::DQUOT) if target > end => self.extend(allocated, end).map(|()| end),
            other => other.map(|()| target),
        };
        let reached = match reached {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => end,
            other => other.map_err(|e| self.failed("allocate", e))?,
        };
        self.allocated.store(reached, Ordering::Release);
        Ok(())
    }

    /// Allocates from `from` to `to`, or nothing: a file system that ran out of space keeps what it had found so far.
    fn extend(&self, from: u64, to: u64) -> Result<(), Errno> {
        let result =
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, to - from));
        if matches!(result, Err(Errno::NOSPC | Errno::DQUOT))
            && let Err(error) = rustix::fs::ftruncate(&self.file, from)
        {
            // Given back when the chunk is sealed or dropped.
            tracing::warn!(path = %self.path.display(), %error, "preallocated space is not given back");
        }
        result
    }

    /// Writes `parts`, one after the other, at `offset`, which is a multiple of the alignment. All parts but the last
    /// are whole blocks; a tail that is not aligned is padded with zeros. Space was made for them before.
    pub(crate) fn write(&self, pool: &Pool, offset: u64, parts: &[Bytes]) -> Result<(), DiskError> {
        debug_assert!(offset.is_multiple_of(ALIGNMENT as u64));
        let aligned = parts.iter().all(|part| part.as_ptr().align_offset(ALIGNMENT) == 0);
        if !self.direct.load(Ordering::Relaxed) {
            return self.write_slices(offset, parts.iter().map(|part| &part[..]).collect());
        }
        let result = if aligned {
            self.write_direct(pool, offset, parts)
        } else {
            self.write_copied(pool, offset, parts)
        };
        match result {
            Err(Refused::Direct) => {
                tracing::info!(path = %self.path.display(), "O_DIRECT is refused here, writing through the page cache");
                self.leave_direct()?;
                self.write_slices(offset, parts.iter().map(|part| &part[..]).collect())
            }
            Err(Refused::Failed(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    /// Writes from the parts themselves; only the last part's unaligned tail is copied.
    fn write_direct(&self, pool: &Pool, offset: u64, parts: &[Bytes]) -> Result<(), Refused> {
        let Some((last, whole)) = parts.split_last() else {
            return Ok(());
        };
        let (body, tail) = last.split_at(last.len() / ALIGNMENT * ALIGNMENT);
        let mut slices: Vec<&[u8]> = whole.iter().map(|part| &part[..]).collect();
        slices.push(body);
        let padded = (!tail.is_empty()).then(|| padded(pool, tail));
        slices.extend(padded.as_ref().map(AsRef::<[u8]>::as_ref));
        self.write_checked(offset, slices)
    }

    /// Copies to aligned memory first: the parts came from somewhere else than our own connections.
    fn write_copied(&self, pool: &Pool, mut offset: u64, parts: &[Bytes]) -> Result<(), Refused> {
        for part in parts {
            let copy = padded(pool, part);
            self.write_checked(offset, vec![copy.as_ref()])?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write_checked(&self, offset: u64, slices: Vec<&[u8]>) -> Result<(), Refused> {
        match write_all(&self.file, offset, slices) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => Err(Refused::Direct),
            Err(e) => Err(Refused::Failed(self.failed("write", e))),
        }
    }

    fn write_slices(&self, offset: u64, slices: Vec<&[u8]>) -> Result<(), DiskError> {
        write_all(&self.file, offset, slices).map_err(|e| self.failed("write", e))
    }

    fn failed(&self, what: &'static str, error: Errno) -> DiskError {
        match error {
            Errno::NOSPC | Errno::DQUOT => DiskError::Full {
                path: self.path.clone(),
            },
            other => DiskError::io(what, &self.path, other),
        }
    }

    fn leave_direct(&self) -> Result<(), DiskError> {
        let set = rustix::fs::fcntl_getfl(&self.file)
            .and_then(|flags| rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT));
        set.map_err(|e| DiskError::io("set flags of", &self.path, e))?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Cuts the file to exactly `length` bytes and makes data, length and name durable.
    pub(crate) fn finish(&self, length: u64) -> Result<(), DiskError> {
        rustix::fs::ftruncate(&self.file, length).map_err(|e| DiskError::io("truncate", &self.path, e))?;
        rustix::fs::fdatasync(&self.file).map_err(|e| DiskError::io("sync", &self.path, e))?;
        match self.path.parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        }
    }
}

enum Refused {
    /// The file system does not take direct writes of this alignment.
    Direct,
    Failed(DiskError),
}

fn padded(pool: &Pool, bytes: &[u8]) -> gabion_protocol::buffer::Buffer {
    let mut copy = pool.take(bytes.len().next_multiple_of(ALIGNMENT));
    let (body, rest) = copy.as_mut().split_at_mut(bytes.len());
    body.copy_from_slice(bytes);
    rest.fill(0);
    copy
}

/// Writes all of `slices`, going on after short writes.
fn write_all(file: &File, mut offset: u64, mut slices: Vec<&[u8]>) -> Result<(), Errno> {
    slices.retain(|slice| !slice.is_empty());
    while !slices.is_empty() {
        let vectors: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut written = match rustix::io::pwritev(file, &vectors, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        offset += written as u64;
        while let Some(first) = slices.first_mut() {
            let taken = written.min(first.len());
            *first = &first[taken..];
            written -= taken;
            if !first.is_empty() {
                break;
            }
            slices.remove(0);
        }
    }
    Ok(())
}
