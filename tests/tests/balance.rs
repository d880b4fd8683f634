//! A new, empty chunkserver fills up by itself until all are about as full, whoever leads meanwhile, and nothing is lost,
//! doubled or short of copies on the way. Needs root for small file systems of their own.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::time::Instant;

use gabion_protocol::ChunkId;
use gabion_protocol::messages::master::{BalancePlan, ChunkInfo, Query, ReplicaState, Response};
use gabion_tests::cluster::Cluster;
use gabion_tests::disk::SmallDisk;
use gabion_tests::skip::skip;
use gabion_tests::wait::{try_until, watch};
use gabion_tests::{MIB, content, scaled, seconds, until};

/// Steady soon, and a few copies at a time, so that there is a middle to strike in.
const SETTINGS: &str =
    "[repair]\nurgent = \"500ms\"\n[balance]\nbudget = \"12MiB\"\n[cluster]\nchunk_size = \"1MiB\"\n";

fn plan(cluster: &Cluster) -> BalancePlan {
    match cluster.query(&Query::BalancePlan).unwrap() {
        Response::BalancePlan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

/// How far each server that takes part is from the mean, in millionths of its space.
fn deviations(plan: &BalancePlan) -> Vec<(String, i64)> {
    let taking_part = plan.servers.iter().filter(|server| server.aside.is_none());
    let off = taking_part.map(|server| {
        let off = i64::from(server.used_ppm) - i64::from(plan.mean_ppm);
        (server.info.name.clone(), off)
    });
    off.collect()
}

fn row(cluster: &Cluster, chunk: ChunkId) -> ChunkInfo {
    match cluster.query(&Query::Chunk { chunk }).unwrap() {
        Response::Chunk(info) => info,
        other => panic!("{other:?}"),
    }
}

fn live(info: &ChunkInfo) -> usize {
    let copies = info.replicas.iter();
    copies.filter(|(_, _, state)| *state == ReplicaState::Live).count()
}

/// Chunks that a server holds, as it says itself.
fn held(cluster: &Cluster, name: &str) -> u64 {
    let servers = cluster.status().servers;
    servers
        .into_iter()
        .find(|server| server.name == name)
        .map_or(0, |server| server.load.chunks)
}

/// Says whether copies may be moved, as an operator does.
fn switch(cluster: &Cluster, verb: &str) {
    let tool = || cluster.operator().args(["admin", "balance", verb]);
    let shown = tool().run().ok();
    assert!(shown.stderr.contains("--apply"), "{shown}");
    tool().arg("--apply").run().ok();
}

/// Waits until the fourth server holds `least` chunks and copies are under way, then kills the leader. Gives its name.
fn kill_leader_in_the_middle(cluster: &mut Cluster, least: u64) -> String {
    until("copies are moved", seconds(60), || {
        (held(cluster, "c4") >= least && plan(cluster).moving > 0).then_some(())
    });
    let leader = cluster.wait_leader();
    let before = plan(cluster);
    assert!(
        deviations(&before).iter().any(|(_, off)| off.abs() > 50_000),
        "it was over before the kill: void"
    );
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    leader
}

#[test]
fn an_empty_fourth_server_fills_up_while_leaders_die_and_an_operator_stops_it() {
    const NAME: &str = "an_empty_fourth_server_fills_up_while_leaders_die_and_an_operator_stops_it";
    let mut disks = Vec::new();
    let size = scaled(256, 1024) * MIB;
    for _ in 0..4 {
        match SmallDisk::new(size) {
            Ok(disk) => disks.push(disk),
            Err(why) => return skip(NAME, &why),
        }
    }
    let mut cluster = Cluster::plan()
        .chunkservers(4)
        .master_tables(SETTINGS)
        .chunkserver_lines("reserve = \"8MiB\"\n");
    for (number, disk) in (1..).zip(&disks) {
        cluster = cluster.dir(&format!("c{number}"), &disk.path().join("data"));
    }
    let mut cluster = cluster.prepare();
    for name in ["m1", "m2", "m3", "c1", "c2", "c3"] {
        cluster.start(name);
    }
    cluster.wait_ready();

    // About half of each disk, in chunks of their own files; and some that live in the indexes.
    let dir = cluster.scratch("files");
    std::fs::create_dir_all(&dir).unwrap();
    let large = size * 45 / 100 / (8 * MIB);
    for seed in 0..large {
        content::file(&dir.join(format!("f{seed}")), seed, 8 * MIB);
    }
    for seed in 0..16 {
        content::file(&dir.join(format!("s{seed}")), 1000 + seed, 1000 + seed * 3000);
    }
    let outcome = cluster
        .gabion()
        .args(["upload", "-r"])
        .arg(dir.join("."))
        .arg("/d")
        .run();
    // On a busy machine a disk may be too slow for a moment: repair tops up what it missed.
    assert!([0, 8].contains(&outcome.code()), "{outcome}");
    let files: Vec<String> = cluster.names("/d");
    let chunks: BTreeSet<ChunkId> = files
        .iter()
        .flat_map(|name| cluster.locate(&format!("/d/{name}")).extents)
        .map(|extent| extent.chunk)
        .collect();
    assert_eq!(chunks.len() as u64, large * 8 + 16);
    until("every chunk has three copies", seconds(60), || {
        chunks.iter().all(|id| live(&row(&cluster, *id)) == 3).then_some(())
    });
    // What a writer gave up on a slow disk may have left a copy there that no row names: inventory's to find.
    let stored = 3 * chunks.len() as u64..=cluster.chunks_held();
    let alone = plan(&cluster);
    assert!(
        alone.moves.is_empty() && alone.moving == 0,
        "three servers hold all: {alone:?}"
    );

    cluster.start("c4");
    cluster.wait_server("c4", true);
    let began = Instant::now();
    until("there is something to move to c4", seconds(20), || {
        let shown = cluster
            .operator()
            .args(["admin", "balance", "plan", "-o", "json"])
            .run()
            .ok()
            .json();
        let to = shown["moves"]
            .as_array()?
            .iter()
            .any(|one| one["to_name"] == "c4" && one["copies"].as_u64() > Some(20));
        to.then_some(())
    });

    // An operator stops it, and it stays stopped when the leader dies.
    until("copies are moved", seconds(60), || {
        (held(&cluster, "c4") >= 8).then_some(())
    });
    cluster
        .gabion()
        .args(["admin", "balance", "stop", "--apply"])
        .run()
        .fails(6, &["cannot stop balance"]);
    switch(&cluster, "stop");
    until("what was under way has ended", seconds(30), || {
        let plan = plan(&cluster);
        (!plan.runs && plan.moving == 0).then_some(())
    });
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    cluster.start(&leader);
    cluster.wait_ready();
    until("orders have ended", seconds(30), || {
        chunks
            .iter()
            .all(|id| row(&cluster, *id).replicas.len() == 3)
            .then_some(())
    });
    let stopped = plan(&cluster);
    watch(seconds(4), || {
        let now = plan(&cluster);
        let same = !now.runs && now.moving == 0 && now.moves == stopped.moves;
        (!same).then(|| format!("copies are moved though it was stopped: {now:?}"))
    });
    assert!(
        stopped.moves.iter().any(|one| one.copies > 10),
        "it was over before: void: {stopped:?}"
    );

    // On again, and the leader dies in the middle.
    switch(&cluster, "start");
    let so_far = held(&cluster, "c4");
    let leader = kill_leader_in_the_middle(&mut cluster, so_far + 8);
    eprintln!("killed {leader} after {:?}", began.elapsed());
    let even = try_until(seconds(90), || {
        let plan = plan(&cluster);
        let near = deviations(&plan);
        let is_even = near.len() == 4 && near.iter().all(|(_, off)| off.abs() <= 50_000);
        (is_even && plan.moving == 0 && plan.moves.is_empty()).then_some(plan)
    });
    let Some(even) = even else {
        panic!("not even after {:?}: {:?}", began.elapsed(), plan(&cluster));
    };
    eprintln!("even after {:?}: {:?}", began.elapsed(), deviations(&even));

    // Exactly as many copies as wanted, no order left, and all bytes are what they were.
    until("every chunk has exactly its copies", seconds(30), || {
        let exact = |id: &ChunkId| {
            let info = row(&cluster, *id);
            assert!(live(&info) >= 3, "a chunk is short of copies: {info:?}");
            info.replicas.len() == 3
        };
        chunks.iter().all(exact).then_some(())
    });
    cluster.start(&leader);
    cluster.wait_ready();
    until("the disks are as the rows", seconds(20), || {
        stored.contains(&cluster.chunks_held()).then_some(())
    });
    let back = cluster.scratch("back");
    cluster.gabion().args(["download", "-r", "/d"]).arg(&back).run().ok();
    for name in &files {
        assert!(
            content::same(&dir.join(name), &back.join(name)),
            "{name} is not what was uploaded"
        );
    }
    cluster.assert_clean();
}
