//! A directory with very many names: made fast, listed in pages in the order of names also while leaders die, counted
//! without a walk, kept, removed and restored at once. A million names with `GABION_TEST_LONG=1`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gabion_client::{Client, CreateOptions, Removed};
use gabion_protocol::limits::{LIST_PAGE_MAX, REPLY_SLOTS};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::load::connect;
use gabion_tests::{scaled, seconds};

/// Clients that make names at the same time, each with as many commands in flight as a session takes.
const CLIENTS: usize = 4;
/// No command of these tests takes longer, with a million names either.
const DEADLINE: Duration = seconds(600);

fn count() -> usize {
    scaled(6_000, 1_000_000)
}

fn name(number: usize) -> String {
    format!("n{number:07}")
}

/// Makes all names, not in their order.
async fn make(clients: &[Client], count: usize) {
    let jobs = clients.iter().enumerate().map(|(nth, client)| async move {
        let mine = (0..count).filter(|number| number % clients.len() == nth);
        // A step that shares no factor with the count reaches each number once.
        let paths = mine.map(|number| fs_path(&format!("/d/{}", name(number * 7919 % count))));
        let mut made = futures_util::stream::iter(paths)
            .map(|path| async move { client.create_empty(&path, CreateOptions::default()).await })
            .buffer_unordered(REPLY_SLOTS as usize);
        while let Some(made) = made.next().await {
            made.unwrap_or_else(|error| panic!("{}", error.report()));
        }
    });
    futures_util::future::join_all(jobs).await;
}

/// Resident bytes of a process, in MiB.
fn resident(cluster: &Cluster, server: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.node(server).process().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn tell_memory(cluster: &Cluster, when: &str) {
    let each: Vec<_> = cluster
        .masters()
        .into_iter()
        .map(|master| format!("{master} {} MiB", resident(cluster, &master)))
        .collect();
    eprintln!("memory {when}: {}", each.join(", "));
}

/// Runs and tells how long it took.
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = run();
    eprintln!("{what}: {:?}", began.elapsed());
    done
}

/// Asserts that `/d`, or what stands for it, holds exactly the names, in order, each once.
fn assert_all(names: impl Iterator<Item = String>, count: usize, when: &str) {
    let mut expected = (0..count).map(name);
    for (position, found) in names.enumerate() {
        assert_eq!(Some(&found), expected.next().as_ref(), "{when}, name {position}");
    }
    assert_eq!(expected.next(), None, "{when}, after the last name");
}

/// All names of a directory, page by page. When so many as `kills` says were listed, the last first, the leader is killed
/// before the next page.
fn list(cluster: &mut Cluster, client: &Client, path: &str, mut kills: Vec<usize>) -> Vec<String> {
    let (path, mut names) = (fs_path(path), Vec::<String>::new());
    loop {
        if kills.last().is_some_and(|at| names.len() >= *at) {
            kills.pop();
            let leader = cluster.wait_leader();
            cluster.kill(&leader);
            cluster.wait_leader_other_than(&leader);
            cluster.start(&leader);
            cluster.wait_ready();
        }
        let page = client.list(&path, names.last().map(String::as_str), LIST_PAGE_MAX as u32);
        let page = cluster
            .runtime()
            .block_on(page)
            .unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(page.entries.len() <= LIST_PAGE_MAX);
        let more = page.more;
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        if !more {
            assert_eq!(kills, [0; 0], "the leader was not killed in mid-listing: void");
            return names;
        }
    }
}

#[test]
fn a_very_large_directory_is_used_like_any_other() {
    let count = count();
    let mut cluster = Cluster::plan().start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| cluster.runtime().block_on(connect(&cluster.access())))
        .collect();
    let client = &clients[0];
    let gabion = |cluster: &Cluster, line: &[&str]| cluster.gabion().args(line).deadline(DEADLINE).run().ok();
    gabion(&cluster, &["mkdir", "/d"]);
    let began = Instant::now();
    cluster.runtime().block_on(make(&clients, count));
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{count} files made in {:?}: {rate:.0}/s", began.elapsed());
    tell_memory(&cluster, "when all are made");

    // Listed, in pages and by commands.
    let kills = vec![count * 2 / 3, count / 3];
    let names = timed("listed while two leaders died", || {
        list(&mut cluster, client, "/d", kills)
    });
    assert_all(names.into_iter(), count, "listed while leaders died");
    let ls = timed("ls", || gabion(&cluster, &["ls", "-1", "/d"]));
    assert_all(ls.text().lines().map(str::to_owned), count, "ls");
    let found = timed("find", || gabion(&cluster, &["find", "/d", "-name", "n*77"]));
    let expected: Vec<_> = (0..count).filter(|number| number % 100 == 77).collect();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|number| format!("/d/{}", name(number)))
        .collect();
    assert!(found.text().lines().eq(expected.iter()), "find");
    let usage = timed("du", || gabion(&cluster, &["du", "-s", "-o", "json", "/d"])).json();
    assert_eq!(usage["entries"][0]["entries"], count, "{usage}");
    let space = timed("df", || gabion(&cluster, &["df", "-o", "json"])).json();
    assert_eq!(
        (&space["files"], &space["directories"]),
        (&count.into(), &1.into()),
        "{space}"
    );

    // Kept, and changed since.
    timed("snapshot", || gabion(&cluster, &["snapshot", "create", "/d@s"]));
    for number in [0, count / 2, count - 1] {
        gabion(&cluster, &["rm", "--now", &format!("/d/{}", name(number))]);
    }
    gabion(&cluster, &["touch", "/d/newer"]);
    let kept = timed("the snapshot listed", || {
        list(&mut cluster, client, "/d/.snapshot/s", Vec::new())
    });
    assert_all(kept.into_iter(), count, "in the snapshot");
    let now = gabion(&cluster, &["ls", "-1", "/d"]).text();
    assert_eq!(now.lines().count(), count - 3 + 1);
    timed("snapshot restored", || {
        gabion(&cluster, &["snapshot", "restore", "--delete", "/d@s"])
    });
    let names = list(&mut cluster, client, "/d", Vec::new());
    assert_all(names.into_iter(), count, "restored from the snapshot");
    timed("snapshot removed", || gabion(&cluster, &["snapshot", "rm", "/d@s"]));

    // Removed and restored, in one step each.
    timed("rm -r", || gabion(&cluster, &["rm", "-r", "/d"]));
    assert_eq!(cluster.stat("/d"), None);
    timed("restored from the trash", || {
        gabion(&cluster, &["trash", "restore", "/d"])
    });
    let names = list(&mut cluster, client, "/d", Vec::new());
    assert_all(names.into_iter(), count, "restored from the trash");

    // Removed for good; it is taken apart behind the back of whoever has its name next, also by the next leader.
    let gone = timed("remove", || {
        cluster.runtime().block_on(client.remove(&fs_path("/d"), true)).unwrap()
    });
    let all = Removed {
        files: count as u64,
        directories: 1,
        bytes: 0,
    };
    assert_eq!(gone, all);
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    cluster.start(&leader);
    gabion(&cluster, &["mkdir", "/d"]);
    cluster.wait_ready();
    assert_eq!(cluster.names("/d"), [""; 0]);
    let space = gabion(&cluster, &["df", "-o", "json"]).json();
    assert_eq!(
        (&space["files"], &space["directories"]),
        (&0.into(), &1.into()),
        "{space}"
    );
    tell_memory(&cluster, "in the end");
    cluster.assert_clean();
}
