//! Symbolic links: names that stand for a path.
//!
//! A link is an inode whose body is its target. So it moves, goes to the trash, and is kept for snapshots like any other,
//! and a listing shows its target without a further read. A directory's entry says only whether it leads to a directory:
//! what meets one that does not looks at the inode, so that ways without a link cost what they always did.
//!
//! [`walk`] is the one place where links are followed. Commands first have their path led to the place it means
//! ([`live`]); all other rules then see a path without a link on its way, so that what they say of paths (that one
//! holds the other, how long it may be) holds of places.
//!
//! What leads where:
//! * a relative target begins at the directory that its link is in, an absolute one at the root;
//! * a link in a snapshot leads to what was there at the snapshot's moment, as long as its target is relative and does
//!   not lead out of the snapshot's directory: there it leads to nothing. An absolute one leads to what is there now;
//! * links on the way are always followed, one at the end by those that ask for what it leads to ([`Last`]).
//!
//! Invariants: a walk follows at most [`LINKS_MAX`] links and looks up at most [`WALK_NAMES_MAX`] names; nothing is
//! changed in a snapshot, whatever link leads there.

use std::borrow::Cow;

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{LINKS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, SNAPSHOT_DIRECTORY, WALK_NAMES_MAX};
use gabion_protocol::messages::master::{AttributeChange, LinkChange};
use gabion_protocol::path::FsPath;

use super::key::dentry::Dentry;
use super::key::inode::{Body, Inode, InodeKey, Parent};
use super::key::snapshot::SnapshotKey;
use super::key::{self, Moment};
use super::reply::{Outcome, Refusal};
use super::rows::Rows;
use super::tx::{Stop, Tx};
use super::{attributes, names, past, uploads};

/// Permission bits of every link: those of what it leads to count.
const LINK_MODE: u32 = 0o777;

/// What becomes of a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// It is followed.
    Follow,
    /// It is what is meant.
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Way {
    /// The same place, by a path without a link on its way. What is missing at its end is as it was asked for.
    pub(super) path: FsPath,
    pub(super) end: End,
}

/// What is at the end of a path.
#[derive(Debug)]
pub(super) enum End {
    /// A file, directory or link, as of now or of a snapshot's moment.
    Entry { dentry: Dentry, at: Option<Moment> },
    /// The snapshots of a directory.
    Snapshots { root: Ino },
    /// Nothing: this part of the path has no entry, and the directory above it has.
    Missing(FsPath),
    /// Nothing: this part of the path is no directory.
    Blocked(FsPath),
}

/// Walks down a path.
pub(super) fn walk(rows: &dyn Rows, path: &FsPath, last: Last) -> Result<Way, Stop> {
    let mut left: Vec<Cow<'_, str>> = path.names().map(Cow::Borrowed).collect();
    left.reverse();
    let walk = Walk {
        rows,
        asked: path,
        last,
        way: Vec::with_capacity(left.len()),
        at: None,
        bottom: 0,
        left,
        followed: 0,
        looked_up: 0,
    };
    walk.run()
}

/// Where a path leads that a command changes something at: no path into a snapshot.
pub(super) fn live(rows: &dyn Rows, path: &FsPath, last: Last) -> Result<FsPath, Stop> {
    let path = walk(rows, path, last)?.path;
    match path.is_in_snapshot() {
        true => Err(Refusal::InSnapshot { path }.into()),
        false => Ok(path),
    }
}

/// A walk on its way.
struct Walk<'a> {
    rows: &'a dyn Rows,
    asked: &'a FsPath,
    last: Last,
    /// The names from the root to where it stands, each with what it leads to.
    way: Vec<(Cow<'a, str>, Ino)>,
    /// In a snapshot, its moment.
    at: Option<Moment>,
    /// Names down to the snapshot's directory: no link leads above it.
    bottom: usize,
    /// The names to come, the next one last.
    left: Vec<Cow<'a, str>>,
    followed: usize,
    looked_up: usize,
}

impl<'a> Walk<'a> {
    fn run(mut self) -> Result<Way, Stop> {
        let mut dentry = Dentry {
            ino: Ino::ROOT,
            directory: true,
            since: Moment(0),
        };
        while let Some(name) = self.left.pop() {
            self.looked_up += 1;
            if self.looked_up > WALK_NAMES_MAX {
                return Err(self.too_many());
            }
            if name == ".." {
                dentry = self.up()?;
                continue;
            }
            if name == SNAPSHOT_DIRECTORY && self.at.is_none() {
                let root = self.here();
                self.way.push((name, root));
                let Some(name) = self.left.pop() else {
                    return self.end(End::Snapshots { root });
                };
                match self.enter_snapshot(root, name)? {
                    Some(root) => dentry = root,
                    None => return self.missing(),
                }
                continue;
            }
            let Some(found) = past::get(self.rows, &names::entry(self.here(), &name), self.at)? else {
                self.way.push((name, Ino(0)));
                return self.missing();
            };
            let is_last = self.left.is_empty();
            let is_meant = found.directory || (is_last && self.last == Last::Keep);
            if !is_meant {
                let inode = past::require(self.rows, &InodeKey(found.ino), self.at)?;
                if let Body::Link { target } = inode.body {
                    dentry = self.follow(&target)?;
                    continue;
                }
            }
            self.way.push((name, found.ino));
            if !found.directory && !is_last {
                return self.blocked();
            }
            dentry = found;
        }
        let at = self.at;
        self.end(End::Entry { dentry, at })
    }

    /// The directory it stands in.
    fn here(&self) -> Ino {
        self.way.last().map_or(Ino::ROOT, |(_, ino)| *ino)
    }

    fn standing(&self) -> Dentry {
        Dentry {
            ino: self.here(),
            directory: true,
            since: Moment(0),
        }
    }

    fn enter_snapshot(&mut self, root: Ino, name: Cow<'a, str>) -> Result<Option<Dentry>, Stop> {
        let row = SnapshotKey {
            root,
            name: name.clone().into_owned(),
        };
        self.way.push((name, root));
        let Some(snapshot) = key::get(self.rows, &row)? else {
            return Ok(None);
        };
        self.at = Some(snapshot.moment);
        self.bottom = self.way.len();
        Ok(Some(self.standing()))
    }

    /// To the directory above; the root's is the root.
    fn up(&mut self) -> Result<Dentry, Stop> {
        if self.at.is_some() && self.way.len() == self.bottom {
            let path = self.asked.clone();
            return Err(Refusal::NotFound { path }.into());
        }
        self.way.pop();
        Ok(self.standing())
    }

    /// Goes on along a link's target instead of the link.
    fn follow(&mut self, target: &str) -> Result<Dentry, Stop> {
        self.followed += 1;
        if self.followed > LINKS_MAX {
            return Err(self.too_many());
        }
        if target.starts_with('/') {
            self.way.clear();
            self.at = None;
        }
        let names = target.split('/').filter(|name| !name.is_empty() && *name != ".");
        let names = names.map(|name| Cow::Owned(name.to_owned()));
        self.left.extend(names.rev());
        Ok(self.standing())
    }

    fn too_many(&self) -> Stop {
        let path = self.asked.clone();
        Refusal::TooManyLinks { path }.into()
    }

    fn missing(self) -> Result<Way, Stop> {
        let path = self.path(&[])?;
        match self.left.iter().any(|name| name == "..") {
            true => Err(Refusal::NotFound { path }.into()),
            false => self.end(End::Missing(path)),
        }
    }

    fn blocked(self) -> Result<Way, Stop> {
        let path = self.path(&[])?;
        match self.left.iter().any(|name| name == "..") {
            true => Err(Refusal::NotDirectory { path }.into()),
            false => self.end(End::Blocked(path)),
        }
    }

    fn end(self, end: End) -> Result<Way, Stop> {
        let path = match self.followed {
            0 => self.asked.clone(),
            _ => self.path(&self.left)?,
        };
        Ok(Way { path, end })
    }

    /// The way so far, and names below it, the first one last.
    fn path(&self, below: &[Cow<'_, str>]) -> Result<FsPath, Refusal> {
        let way = self.way.iter().map(|(name, _)| &**name);
        let names: Vec<&str> = way.chain(below.iter().rev().map(|name| &**name)).collect();
        FsPath::parse(&format!("/{}", names.join("/"))).map_err(|_| Refusal::PathsTooLong)
    }
}

/// Whether a text can be a link's target: what a path may have, or a part of one.
pub(super) fn is_target(text: &str) -> bool {
    let names_fit = text.split('/').all(|name| name.len() <= NAME_BYTES_MAX);
    !text.is_empty() && text.len() <= PATH_BYTES_MAX && !text.contains('\0') && names_fit
}

/// Makes a link, or changes what is told of one.
pub(super) fn change(tx: &mut Tx<'_>, change: &LinkChange, wall_ms: i64) -> Result<Outcome, Stop> {
    match change {
        LinkChange::Make {
            path,
            target,
            replace,
            parents,
            modified_ms,
        } => {
            let making = uploads::Place {
                path,
                last: Last::Keep,
                parents: *parents,
                replace: *replace,
            };
            make(tx, making, target, *modified_ms, wall_ms)
        }
        LinkChange::Tell {
            path,
            modified_ms,
            owner,
            group,
        } => tell(tx, path, *modified_ms, owner.as_ref(), group.as_ref()),
    }
}

fn make(
    tx: &mut Tx<'_>,
    place: uploads::Place<'_>,
    target: &str,
    modified_ms: Option<i64>,
    wall_ms: i64,
) -> Result<Outcome, Stop> {
    if !is_target(target) {
        return Err(Refusal::LinkTarget.into());
    }
    let (parent, path) = uploads::make_room(tx, place, wall_ms)?;
    let ino = tx.next_ino()?;
    let since = tx.moment();
    let inode = Inode {
        body: Body::Link {
            target: target.to_owned(),
        },
        mode: LINK_MODE,
        modified_ms: modified_ms.unwrap_or(wall_ms),
        parent: Parent::nowhere(since),
        since,
        generation: 0,
    };
    names::link(tx, parent, path.name().unwrap_or_default(), ino, inode)?;
    names::answer(tx, &path, ino)
}

/// Changes what is told of what a path names, and not of what that leads to.
fn tell(
    tx: &mut Tx<'_>,
    path: &FsPath,
    modified_ms: Option<i64>,
    owner: Option<&String>,
    group: Option<&String>,
) -> Result<Outcome, Stop> {
    let path = &live(tx.rows(), path, Last::Keep)?;
    let ino = names::find(tx.rows(), path)?.ino;
    if let Some(modified_ms) = modified_ms {
        let mut inode = tx.require(&InodeKey(ino))?;
        inode.modified_ms = modified_ms;
        inode.since = tx.moment();
        tx.put(&InodeKey(ino), &inode);
    }
    if owner.is_some() || group.is_some() {
        let change = AttributeChange::Owner {
            owner: owner.cloned(),
            group: group.cloned(),
        };
        attributes::change_of(tx, path, ino, &change)?;
    }
    names::answer(tx, path, ino)
}
