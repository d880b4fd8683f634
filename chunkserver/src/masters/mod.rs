//! What this server says to the masters and hears from them: registration, heartbeats, orders, state time, and how to
//! reach other servers.
//!
//! One task per master keeps a connection and beats on it, so a hung master delays nobody's beats but its own, and a
//! new leader already knows us. The configured masters are where this begins; every answer names all masters, so one
//! that was added since is beaten on as well. Orders come with beats' answers and are carried out by one worker.
//!
//! Invariants: an order is obeyed only if its epoch is at least the highest ever seen, and that epoch is durable
//! before anything is dropped; a confirmation is repeated until a leader has answered a beat that carried it.

mod beats;
mod clock;
mod disks;
mod inventory;
mod recheck;
mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::keys::Key;
use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{Request, Response, ServerAccess};
use gabion_protocol::net::{Connection, Dialer};
use gabion_protocol::{ChunkId, Epoch, ErrorCode, ReplicaNumber, ServerId, StateTime, WireError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::disk::Store;
use crate::repair::Copies;
use crate::scrub::Board;

pub use clock::StateClock;

/// How long a master may take to answer before another is asked.
const ANSWER: Duration = Duration::from_secs(2);

/// How this server talks to the masters.
#[derive(Debug, Clone)]
pub struct MastersOptions {
    /// Client addresses.
    pub addresses: Vec<String>,
    /// How to dial them.
    pub dialer: Dialer,
    /// Where others reach this server.
    pub advertise: String,
    /// Its rack.
    pub rack: String,
}

/// The masters as this server knows them; clones share it.
#[derive(Debug, Clone)]
pub struct Masters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: MastersOptions,
    store: Store,
    clock: StateClock,
    /// This server's number, once a master confirmed it in this run.
    server: watch::Sender<Option<ServerId>>,
    /// Addresses of masters as the masters tell them, beside those of the configuration.
    told: watch::Sender<BTreeSet<String>>,
    /// Live connections by address.
    connections: Mutex<BTreeMap<String, Connection>>,
    /// The highest epoch obeyed, as it is on disk.
    epoch: Mutex<Epoch>,
    /// Held while an epoch is made durable.
    accepting: tokio::sync::Mutex<()>,
    /// Answers of overruled leaders that were not obeyed.
    refused: std::sync::atomic::AtomicU64,
    /// Drops carried out that no leader has acknowledged yet; a master's batch at most.
    done: Mutex<BTreeSet<(ChunkId, ReplicaNumber)>>,
    copies: Copies,
    streams: Arc<std::sync::atomic::AtomicU32>,
    recheck: recheck::Recheck,
    scrub: Board,
}

impl Masters {
    /// Prepares; [`Masters::run`] starts talking.
    ///
    /// # Errors
    /// [`WireError`] if the store cannot tell the epoch it has seen.
    pub async fn new(
        options: MastersOptions,
        store: Store,
        streams: Arc<std::sync::atomic::AtomicU32>,
    ) -> Result<Self, WireError> {
        let epoch = store.epoch().await.map_err(|e| e.to_wire())?;
        Ok(Self(Arc::new(Inner {
            options,
            store,
            clock: StateClock::default(),
            server: watch::Sender::new(None),
            told: watch::Sender::default(),
            connections: Mutex::default(),
            epoch: Mutex::new(epoch),
            accepting: tokio::sync::Mutex::default(),
            refused: std::sync::atomic::AtomicU64::new(0),
            done: Mutex::default(),
            copies: Copies::default(),
            streams,
            recheck: recheck::Recheck::default(),
            scrub: Board::default(),
        })))
    }

    /// This server's number, once the masters have confirmed it.
    #[must_use]
    pub fn server(&self) -> Option<ServerId> {
        *self.0.server.borrow()
    }

    /// Waits until the masters have confirmed this server's number and told the time.
    pub async fn ready(&self) -> ServerId {
        let mut server = self.0.server.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let known = server.wait_for(Option::is_some).await.ok().and_then(|known| *known);
        self.0.clock.known().await;
        known.unwrap_or_default()
    }

    /// This server's number and the state time, which every check of a right needs.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] before the masters have said both.
    pub fn standing(&self) -> Result<(ServerId, StateTime), WireError> {
        match (self.server(), self.0.clock.now()) {
            (Some(server), Some(now)) => Ok((server, now)),
            _ => Err(WireError::new(
                ErrorCode::Busy,
                "this chunkserver has not heard from a leading master yet",
            )
            .help("try again shortly; if it stays so, check that a majority of masters is up")),
        }
    }

    /// The key this server proves itself with.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.options.dialer.key
    }

    /// The background copies the masters order.
    pub(crate) fn copies(&self) -> Copies {
        self.0.copies.clone()
    }

    /// How this server introduces itself.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.0.options.dialer
    }

    /// Asks the masters, one after the other, how to reach a server.
    ///
    /// # Errors
    /// The last master's error, with all that were tried.
    pub async fn access(&self, server: ServerId) -> Result<ServerAccess, WireError> {
        let connections: Vec<_> = self.0.connections.lock().clone().into_iter().collect();
        let mut failed = WireError::new(
            ErrorCode::NoLeader,
            format!("cannot ask how to reach server {server}: no master answers"),
        );
        for (address, connection) in connections {
            let request = Request::Access { server };
            let asked = connection.call::<_, Response>(Kind::MasterRequest, &request, Bytes::new(), ANSWER);
            match asked.await {
                Ok((Response::Access(access), _)) => return Ok(access),
                Ok(_) => failed = failed.tried(address, "answered something else"),
                Err(error) => {
                    let tried = error.to_string();
                    failed.code = error.code;
                    failed.action = error.action;
                    failed = failed.tried(address, tried);
                }
            }
        }
        Err(failed)
    }

    /// Remembers drops until a leader has acknowledged them.
    fn confirm(&self, done: impl IntoIterator<Item = (ChunkId, ReplicaNumber)>) {
        let mut kept = self.0.done.lock();
        for one in done {
            // A full set forgets nothing that matters: the master repeats what was not confirmed.
            if kept.len() < BATCH_ROWS_MAX {
                kept.insert(one);
            }
        }
    }
}
