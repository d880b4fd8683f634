//! What operators ask, and checking single copies.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::ids::{ChunkId, MasterId, ReplicaNumber, ServerId};
use gabion_protocol::messages::data;
use gabion_protocol::messages::master::{
    Admin, ChunkTrouble, Extent, Op, Query, Replica, Response, Status, TroubledChunk,
};
use gabion_protocol::{Action, ErrorCode, WireError};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::policy::chain::Pulse;
use crate::random;
use crate::{Client, Error, Verdict};

/// Longest a server may take to read one chunk again from a busy disk.
const VERIFY: Duration = Duration::from_secs(120);
/// After so long without a verdict its server is probed, and again each time it has passed.
const LOOK: Duration = Duration::from_millis(700);
/// Probes in a row that may stay unanswered. With [`LOOK`] and a probe's own time a hung server costs three seconds.
const SILENT_PROBES: u32 = 2;

/// What becomes of small chunks: the masters have large ones made of them in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merges {
    /// Large chunks that took the place of small ones since the leader leads.
    pub done: u64,
    /// Large chunks being made.
    pub under_way: u64,
    /// Files that may lie in small chunks, a thousand at most.
    pub waiting: u64,
}

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

    /// A page of the chunks after `after` that are in this trouble, and after which one to ask for more; `None` at the
    /// end.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn troubled(
        &self,
        trouble: ChunkTrouble,
        after: Option<ChunkId>,
    ) -> Result<(Vec<TroubledChunk>, Option<ChunkId>), Error> {
        let what = || "cannot list chunks";
        let query = Query::Troubled { trouble, after };
        match self.inner.masters.query(query).await.context(what)? {
            Response::ChunkPage { chunks, next } => Ok((chunks, next)),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Copies that are being made because others were lost.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn copies_in_progress(&self) -> Result<u64, Error> {
        let what = || "cannot ask what repair does";
        match self.inner.masters.query(Query::Repairs).await.context(what)? {
            Response::Repairs { copying } => Ok(copying),
            _ => Err(unexpected()).context(what),
        }
    }

    /// What becomes of small chunks.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn merges(&self) -> Result<Merges, Error> {
        let what = || "cannot ask what becomes of small chunks";
        match self.inner.masters.query(Query::Merges).await.context(what)? {
            Response::Merges {
                done,
                under_way,
                waiting,
            } => Ok(Merges {
                done,
                under_way,
                waiting,
            }),
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

    /// Makes a chunkserver read its copy again from disk, and tells what it found. A server that is away is waited
    /// for, but not longer than [`crate::Config::wait`] in all, however many of its copies are asked for; a hung one
    /// is given up after three seconds. Neither is asked again for a while.
    ///
    /// # Errors
    /// If that server cannot be asked.
    pub async fn verify_replica(&self, extent: &Extent, replica: &Replica) -> Result<Verdict, Error> {
        let (servers, server) = (&self.inner.servers, replica.server);
        let what = || format!("cannot verify chunk {} on {}", extent.chunk, servers.label(server));
        if servers.is_given_up(server) {
            let error = WireError::new(ErrorCode::Unreachable, "the server did not answer a short while ago")
                .help("start it or see what holds it up (gabion admin status), then verify again");
            return Err(error).context(what);
        }
        loop {
            let error = match self.verify_once(replica).await {
                Ok(verdict) => {
                    servers.is_back(server);
                    return Ok(verdict);
                }
                Err(error) => error,
            };
            let Action::Retry { after_ms } = error.action else {
                return Err(error).context(what);
            };
            let is_late = servers.away(server) >= self.inner.config.wait;
            let is_hung = error.code == ErrorCode::Timeout;
            if is_hung || is_late {
                if error.code != ErrorCode::Busy {
                    servers.give_up(server);
                }
                return Err(error).context(what);
            }
            let pause = u64::from(after_ms).max(100);
            tokio::time::sleep(Duration::from_millis(pause + random() % pause)).await;
            if error.code == ErrorCode::Unreachable
                && let Err(error) = servers.refresh(&self.inner.masters, server).await
            {
                tracing::debug!(%error, %server, "cannot ask the masters where a server is now");
            }
        }
    }

    async fn verify_once(&self, replica: &Replica) -> Result<Verdict, WireError> {
        let (servers, masters) = (&self.inner.servers, &self.inner.masters);
        let connection = servers.connection(masters, replica.server).await?;
        let request = data::Request::Verify { token: replica.token };
        let mut call = std::pin::pin!(connection.call(Kind::DataRequest, &request, Bytes::new(), VERIFY));
        let mut silent = 0;
        loop {
            if let Ok(answer) = tokio::time::timeout(LOOK, &mut call).await {
                return match answer?.0 {
                    data::Response::Verified(verdict) => Ok(verdict),
                    _ => Err(unexpected()),
                };
            }
            // It reads from a busy disk, or it hangs.
            match servers.probe(masters, &[replica.server]).await[..] {
                [Pulse::Alive] => silent = 0,
                _ => silent += 1,
            }
            if silent >= SILENT_PROBES {
                return Err(WireError::new(
                    ErrorCode::Timeout,
                    "the server takes requests and answers none, not even probes",
                ));
            }
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
