//! Gabion's chunkserver: keeps bytes. It knows chunks, not files; masters decide what lives and what goes.
//!
//! | module | what it does |
//! |---|---|
//! | [`disk`] | chunks on disks: nothing acknowledged that a power cut could take back |
//! | `pipeline` | writes along a chain of servers: check, pass on, store, at the same time |
//! | `serve` | one connection: requests and streams, none of which waits for another |
//! | `scrub` | every copy is re-read within a period |
//! | [`masters`] | registration, heartbeats, orders, state time |
//! | [`peers`] | connections to other chunkservers |
//! | `repair` | background copies, pulled from other chunkservers |
//! | [`server`] | the whole |
//! | [`offline`] | checking the directory of a stopped server |
//! | [`config`], [`output`] | settings; standard output |
//!
//! Invariants: bytes are checked against their CRCs before they are stored or passed on; nothing is deleted without a
//! master's order; damage is never taken for absence; every queue and buffer is bounded.

pub mod config;
pub mod disk;
mod foreground;
pub mod masters;
pub mod offline;
pub mod output;
mod pace;
pub mod peers;
mod pipeline;
mod repair;
mod scrub;
mod serve;
pub mod server;
