//! How many copies a file's chunks shall have, after its upload.
//!
//! Only what is wanted changes here: repair makes the copies that are missing then, and drops those that are too many.
//! The file's inode takes the number at once, its chunks in steps; what is written meanwhile has it already.
//!
//! A chunk that other extents name, too, or a snapshot shows, keeps the highest number anyone asked for: nobody's copies
//! are taken away by a stranger's command. So a chunk whose extent was cut in two may keep more copies than its file wants.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::BATCH_ROWS_MAX;

use super::key::chunk::ChunkKey;
use super::key::extent::ExtentKey;
use super::key::inode::{Body, InodeKey};
use super::key::{self, Key as _};
use super::past::Reach;
use super::reply::{Outcome, Refusal};
use super::tx::{Stop, Tx};
use super::{changes, chunks, preserve, uploads};

/// Sets the number for a file, and for its chunks from an offset on, at most a thousand.
pub(super) fn set(tx: &mut Tx<'_>, file: Ino, asked: u8, from: u64) -> Result<Outcome, Stop> {
    if !uploads::replicas_fit(asked) {
        return Err(Refusal::Replicas { asked }.into());
    }
    changes::reachable(tx, file)?;
    let (begin, end) = (
        ExtentKey {
            ino: file,
            offset: from,
        },
        key::prefix_end(&ExtentKey::prefix(file)),
    );
    let mut extents = key::scan::<ExtentKey>(tx.rows(), &begin.encode(), &end, BATCH_ROWS_MAX + 1)?;
    let next = extents.get(BATCH_ROWS_MAX).map(|(key, _)| key.offset);
    extents.truncate(BATCH_ROWS_MAX);
    let pins = preserve::pins(tx.rows())?.live;
    let mut reach = Reach::new(tx.base());
    for (key, extent) in extents {
        let old = tx.require(&ChunkKey(extent.chunk))?;
        let is_others = old.references > 1 || preserve::is_seen(&mut reach, &pins, &key.encode(), extent.since, None)?;
        if asked == old.wanted || asked < old.wanted && is_others {
            continue;
        }
        let mut new = old.clone();
        new.wanted = asked;
        chunks::change(tx, extent.chunk, &old, Some(&new))?;
    }
    let mut inode = tx.require(&InodeKey(file))?;
    if let Body::File(content) = &mut inode.body
        && content.replicas != asked
    {
        content.replicas = asked;
        inode.since = tx.moment();
        tx.put(&InodeKey(file), &inode);
    }
    Ok(Outcome::ReplicasSet { next })
}
