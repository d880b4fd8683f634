//! Unlinked inodes, taken apart in bounded steps once their deadline has passed: a removal is one small entry however
//! much it removes. Whether a removal can be undone until then is `kept`'s business.
//!
//! Invariants: what is reachable from an inode of the trash changes only here; a step touches about `limit` rows and
//! looks at not many more, however much earlier steps removed.

use gabion_protocol::ids::{Ino, StateTime};

use super::key::dentry::DentryKey;
use super::key::extent::ExtentKey;
use super::key::inode::{Body, Inode, InodeKey, Parent};
use super::key::taken_apart::{TakenApart, TakenApartKey};
use super::key::total::TotalKey;
use super::key::trash::{TrashKey, Trashed};
use super::key::{self, Key, Kind};
use super::rows::RowsError;
use super::tx::Tx;
use super::{attributes, chunks, clock, kept, merges, quotas, write_leases};

/// Puts an inode that has no name any more into the trash, to be taken apart from `deadline` on.
pub(super) fn put(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode, deadline: StateTime) {
    let since = tx.moment();
    inode.parent.ino = Parent::NOWHERE;
    inode.parent.since = since;
    inode.since = since;
    tx.put(&InodeKey(ino), &inode);
    tx.put(&TrashKey { deadline, ino }, &Trashed);
}

/// Takes apart what is due, about `limit` rows; whether more is.
pub(super) fn take_apart(tx: &mut Tx<'_>, swept: &mut StateTime, limit: usize) -> Result<bool, RowsError> {
    let (due, mut more) = clock::due::<TrashKey>(tx, Kind::Trash, swept, limit)?;
    let mut left = limit;
    for row in due {
        if left == 0 {
            return Ok(true);
        }
        kept::forget(tx, row.ino)?;
        let inode = tx.require(&InodeKey(row.ino))?;
        let step = match inode.body {
            Body::Directory => detach(tx, row.ino, left)?,
            Body::File(_) | Body::Upload(_) | Body::Link { .. } => release(tx, row.ino, left)?,
        };
        left = left.saturating_sub(step.rows + 1);
        more |= step.more;
        if !step.is_last {
            return Ok(true);
        }
        if inode.is_directory() {
            quotas::forget(tx, row.ino)?;
            tx.delete(&TotalKey(row.ino));
        } else {
            write_leases::forget(tx, row.ino)?;
            merges::forget(tx, row.ino)?;
        }
        attributes::forget(tx, row.ino)?;
        tx.delete(&InodeKey(row.ino));
        tx.delete(&row);
    }
    Ok(more)
}

/// A step of taking an inode apart.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Rows it removed, about.
    rows: usize,
    /// Whether nothing is left of the inode but itself.
    is_last: bool,
    /// Whether it put more into the trash.
    more: bool,
}

/// Where rows under `prefix` begin that no earlier step removed.
fn begin(tx: &Tx<'_>, ino: Ino, prefix: &[u8]) -> Result<(Vec<u8>, bool), RowsError> {
    Ok(match tx.get(&TakenApartKey(ino))? {
        Some(TakenApart { mut last }) => {
            last.push(0);
            (last, true)
        }
        None => (prefix.to_vec(), false),
    })
}

/// Notes how far a step came: `last` is the key of the last row it removed, `None` if it is done.
fn note(tx: &mut Tx<'_>, ino: Ino, noted: bool, last: Option<Vec<u8>>) {
    match last {
        Some(last) => tx.put(&TakenApartKey(ino), &TakenApart { last }),
        None if noted => tx.delete(&TakenApartKey(ino)),
        None => {}
    }
}

/// Removes a file's extents, at most `limit`.
fn release(tx: &mut Tx<'_>, ino: Ino, limit: usize) -> Result<Step, RowsError> {
    let prefix = ExtentKey::prefix(ino);
    let (from, noted) = begin(tx, ino, &prefix)?;
    let extents = key::scan::<ExtentKey>(tx.rows(), &from, &key::prefix_end(&prefix), limit)?;
    for (row, extent) in &extents {
        tx.delete(row);
        chunks::release(tx, extent.chunk)?;
    }
    let is_last = extents.len() < limit;
    let last = extents.last().filter(|_| !is_last).map(|(row, _)| row.encode());
    note(tx, ino, noted, last);
    Ok(Step {
        rows: extents.len(),
        is_last,
        more: false,
    })
}

/// Removes a directory's entries, about `limit` rows: small files and links at once, directories and large files into the trash.
fn detach(tx: &mut Tx<'_>, directory: Ino, limit: usize) -> Result<Step, RowsError> {
    let prefix = DentryKey::prefix(directory);
    let (from, noted) = begin(tx, directory, &prefix)?;
    let entries = key::scan::<DentryKey>(tx.rows(), &from, &key::prefix_end(&prefix), limit)?;
    let mut step = Step {
        rows: 0,
        is_last: entries.len() < limit,
        more: false,
    };
    let mut last = None;
    for (row, dentry) in &entries {
        if step.rows >= limit {
            step.is_last = false;
            break;
        }
        tx.delete(row);
        last = Some(row);
        step.rows += 1;
        let child = tx.require(&InodeKey(dentry.ino))?;
        let left = limit.saturating_sub(step.rows);
        match &child.body {
            Body::File(content) if content.extents < left as u64 => {
                step.rows += release(tx, dentry.ino, left)?.rows;
                attributes::forget(tx, dentry.ino)?;
                write_leases::forget(tx, dentry.ino)?;
                merges::forget(tx, dentry.ino)?;
                tx.delete(&InodeKey(dentry.ino));
            }
            Body::Link { .. } => {
                attributes::forget(tx, dentry.ino)?;
                tx.delete(&InodeKey(dentry.ino));
            }
            Body::File(_) | Body::Directory | Body::Upload(_) => {
                let deadline = tx.now();
                put(tx, dentry.ino, child, deadline);
                step.more = true;
            }
        }
    }
    let last = last.filter(|_| !step.is_last).map(Key::encode);
    note(tx, directory, noted, last);
    Ok(step)
}
