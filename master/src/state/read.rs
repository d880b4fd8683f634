//! Queries: what the server shell reads of the state. Pure functions over rows, of a snapshot or of now.

mod chunks;

use gabion_protocol::ids::{Ino, RequestId, ServerId, StateTime};
use gabion_protocol::limits::{
    CHUNK_BYTES_MAX, DEPTH_MAX, GRANT_CHUNKS_MAX, LIST_PAGE_MAX, SNAPSHOT_DIRECTORY, SNAPSHOTS_MAX,
};
use gabion_protocol::messages::master::{
    Attributes, Entry, EntryKind, Page, QuotaReport, SnapshotAfter, SnapshotPage, TrashAfter, TrashEntry, TrashId,
    TrashPage, TrashRef, TrashTotals,
};
use gabion_protocol::path::FsPath;

use super::key::attributes::AttributesKey;
use super::key::chunk::{Chunk, ChunkKey};
use super::key::dentry::DentryKey;
use super::key::extent::{Extent, ExtentKey};
use super::key::inode::{Body, Inode, InodeKey, Upload};
use super::key::kept::{Kept, KeptKey};
use super::key::meta::{ClockKey, Cluster, ClusterKey, LevelKey, TrashTerms, TrashTermsKey};
use super::key::reply::ReplyKey;
use super::key::snapshot::SnapshotKey;
use super::key::total::{Total, TotalKey};
use super::key::trash::TrashKey;
use super::key::{self, Key, Kind, Moment};
use super::links::{self, End, Last};
use super::reply::Refusal;
use super::rows::{Rows, RowsError};
use super::snapshots::{self, Seen};
use super::tx::Stop;
use super::{kept, past, quotas};

pub use chunks::{
    chunk, chunk_info, chunks, damage, damage_reports, damage_reports_after, damaged, degraded, drop_orders, held,
    server, servers,
};

/// How far the first look for an extent goes back, and how much further each next one: three reach as far as the longest
/// chunk.
const LOOK_BACK: u64 = 64 << 10;
const LOOK_BACK_FACTOR: u64 = 64;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A rule forbids it; [`Refusal::to_wire`] makes the error that travels.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

impl From<Stop> for ReadError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            Stop::Rows(error) => Self::Rows(error),
        }
    }
}

/// Cluster, timeline and settings; `None` before the first command.
///
/// # Errors
/// [`RowsError`] if the store fails or a row is damaged, as everywhere here.
pub fn cluster(rows: &dyn Rows) -> Result<Option<Cluster>, RowsError> {
    key::get(rows, &ClusterKey)
}

/// Whether a command has run, and its answer is kept.
///
/// # Errors
/// [`RowsError`].
pub fn has_run(rows: &dyn Rows, request: RequestId) -> Result<bool, RowsError> {
    let answered = key::get(rows, &ReplyKey::of(request.session, request.sequence))?;
    Ok(answered.is_some_and(|answered| answered.sequence == request.sequence))
}

/// State time; 0 before the first command.
///
/// # Errors
/// [`RowsError`].
pub fn now(rows: &dyn Rows) -> Result<StateTime, RowsError> {
    Ok(key::get(rows, &ClockKey)?.map_or(StateTime(0), |clock| clock.now))
}

/// The feature level; 0 before the first command.
///
/// # Errors
/// [`RowsError`].
pub fn level(rows: &dyn Rows) -> Result<u32, RowsError> {
    Ok(key::get(rows, &LevelKey)?.map_or(0, |level| level.level))
}

/// What the whole namespace holds, the root directory not counted.
///
/// # Errors
/// [`RowsError`].
pub fn totals(rows: &dyn Rows) -> Result<Total, RowsError> {
    Ok(key::get(rows, &TotalKey(Ino::ROOT))?.unwrap_or_default())
}

/// What a path leads to, now or in a snapshot.
#[derive(Debug, Clone)]
pub struct Place {
    /// The inode's number.
    pub ino: Ino,
    /// The inode.
    pub inode: Inode,
    /// As of which moment; `None` for now.
    pub at: Option<Moment>,
}

/// The inode a path leads to, every link followed.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`], [`Refusal::TooManyLinks`], as everywhere here;
/// [`Refusal::IsDirectory`] where snapshots are listed.
pub fn resolve(rows: &dyn Rows, path: &FsPath) -> Result<Place, ReadError> {
    match snapshots::look(rows, path, Last::Follow)? {
        Seen::Entry { ino, at } => Ok(Place {
            ino,
            inode: past::require(rows, &InodeKey(ino), at)?,
            at,
        }),
        Seen::List { .. } => Err(Refusal::IsDirectory { path: path.clone() }.into()),
    }
}

/// The path that leads to an inode; `None` if none does: it is gone, in the trash, or an upload.
///
/// # Errors
/// [`RowsError`].
pub fn path_of(rows: &dyn Rows, ino: Ino) -> Result<Option<String>, RowsError> {
    let (mut names, mut at) = (Vec::new(), ino);
    for _ in 0..=DEPTH_MAX {
        if at == Ino::ROOT {
            names.reverse();
            return Ok(Some(format!("/{}", names.join("/"))));
        }
        let Some(inode) = key::get(rows, &InodeKey(at))? else {
            return Ok(None);
        };
        names.push(inode.parent.name);
        at = inode.parent.ino;
    }
    Ok(None)
}

/// What is at a path, as users see it: a link at its end itself.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn stat(rows: &dyn Rows, path: &FsPath) -> Result<Entry, ReadError> {
    let name = path.name().unwrap_or("/");
    Ok(match snapshots::look(rows, path, Last::Keep)? {
        Seen::Entry { ino, at } => {
            let inode = past::require(rows, &InodeKey(ino), at)?;
            entry_at(rows, name, ino, &inode, at)?
        }
        Seen::List { root } => snapshot_list(rows, root)?,
    })
}

/// The directory that shows a directory's snapshots.
fn snapshot_list(rows: &dyn Rows, root: Ino) -> Result<Entry, RowsError> {
    let inode = key::require(rows, &InodeKey(root))?;
    let mut entry = entry(rows, SNAPSHOT_DIRECTORY, root, &inode)?;
    entry.children = key::scan_prefix::<SnapshotKey>(rows, &SnapshotKey::prefix(root), SNAPSHOTS_MAX)?.len() as u64;
    entry.length = 0;
    Ok(entry)
}

/// Where a path leads once every link is followed, and what is there.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn follow(rows: &dyn Rows, path: &FsPath) -> Result<(FsPath, Entry), ReadError> {
    let path = links::walk(rows, path, Last::Follow)?.path;
    let entry = stat(rows, &path)?;
    Ok((path, entry))
}

/// Where a path leads once every link is followed, and whether something is there. Nothing need be, in a directory that is.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn place(rows: &dyn Rows, path: &FsPath) -> Result<(FsPath, bool), ReadError> {
    let way = links::walk(rows, path, Last::Follow)?;
    match way.end {
        End::Missing(path) if path != way.path => Err(Refusal::NotFound { path }.into()),
        End::Blocked(path) => Err(Refusal::NotDirectory { path }.into()),
        End::Missing(path) => Ok((path, false)),
        End::Entry { .. } | End::Snapshots { .. } => Ok((way.path, true)),
    }
}

/// Owner, group and extended attributes of what is at a path: of a link at its end itself.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn attributes(rows: &dyn Rows, path: &FsPath) -> Result<Attributes, ReadError> {
    let row = match snapshots::look(rows, path, Last::Keep)? {
        Seen::Entry { ino, at } => past::get(rows, &AttributesKey(ino), at)?.unwrap_or_default(),
        Seen::List { .. } => key::attributes::Attributes::default(),
    };
    Ok(Attributes {
        owner: row.owner,
        group: row.group,
        extended: row.extended.into_iter().collect(),
    })
}

/// An inode as users see it.
///
/// # Errors
/// [`RowsError`].
pub fn entry(rows: &dyn Rows, name: &str, ino: Ino, inode: &Inode) -> Result<Entry, RowsError> {
    entry_at(rows, name, ino, inode, None)
}

/// An inode as users see it, as of a moment.
///
/// # Errors
/// [`RowsError`].
pub fn entry_at(rows: &dyn Rows, name: &str, ino: Ino, inode: &Inode, at: Option<Moment>) -> Result<Entry, RowsError> {
    let mut entry = Entry {
        name: name.to_owned(),
        ino,
        kind: EntryKind::File,
        length: 0,
        crc: 0,
        replicas: 0,
        chunk_bytes: 0,
        children: 0,
        mode: inode.mode,
        modified_ms: inode.modified_ms,
        degraded: false,
    };
    match &inode.body {
        Body::Directory => {
            let total = past::require(rows, &TotalKey(ino), at)?;
            entry.kind = EntryKind::Directory;
            entry.length = total.bytes;
            entry.children = total.files + total.directories;
        }
        Body::File(content) | Body::Upload(Upload { content, .. }) => {
            entry.length = content.length;
            entry.crc = content.crc.unwrap_or(0);
            entry.replicas = content.replicas;
            entry.chunk_bytes = content.chunk_bytes;
            entry.children = content.extents;
            entry.degraded = content.degraded > 0;
        }
        Body::Link { target } => {
            entry.length = target.len() as u64;
            entry.kind = EntryKind::Link { target: target.clone() };
        }
    }
    Ok(entry)
}

/// A page of the directory a path leads to, in the order of names' bytes, after `after`.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn list(rows: &dyn Rows, path: &FsPath, after: Option<&str>, limit: u32) -> Result<Page, ReadError> {
    let limit = usize::try_from(limit).map_or(LIST_PAGE_MAX, |limit| limit.clamp(1, LIST_PAGE_MAX));
    let (directory, at) = match snapshots::look(rows, path, Last::Follow)? {
        Seen::Entry { ino, at } => (ino, at),
        Seen::List { root } => return Ok(list_snapshots(rows, root, after, limit)?),
    };
    let inode = past::require(rows, &InodeKey(directory), at)?;
    if !inode.is_directory() {
        return Err(Refusal::NotDirectory { path: path.clone() }.into());
    }
    let prefix = DentryKey::prefix(directory);
    let mut from = prefix.clone();
    if let Some(after) = after {
        from.extend(after.as_bytes());
        from.push(0);
    }
    let mut names = past::scan::<DentryKey>(rows, &from, &key::prefix_end(&prefix), limit + 1, at)?;
    let more = names.len() > limit;
    names.truncate(limit);
    let mut entries = Vec::with_capacity(names.len());
    for (DentryKey { name, .. }, dentry) in names {
        let inode = past::require(rows, &InodeKey(dentry.ino), at)?;
        entries.push(entry_at(rows, &name, dentry.ino, &inode, at)?);
    }
    Ok(Page { entries, more })
}

/// A page of a directory's snapshots, each as the directory was then.
fn list_snapshots(rows: &dyn Rows, root: Ino, after: Option<&str>, limit: usize) -> Result<Page, RowsError> {
    let prefix = SnapshotKey::prefix(root);
    let mut from = prefix.clone();
    if let Some(after) = after {
        from.extend(after.as_bytes());
        from.push(0);
    }
    let mut found = key::scan::<SnapshotKey>(rows, &from, &key::prefix_end(&prefix), limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let mut entries = Vec::with_capacity(found.len());
    for (SnapshotKey { name, .. }, snapshot) in found {
        let at = Some(snapshot.moment);
        let inode = past::require(rows, &InodeKey(root), at)?;
        entries.push(entry_at(rows, &name, root, &inode, at)?);
    }
    Ok(Page { entries, more })
}

/// A page of the snapshots of a directory, or of all, after `after`.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn snapshots(
    rows: &dyn Rows,
    of: Option<&FsPath>,
    after: Option<&SnapshotAfter>,
    limit: u32,
) -> Result<SnapshotPage, ReadError> {
    let limit = usize::try_from(limit).map_or(LIST_PAGE_MAX, |limit| limit.clamp(1, LIST_PAGE_MAX));
    Ok(snapshots::page(rows, of, after, limit)?)
}

/// The quotas of a directory and of those above it.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotDirectory`].
pub fn quota(rows: &dyn Rows, path: &FsPath) -> Result<QuotaReport, ReadError> {
    Ok(quotas::report(rows, path)?)
}

/// A page of the trash after `after`, what goes first in front.
///
/// # Errors
/// [`RowsError`].
pub fn trash(rows: &dyn Rows, after: Option<TrashAfter>, limit: u32) -> Result<TrashPage, RowsError> {
    let limit = usize::try_from(limit).map_or(LIST_PAGE_MAX, |limit| limit.clamp(1, LIST_PAGE_MAX));
    let now = now(rows)?;
    // What is due is gone, whether a tick has begun with it or not.
    let first = TrashKey {
        deadline: now.plus(1),
        ino: Ino(0),
    };
    let mut from = first.encode();
    if let Some(TrashAfter { goes, ino }) = after {
        let mut next = TrashKey { deadline: goes, ino }.encode();
        next.push(0);
        from = from.max(next);
    }
    let mut found = key::scan::<TrashKey>(rows, &from, &key::prefix_end(&[Kind::Trash as u8]), limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let mut entries = Vec::with_capacity(found.len());
    for (row, _) in found {
        entries.push(trash_entry(rows, row.ino, key::require(rows, &KeptKey(row.ino))?)?);
    }
    let total = kept::total(rows)?;
    Ok(TrashPage {
        entries,
        more,
        now,
        keep_ms: kept::terms(rows)?.keep_ms,
        totals: TrashTotals {
            entries: total.entries,
            files: total.files,
            directories: total.directories,
            bytes: total.bytes,
        },
    })
}

/// One removal.
///
/// # Errors
/// [`Refusal::NotInTrash`].
pub fn trashed(rows: &dyn Rows, what: &TrashRef) -> Result<TrashEntry, ReadError> {
    let (ino, kept) = kept::find(rows, what)?;
    Ok(trash_entry(rows, ino, kept)?)
}

fn trash_entry(rows: &dyn Rows, ino: Ino, kept: Kept) -> Result<TrashEntry, RowsError> {
    let inode = key::require(rows, &InodeKey(ino))?;
    Ok(TrashEntry {
        id: TrashId {
            ino,
            removed: kept.removed.0,
        },
        entry: entry(rows, kept.path.name().unwrap_or("/"), ino, &inode)?,
        path: kept.path,
        removed_ms: kept.removed_ms,
        goes: kept.deadline,
    })
}

/// How long removals can be undone; `None` before that was set.
///
/// # Errors
/// [`RowsError`].
pub fn trash_terms(rows: &dyn Rows) -> Result<Option<TrashTerms>, RowsError> {
    key::get(rows, &TrashTermsKey)
}

/// A range of a file and the chunk that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileExtent {
    /// Where in the file it begins.
    pub offset: u64,
    /// The range.
    pub extent: Extent,
    /// Its chunk.
    pub chunk: Chunk,
    /// Servers whose copy is reported damaged.
    pub damaged: Vec<ServerId>,
}

/// A file's extents as of a moment, from the one that holds `offset` on, at most `limit`, and whether more follow.
///
/// # Errors
/// [`RowsError`].
pub fn extents(
    rows: &dyn Rows,
    ino: Ino,
    at: Option<Moment>,
    offset: u64,
    limit: u32,
) -> Result<(Vec<FileExtent>, bool), RowsError> {
    let most = GRANT_CHUNKS_MAX * 4;
    let limit = usize::try_from(limit).map_or(most, |limit| limit.clamp(1, most));
    let prefix = ExtentKey::prefix(ino);
    let end = key::prefix_end(&prefix);
    let from = ExtentKey {
        ino,
        offset: first_extent(rows, ino, at, offset)?,
    };
    let mut found = past::scan::<ExtentKey>(rows, &from.encode(), &end, limit + 1, at)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let mut extents = Vec::with_capacity(found.len());
    for (key, extent) in found {
        extents.push(FileExtent {
            offset: key.offset,
            extent,
            chunk: key::require(rows, &ChunkKey(extent.chunk))?,
            damaged: damaged(rows, extent.chunk)?
                .into_iter()
                .map(|(server, _)| server)
                .collect(),
        });
    }
    Ok((extents, more))
}

/// Where the extent that holds `offset` begins; `offset` itself if that is in a gap.
fn first_extent(rows: &dyn Rows, ino: Ino, at: Option<Moment>, offset: u64) -> Result<u64, RowsError> {
    let before = extent_before(rows, ino, at, offset.saturating_add(1))?;
    let holds = before.filter(|(key, extent)| key.offset + extent.length > offset);
    Ok(holds.map_or(offset, |(key, _)| key.offset))
}

/// The last extent of a file, as of a moment, that begins before `offset` and might reach up to it.
///
/// Rows are read forwards only, and an extent is at most a chunk long. A file may lie in chunks of any size, so the
/// search looks back a little first: over a long way, small extents would be many.
pub(super) fn extent_before(
    rows: &dyn Rows,
    ino: Ino,
    at: Option<Moment>,
    offset: u64,
) -> Result<Option<(ExtentKey, Extent)>, RowsError> {
    let to = ExtentKey { ino, offset }.encode();
    let mut back = LOOK_BACK;
    loop {
        let first = offset.saturating_sub(back);
        let mut from = ExtentKey { ino, offset: first }.encode();
        let mut last = None;
        loop {
            let page = past::scan::<ExtentKey>(rows, &from, &to, LIST_PAGE_MAX, at)?;
            let is_end = page.len() < LIST_PAGE_MAX;
            last = page.into_iter().next_back().or(last);
            match &last {
                Some((key, _)) if !is_end => {
                    from = key.encode();
                    from.push(0);
                }
                _ => break,
            }
        }
        if last.is_some() || back >= CHUNK_BYTES_MAX || first == 0 {
            return Ok(last);
        }
        back *= LOOK_BACK_FACTOR;
    }
}

/// The upload behind an inode, if it is one: its options and what it has so far.
///
/// # Errors
/// [`RowsError`].
pub fn upload(rows: &dyn Rows, ino: Ino) -> Result<Option<Upload>, RowsError> {
    Ok(match key::get(rows, &InodeKey(ino))?.map(|inode| inode.body) {
        Some(Body::Upload(upload)) => Some(upload),
        Some(Body::Directory | Body::File(_) | Body::Link { .. }) | None => None,
    })
}
