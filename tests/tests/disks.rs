//! Disks of a chunkserver that fail at single calls, or are not there: what they did not keep was never acknowledged,
//! the rest serves on, and everybody is told the truth (P1, P2).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::PathBuf;

use gabion_protocol::messages::master::Load;
use gabion_tests::cluster::Cluster;
use gabion_tests::skip::skip;
use gabion_tests::syscalls::{self, FailingCalls};
use gabion_tests::{MIB, content, damage, seconds, until};

/// The server whose disk fails.
const VICTIM: &str = "c1";
/// Short tokens, so that given-up copies go while the test waits.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"10s\"\n";

/// Skips a test that needs failing system calls where there are none.
macro_rules! strace_or_skip {
    ($test:literal) => {
        if let Some(why) = syscalls::missing() {
            skip($test, &why);
            return;
        }
    };
}

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

/// Killed and started again, the victim has all its disks and every file is right; offline, nothing is amiss.
fn assert_whole_after_restart(cluster: &mut Cluster, files: &Files) {
    cluster.kill(VICTIM);
    cluster
        .verify()
        .arg("offline")
        .arg(&cluster.node(VICTIM).dir)
        .run()
        .ok();
    cluster.start(VICTIM);
    cluster.wait_ready();
    assert_eq!(load(cluster).disks_failed, 0);
    assert_right(cluster, files);
    cluster.assert_undamaged();
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

fn victim(cluster: &Cluster) -> u32 {
    cluster.node(VICTIM).process().id()
}

/// Names of the chunks that files consist of, as far as they count on the victim.
fn counted_on_victim(cluster: &Cluster, files: &Files) -> Vec<String> {
    let servers = cluster.status().servers;
    let id = servers.iter().find(|server| server.name == VICTIM).unwrap().server;
    let extents = files.iter().flat_map(|(remote, _)| cluster.locate(remote).extents);
    let here = extents.filter(|extent| extent.replicas.iter().any(|replica| replica.server == id));
    here.map(|extent| extent.chunk.to_string()).collect()
}

fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The first sync of a chunk's file on each disk thread fails, and later ones would succeed, as the kernel does it: what
/// was written is not on the disk though a second sync says so. No such chunk is acknowledged, no such file is synced
/// again, the disk takes no new chunks, and the uploads succeed on the others. What it holds is served until others have
/// been made from it elsewhere; then it is empty.
#[test]
fn a_chunk_whose_sync_failed_is_never_acknowledged() {
    strace_or_skip!("a_chunk_whose_sync_failed_is_never_acknowledged");
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let mut files = upload(&cluster, "before", 4);
    let log = cluster.scratch("strace");
    let failing = FailingCalls::begin(victim(&cluster), "disk-write", "fdatasync", "1", &[], &log);
    files.extend(upload(&cluster, "during", 8));
    let failed = failing.failed_on();
    assert!(!failed.is_empty(), "no sync failed: void");
    let acknowledged = counted_on_victim(&cluster, &files);
    assert!(!acknowledged.is_empty());
    for path in &failed {
        let tried = failing.calls().into_iter().filter(|call| call.path == *path).count();
        assert_eq!(tried, 1, "{path} was synced again");
        assert!(!acknowledged.contains(&name_of(path)), "{path} counts as a copy");
    }
    failing.end();
    until("the disk is reported failed", seconds(10), || {
        (load(&cluster).disks_failed == 1).then_some(())
    });
    let before = damage::chunk_files(&cluster.node(VICTIM).dir);
    files.extend(upload(&cluster, "after", 4));
    let new = damage::chunk_files(&cluster.node(VICTIM).dir);
    let new: Vec<_> = new.iter().filter(|file| !before.contains(file)).collect();
    assert!(new.is_empty(), "the disk takes new chunks: {new:?}");
    cluster.assert_all_run();
    assert_right(&cluster, &files);
    // The given-up copies go by order, and what is left is what was promised.
    until("the given-up copies are dropped", seconds(60), || {
        failed.iter().all(|path| !PathBuf::from(path).exists()).then_some(())
    });
    let listed = cluster
        .operator()
        .args(["admin", "disk", "list", "-o", "json", "--server", VICTIM])
        .run();
    let listed = listed.ok().json();
    assert_eq!(listed["disks"][0]["state"], "failing", "{listed}");
    assert_eq!(
        listed["disks"][0]["directory"],
        cluster.node(VICTIM).dir.to_str().unwrap()
    );
    until("the failing disk is empty", seconds(60), || {
        assert_right(&cluster, &files);
        (load(&cluster).chunks == 0).then_some(())
    });
    cluster.await_whole(seconds(30));
    cluster.assert_undamaged();
    assert_whole_after_restart(&mut cluster, &files);
}

/// A sync of the index's log fails once: the disk is out of service, no sync of that log is tried again, nothing that
/// waited for it is acknowledged, and after a restart everything acknowledged is there.
#[test]
fn an_index_whose_sync_failed_ends_its_disk() {
    strace_or_skip!("an_index_whose_sync_failed_ends_its_disk");
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let mut files = upload(&cluster, "before", 4);
    let log = cluster.scratch("strace");
    let failing = FailingCalls::begin(victim(&cluster), "index-writer", "fdatasync,fsync", "3", &[], &log);
    files.extend(upload(&cluster, "during", 8));
    let calls = failing.calls();
    let first = calls.iter().position(|call| call.injected);
    let first = first.unwrap_or_else(|| panic!("no sync failed: void: {calls:?}"));
    assert!(calls[first].path.contains("/index/"), "{:?}", calls[first]);
    assert_eq!(calls[first + 1..], [], "synced again after a failure");
    failing.end();
    until("the disk is reported failed", seconds(10), || {
        let load = load(&cluster);
        ((load.disks_ok, load.disks_failed) == (0, 1)).then_some(())
    });
    cluster.assert_all_run();
    assert_right(&cluster, &files);
    let outcome = cluster.verify().arg("replicas").run();
    assert!(
        outcome.code() != 0 && outcome.text().contains(VICTIM),
        "copies cannot be read: {outcome}"
    );
    assert_whole_after_restart(&mut cluster, &files);
}

/// The disk cannot read some files: readers get the right bytes from elsewhere, the copies are set aside for good, the
/// masters say so, and good copies take their place.
#[test]
fn a_file_that_cannot_be_read_is_set_aside() {
    strace_or_skip!("a_file_that_cannot_be_read_is_set_aside");
    let cluster = Cluster::plan().start();
    let files = upload(&cluster, "f", 4);
    let paths: Vec<_> = damage::chunk_files(&cluster.node(VICTIM).dir)
        .into_iter()
        .map(|(path, _)| path.canonicalize().unwrap())
        .collect();
    // Written past the page cache, so the first reader goes to the disk; what was read before is let go of here.
    for path in &paths {
        let file = std::fs::File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let log = cluster.scratch("strace");
    let failing = FailingCalls::begin(victim(&cluster), "disk-read", "pread64", "1+", &paths, &log);
    until("a read fails", seconds(30), || {
        assert_right(&cluster, &files);
        (!failing.failed_on().is_empty()).then_some(())
    });
    let failed = name_of(&failing.failed_on()[0]);
    failing.end();
    // Not what they count now: a good copy may be on its way before anybody looks.
    until("the masters are told of the damaged copy", seconds(10), || {
        let told = |name: &String| {
            let log = cluster.node(name).process().log();
            let line = |line: &str| line.contains("found a damaged copy") && line.contains(&format!("chunk={failed} "));
            log.lines().any(line)
        };
        cluster.masters().iter().any(told).then_some(())
    });
    // The disk reads again; nobody believes those copies any more.
    let said = cluster.node(VICTIM).process().log();
    let set_aside = |line: &str| line.contains("chunk set aside") && line.contains(&format!("chunk={failed} "));
    assert!(said.lines().any(set_aside), "{failed}: {said}");
    assert_right(&cluster, &files);
    until("good copies take their place", seconds(30), || {
        (cluster.verify().arg("replicas").run().code() == 0).then_some(())
    });
    assert_right(&cluster, &files);
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
