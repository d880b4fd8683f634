//! Unlinked trees, taken apart in bounded steps: a removal is one small entry however much it removes.

use gabion_protocol::ids::{Ino, StateTime};

use super::key::dentry::DentryKey;
use super::key::extent::ExtentKey;
use super::key::inode::{Body, Inode, InodeKey, Parent};
use super::key::total::TotalKey;
use super::key::trash::{TrashKey, Trashed};
use super::key::{self, Kind};
use super::rows::RowsError;
use super::tx::Tx;
use super::{chunks, clock};

/// Puts an inode that has no name any more into the trash.
pub(super) fn put(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode) {
    let since = tx.moment();
    inode.parent.ino = Parent::NOWHERE;
    inode.parent.since = since;
    inode.since = since;
    tx.put(&InodeKey(ino), &inode);
    let deadline = tx.now();
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
        let inode = tx.require(&InodeKey(row.ino))?;
        let rows = match inode.body {
            Body::Directory => {
                let children = detach(tx, row.ino, left)?;
                more |= children > 0;
                children
            }
            Body::File(_) | Body::Upload(_) => release(tx, row.ino, left)?,
        };
        if rows < left {
            if inode.is_directory() {
                tx.delete(&TotalKey(row.ino));
            }
            tx.delete(&InodeKey(row.ino));
            tx.delete(&row);
        } else {
            more = true;
        }
        left = left.saturating_sub(rows + 1);
    }
    Ok(more)
}

/// Removes a file's extents, at most `limit`; how many.
fn release(tx: &mut Tx<'_>, ino: Ino, limit: usize) -> Result<usize, RowsError> {
    let extents = key::scan_prefix::<ExtentKey>(tx.rows(), &ExtentKey::prefix(ino), limit)?;
    for (row, extent) in &extents {
        tx.delete(row);
        chunks::release(tx, extent.chunk)?;
    }
    Ok(extents.len())
}

/// Moves a directory's entries to the trash, at most `limit`; how many.
fn detach(tx: &mut Tx<'_>, directory: Ino, limit: usize) -> Result<usize, RowsError> {
    let entries = key::scan_prefix::<DentryKey>(tx.rows(), &DentryKey::prefix(directory), limit)?;
    for (row, dentry) in &entries {
        tx.delete(row);
        let child = tx.require(&InodeKey(dentry.ino))?;
        put(tx, dentry.ino, child);
    }
    Ok(entries.len())
}
