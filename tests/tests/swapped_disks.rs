//! A chunkserver is started with a directory that is not the one it had: empty, another server's, another cluster's. It
//! costs no copy that is needed, and whoever started it is told (P4, P5, P6). An older copy of its own is in `inventory.rs`,
//! a disk that is not mounted in `disks.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;

use gabion_protocol::messages::master::ReplicaState;
use gabion_tests::cluster::{Cluster, in_state};
use gabion_tests::files::Files;
use gabion_tests::{damage, scaled, seconds, until};

/// Periods short enough to wait for.
const SHORT: &str = "[timing]\nsuspect = \"1200ms\"\nlost = \"2s\"\ntoken = \"2s\"\nupload_lease = \"5s\"\n[repair]\nurgent = \"500ms\"\n";

fn swap(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    std::fs::rename(one, &aside).unwrap();
    std::fs::rename(other, one).unwrap();
    std::fs::rename(aside, other).unwrap();
}

/// A server that is started with an empty directory is a new one under the old name: what it held is made anew, also on
/// itself, and its old number counts no more.
#[test]
fn an_emptied_server_is_filled_again() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let files = Files::upload(&cluster, scaled(5, 40), 12);
    let chunks = files.chunks(&cluster);
    let old = cluster.number_of("c1");
    cluster.kill("c1");
    std::fs::remove_dir_all(&cluster.node("c1").dir).unwrap();
    cluster.start("c1");
    cluster.wait_ready();
    let new = cluster.number_of("c1");
    assert!(new > old, "it has nothing of what the old one had");
    files.assert_right(&cluster);
    until("all of it has three copies again", seconds(60), || {
        let whole = |id| {
            let live = in_state(&cluster.chunk_row(id), ReplicaState::Live);
            live.iter().filter(|server| **server != old).count() == 3
        };
        chunks.iter().all(|id| whole(*id)).then_some(())
    });
    let outcome = cluster
        .operator()
        .args(["admin", "server", "remove", &old.to_string(), "--apply"])
        .run();
    outcome.ok();
    until("its old number is gone", seconds(30), || {
        let servers = cluster.status().servers;
        servers.iter().all(|one| one.server != old).then_some(())
    });
    files.assert_right(&cluster);
    cluster.assert_clean();
}

/// Two servers' disks are put into each other's place: neither starts, both say why, and nothing of either is touched. Put
/// back, all is as it was.
#[test]
fn disks_of_two_servers_in_each_others_place_are_refused() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let files = Files::upload(&cluster, 4, 8);
    let (one, other) = (cluster.node("c1").dir.clone(), cluster.node("c2").dir.clone());
    let held = [damage::chunk_files(&one), damage::chunk_files(&other)].concat().len();
    assert!(held > 0);
    cluster.stop("c1");
    cluster.stop("c2");
    swap(&one, &other);
    for name in ["c1", "c2"] {
        cluster.start(name);
        let (ended_well, said) = cluster.wait_ended(name, seconds(20));
        assert!(!ended_well, "{name} serves another's disk: {said}");
        assert!(said.contains("another"), "{name} says why: {said}");
        let now = [damage::chunk_files(&one), damage::chunk_files(&other)].concat().len();
        assert_eq!(now, held, "nothing is removed on doubt");
    }
    swap(&one, &other);
    cluster.start("c1");
    cluster.start("c2");
    cluster.wait_ready();
    files.assert_right(&cluster);
    cluster.await_exact(&files.chunks(&cluster), 3);
    cluster.assert_clean();
}

/// A disk of another cluster is refused before anything is read from it, and nothing on it changes.
#[test]
fn a_disk_of_another_cluster_is_refused() {
    let mut ours = Cluster::plan().masters(1).master_tables(SHORT).start();
    let mut theirs = Cluster::plan().masters(1).master_tables(SHORT).start();
    let files = [Files::upload(&ours, 2, 4), Files::upload(&theirs, 2, 4)];
    ours.stop("c1");
    theirs.stop("c1");
    let (our_dir, their_dir) = (ours.node("c1").dir.clone(), theirs.node("c1").dir.clone());
    let held = [&our_dir, &their_dir].map(|dir| damage::chunk_files(dir));
    assert!(held.iter().all(|files| !files.is_empty()));
    let keep = ours.scratch("kept");
    std::fs::rename(&our_dir, &keep).unwrap();
    std::fs::rename(&their_dir, &our_dir).unwrap();
    ours.start("c1");
    let (ended_well, said) = ours.wait_ended("c1", seconds(20));
    assert!(!ended_well && said.contains("belongs to cluster"), "{said}");
    std::fs::rename(&our_dir, &their_dir).unwrap();
    std::fs::rename(&keep, &our_dir).unwrap();
    assert_eq!([&our_dir, &their_dir].map(|dir| damage::chunk_files(dir)), held);
    ours.start("c1");
    theirs.start("c1");
    for (cluster, files) in [&mut ours, &mut theirs].into_iter().zip(&files) {
        cluster.wait_ready();
        files.assert_right(cluster);
        cluster.assert_clean();
    }
}
