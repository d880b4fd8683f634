//! Why the disk layer could not do something. Every variant says what to do next through [`DiskError::to_wire`].

use std::path::{Path, PathBuf};

use gabion_protocol::{ChunkId, ClusterId, ErrorCode, WireError};
use rustix::io::Errno;

/// A failure of the disk layer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Another process uses the directory.
    #[error("cannot use {dir}: it is locked by {holder}")]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process, as far as the lock file tells.
        holder: String,
    },
    /// The directory belongs to another cluster.
    #[error("cannot use {dir}: it belongs to cluster {found}, this server to {expected}")]
    WrongCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// The directory's identity is damaged, missing, or of another server.
    #[error("cannot use {path}: {why}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The directory is empty and may be where a disk that is not mounted belongs.
    #[error("cannot use {dir} as a new disk: it is empty and no mount point, and {why}")]
    NotMounted {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        why: String,
    },
    /// The operator's wish to make the directory a disk cannot be met.
    #[error("cannot make {dir} a disk of this server: {why}")]
    Adopt {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        why: String,
    },
    /// The index cannot be used. Final for the disk.
    #[error("the index of {dir} failed: {why}")]
    Index {
        /// The disk's directory.
        dir: PathBuf,
        /// What RocksDB or the decoder said.
        why: String,
    },
    /// The disk failed earlier.
    #[error("disk {dir} is out of service: {why}")]
    Failed {
        /// The disk's directory.
        dir: PathBuf,
        /// Why it failed.
        why: String,
    },
    /// Every disk failed.
    #[error("no disk is in service")]
    NoDisk,
    /// Too little space is left for more data.
    #[error("disk {dir} has {free} bytes free, its reserve is {reserve}")]
    NoSpace {
        /// The disk's directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes kept back.
        reserve: u64,
    },
    /// The file system took no more, in spite of the reserve.
    #[error("cannot write {path}: the disk is full")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The range asked for is not in the chunk.
    #[error("chunk {chunk} has {length} bytes: there is nothing at {offset}")]
    Range {
        /// The chunk.
        chunk: ChunkId,
        /// Its length.
        length: u64,
        /// First byte asked for.
        offset: u64,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {why}")]
    Io {
        /// A verb phrase.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        why: String,
    },
    /// This process or machine lacked something, or was interrupted: nothing is known about the disk or the chunk.
    #[error("cannot {what} {path} now: {why}")]
    Lacking {
        /// A verb phrase.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's words.
        why: String,
    },
    /// Stored bytes are not what was stored, or the file is gone.
    #[error("chunk {chunk} is damaged: {what}")]
    Damaged {
        /// The chunk.
        chunk: ChunkId,
        /// What was found.
        what: String,
    },
    /// The disk could not read or sync the chunk's file; the file is set aside.
    #[error("chunk {chunk} is set aside: {what}")]
    SetAside {
        /// The chunk.
        chunk: ChunkId,
        /// What happened.
        what: String,
    },
    /// No such chunk here.
    #[error("chunk {chunk} is not on this server")]
    Missing {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The chunk is still open.
    #[error("chunk {chunk} is not sealed")]
    Unsealed {
        /// The chunk.
        chunk: ChunkId,
    },
    /// What is stored forbids the write.
    #[error("chunk {chunk} is fenced: {why}")]
    Fenced {
        /// The chunk.
        chunk: ChunkId,
        /// What is stored.
        why: String,
    },
    /// Another operation on the chunk is under way.
    #[error("chunk {chunk} is being written or dropped")]
    InUse {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Bytes given do not have the checksum or length given.
    #[error("chunk {chunk}: {what}")]
    Mismatch {
        /// The chunk.
        chunk: ChunkId,
        /// What differs.
        what: String,
    },
    /// The disk's threads have stopped: the process is ending.
    #[error("the server is stopping")]
    Stopping,
}

impl DiskError {
    pub(crate) fn io(what: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        let (path, why) = (path.to_owned(), source.to_string());
        if is_lack(&source) {
            return Self::Lacking { what, path, why };
        }
        Self::Io { what, path, why }
    }

    /// The error as a peer gets it.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let (code, help) = match self {
            Self::Locked { .. } => (ErrorCode::Conflict, "stop the other process, or use another directory"),
            Self::WrongCluster { .. } => (ErrorCode::WrongCluster, "check data_dirs and the key file"),
            Self::Identity { .. } => (
                ErrorCode::StaleDirectory,
                "check data_dirs; restore the file or use an empty directory",
            ),
            Self::NotMounted { .. } => (
                ErrorCode::DiskFailed,
                "mount the disk and start the server again; if that disk is gone for good, stop the server and run \
                 gabion-chunkserver with its configuration and --adopt-disk DIRECTORY, then start it",
            ),
            Self::Adopt { .. } => (
                ErrorCode::InvalidArgument,
                "give an empty directory as it stands in dirs; the server's other disks must be mounted",
            ),
            Self::Index { .. } | Self::Failed { .. } | Self::NoDisk | Self::Io { .. } => (
                ErrorCode::DiskFailed,
                "use another copy; check the disk and the server's log",
            ),
            Self::Lacking { .. } => (
                ErrorCode::Busy,
                "try again, or use another copy; the server needs more open files or memory",
            ),
            Self::Range { .. } => (ErrorCode::InvalidArgument, "ask for bytes inside the chunk"),
            Self::NoSpace { .. } | Self::Full { .. } => {
                (ErrorCode::NoSpace, "add chunkservers or disks, or remove files")
            }
            Self::Damaged { .. } | Self::SetAside { .. } => {
                (ErrorCode::Corrupt, "use another copy; this one will be replaced")
            }
            Self::Missing { .. } => (ErrorCode::Missing, "ask a master where the chunk is"),
            Self::Unsealed { .. } => (ErrorCode::Missing, "use another copy; this one was never completed"),
            Self::Fenced { .. } => (ErrorCode::Fenced, "write to a fresh chunk"),
            Self::InUse { .. } => (ErrorCode::Busy, "try again, or write to a fresh chunk"),
            Self::Mismatch { .. } => (ErrorCode::ChecksumMismatch, "send the bytes again"),
            Self::Stopping => (ErrorCode::Unreachable, "use another server"),
        };
        WireError::new(code, self.to_string()).help(help)
    }
}

/// Failures that say something of us and nothing of the disk: no copy and no disk is given up for them.
const LACKS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];

/// Whether a system call failed for a lack of ours.
pub(crate) fn is_lack(error: &std::io::Error) -> bool {
    let number = error.raw_os_error();
    LACKS.iter().any(|lack| number == Some(lack.raw_os_error()))
}

/// The same of a library that passes on only the operating system's words.
pub(crate) fn tells_of_lack(words: &str) -> bool {
    let said = |lack: &Errno| {
        let text = std::io::Error::from(*lack).to_string();
        text.split(" (os error").next().is_some_and(|text| words.contains(text))
    };
    LACKS.iter().any(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_ours_is_no_failure_of_the_disk() {
        let at = |errno: Errno| DiskError::io("open", Path::new("/x"), errno);
        assert!(matches!(at(Errno::MFILE), DiskError::Lacking { .. }));
        assert!(matches!(at(Errno::IO), DiskError::Io { .. }));
        assert_eq!(at(Errno::NFILE).to_wire().code, ErrorCode::Busy);
        assert!(tells_of_lack(
            "IO error: While open a file: index/000012.sst: Too many open files"
        ));
        assert!(!tells_of_lack(
            "IO error: While pread: index/000012.sst: Input/output error"
        ));
    }
}
