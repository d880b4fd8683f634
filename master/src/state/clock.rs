//! State time, and what is due by it.

use gabion_protocol::ids::StateTime;

use super::key::meta::{Clock, ClockKey};
use super::key::{self, Key, Kind};
use super::reply::Outcome;
use super::rows::RowsError;
use super::tx::Tx;
use super::{TICK_ROWS_MAX, chunks, sessions, trash, uploads};

/// Moves state time, then does a bounded part of what is due. A tick of zero only does the latter.
pub(super) fn tick(tx: &mut Tx<'_>, advance_ms: u64) -> Result<Outcome, RowsError> {
    let now = tx.now().plus(advance_ms);
    tx.world.now = now;
    tx.put(&ClockKey, &Clock { now });
    // Each sort has its own share, so that none waits for another. Uploads come before trash, trash before garbage:
    // one feeds the next.
    let more = [
        sessions::expire(tx, TICK_ROWS_MAX)?,
        uploads::expire(tx, TICK_ROWS_MAX)?,
        trash::take_apart(tx, TICK_ROWS_MAX)?,
        chunks::drop_garbage(tx, TICK_ROWS_MAX)?,
    ];
    Ok(Outcome::Ticked {
        now,
        more: more.contains(&true),
    })
}

/// Keys of an index by deadline that are due, at most `limit`, and whether more are.
pub(super) fn due<K: Key>(tx: &Tx<'_>, kind: Kind, limit: usize) -> Result<(Vec<K>, bool), RowsError> {
    let from = vec![kind as u8];
    let StateTime(after) = tx.now().plus(1);
    let mut to = from.clone();
    to.extend(after.to_be_bytes());
    let rows = key::scan(tx.rows(), &from, &to, limit.saturating_add(1))?;
    let more = rows.len() > limit;
    Ok((rows.into_iter().take(limit).map(|(key, _)| key).collect(), more))
}
