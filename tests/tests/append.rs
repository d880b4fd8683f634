//! Files that change: writers that die, overwrites, lengths, readers that follow. Many writers at one end: `records`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::Read as _;

use gabion_client::{CreateOptions, ErrorCode};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::{connect, get, put};
use gabion_tests::{content, seconds, until};
use rustix::process::Signal;

const LOG: &str = "/log";

/// A client that is killed while it appends leaves a prefix of what it had, in whole chunks, and holds nobody up.
#[test]
fn a_killed_writer_leaves_a_prefix() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("source");
    content::file(&local, 7, 256 << 20);
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let options = CreateOptions {
        chunk_bytes: Some(1 << 20),
        ..CreateOptions::default()
    };
    cluster
        .runtime()
        .block_on(client.create_empty(&fs_path(LOG), options))
        .unwrap();
    let local_text = local.to_str().unwrap().to_owned();
    let mut writer = cluster.gabion().args(["append", local_text.as_str(), LOG]).start();
    let length = || cluster.stat(LOG).unwrap().length;
    until("some of it is there", seconds(30), || {
        (length() >= 4 << 20).then_some(())
    });
    writer.signal(Signal::KILL);
    writer.wait();
    cluster.gabion().args(["append", "-", LOG]).run_with(b"the end").ok();
    let whole = cluster.runtime().block_on(get(&client, LOG)).unwrap();
    let (kept, end) = whole.split_at(whole.len() - 7);
    assert_eq!(end, b"the end");
    assert!(
        kept.len() < 256 << 20 && kept.len().is_multiple_of(1 << 20),
        "{} bytes were kept",
        kept.len()
    );
    assert!(
        kept == &content::bytes(7, 256 << 20)[..kept.len()],
        "what is there is no prefix"
    );
    cluster.assert_clean();
}

/// A file is what a sequence of changes makes of it, byte for byte, however it is read; and its tools say what they do
/// not know.
#[test]
fn a_file_is_what_was_made_of_it() {
    let cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let mut expected = content::bytes(1, 300 << 10);
    let path = fs_path("/f");
    cluster.runtime().block_on(async {
        put(&client, "/f", &expected, CreateOptions::default()).await.unwrap();
        let file = client.open_file(&path).await.unwrap();
        for (seed, offset, len) in [
            (2, 100 << 10, 50 << 10),
            (3, (100 << 10) + 7, 200 << 10),
            (4, 1 << 20, 5),
            (5, 0, 1),
            (6, (1 << 20) + 5, 3 << 20),
        ] {
            let new = content::bytes(seed, len as u64);
            file.write_at(offset as u64, new.clone()).await.unwrap();
            expected.resize(expected.len().max(offset + len), 0);
            expected[offset..offset + len].copy_from_slice(&new);
            assert!(
                get(&client, "/f").await.unwrap() == expected,
                "after {len} bytes at {offset}"
            );
        }
        for length in [2 << 20, 3 << 20, (200 << 10) + 3] {
            file.truncate(length as u64).await.unwrap();
            expected.resize(length, 0);
            assert!(get(&client, "/f").await.unwrap() == expected, "at {length} bytes");
        }
        let offset = file.append(&b"end"[..]).await.unwrap();
        assert_eq!(offset, expected.len() as u64);
        expected.extend(b"end");
    });
    let there = cluster.scratch("there");
    std::fs::write(&there, &expected).unwrap();
    let there = there.to_str().unwrap();
    let back = cluster.scratch("back");
    cluster
        .gabion()
        .args(["download", "/f", back.to_str().unwrap()])
        .run()
        .ok();
    assert!(std::fs::read(&back).unwrap() == expected, "downloaded");
    assert!(
        cluster.gabion().args(["cat", "/f"]).run().ok().stdout == expected,
        "written out"
    );
    let crc = format!("{:08x}", gabion_protocol::checksum::crc(&expected));
    let told = cluster.gabion().args(["checksum", "/f"]).run().ok().text();
    assert!(told.starts_with("unknown"), "{told}");
    let told = cluster.gabion().args(["checksum", "--deep", "/f"]).run().ok().text();
    assert!(told.starts_with(&crc), "{told}");
    cluster.verify().args(["tree", there, "/f"]).run().ok();
    cluster.verify().args(["tree", "--quick", there, "/f"]).run().ok();
    // Appending to a file whose checksum is known keeps it known.
    cluster.gabion().args(["upload", there, "/g"]).run().ok();
    cluster.gabion().args(["append", there, there, "/g"]).run().ok();
    cluster.gabion().args(["truncate", "2MiB", "/g"]).run().ok();
    let mut thrice = expected.repeat(3);
    thrice.resize(2 << 20, 0);
    let crc = format!("{:08x}", gabion_protocol::checksum::crc(&thrice));
    let told = cluster.gabion().args(["checksum", "--deep", "/g"]).run().ok().text();
    assert!(told.starts_with(&crc), "{told}");
    assert_eq!(cluster.stat("/g").unwrap().crc, u32::from_str_radix(&crc, 16).unwrap());
    cluster.gabion().args(["setrep", "2", "/g"]).run().ok();
    assert_eq!(cluster.stat("/g").unwrap().replicas, 2);
    cluster.assert_clean();
}

/// What `tail -f` prints is what comes to the file, in order, also when that begins anew or makes way for another.
#[test]
fn a_reader_follows() {
    let cluster = Cluster::plan().start();
    cluster.gabion().args(["upload", "-", LOG]).run_with(b"old\none\n").ok();
    let mut tail = cluster.gabion().args(["tail", "-n", "1", "-f", LOG]).start_piped();
    let mut out = tail.stdout.take().unwrap();
    let mut expect = |text: &str| {
        let mut bytes = vec![0; text.len()];
        out.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    };
    expect("one\n");
    cluster.gabion().args(["append", "-", LOG]).run_with(b"two\n").ok();
    expect("two\n");
    cluster.gabion().args(["truncate", "4", LOG]).run().ok();
    expect("old\n");
    cluster
        .gabion()
        .args(["upload", "-f", "-", LOG])
        .run_with(b"another\n")
        .ok();
    expect("another\n");
    tail.signal(Signal::INT);
    let ended = tail.wait();
    assert_eq!(ended.code(), 130);
    for said in ["became shorter", "was replaced"] {
        assert!(ended.stderr.contains(said), "{ended}");
    }
}

/// A writer that is alone keeps others out, and lets them in when it is done.
#[test]
fn a_lone_writer_keeps_others_out_until_it_is_done() {
    let cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster.runtime().block_on(async {
        let path = fs_path(LOG);
        client.create_empty(&path, CreateOptions::default()).await.unwrap();
        let other = client.open_file(&path).await.unwrap();
        let alone = client.open_exclusive(&path).await.unwrap();
        alone.append(&b"1"[..]).await.unwrap();
        let refused = other.append(&b"2"[..]).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Conflict);
        assert!(refused.report().contains("only writer"), "{}", refused.report());
        assert_eq!(
            client.open_exclusive(&path).await.unwrap_err().code(),
            ErrorCode::Conflict
        );
        drop(alone);
        let open = async {
            while other.append(&b"3"[..]).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        // Long before a lease would end by itself.
        tokio::time::timeout(seconds(5), open)
            .await
            .expect("a lease that is given back is over");
        assert_eq!(get(&client, LOG).await.unwrap(), b"13");
    });
}
