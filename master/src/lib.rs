//! Gabion master.

pub mod config;
pub mod fleet;
pub mod keys_command;
mod ledger;
pub mod output;
pub mod plan;
pub mod raft;
pub mod server;
pub mod space;
pub mod state;
pub mod store;
