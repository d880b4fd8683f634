//! What chunkservers hold, compared with what the masters know, as operators see it.

use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::{Admin, Response, ServerInventory};

use crate::client::unexpected;
use crate::error::Context as _;
use crate::{Client, Error};

impl Client {
    /// Every server's inventory, as the leader has it.
    ///
    /// # Errors
    /// If no leader answers.
    pub async fn inventories(&self) -> Result<Vec<ServerInventory>, Error> {
        let what = || "cannot read what the chunkservers hold";
        match self.inner.masters.admin(Admin::InventoryStatus).await.context(what)? {
            Response::Inventories(servers) => Ok(servers),
            _ => Err(unexpected()).context(what),
        }
    }

    /// Accepts that so many of a server's copies are unknown to the masters: they may be removed when their time is over.
    ///
    /// # Errors
    /// Why not.
    pub async fn accept_unknown(&self, server: ServerId) -> Result<(), Error> {
        let what = || format!("cannot accept the unknown copies of c{server}");
        let request = Admin::AcceptUnknown { server };
        self.inner.masters.admin(request).await.context(what).map(drop)
    }
}
