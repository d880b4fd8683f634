//! Chunkservers in this process on real sockets, a master that says what the test wants, and a client that can break
//! every rule.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gabion_chunkserver::config::Config;
use gabion_chunkserver::disk::Store;
use gabion_chunkserver::masters::Masters;
use gabion_chunkserver::server::Server;
use gabion_protocol::checksum::{block_crcs, crc};
use gabion_protocol::config::{Size, Span};
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::hello::{Hello, Target};
use gabion_protocol::keys::{
    Identity, Key, KeyFile, Role, Ticket, connection_key, unwrap_connection_key, wrap_connection_key,
};
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::messages::data::{FromServer, Hop, Request, Response, ToServer, WriteSpec};
use gabion_protocol::messages::master::{self, CopyOrder, CopySource, Order, OrderDone, ServerAccess};
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::{Acceptor, Connection, Dialer, Stream, accept, dial};
use gabion_protocol::token::{Grant, Mode, Token};
use gabion_protocol::{
    ChunkId, ClusterId, Epoch, ErrorCode, Generation, Incarnation, Ino, MasterId, ReplicaNumber, ServerId, SessionId,
    StateTime, WireError,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn root() -> KeyFile {
    let mut root = KeyFile::new_root();
    root.cluster = ClusterId([7; 16]);
    root.key = Key::from_bytes([5; 32]);
    root
}

pub(crate) fn identity(role: Role, id: &str) -> Identity {
    Identity { role, id: id.into() }
}

pub(crate) fn server_key(number: u32) -> Key {
    root().issue(identity(Role::Chunkserver, &format!("c{number}"))).key
}

fn client_key() -> Key {
    root().issue(identity(Role::Client, "tester")).key
}

/// What the master says and hears.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) addresses: BTreeMap<ServerId, String>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) orders: BTreeMap<ServerId, Vec<Order>>,
    /// If set, it orders so many copies at one time, and none that was reported.
    pub(crate) copies_max: Option<usize>,
    /// Orders of answers that were long under way: some of them come in every second answer or so, instead of `orders`,
    /// twice and in any order.
    pub(crate) late: Vec<Order>,
    /// Chooses among them; not 0 if there are any.
    pub(crate) random: u64,
    /// Answers that held late orders.
    pub(crate) late_answers: u64,
    pub(crate) done: Vec<OrderDone>,
    pub(crate) damaged: Vec<master::Damage>,
    pub(crate) beats: u64,
    /// The pass it asks for.
    pub(crate) scrub: Option<u64>,
    /// The last report of each server: the request obeyed, and how far it is.
    pub(crate) scrubs: BTreeMap<ServerId, (u64, master::ScrubProgress)>,
    /// What it wants listed.
    pub(crate) list: Option<master::BucketAsk>,
    /// What was listed, and all inventory reports.
    pub(crate) pages: Vec<master::BucketPage>,
    pub(crate) inventories: Vec<master::InventoryReport>,
    /// What it knows of chunks, and was asked of them.
    pub(crate) rows: BTreeMap<ChunkId, master::ChunkInfo>,
    pub(crate) asked: Vec<ChunkId>,
    /// What it says all masters' addresses are.
    pub(crate) masters: Vec<String>,
    /// Who leads, if it is another: nobody is registered here.
    pub(crate) leader: Option<String>,
    /// Registrations asked for.
    pub(crate) registrations: u64,
}

impl Script {
    /// A number below `below`: xorshift.
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn orders_for(&mut self, server: ServerId) -> Vec<Order> {
        if !self.late.is_empty() && self.draw(2) == 0 {
            self.late_answers += 1;
            let mut answer = Vec::new();
            for _ in 0..self.late.len() {
                let at = self.draw(self.late.len());
                answer.push(self.late[at].clone());
            }
            return answer;
        }
        let mut orders = self.orders.get(&server).cloned().unwrap_or_default();
        if let Some(most) = self.copies_max {
            let reported = |order: &Order| {
                let is_it = |done: &OrderDone| matches!((order, done), (Order::Copy(copy), OrderDone::Copied { chunk, .. }) if copy.chunk == *chunk);
                self.done.iter().any(is_it)
            };
            orders.retain(|order| !reported(order));
            orders.truncate(most);
        }
        orders
    }
}

/// A master of the test's own.
#[derive(Debug, Clone)]
pub(crate) struct FakeMaster {
    pub(crate) address: String,
    pub(crate) script: Arc<Mutex<Script>>,
    now: Arc<AtomicU64>,
}

impl FakeMaster {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap().to_string(),
            script: Arc::new(Mutex::new(Script {
                epoch: Some(Epoch {
                    term: 5,
                    leader: MasterId(1),
                }),
                ..Script::default()
            })),
            now: Arc::new(AtomicU64::new(1_000_000)),
        };
        let serving = this.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(socket));
            }
        });
        this
    }

    async fn serve(self, socket: tokio::net::TcpStream) {
        let acceptor = Acceptor {
            cluster: root().cluster,
            identity: identity(Role::Master, "1"),
            boot: 1,
            incarnation: Incarnation([3; 16]),
            admit: Arc::new(|hello: &Hello| -> Result<Key, WireError> {
                Ok(root().issue(hello.from.identity.clone()).key)
            }),
        };
        let Ok((connection, mut incoming)) = accept(socket, &acceptor).await else {
            return;
        };
        let bearer = connection.peer().introduction.identity.clone();
        while let Some(frame) = incoming.recv().await {
            let request: master::Request = decode(&frame.message).unwrap();
            let answer = self.answer(&bearer, request);
            let _ = connection
                .answer(Kind::MasterResponse, frame.stream, &answer, Bytes::new())
                .await;
        }
    }

    fn answer(&self, bearer: &Identity, request: master::Request) -> Answer<master::Response> {
        let mut script = self.script.lock();
        Ok(match request {
            master::Request::Register(registration) => {
                script.registrations += 1;
                if let Some(leader) = &script.leader {
                    return Err(WireError::redirect(leader.clone()));
                }
                let server = ServerId(bearer.id[1..].parse().unwrap());
                script.addresses.insert(server, registration.address);
                master::Response::Registered { server }
            }
            master::Request::Beat(beat) => {
                script.beats += 1;
                script.done.extend(beat.done);
                script.damaged.extend(beat.damaged);
                master::Response::BeatAnswer {
                    epoch: script.epoch,
                    now: StateTime(self.now.load(Ordering::Relaxed)),
                    orders: script.orders_for(beat.server),
                    masters: script.masters.clone(),
                }
            }
            master::Request::Access { server } => {
                let address = script.addresses[&server].clone();
                master::Response::Access(access(bearer, server, address))
            }
            master::Request::ScrubReport(report) => {
                script.scrubs.insert(report.server, (report.obeyed, report.progress));
                master::Response::ScrubAnswer {
                    epoch: script.epoch,
                    start: script.scrub,
                }
            }
            master::Request::Inventory(report) => {
                let (epoch, list) = (script.epoch, script.list);
                if let Some(page) = report.listed.clone() {
                    script.pages.push(page);
                }
                script.inventories.push(*report);
                // What was asked for comes with the next report, and is not asked for again.
                let list = list.filter(|ask| !script.pages.iter().any(|page| page.ask == *ask));
                master::Response::InventoryAnswer { epoch, list }
            }
            master::Request::Disks(_) => master::Response::Done,
            master::Request::Query {
                query: master::Query::Chunk { chunk },
                ..
            } => {
                script.asked.push(chunk);
                let row = script.rows.get(&chunk).cloned();
                let unknown = || WireError::new(ErrorCode::NotFound, format!("no chunk {chunk}"));
                master::Response::Chunk(row.ok_or_else(unknown)?)
            }
            other => panic!("a chunkserver asks {other:?}"),
        })
    }
}

fn access(bearer: &Identity, server: ServerId, address: String) -> ServerAccess {
    let ticket = Ticket {
        bearer: bearer.clone(),
        server,
        expires: StateTime(u64::MAX),
        nonce: Incarnation::random().0,
    };
    let bearer_key = root().issue(bearer.clone()).key;
    ServerAccess {
        server,
        name: format!("c{server}"),
        address,
        wrapped_key: wrap_connection_key(&server_key(server.0), &bearer_key, &ticket),
        ticket,
    }
}

/// A chunkserver in this process.
pub(crate) struct Node {
    pub(crate) number: u32,
    pub(crate) address: String,
    pub(crate) dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) masters: Masters,
    stop: CancellationToken,
    /// Its own runtime, so that it can be killed, or frozen, as a process can.
    runtime: Option<tokio::runtime::Runtime>,
    running: tokio::task::JoinHandle<Result<(), WireError>>,
}

impl Node {
    pub(crate) async fn start(number: u32, dir: PathBuf, master: &FakeMaster) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = Config {
            name: format!("c{number}"),
            dirs: vec![dir.clone()],
            key_file: None,
            insecure: true,
            listen: format!("127.0.0.1:{port}"),
            advertise: None,
            masters: vec![master.address.clone()],
            rack: String::new(),
            reserve: Some(Size(0)),
            direct_io: true,
            write_memory: Size(32 << 20),
            scrub_period: Span::from_millis(3600 * 1000),
            scrub_rate: Size(64 << 20),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let key = root().issue(config.identity());
        let opened = runtime.spawn(async move { Server::open(&config, key).await });
        let server = opened.await.unwrap().unwrap();
        let (masters, store) = (server.masters(), server.store());
        let stop = CancellationToken::new();
        let running = runtime.spawn(server.run(stop.clone()));
        let ready = masters.clone();
        let id = runtime.spawn(async move { ready.ready().await }).await.unwrap();
        assert_eq!(id, ServerId(number));
        Self {
            number,
            address: format!("127.0.0.1:{port}"),
            dir,
            store,
            masters,
            stop,
            runtime: Some(runtime),
            running,
        }
    }

    /// Everything of it ends at once; sockets close as they do when a process dies.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) async fn stop(mut self) -> Result<(), WireError> {
        self.stop.cancel();
        let result = (&mut self.running).await.unwrap();
        self.kill();
        result
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct TestCluster {
    pub(crate) master: FakeMaster,
    pub(crate) nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl TestCluster {
    pub(crate) async fn start(count: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let master = FakeMaster::start().await;
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(Node::start(number, dir.path().join(format!("c{number}")), &master).await);
        }
        Self {
            master,
            nodes,
            _dir: dir,
        }
    }

    pub(crate) async fn connect(&self, node: usize) -> Connection {
        let node = &self.nodes[node];
        connect(&node.address, node.number).await.unwrap()
    }

    /// The order for node `target` to copy a chunk from the nodes `sources`; nodes are counted from 1.
    pub(crate) fn copy_order(&self, counter: u64, bytes: &Bytes, target: u32, sources: &[u32]) -> CopyOrder {
        let chunk = super::chunk(counter);
        let bearer = identity(Role::Chunkserver, &format!("c{target}"));
        let source = |number: &u32| {
            let address = self.nodes[*number as usize - 1].address.clone();
            CopySource {
                access: access(&bearer, ServerId(*number), address),
                token: token(chunk, *number, Mode::Read),
            }
        };
        CopyOrder {
            chunk,
            generation: Generation(1),
            replica: grant(chunk, target, Mode::Read).replica,
            length: bytes.len() as u64,
            crc: crc(bytes),
            sources: sources.iter().map(source).collect(),
        }
    }

    /// How one server reaches another.
    pub(crate) fn access_of(&self, target: u32, server: u32) -> ServerAccess {
        let bearer = identity(Role::Chunkserver, &format!("c{target}"));
        let address = self.nodes[server as usize - 1].address.clone();
        access(&bearer, ServerId(server), address)
    }

    pub(crate) fn spec(&self, counter: u64) -> WriteSpec {
        let servers: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.number, node.address.clone()))
            .collect();
        spec(counter, &servers)
    }
}

pub(crate) async fn connect(address: &str, number: u32) -> Result<Connection, WireError> {
    let who = identity(Role::Client, "tester");
    let access = access(&who, ServerId(number), address.to_owned());
    let key = unwrap_connection_key(&client_key(), &access.ticket, &access.wrapped_key);
    assert_eq!(key, connection_key(&server_key(number), &access.ticket));
    let dialer = Dialer {
        cluster: root().cluster,
        identity: who,
        boot: 0,
        incarnation: Incarnation::random(),
        key,
        ticket: Some(access.ticket),
        target: Target {
            role: Role::Chunkserver,
            id: Some(access.name),
        },
    };
    dial(address, &dialer, SECOND * 2).await
}

pub(crate) fn grant(chunk: ChunkId, number: u32, mode: Mode) -> Grant {
    Grant {
        chunk,
        generation: Generation(1),
        replica: ReplicaNumber(chunk.counter * 10 + u64::from(number)),
        server: ServerId(number),
        mode,
        session: SessionId {
            opened: StateTime(1),
            random: 2,
        },
        expires: StateTime(100_000_000),
    }
}

pub(crate) fn token(chunk: ChunkId, number: u32, mode: Mode) -> Token {
    Token::sign(grant(chunk, number, mode), &server_key(number))
}

pub(crate) fn spec(counter: u64, servers: &[(u32, String)]) -> WriteSpec {
    let chunk = super::chunk(counter);
    WriteSpec {
        chunk,
        generation: Generation(1),
        chain: servers
            .iter()
            .map(|(number, address)| Hop {
                server: ServerId(*number),
                address: address.clone(),
                token: token(chunk, *number, Mode::Write),
            })
            .collect(),
        owner: Ino(9),
        file_offset: 0,
        bytes_max: 64 << 20,
    }
}

/// A client's end of a write stream.
pub(crate) struct Writer {
    pub(crate) stream: Stream,
    pub(crate) window: u64,
    pub(crate) sent: u64,
    pub(crate) acked: Vec<u64>,
}

impl Writer {
    pub(crate) async fn open(connection: &Connection, spec: WriteSpec) -> Result<Self, WireError> {
        let hops = spec.chain.len();
        let mut stream = connection.open_stream(1024)?;
        stream
            .send(Kind::DataRequest, &Request::OpenWrite(spec), Bytes::new())
            .await?;
        let frame = stream.receive().await.expect("an answer");
        match decode::<Answer<Response>>(&frame.message).unwrap()? {
            Response::Opened { window_bytes } => Ok(Self {
                stream,
                window: u64::from(window_bytes),
                sent: 0,
                acked: vec![0; hops],
            }),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn packet(&mut self, bytes: &Bytes, crcs: Vec<u32>) -> Result<(), WireError> {
        let offset = self.sent;
        self.sent += bytes.len() as u64;
        self.stream
            .send(Kind::ToServer, &ToServer::Packet { offset, crcs }, bytes.clone())
            .await
    }

    pub(crate) async fn hear(&mut self) -> Option<FromServer> {
        let frame: Frame = tokio::time::timeout(SECOND * 20, self.stream.receive())
            .await
            .expect("silence")?;
        let message = decode(&frame.message).unwrap();
        if let FromServer::Ack { stored } = &message {
            assert_eq!(stored.len(), self.acked.len());
            self.acked.clone_from(stored);
        }
        Some(message)
    }

    /// Sends all of `bytes` within the window.
    pub(crate) async fn send(&mut self, bytes: &Bytes) -> Result<(), FromServer> {
        let mut at = 0;
        while at < bytes.len() {
            let part = bytes.slice(at..bytes.len().min(at + PACKET_BYTES));
            while self.sent + part.len() as u64 - self.acked.iter().min().unwrap() > self.window {
                match self.hear().await {
                    Some(FromServer::Ack { .. }) => {}
                    other => return Err(other.expect("the connection lives")),
                }
            }
            self.packet(&part, block_crcs(&part)).await.unwrap();
            at += part.len();
        }
        Ok(())
    }

    /// Seals and waits for the word of the whole chain.
    pub(crate) async fn seal(&mut self, length: u64, crc: u32) -> FromServer {
        self.stream
            .send(Kind::ToServer, &ToServer::Seal { length, crc }, Bytes::new())
            .await
            .unwrap();
        self.end().await
    }

    /// What comes after the acks.
    pub(crate) async fn end(&mut self) -> FromServer {
        loop {
            match self.hear().await.expect("the connection lives") {
                FromServer::Ack { .. } => {}
                other => return other,
            }
        }
    }
}

pub(crate) async fn write_chunk(connection: &Connection, spec: WriteSpec, bytes: &Bytes) -> FromServer {
    let mut writer = Writer::open(connection, spec).await.unwrap();
    if let Err(failed) = writer.send(bytes).await {
        return failed;
    }
    writer.seal(bytes.len() as u64, crc(bytes)).await
}

pub(crate) async fn ask(
    connection: &Connection,
    request: &Request,
    payload: Bytes,
) -> Result<(Response, Bytes), WireError> {
    connection.call(Kind::DataRequest, request, payload, SECOND * 10).await
}

pub(crate) async fn read_chunk(connection: &Connection, counter: u64, number: u32) -> Result<Vec<u8>, WireError> {
    let token = token(super::chunk(counter), number, Mode::Read);
    let mut all = Vec::new();
    loop {
        let request = Request::Read {
            token,
            offset: all.len() as u64,
            length: PACKET_BYTES as u32,
        };
        let (response, payload) = ask(connection, &request, Bytes::new()).await?;
        let Response::Blocks {
            offset,
            crcs,
            chunk_length,
            ..
        } = response
        else {
            panic!("{response:?}")
        };
        assert_eq!(offset, all.len() as u64);
        assert_eq!(block_crcs(&payload), crcs);
        all.extend_from_slice(&payload);
        if all.len() as u64 == chunk_length {
            return Ok(all);
        }
    }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SECOND * 15;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
