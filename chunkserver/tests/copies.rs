//! Background copies: a server told to make one pulls it from another, and says so only when it is as good as any.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::{Duration, Instant};

use crate::common::cluster::{Node, TestCluster, ask, grant, read_chunk, spec, token, until, write_chunk};
use crate::common::{chunk, content, data_file};
use bytes::Bytes;
use gabion_protocol::checksum::block_crcs;
use gabion_protocol::messages::data::{FromServer, Request, Response};
use gabion_protocol::messages::master::{CopyOrder, Order, OrderDone};
use gabion_protocol::token::Mode;
use gabion_protocol::{Epoch, ErrorCode, MasterId, ReplicaNumber, ServerId};
use tokio_util::sync::CancellationToken;

const LARGE: usize = (5 << 20) + 12_345;

/// Writes a chunk to the nodes with these numbers.
async fn store(cluster: &TestCluster, counter: u64, bytes: &Bytes, numbers: &[u32]) {
    let address = |number: u32| cluster.nodes[number as usize - 1].address.clone();
    let chain: Vec<_> = numbers.iter().map(|number| (*number, address(*number))).collect();
    let connection = cluster.connect(numbers[0] as usize - 1).await;
    let spec = spec(counter, &chain);
    if bytes.len() <= 128 << 10 {
        let crcs = block_crcs(bytes);
        let put = ask(&connection, &Request::PutSmall { spec, crcs }, bytes.clone())
            .await
            .unwrap();
        assert!(matches!(put.0, Response::Sealed { .. }));
    } else {
        let sealed = write_chunk(&connection, spec, bytes).await;
        assert!(matches!(sealed, FromServer::Sealed { .. }), "{sealed:?}");
    }
}

fn order(cluster: &TestCluster, target: u32, orders: Vec<Order>) {
    cluster.master.script.lock().orders.insert(ServerId(target), orders);
}

fn copied(order: &CopyOrder) -> OrderDone {
    OrderDone::Copied {
        chunk: order.chunk,
        replica: order.replica,
        length: order.length,
        crc: order.crc,
    }
}

fn reports(cluster: &TestCluster) -> Vec<OrderDone> {
    cluster.master.script.lock().done.clone()
}

/// Large and small ones; ordered again and again, they are made once and can be read like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_once_and_is_as_good_as_its_source() {
    let cluster = TestCluster::start(2).await;
    let mut orders = Vec::new();
    for (counter, len) in [(1, LARGE), (2, 1000), (3, 128 << 10), (4, (128 << 10) + 1), (5, 1)] {
        let bytes = content(counter, len);
        store(&cluster, counter, &bytes, &[1]).await;
        orders.push((cluster.copy_order(counter, &bytes, 2, &[1]), bytes));
    }
    order(
        &cluster,
        2,
        orders.iter().map(|(order, _)| Order::Copy(order.clone())).collect(),
    );
    until("every copy is reported", || {
        orders
            .iter()
            .all(|(order, _)| reports(&cluster).contains(&copied(order)))
    })
    .await;
    let connection = cluster.connect(1).await;
    for (order, bytes) in &orders {
        let counter = order.chunk.counter;
        assert!(
            read_chunk(&connection, counter, 2).await.unwrap() == bytes[..],
            "chunk {counter}"
        );
        let verify = Request::Verify {
            token: token(order.chunk, 2, Mode::Read),
        };
        let (verdict, _) = ask(&connection, &verify, Bytes::new()).await.unwrap();
        assert!(matches!(
            verdict,
            Response::Verified(gabion_protocol::messages::data::Verdict::Good { .. })
        ));
    }
    assert_eq!(cluster.nodes[1].store.load().chunks, 5);
    assert!(
        reports(&cluster)
            .iter()
            .all(|done| matches!(done, OrderDone::Copied { .. }))
    );
}

/// Copies give way to clients, and come to their end although clients never rest.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_beside_clients_that_never_rest() {
    let cluster = TestCluster::start(2).await;
    let bytes = content(1, LARGE);
    let read = content(2, LARGE);
    store(&cluster, 1, &bytes, &[1]).await;
    store(&cluster, 2, &read, &[2]).await;
    let small = content(3, 1000);
    store(&cluster, 3, &small, &[1]).await;
    let connection = cluster.connect(1).await;
    let stop = CancellationToken::new();
    let reading = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut reads = 0;
            while !stop.is_cancelled() {
                assert!(read_chunk(&connection, 2, 2).await.unwrap() == read[..]);
                reads += 1;
            }
            reads
        })
    };
    let copies = [
        cluster.copy_order(1, &bytes, 2, &[1]),
        cluster.copy_order(3, &small, 2, &[1]),
    ];
    order(&cluster, 2, copies.iter().cloned().map(Order::Copy).collect());
    until("the copies are made", || {
        copies.iter().all(|copy| reports(&cluster).contains(&copied(copy)))
    })
    .await;
    stop.cancel();
    assert!(reading.await.unwrap() > 0);
    let connection = cluster.connect(1).await;
    assert!(read_chunk(&connection, 1, 2).await.unwrap() == bytes[..]);
    assert!(read_chunk(&connection, 3, 2).await.unwrap() == small[..]);
}

/// A server that has carried out all it was ordered does not wait for its next beat to say so and to hear more.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_carried_out_its_orders_asks_for_more_at_once() {
    const ROUNDS: u64 = 10;
    /// As `masters::beats` has it.
    const BEAT: Duration = Duration::from_millis(500);
    let cluster = TestCluster::start(2).await;
    let bytes = content(1, 1000);
    for counter in 1..=ROUNDS {
        store(&cluster, counter, &bytes, &[1]).await;
    }
    let copies: Vec<_> = (1..=ROUNDS)
        .map(|counter| cluster.copy_order(counter, &bytes, 2, &[1]))
        .collect();
    cluster.master.script.lock().copies_max = Some(1);
    let began = Instant::now();
    order(&cluster, 2, copies.iter().cloned().map(Order::Copy).collect());
    until("the copies are reported", || {
        copies.iter().all(|copy| reports(&cluster).contains(&copied(copy)))
    })
    .await;
    let took = began.elapsed();
    assert!(took < BEAT * (ROUNDS as u32 - 2), "{ROUNDS} rounds took {took:?}");
}

/// A copy comes and goes on a server again and again, each time with a new number, while answers that were long under way
/// repeat all that was ever ordered before, doubled and in any order: a copy that is wanted is never dropped by the order
/// for an earlier one, and one that was dropped is not made anew (P5).
#[tokio::test(flavor = "multi_thread")]
async fn late_orders_neither_drop_what_is_wanted_nor_bring_back_what_is_not() {
    const NUMBERS: u64 = 6;
    let cluster = TestCluster::start(2).await;
    let (large, small) = (content(1, LARGE), content(2, 1000));
    store(&cluster, 1, &large, &[1]).await;
    store(&cluster, 2, &small, &[1]).await;
    let there = async |copy: &CopyOrder| cluster.nodes[1].store.sealed(copy.chunk, copy.replica).await.unwrap();
    let answers = async |more: u64| {
        let before = cluster.master.script.lock().late_answers;
        until("late answers", || {
            cluster.master.script.lock().late_answers >= before + more
        })
        .await;
    };
    cluster.master.script.lock().random = 0x9e37_79b9;
    for number in 1..=NUMBERS {
        let copies = [(1, &large), (2, &small)].map(|(counter, bytes)| {
            let replica = ReplicaNumber(100 + number);
            let order = cluster.copy_order(counter, bytes, 2, &[1]);
            CopyOrder { replica, ..order }
        });
        order(&cluster, 2, copies.iter().cloned().map(Order::Copy).collect());
        until("the copies are reported", || {
            copies.iter().all(|copy| reports(&cluster).contains(&copied(copy)))
        })
        .await;
        order(&cluster, 2, Vec::new());
        if number > 1 {
            answers(2).await;
        }
        for copy in &copies {
            let expected = Some((copy.length, copy.crc));
            assert_eq!(
                there(copy).await,
                expected,
                "number {number} was dropped by an earlier order"
            );
        }
        let drops = copies.each_ref().map(|copy| {
            let (chunk, replica) = (copy.chunk, copy.replica);
            (Order::Drop { chunk, replica }, OrderDone::Dropped { chunk, replica })
        });
        order(&cluster, 2, drops.iter().map(|(order, _)| order.clone()).collect());
        until("the drops are reported", || {
            drops.iter().all(|(_, done)| reports(&cluster).contains(done))
        })
        .await;
        order(&cluster, 2, Vec::new());
        let late = drops.iter().map(|(order, _)| order.clone());
        let late = late.chain(copies.iter().cloned().map(Order::Copy));
        cluster.master.script.lock().late.extend(late);
        answers(2).await;
        for copy in &copies {
            assert_eq!(there(copy).await, None, "number {number} came back");
        }
    }
}

/// A bad source is passed over, found out by its own server, and nothing of it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_a_copy() {
    let cluster = TestCluster::start(3).await;
    let bytes = content(1, LARGE);
    store(&cluster, 1, &bytes, &[1, 2]).await;
    // A byte of the file of the first source, behind the back of its index.
    let path = data_file(&cluster.nodes[0].dir, 1);
    let mut stored = std::fs::read(&path).unwrap();
    stored[3 << 20] ^= 1;
    std::fs::write(&path, &stored).unwrap();
    let copy = cluster.copy_order(1, &bytes, 3, &[1, 2]);
    order(&cluster, 3, vec![Order::Copy(copy.clone())]);
    until("the copy is made from the good one", || {
        reports(&cluster).contains(&copied(&copy))
    })
    .await;
    let connection = cluster.connect(2).await;
    assert!(read_chunk(&connection, 1, 3).await.unwrap() == bytes[..]);
    let bad = grant(chunk(1), 1, Mode::Read).replica;
    until("the bad source is reported by its own server", || {
        cluster
            .master
            .script
            .lock()
            .damaged
            .iter()
            .any(|damage| damage.replica == bad)
    })
    .await;

    // The index of a source agrees with its file, and the masters know another chunk.
    let other = content(9, LARGE);
    store(&cluster, 2, &other, &[1]).await;
    let copy = cluster.copy_order(2, &bytes, 3, &[1]);
    order(&cluster, 3, vec![Order::Copy(copy.clone())]);
    until("the copy fails", || {
        reports(&cluster)
            .iter()
            .any(|done| matches!(done, OrderDone::CopyFailed { replica, .. } if *replica == copy.replica))
    })
    .await;
    until("the masters are told", || {
        let differs = |done: &OrderDone| {
            matches!(
                done,
                OrderDone::SourceDiffers {
                    server: ServerId(1),
                    ..
                }
            )
        };
        reports(&cluster).iter().any(differs)
    })
    .await;
    assert!(!reports(&cluster).contains(&copied(&copy)));
    let refused = read_chunk(&connection, 2, 3).await.unwrap_err();
    assert_ne!(refused.code, ErrorCode::Internal, "{refused}");
}

/// A server that cannot reach any source, or has no right to read there, says so; when it may, the copy is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_a_source_fails_and_may_be_ordered_again() {
    let mut cluster = TestCluster::start(3).await;
    let bytes = content(1, LARGE);
    store(&cluster, 1, &bytes, &[1, 2]).await;
    cluster.nodes[0].kill();
    let mut copy = cluster.copy_order(1, &bytes, 3, &[1, 2]);
    let good = copy.sources[1].token;
    copy.sources[1].token = token(chunk(2), 2, Mode::Read);
    order(&cluster, 3, vec![Order::Copy(copy.clone())]);
    let failed = |done: &OrderDone| matches!(done, OrderDone::CopyFailed { why, .. } if why.contains("c1") && why.contains("c2"));
    until("both sources are named", || reports(&cluster).iter().any(failed)).await;
    copy.sources[1].token = good;
    order(&cluster, 3, vec![Order::Copy(copy.clone())]);
    until("the copy is made", || reports(&cluster).contains(&copied(&copy))).await;
}

/// A crash in the middle leaves nothing that counts, and the order begins the copy anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_leaves_nothing_that_counts() {
    let mut cluster = TestCluster::start(2).await;
    let orders: Vec<_> = (1..=8).map(|counter| (counter, content(counter, 8 << 20))).collect();
    for (counter, bytes) in &orders {
        store(&cluster, *counter, bytes, &[1]).await;
    }
    let copies: Vec<_> = orders
        .iter()
        .map(|(counter, bytes)| cluster.copy_order(*counter, bytes, 2, &[1]))
        .collect();
    order(&cluster, 2, copies.iter().cloned().map(Order::Copy).collect());
    let dir = cluster.nodes[1].dir.clone();
    until("a copy is under way", || {
        (1..=8).any(|counter| data_file(&dir, counter).exists())
    })
    .await;
    let before = reports(&cluster).len();
    cluster.nodes[1].kill();
    assert!(before < copies.len(), "all was done before the crash: void");
    drop(cluster.nodes.remove(1));
    cluster.master.script.lock().done.clear();
    // What was on a disk thread when it died is done before the directory is free.
    let lock = std::fs::File::open(dir.join("lock")).unwrap();
    until("the directory is free", || lock.try_lock().is_ok()).await;
    drop(lock);
    let node = Node::start(2, dir, &cluster.master).await;
    cluster.nodes.push(node);
    until("every copy is made and reported", || {
        copies.iter().all(|copy| reports(&cluster).contains(&copied(copy)))
    })
    .await;
    let connection = cluster.connect(1).await;
    for (counter, bytes) in &orders {
        assert!(
            read_chunk(&connection, *counter, 2).await.unwrap() == bytes[..],
            "chunk {counter}"
        );
    }
}

/// A drop of the same copy ends it, whether it is under way or made; orders of an overruled leader are not obeyed.
#[tokio::test(flavor = "multi_thread")]
async fn a_drop_ends_a_copy_and_an_overruled_leader_orders_none() {
    let cluster = TestCluster::start(2).await;
    let bytes = content(1, 32 << 20);
    store(&cluster, 1, &bytes, &[1]).await;
    let copy = cluster.copy_order(1, &bytes, 2, &[1]);
    let (chunk, replica) = (copy.chunk, copy.replica);
    order(&cluster, 2, vec![Order::Copy(copy.clone())]);
    let path = data_file(&cluster.nodes[1].dir, 1);
    until("the copy is under way", || path.exists()).await;
    order(&cluster, 2, vec![Order::Drop { chunk, replica }]);
    let dropped = OrderDone::Dropped { chunk, replica };
    until("the copy is dropped", || reports(&cluster).contains(&dropped)).await;
    assert!(!path.exists());
    // The order that was late makes nothing any more.
    cluster.master.script.lock().done.clear();
    order(&cluster, 2, vec![Order::Copy(copy.clone())]);
    let beats = cluster.master.script.lock().beats;
    until("beats", || cluster.master.script.lock().beats > beats + 4).await;
    assert!(!path.exists() && !reports(&cluster).contains(&copied(&copy)));

    let second = content(2, LARGE);
    store(&cluster, 2, &second, &[1]).await;
    cluster.master.script.lock().epoch = Some(Epoch {
        term: 1,
        leader: MasterId(1),
    });
    let copy = cluster.copy_order(2, &second, 2, &[1]);
    order(&cluster, 2, vec![Order::Copy(copy.clone())]);
    let beats = cluster.master.script.lock().beats;
    until("beats", || cluster.master.script.lock().beats > beats + 6).await;
    assert!(
        !data_file(&cluster.nodes[1].dir, 2).exists(),
        "an overruled leader's order was obeyed"
    );
}
