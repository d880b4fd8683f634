//! Gabion master.

pub mod raft;
pub mod state;
pub mod store;
