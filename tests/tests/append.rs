//! Files that change: many writers at one end, writers that die, overwrites, lengths, readers that follow.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_client::{Client, CreateOptions, ErrorCode};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::{connect, get, put};
use gabion_tests::{content, scaled, seconds, until};
use rustix::process::Signal;

const WRITERS: u64 = 8;
/// Bytes of a record, which says in its first 16 whose it is.
const RECORD: usize = 4096;
/// Records that must be acknowledged between two faults.
const PROGRESS: u64 = 200;
const LOG: &str = "/log";

/// A writer's n-th record.
fn record(writer: u64, number: u64) -> Vec<u8> {
    let mut bytes = content::bytes((writer << 32) | number, RECORD as u64);
    bytes[..8].copy_from_slice(&writer.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Whose record it is, if it is whole.
fn whose(bytes: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (writer, n) = (number(0), number(8));
    (writer < WRITERS && n < 1 << 32 && record(writer, n) == bytes).then_some((writer, n))
}

/// Appends records until it is told to stop; where each came to lie.
async fn write_records(client: Client, writer: u64, stop: Arc<AtomicBool>, acked: Arc<AtomicU64>) -> Vec<u64> {
    let file = client.open_file(&fs_path(LOG)).await.unwrap();
    let mut offsets = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let appended = file.append(record(writer, offsets.len() as u64)).await;
        offsets.push(appended.unwrap_or_else(|error| panic!("{}", error.report())));
        acked.fetch_add(1, Ordering::Relaxed);
    }
    offsets
}

/// Reads what is new, again and again: what was seen once stays as it was.
async fn read_on(client: Client, stop: Arc<AtomicBool>) -> Vec<u8> {
    let mut seen: Vec<u8> = Vec::new();
    loop {
        let last = stop.load(Ordering::Relaxed);
        let reader = client.open(&fs_path(LOG)).await.unwrap();
        let length = reader.entry().length;
        assert!(length >= seen.len() as u64, "the file became shorter");
        assert_eq!(length % RECORD as u64, 0, "half a record is seen");
        let new = reader.read_at(seen.len() as u64, length - seen.len() as u64).await;
        seen.extend(new.unwrap_or_else(|error| panic!("{}", error.report())));
        if last {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The promise of an append: exactly once, whole, where the answer says, for good; also when the leader and a
/// chunkserver are killed meanwhile. A retry that runs twice, an ack before the bytes are on disks, an extent that is
/// seen before its entry is agreed on would break it.
#[test]
fn many_writers_append_while_servers_are_killed() {
    let mut cluster = Cluster::plan().chunkservers(4).start();
    let (stop, readers_stop, acked) = (Arc::default(), Arc::default(), Arc::default());
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let path = fs_path(LOG);
    let made = client.create_empty(&path, CreateOptions::default());
    cluster.runtime().block_on(made).unwrap();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = cluster.runtime().block_on(connect(&cluster.access()));
        let work = write_records(client, writer, Arc::clone(&stop), Arc::clone(&acked));
        writers.push(cluster.runtime().spawn(work));
    }
    let reading = cluster
        .runtime()
        .spawn(read_on(client.clone(), Arc::clone(&readers_stop)));
    let progress = |cluster: &Cluster| {
        let goal = acked.load(Ordering::Relaxed) + scaled(PROGRESS, 10 * PROGRESS);
        until("records are acknowledged", seconds(60), || {
            (acked.load(Ordering::Relaxed) >= goal).then_some(())
        });
        cluster.wait_leader()
    };
    let leader = progress(&cluster);
    cluster.kill(&leader);
    progress(&cluster);
    cluster.kill("c2");
    progress(&cluster);
    cluster.start(&leader);
    cluster.start("c2");
    progress(&cluster);
    stop.store(true, Ordering::Relaxed);
    let offsets: Vec<Vec<u64>> = writers
        .into_iter()
        .map(|task| cluster.runtime().block_on(task).unwrap())
        .collect();
    readers_stop.store(true, Ordering::Relaxed);
    let seen = cluster.runtime().block_on(reading).unwrap();

    let whole = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    assert!(whole == seen, "a reader saw something else than what is there");
    let mut found: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (number, bytes) in whole.chunks(RECORD).enumerate() {
        let offset = (number * RECORD) as u64;
        let (writer, n) = whose(bytes).unwrap_or_else(|| panic!("the record at {offset} is not whole"));
        assert_eq!(
            found.insert((writer, n), offset),
            None,
            "record {n} of writer {writer} is there twice"
        );
    }
    for (writer, offsets) in (0..).zip(&offsets) {
        for (n, offset) in (0..).zip(offsets) {
            assert_eq!(
                found.remove(&(writer, n)),
                Some(*offset),
                "record {n} of writer {writer}"
            );
        }
    }
    assert!(found.is_empty(), "records nobody was told of: {found:?}");
    cluster.wait_ready();
    cluster.assert_undamaged();
}

/// A client that is killed while it appends leaves a prefix of what it had, in whole chunks, and holds nobody up.
#[test]
fn a_killed_writer_leaves_a_prefix() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("source");
    content::file(&local, 7, 256 << 20);
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let options = CreateOptions {
        chunk_bytes: Some(1 << 20),
        ..CreateOptions::default()
    };
    cluster
        .runtime()
        .block_on(client.create_empty(&fs_path(LOG), options))
        .unwrap();
    let local_text = local.to_str().unwrap().to_owned();
    let mut writer = cluster.gabion().args(["append", local_text.as_str(), LOG]).start();
    let length = || cluster.stat(LOG).unwrap().length;
    until("some of it is there", seconds(30), || {
        (length() >= 4 << 20).then_some(())
    });
    writer.signal(Signal::KILL);
    writer.wait();
    cluster.gabion().args(["append", "-", LOG]).run_with(b"the end").ok();
    let whole = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    let (kept, end) = whole.split_at(whole.len() - 7);
    assert_eq!(end, b"the end");
    assert!(
        kept.len() < 256 << 20 && kept.len().is_multiple_of(1 << 20),
        "{} bytes were kept",
        kept.len()
    );
    assert!(
        kept == &content::bytes(7, 256 << 20)[..kept.len()],
        "what is there is no prefix"
    );
    cluster.assert_clean();
}

/// A file is what a sequence of changes makes of it, byte for byte, however it is read; and its tools say what they do
/// not know.
#[test]
fn a_file_is_what_was_made_of_it() {
    let cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let mut expected = content::bytes(1, 300 << 10);
    let path = fs_path("/f");
    cluster.runtime().block_on(async {
        put(&client, "/f", &expected, CreateOptions::default()).await.unwrap();
        let file = client.open_file(&path).await.unwrap();
        for (seed, offset, len) in [
            (2, 100 << 10, 50 << 10),
            (3, (100 << 10) + 7, 200 << 10),
            (4, 1 << 20, 5),
            (5, 0, 1),
            (6, (1 << 20) + 5, 3 << 20),
        ] {
            let new = content::bytes(seed, len as u64);
            file.write_at(offset as u64, new.clone()).await.unwrap();
            expected.resize(expected.len().max(offset + len), 0);
            expected[offset..offset + len].copy_from_slice(&new);
            assert!(
                get(&client, "/f").await.unwrap() == expected,
                "after {len} bytes at {offset}"
            );
        }
        for length in [2 << 20, 3 << 20, (200 << 10) + 3] {
            file.truncate(length as u64).await.unwrap();
            expected.resize(length, 0);
            assert!(get(&client, "/f").await.unwrap() == expected, "at {length} bytes");
        }
        let offset = file.append(&b"end"[..]).await.unwrap();
        assert_eq!(offset, expected.len() as u64);
        expected.extend(b"end");
    });
    let there = cluster.scratch("there");
    std::fs::write(&there, &expected).unwrap();
    let there = there.to_str().unwrap();
    let back = cluster.scratch("back");
    cluster
        .gabion()
        .args(["download", "/f", back.to_str().unwrap()])
        .run()
        .ok();
    assert!(std::fs::read(&back).unwrap() == expected, "downloaded");
    assert!(
        cluster.gabion().args(["cat", "/f"]).run().ok().stdout == expected,
        "written out"
    );
    let crc = format!("{:08x}", gabion_protocol::checksum::crc(&expected));
    let told = cluster.gabion().args(["checksum", "/f"]).run().ok().text();
    assert!(told.starts_with("unknown"), "{told}");
    let told = cluster.gabion().args(["checksum", "--deep", "/f"]).run().ok().text();
    assert!(told.starts_with(&crc), "{told}");
    cluster.verify().args(["tree", there, "/f"]).run().ok();
    cluster.verify().args(["tree", "--quick", there, "/f"]).run().ok();
    // Appending to a file whose checksum is known keeps it known.
    cluster.gabion().args(["upload", there, "/g"]).run().ok();
    cluster.gabion().args(["append", there, there, "/g"]).run().ok();
    cluster.gabion().args(["truncate", "2MiB", "/g"]).run().ok();
    let mut thrice = expected.repeat(3);
    thrice.resize(2 << 20, 0);
    let crc = format!("{:08x}", gabion_protocol::checksum::crc(&thrice));
    let told = cluster.gabion().args(["checksum", "--deep", "/g"]).run().ok().text();
    assert!(told.starts_with(&crc), "{told}");
    assert_eq!(cluster.stat("/g").unwrap().crc, u32::from_str_radix(&crc, 16).unwrap());
    cluster.gabion().args(["setrep", "2", "/g"]).run().ok();
    assert_eq!(cluster.stat("/g").unwrap().replicas, 2);
    cluster.assert_clean();
}

/// What `tail -f` prints is what comes to the file, in order, also when that begins anew or makes way for another.
#[test]
fn a_reader_follows() {
    let cluster = Cluster::plan().start();
    cluster.gabion().args(["upload", "-", LOG]).run_with(b"old\none\n").ok();
    let mut tail = cluster.gabion().args(["tail", "-n", "1", "-f", LOG]).start_piped();
    let mut out = tail.stdout.take().unwrap();
    let mut expect = |text: &str| {
        let mut bytes = vec![0; text.len()];
        out.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    };
    expect("one\n");
    cluster.gabion().args(["append", "-", LOG]).run_with(b"two\n").ok();
    expect("two\n");
    cluster.gabion().args(["truncate", "4", LOG]).run().ok();
    expect("old\n");
    cluster
        .gabion()
        .args(["upload", "-f", "-", LOG])
        .run_with(b"another\n")
        .ok();
    expect("another\n");
    tail.signal(Signal::INT);
    let ended = tail.wait();
    assert_eq!(ended.code(), 130);
    for said in ["became shorter", "was replaced"] {
        assert!(ended.stderr.contains(said), "{ended}");
    }
}

/// A writer that is alone keeps others out, and lets them in when it is done.
#[test]
fn a_lone_writer_keeps_others_out_until_it_is_done() {
    let cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster.runtime().block_on(async {
        let path = fs_path(LOG);
        client.create_empty(&path, CreateOptions::default()).await.unwrap();
        let other = client.open_file(&path).await.unwrap();
        let alone = client.open_exclusive(&path).await.unwrap();
        alone.append(&b"1"[..]).await.unwrap();
        let refused = other.append(&b"2"[..]).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Conflict);
        assert!(refused.report().contains("only writer"), "{}", refused.report());
        assert_eq!(
            client.open_exclusive(&path).await.unwrap_err().code(),
            ErrorCode::Conflict
        );
        drop(alone);
        let open = async {
            while other.append(&b"3"[..]).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        // Long before a lease would end by itself.
        tokio::time::timeout(seconds(5), open)
            .await
            .expect("a lease that is given back is over");
        assert_eq!(get(&client, LOG).await.unwrap(), b"13");
    });
}
