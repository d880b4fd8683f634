//! Symbolic links. Reading and writing follow them, as on any file system; what names a link itself is here, and
//! [`Client::stat`], [`Client::rename`], [`Client::remove`] and [`Client::trash`], which follow none at a path's end.

use gabion_protocol::FsPath;
use gabion_protocol::limits::LINKS_MAX;
use gabion_protocol::messages::master::{Entry, LinkChange, Op, Query, Response};
use gabion_protocol::{ErrorCode, WireError};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, CreateOptions, Error};

/// How a link appears.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkOptions {
    /// Whether an existing file or link may be replaced.
    pub replace: bool,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Modification time to show, milliseconds since 1970; now if `None`.
    pub modified_ms: Option<i64>,
}

/// What is told of a link itself. `None` leaves what is there.
#[derive(Debug, Clone, Default)]
pub struct LinkTold {
    /// Modification time, milliseconds since 1970.
    pub modified_ms: Option<i64>,
    /// Owner, a name or number; empty for none.
    pub owner: Option<String>,
    /// Group, a name or number; empty for none.
    pub group: Option<String>,
}

impl Client {
    /// Makes `path` stand for `target`, which is absolute or begins at the link's directory. Nothing need be there.
    ///
    /// # Errors
    /// Why not.
    pub async fn link(&self, target: &str, path: &FsPath, options: LinkOptions) -> Result<Entry, Error> {
        let what = || format!("cannot make the link {path}");
        let change = LinkChange::Make {
            path: path.clone(),
            target: target.to_owned(),
            replace: options.replace,
            parents: options.parents,
            modified_ms: options.modified_ms,
        };
        match self.inner.masters.command(Op::Link(change)).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// What a link stands for, as its maker wrote it.
    ///
    /// # Errors
    /// Why it cannot be told; [`ErrorCode::InvalidArgument`] if it is no link.
    pub async fn read_link(&self, path: &FsPath) -> Result<String, Error> {
        let entry = self.stat(path).await?;
        entry.target().map(str::to_owned).ok_or_else(|| {
            let message = format!("cannot read the link {path}: it is none");
            WireError::new(ErrorCode::InvalidArgument, message).into()
        })
    }

    /// Where a path leads when every link is followed, also one at its end: a path without links, and what is there.
    ///
    /// # Errors
    /// Why it cannot be told, also if there is nothing.
    pub async fn resolve(&self, path: &FsPath) -> Result<(FsPath, Entry), Error> {
        let what = || format!("cannot find {path}");
        let query = Query::Resolve { path: path.clone() };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Resolved { path, entry } => Ok((path, entry)),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Makes an empty file where a path leads, also if a link at its end leads to nothing yet, unless something is there
    /// already, which stays as it is. Whether it made one.
    ///
    /// # Errors
    /// Why not.
    pub async fn create_missing(&self, path: &FsPath, options: CreateOptions) -> Result<bool, Error> {
        let options = CreateOptions {
            replace: false,
            ..options
        };
        let what = || format!("cannot make {path}");
        let mut at = path.clone();
        // Who makes or changes a link there meanwhile costs another turn.
        for _ in 0..=LINKS_MAX {
            match self.create_empty(&at, options.clone()).await {
                Ok(_) => return Ok(true),
                Err(error) if error.code() == ErrorCode::Exists => {}
                Err(error) => return Err(error),
            }
            let query = Query::Place { path: path.clone() };
            match self.inner.masters.query(query).await.context(what)? {
                Response::Place { taken: true, .. } => return Ok(false),
                Response::Place { path, taken: false } => at = path,
                _ => return Err(unexpected()).context(what),
            }
        }
        Err(WireError::new(
            ErrorCode::Conflict,
            "others make and remove it all the time",
        ))
        .context(what)
    }

    /// Changes what is told of what a path names: of a link itself, where [`Client::set_attributes`] and
    /// [`Client::change_attributes`] follow it.
    ///
    /// # Errors
    /// Why not.
    pub async fn tell_link(&self, path: &FsPath, told: LinkTold) -> Result<Entry, Error> {
        let what = || format!("cannot change {path}");
        let change = LinkChange::Tell {
            path: path.clone(),
            modified_ms: told.modified_ms,
            owner: told.owner,
            group: told.group,
        };
        match self.inner.masters.command(Op::Link(change)).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }
}
