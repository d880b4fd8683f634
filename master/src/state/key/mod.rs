//! The key space **[format]**: one kind per file, each with a stable number.
//!
//! A key is its kind's number, then fixed-width big-endian fields, so that byte order is meaning: all rows of a
//! directory, of a file, of a server lie together and in order. A value is a version byte and a postcard struct; a
//! changed struct is a new version. First bytes below 1 belong to the Raft adaptor.
//!
//! | kind | key | says |
//! |---|---|---|
//! | [`Meta`](meta) | field | cluster, clock, counters, feature level |
//! | [`Inode`](inode) | ino | a file, a directory, a symbolic link, an upload |
//! | [`Dentry`](dentry) | parent, name | what a name leads to |
//! | [`Extent`](extent) | ino, offset | which chunk holds a range of a file |
//! | [`Chunk`](chunk) | chunk | state, checksum, references and **all** replicas of a chunk |
//! | [`Replica`](replica) | server, chunk | index: the copies a server holds or makes |
//! | [`Dropping`](dropping) | server, chunk, replica | index: the copies a server is told to remove |
//! | [`Degraded`](degraded) | live copies, chunk | index: sealed chunks with fewer copies than wanted |
//! | [`Damage`](damage) | chunk, server | reports of a copy that cannot be trusted |
//! | [`Garbage`](garbage) | deadline, chunk | unwanted chunks whose last token has not expired |
//! | [`Server`](server) | server | a registered chunkserver |
//! | [`ServerName`](server_name) | name | which number a chunkserver's name has now |
//! | [`Session`](session) | session | a client's identity for exactly-once |
//! | [`SessionDue`](session_due) | deadline, session | index: when to look at a session |
//! | [`Reply`](reply) | session, slot | the answer to a command of the window |
//! | [`Total`](total) | ino | what a directory holds in all |
//! | [`Trash`](trash) | deadline, ino | unlinked inodes to be taken apart |
//! | [`Kept`](kept) | ino | unlinked inodes that can be restored |
//! | [`KeptPath`](kept_path) | path, removed | index: what was removed from a path |
//! | [`TakenApart`](taken_apart) | ino | how far a large inode is taken apart |
//! | [`UploadLease`](upload_lease) | deadline, ino | index: when to look at an upload |
//! | [`Snapshot`](snapshot) | directory, name | what a directory held at a moment |
//! | [`History`](history) | key, until | old values a snapshot still sees |
//! | [`Unknown`](unknown) | server, chunk, replica | copies a server holds that no row names |
//! | [`Doubt`](doubt) | server | how many those are, and whether that is believed |
//! | [`Copying`](copying) | server, chunk, replica | index: the background copies a server is told to make |
//! | [`WriteLease`](write_lease) | ino | who alone may change a file |
//! | [`Surplus`](surplus) | chunk | index: sealed chunks with more live copies than wanted |
//! | [`Condition`](condition) | server | chunkservers that are drained, left alone for a while, or removed |
//! | [`Move`](moving) | chunk | copies that are to be moved to another server |
//! | [`Attributes`](attributes) | ino | owner, group, extended attributes |
//! | [`Resumable`](resumable) | path, upload | uploads that outlive their client |
//! | [`Quota`](quota) | ino | how much a directory may hold |
//! | [`Reservation`](reservation) | ino | room that an upload holds against quotas |
//! | [`TreeCopy`](tree_copy) | ino | copies of directories under way |
//! | [`Fragmented`](fragmented) | ino | files that may lie in small chunks |
//! | [`Merge`](merge) | chunk | large chunks that are made to take the place of small ones |
//!
//! The chunk row is the one truth about replicas; the indexes by server and by need are written together with
//! it, in one function (`state::chunks`), and compared with it by [`super::check`].

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::rows::{Row, Rows, RowsError};

pub mod attributes;
pub mod chunk;
pub mod condition;
pub mod copying;
pub mod damage;
pub mod degraded;
pub mod dentry;
pub mod doubt;
pub mod dropping;
pub mod extent;
pub mod fragmented;
pub mod garbage;
pub mod history;
pub mod inode;
pub mod kept;
pub mod kept_path;
pub mod merge;
pub mod meta;
pub mod moving;
pub mod quota;
pub mod replica;
pub mod reply;
pub mod reservation;
pub mod resumable;
pub mod server;
pub mod server_name;
pub mod session;
pub mod session_due;
pub mod snapshot;
pub mod surplus;
pub mod taken_apart;
pub mod total;
pub mod trash;
pub mod tree_copy;
pub mod unknown;
pub mod upload_lease;
pub mod write_lease;

/// The number of a kind: a key's first byte. Never changed, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Facts about the cluster.
    Meta = 1,
    /// Files, directories, links, uploads.
    Inode = 2,
    /// Names.
    Dentry = 3,
    /// Ranges of files.
    Extent = 4,
    /// Chunks.
    Chunk = 5,
    /// Copies by server.
    Replica = 6,
    /// Copies to be removed, by server.
    Dropping = 7,
    /// Chunks with too few copies.
    Degraded = 8,
    /// Reported copies.
    Damage = 9,
    /// Chunks waiting for their last token.
    Garbage = 10,
    /// Chunkservers.
    Server = 11,
    /// Chunkservers by name.
    ServerName = 12,
    /// Sessions.
    Session = 13,
    /// Sessions by deadline.
    SessionDue = 14,
    /// Stored answers.
    Reply = 15,
    /// Subtotals of directories.
    Total = 16,
    /// Unlinked inodes.
    Trash = 17,
    /// Uploads by deadline.
    UploadLease = 18,
    /// Old values.
    History = 19,
    /// Background copies to be made, by server.
    Copying = 20,
    /// Chunks with more copies than wanted.
    Surplus = 21,
    /// Copies no row names, by server.
    Unknown = 22,
    /// Servers that have some.
    Doubt = 23,
    /// Removals that can be undone.
    Kept = 24,
    /// The same by path.
    KeptPath = 25,
    /// Inodes half taken apart.
    TakenApart = 26,
    /// Chunkservers that do not just serve.
    Condition = 27,
    /// Copies that are to be moved.
    Move = 28,
    /// Who alone may change a file.
    WriteLease = 29,
    /// Room held by uploads.
    Reservation = 30,
    /// Snapshots.
    Snapshot = 31,
    /// How much directories may hold.
    Quota = 32,
    /// Owners and extended attributes.
    Attributes = 35,
    /// Uploads that can be resumed.
    Resumable = 36,
    /// Copies of directories under way.
    TreeCopy = 37,
    /// Files that may lie in small chunks.
    Fragmented = 38,
    /// Large chunks that are being made of small ones.
    Merge = 39,
}

impl Kind {
    /// Every kind, in the order of numbers.
    pub const ALL: [Self; 37] = [
        Self::Meta,
        Self::Inode,
        Self::Dentry,
        Self::Extent,
        Self::Chunk,
        Self::Replica,
        Self::Dropping,
        Self::Degraded,
        Self::Damage,
        Self::Garbage,
        Self::Server,
        Self::ServerName,
        Self::Session,
        Self::SessionDue,
        Self::Reply,
        Self::Total,
        Self::Trash,
        Self::UploadLease,
        Self::History,
        Self::Copying,
        Self::Surplus,
        Self::Unknown,
        Self::Doubt,
        Self::Kept,
        Self::KeptPath,
        Self::TakenApart,
        Self::Condition,
        Self::Move,
        Self::WriteLease,
        Self::Reservation,
        Self::Snapshot,
        Self::Quota,
        Self::Attributes,
        Self::Resumable,
        Self::TreeCopy,
        Self::Fragmented,
        Self::Merge,
    ];

    /// The kind of a key, by its first byte.
    #[must_use]
    pub fn of(key: &[u8]) -> Option<Self> {
        let number = *key.first()?;
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The log position at which a value became what it is; orders values against snapshots.
///
/// It is the Raft log index plus a base that grows when masters are restored from a backup, so it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// A row's value: a version byte, then postcard.
pub trait Value: Serialize + DeserializeOwned {
    /// The version this program writes.
    const VERSION: u8 = 1;

    /// The value's bytes.
    ///
    /// # Panics
    /// Never: values hold only types postcard can write.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        versioned(Self::VERSION, self)
    }

    /// The value of these bytes.
    ///
    /// # Errors
    /// Says which version or field does not fit.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((version, rest)) if *version == Self::VERSION => {
                gabion_protocol::messages::decode(rest).map_err(|error| error.to_string())
            }
            Some((version, _)) => Err(format!("version {version} is not known")),
            None => Err("it is empty".to_owned()),
        }
    }
}

/// A value that snapshots see: it says since when it stands.
pub trait Versioned: Value {
    /// Since when.
    fn since(&self) -> Moment;

    /// It stands since then.
    fn stand_since(&mut self, since: Moment);
}

macro_rules! versioned_values {
    ($($value:ty),*) => {
        $(impl Versioned for $value {
            fn since(&self) -> Moment {
                self.since
            }

            fn stand_since(&mut self, since: Moment) {
                self.since = since;
            }
        })*
    };
}

versioned_values!(
    inode::Inode,
    dentry::Dentry,
    extent::Extent,
    total::Total,
    attributes::Attributes
);

/// Room for most values and keys without a second allocation.
const VALUE_BYTES: usize = 128;
const KEY_BYTES: usize = 40;

/// A version byte, then `value` in postcard.
pub(super) fn versioned<T: Serialize + ?Sized>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VALUE_BYTES);
    bytes.push(version);
    gabion_protocol::messages::encode_onto(bytes, value)
}

/// A row's key.
pub trait Key: Sized {
    /// Its kind.
    const KIND: Kind;
    /// What it leads to.
    type Value: Value;

    /// Appends the fields after the kind.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the fields after the kind.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// The key's bytes.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(KEY_BYTES);
        out.push(Self::KIND as u8);
        self.write(&mut out);
        out
    }

    /// The key of these bytes, if they are exactly one of this kind.
    #[must_use]
    fn decode(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        if *kind != Self::KIND as u8 {
            return None;
        }
        let mut fields = Fields(rest);
        let decoded = Self::read(&mut fields)?;
        fields.0.is_empty().then_some(decoded)
    }
}

/// The fields of a key not read yet.
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next number.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The next number.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// The first key after all keys that begin with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Only a prefix of 0xff bytes gets here, and no kind has that number.
    vec![u8::MAX; prefix.len() + 1]
}

/// The typed value under `key`.
///
/// # Errors
/// [`RowsError`] if the store fails or the row does not decode.
pub fn get<K: Key>(rows: &dyn Rows, key: &K) -> Result<Option<K::Value>, RowsError> {
    let bytes = key.encode();
    match rows.get(&bytes)? {
        Some(value) => K::Value::decode(&value).map(Some).map_err(|why| corrupt(&bytes, why)),
        None => Ok(None),
    }
}

/// The typed value under `key`, which other rows say is there.
///
/// # Errors
/// [`RowsError`] if the store fails, or the row is missing or does not decode.
pub fn require<K: Key>(rows: &dyn Rows, key: &K) -> Result<K::Value, RowsError> {
    get(rows, key)?.ok_or_else(|| corrupt(&key.encode(), "it is missing"))
}

/// At most `limit` typed rows with `from <= key < to`.
///
/// # Errors
/// [`RowsError`] if the store fails or a row does not decode.
pub fn scan<K: Key>(rows: &dyn Rows, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(K, K::Value)>, RowsError> {
    rows.scan(from, to, limit)?.into_iter().map(typed).collect()
}

/// At most `limit` typed rows whose key begins with `prefix`.
///
/// # Errors
/// [`RowsError`] if the store fails or a row does not decode.
pub fn scan_prefix<K: Key>(rows: &dyn Rows, prefix: &[u8], limit: usize) -> Result<Vec<(K, K::Value)>, RowsError> {
    scan(rows, prefix, &prefix_end(prefix), limit)
}

fn typed<K: Key>((key, value): Row) -> Result<(K, K::Value), RowsError> {
    let decoded = decode(&key)?;
    let value = K::Value::decode(&value).map_err(|why| corrupt(&key, why))?;
    Ok((decoded, value))
}

/// The typed key of these bytes.
pub(super) fn decode<K: Key>(key: &[u8]) -> Result<K, RowsError> {
    K::decode(key).ok_or_else(|| corrupt(key, "its key is malformed"))
}

/// A broken row, by its key.
pub(super) fn corrupt(key: &[u8], why: impl Into<String>) -> RowsError {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    RowsError::Corrupt {
        key: text,
        why: why.into(),
    }
}

#[cfg(test)]
mod tests;
