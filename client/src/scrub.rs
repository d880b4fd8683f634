//! Scrubs, as operators begin and watch them.

use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::{Admin, Response, ServerScrub};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::random;
use crate::{Client, Error};

/// Which servers have begun a scrub pass that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubStarted {
    /// These have: it is on their disks, and goes on whatever happens to the masters.
    pub begun: Vec<ServerId>,
    /// These have not said so yet. The leader repeats the order for as long as it leads.
    pub waiting: Vec<ServerId>,
}

impl Client {
    /// Makes chunkservers, all if none is named, begin to read all their copies again now.
    ///
    /// # Errors
    /// Why not. Whether servers have begun then shows in [`Self::scrub_status`].
    pub async fn start_scrub(&self, servers: &[ServerId]) -> Result<ScrubStarted, Error> {
        let what = || "cannot begin a scrub";
        let request = Admin::StartScrub {
            // Drawn once: asked of another leader it is still the same pass.
            request: random().max(1),
            servers: servers.to_vec(),
        };
        match self.inner.masters.admin(request).await.context(what)? {
            Response::ScrubStarted { begun, waiting } => Ok(ScrubStarted { begun, waiting }),
            _ => Err(unexpected()).context(what),
        }
    }

    /// How far every server's scrub is.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn scrub_status(&self) -> Result<Vec<ServerScrub>, Error> {
        let what = || "cannot read how far scrubs are";
        match self.inner.masters.admin(Admin::ScrubStatus).await.context(what)? {
            Response::ScrubStatus(servers) => Ok(servers),
            _ => Err(unexpected()).context(what),
        }
    }
}
