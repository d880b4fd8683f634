//! Refusals: the rule that forbade a command, its error code, and what a person may do next **[format]**.
//!
//! A refusal is stored as part of a reply. It holds facts; its text is made when it leaves the master.

mod advice;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, Generation, Ino, ServerId, StateTime, UploadGeneration};
use gabion_protocol::limits;
use gabion_protocol::messages::master::TrashRef;
use gabion_protocol::path::FsPath;
use serde::{Deserialize, Serialize};

/// Why a command was refused. A refused command changed nothing. The order is the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The cluster has not been initialised yet.
    #[error("the cluster is not initialised yet")]
    NotReady,
    /// The command does not decode.
    #[error("the command does not decode")]
    Malformed,
    /// The cluster's level is too low for the command.
    #[error("it needs feature level {needs}, the cluster is at {level}")]
    Level {
        /// The level it needs.
        needs: u32,
        /// The cluster's level.
        level: u32,
    },
    /// The session is unknown, and too old to tell whether the command ran.
    #[error("its session has expired, so that it cannot be told whether it ran")]
    SessionExpired,
    /// The client has said that it knows the answer to this sequence.
    #[error("the client has said that it knows the answer")]
    AnsweredBefore,
    /// The sequence is beyond the session's window.
    #[error("more than {slots} commands are in flight from sequence {answered_below} on", slots = limits::REPLY_SLOTS)]
    WindowExceeded {
        /// The first sequence not known to be answered.
        answered_below: u64,
    },
    /// There is nothing.
    #[error("{path} does not exist")]
    NotFound {
        /// Where.
        path: FsPath,
    },
    /// There is something.
    #[error("{path} exists")]
    Exists {
        /// Where.
        path: FsPath,
    },
    /// There is a directory.
    #[error("{path} is a directory")]
    IsDirectory {
        /// Where.
        path: FsPath,
    },
    /// There is a file.
    #[error("{path} is not a directory")]
    NotDirectory {
        /// Where.
        path: FsPath,
    },
    /// There is a directory that holds entries.
    #[error("{path} is not empty")]
    NotEmpty {
        /// Where.
        path: FsPath,
    },
    /// The root directory stays.
    #[error("the root directory stays where it is")]
    Root,
    /// A directory cannot go into itself.
    #[error("a directory cannot be moved or copied into itself")]
    IntoItself,
    /// Paths below would break the limits.
    #[error(
        "paths below it would have more than {} names or {} bytes",
        limits::DEPTH_MAX,
        limits::PATH_BYTES_MAX
    )]
    PathsTooLong,
    /// The number of copies is out of range.
    #[error("{asked} copies asked, 1 to {} are possible", limits::REPLICAS_MAX)]
    Replicas {
        /// What was asked.
        asked: u8,
    },
    /// The chunk size is out of range.
    #[error(
        "chunks of {asked} bytes asked, multiples of {} from {} to {} are possible",
        limits::BLOCK_BYTES,
        limits::CHUNK_BYTES_MIN,
        limits::CHUNK_BYTES_MAX
    )]
    ChunkBytes {
        /// What was asked.
        asked: u64,
    },
    /// A list in the command is too long.
    #[error("it names {asked} items, at most {limit} are possible")]
    TooMany {
        /// Its length.
        asked: u64,
        /// The limit.
        limit: u64,
    },
    /// The leader found too few servers for a chunk.
    #[error("{usable} chunkservers can take a copy, {needed} are needed")]
    TooFewServers {
        /// Servers named that can take a copy.
        usable: u8,
        /// Servers the promise needs.
        needed: u8,
    },
    /// The upload has expired, was given up, or never was.
    #[error("upload {upload} has expired, was given up, or never was")]
    UploadGone {
        /// The upload.
        upload: Ino,
    },
    /// The upload has been committed.
    #[error("upload {upload} is committed")]
    UploadCommitted {
        /// The file it is now.
        upload: Ino,
    },
    /// The upload belongs to another.
    #[error("upload {upload} belongs to another owner, of generation {generation}")]
    UploadFenced {
        /// The upload.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
    },
    /// The chunk is not one granted to the upload and still open.
    #[error("chunk {chunk} is not an open chunk of this upload")]
    ChunkNotOpen {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The chunk has another generation.
    #[error("chunk {chunk} is at generation {generation}")]
    ChunkFenced {
        /// The chunk.
        chunk: ChunkId,
        /// Its generation.
        generation: Generation,
    },
    /// The seal leaves a gap or overlaps.
    #[error("chunk {chunk} would begin at {offset}, the file ends at {expected}")]
    SealOutOfOrder {
        /// The chunk.
        chunk: ChunkId,
        /// Where it would begin.
        offset: u64,
        /// Where the file ends.
        expected: u64,
    },
    /// The sealed length is zero or above the file's chunk size.
    #[error("chunk {chunk} cannot have {length} bytes")]
    SealLength {
        /// The chunk.
        chunk: ChunkId,
        /// Its length.
        length: u64,
    },
    /// The seal names a server twice, or one that is not in the chunk's set.
    #[error("c{server} is named twice for chunk {chunk}, or was not granted it")]
    SealMember {
        /// The chunk.
        chunk: ChunkId,
        /// The server.
        server: ServerId,
    },
    /// Fewer servers hold the chunk than the promise needs.
    #[error("{members} chunkservers hold chunk {chunk}, {needed} are needed")]
    TooFewMembers {
        /// The chunk.
        chunk: ChunkId,
        /// Servers that hold it.
        members: u8,
        /// Servers the promise needs.
        needed: u8,
    },
    /// The file would be too long.
    #[error("a file has at most {} bytes", limits::FILE_BYTES_MAX)]
    FileTooLong,
    /// The file's chunks have another length than the commit says.
    #[error("its chunks have {recorded} bytes, the writer says {told}")]
    Length {
        /// What it says.
        told: u64,
        /// What they have.
        recorded: u64,
    },
    /// The file's chunks have another CRC than the commit says.
    #[error("its chunks have CRC {recorded:08x}, the writer says {told:08x}")]
    Crc {
        /// What it says.
        told: u32,
        /// What they have.
        recorded: u32,
    },
    /// Another cluster has been initialised here.
    #[error("another cluster lives here")]
    Bootstrapped,
    /// The setting is out of range.
    #[error("a setting is out of range")]
    Settings,
    /// A level never goes down.
    #[error("the cluster is at feature level {level}, and never goes back")]
    LevelDown {
        /// The cluster's level.
        level: u32,
    },
    /// No such chunkserver was ever registered here.
    #[error("these masters never registered a chunkserver c{server}")]
    ServerUnknown {
        /// The server.
        server: ServerId,
    },
    /// The directory belongs to another chunkserver or another life of it.
    #[error("c{server} is another chunkserver, or another life of this one")]
    ServerForeign {
        /// The server.
        server: ServerId,
    },
    /// The directory is an older copy: its boot counter went back.
    #[error("c{server} has started {boot} times already: this directory is an older copy")]
    ServerStale {
        /// The server.
        server: ServerId,
        /// The highest boot counter seen.
        boot: u64,
    },
    /// An empty directory took the server's name over.
    #[error("c{by} took the name of c{server} over with an empty directory")]
    ServerRetired {
        /// The server.
        server: ServerId,
        /// The number its name has now.
        by: ServerId,
    },
    /// A name, rack or address of a chunkserver breaks a rule.
    #[error("name, rack and address have 1 to {} bytes", limits::NAME_BYTES_MAX)]
    ServerName,
    /// A file of a stock's chunk must have the stock's number of copies.
    #[error("the chunk was granted for {granted} copies, not {asked}")]
    StockCopies {
        /// Copies of the stock's chunks.
        granted: u8,
        /// Copies of the file.
        asked: u8,
    },
    /// It was never removed, restored already, or its time is over.
    #[error("it is not in the trash: it was never removed, was restored already, or is gone for good")]
    NotInTrash {
        /// What was asked for.
        what: TrashRef,
    },
    /// The directory it was in is gone.
    #[error("the directory {directory} does not exist")]
    NoPlaceToRestore {
        /// The directory.
        directory: FsPath,
    },
    /// Something else has its name.
    #[error("something else is at {path} now")]
    PlaceTaken {
        /// Where.
        path: FsPath,
    },
    /// Only sealed chunks get or lose single copies.
    #[error("chunk {chunk} is not sealed, or gone")]
    ChunkNotSealed {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The chunk's copies are others than those the plan was made for.
    #[error("the copies of chunk {chunk} are others than those the plan was made for")]
    CopiesChanged {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The server cannot get a copy.
    #[error(
        "c{server} cannot get a copy of chunk {chunk}: it has one, is named twice, is retired, or is not registered"
    )]
    CopyTarget {
        /// The chunk.
        chunk: ChunkId,
        /// The server.
        server: ServerId,
    },
    /// Dropping the copy would leave too few good ones.
    #[error("{left} good copies of chunk {chunk} would be left, {needed} are needed")]
    CopiesNeeded {
        /// The chunk.
        chunk: ChunkId,
        /// Live copies nobody calls damaged, without the one to drop.
        left: u8,
        /// How many there must be.
        needed: u8,
    },
    /// What a server made is not the chunk.
    #[error("the copy of chunk {chunk} has another length or CRC than the chunk")]
    CopyDiffers {
        /// The chunk.
        chunk: ChunkId,
    },
    /// More bits than there are permissions.
    #[error("{asked:o} are no permission bits: 0 to 7777 are possible")]
    Mode {
        /// What was asked.
        asked: u32,
    },
    /// The file changed between two steps of its copy.
    #[error("{path} has changed since its copy began")]
    SourceChanged {
        /// Where.
        path: FsPath,
    },
    /// A copy of nothing.
    #[error("no file is named to copy from")]
    NoSource,
    /// One file is made of files with different numbers of copies.
    #[error("{path} has {copies} copies, the others have {others}")]
    CopiesDiffer {
        /// The file.
        path: FsPath,
        /// Its copies.
        copies: u8,
        /// Those of the first file, or of the upload.
        others: u8,
    },
    /// An owner or group is no name.
    #[error("owner and group have at most {} bytes, none of them zero", limits::NAME_BYTES_MAX)]
    OwnerName,
    /// An extended attribute has no proper name.
    #[error(
        "the name of an attribute has 1 to {} bytes, none of them zero",
        limits::NAME_BYTES_MAX
    )]
    AttributeName,
    /// The extended attributes of one file would be too large.
    #[error(
        "its attributes would have {bytes} bytes, names and values together, at most {} are possible",
        limits::ATTRIBUTES_BYTES_MAX
    )]
    AttributesTooLarge {
        /// Their bytes.
        bytes: u64,
    },
    /// There is no such extended attribute.
    #[error("{path} has no attribute of that name")]
    NoAttribute {
        /// The file.
        path: FsPath,
    },
    /// The file has no name any more.
    #[error("file {file} was removed or replaced meanwhile")]
    FileGone {
        /// The file.
        file: Ino,
    },
    /// The range is in more pieces than one step may touch.
    #[error("the range holds more than {limit} pieces, too many for one step")]
    TooManyPieces {
        /// The limit.
        limit: u64,
    },
    /// Someone else may write, and nobody besides.
    #[error("{holder} has the file open as its only writer, until state time {until} unless that is renewed")]
    Leased {
        /// Who.
        holder: String,
        /// Until when.
        until: StateTime,
    },
    /// The writer was the only one, and is not any more.
    #[error("the write lease was lost: it was not renewed in time{}", by(.holder))]
    LeaseLost {
        /// Who holds the file's lease now.
        holder: Option<String>,
    },
    /// No such time for a lease.
    #[error(
        "a write lease of {asked} ms asked, 1 to {} are possible",
        limits::WRITE_LEASE_MS_MAX
    )]
    LeaseTime {
        /// What was asked.
        asked: u64,
    },
    /// The operator has removed the server for ever.
    #[error("c{server} was removed from the cluster, and its number is never used again")]
    ServerRemoved {
        /// The server.
        server: ServerId,
    },
    /// A maintenance of no time, or of too long a time.
    #[error("maintenance lasts from 1 to {} ms, not {asked}", limits::MAINTENANCE_MS_MAX)]
    MaintenanceTime {
        /// What was asked, milliseconds.
        asked: u64,
    },
    /// An operator has stopped balance.
    #[error("an operator has stopped balance: no copies are moved")]
    BalanceStopped,
    /// Snapshots do not change.
    #[error("{path} is in a snapshot, which never changes")]
    InSnapshot {
        /// Where.
        path: FsPath,
    },
    /// The directory's snapshots would be out of reach.
    #[error("{path} has snapshots or is being copied, or holds a directory that has or is")]
    HasSnapshots {
        /// Where.
        path: FsPath,
    },
    /// The name breaks a rule.
    #[error(
        "a snapshot's name is one name of a path, without an at sign, and not {}",
        limits::SNAPSHOT_DIRECTORY
    )]
    SnapshotName,
    /// The list of snapshots is full.
    #[error("there are {} snapshots, more are not possible", limits::SNAPSHOTS_MAX)]
    TooManySnapshots,
    /// A directory would hold more than its quota.
    #[error("the quota of {directory} is {limit} {}: {used} are used{}, and {needed} more are needed", what(.is_bytes), under_way(.reserved))]
    QuotaExceeded {
        /// The directory.
        directory: FsPath,
        /// Whether it is about bytes, or about entries.
        is_bytes: bool,
        /// The quota.
        limit: u64,
        /// What is used of it.
        used: u64,
        /// What writes under way have reserved.
        reserved: u64,
        /// What the command needs.
        needed: u64,
    },
    /// A quota without a limit.
    #[error("a quota limits bytes, entries or both")]
    NoLimit,
    /// Following links does not end.
    #[error(
        "{path} leads over more than {} symbolic links, or {} names",
        limits::LINKS_MAX,
        limits::WALK_NAMES_MAX
    )]
    TooManyLinks {
        /// The path that was asked for.
        path: FsPath,
    },
    /// The target of a link breaks a rule.
    #[error(
        "the target of a symbolic link has 1 to {} bytes, none of them zero, and no name of more than {}",
        limits::PATH_BYTES_MAX,
        limits::NAME_BYTES_MAX
    )]
    LinkTarget,
    /// The file has other extents than those that were to be merged.
    #[error("file {file} has other extents by now than those that were to be merged")]
    ExtentsChanged {
        /// The file.
        file: Ino,
    },
}

fn what(is_bytes: &bool) -> &'static str {
    if *is_bytes { "bytes" } else { "files and directories" }
}

fn under_way(reserved: &u64) -> String {
    match reserved {
        0 => String::new(),
        reserved => format!(", {reserved} reserved by writes under way"),
    }
}

fn by(holder: &Option<String>) -> String {
    holder
        .as_ref()
        .map_or_else(String::new, |holder| format!(", and {holder} is the writer now"))
}

impl Refusal {
    /// Whether the reply is not stored: the same command may be tried again and do better. Only refusals of what
    /// the leader chose are, and a late duplicate of those commands can do no harm.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::TooFewServers { .. } | Self::NotReady)
    }

    /// The error as it travels; its message begins with `cannot` ([`super::Command::cannot`]).
    #[must_use]
    pub fn to_wire(&self, cannot: &str) -> WireError {
        let error = WireError::new(self.code(), format!("{cannot}: {self}"));
        match self.help() {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// The code programs branch on.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotReady => ErrorCode::Busy,
            Self::Malformed => ErrorCode::Protocol,
            Self::Level { .. } => ErrorCode::WrongVersion,
            Self::SessionExpired | Self::AnsweredBefore => ErrorCode::OutcomeUnknown,
            Self::WindowExceeded { .. }
            | Self::TooMany { .. }
            | Self::FileTooLong
            | Self::TooManyPieces { .. }
            | Self::AttributesTooLarge { .. }
            | Self::TooManySnapshots
            | Self::TooManyLinks { .. } => ErrorCode::LimitExceeded,
            Self::NotFound { .. }
            | Self::ServerUnknown { .. }
            | Self::NotInTrash { .. }
            | Self::NoPlaceToRestore { .. }
            | Self::NoAttribute { .. }
            | Self::FileGone { .. } => ErrorCode::NotFound,
            Self::Exists { .. } | Self::PlaceTaken { .. } => ErrorCode::Exists,
            Self::IsDirectory { .. } => ErrorCode::IsDirectory,
            Self::NotDirectory { .. } => ErrorCode::NotDirectory,
            Self::NotEmpty { .. } | Self::HasSnapshots { .. } => ErrorCode::NotEmpty,
            Self::PathsTooLong | Self::SnapshotName | Self::LinkTarget => ErrorCode::InvalidPath,
            Self::Root
            | Self::IntoItself
            | Self::Replicas { .. }
            | Self::ChunkBytes { .. }
            | Self::ChunkNotOpen { .. }
            | Self::SealOutOfOrder { .. }
            | Self::SealLength { .. }
            | Self::SealMember { .. }
            | Self::Settings
            | Self::ServerName
            | Self::StockCopies { .. }
            | Self::Mode { .. }
            | Self::MaintenanceTime { .. }
            | Self::NoSource
            | Self::CopiesDiffer { .. }
            | Self::OwnerName
            | Self::AttributeName
            | Self::NoLimit
            | Self::LeaseTime { .. } => ErrorCode::InvalidArgument,
            Self::TooFewServers { .. } | Self::TooFewMembers { .. } => ErrorCode::TooFewServers,
            Self::UploadGone { .. }
            | Self::UploadCommitted { .. }
            | Self::UploadFenced { .. }
            | Self::ChunkFenced { .. }
            | Self::LeaseLost { .. } => ErrorCode::Fenced,
            Self::Length { .. } | Self::Crc { .. } | Self::CopyDiffers { .. } => ErrorCode::ChecksumMismatch,
            Self::InSnapshot { .. } => ErrorCode::ReadOnly,
            Self::QuotaExceeded { .. } => ErrorCode::QuotaExceeded,
            Self::Bootstrapped => ErrorCode::WrongCluster,
            Self::LevelDown { .. }
            | Self::ChunkNotSealed { .. }
            | Self::CopiesChanged { .. }
            | Self::CopyTarget { .. }
            | Self::CopiesNeeded { .. }
            | Self::SourceChanged { .. }
            | Self::BalanceStopped
            | Self::ExtentsChanged { .. }
            | Self::Leased { .. } => ErrorCode::Conflict,
            Self::ServerForeign { .. }
            | Self::ServerStale { .. }
            | Self::ServerRetired { .. }
            | Self::ServerRemoved { .. } => ErrorCode::StaleDirectory,
        }
    }
}
