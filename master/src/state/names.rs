//! The namespace: paths, names, directories, rename, remove.
//!
//! Paths of users may have symbolic links on their way; [`walk`] and all below it know of none, and get the path that
//! [`links`] made of it.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::DEPTH_MAX;
use gabion_protocol::path::FsPath;

use super::key;
use super::key::dentry::{Dentry, DentryKey};
use super::key::inode::{Body, Inode, InodeKey, Parent};
use super::key::total::{Total, TotalKey};
use super::links::{self, End, Last};
use super::read;
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::totals::{self, Weight};
use super::tx::{Stop, Tx};
use super::{snapshots, trash};

/// Where a walk down a path ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Walk {
    /// At its end.
    Found(Dentry),
    /// Before it: this part of the path has no entry, and the directory above has.
    Missing(FsPath),
    /// Before it: this part of the path is no directory.
    Blocked(FsPath),
}

/// Walks down a path without links.
pub(super) fn walk(rows: &dyn Rows, path: &FsPath) -> Result<Walk, RowsError> {
    let mut at = Dentry {
        ino: Ino::ROOT,
        directory: true,
        since: key::Moment(0),
    };
    for (depth, name) in path.names().enumerate() {
        if !at.directory {
            return Ok(Walk::Blocked(prefix(path, depth)));
        }
        match key::get(rows, &entry(at.ino, name))? {
            Some(dentry) => at = dentry,
            None => return Ok(Walk::Missing(prefix(path, depth + 1))),
        }
    }
    Ok(Walk::Found(at))
}

/// What a path without links leads to.
pub(super) fn find(rows: &dyn Rows, path: &FsPath) -> Result<Dentry, Stop> {
    match walk(rows, path)? {
        Walk::Found(dentry) => Ok(dentry),
        Walk::Missing(path) => Err(Refusal::NotFound { path }.into()),
        Walk::Blocked(path) => Err(Refusal::NotDirectory { path }.into()),
    }
}

/// The directory a path leads to.
fn find_directory(rows: &dyn Rows, path: &FsPath) -> Result<Ino, Stop> {
    let dentry = find(rows, path)?;
    if dentry.directory {
        Ok(dentry.ino)
    } else {
        Err(Refusal::NotDirectory { path: path.clone() }.into())
    }
}

/// The first `names` names of a path.
pub(super) fn prefix(path: &FsPath, names: usize) -> FsPath {
    let mut prefix = path.clone();
    for _ in names..path.names().count() {
        if let Some((parent, _)) = prefix.parent_and_name() {
            prefix = parent;
        }
    }
    prefix
}

/// What directories made on the way get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making {
    pub(super) mode: u32,
    pub(super) wall_ms: i64,
}

/// Permission bits of directories that are made above a file or directory.
pub(super) const PARENTS_MODE: u32 = 0o755;

/// The directory at a path; it and those above are made if they are missing and `making` says how.
pub(super) fn directory(tx: &mut Tx<'_>, path: &FsPath, making: Option<Making>) -> Result<Ino, Stop> {
    let Some(making) = making else {
        return find_directory(tx.rows(), path);
    };
    let mut at = Ino::ROOT;
    for (depth, name) in path.names().enumerate() {
        at = match tx.get(&entry(at, name))? {
            Some(dentry) if dentry.directory => dentry.ino,
            Some(_) => {
                let path = prefix(path, depth + 1);
                return Err(Refusal::NotDirectory { path }.into());
            }
            None => make(tx, at, name, making)?,
        };
    }
    Ok(at)
}

/// The key of a name.
pub(super) fn entry(parent: Ino, name: &str) -> DentryKey {
    DentryKey {
        parent,
        name: name.to_owned(),
    }
}

fn make(tx: &mut Tx<'_>, parent: Ino, name: &str, making: Making) -> Result<Ino, RowsError> {
    let ino = tx.next_ino()?;
    let since = tx.moment();
    let inode = Inode {
        body: Body::Directory,
        mode: making.mode,
        modified_ms: making.wall_ms,
        parent: Parent {
            ino: parent,
            name: name.to_owned(),
            since,
        },
        since,
        generation: 0,
    };
    tx.put(&TotalKey(ino), &Total::default());
    link(tx, parent, name, ino, inode)?;
    Ok(ino)
}

/// Gives an inode a name. There must be no entry of that name.
pub(super) fn link(tx: &mut Tx<'_>, parent: Ino, name: &str, ino: Ino, mut inode: Inode) -> Result<Inode, RowsError> {
    let since = tx.moment();
    inode.parent = Parent {
        ino: parent,
        name: name.to_owned(),
        since,
    };
    inode.since = since;
    let dentry = Dentry {
        ino,
        directory: inode.is_directory(),
        since,
    };
    tx.put(&entry(parent, name), &dentry);
    tx.put(&InodeKey(ino), &inode);
    let weight = Weight::of(tx.rows(), ino, &inode)?;
    totals::add(tx, parent, name, weight)?;
    Ok(inode)
}

/// Takes an inode's name away. It must get another one, or go to the trash.
pub(super) fn unlink(tx: &mut Tx<'_>, ino: Ino, inode: &Inode) -> Result<Weight, RowsError> {
    let weight = Weight::of(tx.rows(), ino, inode)?;
    tx.delete(&entry(inode.parent.ino, &inode.parent.name));
    totals::subtract(tx, inode.parent.ino, weight)?;
    Ok(weight)
}

/// Whether a walk up from an inode ends at the root, and not in the trash.
pub(super) fn hangs_under_root(rows: &dyn Rows, inode: &Inode) -> Result<bool, RowsError> {
    let mut above = inode.parent.ino;
    for _ in 0..=DEPTH_MAX {
        if above == Ino::ROOT || above == Parent::NOWHERE {
            return Ok(above == Ino::ROOT);
        }
        match key::get(rows, &InodeKey(above))? {
            Some(inode) => above = inode.parent.ino,
            // The directory was taken apart; this is on its way.
            None => return Ok(false),
        }
    }
    Ok(false)
}

/// Makes a directory.
pub(super) fn mkdir(tx: &mut Tx<'_>, path: &FsPath, parents: bool, mode: u32, wall_ms: i64) -> Result<Outcome, Stop> {
    let path = &links::live(tx.rows(), path, Last::Keep)?;
    match walk(tx.rows(), path)? {
        Walk::Found(_) if parents => return existing(tx, path),
        Walk::Found(_) => return Err(Refusal::Exists { path: path.clone() }.into()),
        Walk::Missing(_) | Walk::Blocked(_) => {}
    }
    let Some((above, name)) = path.parent_and_name() else {
        return Err(Refusal::Root.into());
    };
    let making = Making {
        mode: PARENTS_MODE,
        wall_ms,
    };
    let parent = directory(tx, &above, parents.then_some(making))?;
    let ino = make(tx, parent, name, Making { mode, wall_ms })?;
    answer(tx, path, ino)
}

/// The directory that is at a path already, or that a link there leads to.
fn existing(tx: &Tx<'_>, path: &FsPath) -> Result<Outcome, Stop> {
    let exists = Refusal::Exists { path: path.clone() };
    let way = match links::walk(tx.rows(), path, Last::Follow) {
        Ok(way) => way,
        Err(Stop::Refused(_)) => return Err(exists.into()),
        Err(stop) => return Err(stop),
    };
    match way.end {
        End::Entry { dentry, at: None } if dentry.directory => answer(tx, &way.path, dentry.ino),
        _ => Err(exists.into()),
    }
}

/// Renames a file, directory or link.
pub(super) fn rename(tx: &mut Tx<'_>, from: &FsPath, to: &FsPath, replace: bool) -> Result<Outcome, Stop> {
    let (from, to) = (
        &links::live(tx.rows(), from, Last::Keep)?,
        &links::live(tx.rows(), to, Last::Keep)?,
    );
    let (Some(_), Some((above, name))) = (from.parent_and_name(), to.parent_and_name()) else {
        return Err(Refusal::Root.into());
    };
    let source = find(tx.rows(), from)?;
    if from == to {
        return answer(tx, to, source.ino);
    }
    if source.directory && from.holds(to) {
        return Err(Refusal::IntoItself.into());
    }
    let parent = find_directory(tx.rows(), &above)?;
    if let Some(target) = tx.get(&entry(parent, name))? {
        make_way(tx, source, target, to, replace)?;
    }
    let inode = tx.require(&InodeKey(source.ino))?;
    let weight = unlink(tx, source.ino, &inode)?;
    if !weight.fits(to) {
        return Err(Refusal::PathsTooLong.into());
    }
    link(tx, parent, name, source.ino, inode)?;
    answer(tx, to, source.ino)
}

/// Removes what stands where something is renamed to, by the rules of rename(2).
fn make_way(tx: &mut Tx<'_>, source: Dentry, target: Dentry, to: &FsPath, replace: bool) -> Result<(), Stop> {
    let path = to.clone();
    if !replace {
        return Err(Refusal::Exists { path }.into());
    }
    match (source.directory, target.directory) {
        (true, false) => return Err(Refusal::NotDirectory { path }.into()),
        (false, true) => return Err(Refusal::IsDirectory { path }.into()),
        (true, true) if !is_empty(tx.rows(), target.ino)? => return Err(Refusal::NotEmpty { path }.into()),
        (true, true) => snapshots::check_removal(tx.rows(), to, target.ino)?,
        (false, false) => {}
    }
    discard(tx, target.ino)?;
    Ok(())
}

/// Permission bits there are.
const MODE_MAX: u32 = 0o7777;

/// Changes what is told of what a path leads to.
pub(super) fn set_attributes(
    tx: &mut Tx<'_>,
    path: &FsPath,
    mode: Option<u32>,
    modified_ms: Option<i64>,
) -> Result<Outcome, Stop> {
    if let Some(asked) = mode.filter(|mode| *mode > MODE_MAX) {
        return Err(Refusal::Mode { asked }.into());
    }
    let path = &links::live(tx.rows(), path, Last::Follow)?;
    let ino = find(tx.rows(), path)?.ino;
    let mut inode = tx.require(&InodeKey(ino))?;
    inode.mode = mode.unwrap_or(inode.mode);
    inode.modified_ms = modified_ms.unwrap_or(inode.modified_ms);
    inode.since = tx.moment();
    tx.put(&InodeKey(ino), &inode);
    answer(tx, path, ino)
}

/// What may be removed at a path without links.
pub(super) fn removable(rows: &dyn Rows, path: &FsPath, recursive: bool) -> Result<Ino, Stop> {
    if path.is_root() {
        return Err(Refusal::Root.into());
    }
    let dentry = find(rows, path)?;
    if dentry.directory && !recursive && !is_empty(rows, dentry.ino)? {
        return Err(Refusal::NotEmpty { path: path.clone() }.into());
    }
    if dentry.directory {
        snapshots::check_removal(rows, path, dentry.ino)?;
    }
    Ok(dentry.ino)
}

/// Removes a file, directory or link for good.
pub(super) fn remove(tx: &mut Tx<'_>, path: &FsPath, recursive: bool) -> Result<Outcome, Stop> {
    let path = &links::live(tx.rows(), path, Last::Keep)?;
    let ino = removable(tx.rows(), path, recursive)?;
    let weight = discard(tx, ino)?;
    Ok(Outcome::Removed {
        files: weight.files,
        directories: weight.directories,
        bytes: weight.bytes,
    })
}

/// Unlinks an inode for good: with all it holds it is taken apart later. So goes, too, a file that another one
/// replaces: who replaces a file says so, and a job that rewrites its files every hour would fill the cluster with
/// versions nobody asked to keep.
pub(super) fn discard(tx: &mut Tx<'_>, ino: Ino) -> Result<Weight, RowsError> {
    let inode = tx.require(&InodeKey(ino))?;
    let weight = unlink(tx, ino, &inode)?;
    let deadline = tx.now();
    trash::put(tx, ino, inode, deadline);
    Ok(weight)
}

fn is_empty(rows: &dyn Rows, directory: Ino) -> Result<bool, RowsError> {
    let prefix = DentryKey::prefix(directory);
    Ok(rows.scan(&prefix, &key::prefix_end(&prefix), 1)?.is_empty())
}

/// Answers with the entry as it is now.
pub(super) fn answer(tx: &Tx<'_>, path: &FsPath, ino: Ino) -> Result<Outcome, Stop> {
    let inode = tx.require(&InodeKey(ino))?;
    let name = path.name().unwrap_or("/");
    Ok(Outcome::Entry(read::entry(tx.rows(), name, ino, &inode)?))
}
