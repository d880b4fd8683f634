//! Copies of whole directories by reference. No byte is moved; what is copied is of one moment, and appears in one step.

use std::sync::Arc;

use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{Entry, Op, Response, TreeCopy, TreeProgress};
use gabion_protocol::{FsPath, WireError};

use crate::client::{Inner, unexpected};
use crate::error::Context as _;
use crate::masters::Session;
use crate::{Client, CopyOptions, Error};

/// A directory's copy under way. Nobody sees anything of it before its last step. Dropped before that, it is given up; if
/// the whole client is gone, the masters take it apart when its lease has ended.
#[derive(Debug)]
#[must_use = "a copy that is not finished does not appear"]
pub struct TreeCopier {
    inner: Arc<Inner>,
    session: Arc<Session>,
    source: FsPath,
    to: FsPath,
    progress: TreeProgress,
    is_over: bool,
}

impl Client {
    /// Makes a copy of a directory with all it holds, as it is at this moment: files share the chunks of the originals, and
    /// later changes to one do not show in the other.
    ///
    /// # Errors
    /// Why not; nothing appears then.
    pub async fn copy_tree(&self, source: &FsPath, to: &FsPath, options: CopyOptions) -> Result<Entry, Error> {
        let mut copier = self.begin_tree_copy(source, to, options).await?;
        loop {
            match copier.step().await {
                Ok(Some(entry)) => return Ok(entry),
                Ok(None) => {}
                Err(error) => {
                    // It would end by itself when its lease does, too.
                    let _ = copier.abort().await;
                    return Err(error);
                }
            }
        }
    }

    /// Begins such a copy, which is then made step by step. [`CopyOptions::replace`] counts for nothing: no directory is
    /// replaced.
    ///
    /// # Errors
    /// Why not.
    pub async fn begin_tree_copy(
        &self,
        source: &FsPath,
        to: &FsPath,
        options: CopyOptions,
    ) -> Result<TreeCopier, Error> {
        let what = || format!("cannot copy {source} to {to}");
        let session = self.inner.masters.session().await.context(what)?;
        let begin = Op::CopyTree(TreeCopy::Begin {
            source: source.clone(),
            to: to.clone(),
            parents: options.parents,
            keep_times: options.keep_time,
        });
        match self.inner.masters.command_in(&session, begin).await.context(what)? {
            Response::TreeCopied(progress) => {
                self.inner.uploads.keep(progress.copy, progress.generation, &session);
                Ok(TreeCopier {
                    inner: Arc::clone(&self.inner),
                    session,
                    source: source.clone(),
                    to: to.clone(),
                    progress,
                    is_over: false,
                })
            }
            _ => Err(unexpected()).context(what),
        }
    }
}

impl TreeCopier {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> &TreeProgress {
        &self.progress
    }

    /// Copies some thousand entries more; the copy once it has appeared.
    ///
    /// # Errors
    /// Why not.
    pub async fn step(&mut self) -> Result<Option<Entry>, Error> {
        let what = || format!("cannot copy {} to {}", self.source, self.to);
        let op = Op::CopyTree(TreeCopy::GoOn {
            copy: self.progress.copy,
            generation: self.progress.generation,
            limit: BATCH_ROWS_MAX as u32,
        });
        match self.inner.masters.command_in(&self.session, op).await.context(what)? {
            Response::TreeCopied(progress) => {
                self.is_over = progress.entry.is_some();
                self.progress = progress;
            }
            _ => return Err(unexpected()).context(what),
        }
        Ok(self.progress.entry.clone())
    }

    /// Gives it up: what was copied goes.
    ///
    /// # Errors
    /// If the masters cannot be told; they find out when the copy's lease ends.
    pub async fn abort(mut self) -> Result<(), Error> {
        self.is_over = true;
        self.inner.uploads.close(self.progress.copy);
        let aborted = abort(&self.inner, &self.session, &self.progress).await;
        aborted.context(|| format!("cannot give up the copy of {}", self.source))
    }
}

async fn abort(inner: &Inner, session: &Arc<Session>, progress: &TreeProgress) -> Result<(), WireError> {
    let op = Op::AbortUpload {
        upload: progress.copy,
        generation: progress.generation,
    };
    inner.masters.command_in(session, op).await.map(drop)
}

impl Drop for TreeCopier {
    fn drop(&mut self) {
        self.inner.uploads.close(self.progress.copy);
        if self.is_over {
            return;
        }
        // Best effort: the lease ends it anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (inner, session, progress) = (
                Arc::clone(&self.inner),
                Arc::clone(&self.session),
                self.progress.clone(),
            );
            runtime.spawn(async move { abort(&inner, &session, &progress).await });
        }
    }
}
