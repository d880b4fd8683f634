//! Disks and single chunks, as operators look at them.

use gabion_protocol::ids::{ChunkId, ServerId};
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

    /// Has a chunkserver drain one of its disks, or take it into service again; it hears of it within seconds, and
    /// [`Self::disks`] shows when it has obeyed.
    ///
    /// # Errors
    /// If no leader answers, has heard of the disk, or finds enough other servers to take its copies.
    pub async fn drain_disk(&self, server: ServerId, disk: [u8; 16], drain: bool, force: bool) -> Result<(), Error> {
        let request = Admin::DrainDisk {
            server,
            disk,
            drain,
            force,
        };
        let what = || format!("cannot change what a disk of chunkserver c{server} is there for");
        match self.inner.masters.admin(request).await.context(what)? {
            Response::Done => Ok(()),
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
