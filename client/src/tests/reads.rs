//! Downloads, and copies that are slow, gone or wrong.

use std::time::{Duration, Instant};

use gabion_protocol::messages::master::Op;
use gabion_protocol::{ErrorCode, FsPath, ServerId};
use tokio::io::AsyncReadExt as _;

use super::fakes::{CHUNK, Cluster, Mood};
use super::writes::content;
use crate::{Client, CreateOptions, DownloadOptions};

fn path() -> FsPath {
    FsPath::parse("/file").unwrap()
}

async fn stored(len: usize) -> (std::sync::Arc<Cluster>, Client, Vec<u8>) {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let bytes = content(len);
    let mut writer = client.create(&path(), CreateOptions::default()).await.unwrap();
    writer.write(&bytes).await.unwrap();
    writer.finish().await.unwrap();
    (cluster, client, bytes)
}

fn reports(cluster: &Cluster) -> Vec<ServerId> {
    let state = cluster.state.lock();
    let reported = state.ran.iter().filter_map(|op| match op {
        Op::ReportDamage { server, .. } => Some(*server),
        _ => None,
    });
    reported.collect()
}

#[tokio::test]
async fn ranges_are_exact() {
    let (_cluster, client, bytes) = stored(2 * CHUNK as usize + 70_000).await;
    let file = client.open(&path()).await.unwrap();
    let len = bytes.len() as u64;
    for (offset, length) in [
        (0, 1),
        (65_535, 2),
        (CHUNK - 1, 2),
        (CHUNK + 3, 100_000),
        (0, len),
        (5, len),
        (len, 1),
        (len + 9, 1),
        (7, 0),
    ] {
        let read = file.read_at(offset, length).await.unwrap();
        let from = offset.min(len) as usize;
        let to = (offset + length).min(len) as usize;
        assert_eq!(read, bytes[from..to], "{offset}+{length}");
    }
    let mut streamed = Vec::new();
    file.stream().read_to_end(&mut streamed).await.unwrap();
    assert!(streamed == bytes);
    assert!(client.read(&path()).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_empty_file_reads_and_downloads() {
    let (_cluster, client, _) = stored(0).await;
    assert!(client.read(&path()).await.unwrap().is_empty());
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("empty");
    let file = client.open(&path()).await.unwrap();
    file.download_file(&target, DownloadOptions::default().sync(true), |_| ())
        .await
        .unwrap();
    assert_eq!(std::fs::read(target).unwrap(), b"");
}

#[tokio::test]
async fn a_wrong_copy_is_reported_and_never_given_out() {
    let (cluster, client, bytes) = stored(3 * CHUNK as usize).await;
    for bad in [1, 2] {
        cluster.server(bad, |server| server.corrupt = true);
    }
    let file = client.open(&path()).await.unwrap();
    for _ in 0..5 {
        assert!(file.read_at(0, bytes.len() as u64).await.unwrap() == bytes);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!reports(&cluster).is_empty());
    assert!(
        reports(&cluster).iter().all(|server| server.0 != 3),
        "the sound one is not blamed"
    );

    cluster.server(3, |server| server.corrupt = true);
    let error = client.read(&path()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.exit_code()),
        (ErrorCode::Corrupt, 7),
        "{}",
        error.report()
    );
    assert_eq!(error.details().tried.len(), 3, "each copy is named: {}", error.report());
}

#[tokio::test]
async fn an_older_chunk_with_consistent_checksums_is_not_taken() {
    let (cluster, client, bytes) = stored(100_000).await;
    for old in [1, 3] {
        cluster.server(old, |server| {
            server.chunks.values_mut().for_each(|chunk| chunk.fill(9));
        });
    }
    assert!(client.read(&path()).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_refused_token_is_renewed() {
    let (cluster, client, bytes) = stored(100_000).await;
    for id in 1..=3 {
        cluster.server(id, |server| server.refuse_tokens = 1);
    }
    assert!(client.read(&path()).await.unwrap() == bytes);
    assert!(reports(&cluster).is_empty(), "an expired token is no damage");
}

#[tokio::test]
async fn a_slow_copy_is_hedged() {
    let (cluster, client, bytes) = stored(2 * CHUNK as usize).await;
    for slow in [1, 2] {
        cluster.server(slow, |server| server.read_delay = Duration::from_secs(20));
    }
    let begun = Instant::now();
    assert!(client.read(&path()).await.unwrap() == bytes);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn hung_and_dead_servers_cost_no_error_in_mid_download() {
    let (cluster, client, bytes) = stored(8 * CHUNK as usize).await;
    let file = client.open(&path()).await.unwrap();
    let mut stream = file.stream();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    cluster.kill_server(1);
    cluster.server(2, |server| server.mood = Mood::Hung);
    while let Some(next) = stream.next().await.unwrap() {
        read.extend_from_slice(&next);
    }
    assert!(read == bytes);
}

#[tokio::test]
async fn verifying_waits_for_a_busy_server_and_gives_a_hung_one_up() {
    let (cluster, client, _) = stored(3 * CHUNK as usize).await;
    let (_, extents) = client.locate(&path()).await.unwrap();
    cluster.server(1, |server| server.busy_verdicts = 3);
    cluster.server(2, |server| server.mood = Mood::Hung);
    let copy_on = |id| {
        let find = |extent: &&gabion_protocol::messages::master::Extent| {
            let on = extent.replicas.iter().find(|replica| replica.server == ServerId(id));
            on.cloned().map(|replica| ((*extent).clone(), replica))
        };
        extents.iter().find_map(|extent| find(&extent)).unwrap()
    };
    let (extent, replica) = copy_on(1);
    client.verify_replica(&extent, &replica).await.unwrap();
    let (extent, replica) = copy_on(2);
    for longest in [Duration::from_secs(5), Duration::from_millis(100)] {
        let begun = Instant::now();
        let error = client.verify_replica(&extent, &replica).await.unwrap_err();
        assert_eq!(error.exit_code(), 5, "{}", error.report());
        assert!(begun.elapsed() < longest, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn waiting_in_vain_for_a_server_is_not_repeated_for_every_file() {
    let cluster = Cluster::start(1, 3).await;
    let config = crate::Config {
        wait: Duration::from_secs(3),
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    let file = |name: &str| FsPath::parse(&format!("/{name}")).unwrap();
    // One copy is on the first server, two are on the first two.
    for (name, replicas) in [("a", 1), ("b", 1), ("c", 1), ("two", 2)] {
        let options = CreateOptions {
            replicas: Some(replicas),
            ..CreateOptions::default()
        };
        let mut writer = client.create(&file(name), options).await.unwrap();
        writer.write(content(200_000)).await.unwrap();
        writer.finish().await.unwrap();
    }
    cluster.server(1, |server| server.mood = Mood::Hung);
    for (name, at_least, at_most) in [("a", 3.0, 14.0), ("b", 0.0, 2.0), ("c", 0.0, 2.0)] {
        let begun = Instant::now();
        let error = client.read(&file(name)).await.unwrap_err();
        let took = begun.elapsed().as_secs_f64();
        assert!((at_least..at_most).contains(&took), "{name}: {took} s");
        assert_eq!(error.exit_code(), 5, "{}", error.report());
        let report = error.report();
        assert!(
            report.contains(&format!("/{name}")) && report.contains("c1 "),
            "{report}"
        );
    }
    assert_eq!(client.read(&file("two")).await.unwrap().len(), 200_000);
    // Whoever is back is seen at once.
    cluster.server(1, |server| server.mood = Mood::Well);
    assert_eq!(client.read(&file("b")).await.unwrap().len(), 200_000);
    assert_eq!(client.read(&file("a")).await.unwrap().len(), 200_000);
}

#[tokio::test]
async fn a_stream_that_failed_stays_failed() {
    let (cluster, client, bytes) = stored(4 * CHUNK as usize).await;
    let file = client.open(&path()).await.unwrap();
    for id in 1..=3 {
        let corrupt = |server: &mut super::fakes::Server| {
            let first = server.chunks.keys().next().copied().unwrap();
            server.chunks.remove(&first);
        };
        cluster.server(id, corrupt);
    }
    let mut stream = file.stream();
    let error = stream.next().await.unwrap_err();
    for _ in 0..5 {
        assert_eq!(stream.next().await.unwrap_err().code(), error.code());
    }
    let rest = file.read_at(CHUNK, CHUNK).await.unwrap();
    assert!(
        rest == bytes[CHUNK as usize..2 * CHUNK as usize],
        "other pieces can be read"
    );
}

#[tokio::test]
async fn a_download_appears_whole_or_not_at_all() {
    let (cluster, client, bytes) = stored(3 * CHUNK as usize + 1).await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("copy");
    let file = client.open(&path()).await.unwrap();
    let options = DownloadOptions::default();
    file.download_file(&target, options, |_| ()).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == bytes);
    let error = file.download_file(&target, options, |_| ()).await.unwrap_err();
    assert_eq!(error.exit_code(), 4, "{}", error.report());
    file.download_file(&target, options.replace(true), |_| ())
        .await
        .unwrap();

    for (taken, code) in [("/dev/null", ErrorCode::Exists), ("/dev", ErrorCode::IsDirectory)] {
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(taken, &link).unwrap();
        let error = file
            .download_file(&link, options.replace(true), |_| ())
            .await
            .unwrap_err();
        assert_eq!(error.code(), code, "{}", error.report());
        std::fs::remove_file(&link).unwrap();
    }
    let dangling = directory.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let error = file.download_file(&dangling, options, |_| ()).await.unwrap_err();
    assert_eq!(error.exit_code(), 4, "{}", error.report());
    std::fs::remove_file(&dangling).unwrap();

    std::fs::remove_file(&target).unwrap();
    for id in 1..=3 {
        cluster.server(id, |server| server.corrupt = true);
    }
    let error = file.download_file(&target, options, |_| ()).await.unwrap_err();
    assert_eq!(error.exit_code(), 7, "{}", error.report());
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[tokio::test]
async fn a_full_local_disk_is_told() {
    let (_cluster, client, _) = stored(100_000).await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = client.open(&path()).await.unwrap();
    let error = file.download_to(full, |_| ()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.exit_code()),
        (ErrorCode::NoSpace, 9),
        "{}",
        error.report()
    );
}

/// Downloads so that the partial file is whole and does not get its name: the name is taken meanwhile.
async fn leave_partial(client: &Client, target: &std::path::Path) -> std::path::PathBuf {
    let file = client.open(&path()).await.unwrap();
    let in_the_way = target.to_owned();
    let progress = move |_| std::fs::write(&in_the_way, "in the way").unwrap();
    let failed = file.resume_file(target, DownloadOptions::default(), progress).await;
    assert_eq!(failed.unwrap_err().code(), ErrorCode::Exists);
    std::fs::remove_file(target).unwrap();
    let left = std::fs::read_dir(target.parent().unwrap()).unwrap();
    let mut left = left.map(|entry| entry.unwrap().path());
    left.find(|path| path.to_string_lossy().ends_with("-part")).unwrap()
}

#[tokio::test]
async fn a_resumed_download_keeps_what_is_proved_and_nothing_else() {
    use std::os::unix::fs::FileExt as _;
    let (_cluster, client, bytes) = stored(3 * CHUNK as usize + 70_000).await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("file");
    let resume = async || {
        let file = client.open(&path()).await.unwrap();
        file.resume_file(&target, DownloadOptions::default(), |_| ())
            .await
            .unwrap()
    };
    // A whole partial file, a short one, one that somebody wrote to, one that is too long.
    for (damage_at, length, kept) in [
        (None, bytes.len() as u64, bytes.len() as u64),
        (None, 2 * CHUNK + 5, 2 * CHUNK),
        (Some(CHUNK + 3), bytes.len() as u64, CHUNK),
        (None, bytes.len() as u64 + 9, bytes.len() as u64),
        (Some(0), bytes.len() as u64, 0),
    ] {
        let partial = leave_partial(&client, &target).await;
        let file = std::fs::File::options().read(true).write(true).open(partial).unwrap();
        file.set_len(length).unwrap();
        if let Some(at) = damage_at {
            file.write_all_at(&[bytes[at as usize] ^ 1], at).unwrap();
        }
        let resumed = resume().await;
        assert_eq!((resumed.kept, resumed.source_changed), (kept, false));
        assert!(std::fs::read(&target).unwrap() == bytes);
        std::fs::remove_file(&target).unwrap();
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            0,
            "nothing is left"
        );
    }
    // Another file of the same length under the name.
    leave_partial(&client, &target).await;
    let mut other = bytes.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    let options = CreateOptions {
        replace: true,
        ..CreateOptions::default()
    };
    let mut writer = client.create(&path(), options).await.unwrap();
    writer.write(&other).await.unwrap();
    writer.finish().await.unwrap();
    let resumed = resume().await;
    assert_eq!((resumed.kept, resumed.source_changed), (0, true));
    assert!(std::fs::read(&target).unwrap() == other);
}
