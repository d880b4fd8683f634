//! Checking the directory of a stopped chunkserver with nothing but what lies in it.
//!
//! Every record is decoded, every sealed chunk's bytes are read again and compared block by block, and files and
//! records are held against each other. Nothing is changed: what to do about a finding is for masters (a damaged copy
//! is replaced from another server) and people.

use std::path::{Path, PathBuf};

use gabion_protocol::buffer::Pool;
use gabion_protocol::messages::data::Verdict;
use gabion_protocol::{ChunkId, ReplicaNumber};

use crate::disk::{
    DirLock, DiskError, DiskIdentity, Index, Place, Record, State, check_blob, check_file, chunk_path, for_each_file,
};

/// Findings kept in a report; more are counted only.
const FINDINGS_MAX: usize = 10_000;

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// `disk.id` is damaged or missing.
    Identity,
    /// The index cannot be opened or read to its end.
    Index,
    /// A record of the index does not decode.
    Record,
    /// A sealed small chunk's bytes are damaged or gone.
    Blob,
    /// A sealed large chunk's file is gone.
    FileMissing,
    /// A sealed large chunk's file is damaged or has another length.
    FileDamaged,
    /// A file or blob cannot be read.
    Unreadable,
    /// The server itself found this copy damaged earlier.
    SetAside,
    /// A file without a record: a crash left it before anyone was told of it.
    FileWithoutRecord,
    /// A file whose name is no chunk's, or that lies in the wrong place.
    Stranger,
}

impl FindingKind {
    /// Whether it means that a copy the masters count on is not good.
    #[must_use]
    pub fn is_damage(self) -> bool {
        !matches!(self, Self::FileWithoutRecord | Self::Stranger)
    }

    /// The word users and scripts see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Index => "index",
            Self::Record => "record",
            Self::Blob => "blob",
            Self::FileMissing => "file-missing",
            Self::FileDamaged => "file-damaged",
            Self::Unreadable => "unreadable",
            Self::SetAside => "set-aside",
            Self::FileWithoutRecord => "file-without-record",
            Self::Stranger => "stranger",
        }
    }
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The chunk, if it is about one.
    pub chunk: Option<ChunkId>,
    /// Which copy, if the record tells.
    pub replica: Option<ReplicaNumber>,
    /// The file, if it is about one.
    pub path: Option<PathBuf>,
    /// What was found.
    pub what: String,
}

/// What a check of one data directory found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// Whose it is, if that can be read.
    pub identity: Option<DiskIdentity>,
    /// Sealed chunks.
    pub sealed: u64,
    /// Open chunks: written to when the server stopped; they promise nothing.
    pub open: u64,
    /// Bytes of sealed chunks that are as they should be.
    pub bytes_good: u64,
    /// What was found, at most 10,000.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_more: u64,
}

impl Report {
    /// Whether some finding is damage. Damage comes first in the list, so none of it hides behind its end.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.is_damage())
    }

    fn add(
        &mut self,
        kind: FindingKind,
        chunk: Option<ChunkId>,
        record: Option<&Record>,
        path: Option<&Path>,
        what: impl ToString,
    ) {
        if self.findings.len() >= FINDINGS_MAX {
            self.findings_more += 1;
            return;
        }
        self.findings.push(Finding {
            kind,
            chunk,
            replica: record.map(|record| record.replica),
            path: path.map(Path::to_owned),
            what: what.to_string(),
        });
    }
}

/// Checks the data directory `dir` of a stopped chunkserver.
///
/// # Errors
/// [`DiskError::Locked`] if a server runs on it, [`DiskError::Identity`] if it is no chunkserver's directory.
pub fn verify(dir: &Path) -> Result<Report, DiskError> {
    if !["disk.id", "index", "data"].iter().any(|name| dir.join(name).exists()) {
        return Err(DiskError::Identity {
            path: dir.join("disk.id"),
            why: "this is no chunkserver's directory".to_owned(),
        });
    }
    let _lock = DirLock::acquire(dir)?;
    let mut report = Report {
        dir: dir.to_owned(),
        identity: None,
        sealed: 0,
        open: 0,
        bytes_good: 0,
        findings: Vec::new(),
        findings_more: 0,
    };
    match DiskIdentity::load(dir) {
        Ok(Some(identity)) => report.identity = Some(identity),
        Ok(None) => report.add(
            FindingKind::Identity,
            None,
            None,
            Some(&dir.join("disk.id")),
            "it is missing",
        ),
        Err(error) => report.add(FindingKind::Identity, None, None, Some(&dir.join("disk.id")), error),
    }
    let checked = Index::open_read_only(dir).and_then(|index| check_chunks(dir, &index, &mut report));
    if let Err(error) = checked {
        // Without the whole index, files without records mean nothing.
        report.add(FindingKind::Index, None, None, Some(&dir.join("index")), error);
    }
    Ok(report)
}

fn check_chunks(dir: &Path, index: &Index, report: &mut Report) -> Result<(), DiskError> {
    let pool = Pool::new(4 << 20);
    index.for_each_record(|chunk, record| match record {
        Ok(record) => check_chunk(dir, index, &pool, chunk, &record, report),
        Err(why) => report.add(FindingKind::Record, Some(chunk), None, None, why),
    })?;
    for_each_file(dir, |chunk, path| {
        match chunk {
            None => report.add(FindingKind::Stranger, None, None, Some(path), "no chunk's file"),
            Some(chunk) if matches!(index.record(chunk), Ok(None)) => {
                report.add(
                    FindingKind::FileWithoutRecord,
                    Some(chunk),
                    None,
                    Some(path),
                    "a file without a record",
                );
            }
            Some(_) => {}
        }
        Ok(())
    })
}

fn check_chunk(dir: &Path, index: &Index, pool: &Pool, chunk: ChunkId, record: &Record, report: &mut Report) {
    match record.state {
        State::Open => report.open += 1,
        State::SetAside => report.add(
            FindingKind::SetAside,
            Some(chunk),
            Some(record),
            None,
            "found damaged by its server",
        ),
        State::Sealed => {
            report.sealed += 1;
            check_sealed(dir, index, pool, chunk, record, report);
        }
    }
}

fn check_sealed(dir: &Path, index: &Index, pool: &Pool, chunk: ChunkId, record: &Record, report: &mut Report) {
    let (verdict, kind, path) = match record.place {
        Place::Blob => (check_blob(index.blob(chunk), record), FindingKind::Blob, None),
        Place::File => {
            let path = chunk_path(dir, chunk);
            let kind = if path.exists() {
                FindingKind::FileDamaged
            } else {
                FindingKind::FileMissing
            };
            (check_file(&path, record, pool), kind, Some(path))
        }
    };
    match verdict {
        Ok(Verdict::Good { length, .. }) => report.bytes_good += length,
        Ok(Verdict::Damaged { offset, what }) => {
            report.add(
                kind,
                Some(chunk),
                Some(record),
                path.as_deref(),
                format!("{what}, at {offset}"),
            );
        }
        Ok(Verdict::Unreadable { what }) => {
            report.add(
                FindingKind::Unreadable,
                Some(chunk),
                Some(record),
                path.as_deref(),
                what,
            );
        }
        Ok(Verdict::Missing | Verdict::Unsealed { .. }) => {
            report.add(
                kind,
                Some(chunk),
                Some(record),
                path.as_deref(),
                "its bytes are not there",
            );
        }
        Err(error) => report.add(
            FindingKind::Unreadable,
            Some(chunk),
            Some(record),
            path.as_deref(),
            error,
        ),
    }
}
