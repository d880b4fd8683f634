//! One master as a client reaches it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::WireError;
use gabion_protocol::frame::Kind;
use gabion_protocol::ids::MasterId;
use gabion_protocol::messages::master::{Request, Response};
use gabion_protocol::net::Dialer;

use crate::link::Link;

/// An address, and the connection to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: String,
    id: OnceLock<MasterId>,
    link: Link,
    connected: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            id: OnceLock::new(),
            link: Link::default(),
            connected: AtomicBool::new(false),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> Option<MasterId> {
        self.id.get().copied()
    }

    pub(super) fn learn_id(&self, id: MasterId) {
        let _ = self.id.set(id);
    }

    /// For people: `m1 127.0.0.1:7001`.
    pub(super) fn label(&self) -> String {
        self.id()
            .map_or_else(|| self.address.clone(), |id| format!("m{id} {}", self.address))
    }

    /// Whether its last greeting succeeded.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.link.close();
    }

    /// Sends one request and waits for its answer.
    pub(super) async fn ask(
        &self,
        dialer: &Dialer,
        request: &Request,
        deadline: Duration,
    ) -> Result<Response, WireError> {
        let connection = self.link.connection(&self.address, || dialer.clone()).await;
        self.connected.store(connection.is_ok(), Ordering::Relaxed);
        let connection = connection?;
        if let Ok(id) = connection.peer().introduction.identity.id.parse() {
            self.learn_id(id);
        }
        let (answer, _) = connection
            .call(Kind::MasterRequest, request, Bytes::new(), deadline)
            .await?;
        Ok(answer)
    }
}
