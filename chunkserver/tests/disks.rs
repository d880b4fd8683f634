//! Several disks of one server: those that are not mounted, those that come back, and those that get full.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use crate::common::*;
use gabion_chunkserver::disk::{self, DiskError, NewChunk, Store, StoreOptions};
use gabion_protocol::messages::data::Verdict;
use gabion_protocol::{Generation, ReplicaNumber};

fn on(dirs: &[&Path]) -> StoreOptions {
    StoreOptions {
        dirs: dirs.iter().map(|dir| dir.to_path_buf()).collect(),
        ..options(Path::new(""))
    }
}

async fn close(store: Store) {
    store.close().await;
}

/// Two disks that have been one server's, stopped.
async fn two_disks() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let (a, b) = (base.path().join("a"), base.path().join("b"));
    close(Store::open(&on(&[&a, &b])).unwrap().0).await;
    (base, a, b)
}

fn disks(store: &Store) -> (u16, u16) {
    (store.load().disks_ok, store.load().disks_failed)
}

#[tokio::test]
async fn two_disks_are_one_store() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut both = options(dirs[0].path());
    both.dirs.push(dirs[1].path().to_owned());
    let (store, _) = Store::open(&both).unwrap();
    write(&store, new_chunk(1), &content(1, 300_000)).await.unwrap();
    let text = |at: usize| std::fs::read_to_string(dirs[at].path().join("disk.id")).unwrap();
    let shared = |text: String| {
        let own = |line: &&str| line.starts_with("disk ") || line.starts_with("crc32");
        text.lines()
            .filter(|line| !own(line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_ne!(text(0), text(1), "each disk has its own id");
    assert_eq!(shared(text(0)), shared(text(1)));
    store.close().await;
    drop(store);
    // The other disk alone: the chunk is unavailable, not absent.
    let holder = dirs.iter().position(|d| data_file(d.path(), 1).exists()).unwrap();
    let current = dirs[holder].path().join("index/CURRENT");
    std::fs::File::options()
        .write(true)
        .truncate(true)
        .open(current)
        .unwrap();
    let (store, _) = Store::open(&both).unwrap();
    assert_eq!((store.load().disks_ok, store.load().disks_failed), (1, 1));
    assert!(matches!(
        read(&store, new_chunk(1)).await,
        Err(DiskError::Failed { .. })
    ));
    // New chunks go to the disk that is left.
    write(&store, new_chunk(2), &content(2, 300_000)).await.unwrap();
    put_small(&store, new_chunk(3), &content(3, 3000)).await.unwrap();
    assert!(data_file(dirs[1 - holder].path(), 2).exists());
}

// ---- disks that are not mounted

/// Unmounts `dir`, as far as a server can see it.
fn take_away(dir: &Path) -> PathBuf {
    let away = dir.with_extension("away");
    std::fs::rename(dir, &away).unwrap();
    std::fs::create_dir(dir).unwrap();
    away
}

fn put_back(away: &Path, dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
    std::fs::rename(away, dir).unwrap();
}

#[tokio::test]
async fn a_disk_that_is_not_mounted_is_unavailable_and_its_directory_no_new_disk() {
    let (_base, a, b) = two_disks().await;
    let store = Store::open(&on(&[&b])).unwrap().0;
    write(&store, new_chunk(1), &content(1, 300_000)).await.unwrap();
    close(store).await;
    let away = take_away(&b);
    for _ in 0..2 {
        let store = Store::open(&on(&[&a, &b])).unwrap().0;
        assert_eq!(disks(&store), (1, 1));
        let error = read(&store, new_chunk(1)).await.unwrap_err();
        assert!(
            matches!(error, DiskError::Failed { .. }),
            "unavailable, not absent: {error}"
        );
        assert!(error.to_string().contains("no mount point"), "{error}");
        let order = [(chunk(1), new_chunk(1).replica)];
        assert!(
            store.drop_copies(&order).await.is_empty(),
            "nobody knows whether it is there"
        );
        write(&store, new_chunk(2), &content(2, 300_000)).await.unwrap();
        let order = [(chunk(2), new_chunk(2).replica)];
        assert_eq!(store.drop_copies(&order).await, order);
        assert!(!b.join("disk.id").exists() && !b.join("data").exists());
        close(store).await;
    }
    put_back(&away, &b);
    let store = Store::open(&on(&[&a, &b])).unwrap().0;
    assert_eq!(disks(&store), (2, 0));
    assert_eq!(read(&store, new_chunk(1)).await.unwrap(), content(1, 300_000));
}

#[tokio::test]
async fn a_disk_that_is_gone_for_good_is_replaced_by_word() {
    let (base, a, b) = two_disks().await;
    let lost = take_away(&b);
    let dirs = [a.clone(), b.clone()];
    let refused = |dirs: &[PathBuf], dir: &Path| match disk::adopt(dirs, CLUSTER, dir) {
        Err(DiskError::Adopt { .. }) => {}
        other => panic!("{other:?}"),
    };
    refused(&dirs, &base.path().join("c"));
    refused(&dirs, &a);
    refused(std::slice::from_ref(&b), &b);
    let running = Store::open(&on(&[&a, &b])).unwrap().0;
    assert!(matches!(disk::adopt(&dirs, CLUSTER, &b), Err(DiskError::Locked { .. })));
    close(running).await;
    disk::adopt(&dirs, CLUSTER, &b).unwrap();
    refused(&dirs, &b);
    let store = Store::open(&on(&[&a, &b])).unwrap().0;
    assert_eq!(disks(&store), (2, 0));
    assert_eq!(store.identity().unwrap().disks.len(), 2, "the lost disk is let go of");
    close(store).await;
    // So the next new disk needs no word.
    let c = base.path().join("c");
    let store = Store::open(&on(&[&a, &b, &c])).unwrap().0;
    assert_eq!(disks(&store), (3, 0));
    close(store).await;
    // The lost disk was not lost: it is one of the server's again.
    let store = Store::open(&on(&[&a, &b, &c, &lost])).unwrap().0;
    assert_eq!(disks(&store), (4, 0));
    assert_eq!(store.identity().unwrap().disks.len(), 4);
}

#[tokio::test]
async fn an_empty_disk_that_is_mounted_is_a_new_disk() {
    let (_base, a, b) = two_disks().await;
    let Some(mount) = SmallDisk::mount(64) else {
        skip("an_empty_disk_that_is_mounted_is_a_new_disk", "needs root and tmpfs");
        return;
    };
    take_away(&b);
    let store = Store::open(&on(&[&a, &b, &mount.0])).unwrap().0;
    assert_eq!(
        disks(&store),
        (2, 1),
        "the mounted one serves, the other directory is still a gap"
    );
    close(store).await;
    let store = Store::open(&on(&[&a, &mount.0])).unwrap().0;
    assert_eq!(disks(&store), (2, 0));
    close(store).await;
}

// ---- disks that come back

/// A chunk that was begun on a disk and left.
async fn begin(dir: &Path, new: NewChunk) {
    let store = Store::open(&on(&[dir])).unwrap().0;
    drop(store.open_write(new).await.unwrap());
    close(store).await;
}

async fn sealed_on(dir: &Path, new: NewChunk, bytes: &bytes::Bytes) {
    let store = Store::open(&on(&[dir])).unwrap().0;
    write(&store, new, bytes).await.unwrap();
    close(store).await;
}

#[tokio::test]
async fn of_two_records_the_sealed_one_counts() {
    let (_base, a, b) = two_disks().await;
    let (new, bytes) = (new_chunk(1), content(1, 300_000));
    let newer = NewChunk {
        generation: Generation(2),
        ..new
    };
    begin(&a, newer).await;
    sealed_on(&b, new, &bytes).await;
    for order in [[&*a, &*b], [&*b, &*a]] {
        let store = Store::open(&on(&order)).unwrap().0;
        assert_eq!(read(&store, new).await.unwrap(), bytes);
        let verdict = store.verify(new.chunk, new.replica).await.unwrap();
        assert!(matches!(verdict, Verdict::Good { .. }), "{verdict:?}");
        assert!(matches!(store.open_write(newer).await, Err(DiskError::Fenced { .. })));
        close(store).await;
    }
    let store = Store::open(&on(&[&a, &b])).unwrap().0;
    let order = [(new.chunk, new.replica)];
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(
        !data_file(&a, 1).exists() && !data_file(&b, 1).exists(),
        "both are gone"
    );
    assert_eq!(store.load().chunks, 0);
}

#[tokio::test]
async fn of_two_open_records_the_higher_generation_fences() {
    let (_base, a, b) = two_disks().await;
    let (old, young) = (
        new_chunk(1),
        NewChunk {
            generation: Generation(2),
            ..new_chunk(1)
        },
    );
    begin(&a, old).await;
    begin(&b, young).await;
    for order in [[&*a, &*b], [&*b, &*a]] {
        let store = Store::open(&on(&order)).unwrap().0;
        let error = store.open_write(old).await.unwrap_err();
        assert!(matches!(error, DiskError::Fenced { .. }), "{error}");
        close(store).await;
    }
}

#[tokio::test]
async fn copies_of_two_numbers_are_two_copies() {
    let (_base, a, b) = two_disks().await;
    let (old, young) = (
        new_chunk(1),
        NewChunk {
            replica: ReplicaNumber(7000),
            ..new_chunk(1)
        },
    );
    let bytes = content(1, 300_000);
    sealed_on(&a, old, &bytes).await;
    sealed_on(&b, young, &bytes).await;
    let store = Store::open(&on(&[&a, &b])).unwrap().0;
    for new in [old, young, old] {
        assert_eq!(read(&store, new).await.unwrap(), bytes);
    }
    let order = [(old.chunk, old.replica)];
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(!data_file(&a, 1).exists(), "a confirmed drop has happened");
    assert!(matches!(read(&store, old).await, Err(DiskError::Missing { .. })));
    assert_eq!(read(&store, young).await.unwrap(), bytes);
}

// ---- drops cut short

/// A drop that ends between its two steps is no damage after a restart, and the repeated order finishes it.
#[tokio::test]
async fn a_drop_cut_short_is_finished_and_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (new, file) = (new_chunk(1), data_file(dir.path(), 1));
    let order = [(new.chunk, new.replica)];
    let store = open(dir.path());
    write(&store, new, &content(1, 300_000)).await.unwrap();
    // Something that cannot be unlinked lies in the file's place: that step fails.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(store.drop_copies(&order).await.is_empty(), "not done, so not confirmed");
    assert!(matches!(read(&store, new).await, Err(DiskError::Missing { .. })));
    close(store).await;
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, content(1, 300_000)).unwrap();
    let (store, recovered) = Store::open(&options(dir.path())).unwrap();
    assert_eq!((recovered[0].damaged.len(), recovered[0].orphans), (0, 1));
    assert_eq!(store.damage(), []);
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(!file.exists());
    close(store).await;
    let report = gabion_chunkserver::offline::verify(dir.path()).unwrap();
    assert_eq!(report.findings, []);
}

/// The other order, a record without its file, is damage: nothing but a drop may say that it is none.
#[tokio::test]
async fn a_sealed_record_without_its_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, new_chunk(1), &content(1, 300_000)).await.unwrap();
    close(store).await;
    std::fs::remove_file(data_file(dir.path(), 1)).unwrap();
    let (store, recovered) = Store::open(&options(dir.path())).unwrap();
    assert_eq!((recovered[0].damaged.len(), store.damage().len()), (1, 1));
    let order = [(chunk(1), new_chunk(1).replica)];
    assert_eq!(store.drop_copies(&order).await, order, "it can be dropped");
    assert_eq!(store.damage(), []);
}

// ---- a full index

/// Fills the disk but for a little, then the index; gives the numbers of the small chunks it has sealed. Its log has
/// taken its space before, so it is the log's tables that find none.
async fn fill_up(mount: &SmallDisk, store: &Store, first: u64) -> Vec<u64> {
    mount.fill(1 << 20);
    let mut sealed = Vec::new();
    let begun = std::time::Instant::now();
    // The tables are written behind our back: until that has failed, not for so many tries.
    for n in (first..).take_while(|_| begun.elapsed().as_secs() < 60) {
        let epoch = gabion_protocol::Epoch {
            term: n,
            leader: gabion_protocol::MasterId(1),
        };
        match put_small(store, new_chunk(n), &content(n, 100_000)).await {
            Ok(_) => sealed.push(n),
            // Refused before the index was asked. Orders are not, so they are the first to meet a full index.
            Err(DiskError::NoSpace { .. }) => {
                if let Err(DiskError::Full { .. }) = store.set_epoch(epoch).await {
                    return sealed;
                }
            }
            Err(DiskError::Full { .. }) => return sealed,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the index never gets full");
}

fn sizes(n: u64) -> usize {
    if n < 10_000 { 5000 } else { 100_000 }
}

#[tokio::test]
async fn a_full_index_takes_writes_again_when_there_is_room() {
    let Some(mount) = SmallDisk::mount(64) else {
        skip(
            "a_full_index_takes_writes_again_when_there_is_room",
            "needs root and tmpfs",
        );
        return;
    };
    let store = open(&mount.0);
    let mut sealed = Vec::new();
    for n in 0..200 {
        put_small(&store, new_chunk(n), &content(n, 5000)).await.unwrap();
        sealed.push(n);
    }
    for round in 1..3 {
        sealed.extend(fill_up(&mount, &store, round * 1_000_000).await);
        assert_eq!((disks(&store), store.load().bytes_free), ((1, 0), 0));
        for _ in 0..3 {
            let refused = put_small(&store, new_chunk(5000), &content(1, 5000)).await.unwrap_err();
            assert!(matches!(refused, DiskError::NoSpace { .. }), "{refused}");
            assert_eq!(read(&store, new_chunk(7)).await.unwrap(), content(7, 5000));
        }
        mount.relieve();
        assert!(store.load().bytes_free > 0, "room is offered again");
        let next = 500 + round;
        // Within seconds: RocksDB is opened again once in a while, not again and again.
        let asked = std::time::Instant::now();
        while let Err(error) = put_small(&store, new_chunk(next), &content(next, 5000)).await {
            assert!(asked.elapsed().as_secs() < 20, "{error}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        sealed.push(next);
        for n in &sealed {
            assert_eq!(read(&store, new_chunk(*n)).await.unwrap(), content(*n, sizes(*n)));
        }
    }
    drop(store);
    let store = open(&mount.0);
    for n in &sealed {
        assert_eq!(read(&store, new_chunk(*n)).await.unwrap(), content(*n, sizes(*n)));
    }
    close(store).await;
}

/// Removing large chunks gives a full index its room back.
#[tokio::test]
async fn a_drop_relieves_a_full_index() {
    let Some(mount) = SmallDisk::mount(96) else {
        skip("a_drop_relieves_a_full_index", "needs root and tmpfs");
        return;
    };
    let store = open(&mount.0);
    let large = NewChunk {
        bytes_max: 40 << 20,
        ..new_chunk(1)
    };
    write(&store, large, &content(1, 40 << 20)).await.unwrap();
    put_small(&store, new_chunk(2), &content(2, 5000)).await.unwrap();
    fill_up(&mount, &store, 10_000).await;
    let order = [(large.chunk, large.replica)];
    assert_eq!(store.drop_copies(&order).await, order);
    assert!(!data_file(&mount.0, 1).exists());
    put_small(&store, new_chunk(3), &content(3, 5000)).await.unwrap();
    close(store).await;
}
