//! How evenly the chunkservers are filled, and what balance would do about it.

use serde::{Deserialize, Serialize};

use super::ServerInfo;
use crate::ids::ServerId;

/// How full the chunkservers are, and what would be moved. Shares are of usable space, in millionths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancePlan {
    /// Whether copies are moved: an operator may have stopped that.
    pub runs: bool,
    /// How far from the mean a server may be.
    pub threshold_ppm: u32,
    /// The mean: what all servers that take part use, of all they have.
    pub mean_ppm: u32,
    /// The servers.
    pub servers: Vec<ServerFill>,
    /// What would be moved, from whom to whom.
    pub moves: Vec<ServerMoves>,
    /// The leader did not look at all copies: more would be moved.
    pub more: bool,
    /// Moves under way now.
    pub moving: u64,
    /// Their bytes.
    pub moving_bytes: u64,
}

/// How full a chunkserver is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFill {
    /// As `Status` has it.
    pub info: ServerInfo,
    /// Bytes used, with what is on its way to it and without what is about to go.
    pub bytes_used: u64,
    /// Their share of its space.
    pub used_ppm: u32,
    /// Why copies are moved neither from it nor to it; `None` if they are.
    pub aside: Option<String>,
}

/// Copies that would be moved between two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerMoves {
    /// From.
    pub from: ServerId,
    /// To.
    pub to: ServerId,
    /// How many.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
}
