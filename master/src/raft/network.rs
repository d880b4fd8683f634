//! openraft's network: turns its calls into our messages on the connections of [`super::links`].
//!
//! Appends are pipelined: up to [`WINDOW`] are under way, answers come in order. A peer that gives no answer for
//! [`PROGRESS_TIMEOUT`] is unreachable: openraft then waits before it tries again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{FutureExt, Stream};
use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::Stream as Exchange;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::links::{Links, Purpose};
use super::snapshot_sender;
use super::snapshots::SnapshotDir;
use super::types::{MasterNode, Snapshot, TypeConfig, Vote};
use super::wire::{Append, AppendAnswer, Request, Response, TransferAnswer};

/// Appends under way to one peer.
pub(crate) const WINDOW: usize = 64;
/// Longest wait for the answer to the oldest append under way: longer than any healthy disk's sync.
const PROGRESS_TIMEOUT: Duration = Duration::from_millis(2000);
/// Heartbeats in a row without an answer after which their connection is made anew.
const SILENT_HEARTBEATS_MAX: u32 = 10;

type RpcError = RPCError<TypeConfig>;

/// Makes clients for peers.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<Links>);

impl Network {
    fn client(&self, target: u64, node: &MasterNode, purpose: Purpose) -> Client {
        assert_ne!(target, self.0.local().id, "a master does not dial itself");
        Client {
            links: Arc::clone(&self.0),
            target,
            node: node.clone(),
            purpose,
            silent: 0,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &MasterNode) -> Client {
        self.client(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MasterNode) -> Client {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MasterNode) -> Client {
        self.client(target, node, Purpose::Snapshot)
    }
}

/// One peer, for one purpose.
pub(crate) struct Client {
    links: Arc<Links>,
    target: u64,
    node: MasterNode,
    purpose: Purpose,
    /// Requests in a row that were not answered.
    silent: u32,
}

/// What openraft makes of a failure: `Unreachable` makes it wait before the next try, `Network` try at once.
fn as_rpc_error(error: &WireError) -> RpcError {
    match error.code {
        ErrorCode::Timeout | ErrorCode::Busy => RPCError::Network(NetworkError::from_string(error)),
        _ => RPCError::Unreachable(Unreachable::from_string(error)),
    }
}

fn unexpected(response: &Response) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(format!("unexpected answer {response:?}")))
}

impl Client {
    async fn ask(
        &mut self,
        purpose: Purpose,
        request: Request,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Response, RpcError> {
        let to = (self.target, &self.node);
        let result = self.links.ask(to, purpose, &request, payload, deadline).await;
        match &result {
            Ok(_) => self.silent = 0,
            Err(_) => self.silent += 1,
        }
        if self.silent >= SILENT_HEARTBEATS_MAX {
            // The connection may be half open for good.
            self.links.give_up(self.target, purpose);
            self.silent = 0;
        }
        result.map_err(|error| as_rpc_error(&error))
    }

    async fn ask_vote(&mut self, request: Request, option: &RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let asked = match &request {
            Request::Vote(ask) => Some(ask.vote()),
            _ => None,
        };
        match self
            .ask(Purpose::Control, request, Bytes::new(), option.soft_ttl())
            .await?
        {
            Response::Vote { vote, granted, last } => {
                let vote: Vote = vote.into();
                if let Some(asked) = asked.filter(|_| granted) {
                    self.links.promises().voted(self.target, &asked);
                }
                Ok(VoteResponse::new(vote, last.map(Into::into), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Notes what the peer has on its disk. An entry that it had and denies is not passed on: openraft would stop this
    /// master, which is well, instead of the other.
    fn note_answer(&self, vote: &Vote, answer: AppendAnswer) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let result = StreamAppendResult::<TypeConfig>::from(answer);
        match &result {
            Ok(last) => self.links.promises().matched(self.target, vote, *last),
            Err(StreamAppendError::Conflict(id)) if self.links.promises().is_loss(self.target, vote, id.index) => {
                let why = format!(
                    "master {} has lost log entry {}, which it had acknowledged: remove it and add it again under a \
                     new id with an empty directory",
                    self.target, id.index
                );
                tracing::error!("{why}");
                return Err(RPCError::Unreachable(Unreachable::from_string(why)));
            }
            Err(StreamAppendError::Conflict(_) | StreamAppendError::HigherVote(_)) => {}
        }
        Ok(result)
    }

    async fn open_exchange(&mut self) -> Result<Exchange, RpcError> {
        let opened = async {
            let connection = self.links.connect(self.target, &self.node, self.purpose).await?;
            connection.open_stream(WINDOW)
        };
        opened.await.map_err(|error| as_rpc_error(&error))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Arc<SnapshotDir>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let (message, payload) =
            Append::encode(rpc).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let purpose = self.purpose;
        let vote = message.vote();
        match self
            .ask(purpose, Request::Append(message), payload, option.soft_ttl())
            .await?
        {
            Response::Append(answer) => Ok(match self.note_answer(&vote, answer)? {
                Ok(matching) if matching == last => AppendEntriesResponse::Success,
                Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
                Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
                Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
            }),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.purpose == Purpose::Heartbeat {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        async move {
            // openraft pauses between failed attempts where it makes the next request, so that comes before the
            // dial: otherwise a peer that refuses connections is dialed thousands of times a second.
            let mut input = input.peekable();
            if Pin::new(&mut input).peek().await.is_none() {
                return Ok(futures_util::stream::empty().boxed());
            }
            let exchange = self.open_exchange().await?;
            let client = &*self;
            let pipeline = Pipeline {
                vote: None,
                exchange,
                input,
                input_ended: false,
                under_way: 0,
            };
            let answers = futures_util::stream::unfold(Some(pipeline), move |pipeline| async move {
                let mut pipeline = pipeline?;
                match pipeline.next().await {
                    Some(Ok(answer)) => {
                        let result = match &pipeline.vote {
                            Some(vote) => client.note_answer(vote, answer),
                            None => Ok(answer.into()),
                        };
                        // The follower ends the stream with the first append it does not take.
                        let next = matches!(&result, Ok(Ok(_))).then_some(pipeline);
                        Some((result, next))
                    }
                    Some(Err(error)) => {
                        pipeline.exchange.connection().close();
                        Some((Err(as_rpc_error(&error)), None))
                    }
                    None => None,
                }
            });
            Ok(answers.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Request::Vote(rpc.into()), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Request::PreVote(rpc.into()), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Arc<SnapshotDir>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // openraft's time limit is meant for one request; the sender has its own, per part.
        let sending = snapshot_sender::send(&self.links, (self.target, &self.node), vote, &snapshot.snapshot);
        tokio::select! {
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(target = self.target, %error, "a snapshot transfer broke; it will be resumed");
                    self.links.give_up(self.target, Purpose::Snapshot);
                    Err(StreamingError::Unreachable(Unreachable::from_string(error)))
                }
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = Request::TransferLeader {
            from: (*req.from_leader()).into(),
            to: *req.to_node_id(),
            last: req.last_log_id().map(|id| (*id).into()),
        };
        let answer = self
            .ask(Purpose::Control, request, Bytes::new(), option.soft_ttl())
            .await?;
        match answer {
            Response::TransferLeader(TransferAnswer::Accepted) => Ok(Ok(())),
            Response::TransferLeader(TransferAnswer::VoteChanged { expected, actual }) => {
                Ok(Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                }))
            }
            Response::TransferLeader(TransferAnswer::LogNotFlushed { expected, actual }) => {
                Ok(Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// Appends under way on one stream.
struct Pipeline<S> {
    /// The leader's, of the appends.
    vote: Option<Vote>,
    exchange: Exchange,
    input: S,
    input_ended: bool,
    under_way: usize,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<S> {
    /// The next answer; sends whatever openraft has meanwhile. `None` when all is sent and answered.
    async fn next(&mut self) -> Option<Result<AppendAnswer, WireError>> {
        let give_up = tokio::time::sleep(PROGRESS_TIMEOUT);
        tokio::pin!(give_up);
        loop {
            if self.input_ended && self.under_way == 0 {
                return None;
            }
            tokio::select! {
                biased;
                frame = self.exchange.receive(), if self.under_way > 0 => {
                    self.under_way -= 1;
                    return Some(read_answer(&self.exchange, frame));
                }
                () = &mut give_up, if self.under_way > 0 => return Some(Err(no_progress(&self.exchange))),
                request = self.input.next(), if !self.input_ended && self.under_way < WINDOW => match request {
                    Some(request) => {
                        if self.under_way == 0 {
                            give_up.as_mut().reset(tokio::time::Instant::now() + PROGRESS_TIMEOUT);
                        }
                        self.vote = Some(request.vote);
                        if let Err(error) = send(&self.exchange, request).await {
                            return Some(Err(error));
                        }
                        self.under_way += 1;
                    }
                    None => self.input_ended = true,
                },
            }
        }
    }
}

fn no_progress(exchange: &Exchange) -> WireError {
    let peer = exchange.connection().peer();
    let millis = PROGRESS_TIMEOUT.as_millis();
    WireError::new(
        ErrorCode::Unreachable,
        format!("{peer} has not answered an append for {millis} ms"),
    )
}

async fn send(exchange: &Exchange, request: AppendEntriesRequest<TypeConfig>) -> Result<(), WireError> {
    let (message, payload) =
        Append::encode(request).map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))?;
    let sending = exchange.send(Kind::RaftDown, &message, payload);
    let sent = tokio::time::timeout(PROGRESS_TIMEOUT, sending).await;
    sent.unwrap_or_else(|_| Err(no_progress(exchange)))
}

fn read_answer(exchange: &Exchange, frame: Option<Frame>) -> Result<AppendAnswer, WireError> {
    let peer = exchange.connection().peer();
    let Some(frame) = frame else {
        return Err(WireError::new(
            ErrorCode::Unreachable,
            format!("the connection to {peer} has ended"),
        ));
    };
    let answer: Answer<AppendAnswer> = decode(&frame.message)
        .map_err(|error| WireError::new(ErrorCode::Protocol, format!("cannot read {peer}'s answer: {error}")))?;
    answer
}
