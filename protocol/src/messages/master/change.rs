//! Changes of a file after its upload: bytes put into it, its length, its copies, and who may write.

use serde::{Deserialize, Serialize};

use super::Seal;
use crate::ids::{Ino, UploadGeneration};

/// A change of a file that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The file, wherever it was renamed to.
    pub file: Ino,
    /// The write lease the writer holds.
    pub lease: Option<u64>,
    /// What to change.
    pub what: Change,
}

/// What changes. The order is the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Puts sealed chunks of an upload or stock into the file: all of them, in one step. The upload goes on without
    /// them. Answer: `Response::Spliced`.
    Splice {
        /// The upload or stock the chunks were granted to; of as many copies as the file.
        upload: Ino,
        /// Its owner's generation.
        generation: UploadGeneration,
        /// The chunks, at most [`crate::limits::BATCH_ROWS_MAX`], without gaps; the first one's offset is 0.
        seals: Vec<Seal>,
        /// Where the first one begins.
        at: SpliceAt,
    },
    /// Makes the file shorter or longer; new bytes are zeros. Of a file in many pieces only its end goes, and the same
    /// is asked again until the answer says the length that was asked for. Answer: `Response::Truncated`.
    Truncate {
        /// Its new length.
        length: u64,
    },
    /// Sets how many copies the file shall have: of what is written from now on, and of a bounded number of its chunks
    /// from an offset on. Answer: `Response::ReplicasSet`.
    SetReplicas {
        /// Copies of each chunk.
        replicas: u8,
        /// Chunks from here on.
        from: u64,
    },
    /// Takes the right to be the file's only writer, or renews the lease that is named. Answer:
    /// `Response::WriteLease`.
    TakeLease {
        /// How long, milliseconds of state time, at most [`crate::limits::WRITE_LEASE_MS_MAX`].
        ms: u64,
        /// Who asks, for people; at most [`crate::limits::NAME_BYTES_MAX`].
        holder: String,
    },
    /// Gives the lease that is named back. Answer: `Response::Done`, also if it has ended already.
    EndLease,
}

/// Where spliced bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpliceAt {
    /// Behind the last byte, wherever that is then.
    End,
    /// At this offset, in place of what is there. Beyond the end there will be zeros in between.
    Offset(u64),
}
