//! Chunkservers by name.

use gabion_protocol::ids::ServerId;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Named`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNameKey(pub String);

impl Key for ServerNameKey {
    const KIND: Kind = Kind::ServerName;
    type Value = Named;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.as_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        String::from_utf8(fields.rest().to_vec()).ok().map(Self)
    }
}

/// Which number a name has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The server.
    pub server: ServerId,
}

impl Value for Named {}
