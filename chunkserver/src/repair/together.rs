//! Small copies share turns: beside clients a piece of [`Pace::piece_bytes`] moves at a time, and a small chunk is much
//! less than one. Whoever gets the turn stores what waits, as much as fits one piece, with syncs that all of it shares.
//!
//! Invariant: every copy handed in is answered, after its own synced write; nobody's waits for a worker that may be gone.

use std::collections::VecDeque;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::disk::{DiskError, NewChunk, Packet, Store};
use crate::pace::{Pace, Share};

/// Small copies that wait for a turn.
#[derive(Debug)]
pub(super) struct Together {
    store: Store,
    pace: Pace,
    waiting: Mutex<VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    new: NewChunk,
    packet: Packet,
    done: oneshot::Sender<Result<(), DiskError>>,
}

impl Together {
    pub(super) fn new(store: Store, pace: Pace) -> Self {
        Self {
            store,
            pace,
            waiting: Mutex::default(),
        }
    }

    /// Stores a small copy as soon as the pace allows it, in its own turn or in another copy's.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) async fn put(&self, share: Share, new: NewChunk, packet: Packet) -> Result<(), DiskError> {
        let (done, mut answer) = oneshot::channel();
        self.waiting.lock().push_back(Waiting { new, packet, done });
        loop {
            let turn = tokio::select! {
                stored = &mut answer => return stored.unwrap_or(Err(DiskError::Stopping)),
                turn = self.pace.turn(share) => turn,
            };
            let piece = self.take(self.pace.piece_bytes());
            if piece.is_empty() {
                // Somebody is storing ours.
                drop(turn);
                return answer.await.unwrap_or(Err(DiskError::Stopping));
            }
            join_all(piece.into_iter().map(|one| self.store_one(one))).await;
            drop(turn);
        }
    }

    async fn store_one(&self, one: Waiting) {
        let stored = self.store.put_small(one.new, one.packet).await;
        // Who stopped waiting needs no answer.
        drop(one.done.send(stored.map(drop)));
    }

    /// Those that came first and are `bytes` together at most; one at least, if any waits.
    fn take(&self, bytes: usize) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock();
        let (mut taken, mut sum) = (Vec::new(), 0);
        while let Some(first) = waiting.front() {
            sum += first.packet.bytes().len();
            if !taken.is_empty() && sum > bytes {
                break;
            }
            taken.extend(waiting.pop_front());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use gabion_protocol::buffer::Pool;
    use gabion_protocol::checksum::block_crcs;
    use gabion_protocol::{ChunkId, ClusterId, Generation, Ino, ReplicaNumber, Timeline, VolumeId};

    use super::*;
    use crate::disk::StoreOptions;
    use crate::foreground::Foreground;

    fn chunk(counter: u64) -> ChunkId {
        ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter,
        }
    }

    fn new(counter: u64, replica: u64) -> NewChunk {
        NewChunk {
            chunk: chunk(counter),
            generation: Generation(1),
            replica: ReplicaNumber(replica),
            owner: Ino(5),
            file_offset: 0,
            bytes_max: 128 << 10,
        }
    }

    fn packet(counter: u64, len: usize) -> Packet {
        let bytes = Bytes::from(vec![3; len]);
        Packet::verify(chunk(counter), 0, block_crcs(&bytes), bytes).unwrap()
    }

    fn together(dir: &std::path::Path, clients: &Arc<Foreground>) -> Together {
        let options = StoreOptions {
            dirs: vec![dir.to_owned()],
            cluster: ClusterId([7; 16]),
            reserve: Some(0),
            direct_io: true,
            pool: Pool::new(4 << 20),
        };
        let (store, _) = Store::open(&options).unwrap();
        Together::new(store, Pace::new(clients, Duration::ZERO))
    }

    #[tokio::test]
    async fn a_piece_is_what_came_first_and_fits_it() {
        let dir = tempfile::tempdir().unwrap();
        let together = together(dir.path(), &Arc::default());
        for (counter, len) in [(1, 90_000), (2, 30_000), (3, 30_000), (4, 120_000), (5, 1)] {
            let (done, _) = oneshot::channel();
            let (new, packet) = (new(counter, 1), packet(counter, len));
            together.waiting.lock().push_back(Waiting { new, packet, done });
        }
        let mut pieces = Vec::new();
        loop {
            let piece = together.take(121_000);
            if piece.is_empty() {
                break;
            }
            pieces.push(piece.iter().map(|one| one.new.chunk.counter).collect::<Vec<_>>());
        }
        assert_eq!(pieces, [vec![1, 2], vec![3], vec![4, 5]]);
        let (done, _) = oneshot::channel();
        let (new, packet) = (new(6, 1), packet(6, 1000));
        together.waiting.lock().push_back(Waiting { new, packet, done });
        assert_eq!(together.take(10).len(), 1, "what is larger than a piece is one");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_is_stored_once_and_hears_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let clients = Arc::new(Foreground::default());
        let together = Arc::new(together(dir.path(), &clients));
        together.store.put_small(new(7, 9), packet(7, 10)).await.unwrap();
        let working = clients.begin();
        let turn = together.pace.turn(Share::Small).await;
        let puts = (1..=100).map(|counter| {
            let together = Arc::clone(&together);
            tokio::spawn(async move { together.put(Share::Small, new(counter, 1), packet(counter, 5000)).await })
        });
        let puts: Vec<_> = puts.collect();
        while together.waiting.lock().len() < 100 {
            tokio::task::yield_now().await;
        }
        drop(turn);
        for (put, counter) in puts.into_iter().zip(1..) {
            let stored = put.await.unwrap();
            assert_eq!(stored.is_err(), counter == 7, "chunk {counter}: {stored:?}");
            assert!(
                together
                    .store
                    .sealed(chunk(counter), ReplicaNumber(1))
                    .await
                    .is_ok_and(|there| there.is_some() != (counter == 7))
            );
        }
        drop(working);
    }
}
