//! Owner, group and extended attributes: in rows of their own, because few files have them and every listing reads
//! inodes.

use std::collections::BTreeMap;

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

/// Key of an [`Attributes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributesKey(pub Ino);

impl Key for AttributesKey {
    const KIND: Kind = Kind::Attributes;
    type Value = Attributes;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// What is told of an inode. There is no row if all of it is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Its owner; empty if nobody said.
    pub owner: String,
    /// Its group; empty if nobody said.
    pub group: String,
    /// Extended attributes by name.
    pub extended: BTreeMap<String, Vec<u8>>,
    /// Since when.
    pub since: Moment,
}

impl Attributes {
    /// Bytes that count against [`gabion_protocol::limits::ATTRIBUTES_BYTES_MAX`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |(name, value): (&String, &Vec<u8>)| name.len() + value.len();
        self.extended.iter().map(of).sum()
    }

    /// Whether nothing is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty() && self.group.is_empty() && self.extended.is_empty()
    }
}

impl Value for Attributes {}
