//! Writing chunks: large ones packet by packet into a file, small ones whole into the index.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use gabion_protocol::checksum::{self, Running};
use gabion_protocol::limits::{BLOCK_BYTES, SMALL_CHUNK_BYTES};
use gabion_protocol::{ChunkId, Generation, Ino, ReplicaNumber};

use super::directory::{Disk, chunk_path};
use super::error::DiskError;
use super::file::ChunkFile;
use super::index::Change;
use super::record::{Place, Record, State};
use super::store::{Claim, Store, put};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its generation.
    pub generation: Generation,
    /// Which copy.
    pub replica: ReplicaNumber,
    /// For which file.
    pub owner: Ino,
    /// Where in the file.
    pub file_offset: u64,
    /// Most bytes it may take.
    pub bytes_max: u64,
}

impl NewChunk {
    fn record(&self, state: State, place: Place, crcs: Vec<u32>, length: u64, crc: u32) -> Arc<Record> {
        Arc::new(Record {
            state,
            place,
            generation: self.generation,
            replica: self.replica,
            owner: self.owner,
            file_offset: self.file_offset,
            length,
            crc,
            crcs,
        })
    }

    /// Whether what is stored lets this be written, from scratch.
    fn check(&self, stored: &Record) -> Result<(), DiskError> {
        let fenced = |why: String| Err(DiskError::Fenced { chunk: self.chunk, why });
        if stored.replica != self.replica {
            return fenced(format!("copy {} is here, not copy {}", stored.replica, self.replica));
        }
        if stored.generation > self.generation {
            return fenced(format!(
                "generation {} is here, {} is older",
                stored.generation, self.generation
            ));
        }
        match stored.state {
            State::Open => Ok(()),
            State::Sealed => fenced("it is sealed".to_owned()),
            State::SetAside => fenced("it is set aside".to_owned()),
        }
    }
}

/// Bytes whose block CRCs were checked: the only bytes an [`OpenChunk`] takes.
#[derive(Debug, Clone)]
pub struct Packet {
    offset: u64,
    crcs: Vec<u32>,
    bytes: Bytes,
}

impl Packet {
    /// Checks `bytes` against `crcs`.
    ///
    /// # Errors
    /// [`DiskError::Mismatch`] names the first bad block.
    pub fn verify(chunk: ChunkId, offset: u64, crcs: Vec<u32>, bytes: Bytes) -> Result<Self, DiskError> {
        match checksum::first_bad_block(&bytes, &crcs) {
            None => Ok(Self { offset, crcs, bytes }),
            Some(block) => Err(DiskError::Mismatch {
                chunk,
                what: format!("block {block} of the packet at {offset} does not have its checksum"),
            }),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The block CRCs.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        &self.crcs
    }
}

/// A large chunk being written.
#[derive(Debug)]
pub struct OpenChunk {
    store: Store,
    disk: Arc<Disk>,
    file: Arc<ChunkFile>,
    claim: Arc<Claim>,
    new: NewChunk,
    crcs: Vec<u32>,
    running: Running,
}

impl Store {
    /// Begins a chunk: when this returns, its open record is durable and its file is there.
    ///
    /// # Errors
    /// [`DiskError::Fenced`], [`DiskError::InUse`], [`DiskError::NoSpace`] or what the disk says.
    pub async fn open_write(&self, new: NewChunk) -> Result<OpenChunk, DiskError> {
        let store = self.clone();
        self.to_the_end(async move { store.open_claimed(new).await }).await
    }

    async fn open_claimed(self, new: NewChunk) -> Result<OpenChunk, DiskError> {
        let claim = self.claim_to_write(new.chunk, new.replica)?;
        let found = self.find_to_write(new.chunk).await?;
        if let Some(found) = &found {
            new.check(&found.record)?;
        }
        let is_new = found.is_none();
        let disk = found.map_or_else(|| self.disk_for(new.chunk), |found| Ok(found.disk))?;
        disk.check_room(new.bytes_max.min(SMALL_CHUNK_BYTES))?;
        let path = chunk_path(&disk.dir, new.chunk);
        let (held, direct_io) = (Arc::clone(&claim), disk.direct_io);
        let create = disk.writes.run(move || {
            let _claim = held;
            ChunkFile::create(path, new.bytes_max, direct_io)
        });
        let record = new.record(State::Open, Place::File, Vec::new(), 0, 0);
        let (file, committed) = tokio::join!(create, disk.commit(vec![put(new.chunk, record)]));
        // The record counts, also if the file could not be made.
        if is_new && committed.is_ok() {
            disk.chunks.fetch_add(1, Ordering::Relaxed);
        }
        let file = file.inspect_err(|error| disk.note_write(error))?;
        committed?;
        Ok(OpenChunk {
            store: self,
            disk,
            file: Arc::new(file),
            claim,
            new,
            crcs: Vec::new(),
            running: Running::default(),
        })
    }

    /// Writes and seals a whole small chunk. The same chunk again is fine: the answer to the first try may be lost.
    ///
    /// # Errors
    /// As [`Self::open_write`], and [`DiskError::Mismatch`].
    pub async fn put_small(&self, new: NewChunk, packet: Packet) -> Result<(u64, u32), DiskError> {
        let length = packet.bytes.len() as u64;
        if packet.offset != 0 || length > SMALL_CHUNK_BYTES || length > new.bytes_max {
            let what = format!("{length} bytes are too many for a small chunk");
            return Err(DiskError::Mismatch { chunk: new.chunk, what });
        }
        let store = self.clone();
        self.to_the_end(async move { store.put_claimed(new, packet).await })
            .await
    }

    async fn put_claimed(self, new: NewChunk, packet: Packet) -> Result<(u64, u32), DiskError> {
        let _claim = self.claim_to_write(new.chunk, new.replica)?;
        let length = packet.bytes.len() as u64;
        let crc = checksum::combine_blocks(&packet.crcs, length);
        let record = new.record(State::Sealed, Place::Blob, packet.crcs, length, crc);
        let found = self.find_to_write(new.chunk).await?;
        if let Some(found) = &found {
            if found.record == record {
                return Ok((length, crc));
            }
            new.check(&found.record)?;
            // An open record has a file: a chunk that was begun as a stream goes on as one.
            let why = "it was begun as a stream".to_owned();
            return Err(DiskError::Fenced { chunk: new.chunk, why });
        }
        let disk = self.disk_for(new.chunk)?;
        disk.check_room(length)?;
        let change = Change::Put {
            chunk: new.chunk,
            record: Arc::clone(&record),
            blob: Some(packet.bytes),
        };
        disk.commit(vec![change]).await?;
        disk.chunks.fetch_add(1, Ordering::Relaxed);
        disk.count_sealed(new.chunk, &record);
        Ok((length, crc))
    }
}

impl OpenChunk {
    /// Bytes taken so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.running.len()
    }

    /// CRC of the bytes taken so far.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.running.crc()
    }

    /// Resolves when the masters ordered this copy dropped, so that writing on is pointless.
    pub async fn cancelled(&self) {
        self.claim.cancelled.cancelled().await;
    }

    /// Takes the next packet into account. Its bytes are to be written by [`Self::write`].
    ///
    /// # Errors
    /// [`DiskError::Mismatch`] if it does not follow the last one or the chunk would grow over its maximum.
    pub fn append(&mut self, packet: &Packet) -> Result<(), DiskError> {
        let (at, len) = (self.length(), packet.bytes.len() as u64);
        let follows = packet.offset == at && at.is_multiple_of(BLOCK_BYTES as u64) && len > 0;
        if !follows || len > self.new.bytes_max - at {
            return Err(DiskError::Mismatch {
                chunk: self.new.chunk,
                what: format!(
                    "a packet of {len} bytes at {} does not follow {at} bytes of at most {}",
                    packet.offset, self.new.bytes_max
                ),
            });
        }
        self.running.append_blocks(&packet.crcs, len);
        self.crcs.extend_from_slice(&packet.crcs);
        Ok(())
    }

    /// Writes consecutive packets' bytes, the first of which begins at `offset`. The job holds all it needs and runs
    /// to its end, also if the chunk is given up.
    pub fn write(&self, offset: u64, parts: Vec<Bytes>) -> impl Future<Output = Result<(), DiskError>> + Send + use<> {
        let (disk, file, claim) = (Arc::clone(&self.disk), Arc::clone(&self.file), Arc::clone(&self.claim));
        let (store, new) = (self.store.clone(), self.new);
        async move {
            let this = Arc::clone(&disk);
            let job = move || {
                let _claim = claim;
                let end = offset + parts.iter().map(|part| part.len() as u64).sum::<u64>();
                this.make_room(&file, end)?;
                file.write(&this.pool, offset, &parts)
            };
            let result = disk.writes.run(job).await;
            if let Err(error @ (DiskError::Io { what, .. } | DiskError::Lacking { what, .. })) = &result {
                disk.note_write(error);
                store.poison(&disk, &new, what).await;
            }
            result
        }
    }

    /// Whether a seal fits what was taken.
    ///
    /// # Errors
    /// [`DiskError::Mismatch`].
    pub fn check_seal(&self, length: u64, crc: u32) -> Result<(), DiskError> {
        if (length, crc) == (self.length(), self.crc()) {
            return Ok(());
        }
        Err(DiskError::Mismatch {
            chunk: self.new.chunk,
            what: format!(
                "a seal of {length} bytes with checksum {crc:08x} does not fit {} bytes with {:08x}",
                self.length(),
                self.crc()
            ),
        })
    }

    /// Seals the chunk: data, length and name are durable, then the record is.
    ///
    /// # Errors
    /// [`DiskError::Mismatch`] if length or CRC differ from what was taken; then, and after any failed sync, the chunk
    /// is not sealed and never will be by this writer.
    pub async fn seal(self, length: u64, crc: u32) -> Result<(), DiskError> {
        self.check_seal(length, crc)?;
        let store = self.store.clone();
        store.to_the_end(self.seal_claimed()).await
    }

    async fn seal_claimed(self) -> Result<(), DiskError> {
        let (file, claim, length) = (Arc::clone(&self.file), Arc::clone(&self.claim), self.length());
        let finish = move || {
            let _claim = claim;
            file.finish(length)
        };
        if let Err(error) = self.disk.writes.run(finish).await {
            self.disk.note_write(&error);
            self.store.poison(&self.disk, &self.new, "sync").await;
            return Err(error);
        }
        let crc = self.crc();
        let record = self.new.record(State::Sealed, Place::File, self.crcs, length, crc);
        self.disk.commit(vec![put(self.new.chunk, Arc::clone(&record))]).await?;
        self.disk.count_sealed(self.new.chunk, &record);
        Ok(())
    }
}

impl Store {
    /// Sets an open chunk's file aside after a failed write or sync. Called by the claim's holder. If the record cannot
    /// be written either, the open record stays, which promises nothing.
    async fn poison(&self, disk: &Arc<Disk>, new: &NewChunk, what: &str) {
        tracing::error!(chunk = %new.chunk, replica = %new.replica, what, "the file failed and is set aside");
        let record = new.record(State::SetAside, Place::File, Vec::new(), 0, 0);
        if let Err(error) = disk.commit(vec![put(new.chunk, record)]).await {
            tracing::warn!(chunk = %new.chunk, %error, "the failure is not recorded");
        }
    }
}
