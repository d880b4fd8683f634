//! Three masters in one process, over real loopback connections and real directories.

use std::time::Instant;

use futures_util::FutureExt as _;
use gabion_protocol::keys::Key;
use tempfile::TempDir;

use super::*;
use crate::raft::membership::MembershipError;
use crate::raft::{Applied, Machine, ProposeError};
use crate::state::LogAt;
use crate::state::rows::{Batch, Rows, RowsError};
use crate::store::offline;

/// `key=value` sets a row, `#` marks a hash, `?` cannot be applied; replies whether the row was there.
struct KeyValue;

impl Machine for KeyValue {
    fn apply(&self, batch: &mut Batch<'_>, _: LogAt, command: &[u8]) -> Result<Applied, RowsError> {
        if command == b"?" {
            return Err(RowsError::Read("a disk that failed".to_owned()));
        }
        let mut reply = b"ok".to_vec();
        if let Some(at) = command.iter().position(|byte| *byte == b'=') {
            let mut key = vec![1];
            key.extend_from_slice(&command[..at]);
            if batch.get(&key)?.is_some() {
                reply = b"again".to_vec();
            }
            batch.put(key, command[at + 1..].to_vec());
        }
        Ok(Applied {
            reply,
            mark_hash: command == b"#",
        })
    }
}

struct Cluster {
    dir: TempDir,
    members: BTreeMap<u64, MasterNode>,
    ports: BTreeMap<u64, u16>,
    running: BTreeMap<u64, RaftHandle>,
    tuning: Tuning,
}

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn options(id: u64, dir: PathBuf, listener: TcpListener, members: BTreeMap<u64, MasterNode>) -> RaftOptions {
    RaftOptions {
        id,
        cluster: CLUSTER,
        root_key: Key::from_bytes([9; 32]),
        incarnation: Incarnation::random(),
        dir,
        listener,
        members,
        machine: Arc::new(KeyValue),
        tuning: Tuning::default(),
        reserve: Some(0),
    }
}

impl Cluster {
    async fn start(count: u64) -> Self {
        let mut cluster = Self::new(count);
        for id in 1..=count {
            cluster.run(id).await.unwrap();
        }
        cluster
    }

    fn new(count: u64) -> Self {
        let mut cluster = Self {
            dir: TempDir::new().unwrap(),
            members: BTreeMap::new(),
            ports: BTreeMap::new(),
            running: BTreeMap::new(),
            tuning: Tuning {
                snapshot_every: 300,
                keep_entries: 50,
                purge_batch: 1,
                log_cache_bytes: 64 << 10,
                ..Tuning::default()
            },
        };
        for id in 1..=count {
            let node = cluster.address(id);
            cluster.members.insert(id, node);
        }
        cluster
    }

    fn address(&mut self, id: u64) -> MasterNode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        self.ports.insert(id, port);
        MasterNode {
            raft_address: format!("127.0.0.1:{port}"),
            client_address: format!("client-of-{id}:1"),
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    async fn run(&mut self, id: u64) -> Result<(), StartError> {
        let listener = TcpListener::bind(("127.0.0.1", self.ports[&id])).unwrap();
        let mut options = options(id, self.path(id), listener, self.members.clone());
        options.tuning = self.tuning.clone();
        let handle = start(options).await?;
        self.running.insert(id, handle);
        Ok(())
    }

    async fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap().abort().await;
    }

    /// The established leader, once there is one.
    async fn leader(&self) -> &RaftHandle {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(leader) = self.running.values().find(|handle| handle.is_established_leader()) {
                return leader;
            }
            assert!(Instant::now() < until, "no leader: {:#?}", self.metrics());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn metrics(&self) -> Vec<crate::raft::Metrics> {
        self.running.values().map(RaftHandle::metrics).collect()
    }

    /// Proposes at whoever leads, again until it is taken.
    async fn propose(&self, command: &str) -> (u64, Bytes) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let leader = self.leader().await;
            let command = Bytes::copy_from_slice(command.as_bytes());
            match leader.propose(command, Duration::from_secs(2)).await {
                Ok(done) => return done,
                Err(ProposeError::Fatal(why)) => panic!("{why}"),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        }
    }

    async fn propose_many(&self, range: std::ops::Range<u64>) {
        futures_util::future::join_all(range.map(|i| async move { self.propose(&format!("k{i}=v{i}")).await })).await;
    }

    async fn wait_applied(&self, id: u64, index: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.running[&id].stale_view().applied_index().unwrap() < index {
            assert!(Instant::now() < until, "not applied: {:#?}", self.metrics());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(mut self) {
        for (_, handle) in std::mem::take(&mut self.running) {
            handle.shutdown().await;
        }
    }
}

fn row(view: &crate::store::state_db::View, key: &str) -> Option<String> {
    let key = [&[1], key.as_bytes()].concat();
    view.get(&key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.propose_many(0..1000).await;
    let syncs = cluster.leader().await.metrics().log_syncs;
    assert!(
        syncs < 500,
        "{syncs} syncs for 1000 concurrent entries: nothing was grouped"
    );
    let killed = cluster.leader().await.id();
    let started = Instant::now();
    cluster.kill(killed).await;
    let (_, reply) = cluster.propose("k0=again").await;
    assert_eq!(&reply[..], b"again");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "failover took {:?}",
        started.elapsed()
    );
    let view = cluster.leader().await.linearizable_view().await.unwrap();
    for i in 1..1000 {
        assert_eq!(row(&view, &format!("k{i}")), Some(format!("v{i}")));
    }
    cluster.run(killed).await.unwrap();
    let (index, _) = cluster.propose("#").await;
    for id in 1..=3 {
        cluster.wait_applied(id, index).await;
        let until = Instant::now() + Duration::from_secs(5);
        while !cluster.running[&id].state_hashes().contains_key(&index) {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let hashes: std::collections::BTreeSet<String> = cluster
        .running
        .values()
        .map(|handle| handle.state_hashes()[&index].clone())
        .collect();
    assert_eq!(hashes.len(), 1, "masters differ at {index}");
    // A stopped master's directory verifies, and its rows have the same hash.
    let path = cluster.path(killed);
    cluster.running.remove(&killed).unwrap().shutdown().await;
    let report = offline::verify(&path, |_, _| Ok(()), |_| Ok(())).unwrap();
    assert_eq!(report.rows, 1000);
    assert_eq!(report.applied, index);
    assert_eq!(Some(&report.state_hash), hashes.first());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_cannot_apply_an_entry_says_so_and_ends() {
    let cluster = Cluster::start(3).await;
    cluster.propose("k=v").await;
    let leader = cluster.leader().await;
    for handle in cluster.running.values() {
        assert!(handle.failed().now_or_never().is_none());
    }
    let proposed = leader.propose(Bytes::from_static(b"?"), Duration::from_secs(5)).await;
    assert!(proposed.is_err(), "{proposed:?}");
    // The followers apply it when they hear that it is committed, which a leader that stopped first does not tell them.
    let why = timeout(Duration::from_secs(5), leader.failed()).await;
    let why = why.expect("the leader has ended and says why");
    assert!(why.contains("a disk that failed"), "{why}");
    assert!(!leader.is_established_leader());
    for handle in cluster.running.into_values() {
        handle.abort().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_behind_the_log_catches_up_by_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::start(3).await;
    cluster.propose_many(0..50).await;
    let leader = cluster.leader().await.id();
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(behind).await;
    for round in 0..4 {
        cluster.propose_many(round * 300..(round + 1) * 300).await;
    }
    let until = Instant::now() + Duration::from_secs(10);
    while cluster.leader().await.metrics().purged < 300 {
        assert!(Instant::now() < until, "nothing purged: {:#?}", cluster.metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.run(behind).await.unwrap();
    cluster.propose_many(2000..2500).await;
    let (index, _) = cluster.propose("last=1").await;
    cluster.wait_applied(behind, index).await;
    let view = cluster.running[&behind].stale_view();
    for i in (0..1200).chain(2000..2500) {
        assert_eq!(row(&view, &format!("k{i}")), Some(format!("v{i}")));
    }
    assert!(cluster.running[&behind].metrics().snapshot > 50);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_is_refused_and_a_new_id_takes_its_place() {
    let mut cluster = Cluster::start(3).await;
    let (index, _) = cluster.propose("a=1").await;
    for id in 1..=3 {
        cluster.wait_applied(id, index).await;
    }
    let lost = (1..=3).find(|id| !cluster.running[id].is_established_leader()).unwrap();
    cluster.kill(lost).await;
    std::fs::rename(cluster.path(lost), cluster.dir.path().join("gone")).unwrap();
    cluster.run(lost).await.unwrap();
    let (index, _) = cluster.propose("b=2").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let emptied = cluster.running[&lost].metrics();
    assert_eq!((emptied.last_log, emptied.term), (0, 0), "it takes no part");
    assert!(index > 0);
    cluster.kill(lost).await;

    let node = cluster.address(4);
    cluster.run(4).await.unwrap();
    let leader = cluster.leader().await.clone();
    let seconds = Duration::from_secs(10);
    leader.replace_member(lost, 4, node.clone(), seconds).await.unwrap();
    let (index, _) = cluster.propose("c=3").await;
    cluster.wait_applied(4, index).await;
    let voters: Vec<u64> = leader.metrics().voters.into_keys().collect();
    assert!(voters.contains(&4) && !voters.contains(&lost), "{voters:?}");
    let burnt = leader.add_member(lost, node, seconds).await;
    assert!(
        matches!(burnt, Err(MembershipError::Burnt(id)) if id == lost),
        "{burnt:?}"
    );
    cluster.stop().await;
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The start counter of the copy is the one the peers remember, so that only what they remember of its log tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_since_the_last_start_is_refused_when_it_comes_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.propose_many(0..20).await;
    let (index, _) = cluster.propose("a=1").await;
    for id in 1..=3 {
        cluster.wait_applied(id, index).await;
    }
    let leader = cluster.leader().await.id();
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    // Nothing is written meanwhile.
    let copy = cluster.dir.path().join("copy");
    copy_tree(&cluster.path(victim), &copy);
    let (index, _) = cluster.propose("b=2").await;
    cluster.wait_applied(victim, index).await;
    cluster.kill(victim).await;
    let newest = cluster.dir.path().join("newest");
    std::fs::rename(cluster.path(victim), &newest).unwrap();
    std::fs::rename(&copy, cluster.path(victim)).unwrap();
    let refused = cluster.run(victim).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::Forgotten { peer, .. } if *peer == leader),
        "{refused}"
    );
    // It left nothing running, and the others go on.
    cluster.propose("c=3").await;
    assert_eq!(cluster.leader().await.id(), leader);
    // The newest directory is welcome, which has been started as often as the copy.
    std::fs::remove_dir_all(cluster.path(victim)).unwrap();
    std::fs::rename(&newest, cluster.path(victim)).unwrap();
    cluster.run(victim).await.unwrap();
    cluster.kill(victim).await;
    cluster.run(victim).await.unwrap();
    let (index, _) = cluster.propose("d=4").await;
    cluster.wait_applied(victim, index).await;
    cluster.stop().await;
}

/// Who remembers need not lead any more: a vote given since the copy tells, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_forgot_a_vote_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let (index, _) = cluster.propose("a=1").await;
    for id in 1..=3 {
        cluster.wait_applied(id, index).await;
    }
    let first = cluster.leader().await.id();
    let copy = cluster.dir.path().join("copy");
    copy_tree(&cluster.path(first), &copy);
    let heir = (1..=3).find(|id| *id != first).unwrap();
    cluster.leader().await.transfer_leader(heir).await.unwrap();
    cluster.leader().await.transfer_leader(first).await.unwrap();
    let (index, _) = cluster.propose("b=2").await;
    for id in 1..=3 {
        cluster.wait_applied(id, index).await;
    }
    // The others have followed the victim, and know of its log only what it told when it asked for their votes.
    cluster.kill(first).await;
    std::fs::remove_dir_all(cluster.path(first)).unwrap();
    std::fs::rename(&copy, cluster.path(first)).unwrap();
    let refused = cluster.run(first).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::Forgotten { what, .. } if what.contains("vote")),
        "{refused}"
    );
    cluster.propose("c=3").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered_and_leadership_moves_on_request() {
    let mut cluster = Cluster::start(3).await;
    cluster.propose("a=1").await;
    let leader = cluster.leader().await.clone();
    let heir = (1..=3).find(|id| *id != leader.id()).unwrap();
    leader.transfer_leader(heir).await.unwrap();
    let heir = cluster.leader().await.clone();
    assert_eq!(heir.id(), cluster.leader().await.id());
    let follower = cluster
        .running
        .values()
        .find(|handle| handle.id() != heir.id())
        .unwrap();
    let refused = follower
        .propose(Bytes::from_static(b"x=1"), Duration::from_secs(1))
        .await;
    assert!(
        matches!(&refused, Err(ProposeError::NotLeader { leader: Some((id, node)), .. })
            if *id == heir.id() && node.client_address == format!("client-of-{id}:1")),
        "{refused:?}"
    );
    assert!(follower.linearizable_view().await.is_err());
    let old_term = heir.leader_watch().borrow().term;
    let stale = heir
        .propose_in_term(old_term - 1, Bytes::from_static(b"x=1"), Duration::from_secs(1))
        .await;
    assert!(matches!(stale, Err(ProposeError::NotLeader { .. })), "{stale:?}");
    for id in (1..=3).filter(|id| *id != heir.id()) {
        cluster.kill(id).await;
    }
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert!(!heir.is_established_leader());
    assert!(!heir.leader_watch().borrow().established);
    assert!(heir.linearizable_view().await.is_err());
    assert!(heir.read_index_view().await.is_err());
    let unknown = heir
        .propose(Bytes::from_static(b"x=1"), Duration::from_millis(300))
        .await;
    assert!(unknown.is_err());
    assert_eq!(row(&heir.stale_view(), "a"), Some("1".into()));
    cluster.stop().await;
}

/// Its lease is fresh, but the heir may be elected any moment, without waiting for the lease to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hands_over_reads_by_its_lease_no_more() {
    let mut cluster = Cluster::start(3).await;
    cluster.propose("a=1").await;
    let leader = cluster.leader().await.clone();
    let lease = leader.0.lease;
    assert!(leader.leads_by_lease(lease));
    // A dead heir, so that the leader stays what it is for a moment.
    let heir = leader.id() % 3 + 1;
    cluster.kill(heir).await;
    let giving = leader.clone();
    let handing = tokio::spawn(async move { giving.transfer_leader(heir).await });
    let told = || leader.0.handing_over.load(std::sync::atomic::Ordering::SeqCst) != 0;
    while !told() {
        tokio::task::yield_now().await;
    }
    assert!(leader.is_established_leader(), "the test came too late");
    assert!(!leader.leads_by_lease(lease));
    assert!(handing.await.unwrap().is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_master_alone_works_and_refuses_a_damaged_log() {
    let mut cluster = Cluster::start(1).await;
    cluster.propose_many(0..20).await;
    cluster.kill(1).await;
    cluster.run(1).await.unwrap();
    assert_eq!(
        row(&cluster.leader().await.linearizable_view().await.unwrap(), "k7"),
        Some("v7".into())
    );
    cluster.kill(1).await;
    std::fs::rename(cluster.path(1).join("raft"), cluster.path(1).join("elsewhere")).unwrap();
    let refused = cluster.run(1).await.unwrap_err();
    assert!(
        matches!(refused, StartError::Directory(DirectoryError::Incomplete { .. })),
        "{refused}"
    );
}

/// Nanoseconds of the clock all processes share.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

const CHILD: &str = "GABION_TEST_MASTER";

/// Not a test: the process that [`a_master_that_was_stopped_never_answers_as_the_leader_it_was`] stops. Writes down
/// when the reads began that it answered as leader, and what it answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_master() {
    let Ok(setting) = std::env::var(CHILD) else {
        return;
    };
    let mut words = setting.split(' ');
    let dir = PathBuf::from(words.next().unwrap());
    let addresses: Vec<&str> = words.collect();
    let members = (1..).zip(&addresses).map(|(id, address)| {
        let node = MasterNode {
            raft_address: (*address).to_owned(),
            client_address: format!("client-of-{id}:1"),
        };
        (id, node)
    });
    let listener = TcpListener::bind(addresses[2]).unwrap();
    let handle = start(options(3, dir.join("3"), listener, members.collect()))
        .await
        .unwrap();
    let mut answers = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("answers"))
        .unwrap();
    loop {
        // A read that began before a write was acknowledged may miss it, however late its answer is written down: the
        // signal may stop this process in between.
        let began = now();
        if let Ok(view) = handle.linearizable_view().await {
            let value = row(&view, "x").unwrap_or_default();
            std::io::Write::write_all(&mut answers, format!("{began} {value}\n").as_bytes()).unwrap();
        }
        let began = now();
        if handle.is_established_leader() {
            std::io::Write::write_all(&mut answers, format!("{began} leads\n").as_bytes()).unwrap();
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_stopped_never_answers_as_the_leader_it_was() {
    let mut cluster = Cluster::new(3);
    let addresses: Vec<String> = cluster.members.values().map(|node| node.raft_address.clone()).collect();
    for (id, node) in &mut cluster.members {
        node.client_address = format!("client-of-{id}:1");
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "raft::node::tests::child_master", "--nocapture"])
        .env(
            CHILD,
            format!("{} {}", cluster.dir.path().display(), addresses.join(" ")),
        )
        .spawn()
        .unwrap();
    cluster.run(1).await.unwrap();
    cluster.run(2).await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let answers = cluster.dir.path().join("answers");
    let lines = || {
        let text = std::fs::read_to_string(&answers).unwrap_or_default();
        let parse = |line: &str| {
            let (at, value) = line.split_once(' ')?;
            Some((at.parse::<u64>().ok()?, value.to_owned()))
        };
        text.lines().filter_map(parse).collect::<Vec<_>>()
    };
    // Until the child leads and has answered with the first value.
    while !lines().iter().any(|(_, value)| value == "1") {
        assert!(Instant::now() < until, "the child never led: {:#?}", cluster.metrics());
        if let Some(leader) = cluster.running.values().find(|handle| handle.is_established_leader()) {
            let _ = leader.propose(Bytes::from_static(b"x=1"), Duration::from_secs(1)).await;
            let _ = leader.transfer_leader(3).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    cluster.propose("x=2").await;
    let acknowledged = now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let stale: Vec<_> = lines()
        .into_iter()
        .filter(|(at, value)| *at > acknowledged && value != "2")
        .collect();
    assert_eq!(
        stale,
        [],
        "answers to reads that began after x=2 was acknowledged at {acknowledged}"
    );
    cluster.stop().await;
}
