//! Masters to test, and peers that speak to them.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::config::{Size, Span};
use gabion_protocol::error::{Action, WireError};
use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::*;
use gabion_protocol::keys::{Identity, KeyFile, Role};
use gabion_protocol::messages::master::{Beat, Load, Op, Registration, Request, Response, UploadOptions};
use gabion_protocol::net::{self, Connection, Dialer};
use gabion_protocol::path::FsPath;
use tokio::task::JoinHandle;

use crate::config::{ClusterSettings, Config, Member};
use crate::server::{Running, start};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Settings and keys of a cluster that may run.
pub(super) struct Cluster {
    pub(super) root: KeyFile,
    pub(super) configs: Vec<Config>,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub(super) fn of(masters: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = KeyFile::new_root();
        let key_file = dir.path().join("root.key");
        root.create(&key_file).unwrap();
        let members: Vec<_> = (1..=masters)
            .map(|id| Member {
                id,
                raft: free_address(),
                client: free_address(),
            })
            .collect();
        let config = |member: &Member| {
            let mut config = Config {
                id: member.id,
                dir: dir.path().join(format!("m{}", member.id)),
                key_file: Some(key_file.clone()),
                insecure: false,
                raft_listen: member.raft.clone(),
                raft_advertise: None,
                client_listen: member.client.clone(),
                client_advertise: None,
                reserve: Some(Size(0)),
                join: false,
                cluster: ClusterSettings::default(),
                timing: Default::default(),
                raft: Default::default(),
                repair: Default::default(),
                balance: Default::default(),
                inventory: Default::default(),
                memory: Default::default(),
                members: members.clone(),
            };
            config.timing.placement_wait = Span::from_millis(300);
            config.timing.tick = Span::from_millis(100);
            config.timing.token = Span::from_millis(1000);
            config
        };
        Self {
            configs: members.iter().map(config).collect(),
            root,
            dir,
        }
    }

    /// Settings of a master that waits to be added.
    pub(super) fn joining(&self, id: u64) -> Config {
        let mut config = self.configs[0].clone();
        config.id = id;
        config.dir = self.dir.path().join(format!("m{id}"));
        config.raft_listen = free_address();
        config.client_listen = free_address();
        config.join = true;
        config.members.clear();
        config
    }

    pub(super) async fn start(&self) -> Vec<Running> {
        let mut running = Vec::new();
        for config in &self.configs {
            config.check().unwrap();
            running.push(start(config).await.unwrap());
        }
        running
    }

    /// Someone with an issued key. Goes where it is told, and waits where it is told.
    pub(super) fn peer(&self, role: Role, id: &str) -> Peer {
        let identity = Identity {
            role,
            id: id.to_owned(),
        };
        let dialer = Dialer {
            cluster: self.root.cluster,
            key: self.root.key.identity_key(self.root.cluster, &identity),
            identity,
            boot: 1,
            incarnation: Incarnation::random(),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: None,
            },
        };
        Peer {
            dialer,
            addresses: self.configs.iter().map(|config| config.client_listen.clone()).collect(),
            at: 0,
            open: None,
        }
    }

    pub(super) async fn client(&self) -> Client {
        Client::begin(self.peer(Role::Client, "ann")).await
    }

    /// Someone who may run the cluster.
    pub(super) async fn operator(&self) -> Client {
        let mut operator = Client::begin(self.peer(Role::Operator, "root")).await;
        operator.session.random = 8;
        operator
    }
}

/// A peer of the masters.
pub(super) struct Peer {
    pub(super) dialer: Dialer,
    pub(super) addresses: Vec<String>,
    pub(super) at: usize,
    open: Option<(String, Connection)>,
}

impl Peer {
    /// One attempt, at the master it is connected to.
    pub(super) async fn once(&mut self, request: &Request) -> Result<Response, WireError> {
        let address = self.addresses[self.at].clone();
        let reusable = |(open, connection): &&(String, Connection)| *open == address && !connection.is_closed();
        let connection = match self.open.as_ref().filter(reusable) {
            Some((_, connection)) => connection.clone(),
            None => net::dial(&address, &self.dialer, SECOND).await?,
        };
        self.open = Some((address, connection.clone()));
        let asked = connection.call(Kind::MasterRequest, request, Bytes::new(), SECOND * 5);
        asked.await.map(|(response, _)| response)
    }

    /// Until it is answered, or an error that another attempt will not change.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Response, WireError> {
        for _ in 0..400 {
            let error = match self.once(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.action {
                Action::Redirect => {
                    let leader = error.leader.unwrap();
                    self.at = self.addresses.iter().position(|a| *a == leader).unwrap();
                }
                Action::Retry { after_ms } if error.code != gabion_protocol::ErrorCode::TooFewServers => {
                    tokio::time::sleep(Duration::from_millis(after_ms.into())).await;
                    self.at = (self.at + 1) % self.addresses.len();
                }
                Action::Retry { .. } | Action::Refresh | Action::GiveUp => return Err(error),
            }
        }
        panic!("no answer to {request:?}");
    }
}

/// A client with a session.
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) session: SessionId,
    sequence: u64,
}

impl Client {
    async fn begin(mut peer: Peer) -> Self {
        let Response::Session { now, .. } = peer.ask(&Request::OpenSession).await.unwrap() else {
            panic!("no session");
        };
        let session = SessionId { opened: now, random: 7 };
        Self {
            peer,
            session,
            sequence: 0,
        }
    }

    /// The next command, ready to be sent any number of times.
    pub(super) fn command(&mut self, op: Op) -> Request {
        self.sequence += 1;
        Request::Command {
            request: RequestId {
                session: self.session,
                sequence: self.sequence,
            },
            // Nothing is given up, so that any command can be repeated.
            answered_below: 1,
            op,
        }
    }

    pub(super) async fn run(&mut self, op: Op) -> Result<Response, WireError> {
        let command = self.command(op);
        self.peer.ask(&command).await
    }
}

pub(super) fn mkdir(text: &str) -> Op {
    Op::Mkdir {
        path: path(text),
        parents: false,
        mode: 0o755,
    }
}

/// A chunkserver that keeps nothing.
pub(super) struct FakeServer {
    pub(super) peer: Peer,
    pub(super) beat: Beat,
}

impl FakeServer {
    pub(super) async fn register(cluster: &Cluster, name: &str) -> Self {
        let mut peer = cluster.peer(Role::Chunkserver, name);
        let incarnation = Incarnation::random();
        let registration = Registration {
            server: None,
            incarnation,
            boot: 1,
            address: format!("{name}.example:1"),
            rack: String::new(),
        };
        let registered = peer.ask(&Request::Register(registration)).await.unwrap();
        let Response::Registered { server } = registered else {
            panic!("{registered:?}");
        };
        let load = Load {
            bytes_total: 1 << 40,
            bytes_free: 1 << 40,
            disks_ok: 1,
            ..Load::default()
        };
        let beat = Beat {
            server,
            incarnation,
            epoch: Epoch::default(),
            load,
            done: Vec::new(),
            damaged: Vec::new(),
        };
        Self { peer, beat }
    }

    pub(super) async fn beat(&mut self) -> Result<Response, WireError> {
        self.peer.ask(&Request::Beat(self.beat.clone())).await
    }

    /// Beats for as long as the task lives.
    pub(super) fn live(self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut server = self;
            loop {
                // Without a leader it asks again.
                let _ = server.peer.once(&Request::Beat(server.beat.clone())).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                server.peer.at = (server.peer.at + 1) % server.peer.addresses.len();
            }
        })
    }
}

/// Runs `test` as the server's runtime does.
pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

/// Begins an upload of two copies with its first chunk.
pub(super) fn open(text: &str) -> Op {
    Op::OpenUpload {
        path: path(text),
        options: UploadOptions {
            replicas: Some(2),
            chunk_bytes: None,
            replace: false,
            parents: false,
            mode: 0o644,
            modified_ms: None,
        },
        chunks: 1,
        avoid: Vec::new(),
    }
}
