//! A cluster made up in this process: one in-memory namespace behind any number of masters, and chunkservers whose
//! chain is played by its head.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::checksum::{Running, block_crcs, blocks_match, crc};
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::hello::Hello;
use gabion_protocol::keys::{self, Identity, KeyFile, Role, Ticket};
use gabion_protocol::messages::data::{self, FromServer, ToServer, WriteSpec};
use gabion_protocol::messages::decode;
use gabion_protocol::messages::master::*;
use gabion_protocol::net::{Acceptor, Connection, Incoming, accept};
use gabion_protocol::token::{Grant, Mode, Token};
use gabion_protocol::*;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{Client, Config};

pub(super) const CHUNK: u64 = 1 << 20;
const BLOCK: usize = limits::BLOCK_BYTES;

/// How a process behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Like after SIGSTOP: the kernel still takes connections and bytes, nobody answers.
    Hung,
    Dead,
}

#[derive(Debug)]
pub(super) struct Server {
    name: String,
    address: String,
    pub(super) mood: Mood,
    pub(super) chunks: BTreeMap<ChunkId, Vec<u8>>,
    /// Read answers have a flipped bit.
    pub(super) corrupt: bool,
    pub(super) read_delay: Duration,
    /// Tokens refused from now on.
    pub(super) refuse_tokens: u32,
    /// Verifications refused from now on because it has just begun.
    pub(super) busy_verdicts: u32,
    /// Becomes hung after so many more packets.
    pub(super) hang_after: Option<u32>,
    /// The disk is full for new chunks.
    pub(super) full: bool,
    pub(super) reads: u32,
    connections: Vec<Connection>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Nobody if it is out of range.
    pub(super) leader: usize,
    addresses: Vec<String>,
    pub(super) masters: Vec<Mood>,
    /// Commands whose answer is lost after they ran.
    pub(super) lose_answers: u32,
    /// Commands whose answer is lost after they ran, while their connection lives.
    pub(super) swallow_answers: u32,
    pub(super) servers: BTreeMap<ServerId, Server>,
    /// Ways on which bytes are damaged: from a server (0: from the client) to another.
    pub(super) garbled: Vec<(u32, u32)>,
    /// Every command that ran, once for each time it ran.
    pub(super) ran: Vec<Op>,
    /// Commands received, also again.
    pub(super) received: u32,
    replies: BTreeMap<(SessionId, u64), Result<Response, WireError>>,
    uploads: BTreeMap<Ino, (FsPath, UploadOptions, SessionId)>,
    /// Chunks granted ahead, each with the inode it is for.
    pub(super) stocks: BTreeMap<Ino, (BTreeMap<ChunkId, Ino>, SessionId)>,
    files: BTreeMap<FsPath, (Entry, Vec<Seal>)>,
    counter: u64,
    connections: Vec<(usize, Connection)>,
}

pub(super) struct Cluster {
    pub(super) state: Arc<Mutex<State>>,
    root: KeyFile,
    pub(super) addresses: Vec<String>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
}

fn identity(role: Role, id: impl ToString) -> Identity {
    Identity {
        role,
        id: id.to_string(),
    }
}

impl Cluster {
    pub(super) async fn start(masters: usize, servers: usize) -> Arc<Self> {
        let state = Arc::new(Mutex::new(State {
            leader: 0,
            addresses: Vec::new(),
            masters: vec![Mood::Well; masters],
            lose_answers: 0,
            swallow_answers: 0,
            servers: BTreeMap::new(),
            garbled: Vec::new(),
            ran: Vec::new(),
            received: 0,
            replies: BTreeMap::new(),
            uploads: BTreeMap::new(),
            stocks: BTreeMap::new(),
            files: BTreeMap::new(),
            counter: 100,
            connections: Vec::new(),
        }));
        let mut cluster = Self {
            state,
            root: KeyFile::new_root(),
            addresses: Vec::new(),
            listeners: Vec::new(),
        };
        let mut masters_listening = Vec::new();
        for _ in 0..masters {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.addresses.push(listener.local_addr().unwrap().to_string());
            masters_listening.push(listener);
        }
        cluster.state.lock().addresses = cluster.addresses.clone();
        for (i, listener) in masters_listening.into_iter().enumerate() {
            let handle = cluster.serve_master(i, listener);
            cluster.listeners.push(handle);
        }
        for i in 0..servers {
            let id = ServerId(i as u32 + 1);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Server {
                name: format!("c{id}"),
                address: listener.local_addr().unwrap().to_string(),
                mood: Mood::Well,
                chunks: BTreeMap::new(),
                corrupt: false,
                read_delay: Duration::ZERO,
                refuse_tokens: 0,
                busy_verdicts: 0,
                hang_after: None,
                full: false,
                reads: 0,
                connections: Vec::new(),
            };
            cluster.state.lock().servers.insert(id, server);
            let handle = cluster.serve_chunkserver(id, listener);
            cluster.listeners.push(handle);
        }
        Arc::new(cluster)
    }

    pub(super) fn config(&self) -> Config {
        let key = self.root.issue(identity(Role::Client, "tester"));
        Config {
            wait: Duration::from_secs(8),
            ..Config::new(self.addresses.clone(), key)
        }
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.config()).await.unwrap()
    }

    pub(super) fn server(&self, id: u32, change: impl FnOnce(&mut Server)) {
        change(self.state.lock().servers.get_mut(&ServerId(id)).unwrap());
    }

    pub(super) fn kill_master(&self, master: usize) {
        self.listeners[master].abort();
        let mut state = self.state.lock();
        state.masters[master] = Mood::Dead;
        let of_it = state.connections.iter().filter(|(of, _)| *of == master);
        of_it.for_each(|(_, connection)| connection.close());
    }

    pub(super) fn kill_server(&self, id: u32) {
        let masters = self.addresses.len();
        self.listeners[masters + id as usize - 1].abort();
        self.server(id, |server| {
            server.mood = Mood::Dead;
            server.connections.iter().for_each(Connection::close);
        });
    }

    fn serve_master(&self, me: usize, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let (state, root) = (Arc::clone(&self.state), self.root.clone());
        let all = Arc::new((state, root));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let world = Arc::clone(&all);
                tokio::spawn(async move {
                    let (state, root) = &*world;
                    while state.lock().masters[me] == Mood::Hung {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let key_of = root.clone();
                    let acceptor = Acceptor {
                        cluster: root.cluster,
                        identity: identity(Role::Master, me + 1),
                        boot: 1,
                        incarnation: Incarnation::random(),
                        admit: Arc::new(move |hello: &Hello| -> Result<keys::Key, WireError> {
                            Ok(key_of.key.identity_key(key_of.cluster, &hello.from.identity))
                        }),
                    };
                    let Ok((connection, incoming)) = accept(socket, &acceptor).await else {
                        return;
                    };
                    state.lock().connections.push((me, connection.clone()));
                    run_master(me, state, root, connection, incoming).await;
                });
            }
        })
    }

    fn serve_chunkserver(&self, me: ServerId, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let (state, root) = (Arc::clone(&self.state), self.root.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (state, root) = (Arc::clone(&state), root.clone());
                tokio::spawn(async move {
                    while state.lock().servers[&me].mood == Mood::Hung {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let own = server_key(&root, me);
                    let acceptor = Acceptor {
                        cluster: root.cluster,
                        identity: identity(Role::Chunkserver, format!("c{me}")),
                        boot: 1,
                        incarnation: Incarnation::random(),
                        admit: Arc::new(move |hello: &Hello| -> Result<keys::Key, WireError> {
                            Ok(keys::connection_key(&own, hello.ticket.as_ref().unwrap()))
                        }),
                    };
                    let Ok((connection, incoming)) = accept(socket, &acceptor).await else {
                        return;
                    };
                    if let Some(server) = state.lock().servers.get_mut(&me) {
                        server.connections.push(connection.clone());
                    }
                    run_chunkserver(me, &state, connection, incoming).await;
                });
            }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.listeners.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn server_key(root: &KeyFile, server: ServerId) -> keys::Key {
    root.key
        .identity_key(root.cluster, &identity(Role::Chunkserver, format!("c{server}")))
}

async fn run_master(me: usize, state: &Mutex<State>, root: &KeyFile, connection: Connection, mut incoming: Incoming) {
    while let Some(frame) = incoming.recv().await {
        if state.lock().masters[me] == Mood::Hung {
            continue;
        }
        let request: Request = decode(&frame.message).unwrap();
        let asker = connection.peer().introduction.identity.clone();
        let (answer, is_lost, is_swallowed) = {
            let mut state = state.lock();
            let is_run = matches!(request, Request::Command { .. }) && state.leader == me;
            let answer = state.answer(me, root, &asker, request);
            let is_lost = is_run && state.lose_answers > 0;
            state.lose_answers -= u32::from(is_lost);
            let is_swallowed = is_run && state.swallow_answers > 0;
            state.swallow_answers -= u32::from(is_swallowed);
            (answer, is_lost, is_swallowed)
        };
        if is_swallowed {
            continue;
        }
        if is_lost {
            connection.close();
            return;
        }
        let _ = connection
            .answer(Kind::MasterResponse, frame.stream, &answer, Bytes::new())
            .await;
    }
}

impl State {
    fn answer(&mut self, me: usize, root: &KeyFile, asker: &Identity, request: Request) -> Result<Response, WireError> {
        match request {
            Request::OpenSession => {
                return Ok(Response::Session {
                    now: StateTime(1000),
                    defaults: Defaults {
                        replicas: 3,
                        chunk_bytes: CHUNK,
                    },
                    masters: Vec::new(),
                });
            }
            Request::Access { server } => return Ok(Response::Access(self.access(root, asker, server))),
            _ => {}
        }
        if self.leader != me {
            return Err(match self.addresses.get(self.leader) {
                Some(address) => WireError::redirect(address.clone()),
                None => WireError::new(ErrorCode::NoLeader, "no leader is known"),
            });
        }
        match request {
            Request::Command { request, op, .. } => {
                self.received += 1;
                let id = (request.session, request.sequence);
                if let Some(reply) = self.replies.get(&id) {
                    return reply.clone();
                }
                self.ran.push(op.clone());
                let reply = self.run(root, asker, request.session, op);
                self.replies.insert(id, reply.clone());
                reply
            }
            Request::Query { query, .. } => self.query(root, asker, query),
            other => panic!("not expected: {other:?}"),
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn access(&self, root: &KeyFile, asker: &Identity, server: ServerId) -> ServerAccess {
        let ticket = Ticket {
            bearer: asker.clone(),
            server,
            expires: StateTime(10_000_000),
            nonce: Incarnation::random().0,
        };
        let bearer_key = root.key.identity_key(root.cluster, asker);
        ServerAccess {
            server,
            name: self.servers[&server].name.clone(),
            address: self.servers[&server].address.clone(),
            wrapped_key: keys::wrap_connection_key(&server_key(root, server), &bearer_key, &ticket),
            ticket,
        }
    }

    fn accesses(&self, root: &KeyFile, asker: &Identity) -> Vec<ServerAccess> {
        self.servers.keys().map(|id| self.access(root, asker, *id)).collect()
    }

    fn replica(&self, root: &KeyFile, server: ServerId, chunk: ChunkId, mode: Mode, session: SessionId) -> Replica {
        let grant = Grant {
            chunk,
            generation: Generation(1),
            replica: ReplicaNumber(u64::from(server.0)),
            server,
            mode,
            session,
            expires: StateTime(1_000_000),
        };
        Replica {
            server,
            token: Token::sign(grant, &server_key(root, server)),
            healthy: true,
        }
    }

    fn grants(
        &mut self,
        root: &KeyFile,
        session: SessionId,
        replicas: u8,
        count: u8,
        avoid: &[ServerId],
    ) -> Vec<ChunkGrant> {
        // Those to avoid come last, as with the real masters.
        let mut servers: Vec<ServerId> = self.servers.keys().copied().collect();
        servers.sort_by_key(|server| avoid.contains(server));
        servers.truncate(usize::from(replicas));
        (0..count)
            .map(|_| {
                let chunk = ChunkId {
                    volume: VolumeId(0),
                    timeline: Timeline(1),
                    counter: self.next(),
                };
                let replica = |server: &ServerId| self.replica(root, *server, chunk, Mode::Write, session);
                ChunkGrant {
                    chunk,
                    generation: Generation(1),
                    replicas: servers.iter().map(replica).collect(),
                }
            })
            .collect()
    }

    fn run(&mut self, root: &KeyFile, asker: &Identity, session: SessionId, op: Op) -> Result<Response, WireError> {
        match op {
            Op::Mkdir { path, .. } => Ok(Response::Entry(entry(&path, 0, 0, Ino(self.next()), 0))),
            Op::OpenUpload {
                path,
                options,
                chunks,
                avoid,
            }
            | Op::OpenSized {
                path,
                options,
                chunks,
                avoid,
                ..
            } => {
                if self.files.contains_key(&path) && !options.replace {
                    return Err(WireError::new(
                        ErrorCode::Exists,
                        format!("cannot upload to {path}: {path} exists"),
                    ));
                }
                let upload = Ino(self.next());
                let replicas = options.replicas.unwrap_or(3);
                let grants = self.grants(root, session, replicas, chunks, &avoid);
                self.uploads.insert(upload, (path, options, session));
                Ok(Response::Upload {
                    upload,
                    generation: UploadGeneration(1),
                    chunk_bytes: CHUNK,
                    replicas,
                    chunks: grants,
                    servers: self.accesses(root, asker),
                })
            }
            Op::GrantChunks {
                upload, chunks, avoid, ..
            } => {
                let (_, options, owner) = &self.uploads[&upload];
                assert_eq!(*owner, session, "an upload belongs to its session");
                let replicas = options.replicas.unwrap_or(3);
                Ok(Response::Chunks {
                    chunks: self.grants(root, session, replicas, chunks, &avoid),
                    servers: self.accesses(root, asker),
                })
            }
            Op::SealChunks { .. } => panic!("no test writes so many chunks"),
            Op::Commit {
                upload,
                seals,
                length,
                crc,
                ..
            } => {
                let Some((path, options, owner)) = self.uploads.remove(&upload) else {
                    return Err(WireError::new(
                        ErrorCode::NotFound,
                        format!("cannot commit upload {upload}: gone"),
                    ));
                };
                assert_eq!(owner, session, "an upload belongs to its session");
                let mut whole = Running::default();
                for seal in &seals {
                    assert_eq!(seal.file_offset, whole.len(), "seals in file order");
                    whole.append(seal.crc, seal.length);
                }
                assert_eq!((whole.len(), whole.crc()), (length, crc));
                let mut entry = entry(&path, length, crc, upload, seals.len() as u64);
                let wanted = usize::from(options.replicas.unwrap_or(3));
                entry.degraded = seals.iter().any(|seal| seal.members.len() < wanted);
                self.files.insert(path, (entry.clone(), seals));
                Ok(Response::Entry(entry))
            }
            Op::AbortUpload { upload, .. } => {
                self.uploads.remove(&upload);
                self.stocks.remove(&upload);
                Ok(Response::Done)
            }
            Op::Renew { .. } | Op::ReportDamage { .. } => Ok(Response::Done),
            Op::CreateFile { path, .. } => {
                let entry = entry(&path, 0, 0, Ino(self.files.len() as u64 + 1000), 0);
                self.files.insert(path, (entry.clone(), Vec::new()));
                Ok(Response::Entry(entry))
            }
            Op::OpenStock {
                replicas,
                chunks,
                avoid,
            } => {
                let replicas = replicas.unwrap_or(3);
                let stock = Ino(self.next());
                let grants = self.grants(root, session, replicas, chunks, &avoid);
                // Inode numbers are those after the stock's.
                self.counter = self.counter.max(stock.0 + u64::from(chunks));
                let open = grants.iter().map(|grant| grant.chunk).enumerate();
                let open = open.map(|(n, chunk)| (chunk, Ino(stock.0 + 1 + n as u64))).collect();
                self.stocks.insert(stock, (open, session));
                Ok(Response::Upload {
                    upload: stock,
                    generation: UploadGeneration(1),
                    chunk_bytes: CHUNK,
                    replicas,
                    chunks: grants,
                    servers: self.accesses(root, asker),
                })
            }
            Op::PutFile {
                path,
                options,
                stock,
                seal,
                ..
            } => {
                let Some((open, owner)) = self.stocks.get_mut(&stock) else {
                    return Err(WireError::new(
                        ErrorCode::Fenced,
                        format!("cannot write {path}: upload {stock} has expired"),
                    ));
                };
                assert_eq!(*owner, session, "a stock belongs to its session");
                let file = open.remove(&seal.chunk).expect("a chunk is taken once");
                let mut entry = entry(&path, seal.length, seal.crc, file, 1);
                entry.degraded = seal.members.len() < usize::from(options.replicas.unwrap_or(3));
                self.files.insert(path, (entry.clone(), vec![seal]));
                Ok(Response::Entry(entry))
            }
            Op::ChangeFile(FileChange {
                file,
                what:
                    Change::Splice {
                        upload,
                        seals,
                        at: SpliceAt::End,
                        ..
                    },
                ..
            }) => {
                let Some((open, owner)) = self.stocks.get_mut(&upload) else {
                    let message = format!("cannot change file {file}: upload {upload} has expired");
                    return Err(WireError::new(ErrorCode::Fenced, message));
                };
                assert_eq!(*owner, session, "a stock belongs to its session");
                let Some((entry, all)) = self.files.values_mut().find(|(entry, _)| entry.ino == file) else {
                    return Err(WireError::new(ErrorCode::NotFound, format!("file {file} is gone")));
                };
                let offset = entry.length;
                for mut seal in seals {
                    open.remove(&seal.chunk).expect("a chunk is taken once");
                    seal.file_offset += offset;
                    let mut whole = Running::default();
                    whole.append(entry.crc, entry.length);
                    whole.append(seal.crc, seal.length);
                    (entry.length, entry.crc) = (whole.len(), whole.crc());
                    all.push(seal);
                }
                let length = entry.length;
                Ok(Response::Spliced { offset, length })
            }
            Op::Rename { .. }
            | Op::Remove { .. }
            | Op::MoveToTrash { .. }
            | Op::Restore { .. }
            | Op::EmptyTrash { .. }
            | Op::SetAttributes { .. }
            | Op::SetCondition { .. }
            | Op::SetBalance { .. }
            | Op::Copy(_)
            | Op::CopyExtents { .. }
            | Op::ResumeUpload { .. }
            | Op::ChangeAttributes { .. }
            | Op::ChangeFile(_)
            | Op::CreateSnapshot { .. }
            | Op::RemoveSnapshot { .. }
            | Op::ResumeSized { .. }
            | Op::SetQuota { .. }
            | Op::CopyTree(_)
            | Op::Link(_) => panic!("no test needs it"),
        }
    }

    /// As if somebody had removed every file.
    pub(super) fn forget_files(&mut self) {
        self.files.clear();
    }

    fn query(&mut self, root: &KeyFile, asker: &Identity, query: Query) -> Result<Response, WireError> {
        let found = |path: &FsPath| {
            let found = self.files.get(path);
            found.ok_or_else(|| WireError::new(ErrorCode::NotFound, format!("{path} does not exist")))
        };
        match query {
            Query::Stat { path } => Ok(Response::Entry(found(&path)?.0.clone())),
            Query::Resolve { path } => {
                let entry = found(&path)?.0.clone();
                Ok(Response::Resolved { path, entry })
            }
            Query::Place { path } => {
                let taken = self.files.contains_key(&path);
                Ok(Response::Place { path, taken })
            }
            Query::Locate {
                path, offset, session, ..
            } => {
                let (entry, seals) = found(&path)?;
                let extents = seals
                    .iter()
                    .filter(|seal| seal.file_offset + seal.length > offset)
                    .map(|seal| Extent {
                        offset: seal.file_offset,
                        length: seal.length,
                        chunk: seal.chunk,
                        chunk_offset: 0,
                        chunk_length: seal.length,
                        chunk_crc: seal.crc,
                        generation: seal.generation,
                        replicas: seal
                            .members
                            .iter()
                            .map(|server| self.replica(root, *server, seal.chunk, Mode::Read, session))
                            .collect(),
                    });
                Ok(Response::Located(Located {
                    entry: entry.clone(),
                    extents: extents.collect(),
                    servers: self.accesses(root, asker),
                    more: false,
                }))
            }
            other => panic!("not expected: {other:?}"),
        }
    }
}

fn entry(path: &FsPath, length: u64, crc: u32, ino: Ino, children: u64) -> Entry {
    Entry {
        name: path
            .parent_and_name()
            .map_or_else(|| "/".to_owned(), |(_, name)| name.to_owned()),
        ino,
        kind: EntryKind::File,
        length,
        crc,
        replicas: 3,
        chunk_bytes: CHUNK,
        children,
        mode: 0o644,
        modified_ms: 0,
        degraded: false,
    }
}

/// One write stream as its head sees it.
struct Writing {
    spec: WriteSpec,
    bytes: Vec<u8>,
    stored: Vec<u64>,
}

async fn run_chunkserver(me: ServerId, state: &Arc<Mutex<State>>, connection: Connection, mut incoming: Incoming) {
    let mut writing: BTreeMap<u64, Writing> = BTreeMap::new();
    while let Some(frame) = incoming.recv().await {
        if state.lock().servers[&me].mood != Mood::Well {
            continue;
        }
        if frame.kind == Kind::ToServer {
            if let Some(answer) = to_server(state, &mut writing, &frame) {
                let _ = connection
                    .send_message(Kind::FromServer, frame.stream, &answer, Bytes::new())
                    .await;
            }
            continue;
        }
        let request: data::Request = decode(&frame.message).unwrap();
        let delay = match &request {
            data::Request::Read { .. } => state.lock().servers[&me].read_delay,
            _ => Duration::ZERO,
        };
        let Some((answer, payload)) = data_answer(me, state, &mut writing, frame.stream, request, &frame.payload)
        else {
            continue;
        };
        let connection = connection.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = connection
                .answer(Kind::DataResponse, frame.stream, &answer, payload)
                .await;
        });
    }
}

type DataAnswer = (Result<data::Response, WireError>, Bytes);

fn data_answer(
    me: ServerId,
    state: &Mutex<State>,
    writing: &mut BTreeMap<u64, Writing>,
    stream: u64,
    request: data::Request,
    payload: &Bytes,
) -> Option<DataAnswer> {
    let mut state = state.lock();
    let refused = |error| Some((Err(error), Bytes::new()));
    match request {
        data::Request::Probe => Some((Ok(data::Response::Alive), Bytes::new())),
        data::Request::Describe { .. } => panic!("a client copies nothing in the background"),
        data::Request::OpenWrite(spec) => {
            if let Some(error) = chain_trouble(&state, &spec)? {
                return refused(error);
            }
            let stored = vec![0; spec.chain.len()];
            writing.insert(
                stream,
                Writing {
                    spec,
                    bytes: Vec::new(),
                    stored,
                },
            );
            let window_bytes = 4 << 20;
            Some((Ok(data::Response::Opened { window_bytes }), Bytes::new()))
        }
        data::Request::PutSmall { spec, crcs } => {
            if let Some(error) = chain_trouble(&state, &spec)? {
                return refused(error);
            }
            assert!(blocks_match(payload, &crcs));
            if let Some(hop) = garbled_hop(&state, &spec) {
                let error = WireError::new(ErrorCode::ChecksumMismatch, "the block does not have its checksum");
                return refused((0..hop).fold(error, |error, _| error.tried("server", "the block is damaged")));
            }
            for hop in &spec.chain {
                let server = state.servers.get_mut(&hop.server).unwrap();
                server.chunks.insert(spec.chunk, payload.to_vec());
            }
            let sealed = data::Response::Sealed {
                length: payload.len() as u64,
                crc: crc(payload),
            };
            Some((Ok(sealed), Bytes::new()))
        }
        data::Request::Read { token, offset, length } => {
            let server = state.servers.get_mut(&me).unwrap();
            server.reads += 1;
            if server.refuse_tokens > 0 {
                server.refuse_tokens -= 1;
                return refused(WireError::new(ErrorCode::BadToken, "the token has expired"));
            }
            let Some(bytes) = server.chunks.get(&token.grant.chunk) else {
                return refused(WireError::new(ErrorCode::NotFound, "no such chunk here"));
            };
            let range = offset as usize..offset as usize + length as usize;
            assert!(range.start.is_multiple_of(BLOCK), "reads begin at blocks");
            assert!(
                range.end.is_multiple_of(BLOCK) || range.end == bytes.len(),
                "reads end at blocks"
            );
            let mut payload = bytes[range].to_vec();
            let crcs = block_crcs(&payload);
            if server.corrupt {
                payload[0] ^= 1;
            }
            let blocks = data::Response::Blocks {
                offset,
                crcs,
                chunk_length: bytes.len() as u64,
                chunk_crc: crc(bytes),
            };
            Some((Ok(blocks), payload.into()))
        }
        data::Request::Verify { token } => {
            let server = state.servers.get_mut(&me).unwrap();
            if server.busy_verdicts > 0 {
                server.busy_verdicts -= 1;
                return refused(WireError::new(ErrorCode::Busy, "not ready yet"));
            }
            let bytes = &server.chunks[&token.grant.chunk];
            let verdict = data::Verdict::Good {
                length: bytes.len() as u64,
                crc: crc(bytes),
            };
            Some((Ok(data::Response::Verified(verdict)), Bytes::new()))
        }
    }
}

/// What the chain's other hops do to an opening: `None` if the head waits for a hung one.
fn chain_trouble(state: &State, spec: &WriteSpec) -> Option<Option<WireError>> {
    for (position, hop) in spec.chain.iter().enumerate() {
        let server = &state.servers[&hop.server];
        match server.mood {
            Mood::Hung => return None,
            Mood::Dead => {
                let error = WireError::new(ErrorCode::Unreachable, format!("cannot connect to {}", hop.server));
                return Some(Some(error.tried(hop.server.to_string(), "refused")));
            }
            Mood::Well if server.full => {
                let error = WireError::new(ErrorCode::NoSpace, "the disk is full");
                let below = (0..position).fold(error, |error, _| error.tried("server", "the disk is full"));
                return Some(Some(below));
            }
            Mood::Well => {}
        }
    }
    Some(None)
}

/// The first server of a chain to which bytes come damaged.
fn garbled_hop(state: &State, spec: &WriteSpec) -> Option<usize> {
    let servers: Vec<u32> = spec.chain.iter().map(|hop| hop.server.0).collect();
    let senders = std::iter::once(0).chain(servers.iter().copied());
    let mut ways = senders.zip(servers.iter().copied());
    ways.position(|way| state.garbled.contains(&way))
}

fn to_server(state: &Mutex<State>, writing: &mut BTreeMap<u64, Writing>, frame: &Frame) -> Option<FromServer> {
    let stream = writing.get_mut(&frame.stream)?;
    let mut state = state.lock();
    match decode::<ToServer>(&frame.message).unwrap() {
        ToServer::Packet { offset, crcs } => {
            assert_eq!(offset, stream.bytes.len() as u64, "packets without gaps");
            assert!(blocks_match(&frame.payload, &crcs));
            if let Some(hop) = garbled_hop(&state, &stream.spec) {
                writing.remove(&frame.stream);
                return Some(FromServer::Failed {
                    hop: hop as u8,
                    error: WireError::new(ErrorCode::ChecksumMismatch, "the block does not have its checksum"),
                });
            }
            stream.bytes.extend_from_slice(&frame.payload);
            for (position, hop) in stream.spec.chain.iter().enumerate() {
                let server = state.servers.get_mut(&hop.server).unwrap();
                match server.hang_after {
                    Some(0) => server.mood = Mood::Hung,
                    Some(left) => server.hang_after = Some(left - 1),
                    None => {}
                }
                match server.mood {
                    Mood::Well => stream.stored[position] = stream.bytes.len() as u64,
                    Mood::Hung => {}
                    Mood::Dead => {
                        return Some(FromServer::Failed {
                            hop: position as u8,
                            error: WireError::new(ErrorCode::Unreachable, "the connection ended"),
                        });
                    }
                }
            }
            Some(FromServer::Ack {
                stored: stream.stored.clone(),
            })
        }
        ToServer::Seal { length, crc: whole } => {
            assert_eq!((length, whole), (stream.bytes.len() as u64, crc(&stream.bytes)));
            let hops: Vec<ServerId> = stream.spec.chain.iter().map(|hop| hop.server).collect();
            if hops.iter().any(|hop| state.servers[hop].mood != Mood::Well) {
                return None;
            }
            for hop in hops {
                let server = state.servers.get_mut(&hop).unwrap();
                server.chunks.insert(stream.spec.chunk, stream.bytes.clone());
            }
            Some(FromServer::Sealed { length, crc: whole })
        }
        ToServer::Abort => {
            writing.remove(&frame.stream);
            None
        }
    }
}
