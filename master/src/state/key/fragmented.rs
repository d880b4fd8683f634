//! Files that may lie in small chunks: their last changes put small ones into them.

use gabion_protocol::ids::{Ino, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Fragmented`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FragmentedKey(pub Ino);

impl Key for FragmentedKey {
    const KIND: Kind = Kind::Fragmented;
    type Value = Fragmented;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// A file that may lie in small chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragmented {
    /// When the last small chunk came, in state time.
    pub changed: StateTime,
}

impl Value for Fragmented {}
