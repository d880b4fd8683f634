//! What an operator wants of a chunkserver: to serve, to be left alone for a while, to be emptied, to be gone.

use serde::{Deserialize, Serialize};

use super::{Health, ServerInfo};
use crate::error::{Action, ErrorCode, WireError};
use crate::ids::{ChunkId, ServerId, StateTime};
use crate::limits::PLAN_EXAMPLES_MAX;

/// What a chunkserver is there for now. Logged: it does not change with its beats, nor with who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Condition {
    /// It serves, and gets new copies.
    #[default]
    InService,
    /// It gets no new copies; those it has are made anew elsewhere, then dropped.
    Draining,
    /// It gets no new copies, and until then those it has count although it is silent.
    Maintenance {
        /// The end.
        until: StateTime,
    },
    /// It may not come back; the rows of its copies go as others hold enough of each.
    Removing,
}

/// How an operator changes a [`Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionChange {
    /// Back to service, out of any other condition.
    Serve,
    /// Begins to drain.
    Drain,
    /// Begins maintenance, or gives it another end.
    Maintain {
        /// From now on, milliseconds of state time, at most [`crate::limits::MAINTENANCE_MS_MAX`].
        for_ms: u64,
    },
    /// Removes it for ever.
    Remove,
}

/// A chunkserver and its condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// As `Status` has it.
    pub info: ServerInfo,
    /// What it is there for.
    pub condition: Condition,
    /// Whether an empty directory took its name over.
    pub retired: bool,
}

/// What a chunkserver holds, and what would become of it without that server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// The server.
    pub server: ServerState,
    /// Sealed chunks it has a good copy of.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies on their way or to be removed: of uploads, of repair, of chunks nobody wants any more.
    pub unsettled: u64,
    /// Of `chunks`, those with fewer good copies on other servers in service than wanted.
    pub needed: u64,
    /// Some of them.
    pub needed_ids: Vec<ChunkId>,
    /// Of `chunks`, those with no other copy that can be read.
    pub last: u64,
    /// Some of them.
    pub last_ids: Vec<ChunkId>,
    /// The most copies one of its chunks wants.
    pub wanted_max: u8,
    /// The largest chunk.
    pub chunk_bytes_max: u64,
    /// Other servers that take copies now.
    pub others: Vec<ServerId>,
    /// Racks these stand in.
    pub racks: u64,
    /// Bytes free on these.
    pub bytes_free: u64,
    /// State time.
    pub now: StateTime,
}

impl ServerPlan {
    /// Whether the change costs no copy that is needed. The leader asks this before it logs the change, and whoever
    /// shows the plan to a person.
    ///
    /// # Errors
    /// What stands against it, and what to do about that.
    pub fn allows(&self, change: ConditionChange, force: bool) -> Result<(), WireError> {
        let ServerState {
            info,
            condition,
            retired,
        } = &self.server;
        let name = format!("c{} ({})", info.server, info.name);
        let refuse = |code, message: String, help| Err(WireError::new(code, message).action(Action::GiveUp).help(help));
        match (change, condition) {
            (ConditionChange::Serve, _)
            | (ConditionChange::Drain, Condition::Draining)
            | (ConditionChange::Maintain { .. }, Condition::Maintenance { .. })
            | (ConditionChange::Remove, Condition::Removing) => Ok(()),
            (ConditionChange::Drain, _) if force => Ok(()),
            (ConditionChange::Drain, _) if self.others.len() < usize::from(self.wanted_max) => {
                let (others, wanted) = (self.others.len(), self.wanted_max);
                let message = format!(
                    "cannot drain {name}: {others} other servers are in service, and some of its chunks want {wanted} copies"
                );
                refuse(
                    ErrorCode::TooFewServers,
                    message,
                    "add a chunkserver first; with --force it holds its copies until there is one",
                )
            }
            (ConditionChange::Drain, _) if self.bytes > self.bytes_free => {
                let (bytes, free) = (self.bytes, self.bytes_free);
                let message = format!("cannot drain {name}: it holds {bytes} bytes, the others have room for {free}");
                refuse(
                    ErrorCode::NoSpace,
                    message,
                    "add a chunkserver or remove files first; --force moves what fits",
                )
            }
            (ConditionChange::Drain, _) => Ok(()),
            (ConditionChange::Maintain { .. }, _) if self.last > 0 && !force => {
                let message = format!(
                    "cannot begin maintenance of {name}: {} of its chunks have no other copy that can be read{}",
                    self.last,
                    examples(&self.last_ids)
                );
                refuse(
                    ErrorCode::Conflict,
                    message,
                    "wait until they have other copies, or say --force if their files may be out of reach meanwhile",
                )
            }
            (ConditionChange::Maintain { .. }, _) => Ok(()),
            (ConditionChange::Remove, _) => self.removable(&name, *retired),
        }
    }

    fn removable(&self, name: &str, retired: bool) -> Result<(), WireError> {
        let leaves = self.server.condition == Condition::Draining || self.server.info.health == Health::Lost || retired;
        if !leaves {
            let error = WireError::new(ErrorCode::Conflict, format!("cannot remove {name}: it is in service"));
            let help =
                "drain it first: gabion admin server drain; a server that died can be removed when it counts as lost";
            return Err(error.action(Action::GiveUp).help(help));
        }
        if self.needed == 0 {
            return Ok(());
        }
        let message = format!(
            "cannot remove {name}: {} of its {} chunks have fewer copies elsewhere than they want{}",
            self.needed,
            self.chunks,
            examples(&self.needed_ids)
        );
        let why = format!("{} of them have no other copy that can be read", self.last);
        Err(WireError::new(ErrorCode::Conflict, message)
        .action(Action::GiveUp)
        .why(why)
        .help(
            "wait for repair (gabion admin status), start the server again, or remove the files that are lost for good",
        ))
    }
}

fn examples(ids: &[ChunkId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!(
        ": {}{}",
        ids.join(", "),
        if ids.len() == PLAN_EXAMPLES_MAX { ", …" } else { "" }
    )
}
