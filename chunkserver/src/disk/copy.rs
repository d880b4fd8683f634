//! What background copies ask of the disks beside reading and writing.

use gabion_protocol::{ChunkId, Ino, ReplicaNumber};

use super::error::DiskError;
use super::record::State;
use super::store::Store;

impl Store {
    /// Length and CRC of copy `replica` of `chunk`, if it is here and sealed.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn sealed(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<Option<(u64, u32)>, DiskError> {
        let found = self.find(chunk, replica).await?;
        let sealed = found.filter(|found| found.record.state == State::Sealed);
        Ok(sealed.map(|found| (found.record.length, found.record.crc)))
    }

    /// The file a sealed copy was written for, where in it the chunk begins, its length and its CRC.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Unsealed`], [`DiskError::SetAside`], or what the disk says.
    pub async fn describe(&self, chunk: ChunkId, replica: ReplicaNumber) -> Result<(Ino, u64, u64, u32), DiskError> {
        let found = self.find(chunk, replica).await?.ok_or(DiskError::Missing { chunk })?;
        let record = &found.record;
        match record.state {
            State::Sealed => Ok((record.owner, record.file_offset, record.length, record.crc)),
            State::Open => Err(DiskError::Unsealed { chunk }),
            State::SetAside => {
                let what = "it was found damaged earlier".to_owned();
                Err(DiskError::SetAside { chunk, what })
            }
        }
    }

    /// Whether the masters have ordered a copy dropped not long ago.
    #[must_use]
    pub fn was_dropped(&self, chunk: ChunkId, replica: ReplicaNumber) -> bool {
        self.0.dropped.lock().contains((chunk, replica))
    }
}
