//! Finds the chunks that may need repair, in bounded steps.
//!
//! Chunks with too few rows, with damage, with copies in progress or with too many copies have index rows. Those whose
//! copies lie on a server that does not answer, or is drained, have none, as losing a server changes no row: that server's copies are
//! walked in the order of chunk ids, some rows in each round, and the chunks in most need are kept in a window. What no row
//! says, copies on failing disks and what operators ask for, comes in as [`Hints`].
//!
//! Invariants: in memory there are at most [`WINDOW_MAX`] chunks and a cursor for each server; a round reads a bounded
//! number of rows; while all is well a round reads the first row of four empty indexes and nothing else. A finished walk
//! rests for as many times as long as it took, and is repeated: a chunk may be sealed behind its back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};

use super::repair::{ChunkView, Fleet, Standing};
use crate::state::key::damage::DamageKey;
use crate::state::key::degraded::DegradedKey;
use crate::state::key::{self, Key, Kind};
use crate::state::rows::{Rows, RowsError};
use crate::state::{balance, read, repair};

/// Chunks kept from walks.
pub const WINDOW_MAX: usize = 1024;
/// Copies in progress looked at in one round: far more than budgets allow.
pub const COPYING_MAX: usize = 1 << 14;
/// Rows of each index looked at in one round.
const INDEX_PAGE: usize = 256;
/// Rows walked in one round: some tens of milliseconds.
const WALK_ROWS: usize = 4096;
/// Rows of a server read at once.
const WALK_PAGE: usize = 512;
/// Least rest after a walk.
const REST_MIN: Duration = Duration::from_secs(60);
/// Least rest after a walk over a server that is drained: writes that were under way end there, and are waited for.
const REST_LEAVING: Duration = Duration::from_secs(5);
/// A walk rests for so many times as long as it took.
const REST_TIMES: u32 = 10;

/// Copies that are to leave their disks, by chunk.
pub type Leaving = BTreeMap<ChunkId, BTreeMap<ServerId, ReplicaNumber>>;

/// Chunks to look at that no index row names: what is known beside the rows.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Copies on failing disks.
    pub leaving: Leaving,
    /// Chunks an operator asked for.
    pub asked: BTreeSet<ChunkId>,
}

/// Where the search is.
#[derive(Debug, Default)]
pub struct Search {
    walks: BTreeMap<ServerId, Walk>,
    /// Chunks that walks found wanting, those with the fewest copies first.
    window: BTreeSet<(usize, ChunkId)>,
    degraded: Option<Vec<u8>>,
    damaged: Option<Vec<u8>>,
    surplus: Option<ChunkId>,
}

/// The walk over one server's copies.
#[derive(Debug)]
struct Walk {
    standing: Standing,
    began: Duration,
    after: Option<ChunkId>,
    /// When it ended, if it did.
    ended: Option<Duration>,
    /// Other servers came or went since it began: what could not be repaired may be now.
    again: bool,
    /// Chunks had to be left out of the window.
    overflowed: bool,
}

impl Walk {
    fn new(standing: Standing, now: Duration) -> Self {
        Self {
            standing,
            began: now,
            after: None,
            ended: None,
            again: false,
            overflowed: false,
        }
    }
}

impl Search {
    /// The chunks to look at now, each with its rows. Some need nothing.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn round(
        &mut self,
        rows: &dyn Rows,
        fleet: &Fleet,
        hints: &Hints,
        now: Duration,
    ) -> Result<Vec<ChunkView>, RowsError> {
        let mut ids: BTreeSet<ChunkId> = hints.asked.clone();
        ids.extend(hints.leaving.keys());
        ids.extend(repair::copying(rows, COPYING_MAX)?.into_iter().map(|key| key.chunk));
        ids.extend(read::degraded(rows, INDEX_PAGE)?.into_iter().map(|key| key.chunk));
        let page = next_page::<DegradedKey>(rows, Kind::Degraded, &mut self.degraded)?;
        ids.extend(page.into_iter().map(|key| key.chunk));
        let page = next_page::<DamageKey>(rows, Kind::Damage, &mut self.damaged)?;
        ids.extend(page.into_iter().map(|key| key.chunk));
        let page = repair::surplus(rows, self.surplus, INDEX_PAGE)?;
        self.surplus = page.last().map(|(id, _)| *id).filter(|_| page.len() == INDEX_PAGE);
        ids.extend(page.into_iter().map(|(id, _)| id));
        self.walk(rows, fleet, now)?;
        let window = std::mem::take(&mut self.window);
        ids.extend(window.into_iter().map(|(_, id)| id));
        let mut chunks = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(view) = chunk_view(rows, id)? {
                let view = view.marked(&hints.leaving);
                self.keep(fleet, &view);
                chunks.push(view);
            }
        }
        Ok(chunks)
    }

    /// Whether walks have rows left to read, so that the next round should come soon.
    #[must_use]
    pub fn is_walking(&self) -> bool {
        self.walks.values().any(|walk| walk.ended.is_none())
    }

    /// Walks on, over the servers whose copies do not count, or may not.
    fn walk(&mut self, rows: &dyn Rows, fleet: &Fleet, now: Duration) -> Result<(), RowsError> {
        self.take_note(fleet, now);
        let mut left = WALK_ROWS;
        let walking: Vec<ServerId> = self.walks.keys().copied().collect();
        for server in walking {
            while left > 0 {
                let Some(walk) = self.walks.get(&server).filter(|walk| walk.ended.is_none()) else {
                    break;
                };
                let page = read::held(rows, server, walk.after, WALK_PAGE)?;
                left = left.saturating_sub(page.len().max(1));
                let mut overflowed = false;
                for (id, _) in page.iter().filter(|(_, held)| held.live) {
                    if let Some(view) = chunk_view(rows, *id)? {
                        overflowed |= !self.keep(fleet, &view);
                    }
                }
                if let Some(walk) = self.walks.get_mut(&server) {
                    walk.overflowed |= overflowed;
                    walk.after = page.last().map(|(id, _)| *id);
                    walk.ended = (page.len() < WALK_PAGE).then_some(now);
                }
            }
        }
        Ok(())
    }

    /// Begins and ends walks as servers come and go.
    fn take_note(&mut self, fleet: &Fleet, now: Duration) {
        let unwell = |standing: Standing| matches!(standing, Standing::Overdue | Standing::Gone | Standing::Leaving);
        let now_unwell: BTreeMap<ServerId, Standing> = fleet.standings().filter(|(_, is)| unwell(*is)).collect();
        let mut changed = false;
        self.walks.retain(|server, _| {
            let stays = now_unwell.contains_key(server);
            changed |= !stays;
            stays
        });
        for (server, standing) in now_unwell {
            if self.walks.get(&server).is_none_or(|walk| walk.standing != standing) {
                self.walks.insert(server, Walk::new(standing, now));
                changed = true;
            }
        }
        let has_room = self.window.len() < WINDOW_MAX / 2;
        for walk in self.walks.values_mut() {
            walk.again |= changed && walk.began < now;
            let Some(ended) = walk.ended else { continue };
            let least = if walk.standing == Standing::Leaving {
                REST_LEAVING
            } else {
                REST_MIN
            };
            let rest = least.max(ended.saturating_sub(walk.began) * REST_TIMES);
            let is_due = now.saturating_sub(ended) >= rest;
            if is_due || walk.again || walk.overflowed && has_room {
                *walk = Walk::new(walk.standing, now);
            }
        }
    }

    /// Keeps a chunk in the window if copies of it are missing and can be made; `false` if some chunk had to be left
    /// out for it, or it itself.
    fn keep(&mut self, fleet: &Fleet, view: &ChunkView) -> bool {
        let seen = fleet.assess(view, &BTreeSet::new());
        if seen.missing == 0 || fleet.sources(view).is_empty() {
            return true;
        }
        self.window.insert((seen.present.len(), view.id));
        if self.window.len() <= WINDOW_MAX {
            return true;
        }
        self.window.pop_last();
        false
    }
}

/// A chunk's rows, if it is there.
///
/// # Errors
/// [`RowsError`].
pub fn chunk_view(rows: &dyn Rows, id: ChunkId) -> Result<Option<ChunkView>, RowsError> {
    let Some(chunk) = read::chunk(rows, id)? else {
        return Ok(None);
    };
    let reports = read::damaged(rows, id)?;
    let confirmed = reports.iter().filter(|(_, damage)| damage.confirmed);
    Ok(Some(ChunkView {
        id,
        chunk,
        damaged: confirmed.map(|(server, _)| *server).collect(),
        reported: reports.iter().map(|(server, _)| *server).collect(),
        leaving: BTreeSet::new(),
        moving: balance::of(rows, id)?,
    }))
}

/// The next page of an index; after its end, from its beginning.
fn next_page<K: Key>(rows: &dyn Rows, kind: Kind, after: &mut Option<Vec<u8>>) -> Result<Vec<K>, RowsError> {
    let prefix = [kind as u8];
    let from = match after.take() {
        Some(mut last) => {
            last.push(0);
            last
        }
        None => prefix.to_vec(),
    };
    let found = key::scan::<K>(rows, &from, &key::prefix_end(&prefix), INDEX_PAGE)?;
    if found.len() == INDEX_PAGE {
        *after = found.last().map(|(key, _)| key.encode());
    }
    Ok(found.into_iter().map(|(key, _)| key).collect())
}
