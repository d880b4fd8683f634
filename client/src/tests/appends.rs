//! Records that many writers of one client append to one file, which go there together.

use std::time::Duration;

use futures_util::future::join_all;
use gabion_protocol::ErrorCode;
use gabion_protocol::FsPath;
use gabion_protocol::messages::master::Op;

use super::fakes::{Cluster, Mood};
use super::writes::content;
use crate::{Client, CreateOptions, Error, File};

fn path() -> FsPath {
    FsPath::parse("/log").unwrap()
}

async fn log(client: &Client) -> File {
    client.create_empty(&path(), CreateOptions::default()).await.unwrap();
    client.open_file(&path()).await.unwrap()
}

/// Records of all lengths that go together.
fn record(number: usize) -> Vec<u8> {
    content(1 + number * 997 % 9000)
}

async fn append(file: &File, numbers: std::ops::Range<usize>) -> Vec<Result<u64, Error>> {
    join_all(numbers.map(|number| file.append(record(number)))).await
}

/// Each of the records is where its writer was told, and nothing else is in the file.
async fn assert_there(client: &Client, told: &[Result<u64, Error>]) {
    let whole = client.read(&path()).await.unwrap();
    let mut end = 0;
    let mut order: Vec<_> = told.iter().map(|told| told.as_ref().unwrap()).zip(0..).collect();
    order.sort();
    for (offset, number) in order {
        let record = record(number);
        assert_eq!(*offset, end, "record {number} follows");
        end += record.len() as u64;
        assert!(whole[*offset as usize..end as usize] == record, "record {number}");
    }
    assert_eq!(whole.len() as u64, end);
}

fn splices(cluster: &Cluster) -> usize {
    let state = cluster.state.lock();
    state.ran.iter().filter(|op| matches!(op, Op::ChangeFile(_))).count()
}

/// A group looks around for its writers before it is forgotten.
async fn nothing_is_left(client: &Client) {
    let forgotten = async {
        while !client.inner.gatherings.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let forgotten = tokio::time::timeout(Duration::from_secs(10), forgotten).await;
    forgotten.expect("nobody is taken to be on the way for ever");
}

#[tokio::test]
async fn records_of_many_writers_share_chunks_and_commands() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let file = log(&client).await;
    // Another handle of the same client.
    let other = client.open_file(&path()).await.unwrap();
    let (some, more) = tokio::join!(append(&file, 0..50), append(&other, 50..100));
    let told: Vec<_> = some.into_iter().chain(more).collect();
    assert_there(&client, &told).await;
    let splices = splices(&cluster);
    assert!(splices <= 10, "{splices} commands for 100 records of 440 KiB in all");
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn a_record_alone_waits_for_nobody_and_large_ones_go_alone() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let file = log(&client).await;
    for number in 0..3 {
        let told = append(&file, number..number + 1).await;
        assert!(told[0].is_ok());
    }
    assert_eq!(splices(&cluster), 3);
    let full = content(128 << 10);
    let told = join_all((0..4).map(|_| file.append(full.clone()))).await;
    assert!(told.iter().all(Result::is_ok));
    assert_eq!(splices(&cluster), 7);
}

#[tokio::test]
async fn lost_answers_refused_tokens_and_stocks_that_end_put_no_record_in_twice() {
    let cluster = Cluster::start(3, 4).await;
    let client = cluster.client().await;
    let file = log(&client).await;
    let mut told = append(&file, 0..20).await;
    cluster.state.lock().lose_answers = 2;
    told.extend(append(&file, 20..40).await);
    cluster.state.lock().swallow_answers = 1;
    told.extend(append(&file, 40..60).await);
    cluster.state.lock().stocks.clear();
    told.extend(append(&file, 60..80).await);
    cluster.server(1, |server| server.mood = Mood::Hung);
    told.extend(append(&file, 80..100).await);
    cluster.kill_server(2);
    told.extend(append(&file, 100..120).await);
    assert_there(&client, &told).await;
}

#[tokio::test]
async fn each_writer_is_told_why_its_record_is_not_there() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let file = log(&client).await;
    cluster.state.lock().forget_files();
    for told in append(&file, 0..20).await {
        let error = told.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
        assert!(error.report().contains("cannot append to /log"), "{}", error.report());
    }
    nothing_is_left(&client).await;
    // And the next ones are not held up.
    let again = log(&client).await;
    let told = append(&again, 0..20).await;
    assert_there(&client, &told).await;
}

/// Writers that give up, wherever their records are by then, cost others nothing.
#[tokio::test]
async fn writers_that_give_up_harm_nobody() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client().await;
    let file = log(&client).await;
    // Nothing gets on until the head of every chain does.
    (1..=3).for_each(|id| cluster.server(id, |server| server.mood = Mood::Hung));
    let spawn = |number| {
        let file = file.clone();
        tokio::spawn(async move { file.append(record(number)).await })
    };
    let mut tasks = Vec::new();
    for number in 0..20 {
        tasks.push(Some(spawn(number)));
        // The first two leave alone; no more may be on their way then, and the others wait.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    for number in [0, 1, 5, 19] {
        tasks[number].take().unwrap().abort();
    }
    (1..=3).for_each(|id| cluster.server(id, |server| server.mood = Mood::Well));
    let mut told = Vec::new();
    for task in tasks.iter_mut().filter_map(Option::take) {
        told.push(task.await.unwrap().unwrap());
    }
    let whole = client.read(&path()).await.unwrap();
    let kept: Vec<_> = (0..20).filter(|number| ![0, 1, 5, 19].contains(number)).collect();
    for (number, offset) in kept.into_iter().zip(&told) {
        let (begin, record) = (*offset as usize, record(number));
        assert!(whole[begin..begin + record.len()] == record, "record {number}");
    }
    let most: usize = (0..20).map(|number| record(number).len()).sum();
    assert!(
        whole.len() <= most - record(5).len() - record(19).len(),
        "those that had not left are not there"
    );
}
