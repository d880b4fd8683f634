//! Snapshots: what a directory held at a moment, made and named in one small entry.
//!
//! A snapshot is a name, a directory and a moment; nothing is copied. What changes afterwards goes into history first
//! (`preserve`), and is read from there (`past`). A snapshot belongs to the directory itself: it moves with it, and is
//! read at `DIRECTORY/.snapshot/NAME/…`.
//!
//! A directory that has snapshots, or holds one that has, cannot be removed: its snapshots would be out of reach and
//! still take space. So it is in HDFS; the user removes them first, or keeps them.
//!
//! A directory that is being copied pins a moment, too (`tree_copies`).
//!
//! Invariants: the pins are exactly the snapshots and the copies under way, in the order of their moments; what only a removed snapshot saw is
//! in history no longer than pruning takes.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{DEPTH_MAX, SNAPSHOT_DIRECTORY, SNAPSHOTS_MAX};
use gabion_protocol::messages::master::{SnapshotAfter, SnapshotInfo, SnapshotPage};
use gabion_protocol::path::FsPath;

use super::chunks;
use super::command::ClientCommand;
use super::key::extent::Extent;
use super::key::history::HistoryKey;
use super::key::inode::{Inode, InodeKey};
use super::key::meta::{Pin, Pins, PinsKey, Pruning, PruningKey};
use super::key::snapshot::{Snapshot, SnapshotKey};
use super::key::total::TotalKey;
use super::key::{self, Key, Kind, Moment, Value};
use super::links::{self, End, Last};
use super::names;
use super::past::{self, Reach};
use super::preserve;
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};

/// What a path leads to when it may lead into a snapshot.
pub(super) enum Seen {
    /// A file or directory, as of now or of a moment.
    Entry { ino: Ino, at: Option<Moment> },
    /// The snapshots of a directory.
    List { root: Ino },
}

/// Refuses commands that would change a snapshot, or make something of the reserved name.
pub(super) fn check_written(command: &ClientCommand) -> Result<(), Refusal> {
    match command.written().into_iter().find(|path| path.is_in_snapshot()) {
        Some(path) => Err(Refusal::InSnapshot { path: path.clone() }),
        None => Ok(()),
    }
}

/// Walks down a path that is to be read.
pub(super) fn look(rows: &dyn Rows, path: &FsPath, last: Last) -> Result<Seen, Stop> {
    match links::walk(rows, path, last)?.end {
        End::Entry { dentry, at } => Ok(Seen::Entry { ino: dentry.ino, at }),
        End::Snapshots { root } => Ok(Seen::List { root }),
        End::Missing(path) => Err(Refusal::NotFound { path }.into()),
        End::Blocked(path) => Err(Refusal::NotDirectory { path }.into()),
    }
}

/// Where a snapshot is read.
fn place(directory: &FsPath, name: &str) -> Result<FsPath, Refusal> {
    let below = directory.join(SNAPSHOT_DIRECTORY).and_then(|all| all.join(name));
    below.map_err(|_| Refusal::SnapshotName)
}

/// Makes a snapshot of a directory.
pub(super) fn create(tx: &mut Tx<'_>, path: &FsPath, name: &str, wall_ms: i64) -> Result<Outcome, Stop> {
    // The at sign stands between path and name on the command line.
    if name == SNAPSHOT_DIRECTORY || name.contains('@') {
        return Err(Refusal::SnapshotName.into());
    }
    let path = &links::live(tx.rows(), path, Last::Follow)?;
    let shown = place(path, name)?;
    let dentry = names::find(tx.rows(), path)?;
    if !dentry.directory {
        return Err(Refusal::NotDirectory { path: path.clone() }.into());
    }
    let row = SnapshotKey {
        root: dentry.ino,
        name: name.to_owned(),
    };
    if tx.get(&row)?.is_some() {
        return Err(Refusal::Exists { path: shown }.into());
    }
    let mut pins = preserve::pins(tx.rows())?;
    check_number(&pins)?;
    let moment = tx.moment();
    let snapshot = Snapshot {
        moment,
        created_ms: wall_ms,
    };
    tx.put(&row, &snapshot);
    pins.live.push(Pin { moment, root: row.root });
    tx.put(&PinsKey, &pins);
    let info = info(tx.rows(), &row, snapshot)?;
    Ok(Outcome::Snapshot(info))
}

/// Removes a snapshot; what only it saw goes in steps.
pub(super) fn remove(tx: &mut Tx<'_>, path: &FsPath, name: &str) -> Result<Outcome, Stop> {
    let path = &links::live(tx.rows(), path, Last::Follow)?;
    let shown = place(path, name)?;
    let row = SnapshotKey {
        root: names::find(tx.rows(), path)?.ino,
        name: name.to_owned(),
    };
    let Some(snapshot) = tx.get(&row)? else {
        return Err(Refusal::NotFound { path: shown }.into());
    };
    tx.delete(&row);
    let pin = Pin {
        moment: snapshot.moment,
        root: row.root,
    };
    unpin(tx, pin)?;
    Ok(Outcome::Done)
}

/// Whether one more moment can be pinned.
pub(super) fn check_number(pins: &Pins) -> Result<(), Refusal> {
    match pins.live.len() < SNAPSHOTS_MAX {
        true => Ok(()),
        false => Err(Refusal::TooManySnapshots),
    }
}

/// A moment is kept no more, unless others keep it, too.
pub(super) fn unpin(tx: &mut Tx<'_>, pin: Pin) -> Result<(), RowsError> {
    let mut pins = preserve::pins(tx.rows())?;
    if let Some(place) = pins.live.iter().position(|live| *live == pin) {
        pins.live.remove(place);
    }
    if pins.live.is_empty() {
        tx.delete(&PinsKey);
    } else {
        tx.put(&PinsKey, &pins);
    }
    let begun = tx.get(&PruningKey)?;
    let pruning = Pruning {
        again: begun.is_some(),
        last: begun.map(|begun| begun.last).unwrap_or_default(),
    };
    tx.put(&PruningKey, &pruning);
    Ok(())
}

/// Refuses to remove a directory whose snapshots, or those of a directory below, would be out of reach.
pub(super) fn check_removal(rows: &dyn Rows, path: &FsPath, ino: Ino) -> Result<(), Stop> {
    for pin in preserve::pins(rows)?.live {
        let mut at = pin.root;
        for _ in 0..=DEPTH_MAX {
            if at == ino {
                return Err(Refusal::HasSnapshots { path: path.clone() }.into());
            }
            if at == Ino::ROOT {
                break;
            }
            let inode: Inode = key::require(rows, &InodeKey(at))?;
            at = inode.parent.ino;
        }
    }
    Ok(())
}

/// Removes from history what no snapshot sees any more, looking at `limit` rows at most; whether more is to be done.
pub(super) fn prune(tx: &mut Tx<'_>, limit: usize) -> Result<bool, RowsError> {
    let Some(mut pruning) = tx.get(&PruningKey)? else {
        return Ok(false);
    };
    let pins = preserve::pins(tx.rows())?.live;
    let kind = [Kind::History as u8];
    let mut from = kind.to_vec();
    if !pruning.last.is_empty() {
        from.clone_from(&pruning.last);
        from.push(0);
    }
    let page = key::scan::<HistoryKey>(tx.rows(), &from, &key::prefix_end(&kind), limit)?;
    let is_last = page.len() < limit;
    let mut unseen = Vec::new();
    {
        let mut reach = Reach::new(tx.rows());
        for (row, past) in &page {
            if !preserve::is_seen(&mut reach, &pins, &row.key, past.since, Some(row.until))? {
                unseen.push((row, past));
            }
        }
    }
    for (row, past) in unseen {
        if Kind::of(&row.key) == Some(Kind::Extent) {
            let extent = Extent::decode(&past.value).map_err(|why| key::corrupt(&row.key, why))?;
            chunks::release(tx, extent.chunk)?;
        }
        tx.delete(row);
    }
    match page.last() {
        Some((last, _)) if !is_last => pruning.last = last.encode(),
        // What was seen by a snapshot that was removed while this went on lies before, too.
        _ if pruning.again => pruning = Pruning::default(),
        _ => {
            tx.delete(&PruningKey);
            return Ok(false);
        }
    }
    tx.put(&PruningKey, &pruning);
    Ok(true)
}

/// The path of a directory as of now.
fn path_of(rows: &dyn Rows, ino: Ino) -> Result<FsPath, RowsError> {
    let (mut at, mut names) = (ino, Vec::new());
    while at != Ino::ROOT && names.len() <= DEPTH_MAX {
        let inode = key::require(rows, &InodeKey(at))?;
        names.push(inode.parent.name);
        at = inode.parent.ino;
    }
    names.reverse();
    let text = format!("/{}", names.join("/"));
    FsPath::parse(&text).map_err(|why| key::corrupt(&InodeKey(ino).encode(), why.to_string()))
}

fn info(rows: &dyn Rows, row: &SnapshotKey, snapshot: Snapshot) -> Result<SnapshotInfo, RowsError> {
    let total = past::require(rows, &TotalKey(row.root), Some(snapshot.moment))?;
    Ok(SnapshotInfo {
        directory: path_of(rows, row.root)?,
        root: row.root,
        name: row.name.clone(),
        moment: snapshot.moment.0,
        created_ms: snapshot.created_ms,
        files: total.files,
        directories: total.directories,
        bytes: total.bytes,
    })
}

/// A page of the snapshots of a directory, or of all, in the order of directories' numbers and of names.
pub(super) fn page(
    rows: &dyn Rows,
    of: Option<&FsPath>,
    after: Option<&SnapshotAfter>,
    limit: usize,
) -> Result<SnapshotPage, Stop> {
    let prefix = match of {
        Some(path) => {
            let path = links::walk(rows, path, Last::Follow)?.path;
            SnapshotKey::prefix(names::find(rows, &path)?.ino)
        }
        None => vec![Kind::Snapshot as u8],
    };
    let mut from = prefix.clone();
    if let Some(after) = after {
        let row = SnapshotKey {
            root: after.root,
            name: after.name.clone(),
        };
        let mut next = row.encode();
        next.push(0);
        from = from.max(next);
    }
    let end = key::prefix_end(&prefix);
    let mut found = key::scan::<SnapshotKey>(rows, &from, &end, limit.saturating_add(1))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let snapshots = found.iter().map(|(row, snapshot)| info(rows, row, *snapshot));
    Ok(SnapshotPage {
        snapshots: snapshots.collect::<Result<_, _>>()?,
        more,
    })
}
