//! How far an inode of the trash is taken apart, while that takes more than one step: the next step begins there. A
//! store keeps removed rows for a while, and stepping over a million of them takes a second.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`TakenApart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenApartKey(pub Ino);

impl Key for TakenApartKey {
    const KIND: Kind = Kind::TakenApart;
    type Value = TakenApart;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenApart {
    /// Key of its last entry or extent that is gone: none lies before.
    pub last: Vec<u8>,
}

impl Value for TakenApart {}
