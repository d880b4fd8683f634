//! What a directory holds in all, so that `du` and quotas need no walk.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value, versioned};

/// Key of a [`Total`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalKey(pub Ino);

impl Key for TotalKey {
    const KIND: Kind = Kind::Total;
    type Value = Total;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// Everything below a directory, itself not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Total {
    /// Files, and symbolic links.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files, and of the links' targets.
    pub bytes: u64,
    /// Bytes reserved against quotas by writes under way; 0 as long as there are no quotas.
    pub reserved: u64,
    /// At least the names of the deepest path below. Grows only, until the directory is empty.
    pub deepest: u16,
    /// At least the bytes of the longest path below, each name with its slash. Grows only, as `deepest` does.
    pub longest: u16,
    /// Since when, if there were snapshots when it was written.
    pub since: Moment,
    /// Files and directories reserved against quotas.
    pub reserved_entries: u64,
}

/// The value without reserved entries, as all are written where nothing is being written below a quota.
#[derive(Serialize, Deserialize)]
struct Second {
    files: u64,
    directories: u64,
    bytes: u64,
    reserved: u64,
    deepest: u16,
    longest: u16,
    since: Moment,
}

/// The value without a `since`, as all are written while there are no snapshots.
#[derive(Serialize, Deserialize)]
struct First {
    files: u64,
    directories: u64,
    bytes: u64,
    reserved: u64,
    deepest: u16,
    longest: u16,
}

impl Value for Total {
    const VERSION: u8 = 3;

    fn encode(&self) -> Vec<u8> {
        if self.reserved_entries != 0 {
            return versioned(Self::VERSION, self);
        }
        if self.since != Moment::default() {
            let second = Second {
                files: self.files,
                directories: self.directories,
                bytes: self.bytes,
                reserved: self.reserved,
                deepest: self.deepest,
                longest: self.longest,
                since: self.since,
            };
            return versioned(2, &second);
        }
        let first = First {
            files: self.files,
            directories: self.directories,
            bytes: self.bytes,
            reserved: self.reserved,
            deepest: self.deepest,
            longest: self.longest,
        };
        versioned(1, &first)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let decoded = |error: gabion_protocol::messages::DecodeError| error.to_string();
        match bytes.split_first() {
            Some((3, rest)) => gabion_protocol::messages::decode(rest).map_err(decoded),
            Some((2, rest)) => {
                let second: Second = gabion_protocol::messages::decode(rest).map_err(decoded)?;
                Ok(Self {
                    files: second.files,
                    directories: second.directories,
                    bytes: second.bytes,
                    reserved: second.reserved,
                    deepest: second.deepest,
                    longest: second.longest,
                    since: second.since,
                    reserved_entries: 0,
                })
            }
            Some((1, rest)) => {
                let first: First = gabion_protocol::messages::decode(rest).map_err(decoded)?;
                Ok(Self {
                    files: first.files,
                    directories: first.directories,
                    bytes: first.bytes,
                    reserved: first.reserved,
                    deepest: first.deepest,
                    longest: first.longest,
                    since: Moment::default(),
                    reserved_entries: 0,
                })
            }
            Some((version, _)) => Err(format!("version {version} is not known")),
            None => Err("it is empty".to_owned()),
        }
    }
}
