//! What a scrub does on a disk: finds the next chunk, re-reads it a piece at a time, sets it aside if it is damaged.
//!
//! Large chunks are read past the page cache, so that the scrub neither trusts nor displaces it. Small ones lie in the
//! index's files, which RocksDB reads through the cache: the kernel is asked to forget those files when a pass begins, so
//! whatever is found in the cache later was read from the disk since.

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::ChunkId;
use gabion_protocol::messages::data::Verdict;

use super::directory::{Disk, chunk_path};
use super::error::DiskError;
use super::index::Change;
use super::record::{Place, Record, State};
use super::store::{Found, Store};
use super::verify::{Reread, check_blob};

/// Records looked at in one job.
const LOOK_MAX: usize = 1000;

/// What comes next in a pass.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// This chunk is to be read.
    Chunk(ChunkId, Arc<Record>),
    /// This copy was set aside before: nobody reads it, the masters are told again.
    SetAside(ChunkId, Arc<Record>),
    /// All up to this one are not sealed.
    Passed(ChunkId),
    /// There is no more.
    End,
}

impl Disk {
    /// The first chunk after `after`, up to `until`, that a scrub has something to do with.
    pub(crate) async fn next_to_scrub(
        self: &Arc<Self>,
        after: Option<ChunkId>,
        until: Option<ChunkId>,
    ) -> Result<Next, DiskError> {
        let index = self.index()?;
        let look = move || {
            let (mut next, mut looked) = (Next::End, 0);
            index.records_from(after, |chunk, record| {
                if Some(chunk) == after {
                    return true;
                }
                if until.is_some_and(|until| chunk > until) {
                    return false;
                }
                looked += 1;
                next = match record.state {
                    State::Sealed => Next::Chunk(chunk, Arc::new(record)),
                    State::SetAside => Next::SetAside(chunk, Arc::new(record)),
                    State::Open => Next::Passed(chunk),
                };
                matches!(next, Next::Passed(_)) && looked < LOOK_MAX
            })?;
            Ok(next)
        };
        self.scrubs.run(look).await.inspect_err(|error| self.note(error))
    }

    /// The last chunk on this disk.
    pub(crate) async fn last_chunk(&self) -> Result<Option<ChunkId>, DiskError> {
        let index = self.index()?;
        let last = self.scrubs.run(move || index.last_chunk()).await;
        last.inspect_err(|error| self.note(error))
    }

    /// The bytes of the scrub's mark.
    pub(crate) async fn scrub_mark(&self) -> Result<Option<Vec<u8>>, DiskError> {
        let index = self.index()?;
        let mark = self.scrubs.run(move || index.scrub()).await;
        mark.inspect_err(|error| self.note(error))
    }

    /// Makes the scrub's mark durable.
    pub(crate) async fn set_scrub_mark(&self, mark: Vec<u8>) -> Result<(), DiskError> {
        self.commit(vec![Change::Scrub(mark)]).await
    }

    /// Makes the kernel read the index's files from the disk again.
    pub(crate) async fn forget_cached_index(&self) -> Result<(), DiskError> {
        let index = self.index()?;
        let forget = move || {
            index.forget_cached();
            Ok(())
        };
        self.scrubs.run(forget).await
    }
}

impl Store {
    /// Re-reads one chunk of a disk, giving way to foreground work for up to `patience` before each piece; what it found,
    /// and how often it had to wait. Damage sets the copy aside.
    pub(crate) async fn scrub(
        &self,
        disk: &Arc<Disk>,
        chunk: ChunkId,
        record: &Arc<Record>,
        patience: Duration,
    ) -> Result<(Verdict, u64), DiskError> {
        let mut waits = u64::from(disk.foreground.give_way(patience).await);
        let found = Found {
            disk: Arc::clone(disk),
            record: Arc::clone(record),
        };
        let verdict = match record.place {
            Place::Blob => {
                let (index, record) = (disk.index()?, Arc::clone(record));
                let read = disk.scrubs.run(move || check_blob(index.blob(chunk), &record));
                read.await.inspect_err(|error| disk.note(error))?
            }
            Place::File => {
                let (path, opened) = (chunk_path(&disk.dir, chunk), Arc::clone(record));
                match disk.scrubs.run(move || Reread::open(&path, &opened)).await? {
                    Ok(reread) => self.reread(&found, reread, patience, &mut waits).await?,
                    Err(verdict) => verdict,
                }
            }
        };
        Ok((self.judged(chunk, &found, verdict).await?, waits))
    }

    async fn reread(
        &self,
        found: &Found,
        mut reread: Reread,
        patience: Duration,
        waits: &mut u64,
    ) -> Result<Verdict, DiskError> {
        loop {
            let (disk, record) = (Arc::clone(&found.disk), Arc::clone(&found.record));
            let step = move || reread.step(&record, &disk.pool).map(|verdict| (verdict, reread));
            let (verdict, rest) = found.disk.scrubs.run(step).await?;
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
            reread = rest;
            *waits += u64::from(found.disk.foreground.give_way(patience).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gabion_protocol::buffer::Pool;
    use gabion_protocol::checksum::block_crcs;
    use gabion_protocol::{ClusterId, Generation, Ino, ReplicaNumber, Timeline, VolumeId};

    use super::*;
    use crate::disk::{NewChunk, Packet, StoreOptions};

    const LONG: Duration = Duration::from_secs(3600);

    fn chunk(counter: u64) -> ChunkId {
        ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter,
        }
    }

    fn new(counter: u64) -> NewChunk {
        NewChunk {
            chunk: chunk(counter),
            generation: Generation(1),
            replica: ReplicaNumber(counter),
            owner: Ino(5),
            file_offset: 0,
            bytes_max: 8 << 20,
        }
    }

    fn packet(counter: u64, len: usize) -> Packet {
        let bytes = Bytes::from(vec![3; len]);
        Packet::verify(chunk(counter), 0, block_crcs(&bytes), bytes).unwrap()
    }

    async fn stored(dir: &std::path::Path) -> Store {
        let options = StoreOptions {
            dirs: vec![dir.to_owned()],
            cluster: ClusterId([7; 16]),
            reserve: Some(0),
            direct_io: true,
            pool: Pool::new(4 << 20),
        };
        let (store, _) = Store::open(&options).unwrap();
        store.put_small(new(1), packet(1, 5000)).await.unwrap();
        let mut open = store.open_write(new(2)).await.unwrap();
        let large = packet(2, 1 << 20);
        open.append(&large).unwrap();
        open.write(0, vec![large.bytes().clone()]).await.unwrap();
        // Its writer never comes back.
        let left = store.open_write(new(3)).await.unwrap();
        drop(left);
        let (length, crc) = (open.length(), open.crc());
        open.seal(length, crc).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_pass_meets_sealed_chunks_only_and_their_bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = stored(dir.path()).await;
        let disk = Arc::clone(&store.disks()[0]);
        assert_eq!(disk.sealed_bytes(), 5000 + (1 << 20));
        assert_eq!(disk.last_chunk().await.unwrap(), Some(chunk(3)));
        let next = async |after: Option<u64>, until: Option<u64>| {
            let next = disk.next_to_scrub(after.map(chunk), until.map(chunk)).await.unwrap();
            match next {
                Next::Chunk(id, _) => format!("read {}", id.counter),
                Next::SetAside(id, _) => format!("told {}", id.counter),
                Next::Passed(id) => format!("passed {}", id.counter),
                Next::End => "end".to_owned(),
            }
        };
        assert_eq!(next(None, None).await, "read 1");
        assert_eq!(next(Some(1), None).await, "read 2");
        assert_eq!(next(Some(1), Some(1)).await, "end");
        assert_eq!(next(Some(2), None).await, "passed 3");
        assert_eq!(next(Some(3), None).await, "end");
        store.set_aside(chunk(2), ReplicaNumber(2), "test").await;
        assert_eq!(next(Some(1), None).await, "told 2");
        assert_eq!(disk.sealed_bytes(), 5000);
        store.drop_copies(&[(chunk(1), ReplicaNumber(1))]).await;
        assert_eq!(disk.sealed_bytes(), 0);
        assert_eq!(disk.scrub_mark().await.unwrap(), None);
        disk.set_scrub_mark(vec![1, 2]).await.unwrap();
        assert_eq!(disk.scrub_mark().await.unwrap(), Some(vec![1, 2]));
    }

    #[tokio::test]
    async fn reading_waits_as_long_as_the_disk_works_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = stored(dir.path()).await;
        let disk = Arc::clone(&store.disks()[0]);
        for counter in [1, 2] {
            let Next::Chunk(id, record) = disk.next_to_scrub(Some(chunk(counter - 1)), None).await.unwrap() else {
                panic!("chunk {counter} is there");
            };
            let (begin, begun) = std::sync::mpsc::channel::<()>();
            let begun = parking_lot::Mutex::new(begun);
            let working = Arc::clone(&disk);
            let reader = tokio::spawn(async move {
                let slow = move || {
                    let _ = begun.lock().recv();
                    Ok(())
                };
                working.reads.run(slow).await
            });
            while !disk.foreground.has_work() {
                tokio::task::yield_now().await;
            }
            let (scrubber, scrubbed) = (store.clone(), Arc::clone(&disk));
            let scrub = tokio::spawn(async move { scrubber.scrub(&scrubbed, id, &record, LONG).await });
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!scrub.is_finished(), "a reader's job is under way");
            begin.send(()).unwrap();
            reader.await.unwrap().unwrap();
            let (verdict, waits) = scrub.await.unwrap().unwrap();
            assert!(matches!(verdict, Verdict::Good { .. }), "{verdict:?}");
            assert!(waits > 0);
        }
    }
}
