//! One connection: requests are read in order, carried out side by side, and answered as they are done.
//!
//! The reader never waits for a request. Beyond the limits a request is told BUSY at once. Chunkservers' requests
//! have a limit of their own, so that no number of clients can make a living chunkserver look lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::{Request, Response};
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::{Connection, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::roles;
use super::shared::Master;

/// Requests of one connection under way at one time: a session's window, twice, and its reads.
const REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// Requests of all clients under way at one time: bounds the memory they take to some hundred MiB at worst.
const CLIENT_REQUESTS_MAX: usize = 4096;
/// Requests of all chunkservers under way at one time.
const SERVER_REQUESTS_MAX: usize = 4096;
/// Longest time a request may take, waiting for chunkservers included: nobody waits for the answer longer.
const REQUEST_MAX: Duration = Duration::from_secs(25);

/// How many requests may be under way.
#[derive(Debug)]
pub(super) struct Limits {
    clients: Arc<Semaphore>,
    servers: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: Arc::new(Semaphore::new(CLIENT_REQUESTS_MAX)),
            servers: Arc::new(Semaphore::new(SERVER_REQUESTS_MAX)),
        }
    }
}

impl Limits {
    fn of(&self, role: Role) -> &Arc<Semaphore> {
        match role {
            Role::Chunkserver => &self.servers,
            Role::Client | Role::Operator | Role::Master => &self.clients,
        }
    }
}

/// Serves a connection until it ends or the master stops taking requests.
pub(super) async fn serve(master: Arc<Master>, connection: Connection, mut incoming: Incoming) {
    let own = Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX));
    loop {
        let frame = tokio::select! {
            frame = incoming.recv() => frame,
            () = master.stopping.cancelled() => None,
        };
        let Some(frame) = frame else { break };
        if frame.kind != Kind::MasterRequest {
            tracing::warn!(peer = %connection.peer(), kind = ?frame.kind, "unexpected frame, connection closed");
            connection.close();
            break;
        }
        let all = master.limits.of(connection.peer().introduction.identity.role);
        let permits = Arc::clone(&own)
            .try_acquire_owned()
            .and_then(|own| Ok((own, Arc::clone(all).try_acquire_owned()?)));
        let Ok(permits) = permits else {
            turn_away(&master, &connection, &frame).await;
            continue;
        };
        let (task_master, connection) = (Arc::clone(&master), connection.clone());
        master
            .requests
            .spawn(carry_out(task_master, connection, frame, permits));
    }
}

/// Tells the peer that there is too much to do. It waits while the peer does not read its answers.
async fn turn_away(master: &Master, connection: &Connection, frame: &Frame) {
    let busy = WireError::new(
        ErrorCode::Busy,
        format!("master {} has too many requests under way", master.id),
    );
    let answer: Answer<Response> = Err(busy);
    if let Err(error) = connection
        .answer(Kind::MasterResponse, frame.stream, &answer, Bytes::new())
        .await
    {
        tracing::debug!(peer = %connection.peer(), %error, "cannot tell the peer to come back later");
    }
}

async fn carry_out(
    master: Arc<Master>,
    connection: Connection,
    frame: Frame,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
) {
    let identity = &connection.peer().introduction.identity;
    let handled = async {
        let answer = Box::pin(handle(&master, identity, &frame)).await;
        if let Err(error) = &answer {
            tracing::debug!(peer = %connection.peer(), %error, "request refused");
        }
        connection
            .answer(Kind::MasterResponse, frame.stream, &answer, Bytes::new())
            .await
    };
    // Nobody is left to hear the answer once the connection has ended. A command that was logged still counts.
    let sent = tokio::select! {
        sent = handled => sent,
        () = connection.closed() => return,
    };
    if let Err(error) = sent {
        tracing::debug!(peer = %connection.peer(), %error, "cannot send an answer");
    }
}

async fn handle(master: &Arc<Master>, identity: &Identity, frame: &Frame) -> Answer<Response> {
    let request: Request = decode(&frame.message).map_err(|error| {
        WireError::new(ErrorCode::Protocol, format!("cannot read the request: {error}"))
            .help("the client may be newer than this master: update the masters first")
    })?;
    roles::check(identity, &request)?;
    let timeout = || {
        WireError::new(
            ErrorCode::Timeout,
            format!(
                "master {} did not finish the request within {} s",
                master.id,
                REQUEST_MAX.as_secs()
            ),
        )
    };
    let done = tokio::time::timeout(REQUEST_MAX, dispatch(master, identity, request)).await;
    done.unwrap_or_else(|_| Err(timeout()))
}

async fn dispatch(master: &Arc<Master>, identity: &Identity, request: Request) -> Answer<Response> {
    match request {
        Request::OpenSession => master.open_session().await,
        Request::Command {
            request,
            answered_below,
            op,
        } => master.command(identity, request, answered_below, op).await,
        Request::Query { query, freshness } => master.query(identity, query, freshness).await,
        Request::Access { server } => master.access(identity, server).await,
        Request::Register(registration) => master.register(identity, registration).await,
        Request::Beat(beat) => master.beat(identity, beat).await,
        Request::ScrubReport(report) => master.scrub_report(identity, report).await,
        Request::Inventory(report) => master.inventory(identity, *report).await,
        Request::Disks(report) => master.disk_report(identity, *report).await,
        Request::Admin(admin) => {
            // What only looks is asked again and again, and changes nothing that somebody would search the log for.
            if admin.only_looks() {
                tracing::debug!(by = %identity, ?admin, "operator's request");
            } else {
                tracing::info!(by = %identity, ?admin, "operator's request");
            }
            master.admin(admin).await
        }
    }
}
