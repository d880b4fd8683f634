//! Servers with copies that no row names: how many, and whether that is more than is believed.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId, StateTime};
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Doubt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtKey(pub ServerId);

impl Key for DoubtKey {
    const KIND: Kind = Kind::Doubt;
    type Value = Doubt;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u32().map(|id| Self(ServerId(id)))
    }
}

/// What is known of a server's unknown copies. Without any there is no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Its [`super::unknown`] rows.
    pub unknown: u64,
    /// So many were unknown at once that none is removed and no other is taken in, until an operator accepts it.
    pub stopped: bool,
    /// An operator has accepted it: until the last of them is gone, any number is believed.
    pub accepted: bool,
    /// Before this time none of them is due, those after `walked` apart.
    pub next: StateTime,
    /// How far the walk over those that are due has come, if it is under way.
    pub walked: Option<(ChunkId, ReplicaNumber)>,
}

impl Value for Doubt {}
