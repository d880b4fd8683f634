//! Quotas: how much a directory may hold with all below it.

use gabion_protocol::FsPath;
use gabion_protocol::messages::master::{Op, Query, QuotaChange, QuotaReport, Response};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// Sets the quota of a directory, or takes it away. What the directory holds already stays, also if that is more: it
    /// cannot grow then. With an operator's key only.
    ///
    /// # Errors
    /// Why not.
    pub async fn set_quota(&self, directory: &FsPath, change: QuotaChange) -> Result<(), Error> {
        let what = || format!("cannot change the quota of {directory}");
        let op = Op::SetQuota {
            path: directory.clone(),
            change,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Done => Ok(()),
            _ => Err(unexpected()).context(what),
        }
    }

    /// The quota of a directory, what is used and reserved of it, and the quotas above, which count as well.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub async fn quota(&self, directory: &FsPath) -> Result<QuotaReport, Error> {
        let what = || format!("cannot tell the quota of {directory}");
        let query = Query::Quota {
            path: directory.clone(),
        };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Quota(report) => Ok(report),
            _ => Err(unexpected()).context(what),
        }
    }
}
