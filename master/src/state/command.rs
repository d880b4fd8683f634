//! Commands: what is written into the Raft log **[format]**.
//!
//! A command is a version byte and a postcard enum whose variants are only ever appended. It carries everything
//! `apply` may not find out by itself: the passing of time, the wall clock, and the servers the leader chose.
//! It needs a feature level; the leader proposes nothing above the cluster's level, and `apply` refuses it too.

use gabion_protocol::ids::{ChunkId, ClusterId, Ino, ReplicaNumber, RequestId, ServerId, Timeline, UploadGeneration};
use gabion_protocol::keys::Identity;
use gabion_protocol::messages::DecodeError;
use gabion_protocol::messages::master::{
    AttributeChange, ConditionChange, CopyFiles, Damage, FileChange, FileVersion, LinkChange, QuotaChange,
    Registration, Room, Seal, TrashId, TrashRef, TreeCopy, UploadOptions,
};
use gabion_protocol::path::FsPath;
use serde::{Deserialize, Serialize};

use super::balance::CopyMove;
use super::key::meta::Settings;
use super::merges::MergeStep;
use super::repair::{CopyDrop, CopyPlan, MadeCopy};

/// The version byte of an encoded command.
pub const COMMAND_VERSION: u8 = 1;
/// The highest feature level this program knows.
pub const LEVEL_KNOWN: u32 = 1;

/// A logged command. The order is the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster. Repeating it does nothing. Answer: `Done`.
    Bootstrap(Bootstrap),
    /// A client's command, run once. Answer: what the command says.
    Client(ClientRequest),
    /// Time has passed: state time moves, then a bounded part of what is due is done. Answer: `Ticked`.
    Tick {
        /// Milliseconds of the leader's monotonic clock since its last tick.
        advance_ms: u64,
    },
    /// A chunkserver says who it is. Answer: `Registered`.
    RegisterServer {
        /// The name in its key file.
        name: String,
        /// What it says.
        registration: Registration,
    },
    /// A chunkserver has removed copies. Answer: `Done`.
    ReplicasDropped {
        /// The server.
        server: ServerId,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        done: Vec<(ChunkId, ReplicaNumber)>,
    },
    /// A chunkserver found copies of its own damaged. Answer: `Done`.
    DamageFound {
        /// The server.
        server: ServerId,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        found: Vec<Damage>,
    },
    /// A chunkserver has re-read reported copies and found them whole. Answer: `Done`.
    DamageCleared {
        /// The server.
        server: ServerId,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        intact: Vec<(ChunkId, ReplicaNumber)>,
    },
    /// Every master hashes its state as of this entry. Answer: `Marked`.
    MarkHash,
    /// Every master has announced that it knows this level. Answer: `Done`.
    SetLevel {
        /// The level.
        level: u32,
    },
    /// Sets how long removals can be undone, if that was not set before. Answer: `Done`.
    BeginTrash {
        /// Milliseconds of state time; 0 for not at all.
        keep_ms: u64,
    },
    /// Adds background copies of sealed chunks. Answer: `Repaired`.
    AddCopies {
        /// The copies, at most [`super::repair::REPAIR_BATCH_MAX`] chunks.
        plans: Vec<CopyPlan>,
    },
    /// A chunkserver has made and verified background copies. Answer: `Repaired`.
    CopiesMade {
        /// The server.
        server: ServerId,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        made: Vec<MadeCopy>,
    },
    /// Background copies that failed, or that nobody needs any more, are removed. Answer: `Done`.
    CopiesGivenUp {
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        copies: Vec<(ChunkId, ServerId, ReplicaNumber)>,
    },
    /// Orders copies removed that others make superfluous. Answer: `Repaired`.
    DropCopies {
        /// The copies, at most [`super::repair::REPAIR_BATCH_MAX`].
        drops: Vec<CopyDrop>,
    },
    /// A chunkserver that copied from others found their copies wrong. Answer: `Done`.
    DamageSuspected {
        /// Whose copies, and what was found; at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        found: Vec<(ServerId, Damage)>,
    },
    /// A chunkserver holds copies that no row names: they are set aside. Answer: `Done`.
    UnknownFound {
        /// The server.
        server: ServerId,
        /// Copies it holds in all.
        held: u64,
        /// How long they are kept, milliseconds of state time.
        keep_ms: u64,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        copies: Vec<(ChunkId, ReplicaNumber)>,
    },
    /// An operator accepts that so many of a server's copies are unknown. Answer: `Done`.
    UnknownAccepted {
        /// The server.
        server: ServerId,
    },
    /// A chunkserver lists copies as whole that it called damaged. Answer: `Done`.
    DamageDoubted {
        /// The server.
        server: ServerId,
        /// The copies, at most [`gabion_protocol::limits::BATCH_ROWS_MAX`].
        copies: Vec<(ChunkId, ReplicaNumber)>,
    },
    /// A chunkserver holds chunks above the timeline's highest: the masters lost their memory. Answer: `Done`.
    TailLost {
        /// The highest of them.
        highest: ChunkId,
        /// The highest number of a copy that a chunkserver holds.
        number: ReplicaNumber,
    },
    /// Moves copies of sealed chunks to other servers. Answer: `Repaired`.
    MoveCopies {
        /// The copies, at most [`super::repair::REPAIR_BATCH_MAX`].
        moves: Vec<CopyMove>,
    },
    /// A step of making large chunks of small ones. Answer: `Done`.
    Merge(MergeStep),
}

/// The first command of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The cluster.
    pub cluster: ClusterId,
    /// 1, more after a restoration.
    pub timeline: Timeline,
    /// What the operator chose.
    pub settings: Settings,
    /// The leader's wall clock, milliseconds since 1970.
    pub wall_ms: i64,
}

/// A client's command and what makes it run once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// Who asks, and which of its commands this is.
    pub request: RequestId,
    /// Every sequence below this has reached the client.
    pub answered_below: u64,
    /// The leader's wall clock, milliseconds since 1970; for people only.
    pub wall_ms: i64,
    /// What to do.
    pub op: ClientCommand,
}

/// A client's command: [`gabion_protocol::messages::master::Op`] and what the leader fills in. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCommand {
    /// Makes a directory. Answer: `Entry`.
    Mkdir {
        /// Where.
        path: FsPath,
        /// Whether missing directories above are made, and an existing directory is fine.
        parents: bool,
        /// Permission bits.
        mode: u32,
    },
    /// Begins an upload. Answer: `Upload`.
    OpenUpload {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// A chain of servers per first chunk.
        placements: Vec<Vec<ServerId>>,
    },
    /// Grants more chunks. Answer: `Chunks`.
    GrantChunks {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// A chain of servers per chunk.
        placements: Vec<Vec<ServerId>>,
        /// Granted chunks the writer gave up.
        abandoned: Vec<ChunkId>,
    },
    /// Records sealed chunks. Answer: `Done`.
    SealChunks {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks, in file order.
        seals: Vec<Seal>,
    },
    /// Records the last sealed chunks and makes the file appear. Answer: `Entry`.
    Commit {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks not recorded yet.
        seals: Vec<Seal>,
        /// Length of the file.
        length: u64,
        /// CRC of the file.
        crc: u32,
    },
    /// Gives an upload up. Answer: `Done`.
    AbortUpload {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
    },
    /// Keeps uploads and the session alive. Answer: `Done`.
    Renew {
        /// The uploads.
        uploads: Vec<(Ino, UploadGeneration)>,
    },
    /// Renames. Answer: `Entry`.
    Rename {
        /// From.
        from: FsPath,
        /// To.
        to: FsPath,
        /// Whether a file, or an empty directory by a directory, may be replaced.
        replace: bool,
    },
    /// Removes for good. Answer: `Removed`.
    Remove {
        /// What.
        path: FsPath,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// A reader found a copy it cannot trust. Answer: `Done`.
    ReportDamage {
        /// The chunk.
        chunk: ChunkId,
        /// Where.
        server: ServerId,
        /// Which copy.
        replica: ReplicaNumber,
        /// What was found.
        what: String,
    },
    /// Makes an empty file. Answer: `Entry`.
    CreateFile {
        /// Where.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
    },
    /// Grants chunks for small files to come. Answer: `Upload`.
    OpenStock {
        /// Copies of each.
        replicas: Option<u8>,
        /// A chain of servers per chunk.
        placements: Vec<Vec<ServerId>>,
    },
    /// Makes a file of one of a stock's chunks. Answer: `Entry`.
    PutFile {
        /// Where.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// The stock.
        stock: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunk.
        seal: Seal,
    },
    /// Moves to the trash. Answer: `Trashed`, or `Removed` if none is kept.
    MoveToTrash {
        /// What.
        path: FsPath,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// Takes something back out of the trash. Answer: `Entry`.
    Restore {
        /// What.
        what: TrashRef,
        /// Where to; where it was if `None`.
        to: Option<FsPath>,
    },
    /// Removes what is in the trash for good. Answer: `Removed`.
    EmptyTrash {
        /// Which; those that are there no more are passed over.
        entries: Vec<TrashId>,
    },
    /// Changes what is told of a file or directory. Answer: `Entry`.
    SetAttributes {
        /// Of what.
        path: FsPath,
        /// Permission bits, if they change.
        mode: Option<u32>,
        /// Modification time, milliseconds since 1970, if it changes.
        modified_ms: Option<i64>,
    },
    /// Makes a file of the contents of others, by reference. Answer: `Entry`.
    Copy(CopyFiles),
    /// Adds a part of a file to an upload, by reference. Answer: `Copied`.
    CopyExtents {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The file.
        source: FsPath,
        /// Where in it to go on.
        offset: u64,
        /// Which content it must be.
        version: Option<FileVersion>,
    },
    /// Begins an upload that outlives its client, or takes over the one the same identity left. Answer: `Resumed`.
    ResumeUpload {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// Whose it is: the identity of the client's key.
        owner: Identity,
        /// Milliseconds it is kept after its lease has ended.
        keep_ms: u64,
    },
    /// Changes owner, group or an extended attribute. Answer: `Entry`.
    ChangeAttributes {
        /// Of what.
        path: FsPath,
        /// The change.
        change: AttributeChange,
    },
    /// Changes a file that is there. Answer: `Spliced`, `Truncated`, `ReplicasSet`, `WriteLease` or `Done`.
    ChangeFile(FileChange),
    /// Changes what a chunkserver is there for. Answer: `Done`.
    SetCondition {
        /// The server.
        server: ServerId,
        /// How.
        change: ConditionChange,
    },
    /// Lets copies be moved from full servers to empty ones, or not. Answer: `Done`.
    SetBalance {
        /// Whether they are.
        runs: bool,
    },
    /// Makes a snapshot. Answer: `Snapshot`.
    CreateSnapshot {
        /// Of which directory.
        path: FsPath,
        /// Its name.
        name: String,
    },
    /// Removes a snapshot. Answer: `Done`.
    RemoveSnapshot {
        /// Of which directory.
        path: FsPath,
        /// Its name.
        name: String,
    },
    /// Begins an upload for which room is reserved. Answer: `Upload`.
    OpenSized {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// A chain of servers per first chunk.
        placements: Vec<Vec<ServerId>>,
        /// The room.
        room: Room,
    },
    /// As `ResumeUpload`, of a file of known length. Answer: `Resumed`.
    ResumeSized {
        /// Where the file shall appear.
        path: FsPath,
        /// How it is stored.
        options: UploadOptions,
        /// Whose it is: the identity of the client's key.
        owner: Identity,
        /// Milliseconds it is kept after its lease has ended.
        keep_ms: u64,
        /// Bytes of the whole file.
        length: u64,
    },
    /// Changes how much a directory may hold. Answer: `Done`.
    SetQuota {
        /// The directory.
        path: FsPath,
        /// How.
        change: QuotaChange,
    },
    /// Copies a directory, in steps. Answer: `TreeCopied`.
    CopyTree(TreeCopy),
    /// Makes a symbolic link, or changes what is told of one. Answer: `Entry`.
    Link(LinkChange),
}

impl Command {
    /// The command's bytes as they are logged.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::key::versioned(COMMAND_VERSION, self)
    }

    /// The command of logged bytes.
    ///
    /// # Errors
    /// [`CommandError`] if this program does not know it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        match bytes.split_first() {
            Some((&COMMAND_VERSION, rest)) => Ok(gabion_protocol::messages::decode(rest)?),
            Some((&version, _)) => Err(CommandError::Version { version }),
            None => Err(CommandError::Empty),
        }
    }

    /// The feature level the cluster must have.
    #[must_use]
    pub fn needs_level(&self) -> u32 {
        match self {
            Self::Bootstrap(_) | Self::SetLevel { .. } => 0,
            Self::Client(_)
            | Self::Tick { .. }
            | Self::RegisterServer { .. }
            | Self::ReplicasDropped { .. }
            | Self::DamageFound { .. }
            | Self::DamageCleared { .. }
            | Self::MarkHash
            | Self::BeginTrash { .. }
            | Self::AddCopies { .. }
            | Self::CopiesMade { .. }
            | Self::CopiesGivenUp { .. }
            | Self::DropCopies { .. }
            | Self::DamageSuspected { .. }
            | Self::UnknownFound { .. }
            | Self::UnknownAccepted { .. }
            | Self::DamageDoubted { .. }
            | Self::TailLost { .. }
            | Self::MoveCopies { .. }
            | Self::Merge(_) => 1,
        }
    }

    /// What the command does, to begin the message of an error with: `cannot remove /a`.
    #[must_use]
    pub fn cannot(&self) -> String {
        match self {
            Self::Bootstrap(_) => "cannot initialise the cluster".to_owned(),
            Self::Client(request) => request.op.cannot(),
            Self::Tick { .. } => "cannot advance the clock".to_owned(),
            Self::RegisterServer { name, .. } => format!("cannot register chunkserver {name}"),
            Self::ReplicasDropped { server, .. } => format!("cannot take note of what c{server} removed"),
            Self::DamageFound { server, .. } => format!("cannot take note of damage on c{server}"),
            Self::DamageCleared { server, .. } => format!("cannot take note of copies on c{server}"),
            Self::MarkHash => "cannot mark a state hash".to_owned(),
            Self::SetLevel { level } => format!("cannot set the feature level to {level}"),
            Self::BeginTrash { .. } => "cannot set up the trash".to_owned(),
            Self::AddCopies { .. } => "cannot add copies".to_owned(),
            Self::CopiesMade { server, .. } => format!("cannot take note of what c{server} copied"),
            Self::CopiesGivenUp { .. } => "cannot give up copies".to_owned(),
            Self::DropCopies { .. } => "cannot drop copies".to_owned(),
            Self::DamageSuspected { .. } => "cannot take note of copies that are suspected".to_owned(),
            Self::UnknownFound { server, .. } => format!("cannot set copies aside on c{server}"),
            Self::UnknownAccepted { server } => format!("cannot accept that copies on c{server} are unknown"),
            Self::DamageDoubted { server, .. } => format!("cannot have copies on c{server} read again"),
            Self::TailLost { highest, .. } => format!("cannot take note that chunks up to {highest} are forgotten"),
            Self::MoveCopies { .. } => "cannot move copies".to_owned(),
            Self::Merge(MergeStep::Begin(plan)) => format!("cannot begin to merge chunks of file {}", plan.file),
            Self::Merge(MergeStep::Exchange { seal }) => {
                format!("cannot put merged chunk {} into its file", seal.chunk)
            }
            Self::Merge(MergeStep::GiveUp { chunk }) => format!("cannot give up merged chunk {chunk}"),
            Self::Merge(MergeStep::Settle { file, .. }) => format!("cannot take note that file {file} is merged"),
        }
    }
}

impl ClientCommand {
    /// What the command does, to begin the message of an error with.
    #[must_use]
    pub fn cannot(&self) -> String {
        match self {
            Self::Mkdir { path, .. } => format!("cannot make directory {path}"),
            Self::OpenUpload { path, .. } => format!("cannot upload to {path}"),
            Self::GrantChunks { upload, .. } => format!("cannot grant chunks to upload {upload}"),
            Self::SealChunks { upload, .. } => format!("cannot record chunks of upload {upload}"),
            Self::Commit { upload, .. } => format!("cannot commit upload {upload}"),
            Self::AbortUpload { upload, .. } => format!("cannot give up upload {upload}"),
            Self::Renew { .. } => "cannot renew uploads".to_owned(),
            Self::Rename { from, to, .. } => format!("cannot rename {from} to {to}"),
            Self::Remove { path, .. } => format!("cannot remove {path}"),
            Self::ReportDamage { chunk, .. } => format!("cannot report damage of chunk {chunk}"),
            Self::CreateFile { path, .. } => format!("cannot create {path}"),
            Self::OpenStock { .. } => "cannot grant chunks for small files".to_owned(),
            Self::PutFile { path, .. } => format!("cannot write {path}"),
            Self::MoveToTrash { path, .. } => format!("cannot remove {path}"),
            Self::Restore { what, .. } => format!("cannot restore {what}"),
            Self::EmptyTrash { .. } => "cannot empty the trash".to_owned(),
            Self::SetAttributes { path, .. } => format!("cannot change {path}"),
            Self::Copy(copy) => match copy.sources.as_slice() {
                [source] => format!("cannot copy {source} to {}", copy.to),
                _ => format!("cannot make {} of other files", copy.to),
            },
            Self::CopyExtents { upload, source, .. } => format!("cannot copy {source} to upload {upload}"),
            Self::ResumeUpload { path, .. } => format!("cannot upload to {path}"),
            Self::ChangeAttributes { path, .. } => format!("cannot change {path}"),
            Self::ChangeFile(FileChange { file, .. }) => format!("cannot change file {file}"),
            Self::SetCondition { server, change } => match change {
                ConditionChange::Serve => format!("cannot put c{server} back into service"),
                ConditionChange::Drain => format!("cannot drain c{server}"),
                ConditionChange::Maintain { .. } => format!("cannot begin maintenance of c{server}"),
                ConditionChange::Remove => format!("cannot remove c{server}"),
            },
            Self::SetBalance { runs: true } => "cannot start balance".to_owned(),
            Self::SetBalance { runs: false } => "cannot stop balance".to_owned(),
            Self::CreateSnapshot { path, name } => format!("cannot make the snapshot {path}@{name}"),
            Self::RemoveSnapshot { path, name } => format!("cannot remove the snapshot {path}@{name}"),
            Self::OpenSized { path, .. } | Self::ResumeSized { path, .. } => format!("cannot upload to {path}"),
            Self::SetQuota { path, .. } => format!("cannot change the quota of {path}"),
            Self::CopyTree(TreeCopy::Begin { source, to, .. }) => format!("cannot copy {source} to {to}"),
            Self::CopyTree(TreeCopy::GoOn { copy, .. }) => format!("cannot go on with copy {copy}"),
            Self::Link(LinkChange::Make { path, .. }) => format!("cannot make the link {path}"),
            Self::Link(LinkChange::Tell { path, .. }) => format!("cannot change {path}"),
        }
    }

    /// The paths it changes something at, as opposed to those it reads.
    #[must_use]
    pub fn written(&self) -> Vec<&FsPath> {
        match self {
            Self::Mkdir { path, .. }
            | Self::OpenUpload { path, .. }
            | Self::Remove { path, .. }
            | Self::CreateFile { path, .. }
            | Self::PutFile { path, .. }
            | Self::MoveToTrash { path, .. }
            | Self::SetAttributes { path, .. }
            | Self::ResumeUpload { path, .. }
            | Self::ChangeAttributes { path, .. }
            | Self::CreateSnapshot { path, .. }
            | Self::RemoveSnapshot { path, .. }
            | Self::OpenSized { path, .. }
            | Self::ResumeSized { path, .. }
            | Self::SetQuota { path, .. }
            | Self::Link(LinkChange::Make { path, .. } | LinkChange::Tell { path, .. }) => vec![path],
            Self::Rename { from, to, .. } => vec![from, to],
            Self::Restore { to, .. } => to.iter().collect(),
            Self::Copy(copy) => vec![&copy.to],
            Self::CopyTree(TreeCopy::Begin { to, .. }) => vec![to],
            Self::GrantChunks { .. }
            | Self::SealChunks { .. }
            | Self::Commit { .. }
            | Self::AbortUpload { .. }
            | Self::Renew { .. }
            | Self::ReportDamage { .. }
            | Self::OpenStock { .. }
            | Self::EmptyTrash { .. }
            | Self::CopyExtents { .. }
            | Self::ChangeFile(_)
            | Self::SetCondition { .. }
            | Self::SetBalance { .. }
            | Self::CopyTree(TreeCopy::GoOn { .. }) => Vec::new(),
        }
    }
}

/// Why bytes are not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No bytes.
    #[error("the command is empty")]
    Empty,
    /// Written by another version.
    #[error("command version {version} is not known; this program writes {COMMAND_VERSION}")]
    Version {
        /// Its version byte.
        version: u8,
    },
    /// Not a command.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
