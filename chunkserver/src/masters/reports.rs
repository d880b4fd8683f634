//! Scrub: how far it is, told to the leader beside the beats; what an operator asks for; what the masters know of a
//! chunk.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::messages::master::{ChunkInfo, Freshness, Query, Request, Response, ScrubReport};
use gabion_protocol::net::Connection;
use gabion_protocol::{ChunkId, ErrorCode, ServerId, WireError};
use tokio::time::Instant;

use super::beats::unexpected;
use super::{ANSWER, Masters};
use crate::scrub::Board;

/// Between two reports to the leader.
const REPORT: Duration = Duration::from_secs(1);

/// When the next report is due on one connection.
#[derive(Debug, Default)]
pub(super) struct Reports {
    last: Option<Instant>,
}

impl Masters {
    /// What the scrub tells and is asked.
    pub(crate) fn scrub(&self) -> &Board {
        &self.0.scrub
    }

    /// What the leading master knows of a chunk.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the leader knows no such chunk; any other says nothing about the chunk.
    pub(crate) async fn chunk(&self, chunk: ChunkId) -> Result<ChunkInfo, WireError> {
        let connections: Vec<_> = self.0.connections.lock().clone().into_iter().collect();
        let mut failed = WireError::new(ErrorCode::NoLeader, format!("no master tells of chunk {chunk}"));
        let request = Request::Query {
            query: Query::Chunk { chunk },
            freshness: Freshness::Linearizable,
        };
        for (address, connection) in connections {
            let asked = connection.call::<_, Response>(Kind::MasterRequest, &request, Bytes::new(), ANSWER);
            match asked.await {
                Ok((Response::Chunk(row), _)) => return Ok(row),
                Ok(_) => failed = unexpected(&address),
                Err(error) if error.code == ErrorCode::NotFound => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Tells the leader how far the scrub is, if it is time to; takes what an operator asks for.
    pub(super) async fn report(
        &self,
        connection: &Connection,
        server: ServerId,
        reports: &mut Reports,
    ) -> Result<(), WireError> {
        if reports.last.is_some_and(|last| last.elapsed() < REPORT) {
            return Ok(());
        }
        let Some((obeyed, progress)) = self.0.scrub.told() else {
            return Ok(());
        };
        reports.last = Some(Instant::now());
        let identity = self.0.store.identity().map_err(|e| e.to_wire())?;
        let request = Request::ScrubReport(ScrubReport {
            server,
            incarnation: identity.incarnation,
            obeyed,
            progress,
        });
        let answer = connection.call(Kind::MasterRequest, &request, Bytes::new(), ANSWER);
        let (Response::ScrubAnswer { epoch, start }, _) = answer.await? else {
            return Err(unexpected(&connection.peer().address));
        };
        if let (Some(epoch), Some(request)) = (epoch, start)
            && self.accept(epoch).await?
        {
            self.0.scrub.ask(request);
        }
        Ok(())
    }
}
