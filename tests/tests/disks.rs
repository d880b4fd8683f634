//! Disks of a chunkserver that are not there: the rest serves on, and everybody is told the truth.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::messages::master::Load;
use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, damage};

/// The server whose disk fails.
const VICTIM: &str = "c1";
/// Short tokens, so that given-up copies go while the test waits.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"10s\"\n";

type Files = Vec<(String, Vec<u8>)>;

/// Uploads files of some chunks each, and small ones: each succeeds, with all copies or fewer.
fn upload(cluster: &Cluster, prefix: &str, count: u64) -> Files {
    let mut files = Vec::new();
    for seed in 0..count {
        let len = if seed % 2 == 0 { 5 * MIB + 77 } else { 40_000 };
        let (remote, bytes) = (format!("/{prefix}-{seed}"), content::bytes(seed + 1, len));
        let tool = cluster.gabion().args(["upload", "--chunk-size", "1MiB", "-", &remote]);
        let outcome = tool.run_with(&bytes);
        assert!([0, 8].contains(&outcome.code()), "{outcome}");
        files.push((remote, bytes));
    }
    files
}

fn assert_right(cluster: &Cluster, files: &Files) {
    for (remote, bytes) in files {
        let got = cluster.gabion().args(["cat", remote]).run().ok();
        assert!(got.stdout == *bytes, "{remote}: wrong bytes were served");
    }
}

fn load(cluster: &Cluster) -> Load {
    let servers = cluster.status().servers;
    servers.into_iter().find(|server| server.name == VICTIM).unwrap().load
}

/// One of two disks is not mounted at a start: its copies are unavailable, not absent; its mount point is no new disk;
/// the other disk serves. Mounted again, it is as if nothing had happened.
#[test]
fn a_disk_that_is_not_mounted_is_not_a_new_one() {
    let plan = Cluster::plan().master_tables(SHORT);
    let base = tempfile::tempdir().unwrap();
    let second = base.path().join("second");
    let mut cluster = plan.second_dir(VICTIM, &second).start();
    let first = cluster.node(VICTIM).dir.clone();
    let mut files = upload(&cluster, "before", 8);
    let on_second = damage::chunk_files(&second).len();
    let on_first = damage::chunk_files(&first).len();
    assert!(on_first + on_second > 0);
    // The one that holds more goes.
    let gone = if on_second >= on_first { second } else { first };
    cluster.kill(VICTIM);
    let away = gone.with_extension("away");
    std::fs::rename(&gone, &away).unwrap();
    std::fs::create_dir(&gone).unwrap();
    cluster.start(VICTIM);
    cluster.wait_ready();
    let seen = load(&cluster);
    assert_eq!((seen.disks_ok, seen.disks_failed), (1, 1));
    let said = cluster.node(VICTIM).process().log();
    assert!(
        said.contains("no mount point") && said.contains("--adopt-disk"),
        "{said}"
    );
    assert_right(&cluster, &files);
    files.extend(upload(&cluster, "during", 4));
    assert!(!gone.join("disk.id").exists(), "the mount point was made a disk");
    let outcome = cluster.verify().arg("replicas").run();
    assert_eq!(outcome.code(), 8, "unavailable, not damaged: {outcome}");
    assert!(outcome.text().contains("out of service"), "{outcome}");
    cluster.stop(VICTIM);
    std::fs::remove_dir_all(&gone).unwrap();
    std::fs::rename(&away, &gone).unwrap();
    cluster.start(VICTIM);
    cluster.wait_ready();
    assert_eq!((load(&cluster).disks_ok, load(&cluster).disks_failed), (2, 0));
    assert_right(&cluster, &files);
    cluster.assert_clean();
}
