//! A removal can be undone until its time is over, whatever dies meanwhile; then, or when the trash is emptied, it
//! leaves every disk.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, scaled, seconds, until};

/// Tokens short enough to wait for.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";

fn upload(cluster: &Cluster, path: &str, seed: u64, len: u64) -> Vec<u8> {
    let bytes = content::bytes(seed, len);
    let tool = cluster
        .gabion()
        .args(["upload", "--parents", "--chunk-size", "1MiB", "-", path]);
    tool.run_with(&bytes).ok();
    bytes
}

#[track_caller]
fn assert_content(cluster: &Cluster, path: &str, bytes: &[u8]) {
    let got = cluster.gabion().args(["cat", path]).run().ok().stdout;
    assert!(got == bytes, "{path} has other bytes than were stored");
}

/// Paths in the trash and their numbers.
fn trash(cluster: &Cluster) -> Vec<(String, u64)> {
    let listed = cluster.gabion().args(["trash", "list", "-o", "json"]).run().ok().json();
    let entries = listed["entries"].as_array().unwrap();
    let entry = |entry: &serde_json::Value| {
        (
            entry["path"].as_str().unwrap().to_owned(),
            entry["id"].as_u64().unwrap(),
        )
    };
    entries.iter().map(entry).collect()
}

/// A whole tree comes back byte-exact after a chunkserver, the leader and then everything was killed; what cannot come
/// back says why and what to do.
#[test]
fn a_removed_tree_comes_back_after_anything_died() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let mut files = BTreeMap::new();
    for (path, seed, len) in [
        ("/t/large", 1, 3 * MIB + 17),
        ("/t/d/small", 2, 1000),
        ("/t/d/e/one", 3, 1),
    ] {
        files.insert(path, upload(&cluster, path, seed, len));
    }
    let kept = upload(&cluster, "/kept", 4, 2 * MIB);
    let stored = cluster.chunk_files();
    let removed = cluster.gabion().args(["rm", "-r", "/t"]).run().ok();
    assert!(
        removed.stderr.contains("removed 3 files and 3 directories"),
        "{removed}"
    );
    assert!(removed.stderr.contains("24 h 0 min"), "it says for how long: {removed}");
    cluster.gabion().args(["cat", "/t/large"]).run().fails(3, &["/t"]);
    let du = cluster.gabion().args(["du", "-s", "-o", "json"]).run().ok().json();
    assert_eq!(du["entries"][0]["bytes"], kept.len(), "only what has a name counts");
    let df = cluster.gabion().args(["df", "-o", "json"]).run().ok().json();
    let removed: usize = files.values().map(Vec::len).sum();
    assert_eq!(
        (&df["file_bytes"], &df["trash_bytes"]),
        (&kept.len().into(), &removed.into())
    );
    assert_eq!((&df["servers_counted"], &df["files"]), (&3.into(), &1.into()));
    assert!(
        df["bytes_used"].as_u64() > Some(0) && df["bytes_free"].as_u64() > Some(0),
        "{df}"
    );

    let leader = cluster.leader().unwrap();
    cluster.kill(&leader);
    cluster.kill("c2");
    cluster.start(&leader);
    cluster.start("c2");
    cluster.wait_ready();
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready();
    // Longer than every token: whoever took it for garbage would have dropped it.
    gabion_tests::wait::watch(seconds(4), || {
        let files = cluster.chunk_files();
        (files != stored).then(|| format!("{files} chunk files are left of {stored}"))
    });
    assert_eq!(trash(&cluster).len(), 1);
    let restored = cluster.gabion().args(["trash", "restore", "/t"]).run().ok();
    assert!(restored.stderr.contains("restored /t with 5 entries"), "{restored}");
    for (path, bytes) in &files {
        assert_content(&cluster, path, bytes);
    }
    assert_eq!(trash(&cluster), []);
    let du = cluster.gabion().args(["du", "--bytes", "/t", "/kept"]).run().ok();
    let lines: Vec<_> = du
        .text()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let expected = [
        ["SIZE", "ENTRIES", "PATH"],
        ["1001", "3", "/t/d"],
        ["3145745", "0", "/t/large"],
        ["3146746", "5", "/t"],
        ["2097152", "0", "/kept"],
    ];
    assert_eq!(lines, expected);
    cluster.gabion().args(["du", "/none"]).run().fails(3, &["/none"]);
    cluster.assert_clean();

    cluster.gabion().args(["rm", "/t/d/small"]).run().ok();
    cluster.gabion().args(["mv", "/kept", "/t/d/small"]).run().ok();
    let restore = |arguments: &[&str]| cluster.gabion().args(["trash", "restore"]).args(arguments).run();
    restore(&["/t/d/small"]).fails(4, &["/t/d/small", "--to"]);
    cluster.gabion().args(["rm", "-r", "/t/d"]).run().ok();
    restore(&["/t/d/small"]).fails(3, &["/t/d does not exist", "--to"]);
    restore(&["/t/none"]).fails(3, &["/t/none", "trash list"]);
    restore(&["17000"]).fails(3, &["17000"]);
    restore(&["x"]).fails(2, &["neither a number"]);
    // Into a directory, under its old name; and by number to a new one.
    restore(&["/t/d/small", "--to", "/t"]).ok();
    assert_content(&cluster, "/t/small", &files["/t/d/small"]);
    let id = trash(&cluster)[0].1.to_string();
    restore(&[&id, "--to", "/d2"]).ok();
    assert_content(&cluster, "/d2/small", &kept);
    assert_content(&cluster, "/d2/e/one", &files["/t/d/e/one"]);
    cluster.assert_clean();
}

/// Emptying takes what was removed from every disk and nothing else, also if the leader dies while chunks are going.
#[test]
fn an_emptied_trash_leaves_the_disks_though_the_leader_dies() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let kept = upload(&cluster, "/kept", 1, 2 * MIB);
    let large = upload(&cluster, "/large", 2, 3 * MIB);
    let local = cluster.scratch("tree");
    std::fs::create_dir(&local).unwrap();
    let files = scaled(2500, 100_000);
    for seed in 0..files {
        content::file(&local.join(format!("f{seed:06}")), seed, 20);
    }
    let tool = cluster.gabion().args(["upload", "-r", "-j", "32"]);
    tool.arg(&local).arg("/tree").deadline(seconds(3000)).run().ok();
    let all = 3 * (files + 5);
    until("all are counted", seconds(20), || {
        (cluster.chunks_held() == all).then_some(())
    });
    for round in 0..2 {
        let removed = cluster.gabion().args(["rm", "-r", "/tree"]).run().ok();
        assert!(removed.took < Duration::from_secs(2), "whatever it holds: {removed}");
        eprintln!("removed {files} files in {:?}", removed.took);
        if round == 0 {
            let back = cluster.gabion().args(["trash", "restore", "/tree"]).run().ok();
            assert!(back.took < Duration::from_secs(2), "whatever it holds: {back}");
        }
    }
    cluster.gabion().args(["rm", "/large"]).run().ok();
    let empty = || cluster.gabion().args(["trash", "empty"]);
    empty().run().fails(2, &["--force"]);
    empty().args(["-f", "/none"]).run().fails(3, &["/none"]);
    let one = empty().args(["-f", "/large"]).run().ok();
    assert!(one.stderr.contains("removed for good 1 file, 3.0 MiB"), "{one}");
    assert_eq!(trash(&cluster).len(), 1);
    until("the large file's chunks are gone", seconds(30), || {
        (cluster.chunk_files() == 6).then_some(())
    });
    until("it is counted", seconds(10), || {
        (cluster.chunks_held() == all - 9).then_some(())
    });
    gabion_tests::wait::watch(seconds(3), || {
        let held = cluster.chunks_held();
        (held != all - 9).then(|| format!("{held} chunks are left of the tree"))
    });
    empty().arg("--yes").run().ok();
    assert_eq!(trash(&cluster), []);
    let held = until("some chunks are gone", seconds(60), || {
        let held = cluster.chunks_held();
        (held < all - 9).then_some(held)
    });
    assert!(held > 6, "all went before the leader could be killed");
    let leader = cluster.leader().unwrap();
    cluster.kill(&leader);
    eprintln!("{leader} was killed with {held} of {all} chunks left");
    until("all chunks are gone", seconds(scaled(60, 1200)), || {
        let status = cluster.status_of(&cluster.leader()?)?;
        (status.servers.iter().map(|server| server.load.chunks).sum::<u64>() == 6).then_some(())
    });
    cluster.start(&leader);
    cluster.wait_ready();
    assert_eq!(cluster.chunk_files(), 6);
    assert_content(&cluster, "/kept", &kept);
    cluster
        .gabion()
        .args(["trash", "restore", "/large"])
        .run()
        .fails(3, &["/large"]);
    drop(large);
    cluster.assert_clean();
}

/// What nobody restores goes by itself when its time is over, not before, and then cannot be restored.
#[test]
fn what_expires_goes_by_itself() {
    let tables = format!("{SHORT}[cluster]\ntrash = \"6s\"\n");
    let cluster = Cluster::plan().master_tables(&tables).start();
    let bytes = upload(&cluster, "/d/f", 1, 2 * MIB);
    cluster.gabion().args(["rm", "-r", "/d"]).run().ok();
    cluster.gabion().args(["trash", "restore", "/d"]).run().ok();
    assert_content(&cluster, "/d/f", &bytes);
    // Restored in time, it stays for good.
    gabion_tests::wait::watch(seconds(9), || {
        let files = cluster.chunk_files();
        (files != 6).then(|| format!("{files} chunk files are left of 6"))
    });
    let removed = cluster.gabion().args(["rm", "-r", "/d"]).run().ok();
    assert!(removed.stderr.contains("in the trash for 6"), "{removed}");
    let began = std::time::Instant::now();
    until("it has expired", seconds(30), || {
        trash(&cluster).is_empty().then_some(())
    });
    assert!(began.elapsed() > seconds(4), "it went after {:?}", began.elapsed());
    cluster
        .gabion()
        .args(["trash", "restore", "/d"])
        .run()
        .fails(3, &["/d"]);
    until("its chunks are gone", seconds(30), || {
        (cluster.chunk_files() == 0).then_some(())
    });
    cluster.verify().arg("masters").run().ok();
}
