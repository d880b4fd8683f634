//! What the chunkserver's tests share: stores in directories of their own, and bytes to put there.
#![allow(dead_code, reason = "each program of tests uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use gabion_chunkserver::disk::{Data, DiskError, NewChunk, Packet, Store, StoreOptions};
use gabion_protocol::buffer::Pool;
use gabion_protocol::checksum::block_crcs;
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::{ChunkId, ClusterId, Generation, Ino, ReplicaNumber, Timeline, VolumeId};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) fn chunk(counter: u64) -> ChunkId {
    ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    }
}

pub(crate) fn new_chunk(counter: u64) -> NewChunk {
    NewChunk {
        chunk: chunk(counter),
        generation: Generation(1),
        replica: ReplicaNumber(counter + 1000),
        owner: Ino(5),
        file_offset: 0,
        bytes_max: 8 << 20,
    }
}

/// Bytes that differ by chunk and by place.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) fn options(dir: &Path) -> StoreOptions {
    StoreOptions {
        dirs: vec![dir.to_owned()],
        cluster: CLUSTER,
        reserve: Some(0),
        direct_io: true,
        pool: Pool::new(16 << 20),
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(&options(dir)).unwrap().0
}

pub(crate) fn data_file(dir: &Path, counter: u64) -> PathBuf {
    let id = chunk(counter);
    dir.join("data")
        .join(format!("{:02x}", counter as u8))
        .join(id.to_string())
}

/// Writes and seals a large chunk.
pub(crate) async fn write(store: &Store, new: NewChunk, bytes: &Bytes) -> Result<(), DiskError> {
    let mut open = store.open_write(new).await?;
    let mut at = 0;
    while at < bytes.len() {
        let part = bytes.slice(at..bytes.len().min(at + PACKET_BYTES));
        let packet = Packet::verify(new.chunk, at as u64, block_crcs(&part), part.clone())?;
        open.append(&packet)?;
        open.write(at as u64, vec![part.clone()]).await?;
        at += part.len();
    }
    let (length, crc) = (open.length(), open.crc());
    open.seal(length, crc).await
}

/// Reads a whole chunk and checks it as a client does: block by block, then the whole against the masters' CRC.
pub(crate) async fn read(store: &Store, new: NewChunk) -> Result<Vec<u8>, DiskError> {
    let mut all = Vec::new();
    loop {
        let blocks = store
            .read(new.chunk, new.replica, all.len() as u64, PACKET_BYTES as u32)
            .await?;
        assert_eq!(blocks.offset, all.len() as u64);
        let bytes = match blocks.data {
            Data::Bytes(bytes) => bytes.to_vec(),
            Data::File { file, len } => {
                let mut bytes = vec![0; len];
                std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, blocks.offset).unwrap();
                bytes
            }
        };
        if block_crcs(&bytes) != blocks.crcs {
            let what = "the reader saw a wrong checksum".to_owned();
            return Err(DiskError::Damaged { chunk: new.chunk, what });
        }
        all.extend(bytes);
        if all.len() as u64 == blocks.chunk_length {
            return Ok(all);
        }
    }
}

pub(crate) async fn put_small(store: &Store, new: NewChunk, bytes: &Bytes) -> Result<(u64, u32), DiskError> {
    let packet = Packet::verify(new.chunk, 0, block_crcs(bytes), bytes.clone())?;
    store.put_small(new, packet).await
}

/// A tmpfs of some MiB.
pub(crate) struct SmallDisk(
    pub(crate) PathBuf,
    #[allow(dead_code, reason = "removed when dropped")] tempfile::TempDir,
);

impl SmallDisk {
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(path, dir))
    }

    /// Takes all that is free but some, until [`Self::relieve`].
    pub(crate) fn fill(&self, but_bytes: u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let len = (stat.f_bavail * stat.f_frsize).saturating_sub(but_bytes);
        std::fs::write(self.0.join("filler"), vec![1; len as usize]).unwrap();
    }

    pub(crate) fn relieve(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Says that `test` did not run, and why, where the test runner does not hide it: `ops/test` counts these lines.
pub(crate) fn skip(test: &str, why: &str) {
    use std::io::Write as _;
    assert!(
        std::env::var_os("GABION_TEST_NO_SKIP").is_none(),
        "{test} cannot run here: {why}"
    );
    // A closed stderr must not fail the test.
    let _ = writeln!(std::io::stderr().lock(), "skipped: {test}: {why}");
}
