//! One flipped bit in each kind of file of one chunkserver: nobody is served a wrong byte (P2), and the damage is named.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::PathBuf;

use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, damage, seconds, until};

/// Chunks in files, in several.
const LARGE: u64 = 3 * MIB + 77;
/// A chunk kept in the index as a blob.
const SMALL: u64 = 50_000;
/// The server whose files are damaged.
const VICTIM: &str = "c2";

/// Each file's path and bytes, stored on all three servers.
fn fill(cluster: &Cluster) -> Vec<(String, Vec<u8>)> {
    let large = (1..4).map(|seed| (format!("/large-{seed}"), content::bytes(seed, LARGE)));
    let small = (11..41).map(|seed| (format!("/small-{seed}"), content::bytes(seed, SMALL)));
    let files: Vec<_> = large.chain(small).collect();
    for (path, bytes) in &files {
        cluster
            .gabion()
            .args(["upload", "--chunk-size", "1MiB", "-", path])
            .run_with(bytes)
            .ok();
    }
    cluster.assert_clean();
    files
}

/// Every file comes whole, whichever copy is asked first: several times, as the choice may be random.
fn assert_right(cluster: &Cluster, files: &[(String, Vec<u8>)]) {
    for _ in 0..4 {
        for (path, bytes) in files {
            let got = cluster.gabion().args(["cat", path]).run().ok();
            assert!(got.stdout == *bytes, "{path}: wrong bytes were served");
        }
    }
}

/// The verifier says which server is damaged (7) or lacks copies (8). If the server itself was quicker its copy is on its
/// way to be replaced: then its log says what it set aside.
fn assert_named(cluster: &Cluster, codes: &[i32], words: &[&str]) {
    // A server that has ended is not waited for as long as an operator would.
    let outcome = cluster.verify().args(["--wait", "5s", "replicas"]).run();
    assert!(
        codes.contains(&outcome.code()),
        "exit code {codes:?} expected: {outcome}"
    );
    let said = outcome.text() + &outcome.stderr;
    for word in words {
        assert!(said.contains(word), "it does not name {word}: {outcome}");
    }
    let log = read_log(cluster);
    let was_quicker = ["chunk set aside", "damaged chunk"]
        .iter()
        .any(|what| log.contains(what));
    assert!(said.contains(VICTIM) || was_quicker, "nobody names {VICTIM}: {outcome}");
}

/// What the victim has said, also if it has ended.
fn read_log(cluster: &Cluster) -> String {
    std::fs::read_to_string(&cluster.node(VICTIM).log).unwrap()
}

/// Flips a bit in the middle of the file's part that is not zero (a log is preallocated).
fn flip_in(path: &PathBuf) {
    let bytes = std::fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    assert!(used > 0, "{} holds nothing to damage", path.display());
    damage::flip_bit(path, used as u64 / 2);
}

/// Kills the victim, damages the largest file that `find` gives, and starts it again.
fn damage_while_down(cluster: &mut Cluster, find: impl Fn(&std::path::Path) -> Vec<(PathBuf, u64)>) {
    cluster.kill(VICTIM);
    let found = find(&cluster.node(VICTIM).dir);
    let (path, _) = found.first().expect("there is such a file to damage");
    eprintln!("one bit of {} is flipped", path.display());
    flip_in(path);
    cluster.start(VICTIM);
    // It serves again, or it has said why it cannot; or the disk is set aside while the server is alive.
    until(&format!("{VICTIM} has come up or given up"), seconds(20), || {
        let seen = cluster.status_of(&cluster.leader()?)?;
        let server = seen.servers.iter().find(|server| server.name == VICTIM)?;
        let alive = server.beat_age_ms.is_some_and(|age| age < 1000);
        (alive || cluster.ended(VICTIM)).then_some(())
    });
}

/// A bit in a chunk's file while the server runs: the verifier names file, chunk and server, readers get the right bytes
/// from elsewhere, and a good copy takes the place of the bad one. Two bad copies of three are as harmless; three are
/// told as damage (7), and no file appears.
#[test]
fn a_bit_in_a_data_file() {
    let cluster = Cluster::plan().start();
    let files = fill(&cluster);
    let chunk_of = |path: &str| cluster.locate(path).extents[1].chunk.to_string();
    let (chunk, hopeless) = (chunk_of("/large-1"), chunk_of("/large-2"));
    let file_on = |server: &str, chunk: &str| {
        let found = damage::chunk_files(&cluster.node(server).dir);
        let named = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(chunk))
        };
        let path = found.into_iter().map(|(path, _)| path).find(named);
        path.unwrap_or_else(|| panic!("{server} holds chunk {chunk} in a file of its name"))
    };
    damage::flip_bit(&file_on(VICTIM, &chunk), 70_000);
    // Before anyone else finds it: it is replaced within a second or two.
    assert_named(&cluster, &[7], &["/large-1", &chunk]);
    assert_right(&cluster, &files);
    until("a good copy takes its place", seconds(30), || {
        (cluster.verify().arg("replicas").run().code() == 0).then_some(())
    });

    damage::flip_bit(&file_on("c1", &chunk), 500_000);
    damage::flip_bit(&file_on(VICTIM, &chunk), 70_000);
    assert_right(&cluster, &files);
    for server in ["c1", VICTIM, "c3"] {
        damage::flip_bit(&file_on(server, &hopeless), 1);
    }
    let out = cluster.scratch("out");
    cluster
        .gabion()
        .args(["download", "/large-2"])
        .arg(&out)
        .run()
        .fails(7, &["/large-2"]);
    assert!(!out.exists(), "a file that cannot be read whole must not appear");
    let others: Vec<_> = files.into_iter().filter(|(path, _)| path != "/large-2").collect();
    assert_right(&cluster, &others);
}

/// A bit in the index's table or blob file, where small chunks and all CRCs live.
#[test]
fn a_bit_in_an_index_table() {
    let mut cluster = Cluster::plan().start();
    let files = fill(&cluster);
    // A graceful restart writes the memory tables out.
    cluster.stop(VICTIM);
    cluster.start(VICTIM);
    cluster.wait_ready();
    damage_while_down(&mut cluster, |dir| {
        [damage::index_files(dir, "blob"), damage::index_files(dir, "sst")].concat()
    });
    assert_named(&cluster, &[7, 8], &[]);
    assert_right(&cluster, &files);
    cluster.verify().arg("masters").run().ok();
}

/// A bit in the index's write-ahead log, which holds what was acknowledged last.
#[test]
fn a_bit_in_the_index_log() {
    let mut cluster = Cluster::plan().start();
    let files = fill(&cluster);
    damage_while_down(&mut cluster, |dir| damage::index_files(dir, "log"));
    assert_right(&cluster, &files);
    assert_named(&cluster, &[7, 8], &[]);
    cluster.verify().arg("masters").run().ok();
}

/// A bit in `disk.id`, which says whose disk it is: the disk is not used, least of all as an empty new one.
#[test]
fn a_bit_in_disk_id() {
    let mut cluster = Cluster::plan().start();
    let files = fill(&cluster);
    damage_while_down(&mut cluster, |dir| damage::files(dir, |path| path.ends_with("disk.id")));
    assert_right(&cluster, &files);
    assert_named(&cluster, &[7, 8], &[]);
    let names: Vec<_> = cluster.status().servers.into_iter().map(|server| server.name).collect();
    assert_eq!(names.len(), 3, "no second life under the same name: {names:?}");
}

/// `gabion-verify offline` examines a stopped server's directory without any cluster: it finds nothing wrong with good
/// ones, names a flipped bit (7), and leaves a running server's directory alone.
#[test]
fn a_stopped_directory_can_be_examined() {
    let mut cluster = Cluster::plan().start();
    fill(&cluster);
    let offline = |cluster: &Cluster, name: &str| cluster.verify().arg("offline").arg(&cluster.node(name).dir).run();
    for name in ["m1", "c2"] {
        let outcome = offline(&cluster, name);
        assert_ne!(
            outcome.code(),
            0,
            "{name} runs: its directory is not for others: {outcome}"
        );
        assert_ne!(outcome.code(), 7, "{name} is not damaged: {outcome}");
        cluster.stop(name);
        offline(&cluster, name).ok();
    }
    let (path, _) = damage::chunk_files(&cluster.node("c2").dir).remove(0);
    damage::flip_bit(&path, 100_000);
    let outcome = offline(&cluster, "c2");
    assert_eq!(outcome.code(), 7, "{outcome}");
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        (outcome.text() + &outcome.stderr).contains(&name),
        "it names {name}: {outcome}"
    );
    damage::flip_bit(&path, 100_000);
    offline(&cluster, "c2").ok();
}

/// Bits flip on the way to and from one chunkserver, where TCP's checksum does not see them (P2): what is stored is
/// right, what is read is right, and no copy is damaged. Nearly every chunk and every other read that goes there is
/// hit: with two good servers that costs a copy, and is told, but no upload and no download. A payload passed on or
/// stored before its CRC was compared would break it, and so would a writer that does not avoid such a server.
#[test]
fn bits_that_flip_on_the_wire() {
    let mut cluster = Cluster::plan().prepare();
    let listen = cluster.spare_address(1);
    cluster.advertise(VICTIM, &listen);
    let target = cluster.node(VICTIM).address.clone();
    let flipped = gabion_tests::proxy::flip_bits(cluster.runtime(), &listen, &target, 2 * MIB + 12_345);
    cluster.start_all();
    cluster.wait_ready();
    let flips = || flipped.load(std::sync::atomic::Ordering::Relaxed);
    let mut degraded = 0;
    // How much goes through the proxy depends on chains and on which copies are read: go on until bits did flip.
    for seed in 0..40 {
        let (bytes, remote) = (content::bytes(seed, 24 * MIB), format!("/f{seed}"));
        let before = flips();
        let tool = cluster.gabion().args(["upload", "--chunk-size", "4MiB", "-", &remote]);
        let outcome = tool.run_with(&bytes);
        assert!([0, 8].contains(&outcome.code()), "{outcome}");
        assert!(outcome.took < seconds(30), "{outcome}");
        assert_eq!(
            outcome.code() == 8,
            cluster.stat(&remote).unwrap().degraded,
            "fewer copies are told, and only then: {outcome}"
        );
        degraded += u32::from(outcome.code() == 8);
        for _ in 0..3 {
            let got = cluster.gabion().args(["cat", &remote]).run().ok();
            assert!(got.stdout == bytes, "{remote}: wrong bytes were served");
        }
        eprintln!("{remote}: {} bits flipped, {:?}", flips() - before, outcome.took);
        if seed >= 3 && flips() >= 3 {
            break;
        }
    }
    assert!(flips() >= 3, "hardly a bit was flipped: void");
    assert!(degraded > 0, "no upload met a damaged packet: void");
    cluster.assert_all_run();
    cluster.assert_undamaged();
}

/// A bit in a master's Raft log, in the middle of what it has acknowledged (P1). Taken for the log's end, it would cut
/// off entries this master has promised to hold, and the next election could lose what a client was told is safe. The
/// offline examination names it, and the master does not start as if nothing were missing.
#[test]
fn a_bit_in_a_masters_log() {
    let mut cluster = Cluster::plan().start();
    let files = fill(&cluster);
    let victim = cluster.follower();
    cluster.kill(&victim);
    let is_log = |path: &std::path::Path| {
        path.extension().is_some_and(|extension| extension == "log")
            && path.components().any(|part| part.as_os_str() == "raft")
    };
    let (path, _) = damage::files(&cluster.node(&victim).dir, is_log).remove(0);
    flip_in(&path);
    let outcome = cluster.verify().arg("offline").arg(&cluster.node(&victim).dir).run();
    cluster.start(&victim);
    let ended = gabion_tests::wait::try_until(seconds(15), || cluster.ended(&victim).then_some(()));
    assert!(
        ended.is_some(),
        "{victim} runs with a log that lacks what it acknowledged"
    );
    let (success, log) = cluster.wait_ended(&victim, seconds(1));
    assert!(!success, "{log}");
    assert_eq!(outcome.code(), 7, "a flipped bit in {}: {outcome}", path.display());
    assert_right(&cluster, &files[..3]);
}
