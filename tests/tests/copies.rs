//! How many copies a file has: from one to as many as there may be, raised and lowered while the file is used, whoever
//! leads, and each copy where the masters say.

use gabion_protocol::ChunkId;
use gabion_protocol::messages::master::ReplicaState;
use gabion_tests::cluster::{Cluster, in_state};
use gabion_tests::{MIB, content, seconds, until};

/// Short periods, so that what is too much goes soon.
const SHORT: &str = "[timing]\nsuspect = \"1200ms\"\nlost = \"4s\"\ntoken = \"2s\"\n[repair]\nurgent = \"500ms\"\n";
/// Servers, and most copies a file can want.
const SERVERS: u8 = 10;

/// Files of one small chunk and of several, and what they hold.
fn upload(cluster: &Cluster, replicas: u8) -> Vec<(String, Vec<u8>)> {
    let files = [("small", 5_000), ("large", 3 * MIB + 7)];
    let files = files.map(|(name, len)| (format!("/d/{name}"), content::bytes(len, len)));
    for (path, bytes) in &files {
        let tool = cluster.gabion().args(["upload", "--parents", "--chunk-size", "1MiB"]);
        let tool = tool.args(["--replicas", &replicas.to_string(), "-", path]);
        tool.run_with(bytes).ok();
    }
    files.into()
}

fn live(cluster: &Cluster, chunk: ChunkId) -> usize {
    in_state(&cluster.chunk_row(chunk), ReplicaState::Live).len()
}

/// Waits until each chunk has exactly so many copies in the masters' eyes, and the servers hold no more and no fewer.
fn await_copies(cluster: &Cluster, files: &[(String, Vec<u8>)], wanted: u8) {
    let chunks = cluster.chunks_of(files.iter().map(|(path, _)| path));
    assert!(chunks.len() > files.len(), "one of them has several chunks");
    until(&format!("{wanted} copies of each chunk"), seconds(60), || {
        let all = chunks.iter().all(|chunk| live(cluster, *chunk) == usize::from(wanted));
        all.then_some(())
    });
    until("the servers hold what is wanted", seconds(60), || {
        (cluster.chunks_held() == chunks.len() as u64 * u64::from(wanted)).then_some(())
    });
    for (path, bytes) in files {
        assert_eq!(cluster.stat(path).map(|entry| entry.replicas), Some(wanted), "{path}");
        let got = cluster.gabion().args(["cat", path]).run().ok();
        assert!(got.stdout == *bytes, "{path} with {wanted} copies");
    }
}

/// A tree has ten copies of all, then two, then five while the leader dies, then one, and each time exactly those, on as
/// many servers; `-w` comes back when they are there. Nothing is lost on the way.
#[test]
fn copies_are_made_and_dropped_as_files_want_them() {
    let mut cluster = Cluster::plan()
        .chunkservers(u64::from(SERVERS))
        .master_tables(SHORT)
        .start();
    let files = upload(&cluster, SERVERS);
    await_copies(&cluster, &files, SERVERS);
    cluster.assert_clean();

    cluster.gabion().args(["setrep", "2", "-R", "/d"]).run().ok();
    await_copies(&cluster, &files, 2);

    cluster.gabion().args(["setrep", "5", "-R", "/d"]).run().ok();
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    await_copies(&cluster, &files, 5);
    cluster.start(&leader);
    cluster.wait_ready();

    let set = cluster.gabion().args(["setrep", "7", "-R", "-w", "/d"]);
    set.deadline(seconds(60)).run().ok();
    for chunk in cluster.chunks_of(files.iter().map(|(path, _)| path)) {
        assert_eq!(live(&cluster, chunk), 7, "-w came back before");
    }
    cluster.gabion().args(["setrep", "1", "-R", "/d"]).run().ok();
    await_copies(&cluster, &files, 1);
    let more = cluster.gabion().args(["setrep", "11", "/d/small"]).run();
    assert_eq!(more.code(), 2, "{more}");
    cluster.assert_clean();
}
