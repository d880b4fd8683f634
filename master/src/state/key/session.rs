//! Sessions: clients' identities for exactly-once.

use gabion_protocol::ids::{SessionId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Session`], the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(pub SessionId);

impl Key for SessionKey {
    const KIND: Kind = Kind::Session;
    type Value = Session;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        read_session(fields).map(Self)
    }
}

/// The next session id.
pub(super) fn read_session(fields: &mut Fields<'_>) -> Option<SessionId> {
    Some(SessionId {
        opened: StateTime(fields.u64()?),
        random: fields.u64()?,
    })
}

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// When it ends unless it is heard of.
    pub expires: StateTime,
    /// Every sequence below has reached the client; its reply is forgotten.
    pub answered_below: u64,
}

impl Value for Session {}
