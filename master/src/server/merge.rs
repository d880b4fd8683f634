//! The leader's part in merging: looks for files in small chunks, has large chunks built of them, takes what their servers
//! say, and proposes the exchange when all copies are there.
//!
//! What counts is in the log: a merge under way is a row, so a new leader goes on, and orders are made from the rows. In
//! memory there is only what may be forgotten: where the walks are, since when a merge has been known, and what servers
//! said of copies; they say it again to a new leader that orders the same. Proposals are bound to the term in which they
//! were planned. Repair goes first: nothing begins while it has work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, Ino, ReplicaNumber, ServerId, SessionId};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::{MERGE_SOURCES_MAX, MERGES_PER_SERVER_MAX};
use gabion_protocol::messages::master::{BuildOrder, BuildPiece, Order, OrderDone, Response};
use gabion_protocol::process::monotonic;
use gabion_protocol::token::Token;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::access::{Judge, Keys, Signer};
use super::placement::seed;
use super::shared::{Master, read_many, row_error};
use crate::fleet;
use crate::plan::merge::sweep::{Found, Scene, Sweep};
use crate::plan::merge::{Heard, Verdict, judge};
use crate::plan::repair::{Fleet, Standing};
use crate::plan::search::chunk_view;
use crate::state::key::chunk::ReplicaState;
use crate::state::key::merge::{Merge, Piece};
use crate::state::merges::{self, MergeStep};
use crate::state::rows::{Rows, RowsError};
use crate::state::{Command, read};
use crate::store::state_db::View;

/// Between looks: nobody waits for a merge.
const LOOK: Duration = Duration::from_secs(1);
/// Least time between looks, whoever wakes the leader.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// A look is followed by so many times as long as it took in which there is none.
const REST_TIMES: u32 = 4;
/// A gap that says that this process stood still.
const PAUSE: Duration = Duration::from_secs(1);
/// A merge may take so long: some two hundred pieces at a disk that is busy.
const BUILD_TIME: Duration = Duration::from_secs(180);
/// Files counted as waiting at most.
const WAITING_MAX: usize = 1000;

/// What a leader remembers of merges, and what wakes it.
#[derive(Debug, Default)]
pub(super) struct Merging {
    told: Mutex<Told>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// What servers said of copies of large chunks.
    heard: BTreeMap<(ChunkId, ReplicaNumber), Heard>,
    /// Exchanges since this master leads.
    done: u64,
}

/// What one look goes by from one to the next.
#[derive(Debug, Default)]
struct Memory {
    sweep: Sweep,
    /// Since when this leader has known each merge under way.
    since: BTreeMap<ChunkId, Duration>,
}

/// What one look found.
#[derive(Debug, Default)]
struct Look {
    /// Merges that end.
    ends: Vec<(Ino, Verdict, ChunkId)>,
    found: Found,
}

/// Merges for as long as this master leads.
pub(super) async fn lead(master: &Master, term: u64) {
    *master.merging.told.lock() = Told::default();
    let mut memory = Memory::default();
    let mut rest = LOOK_MIN;
    loop {
        let before = monotonic();
        tokio::time::sleep(rest).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = master.merging.wake.notified() => {}
        }
        let began = monotonic();
        if began.saturating_sub(before) > rest + LOOK + PAUSE {
            // This process stood still and heard nobody.
            continue;
        }
        let look = match master.look_for_merges(std::mem::take(&mut memory)).await {
            Ok((now, look)) => {
                memory = now;
                look
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look for what to merge");
                continue;
            }
        };
        rest = LOOK_MIN.max(monotonic().saturating_sub(began) * REST_TIMES);
        if let Err(error) = master.carry_merges_out(term, look, &mut memory).await {
            tracing::debug!(%error, "a merge was not agreed to");
        }
    }
}

impl Master {
    /// One look, off the runtime's threads.
    async fn look_for_merges(&self, mut memory: Memory) -> Result<(Memory, Look), WireError> {
        let any = self.read_stale(|view| {
            Ok(!merges::under_way(view)?.is_empty() || !merges::fragmented(view, None, 1)?.is_empty())
        });
        if !any.await? {
            return Ok((Memory::default(), Look::default()));
        }
        let view = self.raft.stale_view();
        let heard = self.merging.told.lock().heard.clone();
        let may_begin = !self.repairs.is_busy();
        let fleet = self.repair_fleet().await?;
        let (now, seed) = (monotonic(), seed());
        let looking = tokio::task::spawn_blocking(move || {
            let look = look(&view, &fleet, &heard, &mut memory, may_begin, (now, seed));
            (memory, look)
        });
        let (memory, look) = looking.await.map_err(|error| {
            let message = format!("cannot look for what to merge: {error}");
            WireError::new(gabion_protocol::ErrorCode::Internal, message)
        })?;
        let look = look.map_err(row_error)?;
        self.merging
            .told
            .lock()
            .heard
            .retain(|(chunk, _), _| memory.since.contains_key(chunk));
        Ok((memory, look))
    }

    /// Proposes what a look found, in this leader's term.
    async fn carry_merges_out(&self, term: u64, look: Look, memory: &mut Memory) -> Result<(), WireError> {
        for (file, verdict, chunk) in look.ends {
            let why = match verdict {
                Verdict::Wait => continue,
                Verdict::GiveUp(why) => why.to_owned(),
                Verdict::Exchange(seal) => {
                    let (length, command) = (seal.length, Command::Merge(MergeStep::Exchange { seal }));
                    match self.propose_in_term(term, &command).await?.0 {
                        Ok(_) => {
                            tracing::info!(%file, %chunk, length, "small chunks became one");
                            self.merging.told.lock().done += 1;
                            continue;
                        }
                        Err(refusal) => refusal.to_string(),
                    }
                }
            };
            tracing::info!(%file, %chunk, why, "a merge of small chunks came to nothing");
            memory.sweep.avoid(file, monotonic());
            let command = Command::Merge(MergeStep::GiveUp { chunk });
            self.propose_in_term(term, &command)
                .await?
                .into_wire(&command.cannot())?;
        }
        for (file, changed) in look.found.settled {
            let command = Command::Merge(MergeStep::Settle { file, changed });
            self.propose_in_term(term, &command)
                .await?
                .into_wire(&command.cannot())?;
        }
        if !look.found.plans.is_empty() {
            self.mind_tail().await?;
        }
        for plan in look.found.plans {
            let file = plan.file;
            tracing::debug!(%file, from = plan.from, to = plan.to, targets = ?plan.targets, "small chunks are merged");
            let command = Command::Merge(MergeStep::Begin(plan));
            if let Err(refusal) = self.propose_in_term(term, &command).await?.0 {
                tracing::debug!(%file, %refusal, "a merge of small chunks was not begun");
                memory.sweep.avoid(file, monotonic());
            }
        }
        Ok(())
    }

    /// Takes what a server says became of the large chunks it was told to build; gives what is about other copies.
    pub(super) async fn take_builds(&self, done: &[OrderDone]) -> Result<Vec<OrderDone>, WireError> {
        let about = |done: &OrderDone| match done {
            OrderDone::Copied { chunk, .. } | OrderDone::CopyFailed { chunk, .. } => Some(*chunk),
            OrderDone::Dropped { .. } | OrderDone::Intact { .. } | OrderDone::SourceDiffers { .. } => None,
        };
        let asked: BTreeSet<ChunkId> = done.iter().filter_map(about).collect();
        if asked.is_empty() {
            return Ok(done.to_vec());
        }
        let built = self.read_stale(move |view| {
            let mut built = BTreeSet::new();
            for chunk in &asked {
                if merges::of(view, *chunk)?.is_some() {
                    built.insert(*chunk);
                }
            }
            Ok(built)
        });
        let built = built.await?;
        let (ours, others): (Vec<_>, Vec<_>) = done
            .iter()
            .cloned()
            .partition(|one| about(one).is_some_and(|chunk| built.contains(&chunk)));
        if !ours.is_empty() {
            self.merging.hear(&ours);
        }
        Ok(others)
    }

    /// What is needed to give a server its orders to build, away from this master.
    pub(super) fn build_orders(&self, target: ServerId, identity: &Identity) -> BuildOrders {
        BuildOrders {
            target,
            keys: self.keys.clone(),
            identity: identity.clone(),
            fleet: self.fleet.read(Clone::clone),
            heard: self.merging.told.lock().heard.keys().copied().collect(),
        }
    }

    /// What becomes of small chunks.
    pub(super) async fn merges(&self, view: View) -> Result<Response, WireError> {
        let done = self.merging.told.lock().done;
        read_many(view, move |view| {
            Ok(Response::Merges {
                done,
                under_way: merges::under_way(view).map_err(row_error)?.len() as u64,
                waiting: merges::fragmented(view, None, WAITING_MAX).map_err(row_error)?.len() as u64,
            })
        })
        .await
    }
}

impl Merging {
    fn hear(&self, done: &[OrderDone]) {
        let mut told = self.told.lock();
        for one in done {
            match one {
                OrderDone::Copied {
                    chunk,
                    replica,
                    length,
                    crc,
                } => {
                    let (length, crc) = (*length, *crc);
                    told.heard.insert((*chunk, *replica), Heard::Made { length, crc });
                }
                OrderDone::CopyFailed { chunk, replica, why } => {
                    tracing::warn!(%chunk, why, "a chunkserver could not build a chunk of small ones");
                    told.heard.insert((*chunk, *replica), Heard::Failed);
                }
                OrderDone::Dropped { .. } | OrderDone::Intact { .. } | OrderDone::SourceDiffers { .. } => {}
            }
        }
        drop(told);
        self.wake.notify_one();
    }
}

fn look(
    rows: &dyn Rows,
    fleet: &Fleet,
    heard: &BTreeMap<(ChunkId, ReplicaNumber), Heard>,
    memory: &mut Memory,
    may_begin: bool,
    (now, seed): (Duration, u64),
) -> Result<Look, RowsError> {
    let under_way = merges::under_way(rows)?;
    let mut since = BTreeMap::new();
    let mut building: BTreeMap<ServerId, usize> = BTreeMap::new();
    let mut look = Look::default();
    for (id, row) in &under_way {
        let Some(chunk) = read::chunk(rows, *id)? else { continue };
        let began = *memory.since.get(id).unwrap_or(&now);
        since.insert(*id, began);
        for copy in &chunk.replicas {
            *building.entry(copy.server).or_default() += 1;
        }
        let verdict = if !merges::is_current(rows, row)? {
            Verdict::GiveUp("its file has changed")
        } else if now.saturating_sub(began) > BUILD_TIME {
            Verdict::GiveUp("it took too long")
        } else {
            let of = |number| heard.get(&(*id, number)).copied();
            judge((*id, row), &chunk, of, |server| is_lost(fleet, server))
        };
        if verdict != Verdict::Wait {
            look.ends.push((row.file, verdict, *id));
        }
    }
    memory.since = since;
    if may_begin {
        let scene = Scene {
            fleet,
            under_way: &under_way,
            building,
            now,
            state_now: read::now(rows)?,
            seed,
        };
        look.found = memory.sweep.round(rows, &scene)?;
    }
    Ok(look)
}

fn is_lost(fleet: &Fleet, server: ServerId) -> bool {
    match fleet.standing(server) {
        Standing::Present | Standing::Silent => false,
        Standing::Overdue | Standing::Gone | Standing::Leaving => true,
    }
}

/// Makes one server's orders to build from the rows.
#[derive(Debug, Clone)]
pub(super) struct BuildOrders {
    target: ServerId,
    keys: Keys,
    identity: Identity,
    fleet: fleet::View,
    /// Copies of which their server has said what became of them.
    heard: BTreeSet<(ChunkId, ReplicaNumber)>,
}

impl BuildOrders {
    /// The orders, each with whom to read the pieces from and the right to.
    ///
    /// # Errors
    /// [`RowsError`].
    pub(super) fn of(&self, rows: &dyn Rows) -> Result<Vec<Order>, RowsError> {
        let mut orders = Vec::new();
        for (id, row) in merges::under_way(rows)? {
            if orders.len() < MERGES_PER_SERVER_MAX
                && let Some(order) = self.order(rows, id, &row)?
            {
                orders.push(Order::Build(order));
            }
        }
        Ok(orders)
    }

    fn order(&self, rows: &dyn Rows, id: ChunkId, row: &Merge) -> Result<Option<BuildOrder>, RowsError> {
        let Some(chunk) = read::chunk(rows, id)? else {
            return Ok(None);
        };
        let ours = chunk
            .replicas
            .iter()
            .find(|copy| copy.server == self.target && copy.state == ReplicaState::Copying);
        let Some(copy) = ours.filter(|copy| !self.heard.contains(&(id, copy.number))) else {
            return Ok(None);
        };
        // Nobody looks at the session of a token to read; it only has to be nobody else's.
        let session = SessionId {
            opened: read::now(rows)?,
            random: u64::from(self.target.0),
        };
        let mut signer = Signer::new(&self.keys, rows, &self.identity, session)?;
        let mut pieces = Vec::with_capacity(row.pieces.len());
        for piece in &row.pieces {
            let Some(piece) = self.piece(rows, piece, &mut signer)? else {
                // The file has changed: the merge is about to be given up.
                return Ok(None);
            };
            pieces.push(piece);
        }
        Ok(Some(BuildOrder {
            chunk: id,
            generation: chunk.generation,
            replica: copy.number,
            owner: row.file,
            file_offset: row.offset,
            pieces,
            accesses: signer.accesses(),
        }))
    }

    /// A piece, with whom to read it from: the server itself if it has a copy, then those least busy.
    fn piece(&self, rows: &dyn Rows, piece: &Piece, signer: &mut Signer<'_>) -> Result<Option<BuildPiece>, RowsError> {
        let Some(view) = chunk_view(rows, piece.chunk)? else {
            return Ok(None);
        };
        let reported: Vec<ServerId> = view.reported.iter().copied().collect();
        let judge = Judge {
            fleet: &self.fleet,
            now: monotonic(),
        };
        let mut copies = signer.copies_of(piece.chunk, &view.chunk, &reported, judge)?;
        copies.retain(|copy| !view.damaged.contains(&copy.server));
        copies.sort_by_key(|copy| {
            (
                !copy.healthy,
                copy.server != self.target,
                self.streams(rows, copy.server),
            )
        });
        let sources: Vec<Token> = copies
            .into_iter()
            .take(MERGE_SOURCES_MAX)
            .map(|copy| copy.token)
            .collect();
        Ok(Some(BuildPiece {
            chunk: piece.chunk,
            chunk_length: view.chunk.length,
            chunk_crc: view.chunk.crc,
            offset: piece.chunk_offset,
            length: piece.length,
            crc: piece.crc,
            sources,
        }))
    }

    /// How busy a server is.
    fn streams(&self, rows: &dyn Rows, server: ServerId) -> u32 {
        let row = read::server(rows, server).ok().flatten();
        let seen = row.and_then(|row| self.fleet.seen(server, row.incarnation).map(|seen| seen.load.streams));
        seen.unwrap_or(u32::MAX)
    }
}
