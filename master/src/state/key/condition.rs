//! Chunkservers that do not just serve: drained, left alone for a while, removed. A server in service has no row.

use gabion_protocol::ids::{ChunkId, ServerId, StateTime};
use gabion_protocol::messages::master;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionKey(pub ServerId);

impl Key for ConditionKey {
    const KIND: Kind = Kind::Condition;
    type Value = Condition;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u32().map(|id| Self(ServerId(id)))
    }
}

/// What a chunkserver is there for, if not to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Its copies are made anew elsewhere, then dropped.
    Draining,
    /// Its copies count although it is silent.
    Maintenance {
        /// Until then.
        until: StateTime,
    },
    /// It never comes back; its rows go step by step.
    Removing {
        /// The last chunk the walk over its copies looked at; `None` before and after a walk.
        after: Option<ChunkId>,
    },
}

impl Value for Condition {}

impl From<Condition> for master::Condition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Draining => Self::Draining,
            Condition::Maintenance { until } => Self::Maintenance { until },
            Condition::Removing { .. } => Self::Removing,
        }
    }
}
