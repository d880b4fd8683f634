//! Connections to other chunkservers, for the next hop of a chain: one per server, shared by all streams.
//!
//! The address comes from the masters together with the ticket, never from the writer: a client cannot make this
//! server connect anywhere it likes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::hello::Target;
use gabion_protocol::keys::{Role, unwrap_connection_key};
use gabion_protocol::messages::master::ServerAccess;
use gabion_protocol::net::{Connection, Dialer, dial};
use gabion_protocol::{ErrorCode, ServerId, WireError};
use parking_lot::Mutex;

use crate::masters::Masters;

/// Longest wait for a connection to the next hop: the writer gives up a silent hop earlier.
const DIAL: Duration = Duration::from_secs(2);
/// A ticket is not used for a new connection this shortly before it expires.
const MARGIN_MS: u64 = 60_000;
/// Servers known at one time.
const PEERS_MAX: usize = 4096;

/// Connections to other chunkservers.
#[derive(Debug, Clone)]
pub struct Peers {
    masters: Masters,
    slots: Arc<Mutex<HashMap<ServerId, Arc<tokio::sync::Mutex<Slot>>>>>,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    access: Option<ServerAccess>,
}

impl Peers {
    /// No connections yet.
    #[must_use]
    pub fn new(masters: Masters) -> Self {
        Self {
            masters,
            slots: Arc::default(),
        }
    }

    /// A live connection to `server`.
    ///
    /// # Errors
    /// [`WireError`] of the masters or the server.
    pub async fn connection(&self, server: ServerId) -> Result<Connection, WireError> {
        self.connection_with(server, None).await
    }

    /// A live connection to the server a master has just told how to reach.
    ///
    /// # Errors
    /// [`WireError`] of the server.
    pub async fn connection_by(&self, access: &ServerAccess) -> Result<Connection, WireError> {
        self.connection_with(access.server, Some(access)).await
    }

    async fn connection_with(&self, server: ServerId, told: Option<&ServerAccess>) -> Result<Connection, WireError> {
        let slot = {
            let mut slots = self.slots.lock();
            if slots.len() >= PEERS_MAX && !slots.contains_key(&server) {
                return Err(WireError::new(
                    ErrorCode::Busy,
                    "this chunkserver is connected to too many others",
                ));
            }
            Arc::clone(slots.entry(server).or_default())
        };
        // One dials, the others wait for its connection.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let kept = slot.access.take().filter(|access| self.is_fresh(access));
        let access = match told.cloned().or(kept) {
            Some(access) => access,
            None => self.masters.access(server).await?,
        };
        // Kept only if it works: an address may have changed, a key may have been replaced.
        let connection = self.dial(&access).await?;
        slot.access = Some(access);
        slot.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Takes note of how talking to `server` over `connection` failed: after a time-out the next caller dials anew, for
    /// the connection may lead to a machine that is gone. Streams that run on it keep it.
    pub fn note(&self, server: ServerId, connection: &Connection, error: &WireError) {
        if error.code != ErrorCode::Timeout {
            return;
        }
        let slot = self.slots.lock().get(&server).cloned();
        // Whoever holds the slot is dialing anew already.
        if let Some(mut slot) = slot.as_ref().and_then(|slot| slot.try_lock().ok())
            && slot.connection.as_ref().is_some_and(|kept| kept.is_same(connection))
        {
            slot.connection = None;
        }
    }

    fn is_fresh(&self, access: &ServerAccess) -> bool {
        self.masters
            .standing()
            .is_ok_and(|(_, now)| now.plus(MARGIN_MS) < access.ticket.expires)
    }

    async fn dial(&self, access: &ServerAccess) -> Result<Connection, WireError> {
        let own = self.masters.dialer();
        let dialer = Dialer {
            key: unwrap_connection_key(&own.key, &access.ticket, &access.wrapped_key),
            ticket: Some(access.ticket.clone()),
            target: Target {
                role: Role::Chunkserver,
                id: Some(access.name.clone()),
            },
            ..own.clone()
        };
        dial(&access.address, &dialer, DIAL).await
    }
}
