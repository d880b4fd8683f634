//! Start means recover (P4), and what was acknowledged is there (P1), after everything died at once.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::messages::master::Health;
use gabion_tests::cluster::Cluster;
use gabion_tests::load::Load;
use gabion_tests::{MIB, content, damage, scaled, seconds, until};
use std::io::Write as _;

/// P1 and P4: every process is killed at once in mid-upload, then all are started, in any order, without a hand's
/// help. All that was acknowledged is there with the right bytes; what was not is whole or absent. An ack of anything
/// that was only in memory would break it.
#[test]
fn everything_killed_at_once_comes_back_with_all_that_was_acked() {
    let mut cluster = Cluster::plan().start();
    for round in 0..scaled(2, 5) {
        let load = Load::start(&cluster, 4);
        load.await_progress(60, seconds(60));
        // A big upload is under way for certain: its input has not ended.
        let half = content::bytes(round, 8 * MIB);
        let name = format!("/half-{round}");
        let tool = cluster.gabion().args(["upload", "--chunk-size", "1MiB", "-", &name]);
        let before = damage::bytes_below(&cluster.node("c1").dir);
        let mut upload = tool.start_piped();
        upload.stdin.as_mut().unwrap().write_all(&half).unwrap();
        until("the upload reaches a disk", seconds(30), || {
            (damage::bytes_below(&cluster.node("c1").dir) > before + 2 * MIB).then_some(())
        });
        cluster.kill_all();
        assert!(upload.is_running(), "the upload was under way");
        drop(upload);
        cluster.start_all();
        cluster.wait_ready();
        // Operations that were in flight either went on after the restart or ended without an answer; none is lost.
        load.await_progress(20, seconds(90));
        let report = load.stop();
        report.assert_kept(&cluster);
        assert_eq!(
            cluster.stat(&name),
            None,
            "an upload whose input never ended is not there"
        );
        cluster.assert_undamaged();
        cluster.gabion().args(["rm", "-r", "/load"]).run().ok();
    }
}

/// A chunkserver killed in the middle of writes starts by itself, and every copy it acknowledged is good when re-read.
/// A seal acknowledged before its sync, or an index row before its data, would break it.
#[test]
fn a_chunkserver_killed_in_mid_write_keeps_what_it_acked() {
    let mut cluster = Cluster::plan().start();
    let load = Load::start(&cluster, 4);
    for round in 0..scaled(4, 12) {
        let victim = format!("c{}", 1 + round % 3);
        load.await_progress(20, seconds(60));
        cluster.kill(&victim);
        load.await_progress(10, seconds(60));
        cluster.start(&victim);
        cluster.wait_ready();
    }
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_undamaged();
}

/// A chunkserver that starts before, and stays up without, any master waits and serves when they come: there is no
/// order of starting. The cluster that comes up is the same one.
#[test]
fn there_is_no_order_of_starting() {
    let mut cluster = Cluster::plan().start();
    cluster.gabion().args(["upload", "-", "/f"]).run_with(b"kept").ok();
    cluster.kill_all();
    for name in ["c3", "c1", "m2"] {
        cluster.start(name);
    }
    until("m2 alone answers, and does not lead", seconds(20), || {
        let status = cluster.status_of("m2")?;
        (status.leader != Some(status.answered_by)).then_some(())
    });
    // Whoever led before is dead: nobody is sent there.
    let outcome = cluster.gabion().args(["--wait", "3s", "cat", "/f"]).run();
    let asked = ["m1", "m2", "m3"].map(|name| cluster.node(name).address.clone());
    let mut said = vec!["NO_QUORUM", "1 of 3 masters are up"];
    said.extend(asked.iter().map(String::as_str));
    let outcome = outcome.fails(5, &said);
    assert!(
        !outcome.stderr.contains("as the leader"),
        "it points to a leader that is dead: {outcome}"
    );
    cluster.start("m3");
    until("two masters and two chunkservers serve", seconds(20), || {
        let status = cluster.status_of(&cluster.leader()?)?;
        let alive = status
            .servers
            .iter()
            .filter(|server| server.health == Health::Alive)
            .count();
        (alive == 2).then_some(())
    });
    assert_eq!(cluster.gabion().args(["cat", "/f"]).run().ok().stdout, b"kept");
    cluster.start_all();
    cluster.wait_ready();
    cluster.assert_clean();
}
