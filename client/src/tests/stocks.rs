//! Small files, whose chunks are granted ahead.

use futures_util::future::join_all;
use gabion_protocol::checksum::crc;
use gabion_protocol::messages::master::{Entry, Op};
use gabion_protocol::{ErrorCode, FsPath, ServerId};

use super::fakes::{Cluster, Mood};
use super::writes::content;
use crate::{Client, CreateOptions, Error};

fn path(number: usize) -> FsPath {
    FsPath::parse(&format!("/f{number}")).unwrap()
}

async fn put(client: &Client, number: usize) -> Result<Entry, Error> {
    let bytes = content(1000 + number);
    let options = CreateOptions {
        length_hint: Some(bytes.len() as u64),
        ..CreateOptions::default()
    };
    let mut writer = client.create(&path(number), options).await?;
    writer.write(&bytes).await?;
    writer.finish().await
}

/// Every file is what was written, on as many servers as the masters know of.
async fn assert_all(cluster: &Cluster, client: &Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let bytes = content(1000 + number);
        let (entry, extents) = client.locate(&path(number)).await.unwrap();
        assert_eq!((entry.length, entry.crc), (bytes.len() as u64, crc(&bytes)));
        let state = cluster.state.lock();
        for replica in &extents[0].replicas {
            assert_eq!(state.servers[&replica.server].chunks[&extents[0].chunk], bytes);
        }
        assert!(extents[0].replicas.len() >= 2);
    }
}

fn count(cluster: &Cluster, wanted: impl Fn(&Op) -> bool) -> usize {
    cluster.state.lock().ran.iter().filter(|op| wanted(op)).count()
}

#[tokio::test]
async fn many_small_files_cost_little_more_than_a_command_each() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    put(&client, 0).await.unwrap();
    assert_eq!(cluster.state.lock().ran.len(), 2, "one alone takes a chunk for itself");
    assert!(cluster.state.lock().stocks.values().all(|(open, _)| open.is_empty()));
    for group in 0..10 {
        let all = (1..=20).map(|n| put(&client, group * 20 + n));
        join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    }
    assert_all(&cluster, &client, 0..201).await;
    assert_eq!(count(&cluster, |op| matches!(op, Op::PutFile { .. })), 201);
    let opened = count(&cluster, |op| matches!(op, Op::OpenStock { .. }));
    assert!(opened <= 25, "{opened} stocks for 201 files");
}

#[tokio::test]
async fn a_server_that_fails_costs_no_file() {
    let cluster = Cluster::start(1, 4).await;
    let client = cluster.client().await;
    for number in 0..20 {
        put(&client, number).await.unwrap();
    }
    cluster.server(1, |server| server.mood = Mood::Hung);
    join_all((20..40).map(|n| put(&client, n)))
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    cluster.kill_server(2);
    for number in 40..50 {
        put(&client, number).await.unwrap();
    }
    let state = cluster.state.lock();
    let late = state.ran.iter().rev().find_map(|op| match op {
        Op::PutFile { seal, .. } => Some(seal.members.clone()),
        _ => None,
    });
    assert_eq!(late, Some(vec![ServerId(3), ServerId(4)]), "what is left");
}

#[tokio::test]
async fn lost_answers_and_refused_tokens_cost_no_file_and_make_none_twice() {
    let cluster = Cluster::start(3, 3).await;
    let client = cluster.client().await;
    for number in 0..10 {
        put(&client, number).await.unwrap();
    }
    cluster.state.lock().lose_answers = 3;
    cluster.server(1, |server| server.refuse_tokens = 2);
    join_all((10..30).map(|n| put(&client, n)))
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    assert_all(&cluster, &client, 0..30).await;
    let state = cluster.state.lock();
    let mut names: Vec<_> = state
        .ran
        .iter()
        .filter_map(|op| match op {
            Op::PutFile { path, .. } => Some(path.to_string()),
            _ => None,
        })
        .collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), all), (30, 30), "each command ran once");
}

/// After a long sleep the masters have taken the chunks back.
#[tokio::test]
async fn a_stock_that_is_gone_is_replaced() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    for number in 0..10 {
        put(&client, number).await.unwrap();
    }
    cluster.state.lock().stocks.clear();
    for number in 10..30 {
        put(&client, number).await.unwrap();
    }
    assert_all(&cluster, &client, 0..30).await;
    let put_files = count(&cluster, |op| matches!(op, Op::PutFile { .. }));
    assert!(put_files <= 33, "{put_files} tries for 30 files");
}

#[tokio::test]
async fn what_is_not_used_is_given_back() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    for number in 0..9 {
        put(&client, number).await.unwrap();
    }
    let open = |cluster: &Cluster| -> usize {
        let state = cluster.state.lock();
        state.stocks.values().map(|(open, _)| open.len()).sum()
    };
    assert!(open(&cluster) > 0, "some are at hand");
    client.inner.stocks.give_back_idle();
    put(&client, 9).await.unwrap();
    assert!(open(&cluster) > 0, "they were used since");
    client.inner.stocks.give_back_idle();
    client.inner.stocks.give_back_idle();
    tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while open(&cluster) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all are given back");
    put(&client, 10).await.unwrap();
    assert_all(&cluster, &client, 0..11).await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_promised_is_stored_all_the_same() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    for (number, len) in [(0, 0), (1, 99), (2, 131_072), (3, 131_073), (4, 3 << 20)] {
        let bytes = content(len);
        let options = CreateOptions {
            length_hint: Some(100),
            ..CreateOptions::default()
        };
        let mut writer = client.create(&path(number), options).await.unwrap();
        writer.write(&bytes).await.unwrap();
        let entry = writer.finish().await.unwrap();
        assert_eq!((entry.length, entry.crc), (len as u64, crc(&bytes)));
        assert_eq!(client.read(&path(number)).await.unwrap(), bytes);
    }
    let small = CreateOptions {
        length_hint: Some(100),
        ..CreateOptions::default()
    };
    let given_up = client.create(&path(9), small.clone()).await.unwrap();
    given_up.abort().await.unwrap();
    drop(client.create(&path(9), small).await.unwrap());
    assert_eq!(client.stat(&path(9)).await.unwrap_err().code(), ErrorCode::NotFound);
}
