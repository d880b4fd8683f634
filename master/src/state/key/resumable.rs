//! Uploads that can be resumed, by the path they go to: who begins one looks here for the one he left.

use gabion_protocol::ids::Ino;
use gabion_protocol::keys::Identity;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Resumable`]: the path, a zero byte (no path holds one), and the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumableKey {
    /// Where the file shall appear.
    pub path: String,
    /// The upload.
    pub upload: Ino,
}

impl ResumableKey {
    /// Where the keys of a path begin.
    #[must_use]
    pub fn prefix(path: &str) -> Vec<u8> {
        let mut prefix = vec![Kind::Resumable as u8];
        prefix.extend(path.as_bytes());
        prefix.push(0);
        prefix
    }
}

impl Key for ResumableKey {
    const KIND: Kind = Kind::Resumable;
    type Value = Resumable;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.path.as_bytes());
        out.push(0);
        out.extend(self.upload.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (path, upload) = fields.rest().split_last_chunk::<8>()?;
        let (zero, path) = path.split_last()?;
        if *zero != 0 || path.contains(&0) {
            return None;
        }
        Some(Self {
            path: String::from_utf8(path.to_vec()).ok()?,
            upload: Ino(u64::from_be_bytes(*upload)),
        })
    }
}

/// Who may resume an upload, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    /// Who began it: the identity of his key.
    pub owner: Identity,
    /// Milliseconds of state time it is kept after its lease has ended.
    pub keep_ms: u64,
}

impl Value for Resumable {}
