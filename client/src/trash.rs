//! The trash: removals that can be undone for a while.

use std::time::Duration;

use gabion_protocol::limits::{BATCH_ROWS_MAX, LIST_PAGE_MAX};
use gabion_protocol::messages::master::{
    Entry, Op, Query, Response, TrashAfter, TrashEntry, TrashId, TrashPage, TrashRef,
};
use gabion_protocol::{FsPath, Ino};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error, Removed};

/// What a removal took away, and how it can be had back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trashed {
    /// What is gone from the names.
    pub removed: Removed,
    /// Its number in the trash; `None` if the cluster keeps none, and it is gone for good.
    pub id: Option<Ino>,
    /// How long it can be restored.
    pub keep: Duration,
}

impl Client {
    /// Moves a file or directory to the trash; with `recursive`, a directory goes with all it holds, in one step
    /// whatever that is. Where the cluster keeps no trash, it is removed for good.
    ///
    /// # Errors
    /// Why not.
    pub async fn trash(&self, path: &FsPath, recursive: bool) -> Result<Trashed, Error> {
        let what = || format!("cannot remove {path}");
        let op = Op::MoveToTrash {
            path: path.clone(),
            recursive,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Trashed {
                ino,
                files,
                directories,
                bytes,
                keep_ms,
            } => Ok(Trashed {
                removed: Removed {
                    files,
                    directories,
                    bytes,
                },
                id: Some(ino),
                keep: Duration::from_millis(keep_ms),
            }),
            Response::Removed {
                files,
                directories,
                bytes,
            } => Ok(Trashed {
                removed: Removed {
                    files,
                    directories,
                    bytes,
                },
                id: None,
                keep: Duration::ZERO,
            }),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Takes a file or whole tree back out of the trash, in one step: to where it was, or to `to`.
    ///
    /// # Errors
    /// Why not: it is not there (any more), the directory it was in is gone, or its name is taken.
    pub async fn restore(&self, from: &TrashRef, to: Option<&FsPath>) -> Result<Entry, Error> {
        let what = || format!("cannot restore {from}");
        let op = Op::Restore {
            what: from.clone(),
            to: to.cloned(),
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// A page of the trash, what goes first in front: at most `limit` entries after `after`.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub async fn trash_page(&self, after: Option<TrashAfter>, limit: u32) -> Result<TrashPage, Error> {
        let what = || "cannot list the trash".to_owned();
        let query = Query::Trash { after, limit };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Trash(page) => Ok(page),
            _ => Err(unexpected()).context(what),
        }
    }

    /// All of the trash, with the terms and totals of the last page. Each page is of one moment; the whole is not.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub async fn trash_all(&self) -> Result<TrashPage, Error> {
        let mut entries: Vec<TrashEntry> = Vec::new();
        loop {
            let after = entries.last().map(|last| TrashAfter {
                goes: last.goes,
                ino: last.id.ino,
            });
            let mut page = self.trash_page(after, LIST_PAGE_MAX as u32).await?;
            // A page without entries is the end, whatever it says of more.
            let more = page.more && !page.entries.is_empty();
            entries.append(&mut page.entries);
            if !more {
                return Ok(TrashPage { entries, ..page });
            }
        }
    }

    /// One thing in the trash.
    ///
    /// # Errors
    /// Also if it is not there.
    pub async fn trash_entry(&self, of: &TrashRef) -> Result<TrashEntry, Error> {
        let what = || format!("cannot find {of} in the trash");
        let query = Query::Trashed { what: of.clone() };
        match self.inner.masters.query(query).await.context(what)? {
            Response::TrashEntry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Removes things in the trash for good. Those that are there no more are passed over, and so is what was restored
    /// and removed again since it was listed.
    ///
    /// # Errors
    /// Why not; what was done until then is done.
    pub async fn empty_trash(&self, entries: &[TrashId]) -> Result<Removed, Error> {
        let what = || "cannot empty the trash".to_owned();
        let mut removed = Removed::default();
        for batch in entries.chunks(BATCH_ROWS_MAX) {
            let op = Op::EmptyTrash {
                entries: batch.to_vec(),
            };
            match self.inner.masters.command(op).await.context(what)? {
                Response::Removed {
                    files,
                    directories,
                    bytes,
                } => {
                    removed.files += files;
                    removed.directories += directories;
                    removed.bytes += bytes;
                }
                _ => return Err(unexpected()).context(what),
            }
        }
        Ok(removed)
    }
}
