//! State time, and what is due by it.

use gabion_protocol::ids::StateTime;

use super::key::meta::ClockKey;
use super::key::{self, Key, Kind};
use super::reply::Outcome;
use super::rows::RowsError;
use super::tx::Tx;
use super::{TICK_ROWS_MAX, chunks, conditions, inventory, sessions, snapshots, trash, uploads};

/// Moves state time, then does a bounded part of what is due. A tick of zero only does the latter.
pub(super) fn tick(tx: &mut Tx<'_>, advance_ms: u64) -> Result<Outcome, RowsError> {
    let mut clock = tx.require(&ClockKey)?;
    clock.now = clock.now.plus(advance_ms);
    tx.world.now = clock.now;
    // Each sort has its own share, so that none waits for another. Uploads come before trash, trash and history before
    // garbage: one feeds the next.
    let swept = &mut clock.swept;
    let more = [
        sessions::expire(tx, &mut swept.sessions, TICK_ROWS_MAX)?,
        uploads::expire(tx, &mut swept.uploads, TICK_ROWS_MAX)?,
        trash::take_apart(tx, &mut swept.trash, TICK_ROWS_MAX)?,
        snapshots::prune(tx, TICK_ROWS_MAX)?,
        chunks::drop_garbage(tx, &mut swept.garbage, TICK_ROWS_MAX)?,
        conditions::work_off(tx, TICK_ROWS_MAX)?,
        inventory::expire(tx, TICK_ROWS_MAX)?,
    ];
    tx.put(&ClockKey, &clock);
    Ok(Outcome::Ticked {
        now: clock.now,
        more: more.contains(&true),
    })
}

/// Keys of an index by deadline that are due, at most `limit`, and whether more are.
///
/// `swept` moves up to the first of them. No row comes to lie before it: deadlines are never in the past when they
/// are set.
pub(super) fn due<K: Key>(
    tx: &Tx<'_>,
    kind: Kind,
    swept: &mut StateTime,
    limit: usize,
) -> Result<(Vec<K>, bool), RowsError> {
    let at = |time: StateTime| {
        let mut key = vec![kind as u8];
        key.extend(time.0.to_be_bytes());
        key
    };
    let rows = tx
        .rows()
        .scan(&at(*swept), &at(tx.now().plus(1)), limit.saturating_add(1))?;
    let first = rows.first().and_then(|(key, _)| key.get(1..)?.first_chunk::<8>());
    *swept = first.map_or_else(|| tx.now(), |deadline| StateTime(u64::from_be_bytes(*deadline)));
    let more = rows.len() > limit;
    let keys = rows.iter().take(limit).map(|(key, _)| key::decode::<K>(key));
    Ok((keys.collect::<Result<_, _>>()?, more))
}
