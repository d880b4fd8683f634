//! Uploads, and servers that fail them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use gabion_protocol::checksum::crc;
use gabion_protocol::messages::master::{Entry, Op};
use gabion_protocol::{ErrorCode, FsPath, ServerId};
use tokio::io::AsyncWriteExt as _;

use super::fakes::{CHUNK, Cluster, Mood};
use crate::{Client, CreateOptions, Error};

fn path() -> FsPath {
    FsPath::parse("/file").unwrap()
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

async fn upload(client: &Client, bytes: &[u8]) -> Result<Entry, Error> {
    let mut writer = client.create(&path(), CreateOptions::default()).await?;
    for part in bytes.chunks(77_777) {
        writer.write(part).await?;
    }
    writer.finish().await
}

async fn upload_from_file(client: &Client, bytes: &[u8]) -> Result<Entry, Error> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let length = bytes.len() as u64;
    client
        .upload_file(&path(), CreateOptions::default(), file, length, |_| ())
        .await
}

/// Every copy the masters know of holds exactly the file's bytes.
async fn assert_stored(cluster: &Cluster, client: &Client, bytes: &[u8]) -> usize {
    let (entry, extents) = client.locate(&path()).await.unwrap();
    assert_eq!((entry.length, entry.crc), (bytes.len() as u64, crc(bytes)));
    let state = cluster.state.lock();
    let mut copies = usize::MAX;
    let mut end = 0;
    for extent in &extents {
        assert_eq!(extent.offset, end as u64);
        let part = &bytes[end..end + extent.length as usize];
        for replica in &extent.replicas {
            assert!(state.servers[&replica.server].chunks[&extent.chunk] == part);
        }
        copies = copies.min(extent.replicas.len());
        end += part.len();
    }
    assert_eq!(end, bytes.len());
    copies
}

#[tokio::test]
async fn every_size_is_stored_whole() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let chunk = CHUNK as usize;
    for len in [
        0,
        1,
        65_535,
        65_536,
        65_537,
        131_072,
        131_073,
        chunk - 1,
        chunk,
        chunk + 1,
        3 * chunk + 5,
    ] {
        let client = cluster.client().await;
        let path = path();
        let options = CreateOptions {
            replace: true,
            ..CreateOptions::default()
        };
        let bytes = content(len);
        let mut writer = client.create(&path, options.clone()).await.unwrap();
        writer.write(&bytes).await.unwrap();
        assert_eq!(writer.written(), len as u64);
        let entry = writer.finish().await.unwrap();
        assert!(!entry.degraded);
        assert_stored(&cluster, &client, &bytes).await;

        let mut stream = client.create(&path, options).await.unwrap().into_stream();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.entry().unwrap().length, len as u64);
        assert_stored(&cluster, &client, &bytes).await;
    }
    drop(client);
}

#[tokio::test]
async fn a_small_file_costs_two_commands() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    upload(&client, &content(4096)).await.unwrap();
    let state = cluster.state.lock();
    assert!(
        matches!(&state.ran[..], [Op::OpenSized { .. }, Op::Commit { .. }]),
        "{:?}",
        state.ran
    );
}

#[tokio::test]
async fn a_hung_server_is_left_out_and_the_file_is_degraded() {
    for (from_file, hung) in [(false, 1), (true, 2), (false, 3)] {
        let cluster = Cluster::start(1, 3).await;
        let client = cluster.client().await;
        cluster.server(hung, |server| server.hang_after = Some(1));
        let bytes = content(3 * CHUNK as usize + 100);
        let begun = Instant::now();
        let entry = match from_file {
            true => upload_from_file(&client, &bytes).await.unwrap(),
            false => upload(&client, &bytes).await.unwrap(),
        };
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(entry.degraded, "two of three copies are told as such");
        assert_eq!(assert_stored(&cluster, &client, &bytes).await, 2);
    }
}

#[tokio::test]
async fn a_server_whose_bytes_are_damaged_on_the_way_is_left_out() {
    // Everything on its way to one server; then everything on its way from one, which others complain of.
    let to = |server| -> Vec<(u32, u32)> { (0..4).map(|from| (from, server)).collect() };
    let from_first = vec![(1, 2), (1, 3)];
    for garbled in [to(1), to(2), to(3), from_first] {
        for len in [1000, 3 * CHUNK as usize + 100] {
            let cluster = Cluster::start(1, 3).await;
            cluster.state.lock().garbled = garbled.clone();
            let client = cluster.client().await;
            let bytes = content(len);
            let begun = Instant::now();
            let entry = upload(&client, &bytes)
                .await
                .unwrap_or_else(|error| panic!("{garbled:?}: {}", error.report()));
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(4), "{garbled:?}: {took:?}");
            assert!(entry.degraded, "two of three copies are told as such");
            assert_eq!(assert_stored(&cluster, &client, &bytes).await, 2);
        }
    }
}

#[tokio::test]
async fn with_a_spare_server_nothing_is_degraded() {
    let cluster = Cluster::start(1, 4).await;
    let client = cluster.client().await;
    cluster.server(2, |server| server.mood = Mood::Hung);
    let bytes = content(2 * CHUNK as usize);
    let entry = upload(&client, &bytes).await.unwrap();
    assert!(!entry.degraded);
    assert_eq!(assert_stored(&cluster, &client, &bytes).await, 3);
    let told = cluster.state.lock().ran.iter().any(|op| match op {
        Op::GrantChunks { avoid, abandoned, .. } => avoid.contains(&ServerId(2)) && !abandoned.is_empty(),
        _ => false,
    });
    assert!(
        told,
        "the masters hear which server to avoid and which chunk was given up"
    );
}

#[tokio::test]
async fn a_server_killed_in_mid_upload_costs_no_error() {
    let cluster = Cluster::start(1, 4).await;
    let client = cluster.client().await;
    let bytes = content(6 * CHUNK as usize);
    let mut writer = client.create(&path(), CreateOptions::default()).await.unwrap();
    writer.write(&bytes[..bytes.len() / 2]).await.unwrap();
    cluster.kill_server(1);
    writer.write(&bytes[bytes.len() / 2..]).await.unwrap();
    assert!(!writer.finish().await.unwrap().degraded);
    assert_eq!(assert_stored(&cluster, &client, &bytes).await, 3);
}

#[tokio::test]
async fn a_full_server_is_avoided_small_and_large() {
    for len in [1000, 2 * CHUNK as usize] {
        let cluster = Cluster::start(1, 4).await;
        let client = cluster.client().await;
        cluster.server(2, |server| server.full = true);
        let bytes = content(len);
        upload(&client, &bytes).await.unwrap();
        assert_eq!(assert_stored(&cluster, &client, &bytes).await, 3);
    }
}

#[tokio::test]
async fn a_small_file_survives_a_hung_server() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    cluster.server(3, |server| server.mood = Mood::Hung);
    assert!(upload(&client, b"small").await.unwrap().degraded);
    assert_eq!(assert_stored(&cluster, &client, b"small").await, 2);
}

#[tokio::test]
async fn when_all_fail_each_is_named() {
    let cluster = Cluster::start(1, 3).await;
    let config = crate::Config {
        wait: Duration::from_secs(1),
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    (1..=3).for_each(|id| cluster.kill_server(id));
    let error = upload(&client, &content(200_000)).await.unwrap_err();
    assert_eq!(error.exit_code(), 5, "{}", error.report());
    let report = error.report();
    assert!(report.contains("cannot write /file"), "{report}");
    assert!(
        (1..=3).all(|id| report.contains(&format!("c{id} 127.0.0.1:"))),
        "{report}"
    );
}

#[tokio::test]
async fn a_commit_whose_answers_are_lost_is_found_done() {
    let cluster = Cluster::start(1, 3).await;
    let config = crate::Config {
        wait: Duration::from_secs(1),
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    let mut writer = client.create(&path(), CreateOptions::default()).await.unwrap();
    writer.write(b"small").await.unwrap();
    cluster.state.lock().lose_answers = u32::MAX;
    assert_eq!(writer.finish().await.unwrap().length, 5);
}

#[tokio::test]
async fn a_refusal_comes_before_any_byte_and_an_abort_leaves_nothing() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    upload(&client, b"one").await.unwrap();
    let error = client.create(&path(), CreateOptions::default()).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), (ErrorCode::Exists, 4));
    assert_eq!(error.to_string(), "cannot write /file: /file exists");

    let other = FsPath::parse("/other").unwrap();
    let mut writer = client.create(&other, CreateOptions::default()).await.unwrap();
    writer.write(b"two").await.unwrap();
    writer.abort().await.unwrap();
    drop(client.create(&other, CreateOptions::default()).await.unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let aborted = cluster
        .state
        .lock()
        .ran
        .iter()
        .filter(|op| matches!(op, Op::AbortUpload { .. }))
        .count();
    assert_eq!(aborted, 2);
    assert_eq!(client.stat(&other).await.unwrap_err().exit_code(), 3);
}

#[tokio::test]
async fn a_local_file_that_became_shorter_is_told() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    for len in [200, CHUNK] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len / 2).unwrap();
        let uploaded = client
            .upload_file(&path(), CreateOptions::default(), file, len, |_| ())
            .await;
        let error = uploaded.unwrap_err();
        assert!(error.report().contains("shorter"), "{}", error.report());
        assert_eq!(client.stat(&path()).await.unwrap_err().code(), ErrorCode::NotFound);
    }
    assert!(matches!(cluster.state.lock().ran.last(), Some(Op::AbortUpload { .. })));
}

#[tokio::test]
async fn progress_never_goes_back() {
    let cluster = Cluster::start(1, 4).await;
    let client = cluster.client().await;
    cluster.server(3, |server| server.hang_after = Some(2));
    let bytes = content(3 * CHUNK as usize);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(vec![0]));
    let told = std::sync::Arc::clone(&seen);
    let progress = move |stored| told.lock().push(stored);
    let length = bytes.len() as u64;
    client
        .upload_file(&path(), CreateOptions::default(), file, length, progress)
        .await
        .unwrap();
    let seen = seen.lock();
    assert!(seen.is_sorted() && seen.last() == Some(&length), "{seen:?}");
}
