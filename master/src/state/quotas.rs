//! Quotas: how much a directory may hold with all below it, in bytes and in entries.
//!
//! At the end of each client's command [`check`] looks at the subtotals the command is about to change, so that no rule of
//! another file needs to know of quotas, and none can forget them: whatever grows, by whichever way, grows a subtotal of
//! every directory above. Without quotas that costs one look at a row that is not there.
//!
//! A write that takes a while holds room from its beginning, as far as it knows how much it needs, in the subtotals of the
//! directory it is on the way to and of all above. So what is reserved moves with a directory that is renamed or removed, and
//! a write that would pass a quota is refused before it moves bytes.
//!
//! Invariants: what a directory holds and has reserved grows only up to its quota, and what is more already only shrinks;
//! a reservation lives as long as its upload, and no longer than the upload's lease.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::DEPTH_MAX;
use gabion_protocol::messages::master::{QuotaChange, QuotaLimits, QuotaReport, QuotaUse, Room};
use gabion_protocol::path::FsPath;

use super::key::inode::{Body, InodeKey, Upload};
use super::key::meta::{QuotasInUse, QuotasInUseKey};
use super::key::quota::{Quota, QuotaKey};
use super::key::reservation::{Reservation, ReservationKey};
use super::key::total::{Total, TotalKey};
use super::key::{self, Key, Kind, Value};
use super::links::{self, Last};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};
use super::{names, read, totals};

/// How many quotas and reservations there are.
pub(super) fn in_use(rows: &dyn Rows) -> Result<QuotasInUse, RowsError> {
    Ok(key::get(rows, &QuotasInUseKey)?.unwrap_or_default())
}

fn count(tx: &mut Tx<'_>, change: impl FnOnce(&mut QuotasInUse)) -> Result<(), RowsError> {
    let mut in_use = in_use(tx.rows())?;
    change(&mut in_use);
    if in_use == QuotasInUse::default() {
        tx.delete(&QuotasInUseKey);
    } else {
        tx.put(&QuotasInUseKey, &in_use);
    }
    Ok(())
}

/// Sets the quota of a directory, or takes it away. One that is below what the directory holds lets nothing grow.
pub(super) fn set(tx: &mut Tx<'_>, path: &FsPath, change: QuotaChange) -> Result<Outcome, Stop> {
    let path = &links::live(tx.rows(), path, Last::Follow)?;
    let dentry = names::find(tx.rows(), path)?;
    if !dentry.directory {
        return Err(Refusal::NotDirectory { path: path.clone() }.into());
    }
    let row = QuotaKey(dentry.ino);
    let old = tx.get(&row)?;
    match change {
        QuotaChange::Clear => forget(tx, dentry.ino)?,
        QuotaChange::Set(QuotaLimits {
            bytes: None,
            entries: None,
        }) => return Err(Refusal::NoLimit.into()),
        QuotaChange::Set(limits) => {
            let quota = Quota {
                bytes: limits.bytes.or_else(|| old.and_then(|old| old.bytes)),
                entries: limits.entries.or_else(|| old.and_then(|old| old.entries)),
            };
            tx.put(&row, &quota);
            if old.is_none() {
                count(tx, |in_use| in_use.quotas += 1)?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// A directory has no quota any more, or goes.
pub(super) fn forget(tx: &mut Tx<'_>, directory: Ino) -> Result<(), RowsError> {
    if in_use(tx.rows())?.quotas > 0 && tx.get(&QuotaKey(directory))?.is_some() {
        tx.delete(&QuotaKey(directory));
        count(tx, |in_use| in_use.quotas = in_use.quotas.saturating_sub(1))?;
    }
    Ok(())
}

/// Refuses a command that makes a directory hold more than its quota. Of several the one with the least room is told.
pub(super) fn check(tx: &Tx<'_>) -> Result<(), Stop> {
    if in_use(tx.rows())?.quotas == 0 {
        return Ok(());
    }
    let (from, to) = (vec![Kind::Total as u8], vec![Kind::Total as u8 + 1]);
    let mut worst: Option<(u64, Refusal)> = None;
    for (key, new) in tx.changes().range(from..to) {
        let TotalKey(directory) = key::decode(key)?;
        let (Some(new), Some(quota)) = (new, tx.get(&QuotaKey(directory))?) else {
            continue;
        };
        let new = Total::decode(new).map_err(|why| key::corrupt(key, why))?;
        let old = key::get(tx.base(), &TotalKey(directory))?.unwrap_or_default();
        let in_bytes = [(old.bytes, old.reserved), (new.bytes, new.reserved)];
        let in_entries = [&old, &new].map(|total| (entries(total), total.reserved_entries));
        for (is_bytes, limit, [old, new]) in [(true, quota.bytes, in_bytes), (false, quota.entries, in_entries)] {
            let Some(passed) = limit.and_then(|limit| passed(limit, old, new)) else {
                continue;
            };
            if worst.as_ref().is_none_or(|(left, _)| passed.left < *left) {
                let refusal = Refusal::QuotaExceeded {
                    directory: path_of(tx.base(), directory)?,
                    is_bytes,
                    limit: passed.limit,
                    used: old.0,
                    reserved: old.1,
                    needed: passed.needed,
                };
                worst = Some((passed.left, refusal));
            }
        }
    }
    match worst {
        Some((_, refusal)) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// A limit that would be passed.
struct Passed {
    limit: u64,
    left: u64,
    needed: u64,
}

/// Whether what is used and reserved grows beyond a limit.
fn passed(limit: u64, old: (u64, u64), new: (u64, u64)) -> Option<Passed> {
    let (old, new) = (old.0.saturating_add(old.1), new.0.saturating_add(new.1));
    (new > limit && new > old).then(|| Passed {
        limit,
        left: limit.saturating_sub(old),
        needed: new - old,
    })
}

fn entries(total: &Total) -> u64 {
    total.files.saturating_add(total.directories)
}

fn path_of(rows: &dyn Rows, directory: Ino) -> Result<FsPath, RowsError> {
    let path = read::path_of(rows, directory)?;
    Ok(path
        .and_then(|path| FsPath::parse(&path).ok())
        .unwrap_or_else(FsPath::root))
}

/// `directory` and all above, if that leads to the root: it may be in the trash, or gone.
fn way_up(rows: &dyn Rows, directory: Ino) -> Result<Option<Vec<Ino>>, RowsError> {
    let mut way = vec![directory];
    let mut at = directory;
    while at != Ino::ROOT {
        match key::get(rows, &InodeKey(at))? {
            Some(inode) if way.len() <= DEPTH_MAX => at = inode.parent.ino,
            _ => return Ok(None),
        }
        way.push(at);
    }
    Ok(Some(way))
}

/// Bytes that quotas leave for writes on this way; `None` if there are no quotas on it.
fn bytes_left(rows: &dyn Rows, way: &[Ino]) -> Result<Option<u64>, RowsError> {
    let mut left = None;
    for directory in way {
        let Some(quota) = key::get(rows, &QuotaKey(*directory))? else {
            continue;
        };
        let total = key::require(rows, &TotalKey(*directory))?;
        let taken = total.bytes.saturating_add(total.reserved);
        let here = quota.bytes.map_or(u64::MAX, |limit| limit.saturating_sub(taken));
        left = Some(left.unwrap_or(u64::MAX).min(here));
    }
    Ok(left)
}

/// Where a path leads as far as there are directories.
struct Place {
    directory: Ino,
    /// Bytes of the file at its end.
    replaced: u64,
    /// Names that are not there.
    missing: u64,
}

fn place(rows: &dyn Rows, path: &FsPath) -> Result<Place, RowsError> {
    let led = match links::walk(rows, path, Last::Follow) {
        Ok(way) => way.path,
        // What is wrong with the way there is told when something shall be made at its end.
        Err(Stop::Refused(_)) => path.clone(),
        Err(Stop::Rows(error)) => return Err(error),
    };
    let names: Vec<&str> = led.names().collect();
    let mut place = Place {
        directory: Ino::ROOT,
        replaced: 0,
        missing: 0,
    };
    for (depth, name) in names.iter().enumerate() {
        match key::get(rows, &names::entry(place.directory, name))? {
            Some(dentry) if dentry.directory => place.directory = dentry.ino,
            Some(dentry) => {
                if let Body::File(content) = key::require(rows, &InodeKey(dentry.ino))?.body {
                    place.replaced = content.length;
                }
                break;
            }
            None => {
                place.missing = (names.len() - depth) as u64;
                break;
            }
        }
    }
    Ok(place)
}

/// What an upload needs, and how much of it at least.
fn needs(reservation: &Reservation, upload: &Upload) -> (u64, u64) {
    let recorded = upload.content.length;
    let open = (upload.open.len() as u64).saturating_mul(upload.content.chunk_bytes);
    let new = |length: u64| length.saturating_sub(reservation.replaced);
    match reservation.room {
        Room::Growing => (new(recorded.saturating_add(open)), new(recorded)),
        Room::Whole { length } => (new(length.max(recorded)), new(length.max(recorded))),
        Room::Appended => (open, 0),
        Room::Overwritten => (0, 0),
    }
}

/// An upload begins, or is taken over: room is held for it if quotas ask for that. `below` entries come with it besides
/// the one it is.
pub(super) fn open(tx: &mut Tx<'_>, ino: Ino, upload: &Upload, room: Room, below: u64) -> Result<(), RowsError> {
    release(tx, ino)?;
    if in_use(tx.rows())?.quotas == 0 {
        return Ok(());
    }
    let place = place(tx.rows(), &upload.path)?;
    let way = way_up(tx.rows(), place.directory)?.unwrap_or_default();
    if bytes_left(tx.rows(), &way)?.is_none() {
        return Ok(());
    }
    let (replaced, entries) = match room {
        Room::Growing | Room::Whole { .. } => (place.replaced, place.missing.saturating_add(below)),
        Room::Appended | Room::Overwritten => (0, 0),
    };
    let empty = Reservation {
        directory: place.directory,
        room,
        replaced,
        bytes: 0,
        entries: 0,
    };
    count(tx, |in_use| in_use.reservations += 1)?;
    put(tx, ino, &empty, Reservation { entries, ..empty })?;
    fit(tx, ino, upload, true)
}

/// More chunks were granted to an upload. If nothing is left for them it is refused, by [`check`].
pub(super) fn granted(tx: &mut Tx<'_>, ino: Ino, upload: &Upload) -> Result<(), RowsError> {
    if in_use(tx.rows())?.quotas == 0 {
        return Ok(());
    }
    match tx.get(&ReservationKey(ino))? {
        Some(reservation) if way_up(tx.rows(), reservation.directory)?.is_some() => fit(tx, ino, upload, true),
        // Where it counted has gone into the trash: it counts where the path leads now.
        Some(reservation) => open(tx, ino, upload, reservation.room, 0),
        None => open(tx, ino, upload, Room::Growing, 0),
    }
}

/// What an upload holds is made what it needs now. What was written already has to fit, of more as much as is left.
pub(super) fn settle(tx: &mut Tx<'_>, ino: Ino, upload: &Upload) -> Result<(), RowsError> {
    if in_use(tx.rows())?.reservations == 0 {
        return Ok(());
    }
    fit(tx, ino, upload, false)
}

fn fit(tx: &mut Tx<'_>, ino: Ino, upload: &Upload, is_granted: bool) -> Result<(), RowsError> {
    let Some(old) = tx.get(&ReservationKey(ino))? else {
        return Ok(());
    };
    let (wanted, least) = needs(&old, upload);
    let mut bytes = old.bytes;
    if bytes < wanted {
        let way = way_up(tx.rows(), old.directory)?.unwrap_or_default();
        let left = bytes_left(tx.rows(), &way)?.unwrap_or(u64::MAX);
        bytes = match left {
            0 if is_granted => wanted,
            left => bytes.saturating_add(left).min(wanted),
        };
    }
    let bytes = bytes.min(wanted).max(least);
    put(tx, ino, &old, Reservation { bytes, ..old })
}

fn put(tx: &mut Tx<'_>, ino: Ino, old: &Reservation, new: Reservation) -> Result<(), RowsError> {
    totals::reserve(tx, old.directory, (old.bytes, old.entries), (new.bytes, new.entries))?;
    tx.put(&ReservationKey(ino), &new);
    Ok(())
}

/// An upload is a file now, was given up, or nobody keeps its lease: it holds no room any more.
pub(super) fn release(tx: &mut Tx<'_>, ino: Ino) -> Result<(), RowsError> {
    if in_use(tx.rows())?.reservations == 0 {
        return Ok(());
    }
    if let Some(old) = tx.get(&ReservationKey(ino))? {
        totals::reserve(tx, old.directory, (old.bytes, old.entries), (0, 0))?;
        tx.delete(&ReservationKey(ino));
        count(tx, |in_use| in_use.reservations = in_use.reservations.saturating_sub(1))?;
    }
    Ok(())
}

/// The quotas that what is written into a directory counts against.
pub(super) fn report(rows: &dyn Rows, path: &FsPath) -> Result<QuotaReport, Stop> {
    let path = &links::live(rows, path, Last::Follow)?;
    let dentry = names::find(rows, path)?;
    if !dentry.directory {
        return Err(Refusal::NotDirectory { path: path.clone() }.into());
    }
    let way = way_up(rows, dentry.ino)?.unwrap_or_default();
    let (mut own, mut above) = (None, Vec::new());
    for (up, directory) in way.iter().enumerate() {
        let quota = key::get(rows, &QuotaKey(*directory))?;
        if quota.is_none() && up > 0 {
            continue;
        }
        let total = key::require(rows, &TotalKey(*directory))?;
        let usage = QuotaUse {
            depth: u16::try_from(way.len() - 1 - up).unwrap_or(u16::MAX),
            limits: QuotaLimits {
                bytes: quota.and_then(|quota| quota.bytes),
                entries: quota.and_then(|quota| quota.entries),
            },
            bytes: total.bytes,
            entries: entries(&total),
            reserved_bytes: total.reserved,
            reserved_entries: total.reserved_entries,
        };
        match up {
            0 => own = Some(usage),
            _ => above.push(usage),
        }
    }
    let not_there = || key::corrupt(&InodeKey(dentry.ino).encode(), "its parents do not lead to the root");
    Ok(QuotaReport {
        path: path_of(rows, dentry.ino)?,
        own: own.ok_or_else(not_there)?,
        above,
    })
}
