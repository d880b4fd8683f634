//! Scrub on a running server: every damaged copy is found, none of the good ones; reported copies are read again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::common::cluster::{Node, TestCluster, until};
use crate::common::{chunk, content, data_file, new_chunk, put_small, read, write};
use gabion_protocol::checksum::crc;
use gabion_protocol::messages::master::{ChunkInfo, ChunkState, Order, OrderDone, ReplicaState, ScrubProgress};
use gabion_protocol::{Generation, ReplicaNumber, ServerId};

const LARGE: usize = 2_500_000;
const SMALL: usize = 40_000;

/// Chunks with even numbers are large ones.
fn bytes(number: u64) -> bytes::Bytes {
    content(number, if number.is_multiple_of(2) { LARGE } else { SMALL })
}

fn replica(number: u64) -> ReplicaNumber {
    new_chunk(number).replica
}

/// Stores the chunk, and has the master know it.
async fn store(cluster: &TestCluster, number: u64) {
    let (node, bytes) = (&cluster.nodes[0], bytes(number));
    if number.is_multiple_of(2) {
        write(&node.store, new_chunk(number), &bytes).await.unwrap();
    } else {
        put_small(&node.store, new_chunk(number), &bytes).await.unwrap();
    }
    agree(cluster, number, crc(&bytes));
}

/// What the master says of a chunk.
fn agree(cluster: &TestCluster, number: u64, crc: u32) {
    let row = ChunkInfo {
        chunk: chunk(number),
        state: ChunkState::Sealed,
        generation: Generation(1),
        length: bytes(number).len() as u64,
        crc,
        references: 1,
        wanted: 1,
        replicas: vec![(ServerId(1), replica(number), ReplicaState::Live)],
    };
    cluster.master.script.lock().rows.insert(chunk(number), row);
}

fn flip(node: &Node, number: u64, at: u64) {
    let file = std::fs::File::options()
        .write(true)
        .open(data_file(&node.dir, number))
        .unwrap();
    let wrong = [!bytes(number)[at as usize]];
    std::os::unix::fs::FileExt::write_all_at(&file, &wrong, at).unwrap();
}

fn reported(cluster: &TestCluster) -> BTreeSet<u64> {
    let script = cluster.master.script.lock();
    script.damaged.iter().map(|damage| damage.chunk.counter).collect()
}

/// Asks for a pass and waits for its end.
async fn pass(cluster: &TestCluster, request: u64) -> ScrubProgress {
    let script = &cluster.master.script;
    let before = script.lock().scrubs.get(&ServerId(1)).and_then(|(_, told)| told.last);
    script.lock().scrub = Some(request);
    let told = || script.lock().scrubs.get(&ServerId(1)).copied();
    until("the pass is over", || {
        told().is_some_and(|(obeyed, told)| obeyed == request && !told.asked && told.last != before)
    })
    .await;
    told().unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asked_pass_finds_every_damaged_copy_and_no_other() {
    let cluster = TestCluster::start(1).await;
    let node = &cluster.nodes[0];
    for number in 0..12 {
        store(&cluster, number).await;
    }
    flip(node, 2, 1_700_000);
    let cut = std::fs::File::options()
        .write(true)
        .open(data_file(&node.dir, 4))
        .unwrap();
    cut.set_len(LARGE as u64 - 1).unwrap();
    std::fs::remove_file(data_file(&node.dir, 6)).unwrap();
    // Old files with an old index: they are sound in themselves.
    agree(&cluster, 8, 1);
    agree(&cluster, 3, 1);
    // The masters know nothing of it: no reason to doubt it.
    cluster.master.script.lock().rows.remove(&chunk(5));
    let bad = BTreeSet::from([2, 3, 4, 6, 8]);

    let told = pass(&cluster, 9).await;
    let last = told.last.unwrap();
    assert_eq!((last.chunks, last.damaged), (12, bad.len() as u64), "{told:?}");
    assert_eq!(last.bytes, (6 * LARGE + 6 * SMALL) as u64);
    until("the damage is reported", || reported(&cluster) == bad).await;
    for number in 0..12 {
        let got = read(&node.store, new_chunk(number)).await;
        assert_eq!(got.is_err(), bad.contains(&number), "chunk {number}: {got:?}");
    }
    assert!(
        data_file(&node.dir, 2).exists() && data_file(&node.dir, 8).exists(),
        "they are kept"
    );
    let asked: BTreeSet<_> = cluster.master.script.lock().asked.iter().copied().collect();
    assert!(asked.contains(&chunk(0)) && !asked.contains(&chunk(2)));

    // The next pass reads what is left, and tells of what was set aside once more.
    cluster.master.script.lock().damaged.clear();
    let last = pass(&cluster, 10).await.last.unwrap();
    assert_eq!((last.chunks, last.damaged), (12 - bad.len() as u64, 0));
    until("the damage is reported again", || reported(&cluster) == bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_copies_are_read_again_and_answered() {
    let cluster = TestCluster::start(1).await;
    for number in 0..5 {
        store(&cluster, number).await;
    }
    flip(&cluster.nodes[0], 2, 5);
    // Whoever reported it compared it with the masters' checksum.
    agree(&cluster, 1, 7);
    let order = |number, replica| Order::Verify {
        chunk: chunk(number),
        replica,
    };
    let orders = vec![
        order(0, replica(0)),
        order(1, replica(1)),
        order(2, replica(2)),
        order(3, ReplicaNumber(77)),
        order(99, replica(99)),
    ];
    let script = &cluster.master.script;
    script.lock().orders.insert(ServerId(1), orders);
    let intact = |number, replica| OrderDone::Intact {
        chunk: chunk(number),
        replica,
    };
    until("the good copy is vouched for", || {
        script.lock().done.contains(&intact(0, replica(0)))
    })
    .await;
    let bad = BTreeSet::from([1, 2, 3, 99]);
    until("the others are reported", || reported(&cluster) == bad).await;
    let done = script.lock().done.clone();
    assert!(done.iter().all(|done| *done == intact(0, replica(0))), "{done:?}");
    let good = read(&cluster.nodes[0].store, new_chunk(3)).await.unwrap();
    assert_eq!(good, bytes(3), "another copy of the chunk was not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_again_does_not_begin_the_same_pass_again() {
    let mut cluster = TestCluster::start(1).await;
    for number in 0..4 {
        store(&cluster, number).await;
    }
    let first = pass(&cluster, 9).await.last.unwrap();
    let node = cluster.nodes.remove(0);
    let dir = node.dir.clone();
    node.stop().await.unwrap();
    let script = &cluster.master.script;
    script.lock().scrubs.clear();
    cluster.nodes.push(Node::start(1, dir, &cluster.master).await);
    let told = || script.lock().scrubs.get(&ServerId(1)).copied();
    until("the scrub goes on", || {
        told().is_some_and(|(_, told)| told.started.is_some())
    })
    .await;
    let (obeyed, told) = told().unwrap();
    assert_eq!((obeyed, told.asked, told.last), (9, false, Some(first)));
}
