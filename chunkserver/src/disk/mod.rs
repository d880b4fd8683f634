//! The disk layer: chunks in, chunks out, and nothing acknowledged that a power cut could take back.
//!
//! One [`Store`] has one or more disks. A disk is a directory **[format]**:
//!
//! ```text
//! lock           held exclusively while a server runs; names its process
//! disk.id        whose disk this is, and which others there are              identity.rs
//! index/         RocksDB: a record for each chunk, small chunks' bytes       record.rs, index.rs
//! data/xx/ID     a large chunk: exactly its bytes; xx is the id's last byte  file.rs
//! ```
//!
//! Order of writes, so that a crash between any two leaves an open chunk or a sealed one, never a half:
//!
//! * *open*: the record (open, synced) before any byte is acknowledged, so that a drop order finds whatever is left;
//! * *seal*: the file's data and length, then its directory, then the record (sealed, synced), then the answer;
//! * *small chunk*: bytes and record (sealed) in one synced batch;
//! * *drop*: the record, then the file, then its directory, then the answer: a record never outlives its bytes, and a
//!   file that outlives its record goes when the masters repeat the order (removal.rs).
//!
//! What is never done here: deleting without a master's order; taking damage for absence; trying a failed sync again;
//! changing a sealed chunk's bytes.
//!
//! Start reading at [`Store`].

mod choice;
mod copy;
mod database;
mod directory;
mod drain;
mod durable;
mod error;
mod file;
mod identity;
mod index;
mod inventory;
mod lock;
mod read;
mod reclaim;
mod record;
mod recover;
mod removal;
mod report;
mod roster;
mod scrub;
mod start;
mod store;
mod threads;
mod verify;
mod write;

pub use directory::Space;
pub use error::DiskError;
pub use identity::{DiskId, DiskIdentity};
pub use read::{Blocks, Data};
pub use record::{Place, Record, State};
pub use recover::Recovered;
pub use start::adopt;
pub use store::{Store, StoreOptions};
pub use write::{NewChunk, OpenChunk, Packet};

pub(crate) use directory::{Disk, chunk_path};
pub(crate) use index::Index;
pub(crate) use lock::DirLock;
pub(crate) use recover::for_each_file;
pub(crate) use scrub::Next;
pub(crate) use verify::{check_blob, check_file};
