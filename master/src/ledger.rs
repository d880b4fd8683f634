//! What the rows say each chunkserver holds, as digests in memory: kept up to date by every write of rows.
//!
//! A server's digests begin with a walk over its rows, when this master first needs them as the leader, and stay right from
//! then on, whoever leads; a master that never led keeps none. So neither a start nor a change of leaders waits for them,
//! and a write on a follower costs nothing.
//!
//! Invariants: digests are ready only if every row change up to the newest write is in them; rows that were replaced as a
//! whole (a snapshot) make all digests start anew. They decide nothing by themselves: where they differ from what a server
//! tells, the rows are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::inventory::{Bucket, Digests, fingerprint};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;

use crate::state::inventory::expected;
use crate::state::key::damage::{Damage, DamageKey};
use crate::state::key::replica::{Held, ReplicaKey};
use crate::state::key::unknown::UnknownKey;
use crate::state::key::{Key as _, Kind, prefix_end};
use crate::state::rows::{Changes, Rows, RowsError};
use crate::store::state_db::View;

/// Digests of the servers this master has been asked about.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    servers: BTreeMap<ServerId, Account>,
    /// Those servers, for a write to look at without the lock.
    kept: Arc<BTreeSet<ServerId>>,
    /// Counts walks, so that one over rows that were replaced meanwhile is told apart.
    walks: u64,
    /// The log index of the newest write that was looked at; it may not be stored yet.
    seen: u64,
}

#[derive(Debug)]
enum Account {
    /// The walk of this number is under way; changes since it began, each with the log index of its write.
    Walked {
        number: u64,
        since: Vec<(u64, Bucket, u64)>,
    },
    /// The digests, and when each bucket changed last.
    Ready {
        digests: Digests,
        changed: BTreeMap<Bucket, Duration>,
    },
}

/// A walk that is to be made.
#[derive(Debug)]
#[must_use]
pub(crate) struct Walk {
    server: ServerId,
    number: u64,
    /// A write up to here may have been looked at before the walk was known of, so the view must hold it.
    not_before: u64,
}

/// A bucket as the rows have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its digest.
    pub(crate) digest: u64,
    /// When it changed last; `None` if it has not since the walk.
    pub(crate) changed: Option<Duration>,
}

impl Ledger {
    /// Begins a walk over a server's rows, unless its digests are ready or one is under way. The view it reads is taken
    /// after this.
    pub(crate) fn begin(&self, server: ServerId) -> Option<Walk> {
        let mut inner = self.0.lock();
        if inner.servers.contains_key(&server) {
            return None;
        }
        inner.walks += 1;
        let number = inner.walks;
        let since = Vec::new();
        inner.servers.insert(server, Account::Walked { number, since });
        inner.keep();
        Some(Walk {
            server,
            number,
            not_before: inner.seen,
        })
    }

    /// Walks, off the request path. A failure, and a view that is too old, leave nothing behind: the next report tries
    /// again.
    pub(crate) fn walk(&self, walk: &Walk, view: &View) -> Result<(), RowsError> {
        let walked = sum(view, walk.server).and_then(|digests| Ok((digests, view.applied_index()?)));
        let mut inner = self.0.lock();
        let is_same =
            |account: &&mut Account| matches!(account, Account::Walked { number, .. } if *number == walk.number);
        let Some(account) = inner.servers.get_mut(&walk.server).filter(is_same) else {
            return Ok(());
        };
        let (mut digests, applied) = match walked {
            Ok((digests, applied)) if applied >= walk.not_before => (digests, applied),
            other => {
                inner.servers.remove(&walk.server);
                inner.keep();
                return other.map(drop);
            }
        };
        let mut changed = BTreeMap::new();
        if let Account::Walked { since, .. } = account {
            let now = monotonic();
            for (_, bucket, by) in since.iter().filter(|(index, ..)| *index > applied) {
                digests.shift(*bucket, *by);
                changed.insert(*bucket, now);
            }
        }
        *account = Account::Ready { digests, changed };
        Ok(())
    }

    /// A server's bucket; `None` while its digests are not ready.
    pub(crate) fn known(&self, server: ServerId, bucket: Bucket) -> Option<Known> {
        let inner = self.0.lock();
        match inner.servers.get(&server)? {
            Account::Walked { .. } => None,
            Account::Ready { digests, changed } => Some(Known {
                digest: digests.of(bucket),
                changed: changed.get(&bucket).copied(),
            }),
        }
    }

    /// Takes in the changes of one write, which ends at log index `index`; `rows` are as they were before it.
    pub(crate) fn watch(&self, rows: &dyn Rows, changes: &Changes, index: u64) -> Result<(), RowsError> {
        let kept = {
            let mut inner = self.0.lock();
            inner.seen = index;
            Arc::clone(&inner.kept)
        };
        if kept.is_empty() {
            return Ok(());
        }
        let moved = moves(&kept, rows, changes)?;
        if moved.is_empty() {
            return Ok(());
        }
        let now = monotonic();
        let mut inner = self.0.lock();
        for (server, bucket, by) in moved {
            match inner.servers.get_mut(&server) {
                Some(Account::Walked { since, .. }) => since.push((index, bucket, by)),
                Some(Account::Ready { digests, changed }) => {
                    digests.shift(bucket, by);
                    changed.insert(bucket, now);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Rows were replaced as a whole.
    pub(crate) fn forget(&self) {
        let mut inner = self.0.lock();
        inner.servers.clear();
        inner.keep();
    }
}

impl Inner {
    fn keep(&mut self) {
        self.kept = Arc::new(self.servers.keys().copied().collect());
    }
}

/// What a write adds to the buckets of the servers that are kept.
fn moves(
    kept: &BTreeSet<ServerId>,
    rows: &dyn Rows,
    changes: &Changes,
) -> Result<Vec<(ServerId, Bucket, u64)>, RowsError> {
    let after = Laid { rows, changes };
    let mut moves = Vec::new();
    for (server, chunk) in touched(changes).into_iter().filter(|(server, _)| kept.contains(server)) {
        let print = |number: Option<ReplicaNumber>| number.map_or(0, |number| fingerprint(chunk, number));
        let before = print(expected(rows, server, chunk)?);
        let by = print(expected(&after, server, chunk)?).wrapping_sub(before);
        if by != 0 {
            moves.push((server, Bucket::of(chunk), by));
        }
    }
    for (key, value) in of_kind(changes, Kind::Unknown) {
        let Some(UnknownKey { server, chunk, number }) = UnknownKey::decode(key) else {
            continue;
        };
        if !kept.contains(&server) {
            continue;
        }
        let (was, is) = (rows.get(key)?.is_some(), value.is_some());
        if was != is {
            let print = fingerprint(chunk, number);
            let by = if is { print } else { print.wrapping_neg() };
            moves.push((server, Bucket::of(chunk), by));
        }
    }
    Ok(moves)
}

/// Changes laid over the rows they are about to change.
struct Laid<'a> {
    rows: &'a dyn Rows,
    changes: &'a Changes,
}

impl Rows for Laid<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.rows.get(key),
        }
    }

    fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RowsError> {
        Err(RowsError::Read(
            "changes that are not stored yet cannot be scanned".to_owned(),
        ))
    }
}

fn of_kind(changes: &Changes, kind: Kind) -> impl Iterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
    changes.range(vec![kind as u8]..vec![kind as u8 + 1])
}

/// The copies whose rows a write touches.
fn touched(changes: &Changes) -> BTreeSet<(ServerId, ChunkId)> {
    let held = of_kind(changes, Kind::Replica).filter_map(|(key, _)| ReplicaKey::decode(key));
    let damaged = of_kind(changes, Kind::Damage).filter_map(|(key, _)| DamageKey::decode(key));
    held.map(|key| (key.server, key.chunk))
        .chain(damaged.map(|key| (key.server, key.chunk)))
        .collect()
}

/// A server's digests, by a walk over its rows.
fn sum(view: &View, server: ServerId) -> Result<Digests, RowsError> {
    let mut damaged: BTreeMap<ChunkId, ReplicaNumber> = BTreeMap::new();
    let kind = vec![Kind::Damage as u8];
    view.for_each_between(&kind, &prefix_end(&kind), |key, value| {
        let (key, damage) = decoded::<DamageKey, Damage>(key, value)?;
        if key.server == server && damage.confirmed {
            damaged.insert(key.chunk, damage.number);
        }
        Ok(())
    })?;
    let mut digests = Digests::default();
    let held = ReplicaKey::prefix(server);
    view.for_each_between(&held, &prefix_end(&held), |key, value| {
        let (key, held) = decoded::<ReplicaKey, Held>(key, value)?;
        if held.live && damaged.get(&key.chunk) != Some(&held.number) {
            digests.add(key.chunk, held.number);
        }
        Ok(())
    })?;
    let unknown = UnknownKey::prefix(server);
    view.for_each_between(&unknown, &prefix_end(&unknown), |key, _| {
        let key = UnknownKey::decode(key).ok_or_else(|| malformed(key))?;
        digests.add(key.chunk, key.number);
        Ok(())
    })?;
    Ok(digests)
}

fn decoded<K: crate::state::key::Key<Value = V>, V: crate::state::key::Value>(
    key: &[u8],
    value: &[u8],
) -> Result<(K, V), RowsError> {
    let both = K::decode(key).zip(V::decode(value).ok());
    both.ok_or_else(|| malformed(key))
}

fn malformed(key: &[u8]) -> RowsError {
    RowsError::Corrupt {
        key: gabion_protocol::keys::hex(key),
        why: "it does not decode".to_owned(),
    }
}

#[cfg(test)]
mod tests;
