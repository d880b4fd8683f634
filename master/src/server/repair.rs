//! The leader's part in repair: looks for chunks that need it, proposes what the planner says, gives copy orders with
//! beats' answers, and takes what became of them.
//!
//! What counts is in the log: the orders are its rows, so a new leader goes on where the old one was. In memory there is
//! only what may be forgotten: where the search is, which source each copy reads from, since when it has been under way,
//! and which server failed to make one. Proposals are bound to the term in which they were planned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId, SessionId};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::{BATCH_ROWS_MAX, COPY_ORDERS_MAX, COPY_SOURCES_MAX};
use gabion_protocol::messages::master::{CopyOrder, CopySource, Damage, Order, OrderDone};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::access::{Judge, Keys, Signer};
use super::placement::seed;
use super::shared::{Master, row_error};
use crate::fleet;
use crate::plan::repair::{self as planner, Assigned, Fleet, Plan, Policy, Progress, Server, Standing};
use crate::plan::search::{COPYING_MAX, Hints, Search, chunk_view};
use crate::state::key::copying::CopyingKey;
use crate::state::repair::{MadeCopy, REPAIR_BATCH_MAX, copying_on};
use crate::state::reply::Outcome;
use crate::state::rows::{Rows, RowsError};
use crate::state::{Command, balance, conditions, read};

/// Between looks at the fleet and the indexes: a chunk in need waits seconds, so half of one is no matter.
const LOOK: Duration = Duration::from_millis(500);
/// Between rounds while a lost server's copies are walked.
const WALKING: Duration = Duration::from_millis(100);
/// Between rounds in which nothing could be done, as long as no server comes or goes.
const STUCK: Duration = Duration::from_secs(5);
/// A gap that says that this process stood still.
const PAUSE: Duration = Duration::from_secs(1);
/// A copy may take so long, and as much again as it takes at [`SLOW_BYTES_PER_SECOND`].
const COPY_TIME: Duration = Duration::from_secs(120);
/// A disk or network slower than this is no place for a copy.
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;
/// So long a server that failed to make a copy of a chunk gets it only if there is no other.
const AVOID: Duration = Duration::from_secs(60);
/// Failures remembered.
const AVOID_MAX: usize = 4096;
/// So long a chunk an operator asked for is looked at before all others.
const ASKED: Duration = Duration::from_secs(60);
/// Chunks an operator may ask for at one time.
const ASKED_MAX: usize = 1024;

/// What a leader remembers of repair, and what wakes it.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    memory: Mutex<Memory>,
    wake: Notify,
    /// Chunks are repaired, or looked for: nothing less urgent begins.
    busy: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct Memory {
    /// Which source each copy under way reads from first.
    assigned: Assigned,
    /// Since when this leader has known each copy under way.
    since: BTreeMap<(ChunkId, ReplicaNumber), Duration>,
    /// Until when a server is avoided for a chunk.
    avoid: BTreeMap<(ChunkId, ServerId), Duration>,
    /// Until when a chunk goes first.
    asked: BTreeMap<ChunkId, Duration>,
}

impl Repairs {
    /// Has the leader look for work now.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Has the leader look at a chunk before all others for a while.
    pub(super) fn ask_for(&self, chunk: ChunkId, now: Duration) {
        let mut memory = self.memory.lock();
        if memory.asked.len() < ASKED_MAX {
            memory.asked.insert(chunk, now + ASKED);
        }
        drop(memory);
        self.wake();
    }

    /// Whether chunks are repaired, or looked for.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Servers that failed to make a copy of a chunk a while ago.
    pub(super) fn avoided(&self) -> BTreeSet<(ChunkId, ServerId)> {
        self.memory.lock().avoid.keys().copied().collect()
    }

    /// A copy that `target` makes is to be read from `source` first.
    pub(super) fn assign(&self, chunk: ChunkId, target: ServerId, source: ServerId) {
        self.memory.lock().assigned.insert((chunk, target), source);
    }
}

/// What one look found.
struct Look {
    search: Search,
    plan: Plan,
    copying: bool,
}

/// Repairs for as long as this master leads.
pub(super) async fn lead(master: &Master, term: u64) {
    *master.repairs.memory.lock() = Memory::default();
    master.repairs.busy.store(true, Ordering::Relaxed);
    let mut search = Search::default();
    let mut standings: (Vec<(ServerId, Standing)>, bool) = Default::default();
    let (mut pause, mut rested) = (LOOK, Duration::ZERO);
    loop {
        let before = monotonic();
        let woken = tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = master.repairs.wake.notified() => true,
        };
        if monotonic().saturating_sub(before) > pause + PAUSE {
            // This process stood still and heard nobody. Who is silent is judged when all had the time to be heard.
            continue;
        }
        let fleet = match master.repair_fleet().await {
            Ok(fleet) => fleet,
            Err(error) => {
                tracing::debug!(%error, "cannot look for what to repair");
                continue;
            }
        };
        // Whether copies may be moved: those under way are given up when they may not any more.
        let now = (fleet.standings().collect(), fleet.moves());
        if !woken && now == standings && monotonic() < rested {
            continue;
        }
        standings = now;
        let look = match master.look(std::mem::take(&mut search), fleet).await {
            Ok(look) => look,
            Err(error) => {
                tracing::warn!(%error, "cannot look for what to repair");
                continue;
            }
        };
        search = look.search;
        let busy = !look.plan.adds.is_empty() || look.copying || search.is_walking();
        master.repairs.busy.store(busy, Ordering::Relaxed);
        let idle = look.plan.is_empty() && !look.copying;
        pause = if search.is_walking() { WALKING } else { LOOK };
        rested = if idle && pause == LOOK {
            monotonic() + STUCK
        } else {
            Duration::ZERO
        };
        if let Err(error) = master.carry_out(term, look.plan).await {
            tracing::debug!(%error, "a repair was not agreed to");
        }
    }
}

impl Master {
    /// The fleet as the planner sees it.
    pub(super) async fn repair_fleet(&self) -> Result<Fleet, WireError> {
        let (servers, conditions, moves) = self
            .read_stale(|view| Ok((read::servers(view)?, conditions::all(view)?, balance::runs(view)?)))
            .await?;
        let now = monotonic();
        let candidates = self.candidates(&servers, &conditions, now);
        let servers = self.fleet.read(|fleet| {
            let both = servers.iter().zip(candidates);
            let server = |((id, row), candidate): (&(ServerId, _), _)| {
                let row: &crate::state::key::server::Server = row;
                let seen = fleet.seen(*id, row.incarnation);
                Server {
                    candidate,
                    health: fleet.health(*id, row.incarnation, now),
                    silent: fleet.silence(*id, row.incarnation, now).unwrap_or_default(),
                    steady: seen.map_or(Duration::ZERO, |seen| now.saturating_sub(seen.steady_since)),
                    flapping: seen.is_some_and(|seen| seen.is_flapping(now)),
                }
            };
            both.map(server).collect()
        });
        let policy = Policy {
            suspect: self.settings.suspect,
            urgent: self.settings.urgent,
            budget: self.settings.budget,
            moves,
        };
        Ok(Fleet::new(servers, policy))
    }

    /// One round of search and plan, off the runtime's threads.
    async fn look(&self, mut search: Search, fleet: Fleet) -> Result<Look, WireError> {
        let view = self.raft.stale_view();
        let (now, seed) = (monotonic(), seed());
        let mut memory = self.repairs.memory.lock().clone();
        memory.asked.retain(|_, until| *until > now);
        let hints = Hints {
            leaving: self.disks.leaving(),
            asked: memory.asked.keys().copied().collect(),
        };
        let looked = hints.leaving.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let look = search.round(&view, &fleet, &hints, now).map(|chunks| {
                let progress = memory.take_stock(&fleet, &chunks, now);
                let plan = planner::plan(&fleet, &chunks, &progress, seed);
                let look = Look {
                    search,
                    plan,
                    copying: progress.cluster > 0,
                };
                (look, chunks)
            });
            (memory, look)
        });
        let (memory, look) = looking.await.map_err(|error| {
            let message = format!("cannot look for what to repair: {error}");
            WireError::new(gabion_protocol::ErrorCode::Internal, message)
        })?;
        self.repairs.memory.lock().put_back(memory);
        let (look, chunks) = look.map_err(row_error)?;
        self.disks.have_left(&looked, &chunks);
        Ok(look)
    }

    /// Proposes a plan in this leader's term.
    async fn carry_out(&self, term: u64, plan: Plan) -> Result<(), WireError> {
        let Plan {
            adds,
            sources,
            give_ups,
            drops,
        } = plan;
        self.repairs.memory.lock().assigned.extend(sources);
        if adds.len() + give_ups.len() + drops.len() > 0 {
            let (added, given_up, dropped) = (adds.len(), give_ups.len(), drops.len());
            tracing::info!(added, given_up, dropped, "chunks are repaired");
        }
        for add in &adds {
            tracing::debug!(chunk = %add.chunk, targets = ?add.targets, "a copy is added");
            self.fleet.placed(&add.targets);
        }
        for (chunk, server, _) in &give_ups {
            tracing::debug!(%chunk, %server, "a copy under way is given up");
        }
        for drop in &drops {
            tracing::debug!(chunk = %drop.chunk, server = %drop.server, "a copy is dropped");
        }
        if !adds.is_empty() {
            self.mind_tail().await?;
        }
        let mut commands = Vec::new();
        for copies in give_ups.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            commands.push(Command::CopiesGivenUp { copies });
        }
        for plans in adds.chunks(REPAIR_BATCH_MAX).map(<[_]>::to_vec) {
            commands.push(Command::AddCopies { plans });
        }
        for drops in drops.chunks(REPAIR_BATCH_MAX).map(<[_]>::to_vec) {
            commands.push(Command::DropCopies { drops });
        }
        for command in commands {
            let outcome = self
                .propose_in_term(term, &command)
                .await?
                .into_wire(&command.cannot())?;
            tell_refused(&outcome);
        }
        Ok(())
    }

    /// Logs what a server says became of its copy orders.
    pub(super) async fn take_copies(&self, server: ServerId, done: &[OrderDone]) -> Result<(), WireError> {
        let (mut made, mut failed, mut suspected) = (Vec::new(), Vec::new(), Vec::new());
        for one in done {
            match one {
                OrderDone::Dropped { .. } | OrderDone::Intact { .. } => {}
                OrderDone::Copied {
                    chunk,
                    replica,
                    length,
                    crc,
                } => made.push(MadeCopy {
                    chunk: *chunk,
                    number: *replica,
                    length: *length,
                    crc: *crc,
                }),
                OrderDone::CopyFailed { chunk, replica, why } => {
                    tracing::warn!(%server, %chunk, why, "a chunkserver could not make a copy");
                    self.repairs.memory.lock().avoid(*chunk, server, monotonic());
                    failed.push((*chunk, server, *replica));
                }
                OrderDone::SourceDiffers {
                    chunk,
                    server,
                    replica,
                    what,
                } => {
                    tracing::warn!(%server, %chunk, what, "a copy is not the chunk the masters know");
                    let damage = Damage {
                        chunk: *chunk,
                        replica: *replica,
                        what: what.clone(),
                    };
                    suspected.push((*server, damage));
                }
            }
        }
        if made.is_empty() && failed.is_empty() && suspected.is_empty() {
            return Ok(());
        }
        let mut commands = Vec::new();
        for made in made.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            commands.push(Command::CopiesMade { server, made });
        }
        for copies in failed.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            commands.push(Command::CopiesGivenUp { copies });
        }
        for found in suspected.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            commands.push(Command::DamageSuspected { found });
        }
        for command in commands {
            let outcome = self.propose(&command).await?.into_wire(&command.cannot())?;
            tell_refused(&outcome);
        }
        // What comes next need not wait.
        self.repairs.wake();
        self.balancing.wake();
        Ok(())
    }

    /// What is needed to give a server its copy orders, away from this master.
    pub(super) fn copy_orders(&self, target: ServerId, identity: &Identity) -> CopyOrders {
        CopyOrders {
            target,
            keys: self.keys.clone(),
            identity: identity.clone(),
            fleet: self.fleet.read(Clone::clone),
            assigned: self.repairs.memory.lock().assigned.clone(),
        }
    }
}

pub(super) fn tell_refused(outcome: &Outcome) {
    if let Outcome::Repaired { refused } = outcome {
        for (chunk, refusal) in refused {
            tracing::info!(%chunk, %refusal, "the masters' rows forbid a repair; it is planned anew");
        }
    }
}

impl Memory {
    /// What is under way, by this round's rows; forgets what is not any more.
    fn take_stock(&mut self, fleet: &Fleet, chunks: &[planner::ChunkView], now: Duration) -> Progress {
        self.avoid.retain(|_, until| *until > now);
        let mut progress = Progress {
            avoid: self.avoid.keys().copied().collect(),
            asked: self.asked.keys().copied().collect(),
            ..Progress::default()
        };
        let under_way = progress.take_stock(fleet, chunks, &mut self.assigned);
        self.since.retain(|copy, _| under_way.contains_key(copy));
        let mut overdue = BTreeSet::new();
        for (copy, length) in under_way {
            let since = *self.since.entry(copy).or_insert(now);
            let most = COPY_TIME + Duration::from_secs(length / SLOW_BYTES_PER_SECOND);
            if now.saturating_sub(since) > most {
                overdue.insert(copy);
            }
        }
        progress.overdue = overdue;
        progress
    }

    /// Takes back what a round worked on, with what came in meanwhile.
    fn put_back(&mut self, worked_on: Self) {
        let came = std::mem::replace(self, worked_on);
        self.avoid.extend(came.avoid);
        self.asked.extend(came.asked);
    }

    fn avoid(&mut self, chunk: ChunkId, server: ServerId, now: Duration) {
        if self.avoid.len() < AVOID_MAX {
            self.avoid.insert((chunk, server), now + AVOID);
        }
    }
}

/// The copies to order: while a server is to repair something, it is not told of copies that are only to be moved to it.
/// It forgets those it has not begun, and hears of them again.
fn urgent_first(rows: &dyn Rows, keys: Vec<CopyingKey>) -> Result<Vec<CopyingKey>, RowsError> {
    let (mut repairs, mut moves) = (Vec::new(), Vec::new());
    for key in keys {
        let is_move = balance::of(rows, key.chunk)?.is_some_and(|row| row.comes == key.number);
        if is_move { &mut moves } else { &mut repairs }.push(key);
    }
    let mut first = if repairs.is_empty() { moves } else { repairs };
    first.truncate(COPY_ORDERS_MAX);
    Ok(first)
}

/// Makes one server's copy orders from the rows.
#[derive(Debug, Clone)]
pub(super) struct CopyOrders {
    target: ServerId,
    keys: Keys,
    identity: Identity,
    fleet: fleet::View,
    assigned: Assigned,
}

impl CopyOrders {
    /// The orders, each with whom to copy from and the right to.
    ///
    /// # Errors
    /// [`RowsError`].
    pub(super) fn of(&self, rows: &dyn Rows) -> Result<Vec<Order>, RowsError> {
        let keys = urgent_first(rows, copying_on(rows, self.target, COPYING_MAX)?)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // Nobody looks at the session of a token to read; it only has to be nobody else's.
        let session = SessionId {
            opened: read::now(rows)?,
            random: u64::from(self.target.0),
        };
        let mut signer = Signer::new(&self.keys, rows, &self.identity, session)?;
        let judge = Judge {
            fleet: &self.fleet,
            now: monotonic(),
        };
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(order) = self.order(rows, &key, &mut signer, judge)? {
                found.push(order);
            }
        }
        let accesses: BTreeMap<ServerId, _> = signer
            .accesses()
            .into_iter()
            .map(|access| (access.server, access))
            .collect();
        let orders = found.into_iter().map(|(mut order, tokens)| {
            let sources = tokens.into_iter().filter_map(|token| {
                let access = accesses.get(&token.grant.server)?.clone();
                Some(CopySource { access, token })
            });
            order.sources = sources.take(COPY_SOURCES_MAX).collect();
            Order::Copy(order)
        });
        Ok(orders.collect())
    }

    fn order(
        &self,
        rows: &dyn Rows,
        key: &CopyingKey,
        signer: &mut Signer<'_>,
        judge: Judge<'_>,
    ) -> Result<Option<(CopyOrder, Vec<gabion_protocol::token::Token>)>, RowsError> {
        let Some(view) = chunk_view(rows, key.chunk)? else {
            return Ok(None);
        };
        let reported: Vec<ServerId> = view.reported.iter().copied().collect();
        let mut copies = signer.copies_of(key.chunk, &view.chunk, &reported, judge)?;
        // A copy its own server calls damaged is none. One that is only said to be is still better than nothing.
        copies.retain(|copy| !view.damaged.contains(&copy.server));
        let first = self.assigned.get(&(key.chunk, self.target));
        copies.sort_by_key(|copy| (!copy.healthy, Some(&copy.server) != first));
        let order = CopyOrder {
            chunk: key.chunk,
            generation: view.chunk.generation,
            replica: key.number,
            length: view.chunk.length,
            crc: view.chunk.crc,
            sources: Vec::new(),
        };
        Ok(Some((order, copies.into_iter().map(|copy| copy.token).collect())))
    }
}
