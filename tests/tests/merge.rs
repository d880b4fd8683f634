//! Files written in little pieces come to lie in few chunks, by the cluster itself, and nobody can tell but by how many
//! there are.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_client::{Client, CreateOptions};
use gabion_protocol::messages::master::{Query, Response};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::{connect, get};
use gabion_tests::{content, seconds, until};

/// Tokens short enough to wait for: what is merged away goes when they have expired.
const SHORT: &str = "[timing]\ntoken = \"2s\"\n";
const LOG: &str = "/d/log";
/// What a file that rests may be left in: each merge leaves at most seven that are alike.
const FEW: u64 = 24;

/// Large chunks made by this leader, under way, and files that wait.
fn merges(cluster: &Cluster) -> (u64, u64, u64) {
    match cluster.query(&Query::Merges) {
        Ok(Response::Merges {
            done,
            under_way,
            waiting,
        }) => (done, under_way, waiting),
        other => panic!("{other:?}"),
    }
}

fn await_merged(cluster: &Cluster) {
    until("all is merged", seconds(60), || {
        let (_, under_way, waiting) = merges(cluster);
        (under_way + waiting == 0).then_some(())
    });
}

fn extents(cluster: &Cluster, path: &str) -> u64 {
    cluster.stat(path).unwrap().children
}

/// Chunks of a file in few extents, of which several may be of one chunk.
fn chunks(cluster: &Cluster, path: &str) -> u64 {
    cluster.chunks_of([&path.to_owned()]).len() as u64
}

/// Appends little pieces to a file and to what is expected of it.
async fn append(client: &Client, path: &str, seeds: std::ops::Range<u64>, expected: &mut Vec<u8>) {
    let file = client.open_file(&fs_path(path)).await.unwrap();
    for seed in seeds {
        let piece = content::bytes(seed, 100 + seed * 37 % 4000);
        let offset = file.append(piece.clone()).await.unwrap();
        assert_eq!(offset, expected.len() as u64);
        expected.extend_from_slice(&piece);
    }
}

async fn overwrite(client: &Client, path: &str, seeds: std::ops::Range<u64>, expected: &mut [u8]) {
    let file = client.open_file(&fs_path(path)).await.unwrap();
    for seed in seeds {
        let piece = content::bytes(seed, 1 + seed * 53 % 3000);
        let offset = (seed * 7919 % (expected.len() - piece.len()) as u64) as usize;
        file.write_at(offset as u64, piece.clone()).await.unwrap();
        expected[offset..offset + piece.len()].copy_from_slice(&piece);
    }
}

fn create(cluster: &Cluster, client: &Client, path: &str) {
    let options = CreateOptions {
        parents: true,
        ..CreateOptions::default()
    };
    let path = fs_path(path);
    let made = client.create_empty(&path, options);
    cluster.runtime().block_on(made).unwrap();
}

/// Hundreds of appends and overwrites with a snapshot in between, while the leader is killed in the middle of a merge: few
/// chunks are left, the bytes are the same for those who read before and after, the snapshot shows what it showed, and the
/// small chunks leave the disks when nobody needs them.
#[test]
fn a_file_of_little_pieces_becomes_one_of_few() {
    let cluster = &mut Cluster::plan().master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    create(cluster, &client, LOG);
    let mut expected = Vec::new();
    cluster.runtime().block_on(append(&client, LOG, 0..250, &mut expected));
    cluster.gabion().args(["snapshot", "create", "/d@then"]).run().ok();
    let then = expected.clone();
    let shown = cluster.stat("/d/.snapshot/then/log").unwrap();
    cluster.runtime().block_on(async {
        overwrite(&client, LOG, 250..400, &mut expected).await;
        append(&client, LOG, 400..450, &mut expected).await;
    });
    let before = cluster.stat(LOG).unwrap();
    let reader = cluster.runtime().block_on(client.open(&fs_path(LOG))).unwrap();
    let whole = expected.len() as u64;
    let read = cluster.runtime().block_on(reader.read_at(0, whole)).unwrap();
    assert!(read == expected, "before it is merged");

    until("a merge is under way", seconds(30), || {
        let (_, under_way, _) = merges(cluster);
        (under_way > 0).then_some(())
    });
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    await_merged(cluster);
    let after = cluster.stat(LOG).unwrap();
    eprintln!("{} extents became {}", before.children, after.children);
    assert!(before.children > 100, "{} extents to begin with: void", before.children);
    assert!(
        after.children <= FEW,
        "{} extents are left of {}",
        after.children,
        before.children
    );
    let alike = gabion_client::Entry {
        children: before.children,
        ..after
    };
    assert_eq!(alike, before, "what is told of the file");

    let now = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    assert!(now == expected, "after it was merged");
    let snapshot = || {
        cluster
            .gabion()
            .args(["cat", "/d/.snapshot/then/log"])
            .run()
            .ok()
            .stdout
    };
    assert!(snapshot() == then, "the snapshot");
    assert_eq!(cluster.stat("/d/.snapshot/then/log").unwrap(), shown);
    let told = cluster.gabion().args(["snapshot", "diff", "/d@then"]).run().ok().text();
    assert!(told.contains("log"), "{told}");

    cluster.start(&leader);
    cluster.wait_ready();
    cluster.gabion().args(["snapshot", "rm", "/d@then"]).run().ok();
    until("what is merged away leaves the disks", seconds(60), || {
        (cluster.chunks_held() == 3 * chunks(cluster, LOG)).then_some(())
    });
    // Who has known where the bytes were asks where they are.
    let read = cluster.runtime().block_on(reader.read_at(0, whole)).unwrap();
    assert!(read == expected, "as somebody reads it who began before");
    cluster.verify().arg("masters").run().ok();
    cluster.assert_clean();
}

/// Servers that build chunks die in the middle: what is left of it is made elsewhere, or later, and nothing is lost.
#[test]
fn who_builds_a_chunk_may_die() {
    let cluster = &mut Cluster::plan().chunkservers(4).master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    create(cluster, &client, LOG);
    let mut expected = Vec::new();
    for round in 0..3 {
        let seeds = round * 100..(round + 1) * 100;
        cluster.runtime().block_on(append(&client, LOG, seeds, &mut expected));
        let victim = format!("c{}", round + 1);
        until("a merge is under way", seconds(30), || {
            let (_, under_way, _) = merges(cluster);
            (under_way > 0).then_some(())
        });
        cluster.kill(&victim);
        let now = cluster.runtime().block_on(get(&client, LOG)).unwrap();
        assert!(now == expected, "while {victim} is dead");
        cluster.start(&victim);
        cluster.wait_ready();
    }
    await_merged(cluster);
    assert!(
        extents(cluster, LOG) <= FEW,
        "{} extents are left",
        extents(cluster, LOG)
    );
    let now = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    assert!(now == expected, "at the end");
    cluster.await_whole(seconds(60));
    until("nothing is left over on the disks", seconds(60), || {
        (cluster.chunks_held() == 3 * chunks(cluster, LOG)).then_some(())
    });
    cluster.assert_clean();
}

/// A file that somebody appends to without a pause does not grow in pieces for ever, and loses none.
#[test]
fn an_appender_need_not_pause() {
    let cluster = &mut Cluster::plan().master_tables(SHORT).start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    create(cluster, &client, LOG);
    let mut expected = Vec::new();
    let mut seed = 0;
    until("its beginning is merged while it grows", seconds(60), || {
        let seeds = seed..seed + 50;
        seed += 50;
        cluster.runtime().block_on(append(&client, LOG, seeds, &mut expected));
        (merges(cluster).0 > 1).then_some(())
    });
    let left = extents(cluster, LOG);
    assert!(left < seed, "{seed} appends left {left} extents");
    let now = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    assert!(now == expected, "{seed} appends");
    let status = cluster
        .operator()
        .args(["admin", "status", "-o", "json"])
        .run()
        .ok()
        .json();
    assert!(status["merges_done"].as_u64().unwrap() > 1, "{status}");
    cluster.assert_clean();
}
