//! Repair: which chunks get another copy, which copies in progress are given up, which copies may go.
//!
//! Rules:
//! * a copy counts while its server beats, or has been silent for too short a time to be lost. It does not count on a
//!   server that is lost, retired or comes and goes, nor when its own server calls it damaged;
//! * on a server in maintenance a copy counts however long it is silent: it was promised to come back. One on a server
//!   that is drained, or on a disk that fails, does not count, but others are made from it, and it goes first when they
//!   are there;
//! * a chunk of which a single copy is left waits for nobody longer than [`Policy::urgent`] after suspicion;
//! * what an operator asks for first, then fewest present copies, then the oldest chunk; a copy that finds no room in a [`Budget`] does not hold up the
//!   ones behind it;
//! * a copy in progress is given up when its target is lost, it is overdue, or the chunk has enough copies without it;
//! * a copy is dropped only if as many as are wanted are present without it, on servers that have been steady for a
//!   while. A damaged one goes first; one that is damaged also makes room on its server, if no other server is left;
//! * a copy that comes to take another one's place (`balance`) is needed as long as that one is well and copies may be
//!   moved, and when it is there the other one goes, unless fewer racks would be left than otherwise. It counts in no
//!   budget here: a move holds up no repair.
//!
//! One sort of step for a chunk at a time: the next plan sees what became of it. What is planned here names the rows it
//! was planned from, and `state::repair` refuses it if they have changed.
//!
//! Pure: rows and the fleet as they are come in, the seed too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::messages::master::{Condition, Health};

use super::placement::{Candidate, Placement, extend};
use super::search::Leaving;
use crate::state::key::chunk::{Chunk, Phase, Replica, ReplicaState};
use crate::state::key::moving::Move;
use crate::state::repair::{COPIES_MAX, CopyDrop, CopyPlan};

/// Least a copy counts in a budget: what small ones cost is requests and log entries, not bytes.
const COPY_BYTES_MIN: u64 = 2 << 20;

/// Bytes of copies in progress. Whoever has none in progress may always begin one, however large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Read from one server.
    pub source: u64,
    /// Written to one server.
    pub target: u64,
    /// In all.
    pub cluster: u64,
}

/// How eager repair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Silence after which a server is suspect.
    pub suspect: Duration,
    /// How long after that the last copy of a chunk waits for the others; and how long a server must have been steady
    /// before a copy is dropped because of its own.
    pub urgent: Duration,
    /// Bytes in progress.
    pub budget: Budget,
    /// Whether copies may be moved from full servers to empty ones.
    pub moves: bool,
}

/// A server as this planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As placement sees it: alive only by proof of a beat.
    pub candidate: Candidate,
    /// What silence says.
    pub health: Health,
    /// How long it has been silent.
    pub silent: Duration,
    /// How long it has been beating without a gap.
    pub steady: Duration,
    /// It comes and goes.
    pub flapping: bool,
}

/// How a server's copies stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// They can be read.
    Present,
    /// Silent for a moment.
    Silent,
    /// Silent for longer than the last copy of a chunk waits.
    Overdue,
    /// They count no more.
    Gone,
    /// They count no more, and can be read: their server is drained.
    Leaving,
}

/// All servers, and how eager repair is.
#[derive(Debug, Clone)]
pub struct Fleet {
    servers: BTreeMap<ServerId, Server>,
    policy: Policy,
}

/// A chunk and what is said of its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkView {
    /// The chunk.
    pub id: ChunkId,
    /// Its row.
    pub chunk: Chunk,
    /// Servers whose copy is damaged as they say themselves.
    pub damaged: BTreeSet<ServerId>,
    /// Servers whose copy somebody calls damaged, those above among them.
    pub reported: BTreeSet<ServerId>,
    /// Servers whose copy lies on a disk that fails: others are made from it, and then it goes.
    pub leaving: BTreeSet<ServerId>,
    /// One of its copies is to go to another server.
    pub moving: Option<Move>,
}

impl ChunkView {
    /// With the copies marked that are to leave their disks.
    #[must_use]
    pub fn marked(mut self, leaving: &Leaving) -> Self {
        let copies = leaving.get(&self.id).into_iter().flatten();
        for (server, number) in copies {
            let (server, number, state) = (*server, *number, ReplicaState::Live);
            if self.chunk.replicas.contains(&Replica { server, number, state }) {
                self.leaving.insert(server);
            }
        }
        self
    }

    /// Whether a copy comes to take another one's place.
    fn is_moved_by(&self, number: ReplicaNumber) -> bool {
        self.moving.is_some_and(|row| row.comes == number)
    }
}

/// What goes on already, and what went wrong.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes by the server they are read from.
    pub sources: BTreeMap<ServerId, u64>,
    /// Bytes by the server they are written to.
    pub targets: BTreeMap<ServerId, u64>,
    /// Bytes in all.
    pub cluster: u64,
    /// Copies that take too long.
    pub overdue: BTreeSet<(ChunkId, ReplicaNumber)>,
    /// Servers that failed to make a copy of a chunk a while ago.
    pub avoid: BTreeSet<(ChunkId, ServerId)>,
    /// Chunks an operator asked for: before all others.
    pub asked: BTreeSet<ChunkId>,
}

/// Which server each copy in progress, by its chunk and target, reads from first.
pub type Assigned = BTreeMap<(ChunkId, ServerId), ServerId>;

impl Progress {
    /// Counts the copies in progress of these chunks, and gives each a source: the one it had, or the least busy. Copies
    /// that are in progress no more lose theirs. Gives each copy's length.
    pub fn take_stock(
        &mut self,
        fleet: &Fleet,
        chunks: &[ChunkView],
        assigned: &mut Assigned,
    ) -> BTreeMap<(ChunkId, ReplicaNumber), u64> {
        let mut before = std::mem::take(assigned);
        let mut lengths = BTreeMap::new();
        for view in chunks.iter().filter(|view| view.chunk.phase == Phase::Sealed) {
            let length = view.chunk.length;
            let sources: Vec<ServerId> = fleet.sources(view).iter().map(|copy| copy.server).collect();
            let copying = view
                .chunk
                .replicas
                .iter()
                .filter(|copy| copy.state == ReplicaState::Copying);
            for copy in copying {
                lengths.insert((view.id, copy.number), length);
                let is_repair = !view.is_moved_by(copy.number);
                if is_repair {
                    *self.targets.entry(copy.server).or_default() += weight(length);
                    self.cluster += weight(length);
                }
                let had = before
                    .remove(&(view.id, copy.server))
                    .filter(|had| sources.contains(had));
                let used = |of: &ServerId| self.sources.get(of).copied().unwrap_or(0);
                if let Some(from) = had.or_else(|| sources.iter().copied().min_by_key(used)) {
                    if is_repair {
                        *self.sources.entry(from).or_default() += weight(length);
                    }
                    assigned.insert((view.id, copy.server), from);
                }
            }
        }
        lengths
    }
}

/// What is to be proposed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Copies to add.
    pub adds: Vec<CopyPlan>,
    /// Which server each of them shall read from first: the one whose budget it was taken from.
    pub sources: Assigned,
    /// Copies in progress to give up.
    pub give_ups: Vec<(ChunkId, ServerId, ReplicaNumber)>,
    /// Copies to drop.
    pub drops: Vec<CopyDrop>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.give_ups.is_empty() && self.drops.is_empty()
    }
}

/// What a copy of so many bytes takes of a budget.
#[must_use]
pub fn weight(length: u64) -> u64 {
    length.max(COPY_BYTES_MIN)
}

impl Fleet {
    /// These servers.
    #[must_use]
    pub fn new(servers: Vec<Server>, policy: Policy) -> Self {
        let servers = servers.into_iter().map(|server| (server.candidate.server, server));
        Self {
            servers: servers.collect(),
            policy,
        }
    }

    /// Each server and how its copies stand.
    pub fn standings(&self) -> impl Iterator<Item = (ServerId, Standing)> {
        self.servers.keys().map(|server| (*server, self.standing(*server)))
    }

    /// How the copies of a server stand.
    #[must_use]
    pub fn standing(&self, server: ServerId) -> Standing {
        let Some(server) = self.servers.get(&server) else {
            return Standing::Gone;
        };
        let is_over = server.candidate.retired || server.candidate.condition == Condition::Removing;
        let is_maintained = matches!(server.candidate.condition, Condition::Maintenance { .. });
        match server.health {
            _ if is_over => Standing::Gone,
            Health::Alive if is_maintained => Standing::Present,
            Health::Suspect | Health::Lost if is_maintained => Standing::Silent,
            _ if server.flapping => Standing::Gone,
            Health::Lost => Standing::Gone,
            Health::Alive | Health::Suspect if server.candidate.condition == Condition::Draining => Standing::Leaving,
            Health::Alive => Standing::Present,
            Health::Suspect if server.silent >= self.policy.suspect + self.policy.urgent => Standing::Overdue,
            Health::Suspect => Standing::Silent,
        }
    }

    /// Whether a beat proves that a server can be read from now.
    fn answers(&self, server: ServerId) -> bool {
        let server = self.servers.get(&server);
        server.is_some_and(|server| !server.candidate.retired && server.candidate.health == Health::Alive)
    }

    /// Whether a server has been there for long enough to give up other copies for its own.
    pub(crate) fn is_steady(&self, server: ServerId) -> bool {
        // One that may be switched off at any time is nothing to give up another copy for.
        let steady =
            |server: &Server| server.steady >= self.policy.urgent && server.candidate.condition == Condition::InService;
        self.answers(server) && self.servers.get(&server).is_some_and(steady)
    }

    /// Whether copies may be moved from full servers to empty ones.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.policy.moves
    }

    /// A server's rack.
    pub(super) fn rack(&self, server: ServerId) -> Option<&str> {
        self.candidate(server).map(|candidate| candidate.rack.as_str())
    }

    fn candidate(&self, server: ServerId) -> Option<&Candidate> {
        self.servers.get(&server).map(|server| &server.candidate)
    }

    /// All servers as placement sees them.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.servers.values().map(|server| &server.candidate)
    }

    /// Servers that take copies now.
    pub fn takers(&self) -> impl Iterator<Item = &Candidate> {
        let candidates = self.servers.values().map(|server| &server.candidate);
        candidates.filter(|of| {
            of.condition == Condition::InService && of.disks_ok > 0 && self.standing(of.server) == Standing::Present
        })
    }

    /// Servers a copy can be read from, those nobody speaks against first.
    #[must_use]
    pub fn sources(&self, view: &ChunkView) -> Vec<Replica> {
        let live = view
            .chunk
            .replicas
            .iter()
            .copied()
            .filter(|copy| copy.state == ReplicaState::Live);
        let mut sources: Vec<Replica> = live
            .filter(|copy| self.answers(copy.server) && !view.damaged.contains(&copy.server))
            .collect();
        sources.sort_by_key(|copy| view.reported.contains(&copy.server));
        sources
    }

    /// What a chunk has and lacks.
    #[must_use]
    pub fn assess(&self, view: &ChunkView, overdue: &BTreeSet<(ChunkId, ReplicaNumber)>) -> Assessment {
        let mut seen = Assessment::default();
        let chunk = &view.chunk;
        if chunk.phase != Phase::Sealed {
            return seen;
        }
        let (mut silent, mut late) = (0, 0);
        for copy in &chunk.replicas {
            let standing = self.standing(copy.server);
            let is_damaged = view.damaged.contains(&copy.server);
            match (copy.state, standing) {
                (ReplicaState::Live, _) if is_damaged => seen.damaged.push(copy.server),
                (ReplicaState::Live, Standing::Present) if view.leaving.contains(&copy.server) => {
                    seen.leaving.push(copy.server);
                }
                (ReplicaState::Live, Standing::Present) => seen.present.push(copy.server),
                (ReplicaState::Live, Standing::Leaving) => seen.leaving.push(copy.server),
                (ReplicaState::Live, Standing::Silent) => silent += 1,
                (ReplicaState::Live, Standing::Overdue) => late += 1,
                (ReplicaState::Copying, Standing::Present | Standing::Silent)
                    if !overdue.contains(&(view.id, copy.number)) =>
                {
                    seen.copying.push(*copy);
                }
                (ReplicaState::Copying, _) => seen.stuck.push(*copy),
                (ReplicaState::Live, Standing::Gone) | (ReplicaState::Dropping, _) => {}
            }
        }
        // The last copy waits no longer; several wait until their servers are lost.
        let hoped = silent + if seen.present.len() > 1 { late } else { 0 };
        let wanted = usize::from(chunk.wanted);
        seen.missing = wanted.saturating_sub(seen.present.len() + hoped + seen.copying.len());
        let enough = (seen.present.len() + seen.copying.len()).saturating_sub(wanted);
        let replacing = usize::from(self.replaces(view, &seen));
        seen.needless = enough.saturating_sub(replacing).min(seen.copying.len());
        seen
    }

    /// Whether a copy is being made to take the place of one that is well.
    fn replaces(&self, view: &ChunkView, seen: &Assessment) -> bool {
        let Some(row) = view.moving.filter(|_| self.policy.moves) else {
            return false;
        };
        seen.present.contains(&row.from) && seen.copying.iter().any(|copy| copy.number == row.comes)
    }
}

/// What a chunk has and lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Servers whose good copies can be read.
    pub present: Vec<ServerId>,
    /// Servers whose copies are damaged.
    pub damaged: Vec<ServerId>,
    /// Servers with good copies that leave: they are drained, or their disk fails.
    pub leaving: Vec<ServerId>,
    /// Copies in progress that can be expected to succeed.
    pub copying: Vec<Replica>,
    /// Copies in progress that cannot.
    pub stuck: Vec<Replica>,
    /// Copies to be added.
    pub missing: usize,
    /// Copies in progress nobody needs.
    pub needless: usize,
}

/// Plans for these chunks; they may come in any order, and twice.
#[must_use]
pub fn plan(fleet: &Fleet, chunks: &[ChunkView], progress: &Progress, seed: u64) -> Plan {
    let mut planner = Planner {
        candidates: fleet.candidates().cloned().collect(),
        fleet,
        progress: progress.clone(),
        seed,
        plan: Plan::default(),
    };
    let assessed = chunks.iter().map(|view| (fleet.assess(view, &progress.overdue), view));
    let mut by_need: Vec<_> = assessed.filter(|(_, view)| view.chunk.phase == Phase::Sealed).collect();
    by_need.sort_by_key(|(seen, view)| (!progress.asked.contains(&view.id), seen.present.len(), view.id));
    by_need.dedup_by_key(|(_, view)| view.id);
    for (seen, view) in by_need {
        planner.consider(view, &seen);
    }
    planner.plan
}

struct Planner<'a> {
    fleet: &'a Fleet,
    /// With what this plan takes taken.
    candidates: Vec<Candidate>,
    progress: Progress,
    seed: u64,
    plan: Plan,
}

impl Planner<'_> {
    fn consider(&mut self, view: &ChunkView, seen: &Assessment) {
        let mut needless = seen.copying.clone();
        // The youngest have got least far.
        needless.sort_by_key(|copy| std::cmp::Reverse(copy.number));
        needless.truncate(seen.needless);
        let ended = seen.stuck.iter().chain(&needless);
        let ended: Vec<_> = ended.map(|copy| (view.id, copy.server, copy.number)).collect();
        if !ended.is_empty() {
            self.plan.give_ups.extend(ended);
        } else if seen.missing > 0 {
            self.add(view, seen);
        } else if let Some(server) = self.superfluous(view, seen) {
            self.drop(view, server);
        }
    }

    fn add(&mut self, view: &ChunkView, seen: &Assessment) {
        let ChunkView { id, chunk, .. } = view;
        let room = COPIES_MAX.saturating_sub(chunk.replicas.len());
        let avoided = self.progress.avoid.iter().filter(|(of, _)| of == id);
        let request = Placement {
            wanted: u8::try_from(seen.missing.min(room)).unwrap_or(u8::MAX),
            count: 1,
            chunk_bytes: chunk.length,
            avoid: avoided.map(|(_, server)| *server).collect(),
            seed: self.seed ^ id.counter,
        };
        let good: Vec<_> = seen
            .present
            .iter()
            .copied()
            .chain(seen.copying.iter().map(|copy| copy.server))
            .collect();
        let taken: Vec<_> = chunk.replicas.iter().map(|copy| copy.server).collect();
        let able = self.candidates.iter().filter(|candidate| {
            fits(
                &self.progress.targets,
                candidate.server,
                chunk.length,
                self.fleet.policy.budget.target,
            ) && self.fleet.standing(candidate.server) == Standing::Present
        });
        let able: Vec<_> = able
            .chain(self.candidates.iter().filter(|of| good.contains(&of.server)))
            .cloned()
            .collect();
        let mut targets = extend(&request, &good, &taken, &able);
        targets.retain(|target| self.begin(view, *target));
        if !targets.is_empty() {
            self.plan.adds.push(CopyPlan {
                chunk: *id,
                planned: chunk.replicas.clone(),
                targets,
            });
        } else if self.nobody_else(&taken)
            && let Some(server) = self.in_the_way(view, seen)
        {
            self.drop(view, server);
        }
    }

    /// Takes a copy into the budgets; `false` if they do not allow it.
    fn begin(&mut self, view: &ChunkView, target: ServerId) -> bool {
        let Budget { source, cluster, .. } = self.fleet.policy.budget;
        let length = view.chunk.length;
        let busy = &self.progress.sources;
        let used = |server: ServerId| busy.get(&server).copied().unwrap_or(0);
        let sources = self.fleet.sources(view).into_iter().map(|copy| copy.server);
        let Some(from) = sources
            .filter(|from| fits(busy, *from, length, source))
            .min_by_key(|from| used(*from))
        else {
            return false;
        };
        if self.progress.cluster > 0 && self.progress.cluster + weight(length) > cluster {
            return false;
        }
        self.plan.sources.insert((view.id, target), from);
        *self.progress.sources.entry(from).or_default() += weight(length);
        *self.progress.targets.entry(target).or_default() += weight(length);
        self.progress.cluster += weight(length);
        if let Some(candidate) = self.candidates.iter_mut().find(|of| of.server == target) {
            candidate.bytes_free = candidate.bytes_free.saturating_sub(length);
            candidate.streams = candidate.streams.saturating_add(1);
        }
        true
    }

    /// Whether every server that may come to hold a copy has a row of the chunk already.
    fn nobody_else(&self, taken: &[ServerId]) -> bool {
        let mut others = self.candidates.iter().filter(|of| !taken.contains(&of.server));
        others.all(|of| of.retired || matches!(self.fleet.standing(of.server), Standing::Gone | Standing::Leaving))
    }

    /// A damaged copy whose place on its server a good one can take.
    fn in_the_way(&self, view: &ChunkView, seen: &Assessment) -> Option<ServerId> {
        let good = seen.present.iter().filter(|server| !view.reported.contains(server));
        let enough = good.count() >= usize::from(view.chunk.wanted).min(2);
        let mut damaged = seen.damaged.iter().copied();
        damaged
            .find(|server| enough && self.fleet.standing(*server) == Standing::Present && self.fleet.answers(*server))
    }

    /// The copy to drop, if one may go.
    fn superfluous(&self, view: &ChunkView, seen: &Assessment) -> Option<ServerId> {
        let wanted = usize::from(view.chunk.wanted);
        let relied = |server: &&ServerId| self.fleet.is_steady(**server) && !view.reported.contains(*server);
        let good: Vec<ServerId> = seen.present.iter().filter(relied).copied().collect();
        if good.len() < wanted || !seen.copying.is_empty() {
            return None;
        }
        if let Some(server) = seen.damaged.iter().find(|server| self.fleet.answers(**server)) {
            return Some(*server);
        }
        if let Some(server) = seen.leaving.iter().find(|server| self.fleet.answers(**server)) {
            return Some(*server);
        }
        if good.len() == wanted {
            return None;
        }
        let racks: Vec<&str> = good.iter().filter_map(|of| self.rack(*of)).collect();
        let neighbours = |of: ServerId| racks.iter().filter(|rack| Some(**rack) == self.rack(of)).count();
        let free = |of: ServerId| self.fleet.candidate(of).map_or(0, |of| of.bytes_free);
        let usual = good
            .iter()
            .copied()
            .max_by_key(|of| (neighbours(*of), std::cmp::Reverse(free(*of)), *of))?;
        let racks_without = |gone: ServerId| {
            let left = good.iter().filter(|of| **of != gone).filter_map(|of| self.rack(*of));
            left.collect::<BTreeSet<_>>().len()
        };
        let moved = view.moving.filter(|row| {
            let both = good.contains(&row.from) && good.contains(&row.to);
            both && racks_without(row.from) >= racks_without(usual)
        });
        Some(moved.map_or(usual, |row| row.from))
    }

    fn rack(&self, server: ServerId) -> Option<&str> {
        self.fleet.rack(server)
    }

    fn drop(&mut self, view: &ChunkView, server: ServerId) {
        self.plan.drops.push(CopyDrop {
            chunk: view.id,
            planned: view.chunk.replicas.clone(),
            server,
        });
    }
}

/// Whether a server's budget allows a copy of `length` bytes.
pub(super) fn fits(used: &BTreeMap<ServerId, u64>, server: ServerId, length: u64, budget: u64) -> bool {
    let used = used.get(&server).copied().unwrap_or(0);
    used == 0 || used + weight(length) <= budget
}

#[cfg(test)]
mod tests;
