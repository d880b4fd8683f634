//! Subtotals: every link and unlink is added to all directories above.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{DEPTH_MAX, PATH_BYTES_MAX};
use gabion_protocol::path::FsPath;

use super::key::inode::{Body, Inode, InodeKey};
use super::key::total::{Total, TotalKey};
use super::key::{self, Key};
use super::rows::{Rows, RowsError};
use super::tx::Tx;

/// What an inode weighs, itself and all below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) bytes: u64,
    reserved: u64,
    reserved_entries: u64,
    /// Names and bytes of the longest paths below it, at least.
    deepest: u16,
    longest: u16,
}

impl Weight {
    /// The weight of an inode.
    pub(super) fn of(rows: &dyn Rows, ino: Ino, inode: &Inode) -> Result<Self, RowsError> {
        Ok(match &inode.body {
            Body::Directory => Self::of_directory(&key::require(rows, &TotalKey(ino))?),
            Body::File(content) => Self {
                files: 1,
                bytes: content.length,
                ..Self::default()
            },
            Body::Link { target } => Self {
                files: 1,
                bytes: target.len() as u64,
                ..Self::default()
            },
            Body::Upload(_) => Self::default(),
        })
    }

    /// The weight of a directory that holds so much.
    pub(super) fn of_directory(total: &Total) -> Self {
        Self {
            files: total.files,
            directories: total.directories + 1,
            bytes: total.bytes,
            reserved: total.reserved,
            reserved_entries: total.reserved_entries,
            deepest: total.deepest,
            longest: total.longest,
        }
    }

    /// Whether everything below would keep within the limits of paths at `path`.
    ///
    /// The measures only grow while a directory holds anything, so that a move near the limits may be refused after
    /// the longest path has gone; a walk of the subtree, which may be millions of rows, would know better.
    pub(super) fn fits(&self, path: &FsPath) -> bool {
        path.names().count() + usize::from(self.deepest) <= DEPTH_MAX
            && path.as_str().len() + usize::from(self.longest) <= PATH_BYTES_MAX
    }
}

/// Adds what was linked as `name` to `directory` and all above.
pub(super) fn add(tx: &mut Tx<'_>, directory: Ino, name: &str, weight: Weight) -> Result<(), RowsError> {
    let mut deepest = weight.deepest;
    let mut longest = weight.longest;
    let mut name_bytes = name.len();
    climb(tx, directory, |total, next_name_bytes| {
        deepest = deepest.saturating_add(1);
        longest = longest.saturating_add(u16::try_from(name_bytes + 1).unwrap_or(u16::MAX));
        name_bytes = next_name_bytes;
        total.files = total.files.saturating_add(weight.files);
        total.directories = total.directories.saturating_add(weight.directories);
        total.bytes = total.bytes.saturating_add(weight.bytes);
        total.reserved = total.reserved.saturating_add(weight.reserved);
        total.reserved_entries = total.reserved_entries.saturating_add(weight.reserved_entries);
        total.deepest = total.deepest.max(deepest);
        total.longest = total.longest.max(longest);
    })
}

/// Takes what was unlinked from `directory` and all above.
pub(super) fn subtract(tx: &mut Tx<'_>, directory: Ino, weight: Weight) -> Result<(), RowsError> {
    climb(tx, directory, |total, _| {
        // Subtotals steer nothing that cannot be undone, so a wrong one (which `check` reports) stops nobody.
        total.files = total.files.saturating_sub(weight.files);
        total.directories = total.directories.saturating_sub(weight.directories);
        total.bytes = total.bytes.saturating_sub(weight.bytes);
        total.reserved = total.reserved.saturating_sub(weight.reserved);
        total.reserved_entries = total.reserved_entries.saturating_sub(weight.reserved_entries);
        if total.files == 0 && total.directories == 0 {
            (total.deepest, total.longest) = (0, 0);
        }
    })
}

/// A file in `directory` has another length.
pub(super) fn resize(tx: &mut Tx<'_>, directory: Ino, before: u64, after: u64) -> Result<(), RowsError> {
    if before == after {
        return Ok(());
    }
    climb(tx, directory, |total, _| {
        total.bytes = total.bytes.saturating_sub(before).saturating_add(after);
    })
}

/// What a write under way holds in `directory` and all above has changed: bytes and entries. The directory may have gone
/// into the trash meanwhile, or be taken apart: what is there of it changes.
pub(super) fn reserve(tx: &mut Tx<'_>, directory: Ino, before: (u64, u64), after: (u64, u64)) -> Result<(), RowsError> {
    if before == after {
        return Ok(());
    }
    let mut at = directory;
    for _ in 0..=DEPTH_MAX {
        let (Some(inode), Some(mut total)) = (tx.get(&InodeKey(at))?, tx.get(&TotalKey(at))?) else {
            break;
        };
        total.reserved = total.reserved.saturating_sub(before.0).saturating_add(after.0);
        total.reserved_entries = total.reserved_entries.saturating_sub(before.1).saturating_add(after.1);
        tx.put(&TotalKey(at), &total);
        if at == Ino::ROOT {
            break;
        }
        at = inode.parent.ino;
    }
    Ok(())
}

/// Changes the totals of `directory` and all above; `change` also gets the bytes of each directory's own name.
fn climb(tx: &mut Tx<'_>, directory: Ino, mut change: impl FnMut(&mut Total, usize)) -> Result<(), RowsError> {
    let mut at = directory;
    for _ in 0..=DEPTH_MAX {
        let inode = tx.require(&InodeKey(at))?;
        let mut total = tx.require(&TotalKey(at))?;
        change(&mut total, inode.parent.name.len());
        tx.put(&TotalKey(at), &total);
        if at == Ino::ROOT {
            return Ok(());
        }
        at = inode.parent.ino;
    }
    Err(key::corrupt(
        &InodeKey(directory).encode(),
        "its parents do not lead to the root",
    ))
}
