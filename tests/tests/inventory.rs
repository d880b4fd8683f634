//! What a chunkserver holds is compared with what the masters know: what is missing is made anew, what nobody knows is kept
//! for a while and then removed, and masters that lost their memory make nobody remove anything (P5).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gabion_protocol::messages::master::{Admin, Request, Response, ServerInventory};
use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, damage, scaled, seconds, until};

/// Periods short enough to wait for.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n\
                     [inventory]\nkeep_unknown = \"4s\"\nquiet = \"1s\"\n";

fn upload(cluster: &Cluster, path: &str, seed: u64, len: u64) -> (String, Vec<u8>) {
    let bytes = content::bytes(seed, len);
    let tool = cluster
        .gabion()
        .args(["upload", "--parents", "--chunk-size", "1MiB", "-", path]);
    tool.run_with(&bytes).ok();
    (path.to_owned(), bytes)
}

/// The large file is of two chunks, the small ones of one each.
fn fill(cluster: &Cluster, below: &str, small: u64) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![upload(cluster, &format!("/{below}/large"), 99, 2 * MIB)];
    for seed in 0..small {
        files.push(upload(cluster, &format!("/{below}/{seed}"), seed, 3000 + seed));
    }
    files
}

#[track_caller]
fn assert_right(cluster: &Cluster, files: &[(String, Vec<u8>)]) {
    for (path, bytes) in files {
        let got = cluster.gabion().args(["cat", path]).run().ok();
        assert!(got.stdout == *bytes, "{path} is not what was uploaded");
    }
}

fn inventories(cluster: &Cluster) -> Option<Vec<ServerInventory>> {
    let request = Request::Admin(Admin::InventoryStatus);
    match cluster.ask(&cluster.leader()?, &request) {
        Ok(Response::Inventories(servers)) => Some(servers),
        _ => None,
    }
}

fn inventory(cluster: &Cluster, name: &str) -> Option<ServerInventory> {
    inventories(cluster)?.into_iter().find(|server| server.name == name)
}

/// Copies a directory of a stopped server.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn put_back(copy: &Path, dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
    copy_dir(copy, dir);
}

/// One server is started with a copy of its disk from before: it lacks what was written since, and holds what was removed.
/// The lacking copies are made anew. The others are more than the masters believe, so they stay until an operator accepts
/// it; then they go, and nothing else does.
#[test]
fn a_server_with_an_old_copy_of_its_disk_is_brought_up_to_date() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    fill(&cluster, "old", 12);
    let kept = fill(&cluster, "kept", 2);
    cluster.stop("c1");
    let (copy, dir) = (cluster.scratch("c1"), cluster.node("c1").dir.clone());
    copy_dir(&dir, &copy);
    cluster.start("c1");
    cluster.wait_ready();

    let new = fill(&cluster, "new", 3);
    cluster.gabion().args(["rm", "-r", "--now", "/old"]).run().ok();
    // Of the files that are left: 4 and 5 chunks on each server.
    until("what was removed is gone", seconds(40), || {
        (cluster.chunks_held() == 27).then_some(())
    });
    cluster.stop("c1");
    put_back(&copy, &dir);
    cluster.start("c1");
    cluster.wait_ready();

    let began = Instant::now();
    let found = until("the server is stopped", seconds(40), || {
        inventory(&cluster, "c1").filter(|server| server.stopped)
    });
    eprintln!("found after {:?}: {found:?}", began.elapsed());
    assert_eq!((found.unknown, found.forgotten), (14, 0));
    until("what it lacked is made anew", seconds(40), || {
        (cluster.verify().arg("replicas").run().code() == 0).then_some(())
    });
    assert_right(&cluster, &new);
    assert_right(&cluster, &kept);
    let on_c1 = |cluster: &Cluster| {
        let servers = cluster.status().servers.into_iter();
        servers
            .filter(|server| server.name == "c1")
            .map(|server| server.load.chunks)
            .sum::<u64>()
    };
    until("the beats say so", seconds(10), || {
        (on_c1(&cluster) == 9 + 14).then_some(())
    });
    // Longer than they are kept.
    gabion_tests::wait::watch(seconds(6), || {
        let held = on_c1(&cluster);
        (held != 9 + 14).then(|| format!("{held} chunks are left: something was removed on doubt"))
    });
    let status = cluster.operator().args(["admin", "status"]).run().ok().text();
    assert!(status.contains("too many unknown copies"), "{status}");
    let accept = ["admin", "inventory", "accept", "c1"];
    cluster.operator().args(accept).run().ok();
    assert!(inventory(&cluster, "c1").unwrap().stopped, "that was only the plan");
    cluster.operator().args(accept).arg("--apply").run().ok();
    until("they are removed", seconds(20), || (on_c1(&cluster) == 9).then_some(()));
    until("and forgotten", seconds(10), || {
        inventory(&cluster, "c1").filter(|server| server.unknown == 0 && server.differing == 0)
    });
    cluster.assert_clean();
    assert_right(&cluster, &new);
}

fn chunk_files(cluster: &Cluster) -> BTreeSet<PathBuf> {
    let of = |name: &String| damage::chunk_files(&cluster.node(name).dir);
    cluster
        .chunkservers()
        .iter()
        .flat_map(of)
        .map(|(path, _)| path)
        .collect()
}

/// All masters are started from older copies of their directories. They know nothing of what was written since, and go on
/// counting where they were. No chunkserver removes a copy of what they forgot, whatever is written and removed later, and
/// everybody is told.
#[test]
fn masters_from_an_older_copy_make_nobody_remove_anything() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    fill(&cluster, "known", 1);
    let masters = cluster.masters();
    masters.iter().for_each(|name| cluster.stop(name));
    for name in &masters {
        copy_dir(&cluster.node(name).dir, &cluster.scratch(name));
    }
    masters.iter().for_each(|name| cluster.start(name));
    cluster.wait_ready();
    let before = chunk_files(&cluster);
    fill(&cluster, "forgotten", 3);
    let forgotten: BTreeSet<_> = chunk_files(&cluster).difference(&before).cloned().collect();
    assert_eq!(forgotten.len(), 6, "two chunks of a file on three servers");
    masters.iter().for_each(|name| cluster.stop(name));
    for name in &masters {
        put_back(&cluster.scratch(name), &cluster.node(name).dir.clone());
    }
    masters.iter().for_each(|name| cluster.start(name));
    cluster.wait_leader();
    // Terms went back, too: chunkservers obey nobody until there are newer ones.
    for _ in 0..3 {
        let leader = cluster.wait_leader();
        cluster.operator().args(["admin", "raft", "transfer-leader"]).run().ok();
        cluster.wait_leader_other_than(&leader);
    }
    cluster.wait_ready();
    assert_eq!(cluster.names("/"), ["known"]);

    // The same numbers would be given out again now.
    let new = fill(&cluster, "new", 3);
    cluster.gabion().args(["rm", "-r", "--now", "/known"]).run().ok();
    cluster.gabion().args(["rm", "--now", "/new/0"]).run().ok();
    until("the forgotten copies are counted", seconds(40), || {
        let found: u64 = inventories(&cluster)?.iter().map(|server| server.forgotten).sum();
        (found == 15).then_some(())
    });
    // Removed are what the masters know to be removed: /known and /new/0. Left are 5 forgotten chunks and 4 new ones.
    until("what was removed goes", seconds(40), || {
        (cluster.chunks_held() == 27).then_some(())
    });
    gabion_tests::wait::watch(seconds(6), || {
        let gone: Vec<_> = forgotten.iter().filter(|path| !path.exists()).collect();
        (!gone.is_empty()).then(|| format!("{gone:?} are gone"))
    });
    assert_eq!(cluster.chunks_held(), 27);
    assert!(inventories(&cluster).unwrap().iter().all(|server| server.unknown == 0));
    let status = cluster.operator().args(["admin", "inventory", "status"]).run().ok();
    assert!(
        status.text().contains("forgotten") && status.stderr.contains("old copy"),
        "{status}"
    );
    assert_right(&cluster, &new[2..]);
}

/// A server that holds very many copies comes back with an older copy of its disk and lacks ten: the leader finds all of them
/// within half a minute of its return, with default periods, though one bucket after the other is compared; they are made
/// anew. When the leader dies then, files are read at once, though the next one has to walk all rows before it compares.
#[test]
fn ten_missing_copies_of_very_many_are_found_within_half_a_minute() {
    const FOUND: u64 = 30;
    let many = scaled(2_000, 1_000_000);
    let mut cluster = Cluster::plan().start();
    let dir = cluster.scratch("many");
    for number in 0..many {
        let below = dir.join((number / 1000).to_string());
        if number % 1000 == 0 {
            std::fs::create_dir_all(&below).unwrap();
        }
        std::fs::write(below.join(number.to_string()), number.to_string()).unwrap();
    }
    let upload = cluster.gabion().args(["upload", "-r"]).arg(dir.join(".")).arg("/many");
    upload.deadline(seconds(scaled(60, 3600))).run().ok();
    cluster.stop("c1");
    let (copy, disk) = (cluster.scratch("c1"), cluster.node("c1").dir.clone());
    copy_dir(&disk, &copy);
    cluster.start("c1");
    cluster.wait_ready();
    let new = fill(&cluster, "new", 8);
    cluster.stop("c1");
    put_back(&copy, &disk);
    cluster.start("c1");
    cluster.wait_server("c1", true);

    let back = Instant::now();
    until("all ten are missed", seconds(2 * FOUND), || {
        inventory(&cluster, "c1").filter(|server| server.missing == 10)
    });
    let found = back.elapsed();
    eprintln!("ten missing copies beside {many} were found after {found:?}");
    assert!(found < seconds(FOUND), "found after {found:?}");
    // That they are missed is known before they are to be made: that no chunk lacks a copy says nothing yet.
    until("they are made anew", seconds(60), || {
        let held = inventory(&cluster, "c1").map_or(0, |server| server.copies);
        (held >= many + 10 && cluster.status().under_replicated == 0).then_some(())
    });
    assert_right(&cluster, &new);
    let held = inventory(&cluster, "c1").unwrap().copies;
    assert!(held >= many, "{held} copies are on the server: void");

    let leader = cluster.wait_leader();
    let killed = Instant::now();
    cluster.kill(&leader);
    assert_right(&cluster, &new);
    eprintln!(
        "{} files were read {:?} after the leader was killed",
        new.len(),
        killed.elapsed()
    );
    cluster.wait_leader_other_than(&leader);
    let told = inventories(&cluster).unwrap();
    let compares = |server: &ServerInventory| server.differing > 0;
    assert!(
        !told.iter().any(compares),
        "nothing differs, and nothing seems to: {told:?}"
    );
    cluster.start(&leader);
    cluster.wait_ready();
    cluster.assert_undamaged();
}
