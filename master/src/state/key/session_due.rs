//! When to look at a session. A row is not moved by each command: when it is due, the session says whether it is.

use gabion_protocol::ids::{SessionId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value, session};

/// Key of a [`Due`], the earliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionDueKey {
    /// When to look.
    pub deadline: StateTime,
    /// At which session.
    pub session: SessionId,
}

impl Key for SessionDueKey {
    const KIND: Kind = Kind::SessionDue;
    type Value = Due;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.deadline.0.to_be_bytes());
        out.extend(self.session.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            deadline: StateTime(fields.u64()?),
            session: session::read_session(fields)?,
        })
    }
}

/// The key says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due;

impl Value for Due {}
