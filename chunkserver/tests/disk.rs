//! The disk layer as the rest of the server sees it, and after crashes and damage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::common::*;
use gabion_chunkserver::disk::{DiskError, NewChunk, Packet, Store};
use gabion_protocol::checksum::{block_crcs, crc};
use gabion_protocol::messages::data::Verdict;
use gabion_protocol::{Epoch, Generation, MasterId, ReplicaNumber, ServerId};

const LENGTHS: [usize; 9] = [
    1,
    511,
    4096,
    65_535,
    65_536,
    65_537,
    1 << 20,
    (1 << 20) + 1,
    (3 << 20) + 70_001,
];

#[tokio::test]
async fn what_is_sealed_is_read_back_and_lies_in_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (n, len) in LENGTHS.into_iter().enumerate() {
        let (new, bytes) = (new_chunk(n as u64), content(n as u64, len));
        write(&store, new, &bytes).await.unwrap();
        assert_eq!(read(&store, new).await.unwrap(), bytes);
        assert_eq!(
            std::fs::read(data_file(dir.path(), n as u64)).unwrap(),
            bytes,
            "exactly the file's bytes"
        );
        let verdict = store.verify(new.chunk, new.replica).await.unwrap();
        let good = Verdict::Good {
            length: len as u64,
            crc: crc(&bytes),
        };
        assert_eq!(verdict, good);
    }
    assert_eq!(store.load().chunks, LENGTHS.len() as u64);
}

#[tokio::test]
async fn small_chunks_live_in_the_index_and_a_repeated_put_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (n, len) in [0, 1, 65_536, 65_537, 131_072].into_iter().enumerate() {
        let (new, bytes) = (new_chunk(n as u64), content(n as u64, len));
        let first = put_small(&store, new, &bytes).await.unwrap();
        assert_eq!(first, (len as u64, crc(&bytes)));
        assert_eq!(
            put_small(&store, new, &bytes).await.unwrap(),
            first,
            "a lost answer is asked for again"
        );
        if len > 0 {
            assert_eq!(read(&store, new).await.unwrap(), bytes);
            let other = content(99, len);
            assert!(matches!(
                put_small(&store, new, &other).await,
                Err(DiskError::Fenced { .. })
            ));
        }
        assert!(matches!(
            store.verify(new.chunk, new.replica).await.unwrap(),
            Verdict::Good { .. }
        ));
        assert!(!data_file(dir.path(), n as u64).exists());
    }
    let (new, bytes) = (new_chunk(77), content(1, 131_073));
    assert!(
        matches!(put_small(&store, new, &bytes).await, Err(DiskError::Mismatch { .. })),
        "too large"
    );
    assert!(matches!(read(&store, new).await, Err(DiskError::Missing { .. })));
}

#[tokio::test]
async fn writes_are_fenced_by_generation_replica_and_seal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = new_chunk(1);
    let open_chunk = store.open_write(new).await.unwrap();
    assert!(matches!(store.open_write(new).await, Err(DiskError::InUse { .. })));
    assert!(matches!(read(&store, new).await, Err(DiskError::Unsealed { .. })));
    drop(open_chunk);
    let mut later = new;
    later.generation = Generation(2);
    write(&store, later, &content(1, 200_000)).await.unwrap();
    for refused in [new, later] {
        assert!(matches!(store.open_write(refused).await, Err(DiskError::Fenced { .. })));
    }
    let mut other = later;
    other.replica = ReplicaNumber(1);
    assert!(matches!(store.open_write(other).await, Err(DiskError::Fenced { .. })));
    assert!(
        matches!(read(&store, other).await, Err(DiskError::Missing { .. })),
        "another copy is not this one"
    );
    assert_eq!(read(&store, later).await.unwrap(), content(1, 200_000));
}

#[tokio::test]
async fn an_open_chunk_is_written_again_from_scratch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = new_chunk(1);
    let first = store.open_write(new).await.unwrap();
    first.write(0, vec![content(1, 1 << 20)]).await.unwrap();
    drop(first);
    let bytes = content(2, 100_000);
    write(&store, new, &bytes).await.unwrap();
    assert_eq!(read(&store, new).await.unwrap(), bytes);
    assert_eq!(store.load().chunks, 1);
}

#[tokio::test]
async fn a_seal_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = new_chunk(1);
    let chunk = store.open_write(new).await.unwrap();
    assert!(matches!(chunk.seal(1, 0).await, Err(DiskError::Mismatch { .. })));
    assert!(matches!(read(&store, new).await, Err(DiskError::Unsealed { .. })));
}

#[tokio::test]
async fn a_dropped_copy_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (large, small, late) = (new_chunk(1), new_chunk(2), new_chunk(3));
    write(&store, large, &content(1, 300_000)).await.unwrap();
    put_small(&store, small, &content(2, 3000)).await.unwrap();
    // The last one was never here: its writer comes after the order.
    let orders = [large, small, late].map(|new| (new.chunk, new.replica));
    assert_eq!(store.drop_copies(&orders).await.len(), 3);
    for new in [large, small, late] {
        assert!(matches!(store.open_write(new).await, Err(DiskError::Fenced { .. })));
        let put = put_small(&store, new, &content(2, 3000)).await;
        assert!(matches!(put, Err(DiskError::Fenced { .. })));
    }
    let another = NewChunk {
        replica: ReplicaNumber(77),
        ..late
    };
    write(&store, another, &content(3, 300_000)).await.unwrap();
    assert_eq!(store.load().chunks, 1);
}

#[tokio::test]
async fn a_drop_stops_the_writer_of_its_own_copy_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = new_chunk(1);
    let writing = store.open_write(new).await.unwrap();
    let stopped = async || {
        let short = std::time::Duration::from_millis(50);
        tokio::time::timeout(short, writing.cancelled()).await.is_ok()
    };
    assert!(store.drop_copies(&[(new.chunk, ReplicaNumber(9))]).await.is_empty());
    assert!(!stopped().await, "another copy's order");
    assert!(store.drop_copies(&[(new.chunk, new.replica)]).await.is_empty());
    assert!(stopped().await);
}

#[tokio::test]
async fn drops_name_their_copy_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (large, small) = (new_chunk(1), new_chunk(2));
    write(&store, large, &content(1, 300_000)).await.unwrap();
    put_small(&store, small, &content(2, 3000)).await.unwrap();
    let wrong_copy = (large.chunk, ReplicaNumber(9));
    let never_here = (chunk(99), ReplicaNumber(3));
    assert_eq!(
        store.drop_copies(&[wrong_copy, never_here]).await,
        [wrong_copy, never_here]
    );
    assert!(read(&store, large).await.is_ok(), "another copy's order drops nothing");
    let orders = [(large.chunk, large.replica), (small.chunk, small.replica)];
    assert_eq!(store.drop_copies(&orders).await, orders);
    assert!(!data_file(dir.path(), 1).exists());
    for new in [large, small] {
        assert!(matches!(read(&store, new).await, Err(DiskError::Missing { .. })));
    }
    assert_eq!(store.load().chunks, 0);
    let writing = store.open_write(new_chunk(3)).await.unwrap();
    let order = [(chunk(3), new_chunk(3).replica)];
    assert!(
        store.drop_copies(&order).await.is_empty(),
        "a copy being written is not pulled away"
    );
    writing.cancelled().await;
    drop(writing);
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(!data_file(dir.path(), 3).exists());
}

#[tokio::test]
async fn a_directory_serves_one_process_one_cluster_and_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = Store::open(&options(dir.path())).unwrap_err();
    let DiskError::Locked { holder, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*holder, format!("process {}", std::process::id()));
    store.set_server(ServerId(3)).await.unwrap();
    let epoch = Epoch {
        term: 4,
        leader: MasterId(1),
    };
    store.set_epoch(epoch).await.unwrap();
    let before = store.identity().unwrap();
    store.close().await;
    drop(store);
    let mut elsewhere = options(dir.path());
    elsewhere.cluster = gabion_protocol::ClusterId([8; 16]);
    assert!(matches!(Store::open(&elsewhere), Err(DiskError::WrongCluster { .. })));
    let store = open(dir.path());
    let after = store.identity().unwrap();
    assert_eq!((after.boot, after.server), (before.boot + 1, Some(ServerId(3))));
    assert_eq!(after.incarnation, before.incarnation);
    assert_eq!(store.epoch().await.unwrap(), epoch);
}

#[tokio::test]
async fn a_lost_identity_or_index_is_not_an_empty_disk() {
    for lost in ["disk.id", "index"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        write(&store, new_chunk(1), &content(1, 300_000)).await.unwrap();
        store.close().await;
        drop(store);
        let path = dir.path().join(lost);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap()
        } else {
            std::fs::remove_file(&path).unwrap()
        }
        let error = Store::open(&options(dir.path())).unwrap_err();
        assert!(
            matches!(error, DiskError::Identity { .. } | DiskError::Index { .. }),
            "{lost}: {error}"
        );
        assert!(data_file(dir.path(), 1).exists());
    }
}

#[tokio::test]
async fn files_without_records_are_kept_until_they_are_ordered_dropped() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::File::create(data_file(dir.path(), 5))
        .unwrap()
        .write_all(b"left over")
        .unwrap();
    std::fs::File::create(dir.path().join("data/05/notes.txt")).unwrap();
    let (store, recovered) = Store::open(&options(dir.path())).unwrap();
    assert_eq!((recovered[0].orphans, recovered[0].strangers), (1, 1));
    let order = [(chunk(5), ReplicaNumber(1))];
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(!data_file(dir.path(), 5).exists());
}

// ---- damage

fn flip(path: &Path, at: u64) {
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_data_file_is_found_and_the_copy_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = new_chunk(1);
    write(&store, new, &content(1, 1_000_000)).await.unwrap();
    flip(&data_file(dir.path(), 1), 700_000);
    assert!(read(&store, new).await.is_err(), "the reader sees it");
    let verdict = store.verify(new.chunk, new.replica).await.unwrap();
    assert!(
        matches!(verdict, Verdict::Damaged { offset: 655_360, .. }),
        "{verdict:?}"
    );
    assert_eq!(store.damage()[0].replica, new.replica);
    assert!(matches!(read(&store, new).await, Err(DiskError::SetAside { .. })));
    drop(store);
    let store = open(dir.path());
    assert!(
        matches!(read(&store, new).await, Err(DiskError::SetAside { .. })),
        "also after a restart"
    );
    assert!(data_file(dir.path(), 1).exists(), "kept until it is ordered dropped");
    flip(&data_file(dir.path(), 1), 700_000);
    let verdict = store.verify(new.chunk, new.replica).await.unwrap();
    assert!(
        matches!(verdict, Verdict::Unreadable { .. }),
        "nobody can read it: {verdict:?}"
    );
}

#[tokio::test]
async fn a_cut_or_lost_file_is_damage_not_absence() {
    for cut in [Some(70_000), None] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let new = new_chunk(1);
        write(&store, new, &content(1, 1_000_000)).await.unwrap();
        store.close().await;
        drop(store);
        let path = data_file(dir.path(), 1);
        match cut {
            Some(len) => std::fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(len)
                .unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let (store, recovered) = Store::open(&options(dir.path())).unwrap();
        assert_eq!(recovered[0].damaged.len(), 1);
        assert_eq!(store.damage().len(), 1);
        assert!(matches!(read(&store, new).await, Err(DiskError::Damaged { .. })));
        assert!(matches!(
            store.verify(new.chunk, new.replica).await.unwrap(),
            Verdict::Damaged { .. }
        ));
    }
}

fn files_below(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| wanted(path.file_name().unwrap().to_str().unwrap()))
        .collect()
}

/// Fills a store with small and large chunks; returns their numbers. Closing it in good order moves rows from the log
/// to tables and blob files.
async fn filled(dir: &Path, in_good_order: bool) -> Vec<(u64, usize)> {
    let store = open(dir);
    let mut held = Vec::new();
    for n in 0..12 {
        let len = if n % 3 == 0 { 300_000 } else { 9_000 };
        if n % 3 == 0 {
            write(&store, new_chunk(n), &content(n, len)).await.unwrap();
        } else {
            put_small(&store, new_chunk(n), &content(n, len)).await.unwrap();
        }
        held.push((n, len));
    }
    if in_good_order {
        store.close().await;
    }
    held
}

/// Opens what was damaged: either a named refusal, or every read is right or a named error.
async fn never_a_wrong_byte(dir: &Path, held: &[(u64, usize)], what: &str) -> bool {
    let store = match Store::open(&options(dir)) {
        Ok((store, _)) => store,
        Err(error) => {
            assert!(
                matches!(error, DiskError::Index { .. } | DiskError::Identity { .. }),
                "{what}: {error}"
            );
            return true;
        }
    };
    let mut noticed = false;
    for (n, len) in held {
        match read(&store, new_chunk(*n)).await {
            Ok(bytes) => assert_eq!(bytes, content(*n, *len), "{what}: chunk {n}"),
            Err(_) => noticed = true,
        }
    }
    noticed
}

#[tokio::test]
async fn a_flipped_bit_in_any_kind_of_index_file_never_gives_a_wrong_byte() {
    for (in_good_order, suffix) in [(false, ".log"), (true, ".sst"), (true, ".blob"), (true, "MANIFEST")] {
        let mut noticed = 0;
        for part in 1..6_u64 {
            let dir = tempfile::tempdir().unwrap();
            let held = filled(dir.path(), in_good_order).await;
            let named = |name: &str| name.ends_with(suffix) || name.starts_with(suffix);
            let index = dir.path().join("index");
            let files = files_below(&index, named);
            let path = files
                .iter()
                .max_by_key(|path| path.metadata().unwrap().len())
                .expect(suffix);
            let len = path.metadata().unwrap().len();
            assert!(len > 100, "{suffix} has {len} bytes");
            flip(path, len * part / 6);
            noticed += u32::from(never_a_wrong_byte(dir.path(), &held, &format!("{suffix} {part}/6")).await);
        }
        assert!(noticed >= 3, "{suffix}: only {noticed} of 5 flips were noticed");
    }
}

#[tokio::test]
async fn a_torn_tail_of_the_index_log_loses_only_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let held = filled(dir.path(), false).await;
    let logs = files_below(&dir.path().join("index"), |name| name.ends_with(".log"));
    let log = logs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let len = log.metadata().unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(log)
        .unwrap()
        .set_len(len - 5)
        .unwrap();
    let store = open(dir.path());
    let (last, before) = held.split_last().unwrap();
    for (n, len) in before {
        assert_eq!(read(&store, new_chunk(*n)).await.unwrap(), content(*n, *len));
    }
    assert!(read(&store, new_chunk(last.0)).await.is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_goes_on_reading_and_dropping() {
    let Some(mount) = SmallDisk::mount(48) else {
        skip("a_full_disk_refuses_writes", "needs root and tmpfs");
        return;
    };
    let mut small = options(&mount.0);
    small.reserve = Some(16 << 20);
    let (store, _) = Store::open(&small).unwrap();
    let mut sealed = Vec::new();
    let error = loop {
        let new = new_chunk(sealed.len() as u64);
        match write(&store, new, &content(1, 4 << 20)).await {
            Ok(()) => sealed.push(new),
            Err(error) => break error,
        }
        assert!(sealed.len() < 20, "48 MiB never get full");
    };
    assert!(matches!(error, DiskError::NoSpace { .. }), "{error}");
    assert!(!sealed.is_empty());
    for new in &sealed {
        assert_eq!(read(&store, *new).await.unwrap(), content(1, 4 << 20));
    }
    let small = put_small(&store, new_chunk(500), &content(2, 100)).await;
    assert!(matches!(small, Err(DiskError::NoSpace { .. }) | Ok(_)));
    let orders: Vec<_> = sealed.iter().map(|new| (new.chunk, new.replica)).collect();
    assert_eq!(store.drop_copies(&orders).await, orders);
    write(&store, new_chunk(900), &content(3, 4 << 20)).await.unwrap();
    store.close().await;
    drop(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preallocation_of_many_files_leaves_the_reserve_whole() {
    let Some(mount) = SmallDisk::mount(64) else {
        skip("preallocation_of_many_files", "needs root and tmpfs");
        return;
    };
    let free = |path: &Path| {
        let stat = rustix::fs::statvfs(path).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let mut small = options(&mount.0);
    small.reserve = Some(16 << 20);
    let (store, _) = Store::open(&small).unwrap();
    let bytes = content(1, 1 << 20);
    let crcs = block_crcs(&bytes);
    let mut open = Vec::new();
    for counter in 0..6 {
        let new = NewChunk {
            bytes_max: 40 << 20,
            ..new_chunk(counter)
        };
        open.push((new, store.open_write(new).await.unwrap()));
    }
    let mut refused = 0;
    for at in (0..8).map(|packet| packet << 20) {
        let writes = open.iter_mut().map(|(new, chunk)| {
            let packet = Packet::verify(new.chunk, at, crcs.clone(), bytes.clone()).unwrap();
            chunk.append(&packet).unwrap();
            chunk.write(at, vec![bytes.clone()])
        });
        for result in futures_util::future::join_all(writes).await {
            match result {
                Ok(()) => {}
                Err(DiskError::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        // A little for the index, which writes without asking.
        assert!(free(&mount.0) > 15 << 20, "{} bytes are left", free(&mount.0));
    }
    assert!(refused > 0, "all of it fits");
    drop(open);
    store.close().await;
    drop(store);
}

#[tokio::test]
async fn a_packet_with_a_wrong_checksum_is_no_packet() {
    let bytes = content(1, 100_000);
    let mut crcs = block_crcs(&bytes);
    assert!(Packet::verify(chunk(1), 0, crcs.clone(), bytes.clone()).is_ok());
    crcs[1] ^= 1;
    assert!(matches!(
        Packet::verify(chunk(1), 0, crcs, bytes),
        Err(DiskError::Mismatch { .. })
    ));
}
