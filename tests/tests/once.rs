//! A command whose answer is lost is sent again, and still runs once (DESIGN §4 *Exactly once*).
//!
//! Proxies stand before all masters and lose the answer to a chosen command after it was carried out. Run twice, each
//! of these commands would fail the second time (EXISTS, NOT_FOUND): the first answer must come back.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::{Duration, Instant};

use gabion_client::{Client, CreateOptions};
use gabion_tests::cluster::{Access, Cluster, fs_path};
use gabion_tests::load::{connect, get, put};
use gabion_tests::proxy::{Loss, Proxies};
use gabion_tests::{seconds, until};

/// Longest acceptable loss of an answer: far less than the minute for which the clients here go on trying.
const SOON: Duration = seconds(10);

fn with_proxies() -> (Cluster, Proxies) {
    let mut cluster = Cluster::plan().prepare();
    let proxies = Proxies::default();
    for (number, master) in cluster.masters().iter().enumerate() {
        let listen = cluster.spare_address(number as u16);
        cluster.advertise(master, &listen);
        proxies.add(cluster.runtime(), &listen, &cluster.node(master).address);
    }
    cluster.start_all();
    cluster.wait_ready();
    (cluster, proxies)
}

/// Asserts that exactly one more answer was lost than before, and that its command was sent again.
fn assert_fired(proxies: &Proxies, expected: usize) {
    let lost = proxies.lost();
    assert_eq!(lost.len(), expected, "the planned loss did not happen: void ({lost:?})");
    let (op, times) = lost.last().expect("one was lost");
    assert!(*times >= 2, "the command was sent {times} time(s): {op:?}");
}

/// A small file whose length is known costs other commands. A client of its own, whose first file opens a stock.
async fn small_files(access: &Access, base: &str, lose: &dyn Fn(&str), fired: &dyn Fn()) {
    let client = connect(access).await;
    let small = CreateOptions {
        length_hint: Some(5),
        ..CreateOptions::default()
    };
    for kind in ["OpenStock", "PutFile"] {
        lose(kind);
        let name = format!("{base}/{kind}");
        put(&client, &name, b"small", small.clone())
            .await
            .expect("a file is put once");
        fired();
        assert_eq!(get(&client, &name).await.expect("it is there"), b"small");
        client.remove(&fs_path(&name), false).await.expect("it was there once");
    }
}

/// An append that ran twice would be in the file twice.
async fn appends(client: &Client, base: &str, lose: &dyn Fn(&str), fired: &dyn Fn()) {
    let name = format!("{base}/log");
    let created = client.create_empty(&fs_path(&name), CreateOptions::default()).await;
    created.expect("a file is made");
    let file = client.open_file(&fs_path(&name)).await.expect("it is there");
    file.append(&b"one"[..]).await.expect("it can be written");
    lose("ChangeFile");
    let offset = file.append(&b"two"[..]).await.expect("an append runs once");
    fired();
    assert_eq!(offset, 3, "the answer is the first one's");
    assert_eq!(get(client, &name).await.expect("it is there"), b"onetwo");
    lose("ChangeFile");
    file.truncate(4).await.expect("a truncation runs once");
    fired();
    assert_eq!(get(client, &name).await.expect("it is there"), b"onet");
}

async fn all_commands(client: &Client, base: &str, lose: &dyn Fn(&str), fired: &dyn Fn()) {
    let path = |name: &str| fs_path(&format!("{base}/{name}"));
    lose("Mkdir");
    client.mkdir(&path("d"), false, 0o755).await.expect("mkdir runs once");
    fired();
    for kind in ["OpenSized", "Commit"] {
        lose(kind);
        let name = format!("{base}/{kind}");
        put(client, &name, b"whole", CreateOptions::default())
            .await
            .expect("an upload runs once");
        fired();
        assert_eq!(get(client, &name).await.expect("it is there"), b"whole");
    }
    lose("Rename");
    client
        .rename(&path("Commit"), &path("renamed"), false)
        .await
        .expect("rename runs once");
    fired();
    lose("Remove");
    client.remove(&path("renamed"), false).await.expect("remove runs once");
    fired();
    let names: Vec<_> = client
        .list_all(&fs_path(base))
        .await
        .expect("it lists")
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["OpenSized", "d"], "each command had its effect once");
}

/// Loses the answer to one command after another.
fn lose_each(loss: Loss) {
    let (cluster, proxies) = with_proxies();
    cluster.runtime().block_on(async {
        let client = connect(&cluster.access()).await;
        for base in ["/first", "/second"] {
            client.mkdir(&fs_path(base), false, 0o755).await.unwrap();
            let began = std::cell::Cell::new(Instant::now());
            let lose = |kind: &str| {
                began.set(Instant::now());
                proxies.lose_next(kind, loss);
            };
            let count = std::cell::Cell::new(proxies.lost().len());
            let fired = || {
                count.set(count.get() + 1);
                assert_fired(&proxies, count.get());
                let took = began.get().elapsed();
                assert!(took < SOON, "a lost answer cost {took:?}");
            };
            all_commands(&client, base, &lose, &fired).await;
            small_files(&cluster.access(), base, &lose, &fired).await;
            appends(&client, base, &lose, &fired).await;
        }
    });
    cluster.assert_clean();
}

/// The answer is lost with its connection: the same command is sent again, gets the first answer, and has run once.
#[test]
fn a_command_whose_answer_is_lost_runs_once() {
    lose_each(Loss::Cut);
}

/// The answer never comes, and the connection stays and answers other requests: nobody tells the client that anything
/// is wrong. It asks again after seconds; a client that trusts the connection would wait all its time and then fail.
#[test]
fn a_command_whose_answer_is_lost_on_an_open_connection_runs_once_and_soon() {
    lose_each(Loss::Silence);
}

/// The answer is lost and the leader is killed before the command is sent again: the new leader knows the first answer
/// from the log. A table of answers in the leader's memory would break it.
#[test]
fn a_command_runs_once_across_a_failover() {
    let (mut cluster, proxies) = with_proxies();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    cluster
        .runtime()
        .block_on(put(&client, "/f", b"1", CreateOptions::default()))
        .unwrap();
    for (round, kind) in ["Mkdir", "Rename", "Remove"].into_iter().enumerate() {
        proxies.lose_next(kind, Loss::Silence);
        let client = client.clone();
        let (f, g) = (fs_path("/f"), fs_path("/g"));
        let task = cluster.runtime().spawn(async move {
            match kind {
                "Mkdir" => client.mkdir(&fs_path("/d"), false, 0o755).await.map(drop),
                "Rename" => client.rename(&f, &g, false).await.map(drop),
                _ => client.remove(&g, false).await.map(drop),
            }
        });
        until("the answer is lost", seconds(10), || {
            (proxies.lost().len() > round).then_some(())
        });
        let leader = cluster.wait_leader();
        cluster.kill(&leader);
        let done = cluster
            .runtime()
            .block_on(async { tokio::time::timeout(seconds(30), task).await });
        let done = done.expect("it ends").expect("it does not panic");
        assert!(done.is_ok(), "{kind} after a failover: {}", done.unwrap_err().report());
        assert_fired(&proxies, round + 1);
        cluster.start(&leader);
        cluster.wait_ready();
    }
    assert_eq!(cluster.names("/"), ["d"]);
    cluster.assert_clean();
}
