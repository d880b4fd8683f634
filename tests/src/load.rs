//! Work that goes on while things break: clients that write, list, read, rename and remove, each operation noted in a
//! [`Ledger`]; and the comparison of the ledger with what the cluster holds afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gabion_client::{Client, Config, CreateOptions, Error};
use gabion_protocol::ErrorCode;
use gabion_protocol::keys::KeyFile;
use gabion_protocol::messages::master::EntryKind;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::cluster::{Access, Cluster, fs_path};
use crate::content;
use crate::ledger::{Answer, Deed, Found, Ledger};
use crate::wait::until;

/// Everything a load writes is below this.
const ROOT: &str = "/load";
/// How long an operation may go on trying: longer than any fault of the suites lasts.
const WAIT: Duration = Duration::from_secs(60);

/// A library client of a cluster.
///
/// # Panics
/// If it cannot connect.
pub async fn connect(access: &Access) -> Client {
    let key = KeyFile::load(&access.key_file).expect("the client's key file can be read");
    let mut config = Config::new(access.masters.clone(), key);
    config.wait = WAIT;
    Client::connect(config)
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()))
}

/// Uploads `bytes`.
///
/// # Errors
/// As the client's.
pub async fn put(client: &Client, path: &str, bytes: &[u8], options: CreateOptions) -> Result<(), Error> {
    let mut writer = client.create(&fs_path(path), options).await?;
    writer.write(bytes).await?;
    writer.finish().await.map(drop)
}

/// Downloads a whole file.
///
/// # Errors
/// As the client's.
pub async fn get(client: &Client, path: &str) -> Result<Vec<u8>, Error> {
    let reader = client.open(&fs_path(path)).await?;
    let length = reader.entry().length;
    let mut whole = Vec::new();
    // Pieces of a size that fits no block, so that ranges are read across their borders too.
    while (whole.len() as u64) < length {
        let piece = reader.read_at(whole.len() as u64, 1_500_001).await?;
        if piece.is_empty() {
            break;
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    /// Operations that failed or were not answered, and reads that were wrong.
    failures: Mutex<Vec<String>>,
    /// The longest operation.
    longest: Mutex<(Duration, String)>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    runtime: Runtime,
}

/// What a load has done.
#[derive(Debug)]
pub struct Report {
    /// Every operation that changes something.
    pub ledger: Arc<Ledger>,
    /// Operations that ended well.
    pub done: u64,
    /// What failed.
    pub failures: Vec<String>,
    /// The longest operation and what it was.
    pub longest: (Duration, String),
}

impl Load {
    /// Starts `workers` clients.
    ///
    /// # Panics
    /// If they cannot connect.
    #[must_use]
    pub fn start(cluster: &Cluster, workers: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let (ledger, shared) = (Arc::new(Ledger::default()), Arc::new(Shared::default()));
        let client = runtime.block_on(connect(&cluster.access()));
        runtime
            .block_on(client.mkdir(&fs_path(ROOT), true, 0o755))
            .expect("the load's directory can be made");
        ledger.note(ROOT, Deed::Put(Found::Directory), Answer::Ok);
        let workers = (0..workers)
            .map(|number| {
                let worker = Worker {
                    dir: format!("{ROOT}/w{number}"),
                    number: number as u64,
                    access: cluster.access(),
                    ledger: Arc::clone(&ledger),
                    shared: Arc::clone(&shared),
                    alive: BTreeMap::new(),
                };
                runtime.spawn(worker.run())
            })
            .collect();
        Self {
            ledger,
            shared,
            workers,
            runtime,
        }
    }

    /// Operations that ended well so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` operations have ended well from now on: work goes on.
    ///
    /// # Panics
    /// After `deadline`, with what failed.
    #[track_caller]
    pub fn await_progress(&self, more: u64, deadline: Duration) {
        let target = self.done() + more;
        let what = format!(
            "{more} more operations succeed (so far failed: {:?})",
            self.shared.failures.lock()
        );
        until(&what, deadline, || (self.done() >= target).then_some(()));
    }

    /// Ends the load: each worker finishes what it does.
    ///
    /// # Panics
    /// If a worker hangs or panics.
    #[must_use]
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let end = Instant::now() + WAIT + WAIT;
        for worker in self.workers {
            let left = end.saturating_duration_since(Instant::now());
            self.runtime
                .block_on(async { tokio::time::timeout(left, worker).await })
                .expect("every worker comes to an end")
                .expect("no worker panics");
        }
        Report {
            done: self.shared.done.load(Ordering::Relaxed),
            failures: std::mem::take(&mut *self.shared.failures.lock()),
            longest: self.shared.longest.lock().clone(),
            ledger: self.ledger,
        }
    }
}

impl Report {
    /// Asserts that something was done, nothing failed, and the cluster holds what the ledger says.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_unnoticed(&self, cluster: &Cluster) {
        eprintln!(
            "load: {} operations, the longest took {:?}: {}",
            self.done, self.longest.0, self.longest.1
        );
        assert!(self.done > 0, "the load did nothing: the run is void");
        assert!(
            self.failures.is_empty(),
            "{} operations failed, for example:\n{}",
            self.failures.len(),
            self.failures[..self.failures.len().min(5)].join("\n")
        );
        self.assert_kept(cluster);
    }

    /// Asserts that the cluster holds what the ledger says; operations without an answer may be either way.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_kept(&self, cluster: &Cluster) {
        let actual = survey(cluster, ROOT);
        let violations = self.ledger.judge(&actual);
        assert!(
            violations.is_empty(),
            "{} broken promises:\n{}",
            violations.len(),
            violations
                .iter()
                .take(20)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
}

/// Everything at and below `root`, each file downloaded and measured.
///
/// # Panics
/// If a directory cannot be listed. A file that cannot be read counts as one of length `u64::MAX`: whatever the ledger
/// says of it is broken.
#[must_use]
pub fn survey(cluster: &Cluster, root: &str) -> BTreeMap<String, Found> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let client = connect(&cluster.access()).await;
        let mut actual = BTreeMap::from([(root.to_owned(), Found::Directory)]);
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            let entries = client.list_all(&fs_path(&directory)).await;
            for entry in entries.unwrap_or_else(|error| panic!("list {directory}: {}", error.report())) {
                let path = format!("{directory}/{}", entry.name);
                let found = match entry.kind {
                    EntryKind::Directory => {
                        directories.push(path.clone());
                        Found::Directory
                    }
                    EntryKind::Link { .. } => panic!("no load makes the link {path}"),
                    EntryKind::File => match get(&client, &path).await {
                        Ok(bytes) => Found::File {
                            len: bytes.len() as u64,
                            crc: crc32fast::hash(&bytes),
                        },
                        Err(error) => {
                            eprintln!("{path} cannot be read: {}", error.report());
                            Found::File { len: u64::MAX, crc: 0 }
                        }
                    },
                };
                actual.insert(path, found);
            }
        }
        actual
    })
}

/// One client with a directory of its own.
struct Worker {
    dir: String,
    number: u64,
    access: Access,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    alive: BTreeMap<String, Found>,
}

impl Worker {
    async fn run(mut self) {
        let client = connect(&self.access).await;
        let dir = self.dir.clone();
        let made = self
            .timed("mkdir", &dir, client.mkdir(&fs_path(&dir), true, 0o755))
            .await;
        self.ledger
            .note(&dir, Deed::Put(Found::Directory), answer_of(made.as_ref().err()));
        for round in 0_u64.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            self.round(&client, round).await;
        }
    }

    /// Writes a file, sees it, and does one of the other things.
    async fn round(&mut self, client: &Client, round: u64) {
        let path = format!("{}/f{round}", self.dir);
        self.put(client, &path, round).await;
        match round % 6 {
            0 | 3 => self.list(client).await,
            1 => self.rename(client, round).await,
            2 | 4 => self.read(client, round).await,
            _ => self.remove(client).await,
        }
    }

    async fn put(&mut self, client: &Client, path: &str, round: u64) {
        let seed = self.number << 32 | round;
        // Mostly small, now and then several chunks.
        let len = if round % 8 == 7 {
            5_000_000
        } else {
            (seed.wrapping_mul(2_654_435_761) >> 7) % 150_000
        };
        let bytes = content::bytes(seed, len);
        let found = Found::File {
            len,
            crc: crc32fast::hash(&bytes),
        };
        let options = CreateOptions {
            chunk_bytes: Some(1 << 20),
            ..CreateOptions::default()
        };
        let done = self.timed("put", path, put(client, path, &bytes, options)).await;
        self.ledger.note(path, Deed::Put(found), answer_of(done.as_ref().err()));
        if done.is_ok() {
            self.alive.insert(path.to_owned(), found);
        }
    }

    async fn list(&self, client: &Client) {
        let dir = self.dir.clone();
        let Ok(entries) = self.timed("list", &dir, client.list_all(&fs_path(&dir))).await else {
            return;
        };
        // What this client was told is there, this client must see: monotonic, and its own writes.
        for path in self.alive.keys() {
            if !entries.iter().any(|entry| format!("{dir}/{}", entry.name) == *path) {
                self.failed(format!(
                    "list {dir} does not show {path}, which was acknowledged before"
                ));
            }
        }
    }

    async fn read(&self, client: &Client, round: u64) {
        let nth = (round as usize * 7) % self.alive.len().max(1);
        let Some((path, expected)) = self.alive.iter().nth(nth) else {
            return;
        };
        let Ok(bytes) = self.timed("get", path, get(client, path)).await else {
            return;
        };
        let found = Found::File {
            len: bytes.len() as u64,
            crc: crc32fast::hash(&bytes),
        };
        if found != *expected {
            self.failed(format!("get {path}: {found:?} instead of {expected:?}"));
        }
    }

    async fn rename(&mut self, client: &Client, round: u64) {
        let Some((path, found)) = self.alive.pop_first() else {
            return;
        };
        let to = format!("{}/r{round}", self.dir);
        let done = self
            .timed("rename", &path, client.rename(&fs_path(&path), &fs_path(&to), false))
            .await;
        self.ledger
            .note(&path, Deed::Rename(to.clone()), answer_of(done.as_ref().err()));
        if done.is_ok() {
            self.alive.insert(to, found);
        }
    }

    async fn remove(&mut self, client: &Client) {
        let Some((path, _)) = self.alive.pop_last() else {
            return;
        };
        let done = self.timed("remove", &path, client.remove(&fs_path(&path), false)).await;
        self.ledger.note(&path, Deed::Remove, answer_of(done.as_ref().err()));
    }

    /// Runs one operation, counts it or notes its failure, and measures it.
    async fn timed<T>(
        &self,
        what: &str,
        path: &str,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = operation.await;
        let took = began.elapsed();
        let mut longest = self.shared.longest.lock();
        if took > longest.0 {
            *longest = (took, format!("{what} {path}"));
        }
        drop(longest);
        match &result {
            Ok(_) => drop(self.shared.done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.failed(format!("{what} {path} after {took:?}: {}", error.report())),
        }
        result
    }

    fn failed(&self, what: String) {
        self.shared.failures.lock().push(what);
    }
}

/// What an error says about whether the operation happened.
fn answer_of(error: Option<&Error>) -> Answer {
    match error {
        None => Answer::Ok,
        Some(error) if error.exit_code() == 5 || error.code() == ErrorCode::OutcomeUnknown => {
            Answer::Unknown(error.report())
        }
        Some(error) => Answer::Failed(error.report()),
    }
}
