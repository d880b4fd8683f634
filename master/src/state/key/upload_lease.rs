//! When to look at an upload. A row is not moved by each renewal: when it is due, the upload says whether it is.

use gabion_protocol::ids::{Ino, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`LeaseDue`], the earliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLeaseKey {
    /// When to look.
    pub deadline: StateTime,
    /// At which upload.
    pub ino: Ino,
}

impl Key for UploadLeaseKey {
    const KIND: Kind = Kind::UploadLease;
    type Value = LeaseDue;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.deadline.0.to_be_bytes());
        out.extend(self.ino.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            deadline: StateTime(fields.u64()?),
            ino: Ino(fields.u64()?),
        })
    }
}

/// The key says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDue;

impl Value for LeaseDue {}
