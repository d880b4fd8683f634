//! Registered chunkservers. Liveness and load are not here: they are soft state.

use gabion_protocol::ids::{Incarnation, ServerId};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerKey(pub ServerId);

impl Key for ServerKey {
    const KIND: Kind = Kind::Server;
    type Value = Server;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u32().map(|id| Self(ServerId(id)))
    }
}

/// A chunkserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The name in its key file.
    pub name: String,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// Highest count of its starts.
    pub boot: u64,
    /// Where it listens, `host:port`.
    pub address: String,
    /// Servers of one rack fail together.
    pub rack: String,
    /// Whether an empty directory took its name over: it gets no more data.
    pub retired: bool,
}

impl Value for Server {}
