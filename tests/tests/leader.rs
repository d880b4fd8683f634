//! The leader dies, hangs, or is cut off while work goes on, and nobody notices (P3, P4).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::Instant;

use gabion_protocol::ErrorCode;
use gabion_protocol::frame::Kind;
use gabion_protocol::messages::master::{Freshness, Query, Request, Response};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::Load;
use gabion_tests::network::Network;
use gabion_tests::skip::skip;
use gabion_tests::{scaled, seconds, until};

/// Clients of the background load.
const WORKERS: usize = 4;
/// Operations that must succeed between two faults, and during each.
const PROGRESS: u64 = 20;

/// P3: the leader is killed with SIGKILL while uploads, listings, reads, renames and removals run; each killed master
/// is restarted. No operation fails, every acknowledged file is whole, masters and replicas are clean. An ack before a
/// majority has synced, a retry that runs twice or a leader that serves stale reads would break it.
#[test]
fn a_killed_leader_is_not_noticed() {
    let mut cluster = Cluster::plan().start();
    let load = Load::start(&cluster, WORKERS);
    for round in 0..scaled(3, 10) {
        load.await_progress(PROGRESS, seconds(60));
        let leader = cluster.wait_leader();
        let term = cluster.status().term;
        let killed = Instant::now();
        cluster.kill(&leader);
        let next = cluster.wait_leader_other_than(&leader);
        eprintln!(
            "round {round}: {leader} killed, {next} leads after {:?}",
            killed.elapsed()
        );
        assert!(cluster.status().term > term, "an election took place");
        // With one master down: this is the fault's duration.
        load.await_progress(PROGRESS, seconds(60));
        cluster.start(&leader);
        cluster.wait_ready();
    }
    load.await_progress(PROGRESS, seconds(60));
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}

/// A graceful stop hands leadership over first: the stop of the leader costs less than an election's wait, and every
/// master can be stopped and started in turn under load.
#[test]
fn every_master_can_be_restarted_in_turn() {
    let mut cluster = Cluster::plan().start();
    let load = Load::start(&cluster, WORKERS);
    let mut names = cluster.masters();
    // The leader too, and first.
    let leader = cluster.wait_leader();
    names.sort_by_key(|name| *name != leader);
    for name in names {
        load.await_progress(PROGRESS, seconds(60));
        cluster.stop(&name);
        load.await_progress(PROGRESS, seconds(60));
        cluster.start(&name);
        cluster.wait_ready();
    }
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}

/// P3 with a leader that hangs: SIGSTOP for five seconds, then SIGCONT. Others lead meanwhile, and no operation fails.
/// When it wakes up it finds questions in its sockets that were asked while it slept: it must not answer them from
/// its old state, because a directory made meanwhile would be missing. A lease judged by anything but elapsed time would
/// break it.
#[test]
fn a_leader_that_slept_does_not_answer_as_leader() {
    let mut cluster = Cluster::plan().start();
    let load = Load::start(&cluster, WORKERS);
    load.await_progress(PROGRESS, seconds(60));
    let old = cluster.wait_leader();
    let waiting = cluster.dial(&old, seconds(2)).unwrap();
    let began = Instant::now();
    cluster.pause(&old);
    let next = cluster.wait_leader_other_than(&old);
    load.await_progress(PROGRESS, seconds(60));
    cluster.gabion().args(["mkdir", "/made-while-it-slept"]).run().ok();

    // Asked while it sleeps: the requests lie in its socket when it wakes up, before any Raft message.
    let question = Request::Query {
        query: Query::Stat {
            path: fs_path("/made-while-it-slept"),
        },
        freshness: Freshness::Linearizable,
    };
    let ask = |cluster: &Cluster| {
        let (connection, question) = (waiting.clone(), question.clone());
        cluster.runtime().spawn(async move {
            let none = bytes::Bytes::new();
            connection
                .call::<_, Response>(Kind::MasterRequest, &question, none, seconds(20))
                .await
                .map(|(answer, _)| answer)
        })
    };
    let mut asked: Vec<_> = (0..50).map(|_| ask(&cluster)).collect();
    until("five seconds of sleep are over", seconds(6), || {
        (began.elapsed() >= seconds(5)).then_some(())
    });
    cluster.resume(&old);
    asked.extend((0..50).map(|_| ask(&cluster)));
    let (mut refused, mut answered) = (0, 0);
    for question in asked {
        match cluster.runtime().block_on(question).unwrap() {
            Ok(Response::Entry(_)) => answered += 1,
            Ok(other) => panic!("{old} answered {other:?}"),
            Err(error) if error.code == ErrorCode::NotFound => {
                panic!("{old} slept, lost its leadership to {next}, and served its old state: {error}")
            }
            // Not the leader, no leader, the connection dropped: all honest.
            Err(_) => refused += 1,
        }
    }
    eprintln!("{old} woke up: {refused} questions refused, {answered} answered with the new state");
    cluster.wait_ready();
    load.await_progress(PROGRESS, seconds(60));
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}

/// P3 with a leader whose packets vanish in both directions without a word, so that connections to it stay open and
/// silent. Others lead, no operation fails, and after the network heals it follows. A client or chunkserver that waits
/// for TCP to notice (minutes) would break it.
#[test]
fn a_leader_that_is_cut_off_silently_is_not_noticed() {
    if let Some(why) = Network::missing() {
        skip("a_leader_that_is_cut_off_silently_is_not_noticed", &why);
        return;
    }
    let mut cluster = Cluster::plan().namespaces().start();
    let load = Load::start(&cluster, WORKERS);
    for _ in 0..scaled(2, 5) {
        load.await_progress(PROGRESS, seconds(60));
        let old = cluster.wait_leader();
        let cut = Instant::now();
        cluster.network().cut(&old, &cluster.node(&old).address);
        let next = cluster.wait_leader_other_than(&old);
        load.await_progress(PROGRESS, seconds(60));
        eprintln!("{old} cut off, {next} leads, work went on after {:?}", cut.elapsed());
        cluster.network().join(&old);
        cluster.wait_ready();
    }
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}
