use bytes::Bytes;
use gabion_protocol::buffer::Pool;
use gabion_protocol::checksum::block_crcs;
use gabion_protocol::inventory::BLOCK_IDS;
use gabion_protocol::{ClusterId, Generation, Ino, Timeline, VolumeId};

use super::*;
use crate::disk::{NewChunk, Packet, StoreOptions};

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
        bytes_max: 1 << 20,
    }
}

fn open(dirs: &[&std::path::Path]) -> Store {
    let options = StoreOptions {
        dirs: dirs.iter().map(|dir| dir.to_path_buf()).collect(),
        cluster: ClusterId([7; 16]),
        reserve: Some(0),
        direct_io: true,
        pool: Pool::new(4 << 20),
    };
    Store::open(&options).unwrap().0
}

async fn put(store: &Store, counter: u64) {
    let bytes = Bytes::from(vec![3; 100]);
    let packet = Packet::verify(chunk(counter), 0, block_crcs(&bytes), bytes).unwrap();
    store.put_small(new(counter, counter), packet).await.unwrap();
}

/// Everything that is listed, page by page.
async fn listed(store: &Store, limit: usize) -> BTreeSet<(ChunkId, ReplicaNumber)> {
    let mut all = BTreeSet::new();
    for bucket in [0, 1, 2, 1023].map(|number| Bucket::new(number).unwrap()) {
        let mut after = None;
        loop {
            let (copies, more) = store.list_bucket(bucket, after, limit).await.unwrap();
            assert!(copies.len() <= limit && (!more || !copies.is_empty()));
            assert!(
                copies
                    .iter()
                    .all(|copy| Bucket::of(copy.0) == bucket && Some(copy.0) > after)
            );
            after = copies.last().map(|copy| copy.0);
            all.extend(copies);
            if !more {
                break;
            }
        }
    }
    all
}

/// What is listed is what the digests are of, and nothing else is there.
async fn assert_holds(store: &Store, counters: &[u64]) {
    let expected: BTreeSet<_> = counters.iter().map(|n| (chunk(*n), ReplicaNumber(*n))).collect();
    for limit in [1, 2, 100] {
        assert_eq!(listed(store, limit).await, expected, "{limit} at a time");
    }
    let mut digests = Digests::default();
    expected
        .iter()
        .for_each(|(chunk, replica)| digests.add(*chunk, *replica));
    for bucket in Bucket::all() {
        assert_eq!(store.digest(bucket), digests.of(bucket), "{bucket:?}");
    }
    assert_eq!(store.stock().copies, counters.len() as u64);
}

#[tokio::test]
async fn digests_follow_every_change_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let far = BLOCK_IDS * 1024 * 3;
    for counter in [1, 2, 3, BLOCK_IDS, BLOCK_IDS + 1, far + 5, far - 1] {
        put(&store, counter).await;
    }
    // The answer to the first try may have been lost: it is one copy all the same.
    put(&store, 2).await;
    assert_holds(&store, &[1, 2, 3, BLOCK_IDS, BLOCK_IDS + 1, far + 5, far - 1]).await;
    // Open ones do not count, a sealed large one does.
    let left = store.open_write(new(far + 7, 7)).await.unwrap();
    drop(left);
    let mut large = store.open_write(new(4, 4)).await.unwrap();
    let bytes = Bytes::from(vec![5; 200_000]);
    let packet = Packet::verify(chunk(4), 0, block_crcs(&bytes), bytes).unwrap();
    large.append(&packet).unwrap();
    large.write(0, vec![packet.bytes().clone()]).await.unwrap();
    let (length, crc) = (large.length(), large.crc());
    large.seal(length, crc).await.unwrap();
    store.set_aside(chunk(3), ReplicaNumber(3), "test").await;
    store.set_aside(chunk(3), ReplicaNumber(3), "once more").await;
    // Only the copy that is named goes.
    let drops = [
        (chunk(1), ReplicaNumber(1)),
        (chunk(2), ReplicaNumber(9)),
        (chunk(3), ReplicaNumber(3)),
    ];
    store.drop_copies(&drops).await;
    let held = [2, 4, BLOCK_IDS, BLOCK_IDS + 1, far + 5, far - 1];
    assert_holds(&store, &held).await;
    assert_eq!(
        store.stock().highest,
        Some(chunk(far + 5)),
        "of sealed ones while it runs"
    );
    store.close().await;
    drop(store);
    let store = open(&[dir.path()]);
    assert_holds(&store, &held).await;
    let stock = store.stock();
    assert_eq!(stock.highest, Some(chunk(far + 7)));
    assert_eq!(stock.highest_number, ReplicaNumber(far + 5));
    assert!(stock.complete);
}

#[tokio::test]
async fn a_disk_that_is_out_of_service_counts_no_copies_and_the_server_says_so() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let paths: Vec<_> = dirs.iter().map(tempfile::TempDir::path).collect();
    let store = open(&paths);
    for counter in 1..9 {
        put(&store, counter).await;
    }
    assert_holds(&store, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
    let first = Arc::clone(&store.disks()[0]);
    let on_first: Vec<_> = list(&first.index().unwrap(), Bucket::new(0).unwrap(), None, 100)
        .unwrap()
        .0;
    first.note(&DiskError::Index {
        dir: first.dir.clone(),
        why: "test".to_owned(),
    });
    let left: Vec<u64> = (1..9)
        .filter(|n| !on_first.contains(&(chunk(*n), ReplicaNumber(*n))))
        .collect();
    assert_holds(&store, &left).await;
    assert!(!store.stock().complete, "what is not listed may be on the other disk");
    assert_eq!(store.stock().serving, [false, true]);
    store.close().await;
    drop((first, store));
    // Started without it, the server knows that it had another.
    let store = open(&paths[1..]);
    assert_holds(&store, &left).await;
    assert!(!store.stock().complete);
}
