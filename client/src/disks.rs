//! Disks and single chunks, as operators look at them.

use gabion_protocol::ids::ChunkId;
use gabion_protocol::messages::master::{Admin, ChunkReport, Response, ServerDisks};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// Every server's disks, as they told the leader.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn disks(&self) -> Result<Vec<ServerDisks>, Error> {
        let what = || "cannot list the disks";
        match self.inner.masters.admin(Admin::DiskStatus).await.context(what)? {
            Response::Disks(servers) => Ok(servers),
            _ => Err(unexpected()).context(what),
        }
    }

    /// A chunk with all that is known of its copies.
    ///
    /// # Errors
    /// If there is none, or no leader answers.
    pub async fn inspect_chunk(&self, chunk: ChunkId) -> Result<ChunkReport, Error> {
        let what = || format!("cannot look at chunk {chunk}");
        match self
            .inner
            .masters
            .admin(Admin::InspectChunk { chunk })
            .await
            .context(what)?
        {
            Response::ChunkReport(report) => Ok(*report),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Has the servers of a chunk read their copies again, and repair look at it before all others. What comes of it shows
    /// in [`Self::inspect_chunk`].
    ///
    /// # Errors
    /// If there is none, it is not sealed, or no leader answers.
    pub async fn repair_chunk(&self, chunk: ChunkId) -> Result<ChunkReport, Error> {
        let what = || format!("cannot repair chunk {chunk}");
        match self
            .inner
            .masters
            .admin(Admin::RepairChunk { chunk })
            .await
            .context(what)?
        {
            Response::ChunkReport(report) => Ok(*report),
            _ => Err(unexpected()).context(what),
        }
    }
}
