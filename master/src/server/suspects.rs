//! Copies that readers reported and their servers have not re-read: the leader orders them read again.
//!
//! Reports are rows by chunk; what a server's beat needs is by server. A walk over all reports, off the request path,
//! sorts them; its result is used for twenty times as long as it took. Before an order is given its row is looked at
//! again, so that a report which was answered meanwhile costs nothing.
//!
//! The order changes nothing on the server, so it needs no read barrier: one too many costs one re-read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::messages::master::Order;
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;

use super::shared::Master;
use crate::state::key::damage::DamageKey;
use crate::state::read;
use crate::state::rows::{Rows, RowsError};
use crate::store::state_db::View;

/// Orders to re-read in one answer to a beat: a disk reads so many large chunks in some seconds.
pub(super) const ORDERS_MAX: usize = 16;
/// Reports kept for one server: it is told of the others when these are answered.
const KEPT_MAX: usize = 4 * ORDERS_MAX;
/// Rows read at a time.
const PAGE: usize = 4096;
/// A walk younger than this is always good enough.
const FRESH: Duration = Duration::from_millis(500);
/// A walk stays good for this many times as long as it took.
const REUSE: u32 = 20;

type Copies = Vec<(ChunkId, ReplicaNumber)>;

/// The last walk, and whether another is under way.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    running: bool,
    /// When it ended, and how long it took.
    ended: Option<(Duration, Duration)>,
    found: Arc<BTreeMap<ServerId, Copies>>,
}

impl Suspects {
    /// What the last walk found for a server, and whether the caller is to start another.
    fn known(&self, server: ServerId, now: Duration) -> (Copies, bool) {
        let mut last = self.0.lock();
        let found = last.found.get(&server).cloned().unwrap_or_default();
        let fresh = |(ended, took): (Duration, Duration)| now.saturating_sub(ended) < FRESH.max(took * REUSE);
        let walk = !last.running && !last.ended.is_some_and(fresh);
        last.running |= walk;
        (found, walk)
    }

    fn walk(&self, view: &View) {
        let began = monotonic();
        let sorted = sort(view);
        let ended = monotonic();
        let mut last = self.0.lock();
        last.running = false;
        last.ended = Some((ended, ended.saturating_sub(began)));
        match sorted {
            Ok(found) => last.found = Arc::new(found),
            Err(error) => tracing::error!(%error, "cannot read reports of damage"),
        }
    }
}

/// Unconfirmed reports by server.
fn sort(rows: &dyn Rows) -> Result<BTreeMap<ServerId, Copies>, RowsError> {
    let mut found = BTreeMap::<ServerId, Copies>::new();
    let mut after: Option<DamageKey> = None;
    loop {
        let page = read::damage_reports_after(rows, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(found);
        };
        after = Some(*last);
        for (key, damage) in page.iter().filter(|(_, damage)| !damage.confirmed) {
            let copies = found.entry(key.server).or_default();
            if copies.len() < KEPT_MAX {
                copies.push((key.chunk, damage.number));
            }
        }
    }
}

impl Master {
    /// Orders to a server to re-read copies that readers reported.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub(super) async fn verify_orders(&self, server: ServerId) -> Result<Vec<Order>, WireError> {
        let (copies, walk) = self.suspects.known(server, monotonic());
        if walk {
            let (suspects, view) = (Arc::clone(&self.suspects), self.raft.stale_view());
            tokio::task::spawn_blocking(move || suspects.walk(&view));
        }
        if copies.is_empty() {
            return Ok(Vec::new());
        }
        self.read_stale(move |view| {
            let mut orders = Vec::new();
            for (chunk, replica) in &copies {
                let open = read::damage(view, *chunk, server)?
                    .is_some_and(|damage| !damage.confirmed && damage.number == *replica);
                if open && orders.len() < ORDERS_MAX {
                    orders.push(Order::Verify {
                        chunk: *chunk,
                        replica: *replica,
                    });
                }
            }
            Ok(orders)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::ids::{Timeline, VolumeId};

    use super::*;
    use crate::state::key::damage::Damage;
    use crate::state::key::{Key as _, Value as _};
    use crate::state::rows::MemoryRows;

    fn chunk(counter: u64) -> ChunkId {
        ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter,
        }
    }

    #[test]
    fn unconfirmed_reports_are_sorted_by_server_whatever_lies_between_them() {
        let mut rows = MemoryRows::default();
        for counter in 0..PAGE as u64 + 10 {
            for server in [1, 2] {
                let key = DamageKey {
                    chunk: chunk(counter),
                    server: ServerId(server),
                };
                let damage = Damage {
                    number: ReplicaNumber(counter),
                    confirmed: server == 1 && counter != PAGE as u64 + 5,
                    what: String::new(),
                };
                rows.0.insert(key.encode(), damage.encode());
            }
        }
        let found = sort(&rows).unwrap();
        let last = PAGE as u64 + 5;
        assert_eq!(found[&ServerId(1)], [(chunk(last), ReplicaNumber(last))]);
        assert_eq!(found[&ServerId(2)].len(), KEPT_MAX, "no more than can be ordered soon");
    }

    #[test]
    fn one_walk_at_a_time_and_none_while_fresh() {
        let suspects = Suspects::default();
        let at = Duration::from_secs;
        assert!(suspects.known(ServerId(1), at(1)).1);
        assert!(!suspects.known(ServerId(1), at(9)).1, "it runs");
        suspects.0.lock().running = false;
        suspects.0.lock().ended = Some((at(10), at(2)));
        assert!(!suspects.known(ServerId(1), at(49)).1);
        assert!(suspects.known(ServerId(1), at(50)).1);
    }
}
