//! Serves other masters: one task per connection, appends in order, everything else side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::hello::Hello;
use gabion_protocol::keys::Key;
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::{self, Acceptor, Connection, Handshakes, Incoming, SeatCounts, Seats};
use gabion_protocol::process::monotonic;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, TransferLeaderError, TransferLeaderRequest};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use super::links::{Links, Local};
use super::log_store::LogStore;
use super::machine::{Inner, StateMachine};
use super::network::WINDOW;
use super::peers::{Peers, master_id};
use super::snapshot_receiver::SnapshotReceiver;
use super::types::{Snapshot, TypeConfig, Vote};
use super::wire::{Append, AppendAnswer, Request, Response, TransferAnswer};
use crate::space::Space;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Unary requests of one connection handled at one time.
const REQUESTS_MAX: usize = 64;
/// Wait after a failure to accept, which is a lack of file descriptors more often than not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What serving needs.
pub(crate) struct Service {
    pub(crate) local: Local,
    pub(crate) links: Arc<Links>,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) machine: Arc<Inner>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) receiver: Arc<Mutex<SnapshotReceiver>>,
    pub(crate) space: Arc<Space>,
    /// Monotonic milliseconds when a leader last sent something.
    pub(crate) heard: Arc<AtomicU64>,
}

/// Raft itself has stopped: the process is about to end.
fn stopped(error: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::Internal, format!("raft has stopped here: {error}"))
}

impl Service {
    fn acceptor(&self) -> Acceptor {
        let (root, cluster) = (self.local.root_key.clone(), self.local.cluster);
        let peers = Arc::clone(&self.peers);
        let admit = move |hello: &Hello| -> Result<Key, WireError> {
            peers.check(&hello.from).inspect_err(|error| {
                tracing::error!(peer = %hello.from.identity, %error, "a master is turned away");
            })?;
            Ok(root.identity_key(cluster, &hello.from.identity))
        };
        Acceptor {
            cluster,
            identity: self.local.identity(),
            boot: self.local.boot,
            incarnation: self.local.incarnation,
            admit: Arc::new(admit),
        }
    }

    /// Accepts connections for ever.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        let acceptor = Arc::new(self.acceptor());
        let seats = Seats::new(SeatCounts::of_this_process());
        let mut handshakes = Handshakes::default();
        loop {
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let handshake = handshakes.begin();
            let (service, acceptor, seats) = (Arc::clone(&self), Arc::clone(&acceptor), seats.clone());
            tokio::spawn(async move {
                let accepted = net::accept_seated(socket, &acceptor, &seats);
                let accepted = handshake.run_until_cancelled(accepted).await;
                // Makes room for another.
                handshake.cancel();
                match accepted {
                    Some(Ok((connection, incoming, _seat))) => service.serve(connection, incoming).await,
                    Some(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    None => tracing::debug!("a handshake made room for a newer one"),
                }
            });
        }
    }

    async fn serve(self: Arc<Self>, connection: Connection, mut incoming: Incoming) {
        let from = connection.peer().introduction.clone();
        let peers = Arc::clone(&self.peers);
        // Durable before the peer's first word counts.
        let remembered = tokio::task::spawn_blocking(move || peers.remember(&from)).await;
        if let Ok(Err(error)) = remembered {
            tracing::error!(peer = %connection.peer(), %error, "a master is turned away");
            connection.close();
            return;
        }
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let mut appends: Option<(u64, mpsc::Sender<AppendEntriesRequest<TypeConfig>>)> = None;
        while let Some(frame) = incoming.recv().await {
            match frame.kind {
                Kind::RaftRequest => {
                    let Ok(permit) = Arc::clone(&requests).acquire_owned().await else {
                        break;
                    };
                    let (service, connection) = (Arc::clone(&self), connection.clone());
                    tokio::spawn(async move {
                        service.answer(&connection, frame).await;
                        drop(permit);
                    });
                }
                Kind::RaftDown => {
                    if let Err(error) = self.append(&connection, &mut appends, frame).await {
                        tracing::warn!(peer = %connection.peer(), %error, "an append does not decode");
                        break;
                    }
                }
                other => {
                    tracing::warn!(peer = %connection.peer(), kind = ?other, "unexpected frame");
                    break;
                }
            }
        }
        connection.close();
    }

    fn hear(&self) {
        let now = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Who stands for election or leads has synced its vote for itself before it says so.
    fn note_vote(&self, connection: &Connection, vote: &Vote) {
        if let Ok(peer) = master_id(&connection.peer().introduction)
            && vote.leader_id.node_id == peer
        {
            self.links.promises().voted(peer, vote);
        }
    }

    /// Hands an append to its stream; a new stream replaces the one before.
    async fn append(
        &self,
        connection: &Connection,
        appends: &mut Option<(u64, mpsc::Sender<AppendEntriesRequest<TypeConfig>>)>,
        frame: Frame,
    ) -> Result<(), WireError> {
        let protocol = |error: &dyn std::fmt::Display| WireError::new(ErrorCode::Protocol, error.to_string());
        if appends.as_ref().is_some_and(|(stream, _)| *stream > frame.stream) {
            // Of a stream the leader has given up.
            return Ok(());
        }
        if appends.as_ref().is_none_or(|(stream, _)| *stream != frame.stream) {
            *appends = Some((frame.stream, self.start_stream(connection.clone(), frame.stream)));
        }
        self.hear();
        let message: Append = decode(&frame.message).map_err(|error| protocol(&error))?;
        self.note_vote(connection, &message.vote());
        let request = message.decode(&frame.payload).map_err(|error| protocol(&error))?;
        if let Some((_, stream)) = appends {
            // It ends with the first append that is not taken; what follows on it is void.
            let _ = stream.send(request).await;
        }
        Ok(())
    }

    fn start_stream(&self, connection: Connection, stream: u64) -> mpsc::Sender<AppendEntriesRequest<TypeConfig>> {
        let (sender, requests) = mpsc::channel(WINDOW);
        let input = futures_util::stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let answers = self.raft.stream_append(input);
        tokio::spawn(async move {
            let mut answers = std::pin::pin!(answers);
            while let Some(result) = answers.next().await {
                let answer: Answer<AppendAnswer> = result.map(Into::into).map_err(stopped);
                let sent = connection.send_message(Kind::RaftUp, stream, &answer, Bytes::new());
                if sent.await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    async fn answer(&self, connection: &Connection, frame: Frame) {
        let stream = frame.stream;
        let answer: Answer<Response> = match decode(&frame.message) {
            Ok(request) => self.handle(connection, request, frame.payload).await,
            Err(error) => Err(WireError::new(ErrorCode::Protocol, error.to_string())),
        };
        if let Err(error) = connection
            .answer(Kind::RaftResponse, stream, &answer, Bytes::new())
            .await
        {
            tracing::debug!(peer = %connection.peer(), %error, "an answer was not sent");
        }
    }

    async fn handle(&self, connection: &Connection, request: Request, payload: Bytes) -> Result<Response, WireError> {
        match request {
            Request::Status => Ok(Response::Status {
                pristine: self.log.is_pristine(),
                last_index: self.log.last_index(),
            }),
            Request::Acked => {
                let asker = master_id(&connection.peer().introduction)?;
                Ok(self.links.promises().of(asker).into())
            }
            Request::Space => Ok(Response::Space(self.space.room())),
            Request::Vote(ask) => {
                self.note_vote(connection, &ask.vote());
                Ok(self.raft.vote(ask.into()).await.map_err(stopped)?.into())
            }
            Request::PreVote(ask) => Ok(self.raft.pre_vote(ask.into()).await.map_err(stopped)?.into()),
            Request::Append(append) => {
                self.hear();
                self.note_vote(connection, &append.vote());
                let request = append
                    .decode(&payload)
                    .map_err(|error| WireError::new(ErrorCode::Protocol, error.to_string()))?;
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(previous);
                let response = self.raft.append_entries(request).await.map_err(stopped)?;
                if response.is_conflict() && previous.is_none() {
                    return Err(WireError::new(
                        ErrorCode::Protocol,
                        "nothing can conflict with an empty log",
                    ));
                }
                let result: StreamAppendResult<TypeConfig> = response.into_stream_result(previous, last);
                Ok(Response::Append(result.into()))
            }
            Request::TransferLeader { from, to, last } => {
                let request = TransferLeaderRequest::new(from.into(), to, last.map(Into::into));
                let answer = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(Response::TransferLeader(transfer_answer(answer)))
            }
            Request::OfferSnapshot { last, files } => {
                let last = last.map(Into::into);
                let have = self.receive(move |receiver, _| receiver.offer(last, files)).await?;
                Ok(Response::Have(have))
            }
            Request::SnapshotPart { file, offset, crc } => {
                self.receive(move |receiver, _| receiver.store(file, offset, crc, &payload))
                    .await?;
                Ok(Response::PartStored)
            }
            Request::InstallSnapshot { vote, last } => {
                let last = last.map(Into::into);
                let received = self
                    .receive(move |receiver, machine| receiver.finish(last, machine.snapshots()))
                    .await?;
                let snapshot = Snapshot {
                    meta: received.meta(),
                    snapshot: received,
                };
                let response = self.raft.install_full_snapshot(vote.into(), snapshot).await;
                let vote = response.map_err(stopped)?.vote.into();
                Ok(Response::Installed { vote })
            }
        }
    }

    /// Disk work of the snapshot receiver, one at a time, off the Raft runtime.
    async fn receive<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SnapshotReceiver, &Inner) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let (receiver, machine) = (Arc::clone(&self.receiver), Arc::clone(&self.machine));
        let done = tokio::task::spawn_blocking(move || work(&mut receiver.lock(), &machine)).await;
        done.map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))?
    }
}

fn transfer_answer(answer: Result<(), TransferLeaderError<TypeConfig>>) -> TransferAnswer {
    match answer {
        Ok(()) => TransferAnswer::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferAnswer::VoteChanged {
            expected: expected.into(),
            actual: actual.into(),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => TransferAnswer::LogNotFlushed {
            expected: expected.map(Into::into),
            actual: actual.map(Into::into),
        },
    }
}
