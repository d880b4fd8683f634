//! Keeps what snapshots see: at the end of every command, values it is about to change or remove go into history.
//!
//! It looks at the changes themselves, so that no rule of another file needs to know of snapshots, and none can forget
//! them. Without snapshots it reads one row.
//!
//! Invariants: a value that a live snapshot reaches is live or in history until the snapshot is gone; an extent in
//! history keeps its chunk's reference; what is written while there are snapshots says since when it stands.

use gabion_protocol::ids::Ino;

use super::chunks;
use super::key::attributes::AttributesKey;
use super::key::dentry::DentryKey;
use super::key::extent::{Extent, ExtentKey};
use super::key::history::{HistoryKey, Past, must_keep};
use super::key::inode::InodeKey;
use super::key::meta::{Pin, Pins, PinsKey};
use super::key::total::TotalKey;
use super::key::{self, Key, Kind, Moment, Value, Versioned};
use super::past::Reach;
use super::rows::{Rows, RowsError};
use super::tx::Tx;

/// Whether rows of a kind have a past.
fn has_past(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Inode | Kind::Dentry | Kind::Extent | Kind::Total | Kind::Attributes
    )
}

/// The snapshots there are.
pub(super) fn pins(rows: &dyn Rows) -> Result<Pins, RowsError> {
    Ok(key::get(rows, &PinsKey)?.unwrap_or_default())
}

/// The inode a row with a past is of: each such key begins with its number.
pub(super) fn inode_of(key: &[u8]) -> Option<Ino> {
    let number = key.get(1..9)?.first_chunk::<8>()?;
    Some(Ino(u64::from_be_bytes(*number)))
}

/// Whether some snapshot sees a value that stood from `since` until now, or until `until`.
pub(super) fn is_seen(
    reach: &mut Reach<'_>,
    pins: &[Pin],
    key: &[u8],
    since: Moment,
    until: Option<Moment>,
) -> Result<bool, RowsError> {
    let Some(ino) = inode_of(key) else {
        return Ok(false);
    };
    // The newest first: what changes now was most likely seen by it.
    let pins = pins.iter().rev();
    let in_time = pins.filter(|pin| until.is_none_or(|until| pin.moment < until));
    must_keep(since, in_time, |pin| reach.holds(pin, ino))
}

/// Moves what the command changes into history, as far as snapshots see it.
pub(super) fn preserve(tx: &mut Tx<'_>) -> Result<(), RowsError> {
    let pins = pins(tx.rows())?.live;
    let Some(newest) = pins.last() else {
        return Ok(());
    };
    let base = tx.base();
    let mut reach = Reach::new(base);
    let mut kept = Vec::new();
    let mut stamped = Vec::new();
    for (key, new) in tx.changes() {
        let Some(kind) = Kind::of(key).filter(|kind| has_past(*kind)) else {
            continue;
        };
        let old = base.get(key)?;
        if old == *new {
            continue;
        }
        if let Some(value) = new
            && let Some(value) = stamp(kind, key, value, tx.moment())?
        {
            stamped.push((key.clone(), value));
        }
        let Some(value) = old else {
            continue;
        };
        let since = since(kind, key, &value)?;
        if since <= newest.moment && is_seen(&mut reach, &pins, key, since, None)? {
            kept.push((kind, key.clone(), Past { since, value }));
        }
    }
    for (key, value) in stamped {
        tx.put_raw(key, value);
    }
    let until = tx.moment();
    for (kind, key, past) in kept {
        if kind == Kind::Extent {
            let extent = Extent::decode(&past.value).map_err(|why| key::corrupt(&key, why))?;
            chunks::share(tx, extent.chunk)?;
        }
        tx.put(&HistoryKey { key, until }, &past);
    }
    Ok(())
}

/// Since when a value stands.
fn since(kind: Kind, key: &[u8], value: &[u8]) -> Result<Moment, RowsError> {
    fn of<K: Key>(value: &[u8]) -> Result<Moment, String>
    where
        K::Value: Versioned,
    {
        K::Value::decode(value).map(|value| value.since())
    }
    match kind {
        Kind::Dentry => of::<DentryKey>(value),
        Kind::Extent => of::<ExtentKey>(value),
        Kind::Total => of::<TotalKey>(value),
        Kind::Attributes => of::<AttributesKey>(value),
        _ => of::<InodeKey>(value),
    }
    .map_err(|why| key::corrupt(key, why))
}

/// The value with the moment it begins to stand at; `None` if it says so already.
fn stamp(kind: Kind, key: &[u8], value: &[u8], now: Moment) -> Result<Option<Vec<u8>>, RowsError> {
    fn of<K: Key>(value: &[u8], now: Moment) -> Result<Option<Vec<u8>>, String>
    where
        K::Value: Versioned,
    {
        let mut value = K::Value::decode(value)?;
        if value.since() == now {
            return Ok(None);
        }
        value.stand_since(now);
        Ok(Some(value.encode()))
    }
    match kind {
        Kind::Dentry => of::<DentryKey>(value, now),
        Kind::Extent => of::<ExtentKey>(value, now),
        Kind::Total => of::<TotalKey>(value, now),
        Kind::Attributes => of::<AttributesKey>(value, now),
        _ => of::<InodeKey>(value, now),
    }
    .map_err(|why| key::corrupt(key, why))
}
