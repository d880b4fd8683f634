//! Lost copies are made anew by the cluster itself, those in most need first, and nothing is lost or left over on the
//! way (DESIGN §5, §8.4).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::{Duration, Instant};

use gabion_protocol::messages::master::{ChunkInfo, ChunkTrouble, ReplicaState};
use gabion_protocol::{ChunkId, ServerId};
use gabion_tests::cluster::{Cluster, in_state};
use gabion_tests::files::Files;
use gabion_tests::{MIB, content, damage, scaled, seconds, until};

/// Periods short enough to wait for; a server that is away for two seconds is lost.
const SHORT: &str = "[timing]\nsuspect = \"1200ms\"\nlost = \"2s\"\n[repair]\nurgent = \"500ms\"\n";

/// One of four servers dies with all it holds: every chunk has three copies again, each read and compared, and when the
/// server comes back what is too much goes, and never more.
#[test]
fn a_lost_server_is_replaced_and_its_return_leaves_nothing_over() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let files = Files::upload(&cluster, scaled(8, 60), scaled(24, 2000));
    let chunks = files.chunks(&cluster);
    cluster.kill("c2");
    let dead = cluster
        .status()
        .servers
        .into_iter()
        .find(|server| server.name == "c2")
        .unwrap()
        .server;
    let lost = chunks
        .iter()
        .filter(|id| in_state(&cluster.chunk_row(**id), ReplicaState::Live).contains(&dead))
        .count();
    assert!(lost > 5, "hardly anything lay there: void");
    until("the masters miss copies", seconds(15), || {
        (!cluster.troubled(ChunkTrouble::Under).is_empty()).then_some(())
    });
    let listed = cluster
        .operator()
        .args(["admin", "chunk", "list", "--state", "under", "-o", "jsonl"])
        .run()
        .ok();
    if let Some(line) = listed.text().lines().next() {
        let chunk: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(chunk["id"].is_string() && chunk["wanted"] == 3, "{line}");
    }
    cluster.await_whole(seconds(60));
    for id in &chunks {
        let info = cluster.chunk_row(*id);
        let live = in_state(&info, ReplicaState::Live);
        assert_eq!(live.iter().filter(|server| **server != dead).count(), 3, "{info:?}");
    }
    files.assert_right(&cluster);
    let status = cluster
        .operator()
        .args(["admin", "status", "-o", "json"])
        .run()
        .ok()
        .json();
    assert_eq!(
        (&status["under_replicated"], &status["copies_in_progress"]),
        (&0.into(), &0.into())
    );

    cluster.start("c2");
    cluster.wait_ready();
    let some: Vec<ChunkId> = chunks.iter().copied().take(8).collect();
    until("what is too much is dropped", seconds(60), || {
        for id in &some {
            let live = in_state(&cluster.chunk_row(*id), ReplicaState::Live).len();
            assert!(live >= 3, "chunk {id} has {live} copies left");
        }
        chunks
            .iter()
            .all(|id| cluster.chunk_row(*id).replicas.len() == 3)
            .then_some(())
    });
    cluster.assert_clean();
    let held: u64 = cluster.status().servers.iter().map(|server| server.load.chunks).sum();
    assert!(held >= 3 * chunks.len() as u64, "{held} chunks are held");
    until("the disks are as the rows", seconds(20), || {
        let held: u64 = cluster.status().servers.iter().map(|server| server.load.chunks).sum();
        (held == 3 * chunks.len() as u64).then_some(())
    });
}

/// Stops a server in its tracks in the middle of a copy: the copy is known to be neither made nor given up. Gives it, and
/// a server the chunk is copied from.
fn freeze_target(cluster: &mut Cluster) -> (String, String) {
    for _ in 0..50 {
        let (chunk, target, source) = until("a copy is being made", seconds(30), || {
            let under = cluster.troubled(ChunkTrouble::Under);
            let found = under
                .into_iter()
                .find(|chunk| !in_state(&chunk.info, ReplicaState::Copying).is_empty())?;
            let target = in_state(&found.info, ReplicaState::Copying)[0];
            Some((found.info.chunk, target, *found.reachable.first()?))
        });
        let (name, source) = (cluster.name_of(target), cluster.name_of(source));
        cluster.pause(&name);
        // What it said before is taken by now, or never.
        let still = |info: &ChunkInfo| in_state(info, ReplicaState::Copying).contains(&target);
        let ended = gabion_tests::wait::try_until(Duration::from_millis(300), || {
            (!still(&cluster.chunk_row(chunk))).then_some(())
        });
        if ended.is_none() {
            return (name, source);
        }
        cluster.resume(&name);
    }
    panic!("no copy was met in its middle: void");
}

/// While copies are being made, first their target is killed, then their source, then the leader that ordered them:
/// whoever is left goes on, and all ends with three good copies.
#[test]
fn source_target_and_leader_may_die_in_the_middle() {
    let mut cluster = Cluster::plan().chunkservers(6).master_tables(SHORT).start();
    let files = Files::upload_in(&cluster, "16MiB", (scaled(10, 60), 15 * MIB), 10);
    let chunks = files.chunks(&cluster);
    cluster.kill("c1");
    let (target, _) = freeze_target(&mut cluster);
    cluster.kill(&target);
    eprintln!("killed a target, {target}");
    cluster.await_whole(seconds(60));
    cluster.start("c1");
    cluster.start(&target);
    cluster.wait_ready();
    cluster.await_exact(&chunks, 3);
    files.assert_right(&cluster);

    // A source, and with it the leader.
    cluster.kill("c2");
    let (target, source) = freeze_target(&mut cluster);
    let leader = cluster.wait_leader();
    cluster.kill(&source);
    cluster.kill(&leader);
    cluster.resume(&target);
    eprintln!("killed a source, {source}, and the leader, {leader}");
    cluster.wait_leader_other_than(&leader);
    cluster.await_whole(seconds(60));
    files.assert_right(&cluster);
    cluster.start_all();
    cluster.wait_ready();
    cluster.await_exact(&chunks, 3);
    cluster.assert_clean();
}

/// Two of five die at once, with the periods an operator gets: nothing is lost, chunks of which one copy is left are
/// copied within ten seconds, and before any other.
#[test]
fn the_last_copies_are_made_anew_first_and_soon() {
    last_copies(false);
}

/// As soon if the leader dies with them, though the next one has heard nothing of any server yet.
#[test]
fn the_last_copies_are_made_anew_as_soon_under_another_leader() {
    last_copies(true);
}

fn last_copies(with_leader: bool) {
    let mut cluster = Cluster::plan().chunkservers(5).start();
    let files = Files::upload(&cluster, 8, 16);
    let chunks = files.chunks(&cluster);
    let ids: Vec<ServerId> = ["c1", "c2"]
        .iter()
        .map(|name| {
            cluster
                .status()
                .servers
                .into_iter()
                .find(|one| one.name == *name)
                .unwrap()
                .server
        })
        .collect();
    let lost = |id: &ChunkId| {
        let live = in_state(&cluster.chunk_row(*id), ReplicaState::Live);
        live.iter().filter(|server| ids.contains(server)).count()
    };
    let (mut last, mut others) = (Vec::new(), Vec::new());
    for id in &chunks {
        match lost(id) {
            2 => last.push(*id),
            1 => others.push(*id),
            _ => {}
        }
    }
    assert!(
        !last.is_empty() && !others.is_empty(),
        "{} and {}: void",
        last.len(),
        others.len()
    );
    let struck = Instant::now();
    cluster.kill("c1");
    cluster.kill("c2");
    if with_leader {
        let leader = cluster.wait_leader();
        cluster.kill(&leader);
    }
    let good = |id: &ChunkId| {
        let live = in_state(&cluster.chunk_row(*id), ReplicaState::Live);
        live.iter().filter(|server| !ids.contains(server)).count()
    };
    until("a last copy is made anew", seconds(20), || {
        last.iter().any(|id| good(id) > 1).then_some(())
    });
    let first = struck.elapsed();
    eprintln!(
        "first copy of {} after {first:?}, the leader killed: {with_leader}",
        last.len()
    );
    assert!(first <= seconds(10), "the first took {first:?}");
    assert!(
        others.iter().all(|id| good(id) == 2),
        "others were copied before their servers were lost"
    );
    until("no last copy is left", seconds(10), || {
        last.iter().all(|id| good(id) > 1).then_some(())
    });
    assert!(
        others.iter().all(|id| good(id) == 2),
        "others were copied before the last copies"
    );
    cluster.await_whole(seconds(60));
    assert!(cluster.troubled(ChunkTrouble::Missing).is_empty());
    files.assert_right(&cluster);
}

/// What was written while the third server was away is topped up when it is back.
#[test]
fn what_was_written_short_is_topped_up() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    cluster.kill("c3");
    cluster.wait_server("c3", false);
    for (path, len) in [("/small", 500), ("/large", 5 * MIB)] {
        let tool = cluster.gabion().args(["upload", "--chunk-size", "2MiB", "-", path]);
        tool.run_with(&content::bytes(len, len)).fails(8, &["2 of 3 copies"]);
        assert!(cluster.stat(path).unwrap().degraded);
    }
    cluster.start("c3");
    until("the files are whole", seconds(30), || {
        let whole = |path: &str| !cluster.stat(path).unwrap().degraded;
        (whole("/small") && whole("/large")).then_some(())
    });
    cluster.assert_clean();
}

/// A bit flips on one copy. Who reads the copy finds it, its server sets it aside, and a good copy takes its place: on
/// another server if there is one, else in the same place.
#[test]
fn a_damaged_copy_is_replaced_by_a_good_one() {
    for servers in [3, 4] {
        let cluster = Cluster::plan().chunkservers(servers).master_tables(SHORT).start();
        let bytes = content::bytes(7, 3 * MIB);
        cluster
            .gabion()
            .args(["upload", "--chunk-size", "4MiB", "-", "/f"])
            .run_with(&bytes)
            .ok();
        let extent = cluster.locate("/f").extents.remove(0);
        let victim = extent.replicas[0].server;
        let name = cluster.name_of(victim);
        let path = cluster.chunk_file(&name, extent.chunk).unwrap();
        damage::flip_bit(&path, 1_000_000);
        let found = cluster.verify().args(["replicas", "/f"]).run();
        let chunk = extent.chunk.to_string();
        assert!(
            found.code() == 7 && found.text().contains(&chunk),
            "it names {chunk}: {found}"
        );
        until("a good copy takes its place", seconds(30), || {
            let info = cluster.chunk_row(extent.chunk);
            let healed = info.replicas.len() == 3
                && in_state(&info, ReplicaState::Live).len() == 3
                && info
                    .replicas
                    .iter()
                    .all(|(_, number, _)| *number != extent.replicas[0].token.grant.replica);
            (healed && cluster.troubled(ChunkTrouble::Damaged).is_empty()).then_some(())
        });
        cluster.assert_clean();
        assert!(cluster.gabion().args(["cat", "/f"]).run().ok().stdout == bytes);
    }
}

/// A source's bytes are wrong: the copy comes from the next one, and the wrong one is found out and replaced, too.
#[test]
fn a_wrong_source_is_noticed_and_passed_over() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let bytes = content::bytes(9, 3 * MIB);
    cluster
        .gabion()
        .args(["upload", "--chunk-size", "4MiB", "-", "/f"])
        .run_with(&bytes)
        .ok();
    let extent = cluster.locate("/f").extents.remove(0);
    let holders: Vec<String> = extent
        .replicas
        .iter()
        .map(|copy| cluster.name_of(copy.server))
        .collect();
    // One of the two sources that will be left is bad, and read from or not; with a good one there is always a way.
    damage::flip_bit(&cluster.chunk_file(&holders[0], extent.chunk).unwrap(), 2_000_000);
    cluster.kill(&holders[2]);
    until("another good copy is made", seconds(30), || {
        let info = cluster.chunk_row(extent.chunk);
        let fresh = in_state(&info, ReplicaState::Live);
        let known: Vec<ServerId> = extent.replicas.iter().map(|copy| copy.server).collect();
        fresh.iter().any(|server| !known.contains(server)).then_some(())
    });
    cluster.start(&holders[2]);
    cluster.wait_ready();
    // Whether the copy met the bad source is chance; a reader of all copies meets it.
    let _ = cluster.verify().args(["replicas", "/f"]).run();
    until("three good copies are left", seconds(30), || {
        let info = cluster.chunk_row(extent.chunk);
        let gone = info
            .replicas
            .iter()
            .all(|(_, number, _)| *number != extent.replicas[0].token.grant.replica);
        (gone && info.replicas.len() == 3 && in_state(&info, ReplicaState::Live).len() == 3).then_some(())
    });
    cluster.assert_clean();
    assert!(cluster.gabion().args(["cat", "/f"]).run().ok().stdout == bytes);
}

/// An operator looks at a chunk, one copy of which has a flipped bit that nobody has met yet, and has it repaired: the plan
/// changes nothing; with `--apply` the copies are read again, the bad one is found and replaced, and the answer says so.
#[test]
fn an_operator_has_a_chunk_repaired() {
    let mut cluster = Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let bytes = content::bytes(11, 3 * MIB);
    let tool = cluster
        .gabion()
        .args(["upload", "--parents", "--chunk-size", "4MiB", "-", "/a/f"]);
    tool.run_with(&bytes).ok();
    let extent = cluster.locate("/a/f").extents.remove(0);
    let id = extent.chunk.to_string();
    let chunk = |args: &[&str]| cluster.operator().args(["admin", "chunk"]).args(args).run();
    let shown = chunk(&["show", &id, "-o", "json"]).ok().json();
    assert_eq!(
        (&shown["phase"], &shown["present"], &shown["owner_path"]),
        (&"sealed".into(), &3.into(), &"/a/f".into()),
        "{shown}"
    );
    let bad = extent.replicas[1].token.grant.replica;
    let name = cluster.name_of(extent.replicas[1].server);
    damage::flip_bit(&cluster.chunk_file(&name, extent.chunk).unwrap(), 1_234_567);
    let planned = chunk(&["repair", &id]).ok();
    assert!(
        planned.stderr.contains("--apply") && planned.stderr.contains(&name),
        "{planned}"
    );
    assert_eq!(cluster.status().damaged, 0, "that was only the plan");
    let repaired = chunk(&["repair", &id, "--apply", "-o", "json"]).ok();
    assert_eq!(repaired.json()["present"], 3, "{repaired}");
    cluster.await_exact(&[extent.chunk].into(), 3);
    let rows = cluster.chunk_row(extent.chunk).replicas;
    assert!(
        rows.iter().all(|(_, number, _)| *number != bad),
        "the bad copy is there: {rows:?}"
    );
    until("nothing is held against a copy", seconds(10), || {
        (cluster.status().damaged == 0).then_some(())
    });
    chunk(&["show", "0-1-999999"]).fails(3, &["0-1-999999"]);
    let client = cluster
        .gabion()
        .args(["admin", "chunk", "repair", &id, "--apply"])
        .run();
    assert_eq!(client.code(), 6, "a client's key does not do: {client}");
    cluster.assert_clean();
    assert!(cluster.gabion().args(["cat", "/a/f"]).run().ok().stdout == bytes);
    cluster.assert_all_run();
}
