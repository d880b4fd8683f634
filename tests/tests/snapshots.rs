//! Files that share their chunks: a copy takes no space, and what changes later in one does not show in the other.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, seconds, until};

/// Tokens short enough to wait for.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";

fn upload(cluster: &Cluster, path: &str, seed: u64, len: u64) -> Vec<u8> {
    let bytes = content::bytes(seed, len);
    let tool = cluster
        .gabion()
        .args(["upload", "--force", "--parents", "--chunk-size", "1MiB", "-", path]);
    tool.run_with(&bytes).ok();
    bytes
}

#[track_caller]
fn assert_content(cluster: &Cluster, path: &str, bytes: &[u8]) {
    let got = cluster.gabion().args(["cat", path]).run().ok().stdout;
    assert!(got == bytes, "{path} has other bytes than were stored");
}

#[test]
fn a_copy_shares_space_until_one_of_the_two_goes() {
    let mut cluster = Cluster::plan().master_tables(SHORT).start();
    let gabion = |arguments: &[&str]| cluster.gabion().args(arguments).run();
    let large = upload(&cluster, "/d/large", 1, 3 * MIB + 17);
    let small = upload(&cluster, "/d/small", 2, 1000);
    let files = cluster.chunk_files();

    let copied = gabion(&["cp", "/d/large", "/d/small", "/"]).ok();
    assert!(
        copied.stdout.is_empty() && copied.stderr.contains("copied 2 files"),
        "{copied}"
    );
    gabion(&["concat", "/d/small", "/d/large", "/large", "/all"]).ok();
    let all = [&small[..], &large, &large].concat();
    assert_content(&cluster, "/all", &all);
    assert_eq!(cluster.chunk_files(), files, "no byte was moved");
    let sums = gabion(&["checksum", "/d/large", "/large"]).ok();
    let sums: Vec<String> = sums.text().lines().map(|line| line[..8].to_owned()).collect();
    assert_eq!(sums[0], sums[1], "a copy has the original's checksum");

    gabion(&["cp", "/none", "/x"]).fails(3, &["/none"]);
    gabion(&["cp", "/d", "/x"]).fails(4, &["/d", "directory"]);
    gabion(&["cp", "/d/small", "/large"]).fails(4, &["/large", "--force"]);
    gabion(&["cp", "-T", "/large", "/large"]).fails(4, &["/large"]);

    // The original is replaced and the copy stays; the original goes and its copies keep their chunks.
    let other = upload(&cluster, "/d/large", 3, MIB);
    assert_content(&cluster, "/large", &large);
    gabion(&["rm", "--now", "-r", "/d"]).ok();
    let leader = cluster.leader().unwrap();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    cluster.start(&leader);
    // Four chunks of the large file and one of the small one, three copies each.
    until("the replacing file's chunk goes", seconds(20), || {
        (cluster.chunks_held() == 15).then_some(())
    });
    assert_content(&cluster, "/large", &large);
    assert_content(&cluster, "/small", &small);
    assert_content(&cluster, "/all", &all);
    assert!(other.len() as u64 == MIB);
    for gone in ["/all", "/large", "/small"] {
        cluster.gabion().args(["rm", "--now", gone]).run().ok();
    }
    until("the last copies free the chunks", seconds(20), || {
        (cluster.chunks_held() == 0).then_some(())
    });
    cluster.assert_clean();
}
