//! The client: one handle to a cluster, and what can be asked of its names.

use std::sync::Arc;

use bytes::Bytes;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::{Incarnation, MasterId, ServerId};
use gabion_protocol::keys::Role;
use gabion_protocol::limits::LIST_PAGE_MAX;
use gabion_protocol::messages::master::{ChunkInfo, Defaults, Entry, Extent, Op, Page, Query, Response};
use gabion_protocol::net::Dialer;
use gabion_protocol::{ChunkId, ErrorCode, FsPath, WireError};

use crate::error::Context as _;
use crate::masters::Masters;
use crate::read::FileReader;
use crate::servers::Servers;
use crate::write::{CreateOptions, FileWriter, Gatherings, ResumedUpload, Stocks, Uploads};
use crate::{Config, Error};

/// A handle to a cluster. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones and all open files share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) masters: Masters,
    pub(crate) servers: Servers,
    pub(crate) uploads: Uploads,
    pub(crate) stocks: Stocks,
    pub(crate) gatherings: Gatherings,
}

/// What a removal took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// A master answered something else than was asked.
pub(crate) fn unexpected() -> WireError {
    WireError::new(ErrorCode::Protocol, "a master answered a different question")
        .help("update the older of the two programs, or report this as a defect")
}

impl Client {
    /// Connects to the cluster and opens a session.
    ///
    /// # Errors
    /// Why no master takes us, after [`Config::wait`] unless waiting cannot help.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let identity = config.identity()?;
        let dialer = Dialer {
            cluster: config.key.cluster,
            identity,
            boot: 0,
            incarnation: Incarnation::random(),
            key: config.key.key.clone(),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: None,
            },
        };
        let inner = Arc::new(Inner {
            masters: Masters::new(&config.masters, dialer.clone(), config.wait),
            servers: Servers::new(dialer),
            uploads: Uploads::default(),
            stocks: Stocks::default(),
            gatherings: Gatherings::default(),
            config,
        });
        inner
            .masters
            .session()
            .await
            .context(|| "cannot connect to the cluster")?;
        Uploads::keep_alive(&inner);
        Ok(Self { inner })
    }

    /// The cluster's defaults for new files.
    ///
    /// # Errors
    /// If no master answers.
    pub async fn defaults(&self) -> Result<Defaults, Error> {
        let session = self.inner.masters.session().await;
        Ok(session.context(|| "cannot read the cluster's defaults")?.defaults())
    }

    /// The masters and their client addresses, as last told by one of them.
    #[must_use]
    pub fn masters(&self) -> Vec<(MasterId, String)> {
        self.inner.masters.known()
    }

    /// A chunkserver's name and address if this client has met it, else its number.
    #[must_use]
    pub fn server_label(&self, server: ServerId) -> String {
        self.inner.servers.label(server)
    }

    /// Makes a directory; with `parents`, also those above, and an existing directory is fine.
    ///
    /// # Errors
    /// Why not.
    pub async fn mkdir(&self, path: &FsPath, parents: bool, mode: u32) -> Result<Entry, Error> {
        let op = Op::Mkdir {
            path: path.clone(),
            parents,
            mode,
        };
        let what = || format!("cannot make the directory {path}");
        match self.inner.masters.command(op).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// What is at a path: of a symbolic link at its end, the link itself. [`Client::resolve`] follows it.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub async fn stat(&self, path: &FsPath) -> Result<Entry, Error> {
        let what = || format!("cannot stat {path}");
        let query = Query::Stat { path: path.clone() };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// A page of the directory a path leads to, in name order: at most `limit` names after `after`.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub async fn list(&self, path: &FsPath, after: Option<&str>, limit: u32) -> Result<Page, Error> {
        let what = || format!("cannot list {path}");
        let query = Query::List {
            path: path.clone(),
            after: after.map(str::to_owned),
            limit,
        };
        match self.inner.masters.query(query).await.context(what)? {
            Response::Page(page) => Ok(page),
            _ => Err(unexpected()).context(what),
        }
    }

    /// All entries of a directory in name order. Each page is of one moment; the whole is not.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub async fn list_all(&self, path: &FsPath) -> Result<Vec<Entry>, Error> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.name.clone());
            let mut page = self.list(path, after.as_deref(), LIST_PAGE_MAX as u32).await?;
            let more = page.more && !page.entries.is_empty();
            all.append(&mut page.entries);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Renames a file or directory; with `replace`, a file (or an empty directory, by a directory) may give way.
    ///
    /// # Errors
    /// Why not.
    pub async fn rename(&self, from: &FsPath, to: &FsPath, replace: bool) -> Result<Entry, Error> {
        let what = || format!("cannot rename {from} to {to}");
        let op = Op::Rename {
            from: from.clone(),
            to: to.clone(),
            replace,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Removes a file, directory or link for good; with `recursive`, a directory goes with all it holds. [`Client::trash`]
    /// can be undone.
    ///
    /// # Errors
    /// Why not.
    pub async fn remove(&self, path: &FsPath, recursive: bool) -> Result<Removed, Error> {
        let what = || format!("cannot remove {path}");
        let op = Op::Remove {
            path: path.clone(),
            recursive,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Removed {
                files,
                directories,
                bytes,
            } => Ok(Removed {
                files,
                directories,
                bytes,
            }),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Changes the permission bits or the modification time of what a path leads to; `None` leaves what is there.
    ///
    /// # Errors
    /// Why not.
    pub async fn set_attributes(
        &self,
        path: &FsPath,
        mode: Option<u32>,
        modified_ms: Option<i64>,
    ) -> Result<Entry, Error> {
        let what = || format!("cannot change {path}");
        let op = Op::SetAttributes {
            path: path.clone(),
            mode,
            modified_ms,
        };
        match self.inner.masters.command(op).await.context(what)? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Begins a file. It appears when [`FileWriter::finish`] succeeds, and not before. One that may replace another goes
    /// where a link at `path` leads, also if nothing is there yet; one that must be new is refused where a link is.
    ///
    /// # Errors
    /// Why not; with too few chunkservers, after [`Config::wait`].
    pub async fn create(&self, path: &FsPath, options: CreateOptions) -> Result<FileWriter, Error> {
        FileWriter::create(&self.inner, path, options).await
    }

    /// Makes an empty file, in one step.
    ///
    /// # Errors
    /// Why not.
    pub async fn create_empty(&self, path: &FsPath, options: CreateOptions) -> Result<Entry, Error> {
        crate::write::create_empty(&self.inner, path, options.into()).await
    }

    /// Uploads `length` bytes of a local file from its beginning, calling `progress` with the bytes stored so far.
    /// What has to be sent again is read again, so that memory stays small.
    ///
    /// # Errors
    /// Why not, also if the local file ends before `length`. The upload is then given up; nothing appears.
    pub async fn upload_file(
        &self,
        path: &FsPath,
        options: CreateOptions,
        file: std::fs::File,
        length: u64,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Entry, Error> {
        crate::write::upload_file(&self.inner, path, options, file, length, Box::new(progress)).await
    }

    /// As [`Client::upload_file`], and goes on where an earlier call with the same key for the same path failed or was
    /// killed, if the local file begins with what was stored: at most the chunks in flight are sent again. After a failure
    /// what is stored is kept for a day ([`gabion_protocol::limits::RESUME_MS`]). A client that still uploads to the path
    /// in this way is refused from now on.
    ///
    /// # Errors
    /// Why not.
    pub async fn resume_upload(
        &self,
        path: &FsPath,
        options: CreateOptions,
        file: std::fs::File,
        length: u64,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(Entry, ResumedUpload), Error> {
        crate::write::resume_file(&self.inner, path, options, file, length, Box::new(progress)).await
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(&self, path: &FsPath) -> Result<FileReader, Error> {
        FileReader::open(&self.inner, path).await
    }

    /// Reads a whole file into memory: for small files.
    ///
    /// # Errors
    /// Why not.
    pub async fn read(&self, path: &FsPath) -> Result<Bytes, Error> {
        let file = self.open(path).await?;
        let length = file.entry().length;
        file.read_at(0, length).await
    }

    /// A file and where all its bytes are.
    ///
    /// # Errors
    /// Why not.
    pub async fn locate(&self, path: &FsPath) -> Result<(Entry, Vec<Extent>), Error> {
        self.open(path).await?.all_extents().await
    }

    /// One chunk's row.
    ///
    /// # Errors
    /// Why not.
    pub async fn chunk(&self, chunk: ChunkId) -> Result<ChunkInfo, Error> {
        let what = || format!("cannot look up chunk {chunk}");
        match self.inner.masters.query(Query::Chunk { chunk }).await.context(what)? {
            Response::Chunk(info) => Ok(info),
            _ => Err(unexpected()).context(what),
        }
    }
}
