//! What a running server tells of its copies: digests of all of them in time, lists where a leader asks, and how often it
//! refused an overruled leader.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::{Duration, Instant};

use crate::common::cluster::{TestCluster, until};
use crate::common::{chunk, content, new_chunk, put_small};
use gabion_protocol::ids::MasterId;
use gabion_protocol::inventory::{Bucket, Digests};
use gabion_protocol::messages::master::{BucketAsk, Order};
use gabion_protocol::{Epoch, ServerId};

fn epoch(term: u64) -> Option<Epoch> {
    let leader = MasterId(1);
    Some(Epoch { term, leader })
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_of_all_copies_go_by_in_ten_seconds_and_a_bucket_is_listed_when_asked() {
    let cluster = TestCluster::start(1).await;
    let (node, script) = (&cluster.nodes[0], &cluster.master.script);
    let mut digests = Digests::default();
    for number in [1, 2, 5000, 70_000] {
        put_small(&node.store, new_chunk(number), &content(number, 500))
            .await
            .unwrap();
        digests.add(chunk(number), new_chunk(number).replica);
    }
    let began = Instant::now();
    script.lock().inventories.clear();
    let told = || {
        let script = script.lock();
        let mut told = vec![None; usize::from(gabion_protocol::inventory::BUCKETS)];
        for report in &script.inventories {
            for (at, digest) in (usize::from(report.first)..).zip(&report.digests) {
                told[at] = Some(u64::from_be_bytes(*digest));
            }
        }
        told.into_iter().collect::<Option<Vec<_>>>()
    };
    until("every bucket was told", || told().is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let expected: Vec<_> = Bucket::all().map(|bucket| digests.of(bucket)).collect();
    assert_eq!(told().unwrap(), expected);
    let ask = BucketAsk {
        bucket: Bucket::of(chunk(1)).number(),
        after: Some(chunk(1)),
        number: 77,
    };
    script.lock().list = Some(ask);
    until("the bucket is listed", || !script.lock().pages.is_empty()).await;
    let page = script.lock().pages[0].clone();
    assert_eq!(page.ask, ask);
    assert_eq!(
        (page.copies, page.more),
        (vec![(chunk(2), new_chunk(2).replica)], false)
    );
    assert!(page.quiet_ms > 100, "nothing has changed since");
    let last = script.lock().inventories.last().cloned().unwrap();
    assert_eq!(
        (last.copies, last.highest, last.complete),
        (4, Some(chunk(70_000)), true)
    );
}

/// An overruled leader's orders are refused, and that is told to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_an_overruled_leader_are_refused_and_counted() {
    let cluster = TestCluster::start(1).await;
    let (node, script) = (&cluster.nodes[0], &cluster.master.script);
    put_small(&node.store, new_chunk(1), &content(1, 500)).await.unwrap();
    let beats = {
        let mut told = script.lock();
        told.epoch = epoch(100);
        told.beats
    };
    until("the new leader was heard", || script.lock().beats > beats + 3).await;
    let refused = || script.lock().inventories.last().map(|report| report.refused);
    until("it is obeyed", || refused() == Some(0)).await;
    let drop = Order::Drop {
        chunk: chunk(1),
        replica: new_chunk(1).replica,
    };
    let beats = {
        let mut told = script.lock();
        told.epoch = epoch(99);
        told.orders.insert(ServerId(1), vec![drop]);
        told.beats
    };
    until("some beats are answered", || script.lock().beats > beats + 3).await;
    assert_eq!(node.store.load().chunks, 1, "nothing was dropped");
    script.lock().orders.clear();
    script.lock().epoch = epoch(100);
    until("it is counted", || refused().is_some_and(|refused| refused >= 2)).await;
}
