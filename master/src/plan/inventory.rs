//! Inventory: what differs between a page of the copies a server lists and the masters' rows, and what to do about it.
//!
//! A page is listed at one moment and the rows are read at a later one, so one comparison proves nothing: a copy that was
//! dropped, or made, in between differs without being wrong. So it is done twice, and the second page is listed *after* the
//! first rows were read. Then
//!
//! * a copy that no row named at the first reading, and that is listed again, is named by none for good: rows are there from
//!   before a copy is made until it is gone, and numbers are never given twice;
//! * a copy that had a live row at the first reading and is not listed after it, and that has this row still, is missing.
//!
//! Pure: pages and what the rows say come in.

use std::collections::{BTreeMap, BTreeSet};

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::inventory::{Bucket, block_end, following};
use gabion_protocol::messages::master::{BucketAsk, BucketPage};

use crate::state::inventory::{Standing, expected, standing};
use crate::state::key::chunk::ReplicaState;
use crate::state::key::damage::DamageKey;
use crate::state::key::replica::ReplicaKey;
use crate::state::key::{self, Key as _};
use crate::state::rows::{Rows, RowsError};

/// One copy.
pub type Copy = (ChunkId, ReplicaNumber);

/// What differs between a page and the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Copies the server should have and does not list.
    pub missing: BTreeSet<Copy>,
    /// Copies it lists and no row names.
    pub unknown: BTreeSet<Copy>,
    /// Copies it lists that were never given out as far as the rows know.
    pub forgotten: BTreeSet<Copy>,
    /// Copies it lists though it called them damaged.
    pub doubted: BTreeSet<Copy>,
}

impl Differences {
    /// Whether there is nothing to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty() && self.forgotten.is_empty() && self.doubted.is_empty()
    }

    /// What was so at an earlier comparison and still is.
    #[must_use]
    pub fn confirmed_by(&self, later: &Self) -> Self {
        let both = |a: &BTreeSet<Copy>, b: &BTreeSet<Copy>| a & b;
        Self {
            missing: both(&self.missing, &later.missing),
            unknown: both(&self.unknown, &later.unknown),
            forgotten: both(&self.forgotten, &later.forgotten),
            doubted: both(&self.doubted, &later.doubted),
        }
    }
}

/// Whether a page answers what was asked, and is sorted as pages are. What else a server sends is not judged.
#[must_use]
pub fn is_sound(page: &BucketPage, asked: &BucketAsk) -> bool {
    let bucket = Bucket::new(asked.bucket);
    let belongs = |copy: &Copy| Some(Bucket::of(copy.0)) == bucket && Some(copy.0) > asked.after;
    // Several copies of one chunk: one on each of several disks.
    let sorted = page.copies.windows(2).all(|pair| pair[0] < pair[1]);
    page.ask == *asked && sorted && page.copies.iter().all(belongs) && (!page.more || !page.copies.is_empty())
}

/// Compares a page with the rows.
///
/// # Errors
/// [`RowsError`].
pub fn compare(rows: &dyn Rows, server: ServerId, page: &BucketPage) -> Result<Differences, RowsError> {
    let mut found = Differences::default();
    for (chunk, number) in page.copies.iter().copied() {
        match standing(rows, server, chunk, number)? {
            // A copy that is being made may be there before its row says so, one that goes away after.
            Standing::Known(ReplicaState::Copying | ReplicaState::Dropping) | Standing::SetAside => {}
            Standing::Known(ReplicaState::Live) => {
                if expected(rows, server, chunk)? != Some(number) && is_damaged(rows, server, chunk, number)? {
                    found.doubted.insert((chunk, number));
                }
            }
            Standing::Unknown => drop(found.unknown.insert((chunk, number))),
            Standing::Forgotten => drop(found.forgotten.insert((chunk, number))),
        }
    }
    let listed: BTreeSet<Copy> = page.copies.iter().copied().collect();
    // Of a page that is not the last one, what comes after its last chunk may still be listed.
    let until = page.copies.last().filter(|_| page.more).map(|(chunk, _)| *chunk);
    found.missing = held(rows, server, &page.ask, until)?
        .into_iter()
        .filter(|copy| !listed.contains(copy))
        .collect();
    Ok(found)
}

fn is_damaged(rows: &dyn Rows, server: ServerId, chunk: ChunkId, number: ReplicaNumber) -> Result<bool, RowsError> {
    let damage = key::get(rows, &DamageKey { chunk, server })?;
    Ok(damage.is_some_and(|damage| damage.confirmed && damage.number == number))
}

/// The copies a server should list of a part of a bucket, up to `until`.
fn held(
    rows: &dyn Rows,
    server: ServerId,
    ask: &BucketAsk,
    until: Option<ChunkId>,
) -> Result<BTreeMap<ChunkId, ReplicaNumber>, RowsError> {
    let mut found = BTreeMap::new();
    let Some(bucket) = Bucket::new(ask.bucket) else {
        return Ok(found);
    };
    let end = key::prefix_end(&ReplicaKey::prefix(server));
    let at = |chunk: ChunkId| ReplicaKey { server, chunk }.encode();
    let mut from = match ask.after {
        None => bucket.next(ChunkId::from_bytes([0; ChunkId::BYTES])),
        Some(after) => following(after).and_then(|next| bucket.next(next)),
    };
    while let Some(look) = from {
        // The next row there is, wherever it falls: ids nobody has are stepped over in one step.
        let next = key::scan::<ReplicaKey>(rows, &at(look), &end, 1)?;
        let Some(chunk) = next.first().map(|(key, _)| key.chunk) else {
            break;
        };
        let last = until.unwrap_or(chunk);
        if chunk > last {
            break;
        }
        if Bucket::of(chunk) != bucket {
            from = bucket.next(chunk);
            continue;
        }
        let block_end = block_end(chunk);
        let after_block = following(block_end);
        let to = after_block.map_or_else(|| end.clone(), at);
        for (row, _) in key::scan::<ReplicaKey>(rows, &at(chunk), &to, usize::MAX)? {
            if until.is_some_and(|until| row.chunk > until) {
                break;
            }
            if let Some(number) = expected(rows, server, row.chunk)? {
                found.insert(row.chunk, number);
            }
        }
        from = after_block.and_then(|next| bucket.next(next));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
