//! The shell of a master: listens, knows who asks, and turns requests into logged commands and reads.
//!
//! Nothing is decided here that another master must know: decisions are [`crate::state::Command`]s in the log. What
//! is here is soft: connections, the fleet's beats, keys derived when needed.
//!
//! | file | what it does |
//! |---|---|
//! | `listen` | accepts connections, within limits |
//! | `connection` | reads requests, answers them side by side |
//! | `roles` | who may ask what |
//! | `command` | a client's command: placed, logged once, signed |
//! | `placement` | waits for enough chunkservers |
//! | `query`, `census` | reads |
//! | `beat` | chunkservers' registrations, beats and orders |
//! | `suspects` | copies that readers reported, to be re-read |
//! | `scrub` | how far servers' scrubs are, and requests to begin one |
//! | `inventory` | what servers say they hold, compared with the rows |
//! | `tail` | numbers that chunkservers know and these masters do not |
//! | `admin` | operators' requests |
//! | `conditions` | what operators want of chunkservers, judged before it is logged |
//! | `leader` | what only the leader does: first command, state time |
//! | `repair` | the leader's search for lost copies, and its copy orders |
//! | `balance` | the leader's moves of copies from full servers to emptier ones |
//! | `merge` | the leader's large chunks in the place of small ones |
//! | `troubled` | chunks that are not as they should be, for operators |
//! | `space` | room on the masters' disks: watched, and what grows refused |
//! | `access` | tokens and tickets |
//! | `shared` | what all of these need |
//!
//! Invariants: a command's answer leaves only after a majority has it synced; orders to remove copies leave only
//! after a read barrier; every queue and every number of requests under way is bounded, and what is beyond is told
//! BUSY.

mod access;
mod admin;
mod balance;
mod beat;
mod census;
mod chunk;
mod command;
mod conditions;
mod connection;
mod disks;
mod inventory;
mod leader;
mod listen;
mod merge;
mod placement;
mod query;
mod repair;
mod roles;
mod run;
mod scrub;
mod shared;
mod space;
mod suspects;
mod tail;
mod troubled;

pub use run::{Running, StartError, start};

#[cfg(test)]
mod tests;
