//! The right to be a file's only writer: who works keeps it, it ends by time with who died or hangs, and who lost it is
//! told so and changes nothing.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::Write as _;
use std::process::ChildStdin;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gabion_client::{ErrorCode, File};
use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::command::Running;
use gabion_tests::content::{self, Content};
use gabion_tests::load::{connect, get};
use gabion_tests::wait::watch;
use gabion_tests::{seconds, until};
use rustix::process::Signal;

/// How long a client's lease lasts when nobody renews it, and how often it does.
const LEASE: Duration = seconds(15);
const RENEW: Duration = seconds(5);
/// What another writer appends.
const OTHER: &[u8] = b"another was here";

/// A process that is the only writer of a file, and writes all the time.
struct Writer {
    path: &'static str,
    seed: u64,
    process: Running,
    feeding: JoinHandle<()>,
}

/// Gives a process bytes until it takes no more.
fn feed(mut stdin: ChildStdin, seed: u64) {
    let (mut content, mut piece) = (Content::new(seed), [0; 4096]);
    loop {
        content.fill(&mut piece);
        if stdin.write_all(&piece).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Writer {
    fn start(cluster: &Cluster, path: &'static str, seed: u64) -> Self {
        let line = ["append", "--create", "--exclusive", "-", path];
        let mut process = cluster.gabion().args(line).start_piped();
        let stdin = process.stdin.take().unwrap();
        let writer = Self {
            path,
            seed,
            process,
            feeding: std::thread::spawn(move || feed(stdin, seed)),
        };
        until("it writes", seconds(20), || {
            cluster.stat(path).filter(|entry| entry.length > 0)
        });
        writer
    }

    /// The bytes of the file that are not its own, after asserting that those before are.
    fn after_its_own(&self, whole: &[u8], others: usize) -> Vec<u8> {
        let (own, rest) = whole.split_at(whole.len() - others);
        assert!(!own.is_empty(), "it wrote nothing: void");
        let is_prefix = own == content::bytes(self.seed, own.len() as u64);
        assert!(is_prefix, "{}: what it wrote is no prefix of what it had", self.path);
        rest.to_vec()
    }
}

/// Why somebody else's bytes came into a file, or were refused for another reason than its only writer.
fn let_in(cluster: &Cluster, file: &File) -> Option<String> {
    match cluster.runtime().block_on(file.append(OTHER)) {
        Err(error) if error.code() == ErrorCode::Conflict => None,
        Err(error) => Some(error.report()),
        Ok(offset) => Some(format!("{} got others' bytes at {offset}", file.path())),
    }
}

/// The promise. Writers that are stopped in the middle wake up when another has written, or when only their time is over,
/// and the file stays as it was. A lease that ended too soon, never, or with the leader, or a writer whose late command is
/// carried out would break it.
#[test]
fn a_lease_is_kept_by_who_works_ends_by_time_and_is_lost_for_good() {
    let mut cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let mut writers =
        [("/killed", 1), ("/overtaken", 2), ("/late", 3)].map(|(path, seed)| Writer::start(&cluster, path, seed));
    let files = writers.each_ref().map(|writer| {
        let path = fs_path(writer.path);
        let opened = client.open_file(&path);
        cluster.runtime().block_on(opened).unwrap()
    });

    // Kept for longer than it lasts by itself, also by the next leader.
    let kept = |cluster: &Cluster| {
        let length = || {
            writers
                .each_ref()
                .map(|writer| cluster.stat(writer.path).unwrap().length)
        };
        let before = length();
        watch(LEASE * 2 / 3, || files.iter().find_map(|file| let_in(cluster, file)));
        let after = length();
        assert!(
            before.iter().zip(after).all(|(before, after)| *before < after),
            "they write on"
        );
    };
    kept(&cluster);
    let leader = cluster.wait_leader();
    cluster.kill(&leader);
    cluster.wait_leader_other_than(&leader);
    kept(&cluster);
    cluster.start(&leader);

    // Ended by time.
    let end = Instant::now();
    writers[0].process.signal(Signal::KILL);
    writers[1].process.signal(Signal::STOP);
    writers[2].process.signal(Signal::STOP);
    for (writer, file) in writers.iter().zip(&files).take(2) {
        until("the lease ends", 2 * LEASE, || {
            cluster.runtime().block_on(file.append(OTHER)).ok()
        });
        let took = end.elapsed();
        eprintln!("{}: others may write {took:?} later", writer.path);
        assert!(
            took > LEASE - 2 * RENEW,
            "a lease that was renewed {RENEW:?} ago ended after {took:?}"
        );
    }
    until("the third one's time is over too", 2 * LEASE, || {
        (end.elapsed() > LEASE + RENEW).then_some(())
    });

    // Lost for good.
    let whole = |path: &str| cluster.runtime().block_on(get(&client, path)).unwrap();
    let before = writers.each_ref().map(|writer| whole(writer.path));
    assert_eq!(writers[0].after_its_own(&before[0], OTHER.len()), OTHER);
    assert_eq!(writers[1].after_its_own(&before[1], OTHER.len()), OTHER);
    writers[2].after_its_own(&before[2], 0);
    writers[1].process.signal(Signal::CONT);
    writers[2].process.signal(Signal::CONT);
    for (writer, before) in writers.into_iter().zip(before) {
        let ended = writer.process.wait();
        if writer.path != "/killed" {
            ended.fails(4, &[writer.path, "the write lease was lost", "not renewed in time"]);
        }
        writer.feeding.join().unwrap();
        assert!(
            whole(writer.path) == before,
            "{} changed after its lease was lost",
            writer.path
        );
    }
    cluster.wait_ready();
    // And the file is free for the next one.
    let again = cluster.gabion().args(["append", "--exclusive", "-", "/late"]);
    again.run_with(b"!").ok();
    cluster.assert_undamaged();
}
