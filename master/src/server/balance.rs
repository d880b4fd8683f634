//! The leader's part in balance: looks how full the chunkservers are, and has copies moved from full ones to emptier ones
//! while repair has nothing to do.
//!
//! What counts is in the log: a move is rows, and repair carries it on, to the drop of the copy that goes. In memory there
//! is only what may be forgotten: where the walks are, whether servers were uneven at the last look, and what ended a
//! moment ago. Proposals are bound to the term in which they were planned. While all servers are even a look reads their
//! rows and what is under way, which is nothing, and walks over no copies.

use std::collections::BTreeSet;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, Incarnation, ServerId};
use gabion_protocol::messages::master::{BalancePlan, Condition, Response, ServerFill, ServerMoves};
use gabion_protocol::process::monotonic;
use tokio::sync::Notify;

use super::query::server_info;
use super::repair::tell_refused;
use super::shared::{Master, read_many, row_error};
use crate::fleet;
use crate::plan::balance::flows::{Flows, Lately, Sums};
use crate::plan::balance::sweep::Sweep;
use crate::plan::balance::{Balancer, Drive, Fill, Levels, Policy, WHOLE_PPM};
use crate::plan::placement::{Candidate, condition};
use crate::plan::repair::{Fleet, Standing};
use crate::state::balance::CopyMove;
use crate::state::key::server::Server;
use crate::state::repair::REPAIR_BATCH_MAX;
use crate::state::rows::{Rows, RowsError};
use crate::state::{Command, balance, read};
use crate::store::state_db::View;

/// Between looks: a full disk is hours away.
const LOOK: Duration = Duration::from_secs(2);
/// Between looks while copies are moved or looked for. The end of a copy wakes the leader before.
const MOVING: Duration = Duration::from_millis(500);
/// A look is followed by so many times as long as it took in which there is none.
const REST_TIMES: u32 = 4;
/// A gap that says that this process stood still.
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds of walking that a plan for a person may take: a million rows, some seconds.
const PLAN_ROUNDS: usize = 250;
/// A plan for a person knows no budget.
const NO_BUDGET: u64 = u64::MAX / 4;

/// What wakes the leader's balance.
#[derive(Debug, Default)]
pub(super) struct Balancing {
    wake: Notify,
}

impl Balancing {
    /// A copy has ended: another one may begin.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// What a leader remembers.
#[derive(Debug, Default)]
struct Memory {
    sweep: Sweep,
    drive: Drive,
    lately: Lately,
}

/// What one look found.
#[derive(Debug, Default)]
struct Look {
    moves: Vec<CopyMove>,
    /// Copies are on their way, or are looked for.
    busy: bool,
}

/// All that a look needs to know of chunkservers.
#[derive(Debug, Clone)]
struct Scene {
    fleet: Fleet,
    beats: fleet::View,
    servers: Vec<(ServerId, Server)>,
    /// Servers that failed to make a copy of a chunk a while ago.
    avoid: BTreeSet<(ChunkId, ServerId)>,
    policy: Policy,
    now: Duration,
}

/// Balances for as long as this master leads.
pub(super) async fn lead(master: &Master, term: u64) {
    let mut memory = Memory::default();
    let (mut pause, mut rest) = (LOOK, Duration::ZERO);
    loop {
        let before = monotonic();
        tokio::time::sleep(rest).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = master.balancing.wake.notified() => {}
        }
        if monotonic().saturating_sub(before) > rest + pause + PAUSE || master.repairs.is_busy() {
            // This process stood still and heard nobody; or there is more urgent work.
            pause = LOOK;
            continue;
        }
        let began = monotonic();
        let look = match master.look_at_fills(std::mem::take(&mut memory)).await {
            Ok((now, look)) => {
                memory = now;
                look
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look how full the chunkservers are");
                pause = LOOK;
                continue;
            }
        };
        pause = if look.busy { MOVING } else { LOOK };
        rest = monotonic().saturating_sub(began) * REST_TIMES;
        if let Err(error) = master.begin_moves(term, look.moves).await {
            tracing::debug!(%error, "a move was not agreed to");
        }
    }
}

impl Master {
    async fn scene(&self) -> Result<Scene, WireError> {
        let fleet = self.repair_fleet().await?;
        let (servers, _) = self.servers().await?;
        Ok(Scene {
            fleet,
            beats: self.fleet.read(Clone::clone),
            servers,
            avoid: self.repairs.avoided(),
            policy: self.settings.balance,
            now: monotonic(),
        })
    }

    /// One look, off the runtime's threads.
    async fn look_at_fills(&self, mut memory: Memory) -> Result<(Memory, Look), WireError> {
        let scene = self.scene().await?;
        let view = self.raft.stale_view();
        let looking = tokio::task::spawn_blocking(move || {
            let look = look(&view, &scene, &mut memory);
            (memory, look)
        });
        let (memory, look) = looking.await.map_err(|error| {
            let message = format!("cannot look how full the chunkservers are: {error}");
            WireError::new(gabion_protocol::ErrorCode::Internal, message)
        })?;
        Ok((memory, look.map_err(row_error)?))
    }

    /// Proposes moves in this leader's term.
    async fn begin_moves(&self, term: u64, moves: Vec<CopyMove>) -> Result<(), WireError> {
        if moves.is_empty() {
            return Ok(());
        }
        tracing::info!(copies = moves.len(), "copies are moved to emptier chunkservers");
        let mut taken = Vec::with_capacity(moves.len());
        for one in &moves {
            tracing::debug!(chunk = %one.chunk, from = %one.from, to = %one.to, "a copy is moved");
            // Its budget was counted against it.
            self.repairs.assign(one.chunk, one.to, one.from);
            taken.push(one.to);
        }
        self.fleet.placed(&taken);
        self.mind_tail().await?;
        for moves in moves.chunks(REPAIR_BATCH_MAX).map(<[_]>::to_vec) {
            let command = Command::MoveCopies { moves };
            let outcome = self.propose_in_term(term, &command).await?;
            tell_refused(&outcome.into_wire(&command.cannot())?);
        }
        Ok(())
    }

    /// How full the chunkservers are, and what would be moved.
    pub(super) async fn balance_plan(&self, view: View) -> Result<Response, WireError> {
        let scene = self.scene().await?;
        read_many(view, move |view| {
            let plan = plan(view, &scene).map_err(row_error)?;
            Ok(Response::BalancePlan(Box::new(plan)))
        })
        .await
    }
}

impl Scene {
    fn ids(&self) -> Vec<ServerId> {
        self.servers.iter().map(|(id, _)| *id).collect()
    }

    /// When a server last beat.
    fn heard(&self, server: ServerId) -> Option<Duration> {
        let (_, row) = self.servers.iter().find(|(id, _)| *id == server)?;
        self.beats.seen(server, row.incarnation).map(|seen| seen.last)
    }

    /// How full each server is, with what comes and goes.
    fn levels(&self, flows: &Flows, sums: &Sums) -> Levels {
        let fill = |candidate: &Candidate| {
            let server = candidate.server;
            let incarnation = self.incarnation(server)?;
            let load = self
                .beats
                .seen(server, incarnation)
                .map(|seen| seen.load)
                .unwrap_or_default();
            let used = load.bytes_total.saturating_sub(load.bytes_free);
            let aside = if load.disks_failed > 0 {
                Some("a disk of it has failed")
            } else if load.bytes_total == 0 {
                Some("it has not said how large its disks are")
            } else if flows.unclear.contains(&server) {
                Some("it is removing many copies")
            } else {
                self.aside(candidate)
            };
            Some(Fill::new(candidate.clone(), (load.bytes_total, used), sums, aside))
        };
        Levels::new(
            self.fleet
                .candidates()
                .filter(|of| !of.retired)
                .filter_map(fill)
                .collect(),
        )
    }

    fn incarnation(&self, server: ServerId) -> Option<Incarnation> {
        let row = self.servers.iter().find(|(id, _)| *id == server);
        row.map(|(_, row)| row.incarnation)
    }

    /// Why copies are moved neither from a server nor to it.
    fn aside(&self, candidate: &Candidate) -> Option<&'static str> {
        if candidate.condition != Condition::InService {
            return Some(condition(candidate.condition));
        }
        match self.fleet.standing(candidate.server) {
            Standing::Present if self.fleet.is_steady(candidate.server) => None,
            Standing::Present => Some("it has been there for a moment only"),
            Standing::Silent | Standing::Overdue | Standing::Gone | Standing::Leaving => {
                Some("it does not answer, or comes and goes")
            }
        }
    }
}

fn look(rows: &dyn Rows, scene: &Scene, memory: &mut Memory) -> Result<Look, RowsError> {
    if !scene.fleet.moves() {
        return Ok(Look::default());
    }
    let as_told = scene.levels(&Flows::default(), &Sums::default());
    if memory.drive.is_done(&as_told, scene.policy.threshold_ppm) && balance::moves(rows, 1)?.is_empty() {
        return Ok(Look::default());
    }
    let flows = Flows::read(rows, &scene.ids())?;
    let sums = memory.lately.note(&flows, |server| scene.heard(server), scene.now);
    let mut look = Look {
        moves: Vec::new(),
        busy: flows.moving > 0,
    };
    let levels = scene.levels(&flows, &sums);
    if flows.moving > 0 {
        // Another leader may have begun: what it aimed at is aimed at.
        memory.drive = Drive::begun();
    }
    let Some(aim) = memory.drive.aim(&levels, scene.policy.threshold_ppm) else {
        return Ok(look);
    };
    let mut balancer = Balancer::new(
        &scene.fleet,
        levels,
        (aim, scene.policy.budget),
        flows.busy,
        &scene.avoid,
    );
    let (moves, more) = memory.sweep.round(rows, &mut balancer, scene.now)?;
    look.busy |= more || !moves.is_empty();
    look.moves = moves;
    Ok(look)
}

/// What would be moved in all, if nothing changed meanwhile.
fn plan(rows: &dyn Rows, scene: &Scene) -> Result<BalancePlan, RowsError> {
    let flows = Flows::read(rows, &scene.ids())?;
    let levels = scene.levels(&flows, &flows.sums());
    let fill = |fill: &Fill| {
        let id = fill.candidate.server;
        let (_, row) = scene.servers.iter().find(|(of, _)| *of == id)?;
        Some(ServerFill {
            info: server_info(&scene.beats, id, row.clone(), scene.now),
            bytes_used: fill.bytes_used,
            used_ppm: fill.ppm(),
            aside: fill.aside.map(str::to_owned),
        })
    };
    let mut plan = BalancePlan {
        runs: balance::runs(rows)?,
        threshold_ppm: scene.policy.threshold_ppm,
        mean_ppm: levels.mean_ppm(),
        servers: levels.fills().filter_map(fill).collect(),
        moves: Vec::new(),
        more: false,
        moving: flows.moving,
        moving_bytes: flows.moving_bytes,
    };
    // As a leader that has just begun to move: under way it goes on until half the threshold.
    let mut drive = if flows.moving > 0 {
        Drive::begun()
    } else {
        Drive::default()
    };
    let Some(aim) = drive.aim(&levels, scene.policy.threshold_ppm) else {
        return Ok(plan);
    };
    let mut balancer = Balancer::new(&scene.fleet, levels, (aim, NO_BUDGET), flows.busy, &scene.avoid);
    let mut sweep = Sweep::default();
    for _ in 0..PLAN_ROUNDS {
        let (moves, more) = sweep.round(rows, &mut balancer, scene.now)?;
        for one in &moves {
            let length = read::chunk(rows, one.chunk)?.map_or(0, |chunk| chunk.length);
            add(&mut plan.moves, one, length);
        }
        plan.more = more;
        if !more {
            break;
        }
    }
    Ok(plan)
}

/// Adds a move to what is said of its two servers.
fn add(moves: &mut Vec<ServerMoves>, one: &CopyMove, length: u64) {
    let (from, to) = (one.from, one.to);
    let at = moves.iter().position(|of| (of.from, of.to) == (from, to));
    let at = at.unwrap_or_else(|| {
        moves.push(ServerMoves {
            from,
            to,
            copies: 0,
            bytes: 0,
        });
        moves.len() - 1
    });
    moves[at].copies += 1;
    moves[at].bytes += length;
}

/// The settings as the planner takes them.
pub(super) fn policy(config: &crate::config::BalanceSettings) -> Policy {
    Policy {
        threshold_ppm: u32::from(config.threshold) * (WHOLE_PPM / 100),
        budget: config.budget.0,
    }
}
