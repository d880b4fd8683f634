//! Files made of others by reference: the new file's extents name the same chunks. A chunk never changes once it is
//! sealed, and a file changes by getting other extents, so that later changes to one do not show in the other.
//!
//! Invariants: each extent that is copied adds one reference to its chunk; a copy appears whole, in one entry, and what
//! it was made of is of one moment for each file.

use gabion_protocol::checksum::{self, Running};
use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{BATCH_ROWS_MAX, COPY_EXTENTS_MAX, FILE_BYTES_MAX};
use gabion_protocol::messages::master::{CopyFiles, FileVersion, UploadOptions};
use gabion_protocol::path::FsPath;

use super::chunks;
use super::key::extent::{Extent, ExtentKey};
use super::key::inode::{Body, Content, Inode, InodeKey};
use super::key::{self, Key, Moment};
use super::links::{self, End, Last};
use super::past;
use super::read;
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::snapshots::{self, Seen};
use super::tx::{Stop, Tx};
use super::uploads::{self, Owner};

/// A file to copy from.
struct Source {
    ino: Ino,
    inode: Inode,
    content: Content,
    /// Of which moment, if it is of a snapshot.
    at: Option<Moment>,
}

impl Source {
    /// A file tells one number of copies for all its chunks; taking the smaller one would weaken what is appended
    /// later, and the larger one would be a promise not kept yet.
    fn fits(&self, to: &Content, path: &FsPath) -> Result<(), Refusal> {
        let (copies, others) = (self.content.replicas, to.replicas);
        if copies == others {
            return Ok(());
        }
        Err(Refusal::CopiesDiffer {
            path: path.clone(),
            copies,
            others,
        })
    }
}

fn source(rows: &dyn Rows, path: &FsPath) -> Result<Source, Stop> {
    let Seen::Entry { ino, at } = snapshots::look(rows, path, Last::Follow)? else {
        return Err(Refusal::IsDirectory { path: path.clone() }.into());
    };
    let inode = past::require(rows, &InodeKey(ino), at)?;
    match inode.body {
        Body::File(content) => Ok(Source {
            ino,
            inode,
            content,
            at,
        }),
        Body::Directory | Body::Upload(_) | Body::Link { .. } => {
            Err(Refusal::IsDirectory { path: path.clone() }.into())
        }
    }
}

/// Whether a path leads to the file itself.
fn is_itself(rows: &dyn Rows, source: &Source, to: &FsPath) -> Result<bool, Stop> {
    match links::walk(rows, to, Last::Follow) {
        Ok(way) => {
            Ok(source.at.is_none() && matches!(way.end, End::Entry { dentry, at: None } if dentry.ino == source.ino))
        }
        // What is wrong with the way there is told when something shall be made at its end.
        Err(Stop::Refused(_)) => Ok(false),
        Err(stop) => Err(stop),
    }
}

/// Makes a file of others.
pub(super) fn copy(tx: &mut Tx<'_>, copy: &CopyFiles, wall_ms: i64) -> Result<Outcome, Stop> {
    let CopyFiles { sources, to, .. } = copy;
    uploads::bound(sources.len(), BATCH_ROWS_MAX)?;
    let found: Vec<Source> = sources
        .iter()
        .map(|path| source(tx.rows(), path))
        .collect::<Result<_, _>>()?;
    let Some(first) = found.first() else {
        return Err(Refusal::NoSource.into());
    };
    if found.len() == 1 && is_itself(tx.rows(), first, to)? {
        return Err(Refusal::Exists { path: to.clone() }.into());
    }
    let extents = found
        .iter()
        .map(|source| source.content.extents)
        .fold(0, u64::saturating_add);
    uploads::bound(usize::try_from(extents).unwrap_or(usize::MAX), COPY_EXTENTS_MAX)?;
    let options = UploadOptions {
        replicas: Some(first.content.replicas),
        chunk_bytes: Some(first.content.chunk_bytes),
        replace: copy.replace,
        parents: copy.parents,
        mode: first.inode.mode,
        modified_ms: copy.keep_time.then_some(first.inode.modified_ms),
    };
    let mut content = uploads::empty(tx.world.cluster.settings, &options)?;
    let ino = tx.next_ino()?;
    for (source, path) in found.iter().zip(sources) {
        source.fits(&content, path)?;
        add(tx, source, 0, COPY_EXTENTS_MAX, ino, &mut content)?;
    }
    content.crc = whole_crc(&found);
    uploads::appear(tx, to, &options, ino, content, wall_ms)
}

/// The CRC of files one after the other, unless one is not known.
fn whole_crc(sources: &[Source]) -> Option<u32> {
    let mut whole = Running::default();
    for Source { content, .. } in sources {
        whole.append(content.crc?, content.length);
    }
    Some(whole.crc())
}

/// Adds a part of a file to an upload.
pub(super) fn add_part(
    tx: &mut Tx<'_>,
    owner: Owner,
    path: &FsPath,
    offset: u64,
    version: Option<FileVersion>,
) -> Result<Outcome, Stop> {
    let (inode, mut upload) = owner.claim(tx)?;
    let source = source(tx.rows(), path)?;
    let found = FileVersion {
        ino: source.ino,
        generation: source.inode.generation,
    };
    if version.is_some_and(|version| version != found) {
        return Err(Refusal::SourceChanged { path: path.clone() }.into());
    }
    source.fits(&upload.content, path)?;
    let mut content = upload.content;
    let (next, known) = add(tx, &source, offset, BATCH_ROWS_MAX, owner.upload, &mut content)?;
    content.crc = upload.content.crc.and_then(|before| {
        let mut whole = Running::default();
        whole.append(before, upload.content.length);
        let part = known?;
        whole.append(part.crc(), part.len());
        Some(whole.crc())
    });
    upload.content = content;
    uploads::save(tx, owner, inode, upload)?;
    Ok(Outcome::Copied {
        version: found,
        next,
        more: next < source.content.length,
        length: content.length,
        crc: content.crc,
    })
}

/// What is left from `offset` on of the extent that holds it, if that begins before: since the step before this one ended
/// there, small extents may have become one large one.
fn rest_of(rows: &dyn Rows, source: &Source, offset: u64) -> Result<Option<Extent>, RowsError> {
    let before = read::extent_before(rows, source.ino, source.at, offset)?;
    let holds = before.filter(|(key, extent)| key.offset + extent.length > offset);
    Ok(holds.map(|(key, extent)| {
        let skip = offset - key.offset;
        Extent {
            chunk_offset: extent.chunk_offset + skip,
            length: extent.length - skip,
            crc: None,
            ..extent
        }
    }))
}

/// Adds extents of a file, from the one that holds `offset` on and at most `limit`, to the end of the file `to`; the
/// offset of the next, and the CRC of what was added if it is known. The CRC of `content` is the caller's business.
fn add(
    tx: &mut Tx<'_>,
    source: &Source,
    offset: u64,
    limit: usize,
    to: Ino,
    content: &mut Content,
) -> Result<(u64, Option<Running>), Stop> {
    let from = ExtentKey {
        ino: source.ino,
        offset,
    };
    let end = key::prefix_end(&ExtentKey::prefix(source.ino));
    let mut found = past::scan::<ExtentKey>(tx.rows(), &from.encode(), &end, limit.saturating_add(1), source.at)?;
    if let Some(rest) = rest_of(tx.rows(), source, offset)? {
        found.insert(0, (from, rest));
    }
    let more = found.len() > limit;
    found.truncate(limit);
    // Gaps are copied, too: what comes after them lies as far behind the begin as in the source.
    let begin = content.length;
    let fits = |end: u64| {
        begin
            .checked_add(end - offset)
            .filter(|end| *end <= FILE_BYTES_MAX)
            .ok_or(Refusal::FileTooLong)
    };
    content.chunk_bytes = content.chunk_bytes.max(source.content.chunk_bytes);
    let mut next = offset;
    let mut known = Some(Running::default());
    for (row, extent) in found {
        let end = row.offset.saturating_add(extent.length);
        let length = fits(end)?;
        chunks::share(tx, extent.chunk)?;
        let copied = Extent {
            since: tx.moment(),
            ..extent
        };
        let at = ExtentKey {
            ino: to,
            offset: begin + (row.offset - offset),
        };
        tx.put(&at, &copied);
        content.length = length;
        content.extents += 1;
        known = known.and_then(|mut known| {
            known.append(checksum::zeros(row.offset - next), row.offset - next);
            known.append(extent.crc?, extent.length);
            Some(known)
        });
        next = end;
    }
    let gap = source.content.length.saturating_sub(next);
    if !more && gap > 0 {
        content.length = fits(source.content.length)?;
        if let Some(known) = &mut known {
            known.append(checksum::zeros(gap), gap);
        }
        next = source.content.length;
    }
    Ok((next, known))
}
