//! The library programs use to reach a Gabion cluster.
//!
//! ```no_run
//! # async fn example() -> Result<(), gabion_client::Error> {
//! use gabion_client::{Client, Config, CreateOptions, FsPath};
//!
//! let client = Client::connect(Config::discover()?).await?;
//! let mut file = client.create(&FsPath::parse("/greeting")?, CreateOptions::default()).await?;
//! file.write(b"hello").await?;
//! let entry = file.finish().await?; // on the disks of all its replicas, or an error
//! assert_eq!(client.read(&FsPath::parse("/greeting")?).await?, "hello");
//! # Ok(()) }
//! ```
//!
//! Invariants: a command runs once, however often it has to be sent; no byte is given out that does not have its
//! checksum; a file appears whole or not at all; every queue and buffer is bounded; every wait ends
//! ([`Config::wait`]).
//!
//! Where to start reading: [`Client`] for the namespace, `masters` for how a leader is found and kept, `write` for
//! the way down a chain of servers, `read` for the way back. What is decided, apart from how it is done, is in
//! `policy`.

mod admin;
mod attributes;
mod client;
mod config;
mod copy;
mod disks;
mod error;
mod file;
mod fleet;
mod inventory;
mod link;
mod links;
mod local;
mod masters;
mod policy;
mod quota;
mod read;
mod scrub;
mod servers;
mod snapshots;
pub mod terminal;
#[cfg(test)]
mod tests;
mod trash;
mod tree;
mod walk;
mod write;

pub use admin::Merges;
pub use client::{Client, Removed};
pub use config::{Config, Settings};
pub use copy::CopyOptions;
pub use error::Error;
pub use file::File;
pub use gabion_protocol::messages::data::Verdict;
pub use gabion_protocol::messages::master::{
    Admin, AttributeChange, Attributes, ChunkInfo, ChunkState, Defaults, Entry, EntryKind, Extent, Health, Load,
    MasterInfo, Page, QuotaChange, QuotaLimits, QuotaReport, QuotaUse, Replica, ReplicaState, ServerInfo, SnapshotInfo,
    Status, TrashAfter, TrashEntry, TrashId, TrashPage, TrashRef, TrashTotals, TreeProgress,
};
pub use gabion_protocol::{ChunkId, ErrorCode, FsPath, MasterId, ServerId};
pub use links::{LinkOptions, LinkTold};
pub use local::local_crc;
pub use read::{DownloadOptions, FileReader, FileStream, Resumed};
pub use scrub::ScrubStarted;
pub use snapshots::snapshot_path;
pub use trash::Trashed;
pub use tree::TreeCopier;
pub use walk::Walk;
pub use write::{Appender, CreateOptions, FileWriter, ResumedUpload, WriteStream};

/// Randomness for jitter and session ids. Sessions also carry their time, so a failing source costs little.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}
