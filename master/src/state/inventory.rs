//! Copies that servers hold and no row names.
//!
//! A copy's life here: [`found`] sets it aside, with a time until which nothing happens to it; [`expire`] orders it
//! dropped when that is over; [`gone`] forgets it when its server has removed it. Nothing else ever removes a copy without
//! a chunk row, and every decision is in the log.
//!
//! What is believed: a copy is *unknown* only if its chunk was allocated in this timeline, its number was given out, and no
//! row names it: then it was dropped long ago, because a row is there from before its copy is made until its copy is gone,
//! and numbers are never given twice. A chunk or number that was never given out is *forgotten*: masters lost their memory,
//! and nothing may be removed because of that. Forgotten chunks are remembered as the timeline's lost tail
//! ([`tail_lost`]), since masters that lost their memory go on counting and would sooner or later take them for old ones,
//! or order copies of theirs dropped under the same numbers.
//!
//! Invariants: an unknown row's copy is named by no chunk row; a server's count is the number of its rows; while a server is
//! stopped, none of its copies becomes Dropping.

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId, StateTime, VolumeId};

use super::key::chunk::{ChunkKey, Replica, ReplicaState};
use super::key::damage::DamageKey;
use super::key::doubt::{Doubt, DoubtKey};
use super::key::dropping::{DroppingKey, Order};
use super::key::meta::{ClusterKey, CountersKey, LostTail, LostTailKey};
use super::key::replica::ReplicaKey;
use super::key::server::ServerKey;
use super::key::unknown::{Unknown, UnknownKey};
use super::key::{self, Key as _, Kind};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::servers::bound;
use super::tx::{Stop, Tx};

/// So many unknown copies of a server are believed however few it holds: a small server that was down while some of its
/// copies were dropped needs no operator. Few enough that an operator's eye misses little if it is a mistake.
pub const UNKNOWN_ALWAYS: u64 = 10;
/// Of so many copies of a server one may be unknown.
const UNKNOWN_SHARE: u64 = 100;
/// Numbers given out between the copy of masters' directories that was started and what chunkservers hold: years of work.
const TAIL_MAX: u64 = 1 << 40;
/// Servers with unknown copies looked at in one tick.
const DOUBTS_MAX: usize = 1000;

/// How many of a server's `copies` may be unknown at once.
#[must_use]
pub fn believed(copies: u64) -> u64 {
    UNKNOWN_ALWAYS.max(copies / UNKNOWN_SHARE)
}

/// What the rows say about a copy that a server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its row says what happens to it.
    Known(ReplicaState),
    /// It is set aside already.
    SetAside,
    /// No row names it, though it was given out: dropped long ago.
    Unknown,
    /// It was never given out: masters lost their memory.
    Forgotten,
}

/// What the rows say about a copy that a server holds.
///
/// # Errors
/// [`RowsError`], as everywhere here.
pub fn standing(
    rows: &dyn Rows,
    server: ServerId,
    chunk: ChunkId,
    number: ReplicaNumber,
) -> Result<Standing, RowsError> {
    if let Some(state) = row_of(rows, server, chunk, number)? {
        return Ok(Standing::Known(state));
    }
    let key = UnknownKey { server, chunk, number };
    if key::get(rows, &key)?.is_some() {
        return Ok(Standing::SetAside);
    }
    let counters = key::require(rows, &CountersKey)?;
    let given_out = !is_beyond(rows, chunk)? && number.0 < counters.replica && number.0 > 0;
    let tail = key::get(rows, &LostTailKey)?;
    let lost = tail.is_some_and(|tail| tail.holds(chunk) || tail.holds_number(number));
    Ok(if given_out && !lost {
        Standing::Unknown
    } else {
        Standing::Forgotten
    })
}

/// Whether a chunk was never given out as far as the rows know: it is of another timeline, or above this one's highest.
///
/// # Errors
/// [`RowsError`].
pub fn is_beyond(rows: &dyn Rows, chunk: ChunkId) -> Result<bool, RowsError> {
    let timeline = key::require(rows, &ClusterKey)?.timeline;
    let counters = key::require(rows, &CountersKey)?;
    // The highest of earlier timelines is not known any more, so nothing of theirs is ever too old.
    let ours = chunk.volume == VolumeId(0) && chunk.timeline == timeline;
    Ok(!ours || chunk.counter == 0 || chunk.counter >= counters.chunk)
}

fn row_of(
    rows: &dyn Rows,
    server: ServerId,
    chunk: ChunkId,
    number: ReplicaNumber,
) -> Result<Option<ReplicaState>, RowsError> {
    let chunk = key::get(rows, &ChunkKey(chunk))?;
    let replicas = chunk.iter().flat_map(|chunk| &chunk.replicas);
    let mut own = replicas.filter(|replica| (replica.server, replica.number) == (server, number));
    Ok(own.next().map(|replica: &Replica| replica.state))
}

/// The copies of `chunk` that `server` should be able to serve, as its digests count them: a live one nobody but a reader
/// calls damaged, and those that are set aside.
///
/// # Errors
/// [`RowsError`].
pub fn expected(rows: &dyn Rows, server: ServerId, chunk: ChunkId) -> Result<Option<ReplicaNumber>, RowsError> {
    let held = key::get(rows, &ReplicaKey { server, chunk })?;
    let Some(live) = held.filter(|held| held.live) else {
        return Ok(None);
    };
    let damage = key::get(rows, &DamageKey { chunk, server })?;
    let damaged = damage.is_some_and(|damage| damage.confirmed && damage.number == live.number);
    Ok((!damaged).then_some(live.number))
}

/// What a server's unknown copies come to; `None` if it has none.
///
/// # Errors
/// [`RowsError`].
pub fn doubt(rows: &dyn Rows, server: ServerId) -> Result<Option<Doubt>, RowsError> {
    key::get(rows, &DoubtKey(server))
}

/// Sets copies aside that a server holds and no row names, until `keep_ms` from now. If the server then has more of them
/// than are believed of `held` copies, it is stopped.
pub(super) fn found(
    tx: &mut Tx<'_>,
    server: ServerId,
    held: u64,
    keep_ms: u64,
    copies: &[(ChunkId, ReplicaNumber)],
) -> Result<Outcome, Stop> {
    bound(copies.len())?;
    if tx.get(&ServerKey(server))?.is_none() {
        return Err(Refusal::ServerUnknown { server }.into());
    }
    let until = tx.now().plus(keep_ms);
    let mut doubt = tx.get(&DoubtKey(server))?.unwrap_or(Doubt {
        unknown: 0,
        stopped: false,
        accepted: false,
        next: until,
        walked: None,
    });
    if doubt.stopped {
        return Ok(Outcome::Done);
    }
    let before = doubt.unknown;
    for (chunk, number) in copies.iter().copied() {
        if standing(tx.rows(), server, chunk, number)? == Standing::Unknown {
            tx.put(&UnknownKey { server, chunk, number }, &Unknown::Kept { until });
            doubt.unknown += 1;
        }
    }
    if doubt.unknown > before {
        doubt.stopped = !doubt.accepted && doubt.unknown > believed(held);
        doubt.next = doubt.next.min(until);
        tx.put(&DoubtKey(server), &doubt);
    }
    Ok(Outcome::Done)
}

/// Remembers that chunks up to `highest`, and copies up to `number`, were given out though the rows know of fewer. They are
/// forgotten ones for ever, and none of these numbers is given out again: an order to drop a new copy must never fit a
/// forgotten one.
pub(super) fn tail_lost(tx: &mut Tx<'_>, highest: ChunkId, number: ReplicaNumber) -> Result<Outcome, RowsError> {
    let (cluster, mut counters) = (tx.world.cluster, tx.require(&CountersKey)?);
    let timeline = cluster.timeline;
    let ours = highest.volume == VolumeId(0) && highest.timeline == timeline;
    let chunks = ours
        .then_some(highest.counter)
        .and_then(|highest| past(counters.chunk, highest));
    let numbers = past(counters.replica, number.0);
    if chunks.is_none() && numbers.is_none() {
        return Ok(Outcome::Done);
    }
    let known = tx.get(&LostTailKey)?.filter(|tail| tail.timeline == timeline);
    let mut tail = known.unwrap_or(LostTail {
        timeline,
        from: counters.chunk,
        to: counters.chunk,
        number_from: counters.replica,
        number_to: counters.replica,
    });
    if let Some(next) = chunks {
        (tail.to, counters.chunk) = (next, next);
    }
    if let Some(next) = numbers {
        (tail.number_to, counters.replica) = (next, next);
    }
    tx.put(&LostTailKey, &tail);
    tx.put(&CountersKey, &counters);
    Ok(Outcome::Done)
}

/// The number after `highest`, if that is beyond `next`, the next to be given out, and not so far that masters cannot have
/// come there: a chunkserver must not be able to use all numbers up.
fn past(next: u64, highest: u64) -> Option<u64> {
    (next..next.saturating_add(TAIL_MAX))
        .contains(&highest)
        .then_some(highest + 1)
}

/// An operator says that a server's unknown copies are indeed not wanted. They are kept as long as was said when they were
/// found.
pub(super) fn accept(tx: &mut Tx<'_>, server: ServerId) -> Result<Outcome, RowsError> {
    // Asked twice, or too late: there is nothing to accept, and nothing is accepted ahead.
    if let Some(mut doubt) = tx.get(&DoubtKey(server))?.filter(|doubt| doubt.stopped) {
        doubt.stopped = false;
        doubt.accepted = true;
        tx.put(&DoubtKey(server), &doubt);
    }
    Ok(Outcome::Done)
}

/// Copies that a server itself lists as whole though it called them damaged: they are to be read again, and count until
/// that is done.
pub(super) fn doubted(tx: &mut Tx<'_>, server: ServerId, copies: &[(ChunkId, ReplicaNumber)]) -> Result<Outcome, Stop> {
    bound(copies.len())?;
    for (chunk, number) in copies.iter().copied() {
        let report = DamageKey { chunk, server };
        let known = tx
            .get(&report)?
            .filter(|damage| damage.number == number && damage.confirmed);
        if let Some(mut damage) = known {
            damage.confirmed = false;
            tx.put(&report, &damage);
        }
    }
    Ok(Outcome::Done)
}

/// Orders copies dropped whose time is over, at most `limit`; whether more are due.
pub(super) fn expire(tx: &mut Tx<'_>, limit: usize) -> Result<bool, RowsError> {
    let doubts = key::scan_prefix::<DoubtKey>(tx.rows(), &[Kind::Doubt as u8], DOUBTS_MAX)?;
    let now = tx.now();
    let mut left = limit;
    for (DoubtKey(server), doubt) in doubts {
        let due = doubt.walked.is_some() || doubt.next <= now;
        if doubt.stopped || !due {
            continue;
        }
        if left == 0 {
            return Ok(true);
        }
        left -= walk(tx, server, doubt, left)?;
    }
    Ok(left == 0)
}

/// One step of the walk over a server's unknown copies; the rows it looked at.
fn walk(tx: &mut Tx<'_>, server: ServerId, mut doubt: Doubt, limit: usize) -> Result<usize, RowsError> {
    let prefix = UnknownKey::prefix(server);
    let from = doubt.walked.map_or_else(
        || prefix.clone(),
        |(chunk, number)| {
            let mut after = UnknownKey { server, chunk, number }.encode();
            after.push(0);
            after
        },
    );
    if doubt.walked.is_none() {
        doubt.next = StateTime(u64::MAX);
    }
    let page = key::scan::<UnknownKey>(tx.rows(), &from, &key::prefix_end(&prefix), limit)?;
    for (row, state) in &page {
        match state {
            Unknown::Kept { until } if *until > tx.now() => doubt.next = doubt.next.min(*until),
            Unknown::Kept { .. } if row_of(tx.rows(), server, row.chunk, row.number)?.is_some() => {
                tx.delete(row);
                doubt.unknown = doubt.unknown.saturating_sub(1);
            }
            Unknown::Kept { .. } => {
                tx.put(row, &Unknown::Dropping);
                tx.put(&dropping(row), &Order);
            }
            Unknown::Dropping => {}
        }
    }
    let last = page.last().filter(|_| page.len() == limit);
    doubt.walked = last.map(|(row, _)| (row.chunk, row.number));
    store(tx, server, &doubt);
    Ok(page.len())
}

/// A server has removed a copy: an unknown one that it was told to remove is forgotten.
pub(super) fn gone(tx: &mut Tx<'_>, server: ServerId, chunk: ChunkId, number: ReplicaNumber) -> Result<(), RowsError> {
    let row = UnknownKey { server, chunk, number };
    if tx.get(&row)? != Some(Unknown::Dropping) {
        return Ok(());
    }
    tx.delete(&row);
    tx.delete(&dropping(&row));
    let mut doubt = tx.require(&DoubtKey(server))?;
    doubt.unknown = doubt.unknown.saturating_sub(1);
    store(tx, server, &doubt);
    Ok(())
}

/// Forgets unknown copies of a server that is being removed and will never say that they are gone, at most `limit`; how
/// many there were.
pub(super) fn forget(tx: &mut Tx<'_>, server: ServerId, limit: usize) -> Result<usize, RowsError> {
    let page = key::scan_prefix::<UnknownKey>(tx.rows(), &UnknownKey::prefix(server), limit)?;
    let Some(mut doubt) = tx.get(&DoubtKey(server))? else {
        return Ok(0);
    };
    for (row, state) in &page {
        tx.delete(row);
        if *state == Unknown::Dropping {
            tx.delete(&dropping(row));
        }
        doubt.unknown = doubt.unknown.saturating_sub(1);
    }
    store(tx, server, &doubt);
    Ok(page.len())
}

fn store(tx: &mut Tx<'_>, server: ServerId, doubt: &Doubt) {
    if doubt.unknown == 0 {
        tx.delete(&DoubtKey(server));
    } else {
        tx.put(&DoubtKey(server), doubt);
    }
}

/// The order's row that goes with an unknown copy that is being dropped.
pub(super) fn dropping(row: &UnknownKey) -> DroppingKey {
    let UnknownKey { server, chunk, number } = *row;
    DroppingKey { server, chunk, number }
}
