//! Reading sealed chunks: stored bytes with their stored CRCs.
//!
//! Bytes of large chunks are not read here: the connection sends them from the page cache with `sendfile`. That call
//! waits for the disk when the cache is cold, and it is made on the async runtime; so cold ranges are brought into the
//! cache on a disk thread first. Whether a range is warm is asked with `RWF_NOWAIT`, one byte per block: 16 calls of
//! well under a microsecond each for a packet, against a thread switch and back of some 20 µs.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gabion_protocol::buffer::Pool;
use gabion_protocol::limits::{BLOCK_BYTES, READ_BYTES_MAX};
use gabion_protocol::{ChunkId, ReplicaNumber};
use parking_lot::Mutex;
use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

use super::directory::chunk_path;
use super::error::{DiskError, is_lack};
use super::record::{Place, Record, State};
use super::store::{Found, Store};

/// Chunks whose record and file handle are kept at hand: bounds open files and memory (16 KiB of CRCs at most each).
const WARM_MAX: usize = 512;
/// Shorter ranges are copied from the page cache at once if they are there: one call to read and one to send, against
/// two to ask and two to send. From here on sending without a copy is cheaper.
const COPY_BYTES_MAX: usize = 128 << 10;
/// Brought into the cache beyond a cold read: the rest of a sequential reader's next requests.
const READ_AHEAD_BYTES: u64 = 4 << 20;

/// Whole blocks of a chunk.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Offset of the first block in the chunk.
    pub offset: u64,
    /// CRC of each block.
    pub crcs: Vec<u32>,
    /// Length of the whole chunk.
    pub chunk_length: u64,
    /// CRC of the whole chunk.
    pub chunk_crc: u32,
    /// The bytes.
    pub data: Data,
}

/// Where the bytes of [`Blocks`] are.
#[derive(Debug, Clone)]
pub enum Data {
    /// Here.
    Bytes(Bytes),
    /// In a file, in the page cache as far as possible, from the blocks' offset on.
    File {
        /// The file.
        file: Arc<File>,
        /// Bytes.
        len: usize,
    },
}

/// A sealed chunk at hand.
#[derive(Debug, Clone)]
struct Entry {
    found: Found,
    /// `None` for blobs.
    file: Option<Arc<File>>,
    used: u64,
}

/// Records and handles of the chunks read last.
#[derive(Debug, Default)]
pub(super) struct Warm(Mutex<WarmMap>);

#[derive(Debug, Default)]
struct WarmMap {
    entries: HashMap<ChunkId, Entry>,
    /// By `used`: the first is the one to go.
    by_use: BTreeMap<u64, ChunkId>,
    clock: u64,
}

impl Warm {
    fn find(&self, chunk: ChunkId) -> Option<Entry> {
        let map = &mut *self.0.lock();
        map.clock += 1;
        let entry = map.entries.get_mut(&chunk)?;
        map.by_use.remove(&entry.used);
        entry.used = map.clock;
        map.by_use.insert(entry.used, chunk);
        Some(entry.clone())
    }

    fn keep(&self, chunk: ChunkId, entry: Entry) {
        let map = &mut *self.0.lock();
        map.clock += 1;
        let used = map.clock;
        if let Some(replaced) = map.entries.insert(chunk, Entry { used, ..entry }) {
            map.by_use.remove(&replaced.used);
        }
        map.by_use.insert(used, chunk);
        if map.entries.len() > WARM_MAX
            && let Some((_, oldest)) = map.by_use.pop_first()
        {
            map.entries.remove(&oldest);
        }
    }

    pub(super) fn forget(&self, chunk: ChunkId) {
        let map = &mut *self.0.lock();
        if let Some(entry) = map.entries.remove(&chunk) {
            map.by_use.remove(&entry.used);
        }
    }
}

impl Store {
    /// The whole blocks of a sealed chunk that cover `length` bytes from `offset` on, as far as the chunk goes.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Unsealed`], [`DiskError::SetAside`], [`DiskError::Damaged`],
    /// [`DiskError::Range`], or what the disk says.
    pub async fn read(
        &self,
        chunk: ChunkId,
        replica: ReplicaNumber,
        offset: u64,
        length: u32,
    ) -> Result<Blocks, DiskError> {
        let entry = self.entry(chunk, replica).await?;
        let record = &entry.found.record;
        let block = BLOCK_BYTES as u64;
        if offset >= record.length {
            return Err(DiskError::Range {
                chunk,
                length: record.length,
                offset,
            });
        }
        let first = offset / block;
        let most = READ_BYTES_MAX as u64 / block;
        let end = (offset + u64::from(length.max(1))).div_ceil(block).min(first + most);
        let end = end.min(record.crcs.len() as u64);
        let (from, to) = (first * block, (end * block).min(record.length));
        let len = (to - from) as usize;
        let data = match &entry.file {
            None => Data::Bytes(self.blob(chunk, &entry).await?.slice(from as usize..to as usize)),
            Some(file) => match copied(file, from, len, &entry.found.disk.pool) {
                Some(bytes) => Data::Bytes(bytes),
                None => {
                    self.warm_up(chunk, &entry, file, from, to).await?;
                    Data::File {
                        file: Arc::clone(file),
                        len,
                    }
                }
            },
        };
        Ok(Blocks {
            offset: from,
            crcs: record.crcs[first as usize..end as usize].to_vec(),
            chunk_length: record.length,
            chunk_crc: record.crc,
            data,
        })
    }

    async fn entry(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Entry, DiskError> {
        let warm = self.0.warm.find(chunk);
        if let Some(entry) = warm.filter(|entry| entry.found.record.replica == replica) {
            return Ok(entry);
        }
        let entry = self.cold_entry(chunk, replica).await?;
        self.0.warm.keep(chunk, entry.clone());
        Ok(entry)
    }

    async fn cold_entry(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Entry, DiskError> {
        let found = self.find(chunk, replica).await?;
        let found = found.ok_or(DiskError::Missing { chunk })?;
        match found.record.state {
            State::Sealed => {}
            State::Open => return Err(DiskError::Unsealed { chunk }),
            State::SetAside => {
                let what = "it was found damaged earlier".to_owned();
                return Err(DiskError::SetAside { chunk, what });
            }
        }
        let file = match found.record.place {
            Place::Blob => None,
            Place::File => {
                let (path, record) = (chunk_path(&found.disk.dir, chunk), Arc::clone(&found.record));
                let opened = found.disk.reads.run(move || open_sealed(&path, chunk, &record)).await;
                Some(self.noticing(chunk, &found.record, opened).await?)
            }
        };
        Ok(Entry { found, file, used: 0 })
    }

    async fn blob(&self, chunk: ChunkId, entry: &Entry) -> Result<Bytes, DiskError> {
        let index = entry.found.disk.index()?;
        let length = entry.found.record.length;
        if let Some(bytes) = index.blob_in_memory(chunk)
            && bytes.len() as u64 == length
        {
            return Ok(bytes);
        }
        let read = entry.found.disk.reads.run(move || {
            let bytes = index.blob(chunk)?;
            if bytes.len() as u64 == length {
                return Ok(bytes);
            }
            let what = format!("{} bytes are stored instead of {length}", bytes.len());
            Err(DiskError::Damaged { chunk, what })
        });
        let read = read.await.inspect_err(|error| entry.found.disk.note(error));
        self.noticing(chunk, &entry.found.record, read).await
    }

    /// Sets a chunk aside if reading it showed damage and not a drop that was quicker.
    async fn noticing<T>(&self, chunk: ChunkId, record: &Record, result: Result<T, DiskError>) -> Result<T, DiskError> {
        if result.is_err() && self.0.dropped.lock().contains((chunk, record.replica)) {
            return Err(DiskError::Missing { chunk });
        }
        if let Err(DiskError::Damaged { what, .. } | DiskError::SetAside { what, .. }) = &result {
            self.set_aside(chunk, record.replica, what).await;
        }
        result
    }

    async fn warm_up(
        &self,
        chunk: ChunkId,
        entry: &Entry,
        file: &Arc<File>,
        from: u64,
        to: u64,
    ) -> Result<(), DiskError> {
        if is_warm(file, from, to) {
            return Ok(());
        }
        let (file, path) = (Arc::clone(file), chunk_path(&entry.found.disk.dir, chunk));
        let warmed = entry
            .found
            .disk
            .reads
            .run(move || bring_in(&file, from, to).map_err(|(at, error)| cannot_read(chunk, &path, at, error)));
        let warmed = warmed.await;
        self.noticing(chunk, &entry.found.record, warmed).await
    }
}

fn open_sealed(path: &Path, chunk: ChunkId, record: &Record) -> Result<Arc<File>, DiskError> {
    let damaged = |what: String| DiskError::Damaged { chunk, what };
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged("its file is gone".to_owned()),
        _ => DiskError::io("open", path, e),
    })?;
    let len = file.metadata().map_err(|e| DiskError::io("look at", path, e))?.len();
    if len != record.length {
        return Err(damaged(format!(
            "its file has {len} bytes instead of {}",
            record.length
        )));
    }
    Ok(Arc::new(file))
}

/// A short range that is in the page cache.
fn copied(file: &File, from: u64, len: usize, pool: &Pool) -> Option<Bytes> {
    if len > COPY_BYTES_MAX {
        return None;
    }
    let mut buffer = pool.take(len);
    let into = &mut [IoSliceMut::new(buffer.as_mut())];
    let read = rustix::io::preadv2(file, into, from, ReadWriteFlags::NOWAIT);
    matches!(read, Ok(read) if read == len).then(|| buffer.freeze())
}

/// Whether every block of the range is in the page cache, as far as one byte of each tells.
fn is_warm(file: &File, from: u64, to: u64) -> bool {
    let mut byte = [0];
    // The last byte too: a file cut within its last block must not get as far as the socket.
    (from..to).step_by(BLOCK_BYTES).chain([to - 1]).all(|at| {
        let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        matches!(read, Ok(1))
    })
}

/// A read failed at `at`: the copy is set aside, unless it was a lack of ours.
fn cannot_read(chunk: ChunkId, path: &Path, at: u64, error: std::io::Error) -> DiskError {
    if is_lack(&error) {
        return DiskError::io("read", path, error);
    }
    let what = format!("its file cannot be read at {at}: {error}");
    DiskError::SetAside { chunk, what }
}

/// Waits until the range is in the page cache, and starts reading on; where and why that failed.
fn bring_in(file: &File, from: u64, to: u64) -> Result<(), (u64, std::io::Error)> {
    let wanted = NonZeroU64::new(to - from + READ_AHEAD_BYTES);
    // Advice only: where it is not taken, the reads below read.
    let _ = rustix::fs::fadvise(file, from, wanted, Advice::WillNeed);
    // Every byte: a sector that cannot be read is found here and not by `sendfile`, which can only end the connection.
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = from;
    while at < to {
        let wanted = block.len().min((to - at) as usize);
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut block[..wanted], at)) {
            Ok(0) => return Err((at, std::io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => at += read as u64,
            Err(e) => return Err((at, e.into())),
        }
    }
    Ok(())
}
