//! Counts chunks by their copies, for the status: a walk over all chunk rows, off the request path.
//!
//! One walk runs at a time, and its result is used for twenty times as long as it took, so that asking for the status
//! in a loop costs at most a twentieth of one core.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::messages::master::Health;
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::fleet;
use crate::state::key::chunk::{Chunk, Phase, ReplicaState};
use crate::state::read;
use crate::state::rows::{Rows, RowsError};
use crate::store::state_db::View;

/// Rows read at a time.
const PAGE: usize = 4096;
/// A count younger than this is always good enough.
const FRESH: Duration = Duration::from_millis(500);
/// A count stays good for this many times as long as it took.
const REUSE: u32 = 20;
/// Damage reports counted at most.
const DAMAGE_MAX: usize = 1_000_000;

/// Copies their own servers call damaged.
type Damaged = BTreeSet<(ChunkId, ServerId)>;

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Sealed chunks by good live copies on servers that are not lost.
    pub(super) copies: Vec<u64>,
    /// Sealed chunks with fewer of them than wanted.
    pub(super) under_replicated: u64,
    /// Reports of damaged copies.
    pub(super) damaged: u64,
}

#[derive(Debug, Default)]
struct Last {
    running: bool,
    /// When it ended, and how long it took.
    ended: Option<(Duration, Duration)>,
}

/// The last count, and whether another is under way.
#[derive(Debug, Default)]
pub(super) struct Census {
    last: Mutex<Last>,
    count: watch::Sender<Arc<Count>>,
}

/// What a caller finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The last count will do.
    Fresh,
    /// A walk is under way.
    Wait,
    /// The caller starts one.
    Walk,
}

impl Census {
    /// The chunks of `view`, counted a moment ago or by now; an older count if that takes longer than `wait`.
    pub(super) async fn count(
        self: &Arc<Self>,
        view: View,
        fleet: &fleet::View,
        now: Duration,
        wait: Duration,
    ) -> Arc<Count> {
        let mut count = self.count.subscribe();
        let turn = self.turn(now);
        if turn == Turn::Walk {
            let (census, fleet) = (Arc::clone(self), fleet.clone());
            tokio::task::spawn_blocking(move || census.walk(&view, &fleet));
        }
        if turn != Turn::Fresh {
            // Too slow: the count before it will do, or none yet.
            let _ = tokio::time::timeout(wait, count.changed()).await;
        }
        Arc::clone(&count.borrow())
    }

    fn turn(&self, now: Duration) -> Turn {
        let mut last = self.last.lock();
        if last.running {
            return Turn::Wait;
        }
        let fresh = |(ended, took): (Duration, Duration)| now.saturating_sub(ended) < FRESH.max(took * REUSE);
        if last.ended.is_some_and(fresh) {
            return Turn::Fresh;
        }
        last.running = true;
        Turn::Walk
    }

    fn walk(&self, view: &View, fleet: &fleet::View) {
        let began = monotonic();
        let counted = tally(view, fleet, began);
        let ended = monotonic();
        match counted {
            Ok(count) => {
                self.count.send_replace(Arc::new(count));
            }
            Err(error) => tracing::error!(%error, "cannot count chunks"),
        }
        let mut last = self.last.lock();
        last.running = false;
        last.ended = Some((ended, ended.saturating_sub(began)));
    }
}

fn tally(rows: &dyn Rows, fleet: &fleet::View, now: Duration) -> Result<Count, RowsError> {
    let mut serving = BTreeSet::new();
    for (id, server) in read::servers(rows)? {
        if !server.retired && fleet.health(id, server.incarnation, now) != Health::Lost {
            serving.insert(id);
        }
    }
    let reports = read::damage_reports(rows, DAMAGE_MAX)?;
    let confirmed = reports.iter().filter(|(_, damage)| damage.confirmed);
    let damaged: Damaged = confirmed.map(|(key, _)| (key.chunk, key.server)).collect();
    let mut count = Count {
        damaged: reports.len() as u64,
        ..Count::default()
    };
    let mut after = None;
    loop {
        let page = read::chunks(rows, after, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (id, chunk) in &page {
            let good = |server: ServerId| serving.contains(&server) && !damaged.contains(&(*id, server));
            add(&mut count, chunk, good);
        }
    }
    Ok(count)
}

fn add(count: &mut Count, chunk: &Chunk, good: impl Fn(ServerId) -> bool) {
    if chunk.phase != Phase::Sealed {
        return;
    }
    let live = chunk.replicas.iter().filter(|copy| copy.state == ReplicaState::Live);
    let copies = live.filter(|copy| good(copy.server)).count();
    if count.copies.len() <= copies {
        count.copies.resize(copies + 1, 0);
    }
    count.copies[copies] += 1;
    if copies < usize::from(chunk.wanted) {
        count.under_replicated += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::ids::{Generation, Ino, ReplicaNumber};

    fn chunk(phase: Phase, servers: &[u32]) -> Chunk {
        Chunk {
            phase,
            generation: Generation(1),
            length: 1,
            crc: 0,
            references: 1,
            wanted: 3,
            owner: Ino(2),
            replicas: servers
                .iter()
                .map(|server| crate::state::key::chunk::Replica {
                    server: ServerId(*server),
                    number: ReplicaNumber(1),
                    state: ReplicaState::Live,
                })
                .collect(),
        }
    }

    #[test]
    fn copies_on_lost_servers_do_not_count() {
        let serving = |server: ServerId| (1..=3).contains(&server.0);
        let mut count = Count::default();
        add(&mut count, &chunk(Phase::Sealed, &[1, 2, 3]), serving);
        add(&mut count, &chunk(Phase::Sealed, &[1, 2, 9]), serving);
        add(&mut count, &chunk(Phase::Sealed, &[9]), serving);
        add(&mut count, &chunk(Phase::Open, &[1]), serving);
        assert_eq!(count.copies, [1, 0, 1, 1]);
        assert_eq!(count.under_replicated, 2);
    }

    #[test]
    fn one_walk_at_a_time_and_none_while_fresh() {
        let census = Census::default();
        let at = Duration::from_secs;
        assert_eq!(census.turn(at(10)), Turn::Walk);
        assert_eq!(census.turn(at(10)), Turn::Wait);
        *census.last.lock() = Last {
            running: false,
            ended: Some((at(20), at(2))),
        };
        assert_eq!(census.turn(at(59)), Turn::Fresh, "a walk of 2 s is good for 40 s");
        assert_eq!(census.turn(at(60)), Turn::Walk);
    }
}
