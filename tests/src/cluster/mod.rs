//! A whole cluster in a temporary directory: keys, configuration files, processes; and questions put to it directly.
//!
//! Start reading at [`Plan`]; then [`Cluster`], whose methods are in files by what they are about.
//!
//! Each cluster has a loopback address of its own (Linux answers on all of 127.0.0.0/8). So several run side by side,
//! and no outgoing connection ever takes the port of a server that is down for a moment.

mod chunks;
mod processes;
mod questions;
mod tools;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use gabion_protocol::FsPath;
use gabion_protocol::keys::{Holder, Identity, KeyFile, Role};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use chunks::in_state;

use crate::binaries::binary;
use crate::command::Tool;
use crate::network::Network;
use crate::process::Process;
use crate::wait::tell;

/// Lines of each log shown when a test fails.
const LOG_LINES: usize = 60;

/// What a cluster shall be like.
#[derive(Debug, Default)]
pub struct Plan {
    masters: u64,
    chunkservers: u64,
    ipv6: bool,
    namespaces: bool,
    master_lines: String,
    master_tables: String,
    chunkserver_lines: String,
    dirs: BTreeMap<String, PathBuf>,
    second_dirs: BTreeMap<String, PathBuf>,
    advertised: BTreeMap<String, String>,
}

impl Plan {
    /// With another number of masters than three.
    #[must_use]
    pub fn masters(mut self, count: u64) -> Self {
        self.masters = count;
        self
    }

    /// With another number of chunkservers than three.
    #[must_use]
    pub fn chunkservers(mut self, count: u64) -> Self {
        self.chunkservers = count;
        self
    }

    /// On the IPv6 loopback address.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Each server in a network namespace of its own. Ask [`Network::missing`] first.
    #[must_use]
    pub fn namespaces(mut self) -> Self {
        self.namespaces = true;
        self
    }

    /// With tables in every master's configuration.
    #[must_use]
    pub fn master_tables(mut self, toml: &str) -> Self {
        self.master_tables.push_str(toml);
        self.master_tables.push('\n');
        self
    }

    /// With settings at the top of every chunkserver's configuration.
    #[must_use]
    pub fn chunkserver_lines(mut self, toml: &str) -> Self {
        self.chunkserver_lines.push_str(toml);
        self.chunkserver_lines.push('\n');
        self
    }

    /// With a server's data in a directory of the test's choice.
    #[must_use]
    pub fn dir(mut self, node: &str, dir: &Path) -> Self {
        self.dirs.insert(node.to_owned(), dir.to_owned());
        self
    }

    /// With a second disk in a chunkserver: a directory of the test's choice.
    #[must_use]
    pub fn second_dir(mut self, node: &str, dir: &Path) -> Self {
        self.second_dirs.insert(node.to_owned(), dir.to_owned());
        self
    }

    /// Writes keys and configuration files; starts nothing.
    ///
    /// # Panics
    /// If anything fails.
    #[must_use]
    pub fn prepare(self) -> Cluster {
        Cluster::prepare(self)
    }

    /// Starts everything and waits until it is whole.
    ///
    /// # Panics
    /// If anything fails.
    #[must_use]
    pub fn start(self) -> Cluster {
        let began = Instant::now();
        let mut cluster = self.prepare();
        tell("(keys and configuration)", began);
        cluster.start_all();
        cluster.wait_ready();
        cluster
    }
}

/// One server: its place and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    /// `m1`, `c1`…
    pub name: String,
    /// Where clients (and, for a chunkserver, everyone) reach it.
    pub address: String,
    /// Where masters reach a master.
    pub raft_address: Option<String>,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data.
    pub dir: PathBuf,
    /// Its log file.
    pub log: PathBuf,
    namespace: Option<String>,
    process: Option<Process>,
    paused: bool,
}

impl Node {
    fn is_master(&self) -> bool {
        self.raft_address.is_some()
    }

    fn number(&self) -> u64 {
        self.name[1..].parse().expect("names are a letter and a number")
    }

    fn answers(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// The running process.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
    }
}

/// How to use a cluster from elsewhere: a load, a client.
#[derive(Debug, Clone)]
pub struct Access {
    /// Client addresses of the masters.
    pub masters: Vec<String>,
    /// A client's key file.
    pub key_file: PathBuf,
}

/// A cluster. Dropping it kills every process, and shows the logs if the test failed.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    nodes: BTreeMap<String, Node>,
    root: KeyFile,
    operator: KeyFile,
    runtime: Runtime,
    network: Option<Network>,
    host: String,
    /// The master that answered the last linearizable read.
    answered: RefCell<Option<String>>,
    // Last, so that processes end before their files go.
    dir: Option<TempDir>,
}

/// A loopback address that no other cluster of this machine uses.
fn own_loopback() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "127.{}.{}.{}",
        64 + process % 128,
        (process / 128) % 256,
        1 + count % 250
    )
}

impl Cluster {
    /// A plan of three masters and three chunkservers.
    #[must_use]
    pub fn plan() -> Plan {
        Plan {
            masters: 3,
            chunkservers: 3,
            ..Plan::default()
        }
    }

    fn prepare(plan: Plan) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("gabion-test-")
            .tempdir()
            .expect("a temporary directory can be made");
        let keys = dir.path().join("root.key");
        Tool::new(&binary("gabion-master"))
            .args(["keys", "new", "--out"])
            .arg(&keys)
            .run()
            .ok();
        let root = KeyFile::load_for(&keys, &Holder::Root).expect("`keys new` writes a root key");
        let operator = root.issue(Identity {
            role: Role::Operator,
            id: "tests".to_owned(),
        });
        let network = plan.namespaces.then(Network::new);
        let mut cluster = Self {
            host: if plan.ipv6 { "[::1]".to_owned() } else { own_loopback() },
            nodes: BTreeMap::new(),
            runtime: Runtime::new().expect("a runtime starts"),
            network,
            plan,
            root,
            operator,
            answered: RefCell::default(),
            dir: Some(dir),
        };
        cluster.issue("client", "tester", "client.key");
        cluster.issue("operator", "tester", "operator.key");
        for number in 1..=cluster.plan.masters {
            cluster.add_master(number);
        }
        for number in 1..=cluster.plan.chunkservers {
            cluster.add_chunkserver(number);
        }
        cluster.write_configs();
        cluster
    }

    /// The cluster's temporary directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the drop").path()
    }

    /// A fresh path below [`Self::path`] for a test's own files.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.path().join("scratch");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        dir.join(name)
    }

    /// Issues a key with the operators' own tool.
    ///
    /// # Panics
    /// If the tool fails.
    pub fn issue(&self, role: &str, id: &str, file: &str) -> PathBuf {
        let out = self.path().join(file);
        Tool::new(&binary("gabion-master"))
            .args(["keys", "issue", "--root"])
            .arg(self.path().join("root.key"))
            .args(["--role", role, "--id", id, "--out"])
            .arg(&out)
            .run()
            .ok();
        out
    }

    fn place(&self, name: &str, port: u16) -> (String, Option<String>) {
        match &self.network {
            Some(network) => {
                let (namespace, host) = network.host_of(name);
                (format!("{host}:{port}"), Some(namespace))
            }
            None => (format!("{}:{}", self.host, self.free_port(port)), None),
        }
    }

    /// The port itself on an address of our own; any free one on the address that all share.
    fn free_port(&self, port: u16) -> u16 {
        if !self.plan.ipv6 {
            return port;
        }
        let listener = std::net::TcpListener::bind("[::1]:0").expect("a port is free");
        listener.local_addr().expect("a listener has an address").port()
    }

    fn add_node(&mut self, name: String, address: String, raft_address: Option<String>, namespace: Option<String>) {
        let base = self.path().to_owned();
        let dir = self.plan.dirs.get(&name).cloned().unwrap_or_else(|| base.join(&name));
        let node = Node {
            config: base.join(format!("{name}.toml")),
            log: base.join(format!("{name}.log")),
            name: name.clone(),
            address,
            raft_address,
            dir,
            namespace,
            process: None,
            paused: false,
        };
        self.nodes.insert(name, node);
    }

    fn add_master(&mut self, number: u64) {
        let name = format!("m{number}");
        let (client, namespace) = self.place(&name, 7000 + number as u16);
        let (raft, _) = self.place(&name, 7100 + number as u16);
        self.add_node(name, client, Some(raft), namespace);
    }

    fn add_chunkserver(&mut self, number: u64) {
        let name = format!("c{number}");
        self.issue("chunkserver", &name, &format!("{name}.key"));
        let (address, namespace) = self.place(&name, 7200 + number as u16);
        self.add_node(name, address, None, namespace);
    }

    fn write_configs(&self) {
        for node in self.nodes.values() {
            let text = if node.is_master() {
                self.master_config(node, &self.members(self.plan.masters), "")
            } else {
                self.chunkserver_config(node)
            };
            std::fs::write(&node.config, text).expect("a configuration file can be written");
        }
    }

    /// The static list of the first `count` masters.
    fn members(&self, count: u64) -> String {
        let mut text = String::new();
        for number in 1..=count {
            let name = format!("m{number}");
            let node = self.node(&name);
            let (raft, client) = (node.raft_address.as_deref().unwrap_or_default(), self.advertised(&name));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "[[members]]\nid = {number}\nraft = \"{raft}\"\nclient = \"{client}\""
            );
        }
        text
    }

    fn master_config(&self, node: &Node, members: &str, lines: &str) -> String {
        format!(
            "id = {}\ndir = {:?}\nkey_file = {:?}\nraft_listen = {:?}\nclient_listen = {:?}\nclient_advertise = {:?}\n\
             {lines}{}\n{members}\n{}\n",
            node.number(),
            node.dir,
            self.path().join("root.key"),
            node.raft_address.as_deref().unwrap_or_default(),
            node.address,
            self.advertised(&node.name),
            self.plan.master_lines,
            self.plan.master_tables,
        )
    }

    fn chunkserver_config(&self, node: &Node) -> String {
        let masters: Vec<_> = self
            .masters()
            .iter()
            .map(|name| self.node(name).address.clone())
            .collect();
        let dirs: Vec<_> = [&node.dir]
            .into_iter()
            .chain(self.plan.second_dirs.get(&node.name))
            .collect();
        format!(
            "name = {:?}\ndirs = {dirs:?}\nkey_file = {:?}\nlisten = {:?}\nadvertise = {:?}\nmasters = {masters:?}\n{}\n",
            node.name,
            self.path().join(format!("{}.key", node.name)),
            node.address,
            self.advertised(&node.name),
            self.plan.chunkserver_lines,
        )
    }

    /// The address a server tells others: its own, unless a proxy stands before it.
    fn advertised(&self, name: &str) -> String {
        let own = || self.node(name).address.clone();
        self.plan.advertised.get(name).cloned().unwrap_or_else(own)
    }

    /// Puts `address` before a prepared server: others are told that one.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    pub fn advertise(&mut self, name: &str, address: &str) {
        self.plan.advertised.insert(name.to_owned(), address.to_owned());
        self.write_configs();
    }

    /// An address of this cluster for a proxy or the like, on a port no server uses.
    #[must_use]
    pub fn spare_address(&self, number: u16) -> String {
        format!("{}:{}", self.host, self.free_port(7500 + number))
    }

    /// Prepares a master that is to join the running cluster, with the number after the last.
    ///
    /// # Panics
    /// If its configuration cannot be written.
    pub fn prepare_joining_master(&mut self) -> String {
        let number = 1 + self
            .masters()
            .iter()
            .map(|name| self.node(name).number())
            .max()
            .unwrap_or(0);
        self.add_master(number);
        let name = format!("m{number}");
        let node = self.node(&name);
        let text = self.master_config(node, &self.members(self.plan.masters), "join = true\n");
        std::fs::write(&node.config, text).expect("a configuration file can be written");
        name
    }
}

/// A path that is known to be one.
///
/// # Panics
/// If it is not.
#[must_use]
pub fn fs_path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let began = Instant::now();
        // All are told before the first is waited for.
        let processes = self.nodes.values_mut().filter_map(|node| node.process.as_mut());
        processes.for_each(Process::kill);
        for node in self.nodes.values_mut() {
            node.process = None;
        }
        tell("(the cluster is killed)", began);
        if std::thread::panicking() {
            self.show_logs();
            if let Some(dir) = self.dir.take()
                && std::env::var_os("GABION_TEST_KEEP").is_some()
            {
                eprintln!("kept: {}", dir.keep().display());
            }
        }
        let began = Instant::now();
        drop(self.dir.take());
        tell("(its files are removed)", began);
    }
}
