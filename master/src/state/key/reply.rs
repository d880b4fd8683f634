//! Stored answers: a bounded window of slots per session.

use gabion_protocol::ids::SessionId;
use gabion_protocol::limits::REPLY_SLOTS;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value, session};
use crate::state::reply::Reply;

/// Key of an [`Answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyKey {
    /// The session.
    pub session: SessionId,
    /// Sequence modulo [`REPLY_SLOTS`].
    pub slot: u8,
}

impl ReplyKey {
    /// The slot of a command.
    #[must_use]
    pub fn of(session: SessionId, sequence: u64) -> Self {
        Self {
            session,
            slot: (sequence % REPLY_SLOTS) as u8,
        }
    }

    /// What all keys of a session begin with.
    #[must_use]
    pub fn prefix(session: SessionId) -> Vec<u8> {
        let mut prefix = vec![Kind::Reply as u8];
        prefix.extend(session.to_bytes());
        prefix
    }
}

impl Key for ReplyKey {
    const KIND: Kind = Kind::Reply;
    type Value = Answered;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.session.to_bytes());
        out.push(self.slot);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let session = session::read_session(fields)?;
        let [slot] = fields.take()?;
        Some(Self { session, slot })
    }
}

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The command's sequence.
    pub sequence: u64,
    /// Its answer.
    pub reply: Reply,
}

impl Value for Answered {}
