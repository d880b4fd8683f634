//! Inodes: files, directories, symbolic links and uploads.

use gabion_protocol::ids::{ChunkId, Ino, SessionId, StateTime, UploadGeneration};
use gabion_protocol::path::FsPath;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of an [`Inode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeKey(pub Ino);

impl Key for InodeKey {
    const KIND: Kind = Kind::Inode;
    type Value = Inode;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: u32,
    /// Milliseconds since 1970: of a file's content, of a directory's or link's making.
    pub modified_ms: i64,
    /// Where it hangs.
    pub parent: Parent,
    /// Since when this value stands.
    pub since: Moment,
    /// Counts the changes of a file's content after its upload (append, overwrite).
    pub generation: u32,
}

/// Where an inode hangs, and since when: with history, the tree as of any snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The directory; [`Parent::NOWHERE`] for uploads and unlinked inodes, itself for the root.
    pub ino: Ino,
    /// The name in it; the last one for unlinked inodes.
    pub name: String,
    /// Since when.
    pub since: Moment,
}

impl Parent {
    /// No directory: the inode has no name.
    pub const NOWHERE: Ino = Ino(0);

    /// No name since then.
    #[must_use]
    pub fn nowhere(since: Moment) -> Self {
        Self {
            ino: Self::NOWHERE,
            name: String::new(),
            since,
        }
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A directory.
    Directory,
    /// A file.
    File(Content),
    /// A file that has no name yet.
    Upload(Upload),
    /// A symbolic link.
    Link {
        /// The path it stands for, as its maker wrote it.
        target: String,
    },
}

/// A file's content, as far as the inode says it; the rest is in extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Bytes.
    pub length: u64,
    /// CRC of all bytes; `None` when an overwrite made it unknown.
    pub crc: Option<u32>,
    /// Copies wanted.
    pub replicas: u8,
    /// Bytes of a chunk, at most.
    pub chunk_bytes: u64,
    /// Extent rows.
    pub extents: u64,
    /// Chunks written by it that have fewer copies than wanted.
    pub degraded: u64,
}

/// An upload on its way. Its content grows seal by seal, in file order.
///
/// An upload to the root is a *stock*: its chunks are for small files that nobody has named yet, and each belongs to
/// an inode of its own. One with chunks of no size keeps the lease of a directory's copy, and never has any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What is recorded so far.
    pub content: Content,
    /// Where the file shall appear.
    pub path: FsPath,
    /// Whether it may replace a file.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Modification time to show; the commit's if `None`.
    pub modified_ms: Option<i64>,
    /// Counts its owners.
    pub generation: UploadGeneration,
    /// Its owner.
    pub session: SessionId,
    /// When it ends unless its owner is heard of.
    pub lease: StateTime,
    /// Chunks granted, neither recorded nor given up; at most [`super::super::OPEN_CHUNKS_MAX`].
    pub open: Vec<ChunkId>,
}

impl Upload {
    /// Whether it is a stock: no file can appear where the root is.
    #[must_use]
    pub fn is_stock(&self) -> bool {
        self.path.is_root()
    }

    /// Whether it stands for the copy of a directory: a file has chunks of some size.
    #[must_use]
    pub fn is_tree_copy(&self) -> bool {
        self.content.chunk_bytes == 0
    }
}

impl Inode {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory)
    }
}

impl Value for Inode {}
