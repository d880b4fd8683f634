//! Quotas: whoever writes, however much at one time and whatever dies, a directory never holds more than it may, and the
//! room that failed and killed writes held comes back.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_client::{Client, CreateOptions, Error, ErrorCode, QuotaUse};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::{connect, put, survey};
use gabion_tests::{KIB, MIB, content, ledger, scaled, seconds, until};
use rustix::process::Signal;

const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";
const WRITERS: u64 = 6;
const BYTES: u64 = 4 * MIB;
const ENTRIES: u64 = 48;

#[track_caller]
fn well<T>(answer: Result<T, Error>) -> T {
    answer.unwrap_or_else(|error| panic!("{}", error.report()))
}

/// How writers' operations ended.
#[derive(Debug, Default)]
struct Ended {
    well: AtomicU64,
    refused: AtomicU64,
}

impl Ended {
    /// Only the quota may be in the way.
    #[track_caller]
    fn note(&self, answer: Result<(), Error>) -> bool {
        match answer {
            Ok(()) => {
                self.well.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) if error.code() == ErrorCode::QuotaExceeded => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(error) => panic!("{}", error.report()),
        }
    }
}

/// Writes files of all sizes in all ways until told to stop, and removes the oldest when there is no room.
async fn write(client: Client, writer: u64, ended: Arc<Ended>, stop: Arc<AtomicBool>) {
    let mut mine: Vec<String> = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("/q/w{writer}/f{round}");
        let length = [3 * KIB, 200 * KIB, 700 * KIB, 90 * KIB][(round % 4) as usize];
        let bytes = content::bytes((writer << 32) | round, length);
        let options = CreateOptions {
            chunk_bytes: Some(MIB),
            parents: true,
            // One in three is of unknown length.
            length_hint: (round % 3 > 0).then_some(length),
            ..CreateOptions::default()
        };
        let answer = match round % 5 {
            0 if !mine.is_empty() => {
                let file = client.open_file(&fs_path(mine.last().unwrap())).await;
                well(file).append(bytes).await.map(drop)
            }
            1 => {
                let outside = format!("/out/w{writer}");
                well(put(&client, &outside, &bytes, options).await);
                let moved = client
                    .rename(&fs_path(&outside), &fs_path(&name), false)
                    .await
                    .map(drop);
                match &moved {
                    Ok(()) => mine.push(name.clone()),
                    Err(_) => drop(well(client.remove(&fs_path(&outside), false).await)),
                }
                moved
            }
            _ => {
                let answer = put(&client, &name, &bytes, options).await;
                if answer.is_ok() {
                    mine.push(name.clone());
                }
                answer
            }
        };
        if !ended.note(answer) && !mine.is_empty() {
            // Two files make room for one: all writers get on.
            for old in mine.drain(..mine.len().min(2)) {
                well(client.remove(&fs_path(&old), false).await);
            }
        }
    }
}

fn usage(cluster: &Cluster, client: &Client) -> QuotaUse {
    well(cluster.runtime().block_on(client.quota(&fs_path("/q")))).own
}

fn set_quota(cluster: &Cluster) {
    let (bytes, entries) = (BYTES.to_string(), ENTRIES.to_string());
    let set = ["quota", "set", "/q", "--bytes", &bytes, "--entries", &entries];
    cluster.operator().args(set).run().ok();
}

/// The promise, with six writers and a leader that dies: what is used and reserved never passes the quota, what a walk
/// finds does not either, and in the end nothing is reserved.
#[test]
fn writers_that_race_never_pass_a_quota() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    for directory in ["/q", "/out"] {
        well(
            cluster
                .runtime()
                .block_on(client.mkdir(&fs_path(directory), false, 0o755)),
        );
    }
    for writer in 0..WRITERS {
        let directory = fs_path(&format!("/q/w{writer}"));
        well(cluster.runtime().block_on(client.mkdir(&directory, false, 0o755)));
    }
    set_quota(&cluster);
    let (ended, stop): (Arc<Ended>, Arc<AtomicBool>) = Default::default();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = cluster.runtime().block_on(connect(&cluster.access()));
        let work = write(client, writer, Arc::clone(&ended), Arc::clone(&stop));
        writers.push(cluster.runtime().spawn(work));
    }
    let goal = scaled(40, 400);
    let (mut most, mut killed) = ((0, 0), None);
    until("writers are refused, and get on", seconds(120), || {
        let usage = usage(&cluster, &client);
        let taken = (
            usage.bytes + usage.reserved_bytes,
            usage.entries + usage.reserved_entries,
        );
        assert!(taken.0 <= BYTES && taken.1 <= ENTRIES, "the quota is passed: {usage:?}");
        most = (most.0.max(taken.0), most.1.max(taken.1));
        let refused = ended.refused.load(Ordering::Relaxed);
        if refused > goal / 2 && killed.is_none() {
            let leader = cluster.wait_leader();
            cluster.kill(&leader);
            killed = Some(leader);
        }
        let well = ended.well.load(Ordering::Relaxed);
        (refused > goal && well > 2 * goal && killed.is_some()).then_some(())
    });
    cluster.start(&killed.unwrap());
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        cluster.runtime().block_on(writer).unwrap();
    }
    eprintln!("{ended:?}, at most {most:?} of {:?}", (BYTES, ENTRIES));
    assert!(most.0 > BYTES / 2, "the quota was never near: void");
    cluster.wait_ready();
    // Who was refused gave up what it held; only of a word that was lost with the leader a lease has to end.
    until("nothing is reserved any more", seconds(20), || {
        let usage = usage(&cluster, &client);
        (usage.reserved_bytes == 0 && usage.reserved_entries == 0).then_some(())
    });
    let found = survey(&cluster, "/q");
    let bytes = found.values().map(|found| match found {
        ledger::Found::File { len, .. } => *len,
        ledger::Found::Directory => 0,
    });
    let (bytes, entries) = (bytes.sum::<u64>(), found.len() as u64 - 1);
    let told = usage(&cluster, &client);
    assert_eq!((told.bytes, told.entries), (bytes, entries));
    assert!(bytes <= BYTES && entries <= ENTRIES);
    cluster.assert_undamaged();
    let follower = cluster.follower();
    cluster.stop(&follower);
    cluster
        .verify()
        .arg("offline")
        .arg(&cluster.node(&follower).dir)
        .run()
        .ok();
}

/// A client that is killed in the middle held room; under a new leader it comes back when its lease has ended.
#[test]
fn the_room_of_a_killed_client_comes_back() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster.gabion().args(["mkdir", "/q"]).run().ok();
    set_quota(&cluster);
    let mut upload = cluster
        .gabion()
        .args(["upload", "--chunk-size", "1MiB", "-", "/q/f"])
        .start_piped();
    let some = content::bytes(1, 5 * MIB / 2);
    upload.stdin.as_mut().unwrap().write_all(&some).unwrap();
    until("it holds room for a chunk that is not full", seconds(20), || {
        (usage(&cluster, &client).reserved_bytes > MIB).then_some(())
    });
    let large = content::bytes(2, BYTES - MIB / 2);
    let local = cluster.scratch("large");
    std::fs::write(&local, &large).unwrap();
    let refused = cluster.gabion().arg("upload").arg(&local).arg("/q/large").run();
    refused.fails(9, &["quota of /q", "reserved by writes under way", "gabion quota get"]);
    upload.signal(Signal::KILL);
    drop(upload.stdin.take());
    assert_eq!(upload.wait().code(), 128 + 9);
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    until("what it held comes back", seconds(20), || {
        (usage(&cluster, &client).reserved_bytes == 0).then_some(())
    });
    assert_eq!(cluster.names("/q"), [""; 0]);
    cluster.gabion().arg("upload").arg(&local).arg("/q/large").run().ok();
    cluster.start(&leader);
    cluster.wait_ready();
    cluster.assert_undamaged();
}

/// What users see of it.
#[test]
fn quotas_are_set_shown_and_cleared() {
    let cluster = Cluster::plan().start();
    let gabion = |arguments: &[&str]| cluster.gabion().args(arguments).run();
    let operator = |arguments: &[&str]| cluster.operator().args(arguments).run();
    gabion(&["mkdir", "-p", "/a/b"]).ok();
    let set = ["quota", "set", "/a", "--bytes", "1MiB", "--entries", "3"];
    gabion(&set).fails(6, &["may not change quotas", "--role operator"]);
    operator(&set).ok();
    operator(&["quota", "set", "/none", "--bytes", "1"]).fails(3, &["/none"]);

    let put = |path: &str, length: u64| {
        cluster
            .gabion()
            .args(["upload", "-", path])
            .run_with(&content::bytes(1, length))
    };
    put("/a/b/f", 600 * KIB).ok();
    put("/a/b/g", 500 * KIB).fails(9, &["/a/b/g", "QUOTA_EXCEEDED", "quota of /a is 1048576 bytes"]);
    put("/a/b/g", 500).ok();
    gabion(&["mkdir", "/a/c"]).fails(
        9,
        &["/a/c", "quota of /a is 3 files and directories", "gabion quota set"],
    );
    gabion(&["cp", "-r", "/a/b", "/a/d"]).fails(9, &["quota of /a"]);
    assert_eq!(cluster.names("/a"), ["b"]);
    assert_eq!(cluster.names("/a/b"), ["f", "g"]);

    operator(&["quota", "set", "/", "--bytes", "1GiB"]).ok();
    let told = gabion(&["quota", "get", "/a/b", "-o", "json"]).ok().json();
    let quotas = told["quotas"].as_array().unwrap();
    let seen: Vec<_> = quotas
        .iter()
        .map(|quota| {
            (
                quota["directory"].as_str().unwrap(),
                quota["of"].as_str().unwrap(),
                quota["binds"].as_bool().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("/a/b", "bytes", false),
        ("/a/b", "entries", false),
        ("/a", "bytes", true),
        ("/a", "entries", true),
        ("/", "bytes", false),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        (&quotas[2]["used"], &quotas[2]["reserved"]),
        (&(600 * KIB + 500).into(), &0.into())
    );
    let table = gabion(&["quota", "get", "/a"]).ok().text();
    assert!(table.contains("1.0 MiB") && table.contains("yes"), "{table}");

    let full = operator(&["quota", "set", "/a", "--bytes", "1KiB"]).ok();
    assert!(full.stderr.contains("cannot grow"), "{full}");
    gabion(&["append", "/dev/null", "/a/b/g"]).ok();
    gabion(&["truncate", "501", "/a/b/g"]).fails(9, &["quota of /a"]);
    gabion(&["rm", "/a/b/f"]).ok();
    gabion(&["trash", "restore", "/a/b/f"]).fails(9, &["quota of /a"]);
    gabion(&["quota", "clear", "/a"]).fails(6, &["operator"]);
    operator(&["quota", "clear", "/a", "/"]).ok();
    gabion(&["trash", "restore", "/a/b/f"]).ok();
    put("/a/b/h", 5 * MIB).ok();
    cluster.assert_clean();
}
