//! Records of many writers at the end of one file: each there once, whole, where its writer was told, in one order for
//! all readers, whatever dies, hangs or loses its power meanwhile.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_client::{Client, CreateOptions};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::disk::SmallDisk;
use gabion_tests::load::{connect, get};
use gabion_tests::skip::skip;
use gabion_tests::{KIB, MIB, content, scaled, seconds, until};
use tokio::task::JoinHandle;

/// Clients with sessions and connections of their own, each with several writers.
const CLIENTS: u64 = 4;
const WRITERS: u64 = 16;
/// Bytes of what a record begins with: whose it is, and how long.
const HEAD: usize = 24;
/// Records that must be acknowledged between two faults.
const PROGRESS: u64 = 300;
/// The longest record.
const LARGEST: u64 = 4 * MIB;
const LOG: &str = "/log";

/// How long records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    /// 4 KiB each.
    Equal,
    /// One writer's are as short and as long as they may be, another's of all lengths.
    Mixed,
}

impl Lengths {
    fn of(self, writer: u64, number: u64) -> u64 {
        match (self, writer, number % 8) {
            (Self::Mixed, 0, 3) => LARGEST,
            // Too long to go with others.
            (Self::Mixed, 0, 7) => 128 * KIB + 1,
            (Self::Mixed, 0, _) => HEAD as u64,
            (Self::Mixed, 1, _) => HEAD as u64 + number * 977 % (100 * KIB),
            _ => 4 * KIB,
        }
    }

    /// A writer's n-th record.
    fn record(self, writer: u64, number: u64) -> Vec<u8> {
        let len = self.of(writer, number);
        let mut bytes = content::bytes((writer << 32) | number, len);
        for (at, word) in [writer, number, len].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Whose record these bytes begin with, which number it has and how long it says it is.
fn head(bytes: &[u8]) -> (u64, u64, usize) {
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
    (word(0), word(1), word(2) as usize)
}

/// The end of the records that begin at `at`, each of which must be there to its last byte.
fn end_of_records(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        assert!(bytes.len() - at >= HEAD, "half a head is seen at {at}");
        let (writer, number, len) = head(&bytes[at..]);
        assert!(
            len >= HEAD && len <= bytes.len() - at,
            "half of record {number} of writer {writer} is seen"
        );
        at += len;
    }
    at
}

/// Appends records until it is told to stop; where each came to lie.
async fn write_records(
    client: Client,
    (writer, lengths): (u64, Lengths),
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
) -> Vec<u64> {
    let file = client.open_file(&fs_path(LOG)).await.unwrap();
    let mut offsets = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let appended = file.append(lengths.record(writer, offsets.len() as u64)).await;
        offsets.push(appended.unwrap_or_else(|error| panic!("{}", error.report())));
        acked.fetch_add(1, Ordering::Relaxed);
    }
    offsets
}

/// Reads what is new, again and again: what was seen once stays as it was.
async fn read_on(client: Client, stop: Arc<AtomicBool>) -> Vec<u8> {
    let mut seen: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        let last = stop.load(Ordering::Relaxed);
        let reader = client.open(&fs_path(LOG)).await.unwrap();
        let length = reader.entry().length;
        assert!(length >= seen.len() as u64, "the file became shorter");
        let new = reader.read_at(seen.len() as u64, length - seen.len() as u64).await;
        seen.extend(new.unwrap_or_else(|error| panic!("{}", error.report())));
        at = end_of_records(&seen, at);
        if last {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Writers and readers of one file.
struct Load {
    client: Client,
    lengths: Lengths,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Vec<u64>>>,
    readers: Vec<JoinHandle<Vec<u8>>>,
}

impl Load {
    fn start(cluster: &Cluster, lengths: Lengths) -> Self {
        let runtime = cluster.runtime();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| runtime.block_on(connect(&cluster.access())))
            .collect();
        let path = fs_path(LOG);
        let made = clients[0].create_empty(&path, CreateOptions::default());
        runtime.block_on(made).unwrap();
        let (stop, stop_reading, acked) = (Arc::default(), Arc::default(), Arc::default());
        let of = |number: u64| clients[(number % CLIENTS) as usize].clone();
        let write = |writer| {
            let (stop, acked) = (Arc::clone(&stop), Arc::clone(&acked));
            runtime.spawn(write_records(of(writer), (writer, lengths), stop, acked))
        };
        let read = |reader| runtime.spawn(read_on(of(reader), Arc::clone(&stop_reading)));
        Self {
            writers: (0..WRITERS).map(write).collect(),
            readers: (0..2).map(read).collect(),
            client: clients[0].clone(),
            lengths,
            acked,
            stop,
            stop_reading,
        }
    }

    /// Waits until some more records are acknowledged: work goes on.
    fn progress(&self) {
        let goal = self.acked.load(Ordering::Relaxed) + scaled(PROGRESS, 10 * PROGRESS);
        until("records are acknowledged", seconds(60), || {
            let failed = self.writers.iter().find(|writer| writer.is_finished());
            assert!(failed.is_none(), "a writer has ended");
            (self.acked.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// The first server of the chain that the newest record went down.
    fn head(&self, cluster: &Cluster) -> String {
        let located = cluster.runtime().block_on(self.client.locate(&fs_path(LOG)));
        let (_, extents) = located.unwrap();
        cluster.name_of(extents.last().unwrap().replicas[0].server)
    }

    /// Ends it and compares what was told with what is there.
    fn judge(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        let runtime = cluster.runtime();
        let offsets: Vec<_> = self
            .writers
            .into_iter()
            .map(|writer| runtime.block_on(writer).unwrap())
            .collect();
        self.stop_reading.store(true, Ordering::Relaxed);
        let whole = runtime.block_on(get(&self.client, LOG)).unwrap();
        for reader in self.readers {
            let seen = runtime.block_on(reader).unwrap();
            assert!(whole == seen, "a reader saw something else than what is there");
        }
        let mut found: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let (mut at, mut longest) = (0, 0);
        while at < whole.len() {
            let (writer, n, len) = head(&whole[at..]);
            let is_whole = writer < WRITERS && n < 1 << 32 && whole[at..].starts_with(&self.lengths.record(writer, n));
            assert!(is_whole, "the record at {at} is not whole");
            let offset = at as u64;
            (at, longest) = (at + len, longest.max(len as u64));
            let before = found.insert((writer, n), offset);
            assert_eq!(before, None, "record {n} of writer {writer} is there twice");
        }
        for (writer, offsets) in (0..).zip(&offsets) {
            for (n, offset) in (0..).zip(offsets) {
                let there = found.remove(&(writer, n));
                assert_eq!(there, Some(*offset), "record {n} of writer {writer}");
            }
        }
        assert!(found.is_empty(), "records nobody was told of: {found:?}");
        let expected = if self.lengths == Lengths::Mixed {
            LARGEST
        } else {
            4 * KIB
        };
        assert_eq!(longest, expected, "no long record was written: void");
        let (_, extents) = runtime.block_on(self.client.locate(&fs_path(LOG))).unwrap();
        let count: usize = offsets.iter().map(Vec::len).sum();
        eprintln!("{count} records in {} pieces", extents.len());
    }
}

/// The promise of an append: exactly once, whole, where the answer says, for good; while three heads of chains are killed,
/// three are stopped and three leaders are killed. Records are of 24 bytes to 4 MiB. A retry that runs twice, an ack before the bytes are on disks, an
/// extent that is seen before its entry is agreed on, a group that is told apart wrongly would break it.
#[test]
fn every_record_is_there_once_while_servers_fail() {
    let mut cluster = Cluster::plan().chunkservers(4).start();
    let load = Load::start(&cluster, Lengths::Mixed);
    load.progress();
    for _ in 0..3 {
        let leader = cluster.wait_leader();
        cluster.kill(&leader);
        load.progress();
        cluster.start(&leader);
        cluster.wait_ready();

        let head = load.head(&cluster);
        cluster.kill(&head);
        load.progress();
        cluster.start(&head);
        cluster.wait_ready();

        let head = load.head(&cluster);
        cluster.pause(&head);
        load.progress();
        cluster.resume(&head);
        cluster.wait_ready();
    }
    load.progress();
    load.judge(&cluster);
    cluster.assert_undamaged();
}

/// The power of every disk goes while records are written: what was not synced is gone, what was acknowledged is not. Who
/// still waited for an answer goes on when the servers are back.
#[test]
fn a_power_cut_takes_no_acknowledged_record() {
    let mut disks = BTreeMap::new();
    for name in ["m1", "m2", "m3", "c1", "c2", "c3"] {
        match SmallDisk::new(512 * MIB) {
            Ok(disk) => drop(disks.insert(name, disk)),
            Err(why) => return skip("a_power_cut_takes_no_acknowledged_record", &why),
        }
    }
    if let Some(why) = SmallDisk::cannot_cut_power() {
        return skip("a_power_cut_takes_no_acknowledged_record", &why);
    }
    let plan = disks.iter().fold(Cluster::plan(), |plan, (name, disk)| {
        plan.dir(name, &disk.path().join("data"))
    });
    let mut cluster = plan.start();
    let load = Load::start(&cluster, Lengths::Equal);
    load.progress();
    for _ in 0..scaled(2, 6) {
        // What processes had written without a sync is in the kernel's memory still, and goes with the power.
        cluster.kill_all();
        disks.values().for_each(SmallDisk::cut_power);
        disks.values().for_each(SmallDisk::remount);
        cluster.start_all();
        cluster.wait_ready();
        load.progress();
    }
    load.judge(&cluster);
    cluster.assert_undamaged();
}
