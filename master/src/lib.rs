//! Gabion master.

pub mod plan;
pub mod raft;
pub mod state;
pub mod store;
