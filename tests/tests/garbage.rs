//! What nobody can reach any more leaves the disks, by logged decisions; what somebody can still reach stays (P5).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read as _, Write as _};

use gabion_tests::cluster::{Cluster, Plan};
use gabion_tests::{MIB, content, seconds, until};

/// Tokens and leases short enough to wait for.
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"3s\"\n";

fn plan() -> Plan {
    Cluster::plan().master_tables(SHORT)
}

fn upload(cluster: &Cluster, path: &str, seed: u64, len: u64) -> Vec<u8> {
    let bytes = content::bytes(seed, len);
    let tool = cluster
        .gabion()
        .args(["upload", "--force", "--chunk-size", "1MiB", "-", path]);
    tool.run_with(&bytes).ok();
    bytes
}

#[track_caller]
fn await_counts(cluster: &Cluster, files: usize, held: u64) {
    let mut seen = (0, 0);
    let what = format!("{files} chunk files and {held} chunks are left");
    let done = gabion_tests::wait::try_until(seconds(60), || {
        seen = (cluster.chunk_files(), cluster.chunks_held());
        (seen == (files, held)).then_some(())
    });
    assert!(done.is_some(), "waited in vain: {what}; there are {seen:?}");
}

/// Chunks of removed, replaced, aborted and abandoned files disappear from every disk, also of a server that was down
/// at the time; those of live files stay. A chunk dropped by one server's own judgement, or never, would break it.
#[test]
fn what_was_removed_leaves_the_disks_and_nothing_else_does() {
    let mut cluster = plan().start();
    let kept = upload(&cluster, "/kept", 1, 3 * MIB);
    let small = upload(&cluster, "/small", 2, 1000);
    await_counts(&cluster, 9, 12);

    upload(&cluster, "/removed", 3, 2 * MIB);
    upload(&cluster, "/removed-small", 4, 1000);
    upload(&cluster, "/replaced", 5, 2 * MIB);
    await_counts(&cluster, 21, 27);
    cluster.kill("c3");
    cluster
        .gabion()
        .args(["rm", "--now", "/removed", "/removed-small"])
        .run()
        .ok();
    let replaced = content::bytes(6, 500);
    let outcome = cluster
        .gabion()
        .args(["upload", "--force", "-", "/replaced"])
        .run_with(&replaced);
    // Whether the masters have noticed yet or not: two can have a copy.
    outcome.fails(8, &["2 of 3 copies", "degraded"]);
    cluster.start("c3");
    cluster.wait_ready();
    // Of the new small file there were two copies, as c3 was down; the third is made now.
    await_counts(&cluster, 9, 15);

    // The writer dies without a word: its lease runs out.
    let mut dead = cluster
        .gabion()
        .args(["upload", "--chunk-size", "1MiB", "-", "/never"])
        .start_piped();
    dead.stdin
        .as_mut()
        .unwrap()
        .write_all(&content::bytes(7, 5 * MIB))
        .unwrap();
    until("the upload reaches the disks", seconds(20), || {
        (cluster.chunk_files() > 9).then_some(())
    });
    dead.signal(rustix::process::Signal::KILL);
    until("the dead writer's chunks are gone", seconds(60), || {
        (cluster.chunk_files() == 9).then_some(())
    });
    assert_eq!(cluster.stat("/never"), None);

    for (path, bytes) in [("/kept", kept), ("/small", small), ("/replaced", replaced)] {
        assert!(
            cluster.gabion().args(["cat", path]).run().ok().stdout == bytes,
            "{path} is untouched"
        );
    }
    cluster.verify().arg("masters").run().ok();
    cluster
        .gabion()
        .args(["rm", "--now", "/kept", "/small", "/replaced"])
        .run()
        .ok();
    await_counts(&cluster, 0, 0);
}

/// A reader who was let in goes on reading after the file is removed: its chunks wait for the last read token.
#[test]
fn a_reader_is_not_cut_off_by_a_removal() {
    let cluster = Cluster::plan().start();
    let bytes = upload(&cluster, "/f", 1, 40 * MIB);
    let mut reader = cluster.gabion().args(["cat", "/f"]).start_piped();
    let mut stdout = reader.stdout.take().unwrap();
    let mut got = vec![0; MIB as usize];
    stdout.read_exact(&mut got).unwrap();
    cluster.gabion().args(["rm", "--now", "/f"]).run().ok();
    cluster.gabion().args(["cat", "/f"]).run().fails(3, &["/f"]);
    stdout.read_to_end(&mut got).unwrap();
    reader.wait().ok();
    assert!(got == bytes, "{} bytes came", got.len());
}

/// Restarts decide nothing: after every process was killed and came back, and all masters' views are new, every chunk
/// is still there.
#[test]
fn restarts_delete_nothing() {
    let mut cluster = plan().start();
    let bytes = upload(&cluster, "/f", 1, 3 * MIB);
    for _ in 0..2 {
        cluster.kill_all();
        cluster.start_all();
        cluster.wait_ready();
        // Longer than every token and lease.
        gabion_tests::wait::watch(seconds(4), || {
            let files = cluster.chunk_files();
            (files != 9).then(|| format!("{files} chunk files are left of 9"))
        });
    }
    assert!(cluster.gabion().args(["cat", "/f"]).run().ok().stdout == bytes);
    cluster.assert_clean();
}
