//! Ctrl-C in the middle of things leaves nothing behind, here or there.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read as _, Write as _};

use gabion_tests::cluster::Cluster;
use gabion_tests::command::left_in;
use gabion_tests::{MIB, content, damage, seconds, until};
use rustix::process::Signal;

const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"60s\"\n";

fn chunk_files(cluster: &Cluster) -> usize {
    let of = |name: &String| damage::chunk_files(&cluster.node(name).dir).len();
    cluster.chunkservers().iter().map(of).sum()
}

/// An interrupted upload ends with 130 at once, no file appears, and what had been stored is removed without waiting
/// for a lease to run out (60 s here, longer than this test waits).
#[test]
fn an_interrupted_upload_leaves_nothing() {
    let cluster = Cluster::plan().master_tables(SHORT).start();
    cluster.gabion().args(["upload", "-", "/old"]).run_with(b"old").ok();
    for remote in ["/new", "/old"] {
        let tool = cluster
            .gabion()
            .args(["upload", "--force", "--chunk-size", "1MiB", "-", remote]);
        let mut upload = tool.start_piped();
        upload
            .stdin
            .as_mut()
            .unwrap()
            .write_all(&content::bytes(1, 5 * MIB))
            .unwrap();
        until("the upload reaches the disks", seconds(20), || {
            (chunk_files(&cluster) > 0).then_some(())
        });
        // stdin stays open: it is the signal that ends it.
        let stdin = upload.stdin.take();
        upload.signal(Signal::INT);
        let outcome = upload.wait();
        drop(stdin);
        let outcome = outcome.fails(130, &["interrupted"]);
        assert!(outcome.took < seconds(20), "{outcome}");
        until("what was stored is removed", seconds(30), || {
            (chunk_files(&cluster) == 0).then_some(())
        });
    }
    assert_eq!(cluster.names("/"), ["old"]);
    assert_eq!(cluster.gabion().args(["cat", "/old"]).run().ok().stdout, b"old");
}

/// An interrupted download ends with 130 and leaves no file under the name, and no temporary one either.
#[test]
fn an_interrupted_download_leaves_nothing() {
    let mut cluster = Cluster::plan().start();
    let local = cluster.scratch("big");
    content::file(&local, 1, 96 * MIB);
    cluster
        .gabion()
        .args(["upload", "--chunk-size", "1MiB"])
        .arg(&local)
        .arg("/big")
        .run()
        .ok();
    let dir = cluster.scratch("downloads");
    std::fs::create_dir(&dir).unwrap();
    // All servers hang as soon as some bytes have come: it is certainly in the middle.
    let mut download = cluster.gabion().args(["download", "/big"]).arg(dir.join("big")).start();
    until("some bytes have come", seconds(20), || {
        left_in(&dir).iter().any(|(_, len)| *len > 0).then_some(())
    });
    for name in cluster.chunkservers() {
        cluster.pause(&name);
    }
    assert!(download.is_running(), "it was too quick to be interrupted: void");
    assert!(!dir.join("big").exists(), "the name appears only with the whole file");
    download.signal(Signal::INT);
    download.wait().fails(130, &["interrupted"]);
    assert_eq!(left_in(&dir), []);
    for name in cluster.chunkservers() {
        cluster.resume(&name);
    }
}

/// A reader of a pipe who goes away ends the download; it is not an error anybody needs to read about at length, and
/// not a crash.
#[test]
fn a_closed_pipe_ends_a_download() {
    let cluster = Cluster::plan().start();
    cluster
        .gabion()
        .args(["upload", "-", "/f"])
        .run_with(&content::bytes(1, 20 * MIB))
        .ok();
    let mut cat = cluster.gabion().args(["cat", "/f"]).start_piped();
    let mut stdout = cat.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    drop(stdout);
    let outcome = cat.wait();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert!(outcome.took < seconds(20), "{outcome}");
}
