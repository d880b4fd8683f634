//! Re-reading a chunk from its disk and checking every block: scrub, repair and the verification tools stand on it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gabion_protocol::buffer::{ALIGNMENT, Pool};
use gabion_protocol::checksum::{self, Running};
use gabion_protocol::limits::{BLOCK_BYTES, PACKET_BYTES};
use gabion_protocol::messages::data::Verdict;
use gabion_protocol::{ChunkId, ReplicaNumber};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::directory::chunk_path;
use super::error::{DiskError, is_lack};
use super::record::{Place, Record, State};
use super::store::{Found, Store};

impl Store {
    /// Re-reads a copy past the page cache, where the file system lets us, and says what it found. Damage sets the
    /// copy aside. One re-read runs at a time: foreground work goes first.
    ///
    /// # Errors
    /// [`DiskError`] if its record cannot be read.
    pub async fn verify(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Verdict, DiskError> {
        let Ok(_turn) = self.0.verifying.acquire().await else {
            return Err(DiskError::Stopping);
        };
        let Some(found) = self.find(chunk, replica).await? else {
            return Ok(Verdict::Missing);
        };
        if found.record.state == State::Open {
            return Ok(Verdict::Unsealed {
                length: found.record.length,
            });
        }
        let (disk, record) = (Arc::clone(&found.disk), Arc::clone(&found.record));
        let verdict = match record.place {
            Place::Blob => {
                let index = disk.index()?;
                found
                    .disk
                    .reads
                    .run(move || check_blob(index.blob(chunk), &record))
                    .await?
            }
            Place::File => {
                let check = move || check_file(&chunk_path(&disk.dir, chunk), &record, &disk.pool);
                found.disk.reads.run(check).await?
            }
        };
        let verdict = match verdict {
            // Good or good again: no reader gets it, so nobody may count on it.
            Verdict::Good { .. } if found.record.state == State::SetAside => Verdict::Unreadable {
                what: "it was set aside when it was found damaged or unreadable earlier".to_owned(),
            },
            other => other,
        };
        self.judged(chunk, &found, verdict).await
    }

    /// Sets a copy aside whose re-read showed damage, unless a drop or a newer copy was quicker: then there was none.
    pub(super) async fn judged(&self, chunk: ChunkId, read: &Found, verdict: Verdict) -> Result<Verdict, DiskError> {
        let (Verdict::Damaged { what, .. } | Verdict::Unreadable { what }) = &verdict else {
            return Ok(verdict);
        };
        let replica = read.record.replica;
        // The record goes before the file: one that is still there vouches for it.
        let still = self.find(chunk, replica).await?;
        let same = still.is_some_and(|now| Arc::ptr_eq(&now.disk, &read.disk) && now.record == read.record);
        if !same {
            return Ok(Verdict::Missing);
        }
        self.set_aside(chunk, replica, what).await;
        Ok(verdict)
    }
}

/// Compares a small chunk's bytes with its record.
pub(crate) fn check_blob(blob: Result<bytes::Bytes, DiskError>, record: &Record) -> Result<Verdict, DiskError> {
    match blob {
        Ok(bytes) if bytes.len() as u64 == record.length => {
            let mut check = Check::default();
            Ok(check.take(record, &bytes).unwrap_or_else(|| check.end(record)))
        }
        Ok(bytes) => Ok(Verdict::Damaged {
            offset: 0,
            what: format!("{} bytes are stored instead of {}", bytes.len(), record.length),
        }),
        Err(DiskError::Damaged { what, .. }) => Ok(Verdict::Damaged { offset: 0, what }),
        Err(e) => Err(e),
    }
}

/// Re-reads a sealed chunk's file and compares it with its record.
///
/// # Errors
/// [`DiskError::Lacking`]: a lack of ours says nothing about the file.
pub(crate) fn check_file(path: &Path, record: &Record, pool: &Pool) -> Result<Verdict, DiskError> {
    let mut reread = match Reread::open(path, record)? {
        Ok(reread) => reread,
        Err(verdict) => return Ok(verdict),
    };
    loop {
        if let Some(verdict) = reread.step(record, pool)? {
            return Ok(verdict);
        }
    }
}

/// A sealed chunk's file being re-read, one [`PACKET_BYTES`] at a time.
#[derive(Debug)]
pub(crate) struct Reread {
    path: PathBuf,
    file: File,
    /// Read past the page cache; else the cache is emptied of the file before and after.
    direct: bool,
    check: Check,
}

impl Reread {
    /// Opens the file, or tells at once what is wrong with it.
    ///
    /// # Errors
    /// [`DiskError::Lacking`].
    pub(crate) fn open(path: &Path, record: &Record) -> Result<Result<Self, Verdict>, DiskError> {
        let damaged = |offset, what: String| Ok(Err(Verdict::Damaged { offset, what }));
        let (file, direct) = match open_past_cache(path) {
            Ok(opened) => opened,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return damaged(0, "its file is gone".to_owned()),
            Err(e) => return unreadable(path, 0, e).map(Err),
        };
        match file.metadata() {
            Ok(meta) if meta.len() == record.length => {}
            Ok(meta) => {
                let offset = meta.len().min(record.length) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
                let what = format!("its file has {} bytes instead of {}", meta.len(), record.length);
                return damaged(offset, what);
            }
            Err(e) => return unreadable(path, 0, e).map(Err),
        }
        Ok(Ok(Self {
            path: path.to_owned(),
            file,
            direct,
            check: Check::default(),
        }))
    }

    /// Reads on; the verdict at the end, or at the first thing that is wrong.
    ///
    /// # Errors
    /// [`DiskError::Lacking`].
    pub(crate) fn step(&mut self, record: &Record, pool: &Pool) -> Result<Option<Verdict>, DiskError> {
        let at = self.check.at;
        if at >= record.length {
            return Ok(Some(self.check.end(record)));
        }
        let mut buffer = pool.take(PACKET_BYTES);
        let read = match read_full(&self.file, buffer.as_mut(), at, record.length) {
            // Some file systems take the flag at open and refuse the read.
            Err(Errno::INVAL) if self.direct => match File::open(&self.path) {
                Ok(file) => {
                    drop_cache(&file);
                    (self.file, self.direct) = (file, false);
                    read_full(&self.file, buffer.as_mut(), at, record.length)
                }
                Err(e) => return unreadable(&self.path, at, e).map(Some),
            },
            read => read,
        };
        let verdict = match read {
            Ok(0) => Some(Verdict::Damaged {
                offset: at,
                what: "its file ends early".to_owned(),
            }),
            Ok(len) => {
                let bad = self.check.take(record, &buffer.as_ref()[..len]);
                bad.or_else(|| (self.check.at >= record.length).then(|| self.check.end(record)))
            }
            Err(e) => Some(unreadable(&self.path, at, e.into())?),
        };
        if verdict.is_some() && !self.direct {
            drop_cache(&self.file);
        }
        Ok(verdict)
    }
}

/// What a failed system call says about the file.
fn unreadable(path: &Path, at: u64, error: std::io::Error) -> Result<Verdict, DiskError> {
    if is_lack(&error) {
        return Err(DiskError::io("read", path, error));
    }
    let what = format!("its file cannot be read at {at}: {error}");
    Ok(Verdict::Unreadable { what })
}

fn open_past_cache(path: &Path) -> std::io::Result<(File, bool)> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path);
    match direct {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            let file = File::open(path)?;
            drop_cache(&file);
            Ok((file, false))
        }
        Err(e) => Err(e),
    }
}

/// Asks the kernel to forget clean pages, so that the next read asks the disk.
pub(crate) fn drop_cache(file: &File) {
    // Advice: a kernel that keeps the pages makes the check weaker, not wrong.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Fills `buffer` from `at` on, up to `end`; fewer bytes only at the end of the file.
fn read_full(file: &File, buffer: &mut [u8], at: u64, end: u64) -> Result<usize, Errno> {
    let wanted = buffer.len().min((end - at) as usize);
    let mut done = 0;
    while done < wanted {
        // The whole aligned rest of the buffer: direct reads want whole sectors also at the end.
        match rustix::io::pread(file, &mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if !done.is_multiple_of(ALIGNMENT) {
            break;
        }
    }
    Ok(done.min(wanted))
}

/// Bytes compared with a record, in order.
#[derive(Debug, Default)]
struct Check {
    at: u64,
    running: Running,
}

impl Check {
    /// Checks the next bytes, whole blocks but for the chunk's last; what is wrong with them, if anything.
    fn take(&mut self, record: &Record, bytes: &[u8]) -> Option<Verdict> {
        for block in bytes.chunks(BLOCK_BYTES) {
            let stored = record.crcs.get((self.at / BLOCK_BYTES as u64) as usize);
            let crc = checksum::crc(block);
            if stored != Some(&crc) {
                return Some(Verdict::Damaged {
                    offset: self.at,
                    what: "a block does not have its checksum".to_owned(),
                });
            }
            self.running.append(crc, block.len() as u64);
            self.at += block.len() as u64;
        }
        None
    }

    fn end(&self, record: &Record) -> Verdict {
        if (self.running.len(), self.running.crc()) == (record.length, record.crc) {
            return Verdict::Good {
                length: record.length,
                crc: record.crc,
            };
        }
        Verdict::Damaged {
            offset: self.at,
            what: "its blocks do not add up to its checksum".to_owned(),
        }
    }
}
