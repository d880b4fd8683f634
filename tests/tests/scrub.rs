//! Scrub: damage is found before a reader needs the copy, every bit of it and nothing else; a pass survives kill -9 and
//! changes of the leader, gives way to users, and what a reader reports is looked at.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use gabion_protocol::ChunkId;
use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, damage, scaled, seconds, until};
use serde_json::Value;

type Files = Vec<(String, Vec<u8>)>;

fn upload(cluster: &Cluster, path: &str, seed: u64, len: u64) -> (String, Vec<u8>) {
    let bytes = content::bytes(seed, len);
    let tool = cluster.gabion().args(["upload", "--chunk-size", "1MiB", "-", path]);
    tool.run_with(&bytes).ok();
    (path.to_owned(), bytes)
}

fn assert_right(cluster: &Cluster, files: &Files) {
    for (path, bytes) in files {
        let got = cluster.gabion().args(["cat", path]).run().ok();
        assert!(got.stdout == *bytes, "{path}: wrong bytes were served");
    }
}

/// What the leader knows of one server's scrub.
fn scrub_of(cluster: &Cluster, name: &str) -> Option<Value> {
    let outcome = cluster
        .operator()
        .args(["admin", "scrub", "status", "-o", "json"])
        .run();
    if outcome.code() != 0 {
        return None;
    }
    let servers = outcome.json()["servers"].as_array()?.clone();
    servers.into_iter().find(|server| server["name"] == name)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Each server's last completed pass.
type Passes = BTreeMap<String, Value>;

/// Begins a pass on all servers; the passes before it. The first one of each server, of an empty disk, is over at once.
fn start(cluster: &Cluster) -> Passes {
    let servers = cluster.chunkservers().into_iter();
    let before = servers.map(|name| {
        let last = until(&format!("{name} has completed a pass"), seconds(20), || {
            let last = scrub_of(cluster, &name)?["last"].clone();
            (!last.is_null()).then_some(last)
        });
        (name, last)
    });
    let before = before.collect();
    cluster.operator().args(["admin", "scrub", "start"]).run().ok();
    before
}

/// Waits until the pass after these is over on a server; what it found.
fn wait_pass(cluster: &Cluster, name: &str, before: &Passes) -> Value {
    until(&format!("the pass of {name} is over"), seconds(60), || {
        let last = scrub_of(cluster, name)?["last"].clone();
        (!last.is_null() && last != before[name]).then_some(last)
    })
}

/// The files of a file's chunks on a server.
fn chunk_files(cluster: &Cluster, server: &str, path: &str) -> Vec<(ChunkId, PathBuf)> {
    let chunks: Vec<_> = cluster.locate(path).extents.iter().map(|extent| extent.chunk).collect();
    let files = damage::chunk_files(&cluster.node(server).dir).into_iter();
    let named = files.filter_map(|(path, _)| Some((path.file_name()?.to_str()?.parse().ok()?, path)));
    named.filter(|(chunk, _)| chunks.contains(chunk)).collect()
}

/// Chunks whose copy a server has set aside since it was started, as it says itself.
fn set_aside(cluster: &Cluster, server: &str) -> BTreeSet<String> {
    let log = cluster.node(server).process().log();
    let lines = log.lines().filter(|line| line.contains("chunk set aside"));
    let chunk = |line: &str| Some(line.split("chunk=").nth(1)?.split_whitespace().next()?.to_owned());
    lines.filter_map(chunk).collect()
}

/// Flips a bit of a small chunk's bytes where they lie in the index of a stopped server: in a blob file, or in its log.
fn flip_blob(cluster: &Cluster, server: &str, bytes: &[u8]) {
    let dir = &cluster.node(server).dir;
    let mut flipped = 0;
    for (path, _) in [damage::index_files(dir, "blob"), damage::index_files(dir, "log")].concat() {
        let held = std::fs::read(&path).unwrap();
        let first = &bytes[..64];
        if let Some(at) = held.windows(first.len()).position(|window| window == first) {
            damage::flip_bit(&path, at as u64 + 30_000);
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "{server} holds the bytes in its index, once");
}

/// Bits flip in many copies on two servers: in files while the server runs, and in the index while it is down. One pass,
/// begun under one leader and ended under another, finds each, sets it aside and tells the masters, and none of the good
/// ones; the files are right all the time. A scrub that trusts the page cache's owner, skips small chunks or forgets the
/// order with its leader would break it.
#[test]
fn every_flipped_bit_is_found_within_one_pass_and_nothing_else() {
    let mut cluster = Cluster::plan().start();
    let mut files: Files = (1..5)
        .map(|seed| upload(&cluster, &format!("/large-{seed}"), seed, 4 * MIB + 77))
        .collect();
    files.extend((11..31).map(|seed| upload(&cluster, &format!("/small-{seed}"), seed, 50_000)));
    // In good order, so that small chunks lie in blob files.
    cluster.stop("c2");
    let mut bad_small = BTreeSet::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("/small-1")) {
        flip_blob(&cluster, "c2", bytes);
        bad_small.insert(cluster.locate(path).extents[0].chunk.to_string());
    }
    cluster.start("c2");
    cluster.wait_ready();
    let mut bad = [("c1", BTreeSet::new()), ("c2", bad_small), ("c3", BTreeSet::new())];
    for (server, path) in [("c1", "/large-1"), ("c2", "/large-2"), ("c2", "/large-3")] {
        for (nth, (chunk, file)) in chunk_files(&cluster, server, path).into_iter().enumerate() {
            let len = std::fs::metadata(&file).unwrap().len();
            damage::flip_bit(&file, nth as u64 * 250_001 % len);
            let (_, bad) = bad.iter_mut().find(|(name, _)| *name == server).unwrap();
            bad.insert(chunk.to_string());
        }
    }
    let counts: Vec<_> = bad.iter().map(|(_, bad)| bad.len()).collect();
    assert_eq!(counts, [5, 19, 0], "what was to be damaged is there");

    let before = start(&cluster);
    let leader = cluster.wait_leader();
    cluster.operator().args(["admin", "raft", "transfer-leader"]).run().ok();
    cluster.wait_leader_other_than(&leader);
    // Not the damaged ones yet: their readers would report them, and the servers look before the scrub comes by.
    let sound = |(path, _): &&(String, Vec<u8>)| path == "/large-4" || path.starts_with("/small-2");
    assert_right(&cluster, &files.iter().filter(sound).cloned().collect());
    for (server, bad) in &bad {
        let last = wait_pass(&cluster, server, &before);
        assert_eq!(number(&last["damaged"]), bad.len() as u64, "{server}: {last}");
        assert_eq!(number(&last["copies"]), 40, "{server}: {last}");
        assert_eq!(set_aside(&cluster, server), *bad, "{server}");
    }
    until("the masters know of all of it", seconds(20), || {
        let logs: String = cluster
            .masters()
            .iter()
            .map(|name| cluster.node(name).process().log())
            .collect();
        let told = |chunk: &String| {
            let line = |line: &str| line.contains("found a damaged copy") && line.contains(&format!("chunk={chunk} "));
            logs.lines().any(line)
        };
        bad.iter().all(|(_, bad)| bad.iter().all(told)).then_some(())
    });
    assert_right(&cluster, &files);
    cluster.assert_all_run();
}

/// Bits flip in many copies, each of another chunk, spread over all servers: one pass finds every one of them, and good
/// copies take their places. A scrub that finds and does not tell, or a repair that copies what is damaged, would break it.
#[test]
fn one_pass_finds_and_mends_a_bit_in_each_of_many_copies() {
    let cluster = Cluster::plan().chunkservers(4).start();
    let count = scaled(40, 200);
    let local = cluster.scratch("many");
    std::fs::create_dir(&local).unwrap();
    let files: Files = (0..count)
        .map(|seed| (format!("/many/f{seed:04}"), content::bytes(seed, 150_000 + seed)))
        .collect();
    for (path, bytes) in &files {
        std::fs::write(local.join(path.rsplit('/').next().unwrap()), bytes).unwrap();
    }
    let tool = cluster.gabion().args(["upload", "-r", "-j", "8"]);
    tool.arg(&local).arg("/").run().ok();
    let mut bad: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (nth, (path, _)) in files.iter().enumerate() {
        let extent = cluster.locate(path).extents.remove(0);
        let server = cluster.name_of(extent.replicas[nth % 3].server);
        let file = cluster.chunk_file(&server, extent.chunk).unwrap();
        damage::flip_bit(&file, nth as u64 * 3_701 % 150_000);
        bad.entry(server).or_default().insert(extent.chunk.to_string());
    }
    assert!(bad.len() == 4, "every server has some: {bad:?}");
    let before = start(&cluster);
    for (server, bad) in &bad {
        let last = wait_pass(&cluster, server, &before);
        assert_eq!(number(&last["damaged"]), bad.len() as u64, "{server}: {last}");
    }
    let chunks = cluster.chunks_of(files.iter().map(|(path, _)| path));
    until("no damaged copy is left", seconds(60), || {
        (cluster.status().damaged == 0).then_some(())
    });
    cluster.await_exact(&chunks, 3);
    for (server, bad) in &bad {
        assert_eq!(set_aside(&cluster, server), *bad, "{server}");
    }
    cluster.assert_clean();
    assert_right(&cluster, &files);
}

/// A server is killed in the middle of a pass and goes on near where it was: not from the beginning, and what it has yet
/// to read it reads.
#[test]
fn a_killed_server_goes_on_where_it_was() {
    let mut cluster = Cluster::plan().chunkserver_lines("scrub_rate = \"2MiB\"").start();
    let megabytes = scaled(28, 120);
    let files: Files = (0..megabytes / 4)
        .map(|seed| upload(&cluster, &format!("/f{seed}"), seed + 1, 4 * MIB))
        .collect();
    let last = format!("/f{}", megabytes / 4 - 1);
    let (chunk, file) = chunk_files(&cluster, "c1", &last).into_iter().max().unwrap();
    damage::flip_bit(&file, 500_000);
    let before = start(&cluster);
    let half = megabytes * MIB / 2;
    let done = until("half of the pass is done", seconds(60), || {
        let done = number(&scrub_of(&cluster, "c1")?["bytes_done"]);
        (done >= half).then_some(done)
    });
    assert!(done < megabytes * MIB, "it was over before it was killed: void");
    cluster.kill("c1");
    cluster.start("c1");
    cluster.wait_ready();
    let again = until("the killed server tells how far it is", seconds(20), || {
        let told = scrub_of(&cluster, "c1")?;
        let fresh = told["report_age_ms"].as_u64()? < cluster.node("c1").process().age().as_millis() as u64;
        fresh.then_some(told)
    });
    let resumed = number(&again["bytes_done"]);
    // What was not saved is five seconds' reading at most, and what was read since the start comes on top.
    assert!(
        resumed + 12 * MIB >= done && resumed >= 2 * MIB,
        "{done} bytes, then {again}"
    );
    assert_eq!(again["state"], "asked", "the operator's pass goes on: {again}");
    let told = wait_pass(&cluster, "c1", &before);
    assert_eq!(number(&told["damaged"]), 1, "{told}");
    assert_eq!(set_aside(&cluster, "c1"), BTreeSet::from([chunk.to_string()]));
    let copies = number(&told["copies"]);
    assert!(
        copies >= megabytes && copies <= megabytes + 12,
        "hardly any is read twice: {told}"
    );
    assert_right(&cluster, &files);
}

/// While users write and read, the scrub waits for them, and still comes to its end.
#[test]
fn scrub_gives_way_to_users() {
    let cluster = Cluster::plan().start();
    let mut files = vec![upload(&cluster, "/a", 1, 24 * MIB)];
    let waits = |cluster: &Cluster| -> Option<u64> {
        let servers = cluster.chunkservers();
        let of = |name: &String| Some(number(&scrub_of(cluster, name)?["gave_way"]));
        servers.iter().map(of).sum()
    };
    let before = start(&cluster);
    let mut seed = 2;
    let waited = until("the scrub waited for users", seconds(40), || {
        files.push(upload(&cluster, &format!("/b{seed}"), seed, 16 * MIB));
        seed += 1;
        waits(&cluster).filter(|waits| *waits > 0)
    });
    assert!(waited > 0);
    for server in cluster.chunkservers() {
        let last = wait_pass(&cluster, &server, &before);
        assert_eq!(number(&last["damaged"]), 0, "{server}: {last}");
    }
    assert_right(&cluster, &files);
    cluster.assert_undamaged();
}

/// Readers get bits that flipped on the wire and report the copies; their server reads them again, they are whole, and
/// the masters hold nothing against them any more. A reader's word alone must not cost a copy.
#[test]
fn good_copies_that_readers_report_are_cleared() {
    let mut cluster = Cluster::plan().prepare();
    let listen = cluster.spare_address(1);
    cluster.advertise("c2", &listen);
    let target = cluster.node("c2").address.clone();
    let flipped = gabion_tests::proxy::flip_bits(cluster.runtime(), &listen, &target, 9 * MIB + 12_345);
    cluster.start_all();
    cluster.wait_ready();
    let mut all = Vec::new();
    let paths: Vec<_> = (1..7).map(|seed| format!("/f{seed}")).collect();
    for (path, seed) in paths.iter().zip(1..) {
        let bytes = content::bytes(seed, 8 * MIB);
        let tool = cluster.gabion().args(["upload", "--chunk-size", "1MiB", "-", path]);
        let outcome = tool.run_with(&bytes);
        // A flip on the way there costs that copy.
        assert!([0, 8].contains(&outcome.code()), "{outcome}");
        all.extend(bytes);
    }
    let cleared = |cluster: &Cluster| {
        let log = cluster.node("c2").process().log();
        log.contains("a reported copy was read again and is whole")
    };
    until(
        "a reader reported a copy and its server cleared it",
        seconds(60),
        || {
            // One connection to each server, so that enough bytes pass.
            let got = cluster.gabion().arg("cat").args(&paths).run().ok();
            assert!(got.stdout == all, "wrong bytes were served");
            cleared(&cluster).then_some(())
        },
    );
    assert!(flipped.load(std::sync::atomic::Ordering::Relaxed) > 0);
    until("nothing is held against it", seconds(30), || {
        (cluster.status().damaged == 0).then_some(())
    });
    assert_eq!(set_aside(&cluster, "c2"), BTreeSet::new());
    cluster.assert_all_run();
}

/// `scrub start PATH` reads the copies of some files and says what it finds; a server that is down is named.
#[test]
fn an_operator_scrubs_a_path_or_a_server() {
    let mut cluster = Cluster::plan().start();
    upload(&cluster, "/good", 1, 2 * MIB);
    upload(&cluster, "/bad", 2, 2 * MIB);
    let (chunk, file) = chunk_files(&cluster, "c3", "/bad").remove(0);
    damage::flip_bit(&file, 70_000);
    let scrub = |what: &[&str]| cluster.operator().args(["admin", "scrub", "start"]).args(what).run();
    scrub(&["/good"]).ok();
    assert_eq!(set_aside(&cluster, "c3"), BTreeSet::new());
    scrub(&["/"]).fails(7, &["/bad", "c3"]);
    assert_eq!(set_aside(&cluster, "c3"), BTreeSet::from([chunk.to_string()]));
    scrub(&["--server", "c9"]).fails(3, &["c9"]);
    scrub(&["--server", "c1"]).ok();
    cluster.stop("c2");
    cluster.wait_server("c2", false);
    let outcome = cluster.operator().args(["admin", "scrub", "start"]).run();
    assert_eq!(outcome.code(), 8, "{outcome}");
    assert!(outcome.stderr.contains("not begun yet: c2"), "{outcome}");
    // The order is repeated: a server that comes back obeys it.
    cluster.start("c2");
    cluster.wait_ready();
    until("c2 has begun", seconds(20), || {
        let told = scrub_of(&cluster, "c2")?;
        (told["state"] != "waiting" && told["last"]["copies"].as_u64()? > 0).then_some(())
    });
    let client = cluster.gabion().args(["admin", "scrub", "status"]).run();
    assert_eq!(client.code(), 6, "a client's key does not do: {client}");
}
