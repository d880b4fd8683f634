//! What operators want of chunkservers: what would become of the chunks is looked up before it is logged.
//!
//! Only the leader knows who answers, so it judges; the log then holds the rule that nothing needed is forgotten
//! (`state::conditions`). A change that is in force already is not judged again: the command may be a repeated one.

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::limits::PLAN_EXAMPLES_MAX;
use gabion_protocol::messages::master::{ConditionChange, Op, Response, ServerPlan, ServerState};
use gabion_protocol::process::monotonic;

use super::query::server_info;
use super::shared::{Master, read_many, row_error};
use crate::plan::repair::{Fleet, Standing};
use crate::plan::search::chunk_view;
use crate::state::key::chunk::Phase;
use crate::state::rows::{Rows, RowsError};
use crate::state::{conditions, read};
use crate::store::state_db::View;

/// Rows of a server read at once.
const PAGE: usize = 1024;

impl Master {
    /// All chunkservers and their conditions.
    pub(super) async fn server_states(&self, view: View) -> Result<Response, WireError> {
        let fleet = self.fleet.read(Clone::clone);
        let at = monotonic();
        read_many(view, move |view| {
            let conditions = conditions::all(view).map_err(row_error)?;
            let servers = read::servers(view).map_err(row_error)?.into_iter();
            let servers = servers.map(|(id, row)| ServerState {
                condition: conditions.get(&id).copied().map(Into::into).unwrap_or_default(),
                retired: row.retired,
                info: server_info(&fleet, id, row, at),
            });
            Ok(Response::Servers {
                now: read::now(view).map_err(row_error)?,
                servers: servers.collect(),
            })
        })
        .await
    }

    /// What a chunkserver holds, and what would become of it.
    pub(super) async fn server_plan(&self, view: View, server: ServerId) -> Result<Response, WireError> {
        let plan = self.plan_of(view, server).await?;
        let unknown = || WireError::new(ErrorCode::NotFound, format!("there is no chunkserver c{server}"));
        let plan = plan.ok_or_else(unknown)?;
        Ok(Response::ServerPlan(Box::new(plan)))
    }

    pub(super) async fn plan_of(&self, view: View, server: ServerId) -> Result<Option<ServerPlan>, WireError> {
        let fleet = self.repair_fleet().await?;
        let beats = self.fleet.read(Clone::clone);
        let at = monotonic();
        read_many(view, move |view| {
            let Some(row) = read::server(view, server).map_err(row_error)? else {
                return Ok(None);
            };
            let condition = conditions::of(view, server).map_err(row_error)?;
            let state = ServerState {
                condition: condition.map(Into::into).unwrap_or_default(),
                retired: row.retired,
                info: server_info(&beats, server, row, at),
            };
            walk(view, &fleet, state).map(Some).map_err(row_error)
        })
        .await
    }

    /// Refuses what would cost copies.
    pub(super) async fn may_change(&self, op: &Op) -> Result<(), WireError> {
        let Op::SetCondition { server, change, force } = op else {
            return Ok(());
        };
        if *change == ConditionChange::Serve {
            return Ok(());
        }
        let view = self.view().await?;
        // One that is not there (any more) is for the log to refuse, or to remember.
        let Some(plan) = self.plan_of(view, *server).await? else {
            return Ok(());
        };
        plan.allows(*change, *force)
    }
}

/// Counts what a server holds, chunk by chunk.
fn walk(rows: &dyn Rows, fleet: &Fleet, server: ServerState) -> Result<ServerPlan, RowsError> {
    let id = server.info.server;
    let others: Vec<_> = fleet.takers().filter(|other| other.server != id).collect();
    let racks: std::collections::BTreeSet<&str> = others.iter().map(|other| other.rack.as_str()).collect();
    let mut plan = ServerPlan {
        server,
        chunks: 0,
        bytes: 0,
        unsettled: 0,
        needed: 0,
        needed_ids: Vec::new(),
        last: 0,
        last_ids: Vec::new(),
        wanted_max: 0,
        chunk_bytes_max: 0,
        others: others.iter().map(|other| other.server).collect(),
        racks: racks.len() as u64,
        bytes_free: others.iter().map(|other| other.bytes_free).sum(),
        now: read::now(rows)?,
    };
    let mut after = None;
    loop {
        let page = read::held(rows, id, after, PAGE)?;
        for (chunk, held) in &page {
            count(rows, fleet, &mut plan, *chunk, held.live)?;
        }
        after = page.last().map(|(chunk, _)| *chunk);
        if page.len() < PAGE {
            break;
        }
    }
    plan.unsettled += read::drop_orders(rows, id, usize::MAX)?.len() as u64;
    Ok(plan)
}

fn count(rows: &dyn Rows, fleet: &Fleet, plan: &mut ServerPlan, id: ChunkId, live: bool) -> Result<(), RowsError> {
    let server = plan.server.info.server;
    let view = chunk_view(rows, id)?.filter(|view| live && view.chunk.phase == Phase::Sealed);
    let Some(view) = view else {
        plan.unsettled += 1;
        return Ok(());
    };
    let note = |count: &mut u64, examples: &mut Vec<ChunkId>| {
        *count += 1;
        if examples.len() < PLAN_EXAMPLES_MAX {
            examples.push(id);
        }
    };
    plan.chunks += 1;
    plan.bytes += view.chunk.length;
    plan.wanted_max = plan.wanted_max.max(view.chunk.wanted);
    plan.chunk_bytes_max = plan.chunk_bytes_max.max(view.chunk.length);
    let seen = fleet.assess(&view, &std::collections::BTreeSet::new());
    let good = seen
        .present
        .iter()
        .filter(|of| **of != server && !view.reported.contains(of));
    if good.count() < usize::from(view.chunk.wanted) {
        note(&mut plan.needed, &mut plan.needed_ids);
    }
    let readable = |of: ServerId| of != server && fleet.standing(of) != Standing::Gone;
    if !fleet.sources(&view).iter().any(|copy| readable(copy.server)) {
        note(&mut plan.last, &mut plan.last_ids);
    }
    Ok(())
}
