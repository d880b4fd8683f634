//! Small chunks become large ones: a file that was written in little pieces gets one chunk for many of its extents.
//!
//! A merge's life: [`begin`] takes a run of extents as they are now into a [`Merge`] row and opens a chunk, whose copies
//! have rows before any server makes a file. Their servers build them from the pieces. [`exchange`] seals the chunk and
//! puts it into the file, if the file still has exactly those extents there; [`give_up`] makes it garbage. Whoever leads
//! goes on from the rows.
//!
//! What a merge changes is where bytes are, and nothing else: length, checksum, version, times, quotas and totals stay,
//! leases are not asked for. Old extents go as they do with an overwrite: a snapshot keeps those that it sees, and a chunk
//! becomes garbage with the last extent that names it, and waits for the tokens of its readers.
//!
//! Invariants:
//! * a file gets a large chunk only when all copies that it wants are made, of the length and CRC that follow from the
//!   pieces;
//! * each [`Merge`] row has its open chunk, and goes with the seal or the end of that;
//! * a [`Fragmented`] row is of a file that is there.

use gabion_protocol::ids::{ChunkId, Ino, ServerId, StateTime};
use gabion_protocol::limits::{CHUNK_BYTES_MAX, MERGE_PIECES_MAX, MERGES_MAX};
use gabion_protocol::messages::master::Seal;
use serde::{Deserialize, Serialize};

use super::key::chunk::ChunkKey;
use super::key::extent::{Extent, ExtentKey};
use super::key::fragmented::{Fragmented, FragmentedKey};
use super::key::inode::{Body, Content, Inode, InodeKey};
use super::key::merge::{Merge, MergeKey, Piece};
use super::key::{self, Key as _, Kind};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};
use super::{changes, chunks, names, uploads};

/// A file in fewer extents is left as it is: nobody notices them.
pub const RUN_MIN: usize = 8;

/// A run of extents for which one chunk is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergePlan {
    /// The file.
    pub file: Ino,
    /// Where in it the first extent begins.
    pub from: u64,
    /// Where the last one ends.
    pub to: u64,
    /// Who gets a copy.
    pub targets: Vec<ServerId>,
}

/// A step of a leader. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MergeStep {
    /// Begins to make a large chunk.
    Begin(MergePlan),
    /// Its copies are made: it takes the place of the extents.
    Exchange {
        /// What its servers stored.
        seal: Seal,
    },
    /// It failed, or nobody needs it any more.
    GiveUp {
        /// The large chunk.
        chunk: ChunkId,
    },
    /// Nothing of a file is left to be merged.
    Settle {
        /// The file.
        file: Ino,
        /// The change after which that was seen: if another came, it is looked at again.
        changed: StateTime,
    },
}

/// Carries out a leader's step.
pub(super) fn run(tx: &mut Tx<'_>, step: &MergeStep) -> Result<Outcome, Stop> {
    match step {
        MergeStep::Begin(plan) => begin(tx, plan)?,
        MergeStep::Exchange { seal } => exchange(tx, seal)?,
        MergeStep::GiveUp { chunk } => give_up(tx, *chunk)?,
        MergeStep::Settle { file, changed } => settle(tx, *file, *changed)?,
    }
    Ok(Outcome::Done)
}

/// Notes that a file may lie in small chunks, after `seals` were put into it.
pub(super) fn note(tx: &mut Tx<'_>, file: Ino, content: &Content, seals: &[Seal]) -> Result<(), RowsError> {
    let is_small = |seal: &Seal| seal.length <= content.chunk_bytes / 2;
    if content.extents < RUN_MIN as u64 || !seals.iter().any(is_small) {
        return Ok(());
    }
    let changed = tx.now();
    let noted = tx.get(&FragmentedKey(file))?;
    if noted.is_none_or(|row| row.changed != changed) {
        tx.put(&FragmentedKey(file), &Fragmented { changed });
    }
    Ok(())
}

/// A file is about to be gone.
pub(super) fn forget(tx: &mut Tx<'_>, file: Ino) -> Result<(), RowsError> {
    if tx.get(&FragmentedKey(file))?.is_some() {
        tx.delete(&FragmentedKey(file));
    }
    Ok(())
}

/// Opens a chunk for a run of extents.
fn begin(tx: &mut Tx<'_>, plan: &MergePlan) -> Result<(), Stop> {
    let file = plan.file;
    uploads::bound(under_way(tx.rows())?.len() + 1, MERGES_MAX)?;
    let content = changes::reachable(tx, file)?;
    let changed = Refusal::ExtentsChanged { file };
    let pieces = pieces(tx.rows(), file, plan.from, plan.to)?.ok_or_else(|| changed.clone())?;
    let row = Merge {
        file,
        offset: plan.from,
        pieces,
    };
    if row.pieces.len() < 2 || row.length() > content.chunk_bytes.min(CHUNK_BYTES_MAX) {
        return Err(changed.into());
    }
    let granted = chunks::open(tx, file, content.replicas, &plan.targets)?;
    if granted.replicas.len() != usize::from(content.replicas) {
        return Err(Refusal::TooFewServers {
            usable: u8::try_from(granted.replicas.len()).unwrap_or(u8::MAX),
            needed: content.replicas,
        }
        .into());
    }
    tx.put(&MergeKey(granted.chunk), &row);
    Ok(())
}

/// The extents of a range, if they fill it exactly and are not too many.
fn pieces(rows: &dyn Rows, file: Ino, from: u64, to: u64) -> Result<Option<Vec<Piece>>, RowsError> {
    let at = |offset| ExtentKey { ino: file, offset }.encode();
    let found = key::scan::<ExtentKey>(rows, &at(from), &at(to), MERGE_PIECES_MAX + 1)?;
    let mut next = from;
    for (key, extent) in &found {
        if key.offset != next {
            return Ok(None);
        }
        next = key.offset.saturating_add(extent.length);
    }
    let fits = next == to && found.len() <= MERGE_PIECES_MAX;
    Ok(fits.then(|| found.iter().map(|(_, extent)| Piece::from(extent)).collect()))
}

/// Whether a file still has the extents in whose place a large chunk is to come.
///
/// # Errors
/// [`RowsError`], as everywhere here.
pub fn is_current(rows: &dyn Rows, row: &Merge) -> Result<bool, RowsError> {
    Ok(pieces(rows, row.file, row.offset, row.end())?.as_ref() == Some(&row.pieces))
}

/// Puts a large chunk, of which all copies are made, into its file.
fn exchange(tx: &mut Tx<'_>, seal: &Seal) -> Result<(), Stop> {
    let chunk = seal.chunk;
    let row = tx.get(&MergeKey(chunk))?.ok_or(Refusal::ChunkNotOpen { chunk })?;
    let content = changes::reachable(tx, row.file)?;
    let made = tx.require(&ChunkKey(chunk))?;
    // The members are distinct and of the set: the seal sees to that.
    let all = made.replicas.len() == seal.members.len() && seal.members.len() == usize::from(content.replicas);
    if !all || made.wanted != content.replicas {
        return Err(Refusal::CopiesChanged { chunk }.into());
    }
    let is_right = seal.length == row.length() && row.crc().is_none_or(|crc| crc == seal.crc);
    if !is_right {
        return Err(Refusal::CopyDiffers { chunk }.into());
    }
    if !is_current(tx.rows(), &row)? {
        return Err(Refusal::ExtentsChanged { file: row.file }.into());
    }
    let mut offset = row.offset;
    for piece in &row.pieces {
        tx.delete(&ExtentKey { ino: row.file, offset });
        chunks::release(tx, piece.chunk)?;
        offset = offset.saturating_add(piece.length);
    }
    chunks::seal(tx, seal, row.file)?;
    let extent = Extent {
        chunk,
        chunk_offset: 0,
        length: seal.length,
        crc: Some(seal.crc),
        since: tx.moment(),
    };
    let key = ExtentKey {
        ino: row.file,
        offset: row.offset,
    };
    tx.put(&key, &extent);
    tx.delete(&MergeKey(chunk));
    // Read anew: what was done to its chunks may have changed it.
    let mut inode = tx.require(&InodeKey(row.file))?;
    if let Body::File(content) = &mut inode.body {
        content.extents = content.extents.saturating_sub(row.pieces.len() as u64 - 1);
    }
    inode.since = tx.moment();
    tx.put(&InodeKey(row.file), &inode);
    Ok(())
}

/// Ends a merge that came to nothing. One that is over already is fine.
fn give_up(tx: &mut Tx<'_>, chunk: ChunkId) -> Result<(), RowsError> {
    if tx.get(&MergeKey(chunk))?.is_some() {
        tx.delete(&MergeKey(chunk));
        chunks::abandon(tx, chunk)?;
    }
    Ok(())
}

fn settle(tx: &mut Tx<'_>, file: Ino, changed: StateTime) -> Result<(), RowsError> {
    if tx.get(&FragmentedKey(file))?.is_some_and(|row| row.changed == changed) {
        tx.delete(&FragmentedKey(file));
    }
    Ok(())
}

/// Merges under way, each with its large chunk.
///
/// # Errors
/// [`RowsError`].
pub fn under_way(rows: &dyn Rows) -> Result<Vec<(ChunkId, Merge)>, RowsError> {
    let found = key::scan_prefix::<MergeKey>(rows, &[Kind::Merge as u8], MERGES_MAX)?;
    Ok(found.into_iter().map(|(MergeKey(id), row)| (id, row)).collect())
}

/// The merge that a chunk is made by, if it is.
///
/// # Errors
/// [`RowsError`].
pub fn of(rows: &dyn Rows, chunk: ChunkId) -> Result<Option<Merge>, RowsError> {
    key::get(rows, &MergeKey(chunk))
}

/// Files that may lie in small chunks, after `after`, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn fragmented(rows: &dyn Rows, after: Option<Ino>, limit: usize) -> Result<Vec<(Ino, Fragmented)>, RowsError> {
    let kind = [Kind::Fragmented as u8];
    let mut from = after.map_or_else(|| kind.to_vec(), |ino| FragmentedKey(ino).encode());
    if after.is_some() {
        from.push(0);
    }
    let found = key::scan::<FragmentedKey>(rows, &from, &key::prefix_end(&kind), limit)?;
    Ok(found.into_iter().map(|(FragmentedKey(ino), row)| (ino, row)).collect())
}

/// The content of a file that can be changed: one that is in the trash stays as it is.
///
/// # Errors
/// [`RowsError`].
pub fn content(rows: &dyn Rows, file: Ino) -> Result<Option<Content>, RowsError> {
    let inode: Option<Inode> = key::get(rows, &InodeKey(file))?;
    Ok(match inode {
        Some(inode) if names::hangs_under_root(rows, &inode)? => match inode.body {
            Body::File(content) => Some(content),
            Body::Directory | Body::Upload(_) | Body::Link { .. } => None,
        },
        Some(_) | None => None,
    })
}

/// Extents of a file that begin at `from` or behind it, at most `limit`.
///
/// # Errors
/// [`RowsError`].
pub fn extents(rows: &dyn Rows, file: Ino, from: u64, limit: usize) -> Result<Vec<(u64, Extent)>, RowsError> {
    let begin = ExtentKey {
        ino: file,
        offset: from,
    };
    let end = key::prefix_end(&ExtentKey::prefix(file));
    let found = key::scan::<ExtentKey>(rows, &begin.encode(), &end, limit)?;
    Ok(found.into_iter().map(|(key, extent)| (key.offset, extent)).collect())
}
