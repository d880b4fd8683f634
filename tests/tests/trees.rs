//! Copies of whole directories: each shows one moment of what others write, appears whole, and leaves nothing behind when
//! its client dies.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use gabion_client::{Client, CreateOptions, Error};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::{connect, get, put, survey};
use gabion_tests::{content, scaled, seconds, until};
use rustix::process::Signal;

const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";
const WRITERS: u64 = 4;
/// Files a writer writes one after the other, each in a directory of its own.
const FILES: u64 = 10;

#[track_caller]
fn well<T>(answer: Result<T, Error>) -> T {
    answer.unwrap_or_else(|error| panic!("{}", error.report()))
}

/// A file between many others: so far apart that no two are copied with one command.
fn place(root: &str, writer: u64, file: u64) -> String {
    format!("{root}/d{file}/w{writer}")
}

fn bytes(writer: u64, round: u64) -> Vec<u8> {
    let mut bytes = content::bytes((writer << 32) | round, 2000);
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    bytes
}

fn round_of(writer: u64, found: &[u8]) -> u64 {
    let round = u64::from_le_bytes(*found.first_chunk().unwrap());
    assert!(round < 1 << 32 && bytes(writer, round) == found, "a file is not whole");
    round
}

/// Makes empty files between those that are written.
async fn fill(client: &Client, each: u64) {
    let names = (0..FILES).flat_map(|directory| (0..each).map(move |file| format!("/d/d{directory}/e{file}")));
    let options = || CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    let mut made = futures_util::stream::iter(names)
        .map(|name| async move { client.create_empty(&fs_path(&name), options()).await })
        .buffer_unordered(48);
    while let Some(made) = made.next().await {
        well(made);
    }
}

/// Round after round over all its files.
async fn write(client: Client, writer: u64, rounds: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let options = || CreateOptions {
        replace: true,
        parents: true,
        length_hint: Some(2000),
        ..CreateOptions::default()
    };
    for round in 1.. {
        for file in 0..FILES {
            let path = place("/d", writer, file);
            well(put(&client, &path, &bytes(writer, round), options()).await);
        }
        rounds.store(round, Ordering::SeqCst);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// A copy shows a writer's files as they were between two of its steps.
async fn assert_one_moment(client: &Client, root: &str, writer: u64, earliest: u64) {
    let mut rounds = Vec::new();
    for file in 0..FILES {
        let found = well(get(client, &place(root, writer, file)).await);
        rounds.push(round_of(writer, &found));
    }
    let (first, last) = (rounds[0], *rounds.last().unwrap());
    assert!(
        rounds.is_sorted_by(|a, b| a >= b) && first - last <= 1 && last >= earliest,
        "{root} shows writer {writer} at {rounds:?}, {earliest} had ended before"
    );
}

/// The promise: a copy is one moment, though four clients write and the leader is killed; it has no part in what happens
/// to the original afterwards.
#[test]
fn a_copy_shows_one_moment_of_what_others_write() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster.runtime().block_on(fill(&client, scaled(300, 2000)));
    let stop: Arc<AtomicBool> = Arc::default();
    let rounds: Vec<Arc<AtomicU64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let mut writers = Vec::new();
    for (writer, rounds) in (0..).zip(&rounds) {
        let client = cluster.runtime().block_on(connect(&cluster.access()));
        let work = write(client, writer, Arc::clone(rounds), Arc::clone(&stop));
        writers.push(cluster.runtime().spawn(work));
    }
    let ended = || -> Vec<u64> { rounds.iter().map(|rounds| rounds.load(Ordering::SeqCst)).collect() };
    until("every writer has ended a round", seconds(60), || {
        (!ended().contains(&0)).then_some(())
    });
    let mut bounds = Vec::new();
    for number in 0..3 {
        let earliest = ended();
        let copy = cluster
            .gabion()
            .args(["cp", "-r", "/d", &format!("/copy{number}")])
            .start();
        let killed = (number == 1).then(|| cluster.wait_leader());
        if let Some(leader) = &killed {
            cluster.kill(leader);
        }
        let outcome = copy.wait().ok();
        eprintln!("copy {number}: {}", outcome.stderr.trim());
        if let Some(leader) = &killed {
            cluster.start(leader);
        }
        bounds.push(earliest);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        cluster.runtime().block_on(writer).unwrap();
    }
    for (number, earliest) in bounds.iter().enumerate() {
        for writer in 0..WRITERS {
            let root = format!("/copy{number}");
            let check = assert_one_moment(&client, &root, writer, earliest[writer as usize]);
            cluster.runtime().block_on(check);
        }
    }
    let shown = |cluster: &Cluster| survey(cluster, "/copy1/d3");
    let before = shown(&cluster);
    cluster.gabion().args(["rm", "-r", "--now", "/d", "/copy0"]).run().ok();
    cluster.wait_ready();
    gabion_tests::wait::watch(seconds(4), || {
        (cluster.chunk_files() + cluster.chunks_held() as usize == 0).then(|| "the copies' chunks are gone".to_owned())
    });
    assert!(shown(&cluster) == before, "a copy has changed with its original");
    cluster.gabion().args(["cp", "-r", "/copy1", "/copy2"]).run().ok();
    assert!(
        cluster.stat("/copy2/copy1/d3").is_some(),
        "into a directory that is there, as cp does"
    );
    cluster
        .gabion()
        .args(["cp", "-r", "/copy1", "/copy2"])
        .run()
        .fails(4, &["/copy2/copy1", "not replaced"]);
    cluster
        .gabion()
        .args(["cp", "-r", "/copy1", "/copy1/d3"])
        .run()
        .fails(2, &["into itself"]);
    cluster
        .gabion()
        .args(["cp", "/copy1", "/new"])
        .run()
        .fails(4, &["/copy1", "gabion cp -r"]);
    cluster.assert_undamaged();
}

/// Entries that copies under way hold in their target.
fn reserved(cluster: &Cluster, client: &Client) -> u64 {
    let told = cluster.runtime().block_on(client.quota(&fs_path("/to")));
    well(told).own.reserved_entries
}

/// A copy whose client is killed in the middle: nothing of it is ever seen, what it held comes back, its original can go,
/// and no chunk is left.
#[test]
fn a_copy_whose_client_is_killed_leaves_nothing() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster.runtime().block_on(fill(&client, scaled(500, 2000)));
    for file in 0..FILES {
        let bytes = bytes(file, 1);
        let path = place("/d", file, file);
        well(
            cluster
                .runtime()
                .block_on(put(&client, &path, &bytes, CreateOptions::default())),
        );
    }
    cluster.gabion().args(["mkdir", "/to"]).run().ok();
    cluster
        .operator()
        .args(["quota", "set", "/to", "--entries", "1000000"])
        .run()
        .ok();
    let mut killed = 0;
    for round in 0.. {
        assert!(round < 40, "the copies are too quick to be killed: void");
        let mut copy = cluster.gabion().args(["cp", "-r", "/d", "/to/copy"]).start();
        while reserved(&cluster, &client) == 0 && copy.is_running() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if copy.is_running() {
            copy.signal(Signal::KILL);
        }
        drop(copy.wait());
        match cluster.stat("/to/copy") {
            Some(_) => drop(cluster.gabion().args(["rm", "-r", "--now", "/to/copy"]).run().ok()),
            None => killed += 1,
        }
        if killed == 3 {
            break;
        }
    }
    assert_eq!(cluster.names("/to"), [""; 0]);
    assert!(
        reserved(&cluster, &client) > 0,
        "it holds room until its lease has ended: void"
    );
    cluster
        .gabion()
        .args(["rm", "-r", "--now", "/d"])
        .run()
        .fails(4, &["is being copied"]);
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    until("what the copies held comes back", seconds(20), || {
        (reserved(&cluster, &client) == 0).then_some(())
    });
    assert_eq!(cluster.names("/to"), [""; 0]);
    cluster.start(&leader);
    cluster.wait_ready();
    cluster.gabion().args(["rm", "-r", "--now", "/d"]).run().ok();
    until("every chunk is gone", seconds(30), || {
        (cluster.chunks_held() == 0 && cluster.chunk_files() == 0).then_some(())
    });
    cluster.verify().arg("masters").run().ok();
    let follower = cluster.follower();
    cluster.stop(&follower);
    cluster
        .verify()
        .arg("offline")
        .arg(&cluster.node(&follower).dir)
        .run()
        .ok();
}
