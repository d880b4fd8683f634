//! The trash as its users see it: a removal can be undone for a while.
//!
//! A removal unlinks one inode, with all that hangs under it, in one small entry; so does undoing it. What it holds is
//! not touched, so that its subtotals stay right and count nowhere else.
//!
//! Invariants: three rows stand for a removal ([`Kept`], its [`RemovedFrom`] and its [`Trashed`] with the deadline), all
//! or none; nothing is restored once its deadline has come, because taking it apart may have begun.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits;
use gabion_protocol::messages::master::{TrashId, TrashRef};
use gabion_protocol::path::FsPath;

use super::key;
use super::key::inode::{Inode, InodeKey};
use super::key::kept::{Kept, KeptKey};
use super::key::kept_path::{KeptPathKey, RemovedFrom};
use super::key::meta::{ClockKey, TrashTerms, TrashTermsKey, TrashTotal, TrashTotalKey};
use super::key::trash::{TrashKey, Trashed};
use super::links::{self, Last};
use super::names::{self, Walk};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::totals::Weight;
use super::trash;
use super::tx::{Stop, Tx};

/// Sets how long removals can be undone, unless that was set before.
pub(super) fn begin(tx: &mut Tx<'_>, keep_ms: u64) -> Result<Outcome, RowsError> {
    if tx.get(&TrashTermsKey)?.is_none() {
        tx.put(&TrashTermsKey, &TrashTerms { keep_ms });
    }
    Ok(Outcome::Done)
}

/// How long removals can be undone.
pub(super) fn terms(rows: &dyn Rows) -> Result<TrashTerms, RowsError> {
    Ok(key::get(rows, &TrashTermsKey)?.unwrap_or_default())
}

/// What can be restored in all.
pub(super) fn total(rows: &dyn Rows) -> Result<TrashTotal, RowsError> {
    Ok(key::get(rows, &TrashTotalKey)?.unwrap_or_default())
}

/// Moves a file, directory or link to the trash.
pub(super) fn put(tx: &mut Tx<'_>, path: &FsPath, recursive: bool, wall_ms: i64) -> Result<Outcome, Stop> {
    let TrashTerms { keep_ms } = terms(tx.rows())?;
    if keep_ms == 0 {
        return names::remove(tx, path, recursive);
    }
    let path = &links::live(tx.rows(), path, Last::Keep)?;
    let ino = names::removable(tx.rows(), path, recursive)?;
    let inode = tx.require(&InodeKey(ino))?;
    let weight = names::unlink(tx, ino, &inode)?;
    let kept = Kept {
        path: path.clone(),
        removed: tx.moment(),
        removed_ms: wall_ms,
        deadline: tx.now().plus(keep_ms),
    };
    trash::put(tx, ino, inode, kept.deadline);
    tx.put(&path_key(&kept), &RemovedFrom { ino });
    tx.put(&KeptKey(ino), &kept);
    count(tx, weight, u64::saturating_add)?;
    let Weight {
        files,
        directories,
        bytes,
        ..
    } = weight;
    Ok(Outcome::Trashed {
        ino,
        files,
        directories,
        bytes,
        keep_ms,
    })
}

fn path_key(kept: &Kept) -> KeptPathKey {
    KeptPathKey {
        path: kept.path.to_string(),
        removed: kept.removed,
    }
}

/// Changes what the trash holds in all by a removal of this weight.
fn count(tx: &mut Tx<'_>, weight: Weight, change: fn(u64, u64) -> u64) -> Result<(), RowsError> {
    let mut total = total(tx.rows())?;
    total.entries = change(total.entries, 1);
    total.files = change(total.files, weight.files);
    total.directories = change(total.directories, weight.directories);
    total.bytes = change(total.bytes, weight.bytes);
    if total == TrashTotal::default() {
        tx.delete(&TrashTotalKey);
    } else {
        tx.put(&TrashTotalKey, &total);
    }
    Ok(())
}

/// What was removed last at a path.
fn newest_of(rows: &dyn Rows, path: &FsPath) -> Result<Option<Ino>, RowsError> {
    let newest = key::scan_prefix::<KeptPathKey>(rows, &KeptPathKey::prefix(path.as_str()), 1)?;
    Ok(newest.first().map(|(_, removed)| removed.ino))
}

/// A removal that can be undone now.
pub(super) fn find(rows: &dyn Rows, what: &TrashRef) -> Result<(Ino, Kept), Stop> {
    let ino = match what {
        TrashRef::Ino(ino) => Some(*ino),
        TrashRef::Path(path) => match newest_of(rows, path)? {
            Some(ino) => Some(ino),
            // It is known by the path that a link on its way leads to.
            None => match links::walk(rows, path, Last::Keep) {
                Ok(way) if way.path != *path => newest_of(rows, &way.path)?,
                Ok(_) | Err(Stop::Refused(_)) => None,
                Err(stop) => return Err(stop),
            },
        },
    };
    let now = key::require(rows, &ClockKey)?.now;
    if let Some(ino) = ino
        && let Some(kept) = key::get(rows, &KeptKey(ino))?
        && kept.deadline > now
    {
        return Ok((ino, kept));
    }
    Err(Refusal::NotInTrash { what: what.clone() }.into())
}

/// Gives what was removed a name again.
pub(super) fn restore(tx: &mut Tx<'_>, what: &TrashRef, to: Option<&FsPath>) -> Result<Outcome, Stop> {
    let (ino, kept) = find(tx.rows(), what)?;
    let to = &links::live(tx.rows(), to.unwrap_or(&kept.path), Last::Keep)?;
    let Some((above, name)) = to.parent_and_name() else {
        return Err(Refusal::Root.into());
    };
    let parent = match names::walk(tx.rows(), &above)? {
        Walk::Found(dentry) if dentry.directory => dentry.ino,
        Walk::Found(_) => return Err(Refusal::NotDirectory { path: above }.into()),
        Walk::Blocked(path) => return Err(Refusal::NotDirectory { path }.into()),
        Walk::Missing(directory) => return Err(Refusal::NoPlaceToRestore { directory }.into()),
    };
    if tx.get(&names::entry(parent, name))?.is_some() {
        return Err(Refusal::PlaceTaken { path: to.clone() }.into());
    }
    let inode: Inode = tx.require(&InodeKey(ino))?;
    if !Weight::of(tx.rows(), ino, &inode)?.fits(to) {
        return Err(Refusal::PathsTooLong.into());
    }
    forget(tx, ino)?;
    let deadline = kept.deadline;
    tx.delete(&TrashKey { deadline, ino });
    names::link(tx, parent, name, ino, inode)?;
    names::answer(tx, to, ino)
}

/// Has removals taken apart now. Those that are not in the trash any more are passed over: the list they were taken
/// from is of an earlier moment.
pub(super) fn empty(tx: &mut Tx<'_>, entries: &[TrashId]) -> Result<Outcome, Stop> {
    if entries.len() > limits::BATCH_ROWS_MAX {
        return Err(Refusal::TooMany {
            asked: entries.len() as u64,
            limit: limits::BATCH_ROWS_MAX as u64,
        }
        .into());
    }
    let before = total(tx.rows())?;
    for TrashId { ino, removed } in entries {
        let Some(kept) = tx.get(&KeptKey(*ino))? else {
            continue;
        };
        if kept.removed.0 != *removed || kept.deadline <= tx.now() {
            continue;
        }
        forget(tx, *ino)?;
        let mut row = TrashKey {
            deadline: kept.deadline,
            ino: *ino,
        };
        tx.delete(&row);
        row.deadline = tx.now();
        tx.put(&row, &Trashed);
    }
    let after = total(tx.rows())?;
    Ok(Outcome::Removed {
        files: before.files.saturating_sub(after.files),
        directories: before.directories.saturating_sub(after.directories),
        bytes: before.bytes.saturating_sub(after.bytes),
    })
}

/// A removal can be undone no more, or is being undone: what stands for it goes, but for its [`Trashed`].
pub(super) fn forget(tx: &mut Tx<'_>, ino: Ino) -> Result<(), RowsError> {
    let Some(kept) = tx.get(&KeptKey(ino))? else {
        return Ok(());
    };
    let inode = tx.require(&InodeKey(ino))?;
    let weight = Weight::of(tx.rows(), ino, &inode)?;
    tx.delete(&path_key(&kept));
    tx.delete(&KeptKey(ino));
    count(tx, weight, u64::saturating_sub)
}
