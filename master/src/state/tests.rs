//! Tests of the state machine: rules one by one, random programs against a naive model, frozen bytes.

use gabion_protocol::checksum::Running;
use gabion_protocol::error::ErrorCode;
use gabion_protocol::ids::*;
use gabion_protocol::messages::master::{Entry, Registration, Seal, TrashId, TrashRef, UploadOptions};
use gabion_protocol::path::FsPath;

use super::check::check;
use super::rows::{Batch, MemoryRows};
use super::*;

mod attributes;
mod balance;
mod changes;
mod conditions;
mod copies;
mod exactly_once;
mod fleet;
mod golden;
mod hostile;
pub(crate) mod inventory;
mod lifecycle;
mod limits;
mod links;
mod merges;
pub(crate) mod model;
mod quotas;
pub(crate) mod repair;
mod resumable;
mod snapshots;
mod stocks;
mod trash;
mod tree_copies;

/// Short periods, so that tests need few ticks.
pub(crate) const SETTINGS: Settings = Settings {
    replicas: 3,
    chunk_bytes: 64 << 20,
    session_ms: 20_000,
    upload_lease_ms: 5_000,
    token_ms: 1_000,
};

/// How long removals can be undone.
pub(super) const TRASH_MS: u64 = 4_000;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// A state machine alone, driven as the Raft adaptor drives it.
pub(crate) struct Machine {
    pub(crate) rows: MemoryRows,
    pub(crate) index: u64,
    /// What was applied, and how it was answered.
    pub(crate) log: Vec<(Command, Reply)>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let mut machine = Self {
            rows: MemoryRows::default(),
            index: 0,
            log: Vec::new(),
        };
        let bootstrap = Bootstrap {
            cluster: CLUSTER,
            timeline: Timeline(1),
            settings: SETTINGS,
            wall_ms: 1,
        };
        for first in [Command::Bootstrap(bootstrap), Command::BeginTrash { keep_ms: TRASH_MS }] {
            assert_eq!(machine.apply(&first), Reply(Ok(Outcome::Done)));
        }
        for server in 1..=4 {
            let registered = machine.register(&format!("c{server}"), None, server, 1).unwrap();
            assert_eq!(
                registered,
                Outcome::Registered {
                    server: ServerId(u32::from(server))
                }
            );
        }
        machine
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        let at = LogAt {
            index: self.index,
            term: 1,
            leader: MasterId(1),
        };
        let mut batch = Batch::new(&self.rows);
        let (reply, _) = StateMachine.apply_bytes(&mut batch, at, &command.encode()).unwrap();
        self.rows.store(batch.into_changes());
        let reply = Reply::decode(&reply).unwrap();
        self.log.push((command.clone(), reply.clone()));
        reply
    }

    pub(crate) fn register(
        &mut self,
        name: &str,
        server: Option<u32>,
        life: u8,
        boot: u64,
    ) -> Result<Outcome, Refusal> {
        self.apply(&Command::RegisterServer {
            name: name.to_owned(),
            registration: Registration {
                server: server.map(ServerId),
                incarnation: Incarnation([life; 16]),
                boot,
                address: format!("{name}:7101"),
                rack: "r".to_owned(),
            },
        })
        .0
    }

    pub(crate) fn tick(&mut self, advance_ms: u64) -> bool {
        match self.apply(&Command::Tick { advance_ms }).0 {
            Ok(Outcome::Ticked { more, .. }) => more,
            other => panic!("{other:?}"),
        }
    }

    /// Ticks without moving time until nothing is due.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100 {
            if !self.tick(0) {
                return;
            }
        }
        panic!("always more is due");
    }

    /// Plays all chunkservers: carries out every drop order.
    pub(crate) fn obey(&mut self) {
        // The fifth is there in some tests only.
        for server in 1..=5 {
            let server = ServerId(server);
            let done = read::drop_orders(&self.rows, server, 1000).unwrap();
            let reply = self.apply(&Command::ReplicasDropped { server, done });
            assert_eq!(reply, Reply(Ok(Outcome::Done)));
        }
    }

    pub(crate) fn now(&self) -> StateTime {
        read::now(&self.rows).unwrap()
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        let report = check(&self.rows).unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }
}

/// A client of a [`Machine`].
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
}

impl Client {
    pub(crate) fn new(machine: &Machine, random: u64) -> Self {
        Self {
            session: SessionId {
                opened: machine.now(),
                random,
            },
            sequence: 0,
        }
    }

    pub(crate) fn command(&mut self, op: ClientCommand) -> Command {
        self.sequence += 1;
        self.request(self.sequence, self.sequence, op)
    }

    pub(crate) fn request(&self, sequence: u64, answered_below: u64, op: ClientCommand) -> Command {
        Command::Client(ClientRequest {
            request: RequestId {
                session: self.session,
                sequence,
            },
            answered_below,
            wall_ms: 5,
            op,
        })
    }

    pub(crate) fn run(&mut self, machine: &mut Machine, op: ClientCommand) -> Result<Outcome, Refusal> {
        machine.apply(&self.command(op)).0
    }

    /// The code a command is refused with.
    #[track_caller]
    pub(crate) fn refused(&mut self, machine: &mut Machine, op: ClientCommand) -> ErrorCode {
        self.run(machine, op).unwrap_err().code()
    }

    pub(crate) fn open(&mut self, machine: &mut Machine, path: &str, chunks: usize) -> Upload {
        match self.run(machine, open(path, chunks)).unwrap() {
            Outcome::Upload {
                upload,
                generation,
                chunks,
                ..
            } => Upload {
                ino: upload,
                generation,
                chunks: chunks.into(),
                whole: Running::default(),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Uploads a file of `chunks` chunks of 10 bytes.
    pub(crate) fn put(&mut self, machine: &mut Machine, path: &str, chunks: usize) -> Entry {
        let mut upload = self.open(machine, path, chunks);
        let seals = (0..chunks).map(|i| upload.seal(10, i as u32)).collect();
        entry(self.run(machine, upload.commit(seals)))
    }
}

/// A client's side of an upload.
pub(crate) struct Upload {
    pub(crate) ino: Ino,
    pub(crate) generation: UploadGeneration,
    pub(crate) chunks: std::collections::VecDeque<GrantedChunk>,
    pub(crate) whole: Running,
}

impl Upload {
    /// The seal of the next granted chunk, acknowledged by all its servers.
    pub(crate) fn seal(&mut self, length: u64, crc: u32) -> Seal {
        let granted = self.chunks.pop_front().unwrap();
        let seal = Seal {
            chunk: granted.chunk,
            generation: granted.generation,
            file_offset: self.whole.len(),
            length,
            crc,
            members: granted.replicas.iter().map(|(server, _)| *server).collect(),
        };
        self.whole.append(crc, length);
        seal
    }

    pub(crate) fn commit(&self, seals: Vec<Seal>) -> ClientCommand {
        ClientCommand::Commit {
            upload: self.ino,
            generation: self.generation,
            seals,
            length: self.whole.len(),
            crc: self.whole.crc(),
        }
    }

    pub(crate) fn seal_chunks(&self, seals: Vec<Seal>) -> ClientCommand {
        ClientCommand::SealChunks {
            upload: self.ino,
            generation: self.generation,
            seals,
        }
    }

    pub(crate) fn abort(&self) -> ClientCommand {
        ClientCommand::AbortUpload {
            upload: self.ino,
            generation: self.generation,
        }
    }
}

#[track_caller]
pub(crate) fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

pub(crate) fn options() -> UploadOptions {
    UploadOptions {
        replicas: None,
        chunk_bytes: None,
        replace: true,
        parents: true,
        mode: 0o644,
        modified_ms: None,
    }
}

pub(crate) fn chain(servers: &[u32]) -> Vec<ServerId> {
    servers.iter().copied().map(ServerId).collect()
}

pub(crate) fn open(at: &str, chunks: usize) -> ClientCommand {
    ClientCommand::OpenUpload {
        path: path(at),
        options: options(),
        placements: vec![chain(&[1, 2, 3]); chunks],
    }
}

pub(crate) fn mkdir(at: &str) -> ClientCommand {
    ClientCommand::Mkdir {
        path: path(at),
        parents: false,
        mode: 0o700,
    }
}

pub(crate) fn remove(at: &str, recursive: bool) -> ClientCommand {
    ClientCommand::Remove {
        path: path(at),
        recursive,
    }
}

pub(super) fn discard(at: &str) -> ClientCommand {
    ClientCommand::MoveToTrash {
        path: path(at),
        recursive: true,
    }
}

/// Takes what was removed last from a path back.
pub(super) fn restore(at: &str, to: Option<&str>) -> ClientCommand {
    ClientCommand::Restore {
        what: TrashRef::Path(path(at)),
        to: to.map(path),
    }
}

pub(crate) fn rename(from: &str, to: &str, replace: bool) -> ClientCommand {
    ClientCommand::Rename {
        from: path(from),
        to: path(to),
        replace,
    }
}

#[track_caller]
pub(crate) fn entry(outcome: Result<Outcome, Refusal>) -> Entry {
    match outcome.unwrap() {
        Outcome::Entry(entry) => entry,
        other => panic!("{other:?}"),
    }
}
