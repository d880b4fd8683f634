//! Snapshots of directories: each shows one moment of what others write, and goes on showing it whatever happens to
//! the files, until it is removed and its space comes back.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_client::{Client, CreateOptions, Entry, Error};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::ledger::Found;
use gabion_tests::load::{connect, get, put, survey};
use gabion_tests::{content, scaled, seconds, until};

const WRITERS: u64 = 8;
const SNAPSHOTS: usize = 4;
/// Bytes of a record of a log.
const RECORD: u64 = 64;
/// Rounds of all writers between two snapshots.
const PROGRESS: u64 = 40;
/// Tokens short enough to wait for.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";
const REPLACE: CreateOptions = CreateOptions {
    replicas: None,
    chunk_bytes: None,
    replace: true,
    parents: true,
    mode: 0o644,
    modified_ms: None,
    length_hint: None,
};

/// What a writer writes in a round, which says in its first bytes which round that is.
fn bytes(writer: u64, round: u64) -> Vec<u8> {
    // Some lie in the servers' indexes, some in files.
    let length = if round.is_multiple_of(4) { 150_000 } else { 3000 };
    let mut bytes = content::bytes((writer << 32) | round, length);
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    bytes
}

/// Which round wrote them, all of them.
fn round_of(writer: u64, found: &[u8]) -> Option<u64> {
    let round = u64::from_le_bytes(*found.first_chunk()?);
    (round < 1 << 32 && bytes(writer, round) == found).then_some(round)
}

fn record(writer: u64, round: u64) -> Vec<u8> {
    content::bytes((1 << 60) | (writer << 32) | round, RECORD)
}

#[track_caller]
fn well<T>(answer: Result<T, Error>) -> T {
    answer.unwrap_or_else(|error| panic!("{}", error.report()))
}

/// The rounds a writer has begun and ended.
#[derive(Debug, Default)]
struct Rounds {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Round after round: first is replaced before second, then the log grows, then a file is new, then an old one goes;
/// and another goes out of the tree and comes back.
async fn write(client: Client, writer: u64, rounds: Arc<Rounds>, stop: Arc<AtomicBool>) {
    let dir = format!("/d/w{writer}");
    for file in ["first", "second", "new/f0", "pass"] {
        well(put(&client, &format!("{dir}/{file}"), &bytes(writer, 0), REPLACE).await);
    }
    let log = fs_path(&format!("{dir}/log"));
    well(client.create_empty(&log, CreateOptions::default()).await);
    let log = well(client.open_file(&log).await);
    let (inside, outside) = (fs_path(&format!("{dir}/pass")), fs_path(&format!("/out/pass{writer}")));
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        rounds.begun.store(round, Ordering::SeqCst);
        for file in ["first", "second"] {
            well(put(&client, &format!("{dir}/{file}"), &bytes(writer, round), REPLACE).await);
        }
        well(log.append(record(writer, round)).await);
        well(put(&client, &format!("{dir}/new/f{round}"), &bytes(writer, round), REPLACE).await);
        if round > 2 {
            well(
                client
                    .remove(&fs_path(&format!("{dir}/new/f{}", round - 3)), false)
                    .await,
            );
        }
        let (from, to) = match round.is_multiple_of(2) {
            true => (&outside, &inside),
            false => (&inside, &outside),
        };
        well(client.rename(from, to, false).await);
        rounds.ended.store(round, Ordering::SeqCst);
    }
}

/// A writer's files in a snapshot are as they were between two of its steps: the last round that had ended when the
/// snapshot was asked for, or a later one, and none that began after the answer.
async fn assert_serial(client: &Client, snapshot: &str, writer: u64, (ended, begun): (u64, u64)) {
    let dir = format!("/d/.snapshot/{snapshot}/w{writer}");
    let round = async |file: &str| {
        let path = format!("{dir}/{file}");
        let found = well(get(client, &path).await);
        round_of(writer, &found).unwrap_or_else(|| panic!("{path} is not whole: {} bytes", found.len()))
    };
    let (first, second) = (round("first").await, round("second").await);
    let log = well(get(client, &format!("{dir}/log")).await);
    let logged = log.len() as u64 / RECORD;
    let expected: Vec<u8> = (1..=logged).flat_map(|round| record(writer, round)).collect();
    assert!(log == expected, "the log of {dir} is not whole: {} bytes", log.len());
    let entries: Vec<Entry> = well(client.list_all(&fs_path(&format!("{dir}/new"))).await);
    let mut new = Vec::new();
    for Entry { name, .. } in entries {
        let number: u64 = name[1..].parse().unwrap();
        assert_eq!(round(&format!("new/{name}")).await, number, "{dir}/new/{name}");
        new.push(number);
    }
    new.sort_unstable();
    let newest = *new.last().unwrap();
    let steps = [begun, first, second, logged, newest, ended];
    assert!(
        steps.is_sorted_by(|later, earlier| later >= earlier) && first - newest <= 1,
        "{dir} shows steps out of order: begun, first, second, log, new, ended: {steps:?}"
    );
    let kept = |oldest: u64| (newest.saturating_sub(oldest)..=newest).collect::<Vec<_>>();
    assert!(new == kept(2) || new == kept(3), "{dir}/new shows {new:?}");
    if new == kept(2) && newest > 2 {
        assert!(first <= newest + 1, "{dir}");
    }
    let top: Vec<Entry> = well(client.list_all(&fs_path(&dir)).await);
    if top.iter().any(|entry| entry.name == "pass") {
        assert_eq!(round("pass").await, 0);
    }
}

/// Everything each snapshot shows.
fn surveys(cluster: &Cluster) -> Vec<BTreeMap<String, Found>> {
    let of = |number: usize| survey(cluster, &format!("/d/.snapshot/s{number}"));
    (0..SNAPSHOTS).map(of).collect()
}

/// Does to the files what can be done to files.
async fn change_everything(client: &Client, writer: u64) {
    let dir = format!("/d/w{writer}");
    let first = well(client.open_file(&fs_path(&format!("{dir}/first"))).await);
    well(first.write_at(100, vec![7; 2000]).await);
    well(first.append(vec![8; 10]).await);
    well(first.set_replicas(2).await);
    let second = well(client.open_file(&fs_path(&format!("{dir}/second"))).await);
    well(second.truncate(100).await);
    well(second.truncate(1000).await);
    let log = fs_path(&format!("{dir}/log"));
    well(put(client, log.as_str(), b"another", REPLACE).await);
    well(client.set_attributes(&log, Some(0o600), Some(1)).await);
    well(client.trash(&fs_path(&format!("{dir}/new")), true).await);
    well(put(client, &format!("{dir}/new/f0"), b"another", REPLACE).await);
    if writer == 0 {
        well(client.rename(&fs_path(&dir), &fs_path("/out/w0"), false).await);
        well(client.remove(&fs_path("/out/w0/first"), false).await);
    }
}

#[track_caller]
fn assert_refused(cluster: &Cluster) {
    let refused = |arguments: &[&str], words: &[&str]| {
        let outcome = cluster.gabion().args(arguments).run_with(b"x");
        outcome.fails(4, words);
    };
    let inside = "/d/.snapshot/s0/w1/first";
    let attempts: [&[&str]; 9] = [
        &["upload", "--force", "-", inside],
        &["append", "-", inside],
        &["truncate", "1", inside],
        &["setrep", "2", inside],
        &["mv", inside, "/x"],
        &["mv", "/d/w1/first", "/d/.snapshot/s0/x"],
        &["cp", "/d/w1/first", "/d/.snapshot/s0/x"],
        &["chmod", "600", inside],
        &["chown", "ann", inside],
    ];
    for arguments in attempts {
        refused(arguments, &[".snapshot/s0", "never changes"]);
    }
    refused(&["rm", inside], &[inside, "never changes"]);
    refused(&["mkdir", "/d/.snapshot"], &["/d/.snapshot", "never changes"]);
    refused(&["rm", "-r", "/d"], &["/d has snapshots", "gabion snapshot list"]);
    refused(&["rm", "-r", "--now", "/d"], &["/d has snapshots"]);
    refused(&["snapshot", "create", "/d@s0"], &["s0", "exists"]);
    let gone = cluster.gabion().args(["snapshot", "rm", "/d@none"]).run();
    gone.fails(3, &["none"]);
}

/// The promise: a snapshot is one moment, though eight clients write and the leader is killed; it shows the same bytes
/// whatever happens to the files and the masters later; its chunks stay as long as it does, and no longer.
#[test]
fn a_snapshot_shows_one_moment_until_it_is_removed() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    for directory in ["/d", "/out"] {
        well(
            cluster
                .runtime()
                .block_on(client.mkdir(&fs_path(directory), false, 0o755)),
        );
    }
    let stop: Arc<AtomicBool> = Arc::default();
    let rounds: Vec<Arc<Rounds>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let mut writers = Vec::new();
    for (writer, rounds) in (0..).zip(&rounds) {
        let client = cluster.runtime().block_on(connect(&cluster.access()));
        let work = write(client, writer, Arc::clone(rounds), Arc::clone(&stop));
        writers.push(cluster.runtime().spawn(work));
    }
    let all = |what: fn(&Rounds) -> &AtomicU64| -> Vec<u64> {
        rounds
            .iter()
            .map(|rounds| what(rounds).load(Ordering::SeqCst))
            .collect()
    };
    let mut bounds = Vec::new();
    for number in 0..SNAPSHOTS {
        let goal = all(|rounds| &rounds.ended).iter().sum::<u64>() + scaled(PROGRESS, 20 * PROGRESS);
        until("rounds end", seconds(60), || {
            let ended = all(|rounds| &rounds.ended);
            (ended.iter().sum::<u64>() >= goal && !ended.contains(&0)).then_some(())
        });
        let killed = (number == 2).then(|| cluster.wait_leader());
        if let Some(leader) = &killed {
            cluster.kill(leader);
        }
        let ended = all(|rounds| &rounds.ended);
        let began = std::time::Instant::now();
        let made = cluster
            .runtime()
            .block_on(client.create_snapshot(&fs_path("/d"), &format!("s{number}")));
        let info = well(made);
        eprintln!("s{number}: {} files in {:?}", info.files, began.elapsed());
        bounds.push((ended, all(|rounds| &rounds.begun)));
        if let Some(leader) = &killed {
            cluster.start(leader);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        cluster.runtime().block_on(writer).unwrap();
    }
    for (number, (ended, begun)) in bounds.iter().enumerate() {
        for writer in 0..WRITERS {
            let bounds = (ended[writer as usize], begun[writer as usize]);
            let snapshot = format!("s{number}");
            let check = assert_serial(&client, &snapshot, writer, bounds);
            cluster.runtime().block_on(check);
        }
    }

    let shown = surveys(&cluster);
    for writer in 0..WRITERS {
        cluster.runtime().block_on(change_everything(&client, writer));
        if writer == WRITERS / 2 {
            let leader = cluster.wait_leader();
            cluster.kill(&leader);
            cluster.start(&leader);
        }
    }
    cluster.wait_ready();
    assert!(surveys(&cluster) == shown, "a snapshot has changed");
    assert_refused(&cluster);
    let differences = cluster.gabion().args(["snapshot", "diff", "/d@s3"]).run().ok().text();
    assert!(
        differences.contains("M /w1/first\n") && differences.contains("- /w0\n"),
        "{differences}"
    );

    // Restored to another place it is the same tree; in its own, nothing differs any more.
    let below = |root: &str, tree: &BTreeMap<String, Found>| -> BTreeMap<String, Found> {
        tree.iter()
            .map(|(path, found)| (path[root.len()..].to_owned(), *found))
            .collect()
    };
    let last = below("/d/.snapshot/s3", &shown[3]);
    let restore = |arguments: &[&str]| {
        cluster
            .gabion()
            .args(["snapshot", "restore", "/d@s3"])
            .args(arguments)
            .run()
            .ok()
    };
    restore(&["--to", "/again"]);
    assert!(
        below("/again", &survey(&cluster, "/again")) == last,
        "a restored tree differs"
    );
    let planned = restore(&["-n", "--delete"]).text();
    assert!(
        planned.contains("copy /w1/first\n") && planned.contains("make /w0\n"),
        "{planned}"
    );
    restore(&["--delete"]);
    assert!(
        below("/d", &survey(&cluster, "/d")) == last,
        "a directory restored in place differs"
    );
    let differences = cluster.gabion().args(["snapshot", "diff", "/d@s3"]).run().ok().text();
    assert_eq!(differences, "");

    // Nothing is left but what the snapshots show.
    let rest: Vec<String> = cluster.names("/d").iter().map(|name| format!("/d/{name}")).collect();
    let remove = cluster
        .gabion()
        .args(["rm", "-r", "--now", "/out", "/again"])
        .args(&rest);
    remove.run().ok();
    cluster.gabion().args(["trash", "empty", "--yes"]).run().ok();
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.start(&leader);
    cluster.wait_ready();
    // Longer than every token: whoever took a chunk for garbage would have dropped it.
    gabion_tests::wait::watch(seconds(4), || {
        (cluster.chunk_files() == 0).then(|| "the snapshots' chunks are gone".to_owned())
    });
    assert!(
        surveys(&cluster) == shown,
        "a snapshot has lost what was removed elsewhere"
    );
    let local = cluster.scratch("downloaded");
    let download = cluster.gabion().args(["download", "-r", "/d/.snapshot/s1"]).arg(&local);
    download.run().ok();
    let found = std::fs::read(local.join("w3/first")).unwrap();
    assert!(round_of(3, &found).is_some(), "a downloaded file is not whole");
    cluster.verify().args(["replicas", "/d/.snapshot/s1"]).run().ok();

    let all: Vec<String> = (0..SNAPSHOTS).map(|number| format!("/d@s{number}")).collect();
    cluster.gabion().args(["snapshot", "rm"]).args(&all).run().ok();
    assert_eq!(
        cluster
            .gabion()
            .args(["snapshot", "list", "-o", "jsonl"])
            .run()
            .ok()
            .text(),
        ""
    );
    until("every chunk is gone from the disks", seconds(60), || {
        (cluster.chunk_files() == 0 && cluster.chunks_held() == 0).then_some(())
    });
    cluster.gabion().args(["rm", "-r", "--now", "/d"]).run().ok();
    cluster.verify().arg("masters").run().ok();
    let follower = cluster.follower();
    cluster.stop(&follower);
    let offline = cluster.verify().arg("offline").arg(&cluster.node(&follower).dir).run();
    offline.ok();
}
