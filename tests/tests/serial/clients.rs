//! Clients that change the same few names over one another, and the account of what each asked and was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gabion_client::{Client, CreateOptions, Entry, EntryKind, Error, ErrorCode, LinkOptions, Removed};
use gabion_tests::binaries::binary;
use gabion_tests::cluster::{Access, Cluster, fs_path};
use gabion_tests::command::{Outcome, Tool};
use gabion_tests::load::{connect, put};
use gabion_tests::{seconds, until};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::checker::{Doubt, Record, explain};
use super::model::{Op, Seen, Shape, Told, Tree, bits, bytes};

/// Clients with a session and connections of their own that do everything.
const REGULARS: usize = 5;
/// Clients that connect anew for each question: they do not know who leads.
const NEWCOMERS: usize = 2;
/// The number of the client whose commands are processes of their own, now and then killed.
const COMMANDS: usize = REGULARS + NEWCOMERS;
/// The number of the client that looks at everything in the end.
const LAST: usize = COMMANDS + 1;
/// Longest pause of a client between two operations: a history stays short enough to be explained.
const PAUSE_MS: u64 = 15;

const TARGETS: [&str; 6] = ["b", "/a", "../c", "b/c", "/c/b", "a/../../b"];

/// Numbers that look random, the same ones for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }

    fn coin(&mut self) -> bool {
        self.roll(2) == 0
    }

    /// One of a few paths, all of which are in each other's way.
    fn path(&mut self) -> String {
        let depth = 1 + [0, 0, 0, 1, 1, 1, 1, 2][self.roll(8) as usize];
        let names = (0..depth).map(|_| ["/a", "/b", "/c"][self.roll(3) as usize]);
        names.collect()
    }

    fn question(&mut self) -> Op {
        let path = self.path();
        match self.roll(6) {
            0 | 1 => Op::Stat { path },
            2 => Op::Resolve { path },
            3 => Op::Read { path },
            4 => Op::List { path },
            _ => Op::List { path: "/".to_owned() },
        }
    }

    fn op(&mut self, tag: u64) -> Op {
        let (path, replace) = (self.path(), self.coin());
        match self.roll(24) {
            0..=3 => Op::Mkdir { path, tag },
            4 | 5 => Op::Create { path, replace, tag },
            6 | 7 => Op::Put { path, replace, tag },
            8 | 9 => Op::Link {
                path,
                target: TARGETS[self.roll(6) as usize],
                replace,
                tag,
            },
            10..=14 => Op::Rename {
                from: path,
                to: self.path(),
                replace,
            },
            15..=17 => Op::Remove {
                path,
                recursive: self.roll(4) == 0,
                trash: self.coin(),
            },
            18 => Op::Touch { path, tag },
            _ => self.question(),
        }
    }
}

fn seen(entry: &Entry) -> Seen {
    let tag = u64::try_from(entry.modified_ms).unwrap_or(u64::MAX);
    let node = match &entry.kind {
        EntryKind::Directory => Shape::Directory { tag: entry.mode.into() },
        EntryKind::File => Shape::File { tag, crc: entry.crc },
        EntryKind::Link { target } => Shape::Link {
            tag,
            target: target.clone(),
        },
    };
    Seen {
        node,
        bytes: entry.length,
    }
}

fn removed(removed: Removed) -> Told {
    Told::Removed {
        files: removed.files,
        directories: removed.directories,
        bytes: removed.bytes,
    }
}

fn options(replace: bool, tag: u64, content: &[u8]) -> CreateOptions {
    CreateOptions {
        replace,
        modified_ms: Some(tag as i64),
        length_hint: Some(content.len() as u64),
        ..CreateOptions::default()
    }
}

/// Asks for an operation.
async fn ask(client: &Client, op: &Op) -> Result<Told, Error> {
    Ok(match op {
        Op::Mkdir { path, tag } => Told::Entry(seen(&client.mkdir(&fs_path(path), false, bits(*tag)).await?)),
        Op::Create { path, replace, tag } => {
            let made = client
                .create_empty(&fs_path(path), options(*replace, *tag, &[]))
                .await?;
            Told::Entry(seen(&made))
        }
        Op::Put { path, replace, tag } => {
            let content = bytes(*tag);
            put(client, path, &content, options(*replace, *tag, &content)).await?;
            Told::Done
        }
        Op::Link {
            path,
            target,
            replace,
            tag,
        } => {
            let options = LinkOptions {
                replace: *replace,
                modified_ms: Some(*tag as i64),
                ..LinkOptions::default()
            };
            Told::Entry(seen(&client.link(target, &fs_path(path), options).await?))
        }
        Op::Rename { from, to, replace } => {
            let moved = client.rename(&fs_path(from), &fs_path(to), *replace).await?;
            Told::Entry(seen(&moved))
        }
        Op::Remove {
            path,
            recursive,
            trash: true,
        } => removed(client.trash(&fs_path(path), *recursive).await?.removed),
        Op::Remove { path, recursive, .. } => removed(client.remove(&fs_path(path), *recursive).await?),
        Op::Touch { path, tag } => {
            let (mode, time) = (Some(bits(*tag)), Some(*tag as i64));
            Told::Entry(seen(&client.set_attributes(&fs_path(path), mode, time).await?))
        }
        Op::Stat { path } => Told::Entry(seen(&client.stat(&fs_path(path)).await?)),
        Op::Resolve { path } => {
            let (path, entry) = client.resolve(&fs_path(path)).await?;
            Told::Resolved(path.to_string(), seen(&entry))
        }
        Op::List { path } => {
            let entries = client.list_all(&fs_path(path)).await?;
            Told::Names(entries.iter().map(|entry| (entry.name.clone(), seen(entry))).collect())
        }
        Op::Read { path } => Told::Content(client.read(&fs_path(path)).await?.to_vec()),
    })
}

/// What all clients were told.
#[derive(Debug, Default)]
struct History {
    /// Counts beginnings and ends: what ended before another began has the smaller number.
    clock: AtomicU64,
    tags: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
    records: Mutex<Vec<Record>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn tag(&self) -> u64 {
        1 + self.tags.fetch_add(1, Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, client: usize, op: Op, begin: u64, told: Option<Told>) {
        let told = told.map(|told| (self.tick(), told));
        self.answered.fetch_add(u64::from(told.is_some()), Ordering::Relaxed);
        self.records.lock().push(Record {
            client,
            op,
            begin,
            told,
        });
    }

    /// # Panics
    /// If it is not answered: no fault of these tests lasts as long as a client waits.
    async fn run(&self, number: usize, client: &Client, op: Op) -> Told {
        let begin = self.tick();
        let told = match ask(client, &op).await {
            Ok(told) => told,
            Err(error) if is_refusal(&error) => Told::Refused(error.code()),
            Err(error) => panic!("{op:?} was not answered: {}", error.report()),
        };
        self.note(number, op, begin, Some(told.clone()));
        told
    }
}

/// Whether the masters looked at it and said no.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::NotFound
            | ErrorCode::Exists
            | ErrorCode::IsDirectory
            | ErrorCode::NotDirectory
            | ErrorCode::NotEmpty
            | ErrorCode::InvalidArgument
            | ErrorCode::LimitExceeded
    )
}

async fn pause(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.roll(PAUSE_MS))).await;
}

async fn regular(history: Arc<History>, access: Access, number: usize) {
    let client = connect(&access).await;
    let mut dice = Dice::new(number);
    while !history.stopped() {
        let op = dice.op(history.tag());
        history.run(number, &client, op).await;
        pause(&mut dice).await;
    }
}

async fn newcomer(history: Arc<History>, access: Access, number: usize) {
    let mut dice = Dice::new(number);
    while !history.stopped() {
        let client = connect(&access).await;
        for _ in 0..3 {
            history.run(number, &client, dice.question()).await;
        }
        pause(&mut dice).await;
    }
}

/// Runs commands as processes, and kills some of them: nobody knows what became of those.
fn commands(history: &History, access: &Access) {
    let mut dice = Dice::new(COMMANDS);
    while !history.stopped() {
        let (path, tag) = (dice.path(), history.tag());
        let tool = Tool::new(&binary("gabion"))
            .env("GABION_MASTERS", access.masters.join(","))
            .env("GABION_KEY_FILE", &access.key_file)
            .args(["mkdir", "-m", &format!("{:o}", bits(tag)), &path]);
        let op = Op::Mkdir { path, tag };
        let begin = history.tick();
        let mut running = tool.start();
        let told = match dice.roll(12) {
            0 => {
                std::thread::sleep(Duration::from_millis(dice.roll(30)));
                let was_running = running.is_running();
                (!was_running).then(|| told(&running.wait()))
            }
            _ => Some(told(&running.wait())),
        };
        history.note(COMMANDS, op, begin, told);
    }
}

/// What a command was told, from what it says.
fn told(outcome: &Outcome) -> Told {
    let codes = [
        ErrorCode::Exists,
        ErrorCode::NotFound,
        ErrorCode::NotDirectory,
        ErrorCode::LimitExceeded,
    ];
    match outcome.code() {
        0 => Told::Done,
        _ => {
            let said = codes.iter().find(|code| outcome.stderr.contains(code.name()));
            Told::Refused(*said.unwrap_or_else(|| panic!("no answer of the masters: {outcome}")))
        }
    }
}

/// The clients at work.
pub(crate) struct Work {
    history: Arc<History>,
    tasks: Vec<JoinHandle<()>>,
    commands: std::thread::JoinHandle<()>,
}

impl Work {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let history = Arc::<History>::default();
        let runtime = cluster.runtime();
        let mut tasks = Vec::new();
        for number in 0..REGULARS {
            tasks.push(runtime.spawn(regular(Arc::clone(&history), cluster.access(), number)));
        }
        for number in REGULARS..COMMANDS {
            tasks.push(runtime.spawn(newcomer(Arc::clone(&history), cluster.access(), number)));
        }
        let commands = {
            let (history, access) = (Arc::clone(&history), cluster.access());
            std::thread::spawn(move || commands(&history, &access))
        };
        Self {
            history,
            tasks,
            commands,
        }
    }

    /// Waits until so many more operations were answered: work goes on.
    ///
    /// # Panics
    /// If it does not, or a client has ended.
    #[track_caller]
    pub(crate) fn progress(&self, more: u64) {
        let goal = self.history.answered.load(Ordering::Relaxed) + more;
        until("operations are answered", seconds(60), || {
            let ended = self.tasks.iter().any(JoinHandle::is_finished) || self.commands.is_finished();
            assert!(!ended, "a client has ended");
            (self.history.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends the work, looks at everything that is there, and looks for a serial order of all of it.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn judge(self, cluster: &Cluster) {
        self.history.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            cluster.runtime().block_on(task).expect("no client fails");
        }
        self.commands.join().expect("no command fails");
        cluster.runtime().block_on(look(&self.history, cluster.access()));
        let mut records = std::mem::take(&mut *self.history.records.lock());
        records.sort_by_key(|record| record.begin);
        assert_worth(&records);
        must_be_serial(&records);
    }
}

/// Every name and every byte, as parts of the history.
async fn look(history: &History, access: Access) {
    let client = connect(&access).await;
    let mut directories = vec!["/".to_owned()];
    while let Some(path) = directories.pop() {
        let listed = history.run(LAST, &client, Op::List { path: path.clone() }).await;
        let Told::Names(names) = listed else {
            panic!("{path} was a directory: {listed:?}");
        };
        for (name, seen) in names {
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            match seen.node {
                Shape::Directory { .. } => directories.push(path),
                Shape::File { .. } => drop(history.run(LAST, &client, Op::Read { path }).await),
                Shape::Link { .. } => drop(history.run(LAST, &client, Op::Resolve { path }).await),
            }
        }
    }
}

/// A history in which little happened proves little.
fn assert_worth(records: &[Record]) {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in records {
        let count = counts.entry(record.op.kind()).or_default();
        match &record.told {
            Some((_, Told::Refused(_))) => count.1 += 1,
            Some(_) => count.0 += 1,
            None => {}
        }
    }
    let unknown = records.iter().filter(|record| record.told.is_none()).count();
    eprintln!(
        "{} operations, {unknown} never answered; done and refused: {counts:?}",
        records.len()
    );
    let one_sided = counts.iter().find(|(_, (done, refused))| *done == 0 || *refused == 0);
    assert_eq!(one_sided, None, "was never done, or never refused");
    assert_eq!(counts.len(), 11, "some kind of operation was never tried");
}

/// # Panics
/// If no serial order explains the history, or none is found.
pub(crate) fn must_be_serial(records: &[Record]) {
    match explain(records, &Tree::new()) {
        Ok(()) => {}
        Err(Doubt::NotSerial(why)) => panic!("no serial order gives these answers: {why}"),
        Err(Doubt::OutOfBudget) => panic!("no serial order was found in the time there was: nothing is proved"),
    }
}

/// Operations of one client, none of which may be told anything but what the model says.
pub(crate) async fn alone(access: Access, count: usize) {
    let client = connect(&access).await;
    let (history, mut dice, mut tree) = (History::default(), Dice::new(77), Tree::new());
    for number in 0..count {
        let op = dice.op(history.tag());
        let (expected, after) = tree.run(&op);
        let told = history.run(0, &client, op.clone()).await;
        let is_done = told == Told::Done && !matches!(expected, Told::Refused(_));
        assert!(
            is_done || told == expected,
            "{number}: {op:?}: {told:?}, not {expected:?}: {tree:?}"
        );
        tree = after.unwrap_or(tree);
    }
}
