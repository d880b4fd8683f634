//! What every verb needs: the cluster, how much to say, and whether the user has stopped the command.

use gabion_client::terminal::Failure;
use gabion_client::{Client, Config, Settings};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};
use tokio_util::sync::CancellationToken;

use crate::args::Connection;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) quiet: bool,
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// Finds the configuration and the cluster.
    pub(crate) async fn connect(connection: &Connection, stop: CancellationToken) -> Result<Self, Failure> {
        let config = Config::with_settings(Settings {
            masters: (!connection.masters.is_empty()).then(|| connection.masters.clone()),
            key_file: connection.key_file.clone(),
            wait: connection.wait.map(|wait| wait.0),
        })?;
        Ok(Self {
            client: Client::connect(config).await?,
            quiet: connection.quiet,
            stop,
        })
    }

    /// What `path` leads to, every link followed; `None` if to nothing.
    pub(crate) async fn find(&self, path: &FsPath) -> Result<Option<Entry>, Failure> {
        match self.client.resolve(path).await {
            Ok((_, entry)) => Ok(Some(entry)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is at `path`, which may be a link; below a file there is nothing, too.
    pub(crate) async fn find_or_nothing(&self, path: &FsPath) -> Result<Option<Entry>, Failure> {
        match self.client.stat(path).await {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotDirectory) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says a line on standard error, unless the user wants to hear of errors only.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}
