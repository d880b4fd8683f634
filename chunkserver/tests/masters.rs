//! Which masters a chunkserver registers with and beats on: those of its configuration, those that were added since, and
//! those that others name.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::Duration;

use crate::common::cluster::{FakeMaster, Node, TestCluster, until};
use gabion_protocol::ids::MasterId;
use gabion_protocol::{Epoch, ServerId};

/// The master of the configuration dies after a new one was added: the new one must be warm before, and the server
/// must obey it afterwards, or nothing could be written until somebody edits every chunkserver's configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_added_later_is_beaten_on_and_obeyed() {
    let cluster = TestCluster::start(1).await;
    let (old, new) = (&cluster.master, FakeMaster::start().await);
    new.script.lock().epoch = None;
    old.script.lock().masters = vec![old.address.clone(), new.address.clone()];
    until("the new master hears beats", || new.script.lock().beats > 2).await;

    // It leads now. What it says of the masters counts alone, also where the configuration says more.
    let epoch = Epoch {
        term: 6,
        leader: MasterId(2),
    };
    new.script.lock().epoch = Some(epoch);
    new.script.lock().masters = vec![new.address.clone()];
    old.script.lock().epoch = None;
    let node = &cluster.nodes[0];
    let before = new.script.lock().beats;
    until("the new leader is beaten on", || new.script.lock().beats > before + 2).await;
    assert_eq!(
        node.store.epoch().await.unwrap(),
        epoch,
        "obeyed, and remembered on disk"
    );
    let access = node.masters.access(ServerId(1)).await.unwrap();
    assert_eq!(access.server, ServerId(1));
}

/// A master that was removed is dialled no more, unless the configuration names it; a follower's list, which may be
/// old, removes nobody.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_leader_can_say_that_a_master_is_gone() {
    let cluster = TestCluster::start(1).await;
    let (old, new) = (&cluster.master, FakeMaster::start().await);
    new.script.lock().epoch = None;
    new.script.lock().masters = vec!["[::1]:9".to_owned()];
    old.script.lock().masters = vec![new.address.clone()];
    let beats_on = |master: &FakeMaster, more: u64| {
        let (script, before) = (master.script.clone(), master.script.lock().beats);
        async move { until("beats", || script.lock().beats > before + more).await }
    };
    beats_on(&new, 3).await;
    beats_on(old, 3).await;

    // A follower that knows nobody: both stay.
    old.script.lock().epoch = None;
    old.script.lock().masters = Vec::new();
    beats_on(old, 3).await;
    beats_on(&new, 3).await;

    // The leader says that it is alone.
    old.script.lock().epoch = Some(Epoch {
        term: 7,
        leader: MasterId(1),
    });
    beats_on(old, 2).await;
    let before = new.script.lock().beats;
    beats_on(old, 6).await;
    assert!(
        new.script.lock().beats <= before + 1,
        "one beat may have been under way"
    );
}

/// A server goes where it is sent, once: the master that sent it is not asked again. Masters that send it to each other,
/// as after an election of which one has not heard yet, are asked with rests, and not as often as the network allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_registers_where_it_is_sent_and_rests_when_it_is_sent_around() {
    let (old, new) = (FakeMaster::start().await, FakeMaster::start().await);
    let registrations = || old.script.lock().registrations + new.script.lock().registrations;
    old.script.lock().leader = Some(new.address.clone());
    let dir = tempfile::tempdir().unwrap();
    let first = Node::start(1, dir.path().join("c1"), &old).await;
    assert_eq!(registrations(), 2, "one master was asked and one registered it");
    drop(first);

    new.script.lock().leader = Some(old.address.clone());
    let (dir, master) = (dir.path().join("c2"), old.clone());
    let starting = tokio::spawn(async move { Node::start(2, dir, &master).await });
    until("it is sent around", || registrations() > 4).await;
    let before = registrations();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = registrations() - before;
    assert!(asked <= 20, "{asked} questions a second");
    new.script.lock().leader = None;
    starting.await.unwrap();
}
