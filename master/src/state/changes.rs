//! Files that change after their upload: bytes put into them, and their length.
//!
//! What is acknowledged is never written over. New bytes are first sealed in chunks of their own, which belong to an
//! upload or stock; one entry then puts their extents where the bytes shall be. Old extents in the way go or become
//! shorter, and a chunk goes with the last extent that names it. So a reader sees the file before an entry or after it,
//! writers of one file are in the order of the log, and what is sent again is answered, not repeated.
//!
//! A gap between extents reads as zeros: a file made longer, or written beyond its end, has one.
//!
//! Invariants: an entry touches a bounded number of extents; only a file that hangs under the root changes; the
//! directories above count its length as it is.

use gabion_protocol::checksum::{self, Running};
use gabion_protocol::ids::{Ino, SessionId};
use gabion_protocol::limits::{BATCH_ROWS_MAX, FILE_BYTES_MAX};
use gabion_protocol::messages::master::{Change, FileChange, Seal, SpliceAt};

use super::key::extent::{Extent, ExtentKey};
use super::key::inode::{Body, Content, InodeKey};
use super::key::{self, Key as _};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};
use super::uploads::{self, Owner};
use super::{chunks, merges, names, read, replicas, totals, write_leases};

/// Carries a change of a file out.
pub(super) fn run(tx: &mut Tx<'_>, session: SessionId, change: &FileChange, wall_ms: i64) -> Result<Outcome, Stop> {
    let FileChange { file, lease, .. } = *change;
    match &change.what {
        Change::Splice {
            upload,
            generation,
            seals,
            at,
        } => {
            write_leases::check(tx, file, lease)?;
            splice(tx, file, Owner::new(session, *upload, *generation), seals, *at, wall_ms)
        }
        Change::Truncate { length } => {
            write_leases::check(tx, file, lease)?;
            truncate(tx, file, *length, wall_ms)
        }
        Change::SetReplicas { replicas, from } => replicas::set(tx, file, *replicas, *from),
        Change::TakeLease { ms, holder } => write_leases::take(tx, file, lease, *ms, holder),
        Change::EndLease => write_leases::end(tx, file, lease),
    }
}

/// The content of a file that can be reached by a name. One that is in the trash, or below a directory there, is as it
/// was when it was removed.
pub(super) fn reachable(tx: &Tx<'_>, file: Ino) -> Result<Content, Stop> {
    if let Some(inode) = tx.get(&InodeKey(file))?
        && let Body::File(content) = inode.body
        && names::hangs_under_root(tx.rows(), &inode)?
    {
        return Ok(content);
    }
    Err(Refusal::FileGone { file }.into())
}

/// Puts sealed chunks into a file.
fn splice(
    tx: &mut Tx<'_>,
    file: Ino,
    owner: Owner,
    seals: &[Seal],
    at: SpliceAt,
    wall_ms: i64,
) -> Result<Outcome, Stop> {
    uploads::bound(seals.len(), BATCH_ROWS_MAX)?;
    let (inode, mut upload) = owner.claim_chunks(tx)?;
    let content = reachable(tx, file)?;
    let (granted, asked) = (upload.content.replicas, content.replicas);
    if granted != asked {
        return Err(Refusal::StockCopies { granted, asked }.into());
    }
    let new = uploads::in_order(seals, upload.content.chunk_bytes)?;
    let start = match at {
        SpliceAt::End => content.length,
        SpliceAt::Offset(offset) => offset,
    };
    let end = start.checked_add(new.len()).filter(|end| *end <= FILE_BYTES_MAX);
    let end = end.ok_or(Refusal::FileTooLong)?;
    let cleared = clear(tx, file, start, end.min(content.length))?;
    let mut degraded = 0;
    for seal in seals {
        uploads::take_open(&mut upload.open, seal.chunk)?;
        degraded += u64::from(chunks::seal(tx, seal, file)?);
        let extent = Extent {
            chunk: seal.chunk,
            chunk_offset: 0,
            length: seal.length,
            crc: Some(seal.crc),
            since: tx.moment(),
        };
        let offset = start + seal.file_offset;
        tx.put(&ExtentKey { ino: file, offset }, &extent);
    }
    uploads::went_on(tx, owner, inode, upload)?;
    let length = update(tx, file, wall_ms, |content| {
        content.crc = crc_after(content, start, new);
        content.length = content.length.max(end);
        content.extents = content.extents + cleared.added + seals.len() as u64 - cleared.removed;
        content.degraded += degraded;
    })?;
    note_small(tx, file, seals)?;
    Ok(Outcome::Spliced { offset: start, length })
}

fn note_small(tx: &mut Tx<'_>, file: Ino, seals: &[Seal]) -> Result<(), RowsError> {
    match tx.get(&InodeKey(file))?.map(|inode| inode.body) {
        Some(Body::File(content)) => merges::note(tx, file, &content, seals),
        Some(Body::Directory | Body::Upload(_) | Body::Link { .. }) | None => Ok(()),
    }
}

/// The CRC of a file after `new` was put into it at `start`, if that follows from what is known.
fn crc_after(content: &Content, start: u64, new: Running) -> Option<u32> {
    if start == 0 && new.len() >= content.length {
        return Some(new.crc());
    }
    let gap = start.checked_sub(content.length)?;
    let mut whole = Running::default();
    whole.append(content.crc?, content.length);
    whole.append(checksum::zeros(gap), gap);
    whole.append(new.crc(), new.len());
    Some(whole.crc())
}

/// Makes a file shorter or longer. Of one in many pieces the end goes in several entries: each of them leaves a file
/// that is a part of what it was before, from its beginning on.
fn truncate(tx: &mut Tx<'_>, file: Ino, asked: u64, wall_ms: i64) -> Result<Outcome, Stop> {
    if asked > FILE_BYTES_MAX {
        return Err(Refusal::FileTooLong.into());
    }
    let content = reachable(tx, file)?;
    let length = match asked < content.length {
        true => shortened(tx.rows(), file, asked, content.length)?,
        false => asked,
    };
    let cleared = clear(tx, file, length, content.length)?;
    let length = update(tx, file, wall_ms, |content| {
        content.crc = if length == 0 {
            Some(0)
        } else {
            crc_after(content, length, Running::default())
        };
        content.length = length;
        content.extents = content.extents + cleared.added - cleared.removed;
    })?;
    Ok(Outcome::Truncated { length })
}

/// How short one entry can make a file that is to become `asked` bytes long: extents that begin behind it are few.
///
/// Rows are read forwards only. So longer and longer tails are looked at, until one has too many.
fn shortened(rows: &dyn Rows, file: Ino, asked: u64, length: u64) -> Result<u64, RowsError> {
    // An extent has a byte at least.
    let mut tail = BATCH_ROWS_MAX as u64;
    let mut from = length.saturating_sub(tail).max(asked);
    while from > asked {
        tail = tail.saturating_mul(2);
        let next = length.saturating_sub(tail).max(asked);
        let (key, end) = (
            ExtentKey {
                ino: file,
                offset: next,
            },
            ExtentKey {
                ino: file,
                offset: length,
            },
        );
        if rows.scan(&key.encode(), &end.encode(), BATCH_ROWS_MAX + 1)?.len() > BATCH_ROWS_MAX {
            break;
        }
        from = next;
    }
    Ok(from)
}

/// How the number of a file's extents changed.
#[derive(Debug, Clone, Copy, Default)]
struct Cleared {
    removed: u64,
    added: u64,
}

/// Takes the extents out of a range, whole ones and parts.
fn clear(tx: &mut Tx<'_>, file: Ino, from: u64, to: u64) -> Result<Cleared, Stop> {
    let mut cleared = Cleared::default();
    if from >= to {
        return Ok(cleared);
    }
    if let Some((key, extent)) = read::extent_before(tx.rows(), file, None, from)?
        && key.offset + extent.length > from
    {
        keep(tx, key, &extent, 0, from - key.offset);
        let end = key.offset + extent.length;
        if end > to {
            chunks::share(tx, extent.chunk)?;
            keep(tx, key, &extent, to - key.offset, end - to);
            cleared.added += 1;
            return Ok(cleared);
        }
    }
    let at = |offset| ExtentKey { ino: file, offset };
    let inside = key::scan::<ExtentKey>(tx.rows(), &at(from).encode(), &at(to).encode(), BATCH_ROWS_MAX + 1)?;
    if inside.len() > BATCH_ROWS_MAX {
        let limit = BATCH_ROWS_MAX as u64;
        return Err(Refusal::TooManyPieces { limit }.into());
    }
    for (key, extent) in inside {
        tx.delete(&key);
        let end = key.offset + extent.length;
        if end > to {
            keep(tx, key, &extent, to - key.offset, end - to);
        } else {
            chunks::release(tx, extent.chunk)?;
            cleared.removed += 1;
        }
    }
    Ok(cleared)
}

/// Keeps `length` bytes of an extent from `skip` on.
fn keep(tx: &mut Tx<'_>, key: ExtentKey, extent: &Extent, skip: u64, length: u64) {
    let part = Extent {
        chunk: extent.chunk,
        chunk_offset: extent.chunk_offset + skip,
        length,
        crc: None,
        since: tx.moment(),
    };
    let offset = key.offset + skip;
    tx.put(&ExtentKey { offset, ..key }, &part);
}

/// Changes what a file's inode says of its content; its length then. Read anew: what was done to its chunks may have
/// changed it.
fn update(tx: &mut Tx<'_>, file: Ino, wall_ms: i64, change: impl FnOnce(&mut Content)) -> Result<u64, RowsError> {
    let mut inode = tx.require(&InodeKey(file))?;
    let Body::File(content) = &mut inode.body else {
        return Err(key::corrupt(&InodeKey(file).encode(), "it was a file"));
    };
    let before = content.length;
    change(content);
    let after = content.length;
    inode.generation = inode.generation.saturating_add(1);
    inode.modified_ms = wall_ms;
    inode.since = tx.moment();
    tx.put(&InodeKey(file), &inode);
    totals::resize(tx, inode.parent.ino, before, after)?;
    Ok(after)
}
