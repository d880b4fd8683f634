//! One connection of a client, an operator or another chunkserver.
//!
//! The reader of a connection hands every frame to [`Session::apply`], which never waits: requests run as tasks of
//! their own, bounded in number; frames of a write stream go to its bounded inbox.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::keys::Role;
use gabion_protocol::limits::STREAMS_PER_CONNECTION_MAX;
use gabion_protocol::messages::data::{Request, Response};
use gabion_protocol::messages::{Answer, decode, encode};
use gabion_protocol::net::{Connection, Incoming, Outgoing};
use gabion_protocol::token::{Grant, Mode, Token};
use gabion_protocol::{ErrorCode, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk::Data;
use crate::pace::Share as PaceShare;
use crate::pipeline::{Inbox, Pipeline, Share, Writer};

/// Serves a connection until it ends or `stop`.
pub(crate) async fn serve(
    pipeline: Pipeline,
    connection: Connection,
    mut incoming: Incoming,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let mut session = Session {
        share: pipeline.share(),
        pipeline,
        connection: connection.clone(),
        streams: HashMap::new(),
        room: Arc::new(Semaphore::new(STREAMS_PER_CONNECTION_MAX)),
        tasks,
        stopping: false,
    };
    loop {
        tokio::select! {
            frame = incoming.recv() => {
                let Some(frame) = frame else { break };
                if let Err(error) = session.apply(frame) {
                    tracing::warn!(peer = %connection.peer(), %error, "closing a connection that breaks the protocol");
                    break;
                }
            }
            // Streams that run may end; new work goes elsewhere.
            () = stop.cancelled(), if !session.stopping => session.stopping = true,
        }
    }
    connection.close();
}

struct Session {
    pipeline: Pipeline,
    share: Share,
    connection: Connection,
    streams: HashMap<u64, Inbox>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stopping: bool,
}

impl Session {
    /// Takes a frame; an error ends the connection.
    fn apply(&mut self, frame: Frame) -> Result<(), WireError> {
        match frame.kind {
            Kind::DataRequest => self.request(frame),
            Kind::ToServer => {
                self.deliver(frame);
                Ok(())
            }
            other => Err(broken(&format!("a frame of kind {other:?}"))),
        }
    }

    fn deliver(&mut self, frame: Frame) {
        let id = frame.stream;
        let Some(inbox) = self.streams.get(&id) else {
            // The stream ended while this was on its way.
            return;
        };
        if !inbox.put(frame) {
            if !inbox.is_closed() {
                tracing::warn!(peer = %self.connection.peer(), stream = id, "a writer sends beyond its window and loses its stream");
            }
            self.streams.remove(&id);
        }
    }

    fn request(&mut self, frame: Frame) -> Result<(), WireError> {
        let request: Request = decode(&frame.message).map_err(|error| broken(&error.to_string()))?;
        // A peer's own limit of streams is the same: one that has more is no peer of ours.
        let room = Arc::clone(&self.room)
            .try_acquire_owned()
            .map_err(|_| broken("too many requests at a time"))?;
        let stream = frame.stream;
        if self.stopping {
            let error = WireError::new(ErrorCode::Unreachable, "this chunkserver is stopping").help("use another one");
            self.spawn(room, stream, async move { Err(error) });
            return Ok(());
        }
        let pipeline = self.pipeline.clone();
        match request {
            Request::OpenWrite(spec) => {
                self.streams.retain(|_, inbox| !inbox.is_closed());
                let (inbox, reader) = Inbox::new();
                if self.streams.insert(stream, inbox).is_some() {
                    return Err(broken("a stream is opened twice"));
                }
                let writer = Writer {
                    connection: self.connection.clone(),
                    stream,
                    share: self.share.clone(),
                };
                self.tasks.spawn(async move {
                    let _room = room;
                    pipeline.write(spec, writer, reader).await;
                });
            }
            Request::PutSmall { spec, crcs } => {
                let share = self.share.clone();
                let working = pipeline.clients.begin();
                self.spawn(room, stream, async move {
                    let _working = working;
                    pipeline.put_small(spec, crcs, frame.payload, &share).await
                });
            }
            Request::Read { token, offset, length } => {
                let connection = self.connection.clone();
                // Chunkservers read to make copies; whoever else reads is a client.
                let is_copy = connection.peer().introduction.identity.role == Role::Chunkserver;
                let working = (!is_copy).then(|| pipeline.clients.begin());
                self.tasks.spawn(async move {
                    let _room = room;
                    let _working = working;
                    // How urgent the copy is its target knows, and asks as seldom as it should.
                    let _turn = if is_copy {
                        pipeline.sending.turn(PaceShare::Half).await
                    } else {
                        None
                    };
                    let answer = read(&pipeline, &token, offset, length, stream).await;
                    let sent = match answer {
                        Ok(outgoing) => connection.send(outgoing).await,
                        Err(error) => {
                            connection
                                .answer(
                                    Kind::DataResponse,
                                    stream,
                                    &Answer::<Response>::Err(error),
                                    Bytes::new(),
                                )
                                .await
                        }
                    };
                    ignore_lost(sent);
                });
            }
            Request::Verify { token } => {
                self.spawn(room, stream, async move {
                    let grant = reading(&pipeline, &token)?;
                    let verdict = pipeline.store.verify(grant.chunk, grant.replica).await;
                    verdict.map(Response::Verified).map_err(|e| e.to_wire())
                });
            }
            Request::Describe { token } => {
                self.spawn(room, stream, async move { describe(&pipeline, &token).await });
            }
            Request::Probe => self.spawn(room, stream, async { Ok(Response::Alive) }),
        }
        Ok(())
    }

    /// Runs a request that has one answer without payload.
    fn spawn(
        &self,
        room: OwnedSemaphorePermit,
        stream: u64,
        work: impl Future<Output = Answer<Response>> + Send + 'static,
    ) {
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            let _room = room;
            let answer = work.await;
            ignore_lost(
                connection
                    .answer(Kind::DataResponse, stream, &answer, Bytes::new())
                    .await,
            );
        });
    }
}

/// The answer to a read, its bytes straight from the page cache where they are in a file.
async fn read(
    pipeline: &Pipeline,
    token: &Token,
    offset: u64,
    length: u32,
    stream: u64,
) -> Result<Outgoing, WireError> {
    let grant = reading(pipeline, token)?;
    let blocks = pipeline
        .store
        .read(grant.chunk, grant.replica, offset, length)
        .await
        .map_err(|e| e.to_wire())?;
    let message = encode(&Answer::Ok(Response::Blocks {
        offset: blocks.offset,
        crcs: blocks.crcs,
        chunk_length: blocks.chunk_length,
        chunk_crc: blocks.chunk_crc,
    }));
    let kind = Kind::DataResponse;
    Ok(match blocks.data {
        Data::Bytes(payload) => Outgoing::Frame {
            kind,
            stream,
            message,
            payload,
        },
        Data::File { file, len } => Outgoing::File {
            kind,
            stream,
            message,
            file,
            offset: blocks.offset,
            len,
        },
    })
}

/// What the index says about a copy.
async fn describe(pipeline: &Pipeline, token: &Token) -> Answer<Response> {
    let grant = reading(pipeline, token)?;
    let described = pipeline.store.describe(grant.chunk, grant.replica).await;
    let (owner, file_offset, length, crc) = described.map_err(|e| e.to_wire())?;
    Ok(Response::Described {
        owner,
        file_offset,
        length,
        crc,
    })
}

/// Checks the right to read: before any IO.
fn reading(pipeline: &Pipeline, token: &Token) -> Result<Grant, WireError> {
    let (own, now) = pipeline.masters.standing()?;
    token.check(own, pipeline.masters.key(), Mode::Read, now)
}

/// An answer that finds no connection was not missed by anyone.
fn ignore_lost(sent: Result<(), WireError>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "an answer found nobody");
    }
}

fn broken(what: &str) -> WireError {
    WireError::new(ErrorCode::Protocol, format!("the peer broke the protocol: {what}"))
}
