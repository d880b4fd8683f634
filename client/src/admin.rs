//! What operators ask, and checking single copies.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::ids::{ChunkId, MasterId, ReplicaNumber, ServerId};
use gabion_protocol::messages::data;
use gabion_protocol::messages::master::{Admin, Extent, Op, Query, Replica, Response, Status};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error, Verdict};

/// Longest a server may take to read one chunk again from a busy disk.
const VERIFY: Duration = Duration::from_secs(120);

impl Client {
    /// The cluster at a glance, from its leader.
    ///
    /// # Errors
    /// If no leader answers; [`Client::status_of`] asks one master, which may know less.
    pub async fn status(&self) -> Result<Status, Error> {
        let what = || "cannot read the cluster's status";
        match self.inner.masters.query(Query::Status).await.context(what)? {
            Response::Status(status) => Ok(*status),
            _ => Err(unexpected()).context(what),
        }
    }

    /// The cluster as one master sees it, which may be stale.
    ///
    /// # Errors
    /// If that master does not answer.
    pub async fn status_of(&self, master: MasterId) -> Result<Status, Error> {
        let what = || format!("cannot read the status of m{master}");
        let answer = self.inner.masters.query_one(master, Query::Status).await;
        match answer.context(what)? {
            Response::Status(status) => Ok(*status),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Makes every master hash its state at one log index, which is returned.
    ///
    /// # Errors
    /// Why not.
    pub async fn mark_hash(&self) -> Result<u64, Error> {
        let what = || "cannot order a state hash";
        match self.inner.masters.admin(Admin::MarkHash).await.context(what)? {
            Response::Marked { index } => Ok(index),
            _ => Err(unexpected()).context(what),
        }
    }

    /// One master's state hash at a marked index, and the last index it has applied. `None` while it has not got
    /// there, or has forgotten it.
    ///
    /// # Errors
    /// If that master does not answer.
    pub async fn state_hash(&self, master: MasterId, index: u64) -> Result<(Option<[u8; 32]>, u64), Error> {
        let what = || format!("cannot read the state hash of m{master}");
        let answer = self.inner.masters.query_one(master, Query::StateHash { index }).await;
        match answer.context(what)? {
            Response::StateHash { hash, applied } => Ok((hash, applied)),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Carries out an operator's request that has no richer answer than success.
    ///
    /// # Errors
    /// Why not.
    pub async fn admin(&self, request: Admin) -> Result<(), Error> {
        let answer = self.inner.masters.admin(request).await;
        answer.map(drop).context(|| "cannot change the cluster")
    }

    /// Makes a chunkserver read its copy again from disk, and tells what it found.
    ///
    /// # Errors
    /// If that server cannot be asked.
    pub async fn verify_replica(&self, extent: &Extent, replica: &Replica) -> Result<Verdict, Error> {
        let servers = &self.inner.servers;
        let what = || {
            format!(
                "cannot verify chunk {} on {}",
                extent.chunk,
                servers.label(replica.server)
            )
        };
        let request = data::Request::Verify { token: replica.token };
        let connection = servers
            .connection(&self.inner.masters, replica.server)
            .await
            .context(what)?;
        let (answer, _) = connection
            .call(Kind::DataRequest, &request, Bytes::new(), VERIFY)
            .await
            .context(what)?;
        match answer {
            data::Response::Verified(verdict) => Ok(verdict),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Tells the masters of a copy that cannot be trusted.
    ///
    /// # Errors
    /// Why not.
    pub async fn report_damage(
        &self,
        chunk: ChunkId,
        server: ServerId,
        replica: ReplicaNumber,
        found: &str,
    ) -> Result<(), Error> {
        let op = Op::ReportDamage {
            chunk,
            server,
            replica,
            what: found.to_owned(),
        };
        let answer = self.inner.masters.command(op).await;
        answer
            .map(drop)
            .context(|| format!("cannot report chunk {chunk} on server {server}"))
    }
}
