//! Frozen bytes of every key, value, command and reply: `golden.txt`, a line each.
//!
//! A line that changes or goes means that stored rows and logs of running clusters are not understood any more: make
//! a new version or variant instead. New lines are appended.

use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::{
    AttributeChange, Change, ConditionChange, CopyFiles, Damage as Found, EntryKind, FileChange, FileVersion,
    LinkChange, SnapshotInfo, SpliceAt,
};
use proptest::prelude::*;

use super::*;
use crate::state::check::row_decodes;
use crate::state::key::attributes::{Attributes, AttributesKey};
use crate::state::key::chunk::{Chunk, ChunkKey, Phase, Replica, ReplicaState};
use crate::state::key::condition::{Condition, ConditionKey};
use crate::state::key::copying::{self, CopyingKey};
use crate::state::key::damage::{Damage, DamageKey};
use crate::state::key::degraded::{DegradedKey, Wanting};
use crate::state::key::dentry::{Dentry, DentryKey};
use crate::state::key::dropping::{DroppingKey, Order};
use crate::state::key::extent::{Extent, ExtentKey};
use crate::state::key::garbage::{GarbageKey, Waiting};
use crate::state::key::history::{HistoryKey, Past};
use crate::state::key::inode::{Content, Upload};
use crate::state::key::kept::{Kept, KeptKey};
use crate::state::key::kept_path::{KeptPathKey, RemovedFrom};
use crate::state::key::meta::{
    Pin, Pins, PinsKey, Pruning, PruningKey, Swept, TrashTerms, TrashTermsKey, TrashTotal, TrashTotalKey,
};
use crate::state::key::replica::{Held, ReplicaKey};
use crate::state::key::reply::{Answered, ReplyKey};
use crate::state::key::resumable::{Resumable, ResumableKey};
use crate::state::key::server::{Server, ServerKey};
use crate::state::key::server_name::{Named, ServerNameKey};
use crate::state::key::session::{Session, SessionKey};
use crate::state::key::session_due::{Due, SessionDueKey};
use crate::state::key::snapshot::{Snapshot, SnapshotKey};
use crate::state::key::surplus::{Excess, SurplusKey};
use crate::state::key::taken_apart::{TakenApart, TakenApartKey};
use crate::state::key::trash::{TrashKey, Trashed};
use crate::state::key::upload_lease::{LeaseDue, UploadLeaseKey};
use crate::state::key::write_lease::{WriteLease, WriteLeaseKey};
use crate::state::key::{Moment, Value};
use crate::state::repair::{CopyDrop, CopyPlan, MadeCopy};

mod balance;
mod inventory;
mod merges;
mod quotas;

const CHUNK: ChunkId = ChunkId {
    volume: VolumeId(0),
    timeline: Timeline(1),
    counter: 0x2a,
};
const SESSION: SessionId = SessionId {
    opened: StateTime(0x102),
    random: 0xa0b,
};
const SERVER: ServerId = ServerId(3);
const NUMBER: ReplicaNumber = ReplicaNumber(9);
const CONTENT: Content = Content {
    length: 300,
    crc: Some(0xdead_beef),
    replicas: 3,
    chunk_bytes: 64 << 20,
    extents: 2,
    degraded: 1,
};

#[derive(Default)]
struct Golden(String);

impl Golden {
    fn line(&mut self, name: &str, bytes: &[u8]) {
        use std::fmt::Write as _;
        write!(self.0, "{name} ").unwrap();
        bytes.iter().for_each(|byte| write!(self.0, "{byte:02x}").unwrap());
        self.0.push('\n');
    }

    fn row<K: Key + PartialEq + std::fmt::Debug>(&mut self, name: &str, key: &K, value: &K::Value)
    where
        K::Value: PartialEq + std::fmt::Debug,
    {
        let (key_bytes, value_bytes) = (key.encode(), value.encode());
        assert_eq!(K::decode(&key_bytes).as_ref(), Some(key));
        assert_eq!(K::Value::decode(&value_bytes).as_ref(), Ok(value));
        assert_eq!(row_decodes(&key_bytes, &value_bytes), Ok(K::KIND));
        self.line(&format!("key.{name}"), &key_bytes);
        self.line(&format!("value.{name}"), &value_bytes);
    }

    fn command(&mut self, name: &str, command: &Command) {
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        self.line(&format!("command.{name}"), &bytes);
    }

    fn client(&mut self, name: &str, op: ClientCommand) {
        let request = ClientRequest {
            request: RequestId {
                session: SESSION,
                sequence: 7,
            },
            answered_below: 6,
            wall_ms: -1,
            op,
        };
        self.command(name, &Command::Client(request));
    }

    fn reply(&mut self, name: &str, reply: Result<Outcome, Refusal>) {
        let reply = Reply(reply);
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(&reply));
        self.line(&format!("reply.{name}"), &reply.encode());
    }
}

fn inode(body: Body) -> Inode {
    Inode {
        body,
        mode: 0o644,
        modified_ms: -2,
        parent: Parent {
            ino: Ino::ROOT,
            name: "f".to_owned(),
            since: Moment(4),
        },
        since: Moment(5),
        generation: 0,
    }
}

fn names(golden: &mut Golden) {
    let upload = Upload {
        content: CONTENT,
        path: path("/a/f"),
        replace: true,
        parents: false,
        modified_ms: Some(8),
        generation: UploadGeneration(1),
        session: SESSION,
        lease: StateTime(77),
        open: vec![CHUNK],
    };
    golden.row("inode.directory", &InodeKey(Ino(0x1234)), &inode(Body::Directory));
    golden.row("inode.file", &InodeKey(Ino(0x1234)), &inode(Body::File(CONTENT)));
    golden.row("inode.upload", &InodeKey(Ino(0x1234)), &inode(Body::Upload(upload)));
    let entry = DentryKey {
        parent: Ino::ROOT,
        name: "ü".to_owned(),
    };
    let dentry = Dentry {
        ino: Ino(0x1234),
        directory: true,
        since: Moment(5),
    };
    golden.row("dentry", &entry, &dentry);
    let extent = Extent {
        chunk: CHUNK,
        chunk_offset: 1,
        length: 2,
        crc: Some(3),
        since: Moment(5),
    };
    let at = ExtentKey {
        ino: Ino(0x1234),
        offset: 0x100,
    };
    golden.row("extent", &at, &extent);
    let total = Total {
        files: 1,
        directories: 2,
        bytes: 3,
        reserved: 4,
        deepest: 5,
        longest: 6,
        since: Moment(0),
        reserved_entries: 0,
    };
    golden.row("total", &TotalKey(Ino(2)), &total);
    let deadline = StateTime(0x55);
    golden.row("trash", &TrashKey { deadline, ino: Ino(2) }, &Trashed);
    golden.row("upload_lease", &UploadLeaseKey { deadline, ino: Ino(2) }, &LeaseDue);
    let past = HistoryKey {
        key: entry.encode(),
        until: Moment(6),
    };
    let value = Past {
        since: Moment(5),
        value: vec![1, 2],
    };
    golden.row("history", &past, &value);
}

fn chunks(golden: &mut Golden) {
    let tokens_end = StateTime(0x66);
    let phases = [
        ("open", Phase::Open),
        ("sealed", Phase::Sealed),
        ("garbage", Phase::Garbage { tokens_end }),
    ];
    for (name, phase) in phases {
        let states = [ReplicaState::Copying, ReplicaState::Live, ReplicaState::Dropping];
        let replicas = states.map(|state| Replica {
            server: SERVER,
            number: NUMBER,
            state,
        });
        let chunk = Chunk {
            phase,
            generation: Generation(1),
            length: 300,
            crc: 5,
            references: 1,
            wanted: 3,
            owner: Ino(2),
            replicas: replicas.to_vec(),
        };
        golden.row(&format!("chunk.{name}"), &ChunkKey(CHUNK), &chunk);
    }
    let held = ReplicaKey {
        server: SERVER,
        chunk: CHUNK,
    };
    golden.row(
        "replica",
        &held,
        &Held {
            number: NUMBER,
            live: true,
        },
    );
    let dropping = DroppingKey {
        server: SERVER,
        chunk: CHUNK,
        number: NUMBER,
    };
    golden.row("dropping", &dropping, &Order);
    golden.row(
        "degraded",
        &DegradedKey { live: 2, chunk: CHUNK },
        &Wanting { wanted: 3 },
    );
    golden.row(
        "garbage",
        &GarbageKey {
            tokens_end,
            chunk: CHUNK,
        },
        &Waiting,
    );
    let report = DamageKey {
        chunk: CHUNK,
        server: SERVER,
    };
    let damage = Damage {
        number: NUMBER,
        confirmed: true,
        what: "block 3".to_owned(),
    };
    golden.row("damage", &report, &damage);
}

fn cluster(golden: &mut Golden) {
    let facts = Cluster {
        cluster: CLUSTER,
        timeline: Timeline(1),
        moment_base: 2,
        settings: SETTINGS,
    };
    golden.row("meta.cluster", &ClusterKey, &facts);
    let swept = Swept {
        sessions: StateTime(1),
        uploads: StateTime(2),
        trash: StateTime(3),
        garbage: StateTime(4),
    };
    let clock = Clock {
        now: StateTime(300),
        swept,
    };
    golden.row("meta.clock", &ClockKey, &clock);
    let counters = Counters {
        ino: 1,
        chunk: 2,
        server: 3,
        replica: 4,
    };
    golden.row("meta.counters", &CountersKey, &counters);
    golden.row("meta.level", &LevelKey, &Level { level: 1 });
    let server = Server {
        name: "c3".to_owned(),
        incarnation: Incarnation([5; 16]),
        boot: 2,
        address: "h:1".to_owned(),
        rack: "r".to_owned(),
        retired: false,
    };
    golden.row("server", &ServerKey(SERVER), &server);
    golden.row(
        "server_name",
        &ServerNameKey("c3".to_owned()),
        &Named { server: SERVER },
    );
    let session = Session {
        expires: StateTime(300),
        answered_below: 7,
    };
    golden.row("session", &SessionKey(SESSION), &session);
    let due = SessionDueKey {
        deadline: StateTime(300),
        session: SESSION,
    };
    golden.row("session_due", &due, &Due);
    let answered = Answered {
        sequence: 71,
        reply: Reply(Ok(Outcome::Done)),
    };
    golden.row("reply", &ReplyKey::of(SESSION, 71), &answered);
}

fn commands(golden: &mut Golden) {
    let bootstrap = Bootstrap {
        cluster: CLUSTER,
        timeline: Timeline(1),
        settings: SETTINGS,
        wall_ms: 5,
    };
    golden.command("bootstrap", &Command::Bootstrap(bootstrap));
    golden.command("tick", &Command::Tick { advance_ms: 500 });
    let registration = Registration {
        server: Some(SERVER),
        incarnation: Incarnation([5; 16]),
        boot: 2,
        address: "h:1".to_owned(),
        rack: "r".to_owned(),
    };
    let name = "c3".to_owned();
    golden.command("register_server", &Command::RegisterServer { name, registration });
    let (server, done) = (SERVER, vec![(CHUNK, NUMBER)]);
    golden.command("replicas_dropped", &Command::ReplicasDropped { server, done });
    let found = vec![Found {
        chunk: CHUNK,
        replica: NUMBER,
        what: "block 3".to_owned(),
    }];
    golden.command("damage_found", &Command::DamageFound { server, found });
    let intact = vec![(CHUNK, NUMBER)];
    golden.command("damage_cleared", &Command::DamageCleared { server, intact });
    golden.command("mark_hash", &Command::MarkHash);
    golden.command("set_level", &Command::SetLevel { level: 2 });
}

fn client_commands(golden: &mut Golden) {
    let (upload, generation) = (Ino(2), UploadGeneration(1));
    let seal = Seal {
        chunk: CHUNK,
        generation: Generation(1),
        file_offset: 0,
        length: 10,
        crc: 5,
        members: vec![SERVER],
    };
    golden.client("mkdir", mkdir("/a"));
    golden.client("open_upload", open("/a", 1));
    let grant = ClientCommand::GrantChunks {
        upload,
        generation,
        placements: vec![chain(&[1, 2])],
        abandoned: vec![CHUNK],
    };
    golden.client("grant_chunks", grant);
    let seals = vec![seal];
    let recorded = ClientCommand::SealChunks {
        upload,
        generation,
        seals: seals.clone(),
    };
    golden.client("seal_chunks", recorded);
    let commit = ClientCommand::Commit {
        upload,
        generation,
        seals,
        length: 10,
        crc: 5,
    };
    golden.client("commit", commit);
    golden.client("abort_upload", ClientCommand::AbortUpload { upload, generation });
    let uploads = vec![(upload, generation)];
    golden.client("renew", ClientCommand::Renew { uploads });
    golden.client("rename", rename("/a", "/b", true));
    golden.client("remove", remove("/a", true));
    let report = ClientCommand::ReportDamage {
        chunk: CHUNK,
        server: SERVER,
        replica: NUMBER,
        what: "x".to_owned(),
    };
    golden.client("report_damage", report);
    let create = ClientCommand::CreateFile {
        path: path("/a"),
        options: options(),
    };
    golden.client("create_file", create);
    let open = ClientCommand::OpenStock {
        replicas: Some(3),
        placements: vec![vec![SERVER]],
    };
    golden.client("open_stock", open);
    let put = ClientCommand::PutFile {
        path: path("/a"),
        options: options(),
        stock: Ino(9),
        generation: UploadGeneration(1),
        seal: Seal {
            chunk: CHUNK,
            generation: Generation(1),
            file_offset: 0,
            length: 5,
            crc: 6,
            members: vec![SERVER],
        },
    };
    golden.client("put_file", put);
}

fn replies(golden: &mut Golden) {
    let granted = GrantedChunk {
        chunk: CHUNK,
        generation: Generation(1),
        replicas: vec![(SERVER, NUMBER)],
    };
    golden.reply("done", Ok(Outcome::Done));
    let entry = Entry {
        name: "f".to_owned(),
        ino: Ino(2),
        kind: EntryKind::File,
        length: 10,
        crc: 5,
        replicas: 3,
        chunk_bytes: 64 << 20,
        children: 1,
        mode: 0o644,
        modified_ms: 5,
        degraded: false,
    };
    golden.reply("entry", Ok(Outcome::Entry(entry)));
    let upload = Outcome::Upload {
        upload: Ino(2),
        generation: UploadGeneration(1),
        chunk_bytes: 64 << 20,
        replicas: 3,
        chunks: vec![granted.clone()],
    };
    golden.reply("upload", Ok(upload));
    golden.reply("chunks", Ok(Outcome::Chunks(vec![granted])));
    let removed = Outcome::Removed {
        files: 1,
        directories: 2,
        bytes: 3,
    };
    golden.reply("removed", Ok(removed));
    golden.reply("registered", Ok(Outcome::Registered { server: SERVER }));
    golden.reply("marked", Ok(Outcome::Marked { index: 300 }));
    let ticked = Outcome::Ticked {
        now: StateTime(300),
        more: true,
    };
    golden.reply("ticked", Ok(ticked));
    for refusal in refusals() {
        let debug = format!("{refusal:?}");
        let name = debug.split([' ', '{']).next().unwrap().to_owned();
        golden.reply(&format!("refused.{name}"), Err(refusal));
    }
}

/// Everything of the trash: rows, commands and replies.
fn trash(golden: &mut Golden) {
    golden.row("meta.trash_terms", &TrashTermsKey, &TrashTerms { keep_ms: 300 });
    let total = TrashTotal {
        entries: 1,
        files: 2,
        directories: 3,
        bytes: 300,
    };
    golden.row("meta.trash_total", &TrashTotalKey, &total);
    let kept = Kept {
        path: path("/a/ü"),
        removed: Moment(300),
        removed_ms: -2,
        deadline: StateTime(0x55),
    };
    golden.row("kept", &KeptKey(Ino(2)), &kept);
    let at = KeptPathKey {
        path: "/a/ü".to_owned(),
        removed: Moment(300),
    };
    golden.row("kept_path", &at, &RemovedFrom { ino: Ino(2) });
    golden.row("taken_apart", &TakenApartKey(Ino(2)), &TakenApart { last: vec![3, 0] });
    golden.command("begin_trash", &Command::BeginTrash { keep_ms: 300 });
    golden.client("move_to_trash", discard("/a"));
    golden.client("restore.path", restore("/a", Some("/b")));
    let what = TrashRef::Ino(Ino(2));
    golden.client("restore.ino", ClientCommand::Restore { what, to: None });
    let entries = vec![TrashId {
        ino: Ino(2),
        removed: 300,
    }];
    golden.client("empty_trash", ClientCommand::EmptyTrash { entries });
    let trashed = Outcome::Trashed {
        ino: Ino(2),
        files: 1,
        directories: 2,
        bytes: 3,
        keep_ms: 300,
    };
    golden.reply("trashed", Ok(trashed));
    let changed = ClientCommand::SetAttributes {
        path: path("/a"),
        mode: Some(0o600),
        modified_ms: Some(-1),
    };
    golden.client("set_attributes", changed);
}

fn attributes(golden: &mut Golden) {
    let told = Attributes {
        owner: "ann".to_owned(),
        group: "1000".to_owned(),
        extended: [("n".to_owned(), vec![0, 255])].into(),
        since: Moment(300),
    };
    golden.row("attributes", &AttributesKey(Ino(300)), &told);
    let change = AttributeChange::Set {
        name: "n".to_owned(),
        value: vec![0, 255],
    };
    let path = path("/a");
    golden.client("change_attributes", ClientCommand::ChangeAttributes { path, change });
}

fn resumable(golden: &mut Golden) {
    let owner = Identity {
        role: Role::Client,
        id: "ann".to_owned(),
    };
    let row = ResumableKey {
        path: "/a/ü".to_owned(),
        upload: Ino(300),
    };
    let terms = Resumable {
        owner: owner.clone(),
        keep_ms: 300,
    };
    golden.row("resumable", &row, &terms);
    let resume = ClientCommand::ResumeUpload {
        path: path("/a"),
        options: options(),
        owner,
        keep_ms: 300,
    };
    golden.client("resume_upload", resume);
    let resumed = Outcome::Resumed {
        upload: Ino(300),
        generation: UploadGeneration(2),
        chunk_bytes: 64 << 20,
        replicas: 3,
        length: 300,
        crc: 5,
    };
    golden.reply("resumed", Ok(resumed));
}

fn repairs(golden: &mut Golden) {
    let copying = CopyingKey {
        server: SERVER,
        chunk: CHUNK,
        number: NUMBER,
    };
    golden.row("copying", &copying, &copying::Order);
    golden.row("surplus", &SurplusKey(CHUNK), &Excess { live: 4, wanted: 3 });
    let planned = vec![Replica {
        server: SERVER,
        number: NUMBER,
        state: ReplicaState::Live,
    }];
    let plans = vec![CopyPlan {
        chunk: CHUNK,
        planned: planned.clone(),
        targets: chain(&[4, 5]),
    }];
    golden.command("add_copies", &Command::AddCopies { plans });
    let made = vec![MadeCopy {
        chunk: CHUNK,
        number: NUMBER,
        length: 300,
        crc: 5,
    }];
    golden.command("copies_made", &Command::CopiesMade { server: SERVER, made });
    let copies = vec![(CHUNK, SERVER, NUMBER)];
    golden.command("copies_given_up", &Command::CopiesGivenUp { copies });
    let drops = vec![CopyDrop {
        chunk: CHUNK,
        planned,
        server: SERVER,
    }];
    golden.command("drop_copies", &Command::DropCopies { drops });
    let what = "x".to_owned();
    let damage = Found {
        chunk: CHUNK,
        replica: NUMBER,
        what,
    };
    let found = vec![(SERVER, damage)];
    golden.command("damage_suspected", &Command::DamageSuspected { found });
    let refused = vec![(CHUNK, Refusal::CopiesChanged { chunk: CHUNK })];
    golden.reply("repaired", Ok(Outcome::Repaired { refused }));
}

fn copies(golden: &mut Golden) {
    let version = FileVersion {
        ino: Ino(2),
        generation: 300,
    };
    let copy = CopyFiles {
        sources: vec![path("/a"), path("/b")],
        to: path("/c"),
        replace: true,
        parents: false,
        keep_time: true,
    };
    golden.client("copy", ClientCommand::Copy(copy));
    let part = ClientCommand::CopyExtents {
        upload: Ino(9),
        generation: UploadGeneration(1),
        source: path("/a"),
        offset: 300,
        version: Some(version),
    };
    golden.client("copy_extents", part);
    let copied = Outcome::Copied {
        version,
        next: 300,
        more: true,
        length: 301,
        crc: Some(5),
    };
    golden.reply("copied", Ok(copied));
}

/// Files that change: rows, commands and replies.
fn changes(golden: &mut Golden) {
    let lease = WriteLease {
        number: 300,
        until: StateTime(0x55),
        holder: "ann".to_owned(),
    };
    golden.row("write_lease", &WriteLeaseKey(Ino(2)), &lease);
    let seal = || Seal {
        chunk: CHUNK,
        generation: Generation(1),
        file_offset: 0,
        length: 300,
        crc: 5,
        members: chain(&[4, 5]),
    };
    let splice = |at| Change::Splice {
        upload: Ino(3),
        generation: UploadGeneration(1),
        seals: vec![seal()],
        at,
    };
    let holder = "ann".to_owned();
    for (name, what) in [
        ("splice.end", splice(SpliceAt::End)),
        ("splice.at", splice(SpliceAt::Offset(300))),
        ("truncate", Change::Truncate { length: 300 }),
        ("set_replicas", Change::SetReplicas { replicas: 2, from: 300 }),
        ("take_lease", Change::TakeLease { ms: 300, holder }),
        ("end_lease", Change::EndLease),
    ] {
        let (file, lease) = (Ino(2), Some(300));
        golden.client(name, ClientCommand::ChangeFile(FileChange { file, lease, what }));
    }
    let spliced = Outcome::Spliced { offset: 1, length: 300 };
    golden.reply("spliced", Ok(spliced));
    golden.reply("truncated", Ok(Outcome::Truncated { length: 300 }));
    golden.reply("replicas_set", Ok(Outcome::ReplicasSet { next: Some(300) }));
    let until = StateTime(0x55);
    golden.reply("write_lease", Ok(Outcome::WriteLease { lease: 300, until }));
}

/// Servers that do not just serve.
fn conditions(golden: &mut Golden) {
    let key = ConditionKey(SERVER);
    golden.row("condition.draining", &key, &Condition::Draining);
    let until = StateTime(300);
    golden.row("condition.maintenance", &key, &Condition::Maintenance { until });
    let after = Some(CHUNK);
    golden.row("condition.removing", &key, &Condition::Removing { after });
    let changes = [
        ("serve", ConditionChange::Serve),
        ("drain", ConditionChange::Drain),
        ("maintain", ConditionChange::Maintain { for_ms: 300 }),
        ("remove", ConditionChange::Remove),
    ];
    for (name, change) in changes {
        let server = SERVER;
        golden.client(
            &format!("set_condition.{name}"),
            ClientCommand::SetCondition { server, change },
        );
    }
}

/// Snapshots: rows, commands and replies.
fn snapshots(golden: &mut Golden) {
    let total = Total {
        files: 1,
        directories: 2,
        bytes: 3,
        reserved: 4,
        deepest: 5,
        longest: 6,
        since: Moment(300),
        reserved_entries: 0,
    };
    golden.row("total.since", &TotalKey(Ino(2)), &total);
    let row = SnapshotKey {
        root: Ino(2),
        name: "ü".to_owned(),
    };
    let moment = Moment(300);
    let snapshot = Snapshot { moment, created_ms: -2 };
    golden.row("snapshot", &row, &snapshot);
    let pin = Pin { moment, root: Ino(2) };
    golden.row("meta.pins", &PinsKey, &Pins { live: vec![pin] });
    let pruning = Pruning {
        last: vec![19, 0],
        again: true,
    };
    golden.row("meta.pruning", &PruningKey, &pruning);
    let (at, name) = (|| path("/a"), || "s".to_owned());
    let create = ClientCommand::CreateSnapshot {
        path: at(),
        name: name(),
    };
    golden.client("create_snapshot", create);
    let remove = ClientCommand::RemoveSnapshot {
        path: at(),
        name: name(),
    };
    golden.client("remove_snapshot", remove);
    let info = SnapshotInfo {
        directory: at(),
        root: Ino(2),
        name: name(),
        moment: 300,
        created_ms: -2,
        files: 1,
        directories: 2,
        bytes: 3,
    };
    golden.reply("snapshot", Ok(Outcome::Snapshot(info)));
}

/// Symbolic links: rows, commands and replies.
fn links(golden: &mut Golden) {
    let target = || "../ü".to_owned();
    golden.row(
        "inode.link",
        &InodeKey(Ino(0x1234)),
        &inode(Body::Link { target: target() }),
    );
    let make = LinkChange::Make {
        path: path("/a"),
        target: target(),
        replace: true,
        parents: false,
        modified_ms: Some(-2),
    };
    golden.client("link.make", ClientCommand::Link(make));
    let tell = LinkChange::Tell {
        path: path("/a"),
        modified_ms: Some(-2),
        owner: Some("ann".to_owned()),
        group: None,
    };
    golden.client("link.tell", ClientCommand::Link(tell));
    let entry = Entry {
        name: "l".to_owned(),
        ino: Ino(2),
        kind: EntryKind::Link { target: target() },
        length: 5,
        crc: 0,
        replicas: 0,
        chunk_bytes: 0,
        children: 0,
        mode: 0o777,
        modified_ms: 5,
        degraded: false,
    };
    golden.reply("link", Ok(Outcome::Entry(entry)));
}

/// One of each, in the order of their numbers.
fn refusals() -> Vec<Refusal> {
    use Refusal::*;
    let (chunk, server, upload) = (CHUNK, SERVER, Ino(2));
    let path = || path("/a");
    vec![
        NotReady,
        Malformed,
        Level { needs: 2, level: 1 },
        SessionExpired,
        AnsweredBefore,
        WindowExceeded { answered_below: 7 },
        NotFound { path: path() },
        Exists { path: path() },
        IsDirectory { path: path() },
        NotDirectory { path: path() },
        NotEmpty { path: path() },
        Root,
        IntoItself,
        PathsTooLong,
        Replicas { asked: 11 },
        ChunkBytes { asked: 1 },
        TooMany { asked: 2, limit: 1 },
        TooFewServers { usable: 1, needed: 2 },
        UploadGone { upload },
        UploadCommitted { upload },
        UploadFenced {
            upload,
            generation: UploadGeneration(1),
        },
        ChunkNotOpen { chunk },
        ChunkFenced {
            chunk,
            generation: Generation(1),
        },
        SealOutOfOrder {
            chunk,
            offset: 1,
            expected: 2,
        },
        SealLength { chunk, length: 0 },
        SealMember { chunk, server },
        TooFewMembers {
            chunk,
            members: 1,
            needed: 2,
        },
        FileTooLong,
        Length { told: 1, recorded: 2 },
        Crc { told: 1, recorded: 2 },
        Bootstrapped,
        Settings,
        LevelDown { level: 1 },
        ServerUnknown { server },
        ServerForeign { server },
        ServerStale { server, boot: 2 },
        ServerRetired {
            server,
            by: ServerId(5),
        },
        ServerName,
        StockCopies { granted: 3, asked: 2 },
        NotInTrash {
            what: TrashRef::Ino(upload),
        },
        NoPlaceToRestore { directory: path() },
        PlaceTaken { path: path() },
        ChunkNotSealed { chunk },
        CopiesChanged { chunk },
        CopyTarget { chunk, server },
        CopiesNeeded {
            chunk,
            left: 1,
            needed: 2,
        },
        CopyDiffers { chunk },
        Mode { asked: 0o10000 },
        SourceChanged { path: path() },
        NoSource,
        CopiesDiffer {
            path: path(),
            copies: 1,
            others: 3,
        },
        OwnerName,
        AttributeName,
        AttributesTooLarge { bytes: 70_000 },
        NoAttribute { path: path() },
        FileGone { file: upload },
        TooManyPieces { limit: 1000 },
        Leased {
            holder: "ann".to_owned(),
            until: StateTime(300),
        },
        LeaseLost { holder: None },
        LeaseTime { asked: 0 },
        ServerRemoved { server },
        MaintenanceTime { asked: 0 },
        BalanceStopped,
        InSnapshot { path: path() },
        HasSnapshots { path: path() },
        SnapshotName,
        TooManySnapshots,
        QuotaExceeded {
            directory: path(),
            is_bytes: true,
            limit: 300,
            used: 1,
            reserved: 2,
            needed: 301,
        },
        NoLimit,
        TooManyLinks { path: path() },
        LinkTarget,
        ExtentsChanged { file: upload },
    ]
}

#[test]
fn bytes_are_frozen() {
    let mut golden = Golden::default();
    for part in [
        names,
        chunks,
        cluster,
        commands,
        client_commands,
        replies,
        trash,
        repairs,
        copies,
        resumable,
        attributes,
        changes,
        conditions,
        inventory::all,
        balance::all,
        snapshots,
        quotas::all,
        links,
        merges::all,
    ] {
        part(&mut golden);
    }
    let frozen = include_str!("golden.txt");
    for (now, then) in golden.0.lines().zip(frozen.lines()) {
        assert_eq!(now, then, "the bytes have changed: make a new version or variant");
    }
    assert_eq!(
        golden.0.lines().count(),
        frozen.lines().count(),
        "all lines now:\n{}",
        golden.0
    );
}

#[test]
fn refusals_are_numbered_in_order_and_say_what_to_do() {
    for (number, refusal) in refusals().into_iter().enumerate() {
        assert_eq!(
            gabion_protocol::messages::encode(&refusal)[0] as usize,
            number,
            "{refusal:?}"
        );
        let error = refusal.to_wire("cannot do it");
        assert!(error.message.starts_with("cannot do it: "), "{error}");
        assert!(error.message.len() > 20 && !error.message.contains('{'), "{error}");
    }
    assert_eq!(refusals().len(), 72);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..40) {
        let mut framed = vec![1];
        framed.extend(&bytes);
        for bytes in [&bytes, &framed] {
            if let Ok(command) = Command::decode(bytes) {
                prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
            if let Ok(reply) = Reply::decode(bytes) {
                prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
            }
            let mut key = vec![kind];
            key.extend(bytes.iter().take(30));
            let _ = row_decodes(&key, bytes);
        }
    }

    /// Whatever a client sends, the state stays sound.
    #[test]
    fn any_decoded_command_is_applied(bytes in proptest::collection::vec(0u8..12, 0..60)) {
        let mut machine = Machine::new();
        let mut framed = vec![1];
        framed.extend(&bytes);
        if let Ok(command) = Command::decode(&framed)
            && !matches!(command, Command::SetLevel { .. })
        {
            let _ = machine.apply(&command);
            machine.check();
        }
    }
}
