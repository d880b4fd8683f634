//! Write leases: who alone may change a file, and until when.

use gabion_protocol::ids::{Ino, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`WriteLease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteLeaseKey(pub Ino);

impl Key for WriteLeaseKey {
    const KIND: Kind = Kind::WriteLease;
    type Value = WriteLease;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteLease {
    /// Its number: the log position of the command that took it.
    pub number: u64,
    /// When it ends.
    pub until: StateTime,
    /// Who holds it, as it calls itself.
    pub holder: String,
}

impl Value for WriteLease {}
