//! Chunks that are not as they should be, page by page, for operators.
//!
//! A walk over chunk rows, as nothing indexes what depends on servers that answer: each page reads a bounded number of
//! rows, and may find nothing in them.

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::messages::master::{ChunkTrouble, Health, Response, TroubledChunk};
use gabion_protocol::process::monotonic;

use super::shared::{Master, read_many, row_error};
use crate::fleet;
use crate::plan::repair::ChunkView;
use crate::plan::search::chunk_view;
use crate::state::key::chunk::{Phase, ReplicaState};
use crate::state::read;
use crate::state::rows::{Rows, RowsError};
use crate::store::state_db::View;

/// Rows one page reads.
const ROWS: usize = 8192;
/// Chunks in one page: with their copies and what was said of them they fit a message.
const CHUNKS: usize = 100;

impl Master {
    /// The chunks after `after` that are in this trouble.
    pub(super) async fn troubled(
        &self,
        view: View,
        trouble: ChunkTrouble,
        after: Option<ChunkId>,
    ) -> Result<Response, WireError> {
        let judge = Judge {
            fleet: self.fleet.read(Clone::clone),
            now: monotonic(),
        };
        read_many(view, move |view| {
            let (chunks, next) = page(view, &judge, trouble, after).map_err(row_error)?;
            Ok(Response::ChunkPage { chunks, next })
        })
        .await
    }
}

/// The fleet at one moment.
struct Judge {
    fleet: fleet::View,
    now: std::time::Duration,
}

impl Judge {
    fn health(&self, rows: &dyn Rows, server: ServerId) -> Result<Health, RowsError> {
        let row = read::server(rows, server)?.filter(|row| !row.retired);
        Ok(row.map_or(Health::Lost, |row| self.fleet.health(server, row.incarnation, self.now)))
    }
}

fn page(
    rows: &dyn Rows,
    judge: &Judge,
    trouble: ChunkTrouble,
    after: Option<ChunkId>,
) -> Result<(Vec<TroubledChunk>, Option<ChunkId>), RowsError> {
    let mut found = Vec::new();
    let read = read::chunks(rows, after, ROWS)?;
    let end = read.last().map(|(id, _)| *id).filter(|_| read.len() == ROWS);
    for (id, chunk) in read {
        if chunk.phase != Phase::Sealed {
            continue;
        }
        let Some(view) = chunk_view(rows, id)? else { continue };
        if let Some(chunk) = examine(rows, judge, trouble, &view)? {
            found.push(chunk);
        }
        if found.len() == CHUNKS {
            return Ok((found, Some(id)));
        }
    }
    Ok((found, end))
}

/// The chunk, if it is in this trouble.
fn examine(
    rows: &dyn Rows,
    judge: &Judge,
    trouble: ChunkTrouble,
    view: &ChunkView,
) -> Result<Option<TroubledChunk>, RowsError> {
    let live = view
        .chunk
        .replicas
        .iter()
        .filter(|copy| copy.state == ReplicaState::Live);
    let (mut reachable, mut hoped) = (Vec::new(), 0);
    for copy in live.filter(|copy| !view.damaged.contains(&copy.server)) {
        match judge.health(rows, copy.server)? {
            Health::Alive => reachable.push(copy.server),
            Health::Suspect => hoped += 1,
            Health::Lost => {}
        }
    }
    let is_in_trouble = match trouble {
        ChunkTrouble::Under => reachable.len() + hoped < usize::from(view.chunk.wanted),
        ChunkTrouble::Damaged => !view.reported.is_empty(),
        ChunkTrouble::Missing => reachable.is_empty(),
    };
    if !is_in_trouble {
        return Ok(None);
    }
    let damaged = read::damaged(rows, view.id)?;
    Ok(Some(TroubledChunk {
        info: read::chunk_info(view.id, &view.chunk),
        reachable,
        damaged: damaged
            .into_iter()
            .map(|(server, damage)| (server, damage.what))
            .collect(),
    }))
}
