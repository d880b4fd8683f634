//! Chunkservers, as operators look at them and change what they are there for.

use gabion_protocol::StateTime;
use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::{BalancePlan, ConditionChange, Op, Query, Response, ServerPlan, ServerState};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// All chunkservers with their conditions, and the state time.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn servers(&self) -> Result<(StateTime, Vec<ServerState>), Error> {
        let what = || "cannot list the chunkservers";
        match self.inner.masters.query(Query::Servers).await.context(what)? {
            Response::Servers { now, servers } => Ok((now, servers)),
            _ => Err(unexpected()).context(what),
        }
    }

    /// What a chunkserver holds, and what would become of it. The leader walks over all its copies.
    ///
    /// # Errors
    /// If there is no such server, or no leader answers.
    pub async fn server_plan(&self, server: ServerId) -> Result<ServerPlan, Error> {
        let what = || format!("cannot look at chunkserver c{server}");
        let query = Query::ServerPlan { server };
        match self.inner.masters.query(query).await.context(what)? {
            Response::ServerPlan(plan) => Ok(*plan),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Changes what a chunkserver is there for; runs once.
    ///
    /// # Errors
    /// Why not: [`ServerPlan::allows`] says the same before.
    pub async fn set_condition(&self, server: ServerId, change: ConditionChange, force: bool) -> Result<(), Error> {
        let op = Op::SetCondition { server, change, force };
        let answer = self.inner.masters.command(op).await;
        answer
            .map(drop)
            .context(|| format!("cannot change the condition of chunkserver c{server}"))
    }

    /// How full the chunkservers are, and what would be moved between them. The leader walks over copies of full ones.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn balance_plan(&self) -> Result<BalancePlan, Error> {
        let what = || "cannot look how full the chunkservers are";
        match self.inner.masters.query(Query::BalancePlan).await.context(what)? {
            Response::BalancePlan(plan) => Ok(*plan),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Lets copies be moved from full chunkservers to emptier ones, or not; runs once.
    ///
    /// # Errors
    /// If no leader answers, or this key may not.
    pub async fn set_balance(&self, runs: bool) -> Result<(), Error> {
        let answer = self.inner.masters.command(Op::SetBalance { runs }).await;
        let what = if runs {
            "cannot start balance"
        } else {
            "cannot stop balance"
        };
        answer.map(drop).context(|| what)
    }
}
