//! A whole cluster in a temporary directory: keys, configuration files, processes; and questions put to it directly.
//!
//! Each cluster has a loopback address of its own (Linux answers on all of 127.0.0.0/8). So several run side by side,
//! and no outgoing connection ever takes the port of a server that is down for a moment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::{Incarnation, SessionId};
use gabion_protocol::keys::{Holder, Identity, KeyFile, Role};
use gabion_protocol::messages::master::{Entry, Freshness, Health, Located, Page, Query, Request, Response, Status};
use gabion_protocol::net::{Connection, Dialer, dial};
use gabion_protocol::{ErrorCode, FsPath, WireError};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::binaries::binary;
use crate::command::Tool;
use crate::network::Network;
use crate::process::{Process, command, read_log};
use crate::wait::{seconds, try_until, until};

/// For a question to one master, which may be dead, stopped or cut off.
const ASK: Duration = Duration::from_millis(500);
/// For the cluster to be whole after a start.
const READY: Duration = seconds(30);
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
        let mut cluster = self.prepare();
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
        format!(
            "name = {:?}\ndirs = [{:?}]\nkey_file = {:?}\nlisten = {:?}\nmasters = {masters:?}\n{}\n",
            node.name,
            node.dir,
            self.path().join(format!("{}.key", node.name)),
            node.address,
            self.plan.chunkserver_lines,
        )
    }

    /// The address a master tells clients: its own, unless a proxy stands before it.
    fn advertised(&self, master: &str) -> String {
        let own = || self.node(master).address.clone();
        self.plan.advertised.get(master).cloned().unwrap_or_else(own)
    }

    /// Puts `address` before a prepared master: clients are told that one.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    pub fn advertise(&mut self, master: &str, address: &str) {
        self.plan.advertised.insert(master.to_owned(), address.to_owned());
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

    // ---- processes ----

    /// A server by name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Names of all masters.
    #[must_use]
    pub fn masters(&self) -> Vec<String> {
        self.nodes
            .values()
            .filter(|node| node.is_master())
            .map(|node| node.name.clone())
            .collect()
    }

    /// Names of all chunkservers.
    #[must_use]
    pub fn chunkservers(&self) -> Vec<String> {
        self.nodes
            .values()
            .filter(|node| !node.is_master())
            .map(|node| node.name.clone())
            .collect()
    }

    /// The command that runs a server's binary with its configuration.
    #[must_use]
    pub fn server_tool(&self, name: &str) -> Tool {
        let node = self.node(name);
        let program = if node.is_master() {
            "gabion-master"
        } else {
            "gabion-chunkserver"
        };
        Tool::new(&binary(program)).arg("--config").arg(&node.config)
    }

    /// Starts a server that does not run.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn start(&mut self, name: &str) {
        let node = self.node_mut(name);
        assert!(node.process.is_none(), "{name} runs already");
        let program = binary(if node.is_master() {
            "gabion-master"
        } else {
            "gabion-chunkserver"
        });
        let mut command = command(&program, node.namespace.as_deref());
        command.arg("--config").arg(&node.config);
        node.process = Some(Process::start(name, command, &node.log));
    }

    /// Starts every server that does not run, all at once.
    ///
    /// # Panics
    /// If one cannot be started.
    pub fn start_all(&mut self) {
        let idle = |node: &&Node| node.process.is_none();
        let names: Vec<_> = self.nodes.values().filter(idle).map(|node| node.name.clone()).collect();
        names.iter().for_each(|name| self.start(name));
    }

    /// Stops a server gracefully (SIGTERM) and asserts that it says so with exit code 0.
    ///
    /// # Panics
    /// If it takes over 20 s or fails.
    pub fn stop(&mut self, name: &str) {
        let mut process = self.take(name);
        process.signal(Signal::TERM);
        let status = process.wait(seconds(20));
        assert!(status.success(), "{name} stopped with {status}");
    }

    /// Kills a server (SIGKILL).
    ///
    /// # Panics
    /// If it had ended by itself before: then the fault was not ours.
    pub fn kill(&mut self, name: &str) {
        let mut process = self.take(name);
        let before = process.ended();
        assert!(before.is_none(), "{name} had ended by itself: {before:?}");
        process.signal(Signal::KILL);
        process.wait(seconds(10));
    }

    /// Kills every running server at once.
    ///
    /// # Panics
    /// If one had ended by itself before.
    pub fn kill_all(&mut self) {
        let mut processes: Vec<_> = self
            .nodes
            .values_mut()
            .filter_map(|node| Some((node.name.clone(), node.process.take()?)))
            .collect();
        for (name, process) in &mut processes {
            assert!(process.ended().is_none(), "{name} had ended by itself");
        }
        processes.iter().for_each(|(_, process)| process.signal(Signal::KILL));
        for (_, process) in &mut processes {
            process.wait(seconds(10));
        }
    }

    fn take(&mut self, name: &str) -> Process {
        let node = self.node_mut(name);
        node.paused = false;
        node.process.take().unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// Stops a server in its tracks (SIGSTOP): it keeps its connections and says nothing.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&mut self, name: &str) {
        let node = self.node_mut(name);
        node.process().signal(Signal::STOP);
        node.paused = true;
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Panics
    /// If it does not run.
    pub fn resume(&mut self, name: &str) {
        let node = self.node_mut(name);
        node.process().signal(Signal::CONT);
        node.paused = false;
    }

    /// Whether a server that was started has ended by itself.
    #[must_use]
    pub fn ended(&self, name: &str) -> bool {
        // A child that ended stays a zombie until it is waited for, and so keeps its process id.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.node(name).process().id()));
        stat.is_ok_and(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
        })
    }

    /// Waits until a server has ended by itself; gives whether it succeeded, and its log.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait_ended(&mut self, name: &str, deadline: Duration) -> (bool, String) {
        let mut process = self.take(name);
        let status = process.wait(deadline);
        (status.success(), process.log())
    }

    /// Panics if a server that should run has ended by itself.
    ///
    /// # Panics
    /// As said.
    pub fn assert_all_run(&mut self) {
        for node in self.nodes.values_mut() {
            let ended = node.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{} ended by itself: {ended:?}", node.name);
        }
    }

    /// The network, if each server has a namespace.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was planned with namespaces")
    }

    // ---- questions ----

    /// A connection to one master as an operator.
    ///
    /// # Errors
    /// Why there is none.
    pub fn dial(&self, master: &str, deadline: Duration) -> Result<Connection, WireError> {
        let Holder::One(identity) = self.operator.holder.clone() else {
            panic!("an issued key has one holder")
        };
        let dialer = Dialer {
            cluster: self.root.cluster,
            identity,
            boot: 0,
            incarnation: Incarnation::random(),
            key: self.operator.key.clone(),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: None,
            },
        };
        self.runtime
            .block_on(dial(&self.node(master).address, &dialer, deadline))
    }

    /// Puts a request on a connection and waits for the answer.
    ///
    /// # Errors
    /// The answer, if it is an error, or why there was none.
    pub fn call(&self, connection: &Connection, request: &Request, deadline: Duration) -> Result<Response, WireError> {
        let call = connection.call(Kind::MasterRequest, request, bytes::Bytes::new(), deadline);
        self.runtime.block_on(call).map(|(answer, _)| answer)
    }

    /// Asks one master.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn ask(&self, master: &str, request: &Request) -> Result<Response, WireError> {
        let connection = self.dial(master, ASK)?;
        let answer = self.call(&connection, request, ASK);
        connection.close();
        answer
    }

    /// The runtime on which this cluster's own questions run.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What one master believes, if it answers.
    #[must_use]
    pub fn status_of(&self, master: &str) -> Option<Status> {
        if !self.node(master).answers() {
            return None;
        }
        let request = Request::Query {
            query: Query::Status,
            freshness: Freshness::Stale,
        };
        match self.ask(master, &request) {
            Ok(Response::Status(status)) => Some(*status),
            Ok(_) | Err(_) => None,
        }
    }

    /// The master that says it leads, of the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        self.masters()
            .iter()
            .filter_map(|name| self.status_of(name))
            .filter(|status| status.leader == Some(status.answered_by))
            .max_by_key(|status| status.term)
            .map(|status| format!("m{}", status.answered_by))
    }

    /// Waits for a leader.
    ///
    /// # Panics
    /// If none appears within 15 s.
    #[track_caller]
    pub fn wait_leader(&self) -> String {
        until("a master leads", seconds(15), || self.leader())
    }

    /// Waits for a leader other than `old`.
    ///
    /// # Panics
    /// If none appears within 15 s.
    #[track_caller]
    pub fn wait_leader_other_than(&self, old: &str) -> String {
        until(&format!("a master other than {old} leads"), seconds(15), || {
            self.leader().filter(|leader| leader != old)
        })
    }

    /// A master that runs and does not lead.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn follower(&self) -> String {
        let leader = self.wait_leader();
        self.masters()
            .into_iter()
            .find(|name| *name != leader && self.node(name).answers())
            .expect("a follower runs")
    }

    /// The leader's view.
    ///
    /// # Panics
    /// If there is no leader within 15 s.
    #[track_caller]
    pub fn status(&self) -> Status {
        until("the leader tells its status", seconds(15), || {
            self.status_of(&self.leader()?)
        })
    }

    /// Why the cluster is not whole; `None` if it is: one leader that all running masters follow, and every running
    /// chunkserver alive in its eyes.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some("no leader".to_owned());
        };
        let Some(status) = self.status_of(&leader) else {
            return Some(format!("{leader} does not answer"));
        };
        for node in self.nodes.values().filter(|node| node.answers()) {
            let fine = if node.is_master() {
                self.status_of(&node.name)
                    .is_some_and(|seen| seen.leader == status.leader)
            } else {
                let alive = |health: Health| health == Health::Alive;
                status
                    .servers
                    .iter()
                    .any(|server| server.name == node.name && alive(server.health))
            };
            if !fine {
                return Some(format!("{} is not there yet", node.name));
            }
        }
        None
    }

    /// Waits until the cluster is whole.
    ///
    /// # Panics
    /// If that takes over 30 s.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let mut why = None;
        let ready = try_until(READY, || {
            self.assert_all_run();
            why = self.not_ready();
            why.is_none().then_some(())
        });
        assert!(ready.is_some(), "the cluster is not whole after {READY:?}: {why:?}");
    }

    /// Waits until `name` is alive in the leader's eyes, or is not any more.
    ///
    /// # Panics
    /// If that takes over 30 s.
    #[track_caller]
    pub fn wait_server(&self, name: &str, alive: bool) {
        until(&format!("{name} is seen as alive = {alive}"), READY, || {
            let status = self.status_of(&self.leader()?)?;
            let server = status.servers.iter().find(|server| server.name == name)?;
            ((server.health == Health::Alive) == alive).then_some(())
        });
    }

    /// A linearizable read, retried while there is no leader.
    ///
    /// # Errors
    /// The answer, if it is an error that a retry does not help.
    #[track_caller]
    pub fn query(&self, query: &Query) -> Result<Response, WireError> {
        let request = Request::Query {
            query: query.clone(),
            freshness: Freshness::Linearizable,
        };
        until(&format!("an answer to {query:?}"), seconds(15), || {
            match self.ask(&self.leader()?, &request) {
                Err(error) if error.code.exit_code() == 5 => None,
                answer => Some(answer),
            }
        })
    }

    /// What is at a path; `None` if nothing.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn stat(&self, path: &str) -> Option<Entry> {
        match self.query(&Query::Stat { path: fs_path(path) }) {
            Ok(Response::Entry(entry)) => Some(entry),
            Err(error) if error.code == ErrorCode::NotFound => None,
            other => panic!("stat {path}: {other:?}"),
        }
    }

    /// The names in a directory (the first thousand).
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        let query = Query::List {
            path: fs_path(path),
            after: None,
            limit: 1000,
        };
        match self.query(&query) {
            Ok(Response::Page(Page { entries, .. })) => entries.into_iter().map(|entry| entry.name).collect(),
            other => panic!("list {path}: {other:?}"),
        }
    }

    /// Where the first bytes of a file are.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn locate(&self, path: &str) -> Located {
        let query = Query::Locate {
            path: fs_path(path),
            ino: None,
            offset: 0,
            limit: 64,
            session: SessionId {
                opened: self.status().now,
                random: u64::from(std::process::id()),
            },
        };
        match self.query(&query) {
            Ok(Response::Located(located)) => located,
            other => panic!("locate {path}: {other:?}"),
        }
    }

    // ---- tools ----

    /// How to use the cluster as a client.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            masters: (1..=self.plan.masters)
                .map(|number| self.advertised(&format!("m{number}")))
                .collect(),
            key_file: self.path().join("client.key"),
        }
    }

    fn tool(&self, program: &str, key: &str) -> Tool {
        let masters = self.access().masters.join(",");
        Tool::new(&binary(program))
            .env("GABION_MASTERS", masters)
            .env("GABION_KEY_FILE", self.path().join(key))
            // No configuration of whoever runs the tests.
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("no-config"))
    }

    /// `gabion`, as a client.
    #[must_use]
    pub fn gabion(&self) -> Tool {
        self.tool("gabion", "client.key")
    }

    /// `gabion`, as an operator.
    #[must_use]
    pub fn operator(&self) -> Tool {
        self.tool("gabion", "operator.key")
    }

    /// `gabion-verify`, as an operator.
    #[must_use]
    pub fn verify(&self) -> Tool {
        self.tool("gabion-verify", "operator.key")
    }

    /// Asserts that the masters agree and every copy of every chunk is good and there.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.verify().arg("masters").run().ok();
        self.verify().arg("replicas").run().ok();
    }

    fn show_logs(&self) {
        for node in self.nodes.values() {
            let log = read_log(&node.log);
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {} (last {LOG_LINES} of {} lines)", node.name, lines.len());
            lines[lines.len().saturating_sub(LOG_LINES)..]
                .iter()
                .for_each(|line| eprintln!("{line}"));
        }
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
        for node in self.nodes.values_mut() {
            node.process = None;
        }
        if std::thread::panicking() {
            self.show_logs();
            if let Some(dir) = self.dir.take()
                && std::env::var_os("GABION_TEST_KEEP").is_some()
            {
                eprintln!("kept: {}", dir.keep().display());
            }
        }
    }
}
