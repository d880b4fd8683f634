//! One chunk for operators: what is known of its copies, and having them looked at again.
//!
//! What an operator asks for changes no decision: the copies are noted as suspected, as if a reader had reported them, so
//! that their servers read them again and confirm or clear it; and the next rounds of repair look at the chunk first.

use std::time::Duration;

use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::ChunkId;
use gabion_protocol::messages::master::{ChunkReport, CopyCounts, CopyReport, Damage, ReplicaState, Response};
use gabion_protocol::process::monotonic;

use super::query::server_info;
use super::shared::{Master, read_many, row_error};
use crate::fleet;
use crate::plan::repair::{Fleet, Standing};
use crate::plan::search::{Leaving, chunk_view};
use crate::state::key::chunk::Replica;
use crate::state::rows::{Rows, RowsError};
use crate::state::{Command, read};

/// What is said of a copy that an operator wants read again.
const ASKED: &str = "an operator wants it read again";

impl Master {
    /// What is known of a chunk.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if there is none; or where the leader is.
    pub(super) async fn inspect_chunk(&self, chunk: ChunkId) -> Result<Response, WireError> {
        let report = self.chunk_report(chunk).await?;
        Ok(Response::ChunkReport(Box::new(report)))
    }

    /// Has the copies of a chunk read again, and repair look at it first.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if there is none, [`ErrorCode::Conflict`] if it is not sealed; or where the leader is.
    pub(super) async fn repair_chunk(&self, chunk: ChunkId) -> Result<Response, WireError> {
        let report = self.chunk_report(chunk).await?;
        if report.info.state != gabion_protocol::messages::master::ChunkState::Sealed {
            let message = format!("cannot repair chunk {chunk}: it is not sealed");
            let help = "a chunk that is being written is its writer's business, one nobody wants any more goes away";
            return Err(WireError::new(ErrorCode::Conflict, message)
                .action(Action::GiveUp)
                .help(help));
        }
        let live = report.info.replicas.iter();
        let live = live.filter(|(_, _, state)| *state == ReplicaState::Live);
        let suspect = |(server, replica, _): &(_, _, _)| {
            let (chunk, replica, what) = (chunk, *replica, ASKED.to_owned());
            (*server, Damage { chunk, replica, what })
        };
        let command = Command::DamageSuspected {
            found: live.map(suspect).collect(),
        };
        self.propose(&command).await?.into_wire(&command.cannot())?;
        self.repairs.ask_for(chunk, monotonic());
        Ok(Response::ChunkReport(Box::new(self.chunk_report(chunk).await?)))
    }

    async fn chunk_report(&self, chunk: ChunkId) -> Result<ChunkReport, WireError> {
        let (view, fleet) = (self.view().await?, self.repair_fleet().await?);
        let (beats, leaving, at) = (self.fleet.read(Clone::clone), self.disks.leaving(), monotonic());
        let found = read_many(view, move |view| {
            report(view, &fleet, &beats, (chunk, &leaving), at).map_err(row_error)
        });
        found.await?.ok_or_else(|| {
            let error = WireError::new(ErrorCode::NotFound, format!("no chunk {chunk}"));
            error
                .action(Action::GiveUp)
                .help("see: gabion chunks PATH, gabion admin chunk list --state under")
        })
    }
}

fn report(
    rows: &dyn Rows,
    fleet: &Fleet,
    beats: &fleet::View,
    (id, leaving): (ChunkId, &Leaving),
    at: Duration,
) -> Result<Option<ChunkReport>, RowsError> {
    let Some(view) = chunk_view(rows, id)? else {
        return Ok(None);
    };
    let view = view.marked(leaving);
    let said = read::damaged(rows, id)?;
    let mut copies = Vec::with_capacity(view.chunk.replicas.len());
    for copy in &view.chunk.replicas {
        let Replica { server, number, .. } = *copy;
        let row = read::server(rows, server)?;
        let Some(row) = row else { continue };
        let info = server_info(beats, server, row, at);
        let about = said
            .iter()
            .find(|(of, damage)| *of == server && damage.number == number);
        copies.push(CopyReport {
            server,
            name: info.name,
            health: info.health,
            counts: counts(
                fleet,
                view.damaged.contains(&server),
                view.leaving.contains(&server),
                copy,
            ),
            said: about.map(|(_, damage)| (damage.what.clone(), damage.confirmed)),
        });
    }
    Ok(Some(ChunkReport {
        info: read::chunk_info(id, &view.chunk),
        owner: view.chunk.owner,
        owner_path: read::path_of(rows, view.chunk.owner)?,
        copies,
    }))
}

fn counts(fleet: &Fleet, is_damaged: bool, is_leaving: bool, copy: &Replica) -> CopyCounts {
    use crate::state::key::chunk::ReplicaState as State;
    match (copy.state, fleet.standing(copy.server)) {
        (State::Copying, _) => CopyCounts::Copying,
        (State::Dropping, _) => CopyCounts::Dropping,
        (State::Live, _) if is_damaged => CopyCounts::Damaged,
        (State::Live, Standing::Gone) => CopyCounts::Gone,
        (State::Live, Standing::Silent | Standing::Overdue) => CopyCounts::Expected,
        (State::Live, Standing::Leaving) => CopyCounts::Leaving,
        (State::Live, Standing::Present) if is_leaving => CopyCounts::Leaving,
        (State::Live, Standing::Present) => CopyCounts::Present,
    }
}
