//! Snapshots: what a directory held at a moment, read at `DIRECTORY/.snapshot/NAME/…`.

use gabion_protocol::FsPath;
use gabion_protocol::limits::{LIST_PAGE_MAX, SNAPSHOT_DIRECTORY};
use gabion_protocol::messages::master::{Op, Query, Response, SnapshotAfter, SnapshotInfo};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// Makes a snapshot of a directory, at once however much it holds. Nothing that happens later shows in it.
    ///
    /// # Errors
    /// Why not: the name is taken, or there are too many snapshots.
    pub async fn create_snapshot(&self, directory: &FsPath, name: &str) -> Result<SnapshotInfo, Error> {
        let what = || format!("cannot make the snapshot {directory}@{name}");
        let op = Op::CreateSnapshot {
            path: directory.clone(),
            name: name.to_owned(),
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Snapshot(info) => Ok(info),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Removes a snapshot. The space that only it took comes back within a while.
    ///
    /// # Errors
    /// Why not.
    pub async fn remove_snapshot(&self, directory: &FsPath, name: &str) -> Result<(), Error> {
        let what = || format!("cannot remove the snapshot {directory}@{name}");
        let op = Op::RemoveSnapshot {
            path: directory.clone(),
            name: name.to_owned(),
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Done => Ok(()),
            _ => Err(unexpected()).context(what),
        }
    }

    /// The snapshots of a directory, or of all of them.
    ///
    /// # Errors
    /// Why they cannot be listed.
    pub async fn snapshots(&self, directory: Option<&FsPath>) -> Result<Vec<SnapshotInfo>, Error> {
        let what = || match directory {
            Some(directory) => format!("cannot list the snapshots of {directory}"),
            None => "cannot list the snapshots".to_owned(),
        };
        let mut all: Vec<SnapshotInfo> = Vec::new();
        loop {
            let query = Query::Snapshots {
                path: directory.cloned(),
                after: all.last().map(|last| SnapshotAfter {
                    root: last.root,
                    name: last.name.clone(),
                }),
                limit: LIST_PAGE_MAX as u32,
            };
            let Response::Snapshots(mut page) = self.inner.masters.query(query).await.context(what)? else {
                return Err(unexpected()).context(what);
            };
            let more = page.more && !page.snapshots.is_empty();
            all.append(&mut page.snapshots);
            if !more {
                return Ok(all);
            }
        }
    }
}

/// Where what a snapshot shows is read.
///
/// # Errors
/// The path would be too long.
pub fn snapshot_path(directory: &FsPath, name: &str) -> Result<FsPath, Error> {
    Ok(directory.join(SNAPSHOT_DIRECTORY)?.join(name)?)
}
