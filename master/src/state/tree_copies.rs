//! Copies of whole directories by reference: many entries with one command.
//!
//! A copy is of one moment, which is pinned like a snapshot's, whoever writes meanwhile. It is built where nobody sees it,
//! and the last step gives it its name. Its lease is kept by an upload of its own, which is renewed, given up and expires
//! like any other: when its client dies, ticks take apart what was built, and unpin the moment. It is not resumed: a moment
//! kept for a client that may never come back would hold on to all that changes meanwhile, and a copy costs no bytes.
//!
//! Invariants: a copy under way pins its moment; what is built hangs under no name until it is whole; a directory's
//! subtotal is the original's from the beginning, so that a step writes no more than what it copies.

use gabion_protocol::ids::{Ino, SessionId, UploadGeneration};
use gabion_protocol::limits::{BATCH_ROWS_MAX, COPY_EXTENTS_MAX};
use gabion_protocol::messages::master::{Room, TreeCopy as Step, TreeProgress, UploadOptions};
use gabion_protocol::path::FsPath;

use super::key::attributes::{Attributes, AttributesKey};
use super::key::dentry::{Dentry, DentryKey};
use super::key::extent::{Extent, ExtentKey};
use super::key::inode::{Body, Content, Inode, InodeKey, Parent};
use super::key::meta::{Pin, PinsKey};
use super::key::total::{Total, TotalKey};
use super::key::tree_copy::{Frame, PartFile, TreeCopy, TreeCopyKey};
use super::key::{self, Key, Kind, Moment};
use super::links::{self, Last};
use super::names::{self, Walk};
use super::reply::{Outcome, Refusal};
use super::rows::RowsError;
use super::snapshots::{self, Seen};
use super::totals::Weight;
use super::tx::{Stop, Tx};
use super::uploads::{self, Owner};
use super::{chunks, past, preserve, quotas, read, trash};

/// Directories of one page whose turn is later: bounds the row that remembers them.
const DIRECTORIES_MAX: usize = 100;

/// Carries a step out.
pub(super) fn run(tx: &mut Tx<'_>, session: SessionId, step: &Step, wall_ms: i64) -> Result<Outcome, Stop> {
    match step {
        Step::Begin {
            source,
            to,
            parents,
            keep_times,
        } => {
            let options = UploadOptions {
                replicas: None,
                chunk_bytes: None,
                replace: false,
                parents: *parents,
                mode: 0,
                modified_ms: None,
            };
            begin(tx, session, (source, to), &options, (*keep_times, wall_ms))
        }
        Step::GoOn {
            copy,
            generation,
            limit,
        } => {
            let limit = usize::try_from(*limit).unwrap_or(BATCH_ROWS_MAX);
            let owner = Owner::new(session, *copy, *generation);
            go_on(tx, owner, limit.clamp(1, BATCH_ROWS_MAX), wall_ms)
        }
    }
}

fn begin(
    tx: &mut Tx<'_>,
    session: SessionId,
    (source, to): (&FsPath, &FsPath),
    options: &UploadOptions,
    (keep_times, wall_ms): (bool, i64),
) -> Result<Outcome, Stop> {
    let (source, to) = (
        &links::walk(tx.rows(), source, Last::Follow)?.path,
        &links::live(tx.rows(), to, Last::Keep)?,
    );
    let not_directory = || Refusal::NotDirectory { path: source.clone() };
    let Seen::Entry { ino, at } = snapshots::look(tx.rows(), source, Last::Follow)? else {
        return Err(not_directory().into());
    };
    let original = past::require(tx.rows(), &InodeKey(ino), at)?;
    if !original.is_directory() {
        return Err(not_directory().into());
    }
    if source.holds(to) {
        return Err(Refusal::IntoItself.into());
    }
    check_free(tx, to, options.parents)?;
    let pin = pin(tx, ino, at)?;
    let total = past::require(tx.rows(), &TotalKey(ino), Some(pin.moment))?;
    if !Weight::of_directory(&total).fits(to) {
        return Err(Refusal::PathsTooLong.into());
    }
    let content = Content {
        chunk_bytes: 0,
        ..uploads::empty(tx.world.cluster.settings, options)?
    };
    let upload = uploads::begin(tx, session, to, options, content);
    let copy = tx.next_ino()?;
    let room = Room::Whole { length: total.bytes };
    quotas::open(tx, copy, &upload, room, total.files.saturating_add(total.directories))?;
    uploads::begun(tx, copy, options.mode, upload, Vec::new());
    let mut row = TreeCopy {
        root: Ino::ROOT,
        pin,
        keep_times,
        todo: Vec::new(),
        part: None,
        files: 0,
        directories: 0,
        bytes: 0,
    };
    let parent = Parent::nowhere(tx.moment());
    row.root = directory(tx, &mut row, (ino, &original), parent, wall_ms)?;
    tx.put(&TreeCopyKey(copy), &row);
    let progress = progress(copy, UploadGeneration(1), &row, &total);
    Ok(Outcome::TreeCopied(progress))
}

/// Whether a directory could appear at the path now.
fn check_free(tx: &Tx<'_>, path: &FsPath, parents: bool) -> Result<(), Stop> {
    match names::walk(tx.rows(), path)? {
        Walk::Found(_) => Err(Refusal::Exists { path: path.clone() }.into()),
        Walk::Blocked(path) => Err(Refusal::NotDirectory { path }.into()),
        Walk::Missing(missing) if missing == *path || parents => Ok(()),
        Walk::Missing(path) => Err(Refusal::NotFound { path }.into()),
    }
}

/// Pins the moment a copy is of: this one, or that of the snapshot it is made from.
fn pin(tx: &mut Tx<'_>, source: Ino, at: Option<Moment>) -> Result<Pin, Stop> {
    let mut pins = preserve::pins(tx.rows())?;
    let known = pins.live.iter().position(|pin| Some(pin.moment) == at);
    let (place, pin) = match known.and_then(|place| pins.live.get(place).map(|pin| (place, *pin))) {
        Some(snapshot) => snapshot,
        None => {
            let pin = Pin {
                moment: tx.moment(),
                root: source,
            };
            (pins.live.len(), pin)
        }
    };
    snapshots::check_number(&pins)?;
    pins.live.insert(place, pin);
    tx.put(&PinsKey, &pins);
    Ok(pin)
}

fn progress(copy: Ino, generation: UploadGeneration, row: &TreeCopy, total: &Total) -> TreeProgress {
    TreeProgress {
        copy,
        generation,
        files: row.files,
        directories: row.directories,
        bytes: row.bytes,
        files_total: total.files,
        directories_total: total.directories,
        bytes_total: total.bytes,
        entry: None,
    }
}

/// What one step may still do.
struct Left {
    entries: usize,
    extents: usize,
    /// Whether any attributes have a past: most often none have, and files need no look there.
    attributes_have_past: bool,
}

/// Copies more, and gives the copy its name when it is whole.
fn go_on(tx: &mut Tx<'_>, owner: Owner, limit: usize, wall_ms: i64) -> Result<Outcome, Stop> {
    let copy = owner.upload;
    let (inode, upload) = owner.claim_tree_copy(tx)?;
    let mut row = tx.require(&TreeCopyKey(copy))?;
    let past_attributes = [Kind::History as u8, Kind::Attributes as u8];
    let found = tx
        .rows()
        .scan(&past_attributes, &key::prefix_end(&past_attributes), 1)?;
    let mut left = Left {
        entries: limit,
        extents: COPY_EXTENTS_MAX,
        attributes_have_past: !found.is_empty(),
    };
    while left.entries > 0 && left.extents > 0 {
        if let Some(part) = row.part.take() {
            row.part = go_on_with_file(tx, part, row.pin.moment, &mut left)?;
        } else if !row.todo.is_empty() {
            go_on_with_directory(tx, &mut row, &mut left, wall_ms)?;
        } else {
            break;
        }
    }
    let total = tx.require(&TotalKey(row.root))?;
    let mut progress = progress(copy, upload.generation, &row, &total);
    if row.part.is_some() || !row.todo.is_empty() {
        tx.put(&TreeCopyKey(copy), &row);
        uploads::save(tx, owner, inode, upload)?;
        return Ok(Outcome::TreeCopied(progress));
    }
    quotas::release(tx, copy)?;
    forget(tx, copy, row.pin)?;
    tx.delete(&InodeKey(copy));
    // No directory is replaced, nor merged with one that is there.
    let path = &links::live(tx.rows(), &upload.path, Last::Keep)?;
    check_free(tx, path, upload.parents)?;
    let place = uploads::Place {
        path,
        last: Last::Keep,
        parents: upload.parents,
        replace: false,
    };
    let (parent, path) = uploads::make_room(tx, place, wall_ms)?;
    let name = path.name().unwrap_or_default();
    let root = tx.require(&InodeKey(row.root))?;
    let root = names::link(tx, parent, name, row.root, root)?;
    progress.entry = Some(read::entry(tx.rows(), name, row.root, &root)?);
    Ok(Outcome::TreeCopied(progress))
}

/// Copies a page of the directory whose turn it is. Directories in it are made, and their turn comes next.
fn go_on_with_directory(tx: &mut Tx<'_>, row: &mut TreeCopy, left: &mut Left, wall_ms: i64) -> Result<(), RowsError> {
    let Some(mut frame) = row.todo.pop() else {
        return Ok(());
    };
    let at = Some(row.pin.moment);
    let prefix = DentryKey::prefix(frame.source);
    let mut from = prefix.clone();
    if !frame.last.is_empty() {
        from.extend(frame.last.as_bytes());
        from.push(0);
    }
    let limit = left.entries;
    let page = past::scan::<DentryKey>(tx.rows(), &from, &key::prefix_end(&prefix), limit, at)?;
    let mut is_last = page.len() < limit;
    let mut next = Vec::new();
    for (DentryKey { name, .. }, dentry) in page {
        if left.extents == 0 || next.len() >= DIRECTORIES_MAX || row.part.is_some() {
            is_last = false;
            break;
        }
        left.entries = left.entries.saturating_sub(1);
        let inode = past::require(tx.rows(), &InodeKey(dentry.ino), at)?;
        let since = tx.moment();
        let parent = Parent {
            ino: frame.target,
            name: name.clone(),
            since,
        };
        let ino = match &inode.body {
            Body::Directory => {
                row.directories += 1;
                let before = row.todo.len();
                let made = directory(tx, row, (dentry.ino, &inode), parent, wall_ms)?;
                next.extend(row.todo.drain(before..));
                made
            }
            Body::File(content) => {
                row.files += 1;
                row.bytes = row.bytes.saturating_add(content.length);
                file(tx, row, (dentry.ino, &inode, content), parent, (left, wall_ms))?
            }
            Body::Link { target } => {
                row.files += 1;
                row.bytes = row.bytes.saturating_add(target.len() as u64);
                leaf(
                    tx,
                    row,
                    (dentry.ino, &inode, inode.body.clone()),
                    parent,
                    (left, wall_ms),
                )?
            }
            Body::Upload(_) => return Err(key::corrupt(&InodeKey(dentry.ino).encode(), "an upload has a name")),
        };
        let copied = Dentry {
            ino,
            directory: dentry.directory,
            since,
        };
        tx.put(&names::entry(frame.target, &name), &copied);
        frame.last = name;
    }
    if !is_last {
        row.todo.push(frame);
    }
    row.todo.append(&mut next);
    Ok(())
}

/// The inode of a copy.
fn copied(original: &Inode, body: Body, parent: Parent, time: Option<i64>) -> Inode {
    let since = parent.since;
    Inode {
        body,
        mode: original.mode,
        modified_ms: time.unwrap_or(original.modified_ms),
        parent,
        since,
        generation: 0,
    }
}

/// Makes a directory, whose entries' turn comes later.
fn directory(
    tx: &mut Tx<'_>,
    row: &mut TreeCopy,
    (source, original): (Ino, &Inode),
    parent: Parent,
    wall_ms: i64,
) -> Result<Ino, RowsError> {
    let at = Some(row.pin.moment);
    let target = tx.next_ino()?;
    let total = Total {
        reserved: 0,
        reserved_entries: 0,
        since: Moment::default(),
        ..past::require(tx.rows(), &TotalKey(source), at)?
    };
    tx.put(&TotalKey(target), &total);
    let time = (!row.keep_times).then_some(wall_ms);
    tx.put(&InodeKey(target), &copied(original, Body::Directory, parent, time));
    attributes(tx, past::get(tx.rows(), &AttributesKey(source), at)?, target);
    row.todo.push(Frame {
        source,
        target,
        last: String::new(),
    });
    Ok(target)
}

fn attributes(tx: &mut Tx<'_>, found: Option<Attributes>, target: Ino) {
    if let Some(attributes) = found {
        let since = tx.moment();
        tx.put(&AttributesKey(target), &Attributes { since, ..attributes });
    }
}

/// Makes a file, with as many of its extents as this step still may.
fn file(
    tx: &mut Tx<'_>,
    row: &mut TreeCopy,
    (source, original, content): (Ino, &Inode, &Content),
    parent: Parent,
    (left, wall_ms): (&mut Left, i64),
) -> Result<Ino, RowsError> {
    let at = row.pin.moment;
    let content = Content {
        degraded: 0,
        ..*content
    };
    let body = Body::File(content);
    let target = leaf(tx, row, (source, original, body), parent, (left, wall_ms))?;
    if content.extents > 0 {
        let part = PartFile {
            source,
            target,
            next: 0,
        };
        row.part = go_on_with_file(tx, part, at, left)?;
    }
    Ok(target)
}

/// Makes what is no directory, without extents.
fn leaf(
    tx: &mut Tx<'_>,
    row: &TreeCopy,
    (source, original, body): (Ino, &Inode, Body),
    parent: Parent,
    (left, wall_ms): (&Left, i64),
) -> Result<Ino, RowsError> {
    let at = row.pin.moment;
    let target = tx.next_ino()?;
    let time = (!row.keep_times).then_some(wall_ms);
    tx.put(&InodeKey(target), &copied(original, body, parent, time));
    let past = left.attributes_have_past.then_some(at);
    let found = past::get(tx.rows(), &AttributesKey(source), past)?;
    // Of those that were given later there is no past: it would have been kept.
    attributes(tx, found.filter(|found| found.since <= at), target);
    Ok(target)
}

/// Copies extents of a file; what is left of it.
fn go_on_with_file(
    tx: &mut Tx<'_>,
    mut part: PartFile,
    at: Moment,
    left: &mut Left,
) -> Result<Option<PartFile>, RowsError> {
    // An inode is written whenever its extents change: they are as they were if it is.
    let live = tx.get(&InodeKey(part.source))?;
    let at = live.is_none_or(|inode| inode.since > at).then_some(at);
    let from = ExtentKey {
        ino: part.source,
        offset: part.next,
    };
    let end = key::prefix_end(&ExtentKey::prefix(part.source));
    let found = past::scan::<ExtentKey>(tx.rows(), &from.encode(), &end, left.extents, at)?;
    let is_last = found.len() < left.extents;
    left.extents = left.extents.saturating_sub(found.len());
    for (row, extent) in found {
        chunks::share(tx, extent.chunk)?;
        let copied = Extent {
            since: tx.moment(),
            ..extent
        };
        let to = ExtentKey {
            ino: part.target,
            offset: row.offset,
        };
        tx.put(&to, &copied);
        part.next = row.offset.saturating_add(1);
    }
    Ok((!is_last).then_some(part))
}

fn forget(tx: &mut Tx<'_>, copy: Ino, pin: Pin) -> Result<(), RowsError> {
    tx.delete(&TreeCopyKey(copy));
    snapshots::unpin(tx, pin)
}

/// A copy that did not get its name is given up: what was built of it is taken apart.
pub(super) fn end(tx: &mut Tx<'_>, copy: Ino) -> Result<(), RowsError> {
    let row = tx.require(&TreeCopyKey(copy))?;
    forget(tx, copy, row.pin)?;
    let root = tx.require(&InodeKey(row.root))?;
    let deadline = tx.now();
    trash::put(tx, row.root, root, deadline);
    Ok(())
}
