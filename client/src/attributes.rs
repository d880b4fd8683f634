//! Owner, group and extended attributes.

use gabion_protocol::FsPath;
use gabion_protocol::messages::master::{AttributeChange, Attributes, Entry, Op, Query, Response};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// Who what is at a path belongs to, and its extended attributes: of a link at its end, those of the link itself.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub async fn attributes(&self, path: &FsPath) -> Result<Attributes, Error> {
        let what = || format!("cannot read the attributes of {path}");
        let query = Query::Attributes { path: path.clone() };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Attributes(attributes) => Ok(attributes),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Changes owner, group or an extended attribute of what a path leads to.
    ///
    /// # Errors
    /// Why not.
    pub async fn change_attributes(&self, path: &FsPath, change: AttributeChange) -> Result<Entry, Error> {
        let what = || format!("cannot change {path}");
        let op = Op::ChangeAttributes {
            path: path.clone(),
            change,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }
}
