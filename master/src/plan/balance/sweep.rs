//! Walks over the copies of full servers, in bounded steps, to find some that can be moved.
//!
//! Invariants: a round reads a bounded number of rows, and none if no server may give anything away; in memory there is a
//! cursor for each such server. A walk over all of a server's copies that found nothing to move rests for as many times
//! as long as it took, unless servers come or go: with three servers and three copies of everything nothing can move,
//! however uneven they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ServerId};

use super::{Balancer, Verdict};
use crate::plan::search::chunk_view;
use crate::state::balance::CopyMove;
use crate::state::read;
use crate::state::rows::{Rows, RowsError};

/// Rows walked in one round: some tens of milliseconds.
pub const ROUND_ROWS: usize = 4096;
/// Rows read at once.
const PAGE: usize = 256;
/// Least rest after a walk that found nothing.
const REST_MIN: Duration = Duration::from_secs(60);
/// It rests for so many times as long as it took.
const REST_TIMES: u32 = 10;

/// Where the walks are.
#[derive(Debug, Default)]
pub struct Sweep {
    walks: BTreeMap<ServerId, Walk>,
    /// Who took part in the last round.
    taking_part: BTreeSet<ServerId>,
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    began: Duration,
    after: Option<ChunkId>,
    found: bool,
    /// When it ended without having found anything.
    ended: Option<Duration>,
}

impl Walk {
    fn new(now: Duration) -> Self {
        Self {
            began: now,
            after: None,
            found: false,
            ended: None,
        }
    }

    fn is_resting(&self, now: Duration) -> bool {
        self.ended.is_some_and(|ended| {
            let rest = REST_MIN.max(ended.saturating_sub(self.began) * REST_TIMES);
            now.saturating_sub(ended) < rest
        })
    }
}

impl Sweep {
    /// The moves to begin now; whether rows are left to look at.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn round(
        &mut self,
        rows: &dyn Rows,
        balancer: &mut Balancer<'_>,
        now: Duration,
    ) -> Result<(Vec<CopyMove>, bool), RowsError> {
        let taking_part = balancer.taking_part();
        if taking_part != self.taking_part {
            // What could not be moved may be now.
            self.walks.clear();
            self.taking_part = taking_part;
        }
        self.walks
            .retain(|_, walk| walk.ended.is_none() || walk.is_resting(now));
        let mut moves = Vec::new();
        let mut left = ROUND_ROWS;
        while let Some(from) = balancer.next_source(|server| self.is_resting(server, now)) {
            if left == 0 {
                return Ok((moves, true));
            }
            let walk = self.walks.entry(from).or_insert_with(|| Walk::new(now));
            left = left.saturating_sub(step(rows, balancer, (from, walk), now, &mut moves)?);
        }
        Ok((moves, false))
    }

    /// Whether nothing was found on a server a short while ago.
    pub(super) fn is_resting(&self, server: ServerId, now: Duration) -> bool {
        self.walks.get(&server).is_some_and(|walk| walk.is_resting(now))
    }
}

/// Looks at a page of a server's copies; how many rows that was, at least one.
fn step(
    rows: &dyn Rows,
    balancer: &mut Balancer<'_>,
    (from, walk): (ServerId, &mut Walk),
    now: Duration,
    moves: &mut Vec<CopyMove>,
) -> Result<usize, RowsError> {
    let page = read::held(rows, from, walk.after, PAGE)?;
    for (id, held) in &page {
        if !balancer.takes_more_from(from) {
            return Ok(page.len());
        }
        let view = if held.live { chunk_view(rows, *id)? } else { None };
        match view.map_or(Verdict::Stays, |view| balancer.consider(from, &view)) {
            Verdict::Moves(one) => {
                walk.found = true;
                moves.push(one);
            }
            Verdict::Waits => return Ok(page.len()),
            Verdict::Stays => {}
        }
        walk.after = Some(*id);
    }
    if page.len() < PAGE {
        *walk = match walk.found {
            true => Walk::new(now),
            false => Walk {
                ended: Some(now),
                ..*walk
            },
        };
    }
    Ok(page.len().max(1))
}
