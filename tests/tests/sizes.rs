//! Files of every awkward size, and trees, go in, are listed, and come back byte for byte, by the tools people use.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;

use gabion_tests::cluster::Cluster;
use gabion_tests::{GIB, KIB, MIB, content, long, scaled, seconds};

/// Uploads, lists, stats, downloads, cats and verifies one file of `len` bytes.
fn round_trip(cluster: &Cluster, seed: u64, len: u64, chunk_size: Option<&str>) {
    let (local, back) = (
        cluster.scratch(&format!("in-{seed}")),
        cluster.scratch(&format!("out-{seed}")),
    );
    let name = format!("file-{seed}-{len}");
    let remote = format!("/{name}");
    let crc = content::file(&local, seed, len);

    let options = chunk_size.map_or_else(Vec::new, |size| vec!["--chunk-size", size]);
    let upload = cluster.gabion().arg("upload").args(options).arg(&local).arg(&remote);
    upload.deadline(seconds(600)).run().ok();

    let entry = cluster.stat(&remote).unwrap_or_else(|| panic!("{remote} is not there"));
    assert_eq!(
        (entry.length, entry.crc),
        (len, crc),
        "{remote}: length and CRC the masters hold"
    );
    assert!(!entry.degraded, "{remote} has all its copies");
    assert!(cluster.names("/").contains(&name));
    let listed = cluster.gabion().args(["list", "--names", "/"]).run().ok().text();
    assert!(listed.lines().any(|line| line == name), "{name} is listed: {listed}");
    let checksum = cluster.gabion().args(["checksum", &remote]).run().ok().text();
    assert!(
        checksum.contains(&format!("{crc:08x}")),
        "{crc:08x} is shown: {checksum}"
    );

    let download = cluster.gabion().arg("download").arg(&remote).arg(&back);
    download.deadline(seconds(600)).run().ok();
    assert!(content::same(&local, &back), "{remote} came back changed");
    if len < GIB {
        let cat = cluster.gabion().arg("cat").arg(&remote).run().ok();
        assert_eq!(
            (cat.stdout.len() as u64, crc32fast::hash(&cat.stdout)),
            (len, crc),
            "cat {remote}"
        );
    }
    std::fs::remove_file(local).unwrap();
    std::fs::remove_file(back).unwrap();
}

/// P2 for every size at which something begins or ends: nothing, one byte, one block, one chunk, each ± 1. A wrong
/// rounding to blocks or chunks, a lost last byte or an empty file without extents would break it.
#[test]
fn every_size_comes_back_byte_for_byte() {
    let cluster = Cluster::plan().start();
    let small = [
        0,
        1,
        4095,
        64 * KIB - 1,
        64 * KIB,
        64 * KIB + 1,
        128 * KIB,
        128 * KIB + 1,
    ];
    let chunks = [MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 17, 20 * MIB + 1];
    for (seed, len) in small.into_iter().chain(chunks).enumerate() {
        round_trip(&cluster, seed as u64 + 1, len, Some("1MiB"));
    }
    // The default chunk size, with more than one chunk.
    round_trip(&cluster, 100, 64 * MIB + 1, None);
    if long() {
        for (seed, len) in [64 * MIB - 1, 64 * MIB, GIB].into_iter().enumerate() {
            round_trip(&cluster, 200 + seed as u64, len, None);
        }
    }
    cluster.assert_clean();
}

/// Makes a tree of `count` small files, some of them empty, some directories empty, some names awkward.
fn make_tree(root: &Path, count: u64) {
    for number in 0..count {
        let dir = root.join(format!("d{}", number % 17)).join(format!("e{}", number % 5));
        std::fs::create_dir_all(&dir).unwrap();
        content::file(&dir.join(format!("file {number} ü.bin")), number, (number * 997) % 9000);
    }
    std::fs::create_dir_all(root.join("empty directory")).unwrap();
}

/// A tree goes in and comes back with every file, empty ones and empty directories too; `gabion-verify tree` agrees,
/// and is not a tool that always agrees: a changed byte and a missing file are named, with exit code 7.
#[test]
fn a_tree_comes_back_whole_and_the_verifier_can_say_no() {
    let cluster = Cluster::plan().start();
    let (local, back) = (cluster.scratch("tree"), cluster.scratch("back"));
    let count = scaled(200, 2000);
    make_tree(&local, count);

    cluster
        .gabion()
        .args(["upload", "-r"])
        .arg(&local)
        .arg("/")
        .deadline(seconds(300))
        .run()
        .ok();
    let listed = cluster
        .gabion()
        .args(["list", "-r", "--names", "/tree"])
        .run()
        .ok()
        .text();
    assert_eq!(
        listed.lines().filter(|line| line.ends_with(".bin")).count() as u64,
        count
    );
    cluster
        .gabion()
        .args(["download", "-r", "/tree"])
        .arg(&back)
        .deadline(seconds(300))
        .run()
        .ok();
    for entry in walkdir::WalkDir::new(&local).min_depth(1) {
        let entry = entry.unwrap();
        let other = back.join(entry.path().strip_prefix(&local).unwrap());
        if entry.file_type().is_dir() {
            assert!(other.is_dir(), "{} is missing", other.display());
        } else {
            assert!(content::same(entry.path(), &other), "{} differs", other.display());
        }
    }

    let verify = || {
        cluster
            .verify()
            .arg("tree")
            .arg(&local)
            .arg("/tree")
            .deadline(seconds(300))
            .run()
    };
    verify().ok();
    let victim = local.join("d3/e3").join("file 3 ü.bin");
    gabion_tests::damage::flip_bit(&victim, 7);
    let outcome = verify();
    assert_eq!(outcome.code(), 7, "{outcome}");
    assert!(
        (outcome.text() + &outcome.stderr).contains("file 3 ü.bin"),
        "it names the file: {outcome}"
    );
    gabion_tests::damage::flip_bit(&victim, 7);
    verify().ok();
    cluster.gabion().args(["rm", "/tree/d3/e3/file 3 ü.bin"]).run().ok();
    let outcome = verify();
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert!(
        (outcome.text() + &outcome.stderr).contains("file 3 ü.bin"),
        "it names the file: {outcome}"
    );
}

/// Pipes: what stdin brings is stored whole, and `-` gives it back; nothing but data is on stdout.
#[test]
fn pipes_go_in_and_out() {
    let cluster = Cluster::plan().start();
    for (seed, len) in [(1, 0), (2, 10), (3, 3 * MIB + 5)] {
        let bytes = content::bytes(seed, len);
        let remote = format!("/pipe-{seed}");
        cluster
            .gabion()
            .args(["upload", "--chunk-size", "1MiB", "-", &remote])
            .run_with(&bytes)
            .ok();
        let back = cluster.gabion().args(["download", &remote, "-"]).run().ok();
        assert!(
            back.stdout == bytes,
            "{remote}: {} bytes came back of {len}",
            back.stdout.len()
        );
    }
}

/// A file is replaced only by `--force`, and then as a whole: a reader sees the old or the new one. Directories and
/// names can be made, moved and removed; JSON output is JSON.
#[test]
fn everyday_verbs_do_what_they_say() {
    let cluster = Cluster::plan().start();
    let gabion = |line: &str| cluster.gabion().args(line.split(' '));
    let upload = |bytes: &[u8], force: bool| {
        let tool = gabion("upload --chunk-size 1MiB");
        let tool = if force { tool.arg("--force") } else { tool };
        tool.args(["-", "/a/f"]).run_with(bytes)
    };
    gabion("mkdir /a").run().ok();
    upload(b"first", false).ok();
    upload(b"second", false).fails(4, &["/a/f", "exists"]);
    assert_eq!(
        gabion("cat /a/f").run().ok().stdout,
        b"first",
        "a refused upload changes nothing"
    );
    upload(b"third", true).ok();
    assert_eq!(gabion("cat /a/f").run().ok().stdout, b"third");

    let stat = gabion("stat -o json /a/f").run().ok().json();
    let text = stat.to_string();
    assert!(text.contains("\"schema\"") && text.contains('5'), "{text}");
    for line in [
        "list -o json /a",
        "chunks -o json /a/f",
        "checksum -o json /a/f",
        "admin status -o json",
    ] {
        let _ = gabion(line).run().ok().json();
    }
    gabion("mkdir -p /a/b/c").run().ok();
    gabion("mv /a/f /a/b/c").run().ok();
    assert_eq!(gabion("cat /a/b/c/f").run().ok().stdout, b"third");
    gabion("rm /a/b").run().fails(4, &["/a/b"]);
    gabion("rm -r /a/b").run().ok();
    gabion("cat /a/b/c/f").run().fails(3, &["/a/b/c/f"]);
    assert_eq!(cluster.names("/a"), Vec::<String>::new());
}

/// Addresses are not IPv4 everywhere: the same binaries form a cluster on IPv6.
#[test]
fn a_cluster_lives_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        gabion_tests::skip::skip("a_cluster_lives_on_ipv6", "this machine has no IPv6 loopback");
        return;
    }
    let cluster = Cluster::plan().ipv6().start();
    round_trip(&cluster, 1, 2 * MIB + 3, Some("1MiB"));
}
