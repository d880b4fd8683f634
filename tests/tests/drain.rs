//! A chunkserver goes away as its operator wants it: drained, left alone for a while, removed. No copy that is needed goes,
//! whatever dies meanwhile, and who asks too early is told why.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::messages::master::{ChunkTrouble, Health, ReplicaState};
use gabion_tests::cluster::{Cluster, in_state};
use gabion_tests::files::Files;
use gabion_tests::load::Load;
use gabion_tests::{MIB, content, scaled, seconds, until};
use serde_json::Value;

/// Periods short enough to wait for; a server that is away for two seconds is lost.
const SHORT: &str = "[timing]\nsuspect = \"1200ms\"\nlost = \"2s\"\ntoken = \"3s\"\nupload_lease = \"10s\"\n[repair]\nurgent = \"500ms\"\n";

fn server<'a>(cluster: &Cluster, args: impl IntoIterator<Item = &'a str>) -> gabion_tests::command::Tool {
    cluster.operator().args(["admin", "server"]).args(args)
}

/// What the masters say a server holds.
fn held(cluster: &Cluster, name: &str) -> Option<Value> {
    let outcome = server(cluster, ["show", name, "-o", "json"]).run();
    (outcome.code() == 0).then(|| outcome.json())
}

fn condition(cluster: &Cluster, name: &str) -> Option<String> {
    let outcome = server(cluster, ["list", "-o", "json"]).run();
    let listed = (outcome.code() == 0).then(|| outcome.json())?;
    let servers = listed["servers"].as_array()?;
    let found = servers.iter().find(|server| server["name"] == name)?;
    Some(found["condition"].as_str()?.to_owned())
}

/// A server is drained while clients write, read and remove, and the leader is killed in the middle of it: all its copies
/// go elsewhere and nobody notices. Removing it is refused before, with the reason, and allowed after; then its directory
/// is refused, and an empty one joins under a new number. A drain that the leader keeps in its head, or a removal that
/// believes a copy under way, would break it.
#[test]
fn a_server_is_drained_under_load_though_the_leader_dies() {
    let plan = Cluster::plan().chunkservers(5).master_tables(SHORT);
    let mut cluster = plan.start();
    let files = Files::upload_in(&cluster, "8MiB", (scaled(10, 80), 15 * MIB), scaled(30, 2000));
    let chunks = files.chunks(&cluster);
    let drained = cluster.number_of("c2");
    let before = held(&cluster, "c2").unwrap();
    assert!(
        before["copies"].as_u64() > Some(10),
        "hardly anything lies there: void: {before}"
    );

    let refused = server(&cluster, ["remove", "c2", "--apply"]).run();
    refused.fails(4, &["cannot remove", "c2", "in service", "drain"]);
    let planned = server(&cluster, ["drain", "c2"]).run().ok();
    assert!(planned.stderr.contains("--apply"), "{planned}");
    assert_eq!(
        condition(&cluster, "c2").unwrap(),
        "in-service",
        "that was only the plan"
    );

    let load = Load::start(&cluster, 3);
    load.await_progress(10, seconds(60));
    server(&cluster, ["drain", "c2", "--apply"]).run().ok();
    let refused = server(&cluster, ["remove", "c2", "--apply"]).run();
    refused.fails(4, &["cannot remove", "c2", "fewer copies elsewhere", "repair"]);
    until("copies are on their way and some are left", seconds(60), || {
        let left = held(&cluster, "c2")?["needed"].as_u64()?;
        (cluster.copying() > 0 && left > 0).then_some(())
    });
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    let left = until("the new leader tells", seconds(20), || held(&cluster, "c2"));
    assert!(left["needed"].as_u64() > Some(0), "the drain was over: void: {left}");
    assert_eq!(left["condition"], "draining", "it is in the log");
    until("nothing is left there", seconds(scaled(90, 900)), || {
        let held = held(&cluster, "c2")?;
        (held["copies"] == 0 && held["unsettled"] == 0).then_some(())
    });
    cluster.start(&leader);
    cluster.wait_ready();
    load.await_progress(10, seconds(60));
    load.stop().assert_unnoticed(&cluster);
    cluster.await_whole(seconds(60));
    for id in &chunks {
        let info = cluster.chunk_row(*id);
        let live = in_state(&info, ReplicaState::Live);
        assert!(live.len() >= 3 && !live.contains(&drained), "{info:?}");
    }
    files.assert_right(&cluster);
    cluster.assert_clean();

    server(&cluster, ["remove", "c2", "--apply"]).run().ok();
    until("its row is gone", seconds(30), || {
        let servers = cluster.status().servers;
        servers.iter().all(|one| one.server != drained).then_some(())
    });
    cluster.stop("c2");
    cluster.start("c2");
    let (ended_well, said) = cluster.wait_ended("c2", seconds(20));
    assert!(!ended_well, "a removed server came back: {said}");
    let said = &said[said
        .rfind("was removed")
        .unwrap_or_else(|| panic!("it says why: {said}"))..];
    assert!(said.contains("empty directory"), "and what to do: {said}");
    std::fs::remove_dir_all(&cluster.node("c2").dir).unwrap();
    cluster.start("c2");
    cluster.wait_ready();
    assert!(cluster.number_of("c2") > drained, "numbers are not used again");
    files.assert_right(&cluster);
    cluster.assert_clean();
}

fn disk<'a>(cluster: &Cluster, args: impl IntoIterator<Item = &'a str>) -> gabion_tests::command::Tool {
    cluster.operator().args(["admin", "disk"]).args(args)
}

/// What the leader was told of the victim's disks: the state and number of copies of each directory.
fn disks_of(cluster: &Cluster, server: &str) -> Vec<(String, String, u64)> {
    let listed = disk(cluster, ["list", "--server", server, "-o", "json"]).run();
    if listed.code() != 0 {
        return Vec::new();
    }
    let disks = listed.json()["disks"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |disk: Value| {
        (
            text(&disk["directory"]),
            text(&disk["state"]),
            disk["copies"].as_u64().unwrap_or(0),
        )
    };
    disks.into_iter().map(told).collect()
}

/// One of two disks of a server is drained, and the leader is killed in the middle of it: its copies go to other servers, the
/// other disk is left alone, and the word is on the disk, so neither a restart nor another leader forgets it. Too few servers
/// are a reason to refuse. A drain that lives in a leader's memory, or on all of a server, would break it.
#[test]
fn a_disk_is_drained_though_the_leader_and_its_server_are_restarted() {
    let second = tempfile::tempdir().unwrap();
    let plan = Cluster::plan().chunkservers(4).master_tables(SHORT);
    let mut cluster = plan.second_dir("c2", second.path()).start();
    let files = Files::upload_in(&cluster, "4MiB", (scaled(10, 80), 15 * MIB), scaled(30, 2000));
    let chunks = files.chunks(&cluster);
    let number = cluster.number_of("c2");
    let drained = second.path().to_str().unwrap().to_owned();
    let of = |cluster: &Cluster, directory: &str| disks_of(cluster, "c2").into_iter().find(|disk| disk.0 == directory);
    let before = until("both disks are told of, with their copies", seconds(20), || {
        of(&cluster, &drained).filter(|disk| disk.2 > 5)
    });
    assert_eq!(before.1, "serving");

    disk(&cluster, ["drain", "c2", "/nowhere", "--apply"])
        .run()
        .fails(3, &["c2", "no disk", "/nowhere"]);
    let planned = disk(&cluster, ["drain", "c2", &drained]).run().ok();
    assert!(
        planned.stderr.contains("--apply") && planned.stderr.contains("cop"),
        "{planned}"
    );
    assert_eq!(of(&cluster, &drained).unwrap().1, "serving", "that was only the plan");
    cluster.stop("c4");
    cluster.wait_server("c4", false);
    let refused = disk(&cluster, ["drain", "c2", &drained, "--apply"]).run();
    refused.fails(5, &["cannot drain", "2 other servers", "3 copies", "add a chunkserver"]);
    cluster.start("c4");
    cluster.wait_ready();

    disk(&cluster, ["drain", "c2", &drained, "--apply"]).run().ok();
    assert_eq!(
        of(&cluster, &drained).unwrap().1,
        "draining",
        "the tool waits for the server"
    );
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    cluster.kill("c2");
    cluster.start("c2");
    cluster.start(&leader);
    cluster.wait_ready();
    until("nothing is left on it", seconds(scaled(90, 900)), || {
        of(&cluster, &drained).filter(|disk| disk.1 == "draining" && disk.2 == 0)
    });
    cluster.await_whole(seconds(60));
    files.assert_right(&cluster);
    let first = disks_of(&cluster, "c2")
        .into_iter()
        .find(|disk| disk.0 != drained)
        .unwrap();
    assert!(
        first.1 == "serving" && first.2 > 5,
        "the other disk serves on: {first:?}"
    );
    let kept = chunks
        .iter()
        .filter(|id| in_state(&cluster.chunk_row(**id), ReplicaState::Live).contains(&number));
    assert!(kept.count() > 5, "only that disk was emptied");
    // What comes to the server goes to the other disk.
    for seed in 0..8 {
        let upload = [
            "upload",
            "--parents",
            "--chunk-size",
            "1MiB",
            "-",
            &format!("/more/{seed}"),
        ]
        .map(str::to_owned);
        cluster
            .gabion()
            .args(upload)
            .run_with(&content::bytes(seed, 3 * MIB))
            .ok();
    }
    until("the new copies are told of", seconds(20), || {
        of(&cluster, &first.0).filter(|disk| disk.2 > first.2)
    });
    assert_eq!(of(&cluster, &drained).unwrap().2, 0, "a drained disk takes nothing");

    disk(&cluster, ["drain", "c2", &drained, "--cancel", "--apply"])
        .run()
        .ok();
    assert_eq!(of(&cluster, &drained).unwrap().1, "serving");
    assert!(!second.path().join("draining").exists());
    files.assert_right(&cluster);
    cluster.assert_clean();
}

/// A server in maintenance is away for longer than it takes to be lost: nothing is copied, and reads go on. When it is back
/// in time nothing was done; when its time is over and it is still away, its copies are made anew like any other's.
#[test]
fn maintenance_holds_repair_back_and_ends() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let files = Files::upload(&cluster, 5, 12);
    let chunks = files.chunks(&cluster);
    let numbers = |cluster: &Cluster| -> Vec<_> {
        let rows = chunks.iter().map(|id| cluster.chunk_row(*id).replicas);
        rows.collect()
    };
    let before = numbers(&cluster);
    server(&cluster, ["maintenance", "c1", "--for", "10m", "--apply"])
        .run()
        .ok();
    cluster.kill("c1");
    until("it counts as lost", seconds(20), || {
        let servers = cluster.status().servers;
        let away = servers.into_iter().find(|one| one.name == "c1")?;
        (away.health == Health::Lost).then_some(())
    });
    // Five times as long as a lost server's chunks wait.
    gabion_tests::wait::watch(seconds(5), || {
        let copying = cluster.copying();
        (copying > 0).then(|| format!("{copying} copies are made of a server in maintenance"))
    });
    assert_eq!(numbers(&cluster), before);
    files.assert_right(&cluster);
    cluster.start("c1");
    cluster.wait_ready();
    assert_eq!(numbers(&cluster), before, "back in time, nothing has changed");

    server(&cluster, ["maintenance", "c1", "--end", "--apply"]).run().ok();
    server(&cluster, ["maintenance", "c1", "--for", "6s", "--apply"])
        .run()
        .ok();
    assert_eq!(condition(&cluster, "c1").unwrap(), "maintenance");
    cluster.kill("c1");
    until("its time is over, and its copies are missed", seconds(30), || {
        (!cluster.troubled(ChunkTrouble::Under).is_empty() && condition(&cluster, "c1")? == "in-service").then_some(())
    });
    let dead = cluster.number_of("c1");
    until("three copies are elsewhere", seconds(60), || {
        let whole = |info: gabion_protocol::messages::master::ChunkInfo| {
            let live = in_state(&info, ReplicaState::Live);
            live.iter().filter(|server| **server != dead).count() == 3
        };
        chunks.iter().all(|id| whole(cluster.chunk_row(*id))).then_some(())
    });
    files.assert_right(&cluster);
    // Dead and replaced, it can be removed without a drain.
    server(&cluster, ["remove", "c1", "--apply"]).run().ok();
    until("its row is gone", seconds(30), || {
        let servers = cluster.status().servers;
        servers.iter().all(|one| one.server != dead).then_some(())
    });
    cluster.assert_clean();
}
