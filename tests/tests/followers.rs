//! Masters that fell behind or lost their memory.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::messages::master::Status;
use gabion_tests::cluster::Cluster;
use gabion_tests::load::Load;
use gabion_tests::{seconds, until};

/// Snapshots soon, and a log kept so short that a follower must fall off it.
const SHORT_LOG: &str = "[raft]\nsnapshot_every = 200\nkeep_log = 20\n";

/// Index up to which the leader's log is certainly gone: its newest snapshot less what it keeps.
fn purged(status: &Status) -> u64 {
    status.snapshot.unwrap_or(0).saturating_sub(20)
}

/// A follower that was down until the log it needs is gone gets a snapshot and catches up while writes go on; its
/// state then has the same hash. A snapshot that is not one moment's, or an install that loses what came meanwhile,
/// would break it.
#[test]
fn a_follower_catches_up_by_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::plan().master_tables(SHORT_LOG).start();
    let load = Load::start(&cluster, 4);
    load.await_progress(30, seconds(60));
    let follower = cluster.follower();
    let had = cluster.status_of(&follower).unwrap().last_log;
    cluster.kill(&follower);
    until(
        "the leader's log no longer reaches back to what the follower has",
        seconds(120),
        || {
            let status = cluster.status_of(&cluster.leader()?)?;
            (purged(&status) > had + 1).then_some(())
        },
    );
    load.await_progress(10, seconds(60));
    cluster.start(&follower);
    until("the follower has a snapshot newer than its log", seconds(60), || {
        (cluster.status_of(&follower)?.applied > had + 200).then_some(())
    });
    load.await_progress(30, seconds(60));
    cluster.wait_ready();
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();

    // It can lead with what it got.
    let leader = cluster.wait_leader();
    let number = follower.trim_start_matches('m');
    cluster
        .operator()
        .args(["admin", "raft", "transfer-leader", "--to", number])
        .run()
        .ok();
    until(&format!("{follower} leads instead of {leader}"), seconds(15), || {
        (cluster.leader()? == follower).then_some(())
    });
    cluster
        .gabion()
        .args(["mkdir", "/made-by-the-former-follower"])
        .run()
        .ok();
    cluster.assert_clean();
}

/// A master whose directory was deleted has forgotten its votes: it could help elect a leader that lacks acknowledged
/// entries. It is refused under its old id, says why and what to do, and the documented command lets it join under a
/// new id; the old one is gone then. Nothing is lost, and the cluster survives the loss of another master afterwards.
#[test]
fn an_emptied_master_is_refused_and_joins_under_a_new_id() {
    let mut cluster = Cluster::plan().start();
    let load = Load::start(&cluster, 2);
    load.await_progress(20, seconds(60));
    let victim = cluster.follower();
    cluster.kill(&victim);
    std::fs::remove_dir_all(&cluster.node(&victim).dir).unwrap();
    cluster.start(&victim);
    let refused = |log: &str| {
        let log = log.to_lowercase();
        log.contains("stale_directory") || log.contains("emptied") || log.contains("new id")
    };
    until(
        "somebody says that the emptied master may not come back",
        seconds(30),
        || {
            let logs = cluster
                .masters()
                .into_iter()
                .map(|name| cluster.node(&name).process().log());
            logs.into_iter().any(|log| refused(&log)).then_some(())
        },
    );
    // It counts for nothing: it does not vote, does not follow, does not lead.
    let status = cluster.status();
    assert_ne!(format!("m{}", status.leader.unwrap().0), victim);
    load.await_progress(20, seconds(60));
    let held = cluster.status_of(&victim).map_or(0, |seen| seen.applied);
    assert_eq!(held, 0, "an emptied master must not be given state under its old id");
    // It ends by itself, or waits for a person; either way it is stopped now.
    if cluster.ended(&victim) {
        let _ = cluster.wait_ended(&victim, seconds(1));
    } else {
        cluster.kill(&victim);
    }

    let new = cluster.prepare_joining_master();
    cluster.start(&new);
    let number = new.trim_start_matches('m').to_owned();
    let replaces = victim.trim_start_matches('m').to_owned();
    let add = |apply: bool| {
        let node = cluster.node(&new);
        let tool = cluster
            .operator()
            .args(["admin", "raft", "add", &number, "--replaces", &replaces])
            .args([
                "--raft",
                node.raft_address.as_deref().unwrap(),
                "--client",
                &node.address,
            ]);
        if apply { tool.arg("--apply") } else { tool }
    };
    add(false).run().ok();
    assert_eq!(cluster.status().masters.len(), 3, "a plan changes nothing");
    add(true).deadline(seconds(60)).run().ok();
    until("the new master votes and the old one is gone", seconds(30), || {
        let masters = cluster.status_of(&cluster.leader()?)?.masters;
        let mut voters: Vec<_> = masters
            .iter()
            .filter(|m| m.voter)
            .map(|m| format!("m{}", m.id))
            .collect();
        voters.sort();
        (voters.len() == 3 && voters.contains(&new) && !voters.contains(&victim)).then_some(())
    });
    load.await_progress(20, seconds(60));
    // The leader dies: the new master's vote is then needed for every write, and it may have to lead, which the
    // configuration of no chunkserver says.
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    load.await_progress(20, seconds(60));
    cluster.start(&leader);
    if cluster.wait_leader() != new {
        let transfer = ["admin", "raft", "transfer-leader", "--to", &number];
        cluster.operator().args(transfer).run().ok();
    }
    load.await_progress(20, seconds(60));
    until("all three masters of the new group follow", seconds(30), || {
        let leader = cluster.status_of(&cluster.leader()?)?.leader;
        let follows = |name: &String| *name == victim || cluster.status_of(name).is_some_and(|s| s.leader == leader);
        cluster.masters().iter().all(follows).then_some(())
    });
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}

/// A master whose directory is put back from a copy taken while it ran, so that its start counter tells nothing: it has
/// forgotten what it acknowledged since, does not start, and says what to do. The cluster goes on.
#[test]
fn an_older_copy_of_a_running_master_is_refused() {
    let mut cluster = Cluster::plan().start();
    cluster.gabion().args(["mkdir", "/before"]).run().ok();
    let victim = cluster.follower();
    let dir = cluster.node(&victim).dir.clone();
    let copy = cluster.scratch("copy");
    cluster.pause(&victim);
    let copied = std::process::Command::new("cp").arg("-a").arg(&dir).arg(&copy).status();
    assert!(copied.unwrap().success());
    cluster.resume(&victim);
    for number in 0..20 {
        cluster
            .gabion()
            .args(["upload", "-", &format!("/since-{number}")])
            .run_with(b"since")
            .ok();
    }
    let wanted = cluster.status().applied;
    until("the victim has it all", seconds(20), || {
        (cluster.status_of(&victim)?.applied >= wanted).then_some(())
    });
    let leader = cluster.wait_leader();
    assert_ne!(leader, victim);
    cluster.kill(&victim);
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&copy, &dir).unwrap();
    cluster.start(&victim);
    let (success, log) = cluster.wait_ended(&victim, seconds(20));
    assert!(!success, "{victim} must not start from an older copy");
    for part in ["STALE_DIRECTORY", "is not the one its peers know", "under a new id"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    cluster.gabion().args(["mkdir", "/after"]).run().ok();
    assert_eq!(cluster.wait_leader(), leader, "nobody was disturbed");
    cluster.assert_all_run();
    assert_eq!(cluster.names("/").len(), 22);
}
