//! Many clients that create, rename, link and remove over one another, while masters fail: every answer that anybody gets,
//! and what is there in the end, is that of one serial order of all operations, each at a moment between its beginning and
//! its end.
//!
//! [`model`] says what one client alone would be told, [`checker`] looks for the order, [`clients`] makes the history.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod checker;
mod clients;
mod model;

use gabion_client::ErrorCode;
use gabion_tests::cluster::Cluster;
use gabion_tests::network::Network;
use gabion_tests::skip::skip;
use gabion_tests::{scaled, seconds, until};

use checker::{Doubt, Record, explain};
use clients::{Work, alone};
use model::{Op, Seen, Shape, Told, Tree};

/// Operations that are answered between two faults, and during each.
fn progress() -> u64 {
    scaled(800, 4000)
}

/// Without others and faults, a client is told what the model says: what the other tests measure by.
#[test]
fn one_client_alone_is_told_what_the_model_says() {
    let cluster = Cluster::plan().masters(1).start();
    let count = scaled(1500, 10_000);
    cluster.runtime().block_on(alone(cluster.access(), count));
}

/// The promise, while the leader is killed twice. A command that runs twice, or is lost after its answer, a rule that is
/// looked at before the log and not in it, an answer of one who does not lead would break it.
#[test]
fn a_serial_order_explains_what_all_were_told_while_leaders_are_killed() {
    let mut cluster = Cluster::plan().start();
    let work = Work::start(&cluster);
    work.progress(progress());
    for _ in 0..scaled(2, 6) {
        let leader = cluster.wait_leader();
        cluster.kill(&leader);
        cluster.wait_leader_other_than(&leader);
        work.progress(progress());
        cluster.start(&leader);
        cluster.wait_ready();
        work.progress(progress());
    }
    work.judge(&cluster);
    cluster.assert_clean();
}

/// The same while the leader is cut off from the other masters, but not from the clients. It believes for a while that it
/// leads, and is asked: what it said from its old state would come after answers of the next one.
#[test]
fn a_serial_order_explains_what_all_were_told_while_a_leader_is_cut_off_from_the_others() {
    if let Some(why) = Network::missing() {
        let name = "a_serial_order_explains_what_all_were_told_while_a_leader_is_cut_off_from_the_others";
        return skip(name, &why);
    }
    let mut cluster = Cluster::plan().namespaces().start();
    let work = Work::start(&cluster);
    for _ in 0..scaled(2, 6) {
        work.progress(progress());
        let old = cluster.wait_leader();
        let others: Vec<_> = cluster.masters().into_iter().filter(|name| *name != old).collect();
        let term = cluster.status().term;
        cluster.network().part(&old, &others);
        until("another master leads", seconds(15), || {
            let status = others.iter().find_map(|name| cluster.status_of(name))?;
            (status.term > term && status.leader.is_some()).then_some(())
        });
        work.progress(progress());
        cluster.network().rejoin(&old, &others);
        cluster.wait_ready();
    }
    work.judge(&cluster);
    cluster.assert_clean();
}

fn mkdir(path: &str) -> Op {
    Op::Mkdir {
        path: path.to_owned(),
        tag: 7,
    }
}

fn stat(path: &str) -> Op {
    Op::Stat { path: path.to_owned() }
}

fn a_directory() -> Told {
    Told::Entry(Seen {
        node: Shape::Directory { tag: 7 },
        bytes: 0,
    })
}

fn record(op: Op, begin: u64, end: u64, told: Told) -> Record {
    Record {
        client: 0,
        op,
        begin,
        told: Some((end, told)),
    }
}

fn is_serial(history: &[Record]) -> bool {
    match explain(history, &Tree::new()) {
        Ok(()) => true,
        Err(Doubt::NotSerial(_)) => false,
        Err(Doubt::OutOfBudget) => panic!("a few operations are soon explained"),
    }
}

#[test]
fn the_search_accepts_what_one_order_explains_and_nothing_else() {
    use ErrorCode::{Exists, NotFound};
    let refused = Told::Refused;
    let made = |begin, end| record(mkdir("/a"), begin, end, a_directory());
    let seen = |begin, end| record(stat("/a"), begin, end, a_directory());
    let missed = |begin, end| record(stat("/a"), begin, end, refused(NotFound));
    let exists = |begin, end| record(mkdir("/a"), begin, end, refused(Exists));
    // One after the other.
    assert!(is_serial(&[made(0, 1), seen(2, 3), exists(4, 5)]));
    assert!(!is_serial(&[made(0, 1), missed(2, 3)]), "an old answer");
    assert!(!is_serial(&[made(0, 1), made(2, 3)]), "both made it");
    assert!(!is_serial(&[exists(0, 1)]), "nobody made it");
    // At the same time, in either order, but in one for all.
    assert!(is_serial(&[made(0, 5), missed(1, 2), seen(3, 4)]));
    assert!(!is_serial(&[made(0, 5), seen(1, 2), missed(3, 4)]), "and back again");
    assert!(!is_serial(&[made(0, 3), made(1, 2)]), "both made it at once");
    assert!(is_serial(&[exists(0, 3), made(1, 2)]));
    // Without an answer: at any time from then on, or never, and once at most.
    let unknown = Record {
        told: None,
        ..made(0, 0)
    };
    assert!(is_serial(&[unknown.clone(), missed(1, 2)]));
    assert!(is_serial(&[unknown.clone(), missed(1, 2), seen(3, 4), exists(5, 6)]));
    assert!(!is_serial(&[unknown.clone(), seen(3, 4), missed(5, 6)]));
    assert!(
        !is_serial(&[seen(0, 1), Record { begin: 2, ..unknown }]),
        "before it began"
    );
    // What replaced another without leave.
    let rename = |replace| Op::Rename {
        from: "/a".to_owned(),
        to: "/b".to_owned(),
        replace,
    };
    let both = [made(0, 1), record(mkdir("/b"), 2, 3, a_directory())];
    let replaced = |replace| [&both[..], &[record(rename(replace), 4, 5, a_directory())]].concat();
    assert!(is_serial(&replaced(true)));
    assert!(!is_serial(&replaced(false)));
}

/// Many overlapping operations of which the last contradicts all: every order is looked at, and that ends.
#[test]
fn a_search_in_vain_comes_to_its_end() {
    let mut history: Vec<_> = (0..12)
        .map(|number| {
            let path = format!("/{}", ["a", "b", "c", "d"][number as usize % 4]);
            let answer = match number < 4 {
                true => a_directory(),
                false => Told::Refused(ErrorCode::Exists),
            };
            record(mkdir(&path), number, 100 + number, answer)
        })
        .collect();
    assert!(is_serial(&history));
    history.push(record(stat("/none"), 200, 201, a_directory()));
    assert!(!is_serial(&history));
}
