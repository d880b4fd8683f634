//! A chunkserver dies or hangs in the middle of an upload or a download, and it costs no error (DESIGN §8.5, §9).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use gabion_tests::cluster::Cluster;
use gabion_tests::command::Running;
use gabion_tests::{MIB, content, damage, seconds, until};

/// How a server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Hung,
}

/// Bytes of the files that go through the faults.
const LEN: u64 = 48 * MIB;
/// Longest acceptable whole run, faults included: GlusterFS stalls 71 s on a hung server.
const QUICK: Duration = seconds(30);

fn strike(cluster: &mut Cluster, name: &str, fault: Fault) {
    match fault {
        Fault::Killed => cluster.kill(name),
        Fault::Hung => cluster.pause(name),
    }
}

fn heal(cluster: &mut Cluster, name: &str, fault: Fault) {
    match fault {
        Fault::Killed => cluster.start(name),
        Fault::Hung => cluster.resume(name),
    }
    cluster.wait_ready();
}

/// Bytes of chunks on a server.
fn stored(cluster: &Cluster, name: &str) -> u64 {
    damage::chunk_files(&cluster.node(name).dir)
        .iter()
        .map(|(_, len)| len)
        .sum()
}

/// Half of the upload is in, and some of it on the victim's disk, when the victim fails; the other half follows.
fn upload_through(cluster: &mut Cluster, fault: Fault) {
    let remote = format!("/{fault:?}");
    let bytes = content::bytes(fault as u64 + 1, LEN);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let before: Vec<_> = cluster
        .chunkservers()
        .into_iter()
        .map(|name| (stored(cluster, &name), name))
        .collect();
    let tool = cluster
        .gabion()
        .args(["upload", "-o", "json", "--chunk-size", "4MiB", "-", &remote]);
    let mut upload: Running = tool.start_piped();
    upload.stdin.as_mut().unwrap().write_all(first).unwrap();
    // Any server that takes part: that some of this very upload lies on it shows that it does.
    let victim = until("the upload reaches a disk", seconds(30), || {
        before
            .iter()
            .find(|(bytes, name)| stored(cluster, name) > bytes + 4 * MIB)
            .map(|(_, name)| name.clone())
    });
    let struck = Instant::now();
    strike(cluster, &victim, fault);
    upload.stdin.as_mut().unwrap().write_all(second).unwrap();
    let outcome = upload.wait();
    eprintln!("upload: {victim} {fault:?}, done {:?} later", struck.elapsed());
    // 8 says: stored, but some chunk has fewer copies than wanted. With three servers it cannot be otherwise.
    if cluster.chunkservers().len() == 3 {
        assert_eq!(outcome.code(), 8, "{outcome}");
    } else {
        assert!([0, 8].contains(&outcome.code()), "{outcome}");
    }
    assert!(struck.elapsed() < QUICK, "a failed server cost {:?}", struck.elapsed());
    let entry = cluster.stat(&remote).expect("the file is there");
    assert_eq!((entry.length, entry.crc), (LEN, crc32fast::hash(&bytes)));
    if cluster.chunkservers().len() == 3 {
        // With two left a third copy is impossible: that is told, not hidden.
        assert!(
            entry.degraded,
            "a file with two copies of three is reported as degraded"
        );
        until("the masters count what is under-replicated", seconds(20), || {
            (cluster.status().under_replicated > 0).then_some(())
        });
    }
    let got = cluster.gabion().args(["cat", &remote]).run().ok();
    assert!(got.stdout == bytes, "{remote} is whole while {victim} is {fault:?}");
    heal(cluster, &victim, fault);
    let outcome = cluster.verify().args(["replicas", &remote]).run();
    assert!([0, 8].contains(&outcome.code()), "no copy is damaged: {outcome}");
}

/// A part of the download has been read when a server that holds the rest fails.
fn download_through(cluster: &mut Cluster, fault: Fault) {
    let remote = format!("/down-{fault:?}");
    let bytes = content::bytes(40 + fault as u64, LEN);
    cluster
        .gabion()
        .args(["upload", "--chunk-size", "4MiB", "-", &remote])
        .run_with(&bytes)
        .ok();
    // The server that holds most copies of the last chunks, among equals the one named first by the masters.
    let located = cluster.locate(&remote);
    let last = located.extents.last().expect("it has chunks");
    let holder = last.replicas.first().expect("it has copies").server;
    let name_of = |id| {
        located
            .servers
            .iter()
            .find(|server| server.server == id)
            .map(|server| server.name.clone())
    };
    let victim = name_of(holder).expect("the masters name every server of a copy");

    let mut download = cluster.gabion().args(["download", &remote, "-"]).start_piped();
    let mut stdout = download.stdout.take().unwrap();
    let mut got = vec![0; 4 * MIB as usize];
    stdout.read_exact(&mut got).unwrap();
    let struck = Instant::now();
    strike(cluster, &victim, fault);
    stdout.read_to_end(&mut got).unwrap();
    let outcome = download.wait().ok();
    eprintln!(
        "download: {victim} {fault:?}, done {:?} later ({:?})",
        struck.elapsed(),
        outcome.took
    );
    assert!(got == bytes, "{} of {LEN} bytes came, or wrong ones", got.len());
    assert!(struck.elapsed() < QUICK, "a failed server cost {:?}", struck.elapsed());
    heal(cluster, &victim, fault);
}

fn all_faults(chunkservers: u64) {
    let mut cluster = Cluster::plan().chunkservers(chunkservers).start();
    for fault in [Fault::Killed, Fault::Hung] {
        upload_through(&mut cluster, fault);
        download_through(&mut cluster, fault);
    }
    cluster.verify().arg("masters").run().ok();
}

/// With four chunkservers another one takes the place of the failed: uploads and downloads succeed, quickly.
#[test]
fn with_four_chunkservers_one_may_die_or_hang() {
    all_faults(4);
}

/// With three chunkservers two copies are left: uploads and downloads succeed, and what is degraded is said to be.
#[test]
fn with_three_chunkservers_one_may_die_or_hang() {
    all_faults(3);
}

/// P1 forbids an acknowledgement with a single copy on disk when more were asked for: with one chunkserver of three
/// left an upload must wait and then fail with code 5, naming the servers passed over, and leave nothing. With
/// `--replicas 1`, which says what it is, it succeeds.
#[test]
fn one_copy_is_not_enough_unless_asked_for() {
    let waits = "[timing]\nplacement_wait = \"4s\"\n";
    let mut cluster = Cluster::plan().master_tables(waits).start();
    cluster.kill("c2");
    cluster.kill("c3");
    cluster.wait_server("c2", false);
    cluster.wait_server("c3", false);
    // Less than the masters would wait for servers, so that they have not said yet what is missing.
    let outcome = cluster
        .gabion()
        .args(["--wait", "1s", "upload", "-", "/f"])
        .run_with(b"x");
    let outcome = outcome.fails(5, &["TOO_FEW_SERVERS", "c2", "c3", "2 are needed"]);
    assert!(outcome.took < seconds(4), "it waits as long as it was told: {outcome}");
    assert_eq!(cluster.stat("/f"), None);
    // More than that: they say it themselves.
    let outcome = cluster
        .gabion()
        .args(["--wait", "6s", "upload", "-", "/f"])
        .run_with(b"x");
    let outcome = outcome.fails(5, &["TOO_FEW_SERVERS", "c2", "c3", "2 are needed"]);
    assert!(outcome.took < seconds(11), "it waits as long as it was told: {outcome}");
    cluster
        .gabion()
        .args(["upload", "--replicas", "1", "-", "/one"])
        .run_with(b"x")
        .ok();
    cluster.start("c2");
    cluster.wait_server("c2", true);
    let outcome = cluster.gabion().args(["upload", "-", "/two"]).run_with(b"x");
    outcome.fails(8, &["1 chunk × 2 of 3 copies", "degraded"]);
    assert!(cluster.stat("/two").unwrap().degraded);
}

/// Of a tree some files lie on servers that are dead or hung. Whoever fetches the tree waits for them once, as long as
/// he said, and not once for every file; what can be read is fetched, and every file that cannot is listed.
#[test]
fn many_unreachable_files_cost_one_wait() {
    let mut cluster = Cluster::plan().start();
    let dir = cluster.scratch("tree");
    std::fs::create_dir(&dir).unwrap();
    for number in 0..24 {
        std::fs::write(dir.join(format!("f{number:02}")), content::bytes(number, 10_000)).unwrap();
    }
    let upload = |name: &str| {
        let tool = cluster.gabion().args(["upload", "-r", "--replicas", "1"]);
        tool.arg(dir.join(".")).arg(name).run()
    };
    upload("/tree").ok();
    let on = |number: u64| {
        let located = cluster.locate(&format!("/tree/f{number:02}"));
        let holder = located.extents[0].replicas[0].server;
        let found = located.servers.into_iter().find(|server| server.server == holder);
        found.expect("the masters name every server of a copy").name
    };
    let holders: Vec<_> = (0..24).map(on).collect();
    let gone: Vec<_> = (0..24).filter(|number| holders[*number] != "c1").collect();
    assert!(
        (2..23).contains(&gone.len()),
        "all is on few servers: void ({holders:?})"
    );
    cluster.kill("c2");
    cluster.pause("c3");
    let out = cluster.scratch("out");
    let tool = cluster
        .gabion()
        .args(["--wait", "5s", "download", "-r", "-j", "2", "/tree"]);
    let outcome = tool.arg(&out).run();
    eprintln!("{} of 24 unreachable: {:?}", gone.len(), outcome.took);
    let count = format!("{} of 24 files could not be downloaded", gone.len());
    let names: Vec<_> = gone.iter().map(|number| format!("/tree/f{number:02}")).collect();
    let mut words = vec![count.as_str(), "UNREACHABLE"];
    words.extend(names.iter().map(String::as_str));
    let outcome = outcome.fails(8, &words);
    assert!(outcome.took >= seconds(5), "it waits as long as it was told: {outcome}");
    // Twelve times five seconds at least, if each file were waited for.
    assert!(outcome.took < seconds(30), "{outcome}");
    for number in 0..24 {
        let fetched = std::fs::read(out.join(format!("f{number:02}")));
        match gone.contains(&number) {
            true => assert!(fetched.is_err(), "a file that cannot be read must not appear"),
            false => assert!(fetched.unwrap() == content::bytes(number as u64, 10_000)),
        }
    }
    // The masters have too few servers for any file, which the first one finds out.
    cluster.wait_server("c3", false);
    let outcome = cluster
        .gabion()
        .args(["--wait", "5s", "upload", "-r", "-j", "2", "--replicas", "2"])
        .arg(dir.join("."))
        .arg("/other")
        .run();
    let outcome = outcome.fails(
        5,
        &["24 of 24 files", "not tried after that", "TOO_FEW_SERVERS", "c2", "c3"],
    );
    assert!(outcome.took < seconds(15), "{outcome}");
    cluster.resume("c3");
}
