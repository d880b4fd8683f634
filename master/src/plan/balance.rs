//! Balance: which copies move from full servers to emptier ones.
//!
//! Rules:
//! * a server's *fill* is the used share of its space, with what is on its way to it and without what is about to go
//!   ([`flows`]); the *mean* is what all servers that take part use, of all they have;
//! * nothing moves while every server is within the threshold of the mean. When one is not, copies move until all are
//!   within half of it, so that the next write does not begin it again;
//! * a copy moves off a server that is farther above the mean than that, or to one that is farther below it, if that does
//!   not take the other one as far away, and only if the target is not fuller than the source afterwards. So each move
//!   makes the fills more alike, none is ever undone by another, and moves end (the sum of `used² / space` falls with
//!   each);
//! * what is not certain counts against a move: a source is as empty, and a target as full, as it can be by now;
//! * only chunks that lack nothing move: as many Live copies as wanted, none under way, none anybody speaks against, all
//!   on servers that beat. What is wrong with a chunk is repair's to mend, and nothing is moved while repair has work;
//! * a server never gets a second copy, and the copies of a chunk are in as many racks afterwards as before;
//! * copies in progress from one server, and to one, fit the budget;
//! * servers that are drained, in maintenance, removed, silent, flapping or have a failed disk are neither emptied nor
//!   filled here.
//!
//! Pure: rows, the fleet and the time come in.

pub mod flows;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use flows::Sums;
use gabion_protocol::ids::{ChunkId, ServerId};

use super::placement::Candidate;
use super::repair::{ChunkView, Fleet, fits, weight};
use crate::state::balance::CopyMove;
use crate::state::key::chunk::{Phase, ReplicaState};
use crate::state::repair::COPIES_MAX;

/// The whole of a server's space, in millionths.
pub const WHOLE_PPM: u32 = 1_000_000;

/// How even the servers shall be, and at what cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How far from the mean a server may be, in millionths of its space.
    pub threshold_ppm: u32,
    /// Bytes of moves in progress from one server, and to one. Whoever has none in progress may always begin one.
    pub budget: u64,
}

/// A server's space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// As placement sees it.
    pub candidate: Candidate,
    /// Bytes of its disks.
    pub bytes_total: u64,
    /// Bytes used on them, with what is on its way and without what is about to go.
    pub bytes_used: u64,
    /// As many at least: all that may have gone has, and nothing came.
    bytes_least: u64,
    /// As many at most.
    bytes_most: u64,
    /// Why copies are moved neither from it nor to it; `None` if they are.
    pub aside: Option<&'static str>,
}

impl Fill {
    /// A server of which its last beat said how much of its space is used.
    #[must_use]
    pub fn new(mut candidate: Candidate, (total, told): (u64, u64), sums: &Sums, aside: Option<&'static str>) -> Self {
        let flow = sums.of(candidate.server);
        let bytes_most = told.saturating_add(flow.comes).saturating_add(flow.came);
        candidate.bytes_free = candidate.bytes_free.saturating_sub(bytes_most - told);
        Self {
            candidate,
            bytes_total: total,
            bytes_used: told.saturating_add(flow.comes).saturating_sub(flow.goes),
            bytes_least: told.saturating_sub(flow.goes).saturating_sub(flow.went),
            bytes_most,
            aside,
        }
    }

    /// The used share, in millionths.
    #[must_use]
    pub fn ppm(&self) -> u32 {
        self.share_of(self.bytes_used)
    }

    fn share_of(&self, bytes: u64) -> u32 {
        share(u128::from(bytes), u128::from(self.bytes_total))
    }

    /// How full it is at least.
    fn least_ppm(&self) -> u32 {
        self.share_of(self.bytes_least)
    }

    /// How full it is at most.
    fn most_ppm(&self) -> u32 {
        self.share_of(self.bytes_most)
    }
}

fn share(used: u128, total: u128) -> u32 {
    let ppm = used.saturating_mul(u128::from(WHOLE_PPM)).checked_div(total);
    u32::try_from(ppm.unwrap_or(0)).map_or(WHOLE_PPM, |ppm| ppm.min(WHOLE_PPM))
}

/// How full all servers are.
#[derive(Debug, Clone)]
pub struct Levels {
    fills: BTreeMap<ServerId, Fill>,
    mean_ppm: u32,
}

impl Levels {
    /// These servers; those that are aside do not count in the mean.
    #[must_use]
    pub fn new(fills: Vec<Fill>) -> Self {
        let taking_part = || fills.iter().filter(|fill| fill.aside.is_none());
        let used = taking_part().map(|fill| u128::from(fill.bytes_used)).sum();
        let total = taking_part().map(|fill| u128::from(fill.bytes_total)).sum();
        let mean_ppm = share(used, total);
        let fills = fills.into_iter().map(|fill| (fill.candidate.server, fill)).collect();
        Self { fills, mean_ppm }
    }

    /// The mean, in millionths.
    #[must_use]
    pub fn mean_ppm(&self) -> u32 {
        self.mean_ppm
    }

    /// All servers.
    pub fn fills(&self) -> impl Iterator<Item = &Fill> {
        self.fills.values()
    }

    /// Those that take part.
    fn taking_part(&self) -> impl Iterator<Item = &Fill> {
        self.fills().filter(|fill| fill.aside.is_none())
    }

    /// Whether every server that takes part is that near to the mean.
    #[must_use]
    pub fn are_within(&self, ppm: u32) -> bool {
        self.taking_part().all(|fill| fill.ppm().abs_diff(self.mean_ppm) <= ppm)
    }

    /// Whether a copy of so many bytes on `from` had better be on `to`, for servers to be within `aim` of the mean.
    fn is_better(&self, from: &Fill, to: &Fill, bytes: u64, aim: u32) -> bool {
        let left = from.bytes_least.saturating_sub(bytes);
        let taken = to.bytes_most.saturating_add(bytes);
        let (high, low) = (self.mean_ppm.saturating_add(aim), self.mean_ppm.saturating_sub(aim));
        let relieves = from.least_ppm() > high && to.share_of(taken) <= high;
        let fills = to.most_ppm() < low && from.share_of(left) >= low;
        let evens = u128::from(taken) * u128::from(from.bytes_total) <= u128::from(left) * u128::from(to.bytes_total);
        (relieves || fills) && evens
    }

    /// A copy is as good as moved.
    fn moved(&mut self, from: ServerId, to: ServerId, bytes: u64) {
        if let Some(fill) = self.fills.get_mut(&from) {
            fill.bytes_used = fill.bytes_used.saturating_sub(bytes);
            fill.bytes_least = fill.bytes_least.saturating_sub(bytes);
        }
        if let Some(fill) = self.fills.get_mut(&to) {
            fill.bytes_used = fill.bytes_used.saturating_add(bytes);
            fill.bytes_most = fill.bytes_most.saturating_add(bytes);
            fill.candidate.bytes_free = fill.candidate.bytes_free.saturating_sub(bytes);
        }
    }
}

/// Bytes of moves in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Busy {
    /// By the server they leave.
    pub from: BTreeMap<ServerId, u64>,
    /// By the server they go to.
    pub to: BTreeMap<ServerId, u64>,
}

/// Plans moves, chunk by chunk. What it has planned counts.
#[derive(Debug)]
pub struct Balancer<'a> {
    fleet: &'a Fleet,
    levels: Levels,
    aim: u32,
    budget: u64,
    busy: Busy,
    /// Servers that failed to make a copy of a chunk a while ago.
    avoid: &'a BTreeSet<(ChunkId, ServerId)>,
    planned: BTreeSet<ChunkId>,
    /// Sources that wait for room in a budget.
    waiting: BTreeSet<ServerId>,
}

/// What became of a copy that was considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be moved.
    Moves(CopyMove),
    /// It is to be moved when others have been.
    Waits,
    /// It stays.
    Stays,
}

impl<'a> Balancer<'a> {
    /// Plans until servers are within `aim` of the mean, or the budget is used up.
    #[must_use]
    pub fn new(
        fleet: &'a Fleet,
        levels: Levels,
        (aim, budget): (u32, u64),
        busy: Busy,
        avoid: &'a BTreeSet<(ChunkId, ServerId)>,
    ) -> Self {
        Self {
            fleet,
            levels,
            aim,
            budget,
            busy,
            avoid,
            planned: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// How full the servers are when all that is planned is done.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Servers that take part.
    fn taking_part(&self) -> BTreeSet<ServerId> {
        self.levels.taking_part().map(|fill| fill.candidate.server).collect()
    }

    /// The fullest server that may give a copy away, of those that are not passed over.
    fn next_source(&self, is_passed_over: impl Fn(ServerId) -> bool) -> Option<ServerId> {
        let sources = self.levels.taking_part();
        let able = sources.filter(|fill| !is_passed_over(fill.candidate.server) && self.may_give(fill));
        let fullest = able.max_by_key(|fill| (fill.least_ppm(), std::cmp::Reverse(fill.candidate.server)))?;
        Some(fullest.candidate.server)
    }

    /// Whether a server may give a copy away, if there is one that another can take.
    fn may_give(&self, from: &Fill) -> bool {
        let mut targets = self.levels.taking_part();
        let server = from.candidate.server;
        !self.waiting.contains(&server)
            && has_room(&self.busy.from, server, self.budget)
            && targets.any(|to| {
                has_room(&self.busy.to, to.candidate.server, self.budget)
                    && self.levels.is_better(from, to, 1, self.aim)
            })
    }

    /// Whether more may be moved from a server.
    fn takes_more_from(&self, from: ServerId) -> bool {
        self.levels.fills.get(&from).is_some_and(|fill| self.may_give(fill))
    }

    /// Whether a server's copy of a chunk had better be elsewhere.
    pub fn consider(&mut self, from: ServerId, view: &ChunkView) -> Verdict {
        let Some(to) = self.target(from, view) else {
            return Verdict::Stays;
        };
        let length = view.chunk.length;
        let fit = |used, server| fits(used, server, length, self.budget);
        if !fit(&self.busy.from, from) || !fit(&self.busy.to, to) {
            self.waiting.insert(from);
            return Verdict::Waits;
        }
        self.levels.moved(from, to, length);
        *self.busy.from.entry(from).or_default() += weight(length);
        *self.busy.to.entry(to).or_default() += weight(length);
        self.planned.insert(view.id);
        Verdict::Moves(CopyMove {
            chunk: view.id,
            planned: view.chunk.replicas.clone(),
            from,
            to,
        })
    }

    /// The server that had better have the copy that `from` has; one whose budget allows it, if there is such a one.
    fn target(&self, from: ServerId, view: &ChunkView) -> Option<ServerId> {
        let source = self.levels.fills.get(&from).filter(|fill| fill.aside.is_none())?;
        let holders: BTreeSet<ServerId> = view.chunk.replicas.iter().map(|copy| copy.server).collect();
        if !self.is_at_rest(view) || self.planned.contains(&view.id) || !holders.contains(&from) {
            return None;
        }
        let length = view.chunk.length;
        let able = self.levels.taking_part().filter(|to| {
            let server = to.candidate.server;
            !holders.contains(&server)
                && !self.avoid.contains(&(view.id, server))
                && to.candidate.bytes_free >= length
                && self.levels.is_better(source, to, length, self.aim)
                && self.racks_stay(&holders, from, server)
        });
        let best = able.min_by_key(|to| {
            let server = to.candidate.server;
            (!fits(&self.busy.to, server, length, self.budget), to.most_ppm(), server)
        })?;
        Some(best.candidate.server)
    }

    /// Whether a chunk lacks nothing and nothing is done about it.
    fn is_at_rest(&self, view: &ChunkView) -> bool {
        let chunk = &view.chunk;
        let is_well = |copy: &crate::state::key::chunk::Replica| {
            copy.state == ReplicaState::Live && self.fleet.is_steady(copy.server)
        };
        chunk.phase == Phase::Sealed
            && chunk.replicas.len() == usize::from(chunk.wanted)
            && chunk.replicas.len() < COPIES_MAX
            && chunk.replicas.iter().all(is_well)
            && view.reported.is_empty()
            && view.leaving.is_empty()
            && view.moving.is_none()
    }

    /// Whether the copies are in as many racks with the one on `from` on `to`.
    fn racks_stay(&self, holders: &BTreeSet<ServerId>, from: ServerId, to: ServerId) -> bool {
        let racks = |servers: &mut dyn Iterator<Item = ServerId>| -> usize {
            let rack = |server| self.fleet.rack(server);
            servers.filter_map(rack).collect::<BTreeSet<&str>>().len()
        };
        let before = racks(&mut holders.iter().copied());
        let stays = holders.iter().copied().filter(|of| *of != from);
        racks(&mut stays.chain([to])) >= before
    }
}

/// Whether a server's budget is not used up.
fn has_room(used: &BTreeMap<ServerId, u64>, server: ServerId, budget: u64) -> bool {
    used.get(&server).is_none_or(|used| *used < budget)
}

/// When balance begins, and when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drive {
    runs: bool,
}

impl Drive {
    /// Copies are being moved.
    #[must_use]
    pub fn begun() -> Self {
        Self { runs: true }
    }

    /// Whether nothing has begun, and nothing has to.
    #[must_use]
    pub fn is_done(&self, levels: &Levels, threshold_ppm: u32) -> bool {
        !self.runs && levels.are_within(threshold_ppm)
    }

    /// How near to the mean servers shall come now; `None` if they are near enough.
    pub fn aim(&mut self, levels: &Levels, threshold_ppm: u32) -> Option<u32> {
        let aim = threshold_ppm / 2;
        let enough = if self.runs { aim } else { threshold_ppm };
        self.runs = !levels.are_within(enough);
        self.runs.then_some(aim)
    }
}

#[cfg(test)]
mod tests;
