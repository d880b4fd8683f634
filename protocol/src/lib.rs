//! The words every Gabion process speaks: ids, units, paths, limits, checksums, frames, messages, errors.
//!
//! Nothing here decides anything about files or chunks; it only says how such decisions are named and carried.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | names of clusters, servers, inodes, chunks, sessions: one type per concept |
//! | [`limits`] | every maximum, each with its reason |
//! | [`path`] | the one path parser, for authorisation and for storage |
//! | [`checksum`] | CRC-32 per 64 KiB block, combined to chunk and file |
//! | [`error`] | errors that tell the caller what to do, and the exit-code table |
//! | [`frame`] | the one frame on every connection, as a codec |
//! | [`hello`], [`keys`], [`token`] | who is who and who may do what |
//! | [`messages`] | what is said: to masters, to chunkservers |
//! | [`net`] | connections that carry many streams |
//! | [`torn`] | what a power cut leaves of a write-ahead log |
//! | [`inventory`] | digests of a chunkserver's copies |
//! | [`config`] | config file, then environment, then flag |
//! | [`process`] | what every server process does at start: logging, limits, panic, signals |
//!
//! Invariants: bytes on the wire and on disk are pinned by golden tests; no decoder panics or allocates above its
//! limit on any input; numbers that travel have explicit widths.

pub mod buffer;
pub mod checksum;
pub mod config;
pub mod error;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod inventory;
pub mod keys;
pub mod limits;
pub mod messages;
pub mod net;
pub mod path;
pub mod process;
pub mod token;
pub mod torn;

pub use error::{Action, ErrorCode, WireError};
pub use ids::*;
pub use path::FsPath;
