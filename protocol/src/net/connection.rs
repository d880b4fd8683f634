//! A connection after its handshake: calls with one answer, and streams of many frames.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::reader::FrameReader;
use super::writer::{self, Outgoing};
use crate::error::{ErrorCode, WireError};
use crate::frame::{Frame, FrameLimits, Kind};
use crate::hello::Introduction;
use crate::limits::{IDLE_MS_MAX, SEND_QUEUE_FRAMES, STREAMS_PER_CONNECTION_MAX};
use crate::messages::{Answer, decode, encode};

/// Who is at the other end, proven by the handshake.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it said of itself.
    pub introduction: Introduction,
    /// The protocol version both speak.
    pub version: u16,
    /// Its address, for messages.
    pub address: String,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.introduction.identity, self.address)
    }
}

/// Frames of streams the peer opened, in the order they came. The receiver must never wait for one stream.
pub type Incoming = mpsc::Receiver<Frame>;

enum Slot {
    Call(oneshot::Sender<Frame>),
    Stream(mpsc::Sender<Frame>),
}

struct Shared {
    peer: Peer,
    queue: mpsc::Sender<Outgoing>,
    /// Streams we opened and not yet ended; `None` once the connection is closed.
    slots: Mutex<Option<HashMap<u64, Slot>>>,
    next_stream: AtomicU64,
    closed: CancellationToken,
}

/// A connection; clones share it. It ends when [`Connection::close`] is called, the peer goes, or the last clone and
/// stream are dropped and nothing is left to say.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.0.peer)
            .finish_non_exhaustive()
    }
}

/// Which side of the handshake this is: it decides whose stream ids are odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Acceptor,
}

impl Connection {
    /// Starts the two tasks of a connection. `incoming` takes the frames of streams the peer opens.
    pub(super) fn start(
        peer: Peer,
        side: Side,
        reader: FrameReader<OwnedReadHalf>,
        write_half: OwnedWriteHalf,
        incoming: Option<mpsc::Sender<Frame>>,
    ) -> Self {
        let (queue, frames) = mpsc::channel(SEND_QUEUE_FRAMES);
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            peer,
            queue,
            slots: Mutex::new(Some(HashMap::new())),
            next_stream: AtomicU64::new(if side == Side::Dialer { 1 } else { 2 }),
            closed: closed.clone(),
        });
        let about = shared.peer.to_string();
        let stop = closed.clone();
        tokio::spawn(async move {
            let ended = stop.run_until_cancelled(writer::write_all(write_half, frames)).await;
            if let Some(Err(error)) = ended {
                tracing::debug!(peer = %about, %error, "the connection's write half failed");
            }
            stop.cancel();
        });
        let weak = Arc::downgrade(&shared);
        let about = shared.peer.to_string();
        tokio::spawn(async move {
            let routes = Routes {
                shared: weak,
                ours: if side == Side::Dialer { 1 } else { 0 },
                incoming,
            };
            if let Some(Err(error)) = closed.run_until_cancelled(routes.read_all(reader)).await {
                tracing::debug!(peer = %about, %error, "the connection's read half failed");
            }
            closed.cancel();
            if let Some(shared) = routes.shared.upgrade() {
                *shared.slots.lock() = None;
            }
        });
        Self(shared)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Whether both are clones of one connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Ends the connection; calls and streams on it fail at once.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    /// The peer's own error; [`ErrorCode::Timeout`] after `deadline`; [`ErrorCode::Unreachable`] if the connection
    /// ends first. After the last two the request may or may not have been carried out.
    pub async fn call<Q, A>(
        &self,
        kind: Kind,
        request: &Q,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<(A, Bytes), WireError>
    where
        Q: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        let frame = self.call_raw(kind, encode(request), payload, deadline).await?;
        let answer: Answer<A> = decode(&frame.message).map_err(|error| {
            self.close();
            WireError::new(
                ErrorCode::Protocol,
                format!("cannot read the answer of {}: {error}", self.0.peer),
            )
        })?;
        Ok((answer?, frame.payload))
    }

    /// Asks with a message already encoded, and gives the answer's frame as it came.
    ///
    /// # Errors
    /// As [`Self::call`], but for the peer's own errors, which are in the frame.
    pub async fn call_raw(
        &self,
        kind: Kind,
        message: Vec<u8>,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Frame, WireError> {
        let (sender, receiver) = oneshot::channel();
        let slot = self.register(Slot::Call(sender))?;
        let exchange = async {
            self.send(Outgoing::Frame {
                kind,
                stream: slot.stream,
                message,
                payload,
            })
            .await?;
            tokio::select! {
                // An answer that came before the end counts.
                biased;
                answer = receiver => answer.map_err(|_| self.lost()),
                () = self.0.closed.cancelled() => Err(self.lost()),
            }
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or_else(|_| {
            let millis = deadline.as_millis();
            Err(WireError::new(
                ErrorCode::Timeout,
                format!("no answer from {} within {millis} ms", self.0.peer),
            ))
        })
    }

    /// Opens a stream. At most `capacity` frames wait for [`Stream::receive`]; the peer must not send more before it
    /// is told to (by credits or acks), or the stream ends.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`] if the connection has ended, [`ErrorCode::Busy`] if it carries too many streams.
    pub fn open_stream(&self, capacity: usize) -> Result<Stream, WireError> {
        let (sender, frames) = mpsc::channel(capacity.max(1));
        let slot = self.register(Slot::Stream(sender))?;
        Ok(Stream { slot, frames })
    }

    /// Sends a frame; waits while the queue is full.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`] if the connection has ended.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), WireError> {
        tokio::select! {
            sent = self.0.queue.send(outgoing) => sent.map_err(|_| self.lost()),
            () = self.0.closed.cancelled() => Err(self.lost()),
        }
    }

    /// Sends a frame of a stream the peer opened.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_message<M: Serialize + ?Sized>(
        &self,
        kind: Kind,
        stream: u64,
        message: &M,
        payload: Bytes,
    ) -> Result<(), WireError> {
        self.send(Outgoing::Frame {
            kind,
            stream,
            message: encode(message),
            payload,
        })
        .await
    }

    /// Answers a call of the peer.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn answer<A: Serialize>(
        &self,
        kind: Kind,
        stream: u64,
        answer: &Answer<A>,
        payload: Bytes,
    ) -> Result<(), WireError> {
        self.send_message(kind, stream, answer, payload).await
    }

    fn register(&self, slot: Slot) -> Result<SlotGuard, WireError> {
        let mut slots = self.0.slots.lock();
        let Some(open) = slots.as_mut().filter(|_| !self.is_closed()) else {
            return Err(self.lost());
        };
        if open.len() >= STREAMS_PER_CONNECTION_MAX {
            return Err(WireError::new(
                ErrorCode::Busy,
                format!(
                    "the connection to {} carries {STREAMS_PER_CONNECTION_MAX} streams already",
                    self.0.peer
                ),
            ));
        }
        let stream = self.0.next_stream.fetch_add(2, Ordering::Relaxed);
        open.insert(stream, slot);
        drop(slots);
        Ok(SlotGuard {
            connection: self.clone(),
            stream,
        })
    }

    fn lost(&self) -> WireError {
        WireError::new(
            ErrorCode::Unreachable,
            format!("the connection to {} has ended", self.0.peer),
        )
    }
}

/// Frees a stream's id when the caller goes, also when it is cancelled.
#[derive(Debug)]
struct SlotGuard {
    connection: Connection,
    stream: u64,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if let Some(slots) = self.connection.0.slots.lock().as_mut() {
            slots.remove(&self.stream);
        }
    }
}

/// A stream we opened. Dropping it frees its id; frames that still come for it are ignored.
#[derive(Debug)]
pub struct Stream {
    slot: SlotGuard,
    frames: mpsc::Receiver<Frame>,
}

impl Stream {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.slot.stream
    }

    /// The connection that carries it.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.slot.connection
    }

    /// Sends a frame on it.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`] if the connection has ended.
    pub async fn send<M: Serialize + ?Sized>(&self, kind: Kind, message: &M, payload: Bytes) -> Result<(), WireError> {
        self.slot
            .connection
            .send_message(kind, self.slot.stream, message, payload)
            .await
    }

    /// The next frame; `None` once the connection has ended or the peer overran the stream's queue. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Frame> {
        let closed = &self.slot.connection.0.closed;
        tokio::select! {
            biased;
            frame = self.frames.recv() => frame,
            () = closed.cancelled() => None,
        }
    }
}

/// Where the reader's frames go.
struct Routes {
    shared: std::sync::Weak<Shared>,
    /// Parity of the stream ids we give.
    ours: u64,
    incoming: Option<mpsc::Sender<Frame>>,
}

impl Routes {
    async fn read_all(&self, mut reader: FrameReader<OwnedReadHalf>) -> Result<(), crate::frame::FrameError> {
        let idle = Duration::from_millis(IDLE_MS_MAX);
        while let Some(frame) = reader.next(FrameLimits::FULL, idle).await? {
            if frame.kind == Kind::KeepAlive {
                continue;
            }
            if frame.stream % 2 == self.ours {
                self.to_stream(frame);
            } else if let Some(incoming) = &self.incoming {
                if incoming.send(frame).await.is_err() {
                    return Ok(());
                }
            } else {
                return Err(crate::frame::FrameError::Kind(frame.kind as u8));
            }
        }
        Ok(())
    }

    fn to_stream(&self, frame: Frame) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut slots = shared.slots.lock();
        let Some(open) = slots.as_mut() else {
            return;
        };
        let id = frame.stream;
        match open.get(&id) {
            Some(Slot::Call(_)) => {
                if let Some(Slot::Call(sender)) = open.remove(&id) {
                    // The caller may have given up just now.
                    let _ = sender.send(frame);
                }
            }
            Some(Slot::Stream(sender)) if sender.try_send(frame).is_err() => {
                tracing::warn!(peer = %shared.peer, stream = id, "a stream's peer sends beyond its credits");
                open.remove(&id);
            }
            // Delivered, or ended by us while the frame was under way.
            Some(Slot::Stream(_)) | None => {}
        }
    }
}
