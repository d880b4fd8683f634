//! The chunkservers: how to reach them, and what we remember of how they served us.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::ServerId;
use gabion_protocol::keys::{Role, unwrap_connection_key};
use gabion_protocol::messages::data;
use gabion_protocol::messages::master::{Request, Response, ServerAccess};
use gabion_protocol::net::{Connection, Dialer};
use gabion_protocol::{ErrorCode, WireError};
use parking_lot::Mutex;

use crate::client::unexpected;
use crate::link::Link;
use crate::masters::Masters;
use crate::policy::chain::Pulse;
use crate::policy::damage::Complaints;
use crate::policy::latency::Latency;

/// How long a server that failed us is tried last. The masters notice within two seconds; this is for what they
/// cannot see, such as a path between us and the server that is cut.
const TROUBLE: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a probe. A server that is only busy answers: probes touch no disk.
const PROBE: Duration = Duration::from_millis(800);

/// All chunkservers this client has met.
#[derive(Debug)]
pub(crate) struct Servers {
    /// Ourselves, towards a master: key and ticket are set for each server.
    dialer: Dialer,
    known: Mutex<HashMap<ServerId, Arc<Server>>>,
    complaints: Mutex<Complaints>,
}

#[derive(Debug)]
struct Server {
    access: Mutex<Arc<ServerAccess>>,
    link: Link,
    record: Mutex<Record>,
}

/// How a server served us.
#[derive(Debug, Default)]
struct Record {
    latency: Latency,
    troubled_until: Option<Instant>,
    /// Since when it has given no answer to those who can wait for it.
    away_since: Option<Instant>,
    /// Until when nobody waits for it any more.
    given_up_until: Option<Instant>,
}

impl Servers {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            known: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// A master told how to reach these.
    pub(crate) fn learn(&self, accesses: Vec<ServerAccess>) {
        let mut known = self.known.lock();
        for access in accesses {
            match known.get(&access.server) {
                Some(server) => server.renew(access),
                None => {
                    let id = access.server;
                    let server = Server {
                        access: Mutex::new(Arc::new(access)),
                        link: Link::default(),
                        record: Mutex::default(),
                    };
                    known.insert(id, Arc::new(server));
                }
            }
        }
    }

    fn get(&self, id: ServerId) -> Option<Arc<Server>> {
        self.known.lock().get(&id).cloned()
    }

    /// For people: `c1 127.0.0.1:7101`.
    pub(crate) fn label(&self, id: ServerId) -> String {
        self.get(id).map_or_else(
            || format!("chunkserver {id}"),
            |server| {
                let access = server.access.lock();
                format!("{} {}", access.name, access.address)
            },
        )
    }

    /// Where a server listens, if it was met.
    pub(crate) fn address(&self, id: ServerId) -> Option<String> {
        Some(self.get(id)?.access.lock().address.clone())
    }

    /// The connection to a server. A refused ticket is renewed once.
    pub(crate) async fn connection(&self, masters: &Masters, id: ServerId) -> Result<Connection, WireError> {
        let server = match self.get(id) {
            Some(server) => server,
            None => self.fetch(masters, id).await?,
        };
        match self.dial(&server).await {
            Err(error) if matches!(error.code, ErrorCode::BadToken | ErrorCode::WrongKey) => {
                let server = self.fetch(masters, id).await?;
                self.dial(&server).await
            }
            result => result,
        }
    }

    async fn dial(&self, server: &Server) -> Result<Connection, WireError> {
        let access = Arc::clone(&server.access.lock());
        let dialer = || Dialer {
            key: unwrap_connection_key(&self.dialer.key, &access.ticket, &access.wrapped_key),
            ticket: Some(access.ticket.clone()),
            target: Target {
                role: Role::Chunkserver,
                id: Some(access.name.clone()),
            },
            ..self.dialer.clone()
        };
        server.link.connection(&access.address, dialer).await
    }

    /// Asks the masters afresh how to reach a server: it may have begun anew elsewhere.
    pub(crate) async fn refresh(&self, masters: &Masters, id: ServerId) -> Result<(), WireError> {
        self.fetch(masters, id).await.map(drop)
    }

    async fn fetch(&self, masters: &Masters, id: ServerId) -> Result<Arc<Server>, WireError> {
        let Response::Access(access) = masters.ask(Request::Access { server: id }).await? else {
            return Err(unexpected());
        };
        self.learn(vec![access]);
        self.get(id).ok_or_else(unexpected)
    }

    /// Asks each server whether it is alive.
    pub(crate) async fn probe(&self, masters: &Masters, ids: &[ServerId]) -> Vec<Pulse> {
        join_all(ids.iter().map(|id| self.pulse(masters, *id))).await
    }

    async fn pulse(&self, masters: &Masters, id: ServerId) -> Pulse {
        let asked = async {
            let connection = self.connection(masters, id).await?;
            let request = data::Request::Probe;
            let call = connection.call::<_, data::Response>(Kind::DataRequest, &request, Bytes::new(), PROBE);
            call.await
        };
        match tokio::time::timeout(PROBE, asked).await {
            Ok(Ok(_)) => Pulse::Alive,
            Ok(Err(error)) if error.code != ErrorCode::Timeout => Pulse::Gone,
            Ok(Err(_)) | Err(_) => Pulse::Silent,
        }
    }

    /// A server answered a read after `took`.
    pub(crate) fn served(&self, id: ServerId, took: Duration) {
        if let Some(server) = self.get(id) {
            let mut record = server.record.lock();
            record.latency.record(took);
            record.troubled_until = None;
            record.given_up_until = None;
        }
    }

    /// A server did not answer somebody who can wait: for how long it has been so.
    pub(crate) fn away(&self, id: ServerId) -> Duration {
        self.get(id).map_or(Duration::MAX, |server| {
            server
                .record
                .lock()
                .away_since
                .get_or_insert_with(Instant::now)
                .elapsed()
        })
    }

    /// Nobody waits for a server for a while.
    pub(crate) fn give_up(&self, id: ServerId) {
        if let Some(server) = self.get(id) {
            server.record.lock().given_up_until = Some(Instant::now() + TROUBLE);
        }
    }

    /// Whether a server was given up a short while ago.
    pub(crate) fn is_given_up(&self, id: ServerId) -> bool {
        self.get(id).is_some_and(|server| {
            let record = server.record.lock();
            record.given_up_until.is_some_and(|until| Instant::now() < until)
        })
    }

    /// A server that may have been away answers.
    pub(crate) fn is_back(&self, id: ServerId) {
        if let Some(server) = self.get(id) {
            let mut record = server.record.lock();
            record.away_since = None;
            record.given_up_until = None;
        }
    }

    /// A server failed us: it is tried last for a while.
    pub(crate) fn failed(&self, id: ServerId) {
        if let Some(server) = self.get(id) {
            server.record.lock().troubled_until = Some(Instant::now() + TROUBLE);
        }
    }

    /// `receiver` complains of damaged bytes from `sender` (`None`: from us): which of the two to avoid.
    pub(crate) fn complained(&self, sender: Option<ServerId>, receiver: ServerId) -> ServerId {
        let verdict = self.complaints.lock().hear(sender, receiver, Instant::now());
        for cleared in verdict.cleared.into_iter().filter_map(|id| self.get(id)) {
            cleared.record.lock().troubled_until = None;
        }
        verdict.avoid
    }

    /// A server is silent or gone: it is avoided for a while, and whoever waits for it learns so at once.
    pub(crate) fn leave(&self, id: ServerId) {
        self.failed(id);
        if let Some(server) = self.get(id) {
            server.link.close();
        }
    }

    /// Servers that failed us a short while ago.
    pub(crate) fn troubled(&self) -> Vec<ServerId> {
        let known = self.known.lock();
        let mut troubled: Vec<_> = known
            .iter()
            .filter(|(_, server)| server.is_troubled())
            .map(|(id, _)| *id)
            .collect();
        troubled.sort_unstable();
        troubled
    }

    /// As [`Self::troubled`], with a moment that is later the later it failed.
    pub(crate) fn troubles(&self) -> BTreeMap<ServerId, Instant> {
        let known = self.known.lock();
        let trouble = |server: &Server| server.record.lock().troubled_until;
        let troubled = known.iter().filter(|(_, server)| server.is_troubled());
        troubled
            .filter_map(|(id, server)| Some((*id, trouble(server)?)))
            .collect()
    }

    /// Whether a server failed us lately, and how fast it usually reads.
    pub(crate) fn record(&self, id: ServerId) -> (bool, Option<Duration>) {
        self.get(id).map_or((false, None), |server| {
            (server.is_troubled(), server.record.lock().latency.p95())
        })
    }

    /// How long to wait for a read of this server before another is asked too.
    pub(crate) fn patience(&self, id: ServerId) -> Duration {
        self.get(id).map_or(crate::policy::latency::PATIENCE_MAX, |server| {
            server.record.lock().latency.patience()
        })
    }
}

impl Server {
    fn is_troubled(&self) -> bool {
        self.record
            .lock()
            .troubled_until
            .is_some_and(|until| Instant::now() < until)
    }

    fn renew(&self, access: ServerAccess) {
        let mut known = self.access.lock();
        if known.address != access.address {
            self.link.close();
        }
        *known = Arc::new(access);
    }
}
