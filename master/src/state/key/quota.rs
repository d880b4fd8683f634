//! Quotas: how much a directory may hold.

use gabion_protocol::ids::Ino;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Quota`]: its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaKey(pub Ino);

impl Key for QuotaKey {
    const KIND: Kind = Kind::Quota;
    type Value = Quota;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// How much a directory may hold with all below it, itself not counted. One of the limits is there at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes of the files.
    pub bytes: Option<u64>,
    /// Files and directories.
    pub entries: Option<u64>,
}

impl Value for Quota {}
