//! A write stream while it runs.
//!
//! `run` is the loop, `select` is the only place that waits, `apply` decides what an event changes, and `start` begins
//! whatever input and output has become possible. Nothing in here waits for one neighbour while another has something
//! to say: sending down, sending up and storing each have at most one pending future, kept in the state between turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesOrdered;
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::messages::data::{FromServer, ToServer};
use gabion_protocol::messages::{decode, encode};
use gabion_protocol::net::{Connection, Outgoing, Stream};
use gabion_protocol::{ChunkId, ErrorCode, WireError};

use super::Reserved;
use super::open::InboxReader;
use super::progress::Progress;
use crate::disk::{DiskError, OpenChunk, Packet};
use crate::foreground::{Foreground, Working};

/// Writes of one stream on the disk at a time: one is on its way while the next is prepared.
const WRITES_MAX: usize = 2;
/// Bytes gathered into one write when packets are small or the disk is behind.
const WRITE_BYTES: usize = 2 << 20;
/// A stream without a word from its writer for so long is given up: its memory is needed.
const IDLE: Duration = Duration::from_secs(600);
/// Longest wait to tell a neighbour that the stream is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where the stream came from.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    pub(super) connection: Connection,
    pub(super) stream: u64,
}

impl Upstream {
    fn frame(&self, message: &FromServer) -> Outgoing {
        Outgoing::Frame {
            kind: Kind::FromServer,
            stream: self.stream,
            message: encode(message),
            payload: Bytes::new(),
        }
    }
}

/// Why a stream ended early, and on which hop.
#[derive(Debug)]
struct Failure {
    hop: u8,
    error: WireError,
}

impl Failure {
    fn own(error: WireError) -> Self {
        Self { hop: 0, error }
    }

    fn below(error: WireError) -> Self {
        Self { hop: 1, error }
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::own(error.to_wire())
    }
}

#[derive(Debug)]
enum Event {
    /// A frame from the writer's side; `None` if it went away or overran the stream.
    Above(Option<Frame>),
    /// A frame from the next hop; `None` if it went away.
    Below(Option<Frame>),
    /// All bytes before this are stored here.
    Stored(Result<u64, DiskError>),
    /// What was on its way down has been handed over.
    Forwarded(Result<(), WireError>),
    /// What was on its way up has been handed over.
    Told(Result<(), WireError>),
    /// Our own copy is sealed.
    Sealed(Result<(), DiskError>),
    /// The masters ordered this copy dropped.
    Cancelled,
    /// The writer has been silent for too long.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    /// The writer gave up or went away; there is nobody to answer.
    Abandoned,
    /// The seal was answered.
    Done,
}

/// Where the seal is.
#[derive(Debug, Default)]
struct Sealing {
    asked: Option<(u64, u32)>,
    own_begun: bool,
    own_done: bool,
    below_done: bool,
    answered: bool,
}

/// A write stream.
pub(super) struct WriteStream {
    id: ChunkId,
    /// Taken by the seal.
    chunk: Option<OpenChunk>,
    upstream: Upstream,
    inbox: InboxReader,
    downstream: Option<Stream>,
    progress: Progress,
    sealing: Sealing,

    to_store: VecDeque<(u64, Bytes)>,
    storing: FuturesOrdered<BoxFuture<'static, Result<u64, DiskError>>>,
    to_forward: VecDeque<Outgoing>,
    forwarding: Option<BoxFuture<'static, Result<(), WireError>>>,
    to_tell: Option<FromServer>,
    telling: Option<BoxFuture<'static, Result<(), WireError>>>,
    own_seal: Option<BoxFuture<'static, Result<(), DiskError>>>,

    clients: Arc<Foreground>,
    /// While this server does something for the stream.
    working: Option<Working>,
    _memory: Reserved,
}

impl WriteStream {
    #[allow(clippy::too_many_arguments, reason = "made in one place, of the parts opened there")]
    pub(super) fn new(
        id: ChunkId,
        chunk: OpenChunk,
        upstream: Upstream,
        inbox: InboxReader,
        downstream: Option<Stream>,
        hops: usize,
        window: u64,
        clients: Arc<Foreground>,
        memory: Reserved,
    ) -> Self {
        Self {
            id,
            chunk: Some(chunk),
            upstream,
            inbox,
            progress: Progress::new(window, hops),
            sealing: Sealing {
                below_done: downstream.is_none(),
                ..Sealing::default()
            },
            downstream,
            to_store: VecDeque::new(),
            storing: FuturesOrdered::new(),
            to_forward: VecDeque::new(),
            forwarding: None,
            to_tell: None,
            telling: None,
            own_seal: None,
            clients,
            working: None,
            _memory: memory,
        }
    }

    /// Runs the stream to its end and tells both neighbours how it ended.
    pub(super) async fn run(mut self) {
        loop {
            let event = self.select().await;
            match self.apply(event) {
                Ok(Flow::GoOn) => self.start(),
                Ok(Flow::Done) => return,
                Ok(Flow::Abandoned) => {
                    tracing::debug!(chunk = %self.id, bytes = self.progress.stored(), "a write was given up by its writer");
                    return self.farewell(None).await;
                }
                Err(failure) => {
                    tracing::warn!(chunk = %self.id, hop = failure.hop, error = %failure.error, "a write failed");
                    return self.farewell(Some(failure)).await;
                }
            }
        }
    }

    async fn select(&mut self) -> Event {
        let below = async {
            match &mut self.downstream {
                Some(stream) => stream.receive().await,
                None => std::future::pending().await,
            }
        };
        let cancelled = async {
            match &self.chunk {
                Some(chunk) => chunk.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(stored) = self.storing.next(), if !self.storing.is_empty() => Event::Stored(stored),
            Some(forwarded) = OptionFuture::from(self.forwarding.as_mut()) => Event::Forwarded(forwarded),
            Some(told) = OptionFuture::from(self.telling.as_mut()) => Event::Told(told),
            Some(sealed) = OptionFuture::from(self.own_seal.as_mut()) => Event::Sealed(sealed),
            frame = below => Event::Below(frame),
            frame = self.inbox.next() => Event::Above(frame),
            () = self.upstream.connection.closed() => Event::Above(None),
            () = cancelled => Event::Cancelled,
            () = tokio::time::sleep(IDLE) => Event::Idle,
        }
    }

    fn apply(&mut self, event: Event) -> Result<Flow, Failure> {
        match event {
            Event::Above(Some(frame)) => return self.hear_above(frame),
            Event::Above(None) => return Ok(Flow::Abandoned),
            Event::Below(Some(frame)) => self.hear_below(&frame)?,
            Event::Below(None) => {
                let error = WireError::new(ErrorCode::Unreachable, "the next server of the chain went away");
                return Err(Failure::below(error));
            }
            Event::Stored(end) => self.progress.store(end?),
            Event::Forwarded(sent) => {
                self.forwarding = None;
                sent.map_err(Failure::below)?;
            }
            Event::Told(Ok(())) => {
                self.telling = None;
                if self.sealing.answered && self.to_tell.is_none() {
                    return Ok(Flow::Done);
                }
            }
            Event::Told(Err(_)) => return Ok(Flow::Abandoned),
            Event::Sealed(sealed) => {
                self.own_seal = None;
                sealed?;
                self.sealing.own_done = true;
            }
            Event::Cancelled => {
                let error = WireError::new(ErrorCode::Fenced, "the masters ordered this copy dropped");
                return Err(Failure::own(error));
            }
            Event::Idle => {
                let error = WireError::new(ErrorCode::Timeout, "the writer was silent for too long");
                return Err(Failure::own(error));
            }
        }
        Ok(Flow::GoOn)
    }

    fn hear_above(&mut self, frame: Frame) -> Result<Flow, Failure> {
        let message = decode::<ToServer>(&frame.message).map_err(|error| violated(&error))?;
        match message {
            ToServer::Packet { offset, crcs } => self.packet(offset, crcs, frame).map(|()| Flow::GoOn),
            ToServer::Seal { length, crc } => self.seal(length, crc).map(|()| Flow::GoOn),
            ToServer::Abort => Ok(Flow::Abandoned),
        }
    }

    fn packet(&mut self, offset: u64, crcs: Vec<u32>, frame: Frame) -> Result<(), Failure> {
        let open = self.chunk.as_mut().filter(|_| self.sealing.asked.is_none());
        let Some(chunk) = open else {
            return Err(violated(&"a packet follows the seal"));
        };
        self.progress
            .receive(frame.payload.len() as u64)
            .map_err(|error| violated(&error))?;
        let packet = Packet::verify(self.id, offset, crcs, frame.payload)?;
        chunk.append(&packet)?;
        let bytes = packet.bytes().clone();
        self.forward(frame.message.to_vec(), bytes.clone());
        self.to_store.push_back((offset, bytes));
        Ok(())
    }

    fn seal(&mut self, length: u64, crc: u32) -> Result<(), Failure> {
        let Some(chunk) = self.chunk.as_ref().filter(|_| self.sealing.asked.is_none()) else {
            return Err(violated(&"a second seal"));
        };
        chunk.check_seal(length, crc)?;
        self.sealing.asked = Some((length, crc));
        self.forward(encode(&ToServer::Seal { length, crc }), Bytes::new());
        Ok(())
    }

    fn forward(&mut self, message: Vec<u8>, payload: Bytes) {
        if let Some(downstream) = &self.downstream {
            self.to_forward.push_back(Outgoing::Frame {
                kind: Kind::ToServer,
                stream: downstream.id(),
                message,
                payload,
            });
        }
    }

    fn hear_below(&mut self, frame: &Frame) -> Result<(), Failure> {
        let wrong = |what: &dyn std::fmt::Display| {
            Failure::below(WireError::new(
                ErrorCode::Protocol,
                format!("the next server of the chain broke the protocol: {what}"),
            ))
        };
        match decode::<FromServer>(&frame.message).map_err(|error| wrong(&error))? {
            FromServer::Ack { stored } => self.progress.downstream(&stored).map_err(|error| wrong(&error)),
            FromServer::Sealed { length, crc } if self.sealing.asked == Some((length, crc)) => {
                self.sealing.below_done = true;
                // Its part is done; what becomes of it now is no business of this stream.
                self.downstream = None;
                Ok(())
            }
            FromServer::Sealed { .. } => Err(wrong(&"it sealed something else")),
            FromServer::Failed { hop, error } => Err(Failure {
                hop: hop.saturating_add(1),
                error,
            }),
        }
    }

    /// Begins what has become possible.
    fn start(&mut self) {
        self.start_what_can();
        // A writer that pauses is not served; one whose bytes the disk is slow to take is.
        let works = !self.storing.is_empty() || self.own_seal.is_some() || self.forwarding.is_some();
        if works != self.working.is_some() {
            self.working = works.then(|| self.clients.begin());
        }
    }

    fn start_what_can(&mut self) {
        self.start_storing();
        if self.forwarding.is_none() && !self.to_forward.is_empty() {
            self.start_forwarding();
        }
        self.start_own_seal();
        if !self.sealing.answered {
            if let (Some((length, crc)), true, true) =
                (self.sealing.asked, self.sealing.own_done, self.sealing.below_done)
            {
                self.sealing.answered = true;
                self.to_tell = Some(FromServer::Sealed { length, crc });
            } else if self.telling.is_none() {
                self.to_tell = self.progress.ack().map(|stored| FromServer::Ack { stored });
            }
        }
        if self.telling.is_none()
            && let Some(message) = self.to_tell.take()
        {
            let (connection, frame) = (self.upstream.connection.clone(), self.upstream.frame(&message));
            self.telling = Some(Box::pin(async move { connection.send(frame).await }));
        }
    }

    fn start_storing(&mut self) {
        let Some(chunk) = &self.chunk else { return };
        while self.storing.len() < WRITES_MAX
            && let Some((offset, first)) = self.to_store.pop_front()
        {
            let mut len = first.len();
            let mut parts = vec![first];
            while let Some((_, next)) = self.to_store.front()
                && len + next.len() <= WRITE_BYTES
            {
                len += next.len();
                parts.extend(self.to_store.pop_front().map(|(_, bytes)| bytes));
            }
            let write = chunk.write(offset, parts);
            let end = offset + len as u64;
            self.storing
                .push_back(Box::pin(async move { write.await.map(|()| end) }));
        }
    }

    fn start_forwarding(&mut self) {
        if let Some(downstream) = &self.downstream {
            let connection = downstream.connection().clone();
            let frames = std::mem::take(&mut self.to_forward);
            self.forwarding = Some(Box::pin(async move {
                for frame in frames {
                    connection.send(frame).await?;
                }
                Ok(())
            }));
        }
    }

    /// Our own seal runs side by side with the next hop's, as soon as all bytes are on the disk.
    fn start_own_seal(&mut self) {
        let Some((length, crc)) = self.sealing.asked else {
            return;
        };
        let all_stored = self.storing.is_empty() && self.to_store.is_empty();
        if self.sealing.own_begun || !all_stored || self.progress.stored() != self.progress.received() {
            return;
        }
        if let Some(chunk) = self.chunk.take() {
            self.sealing.own_begun = true;
            self.own_seal = Some(Box::pin(chunk.seal(length, crc)));
        }
    }

    /// Tells the neighbours that the stream is over; what was stored stays until the masters order it dropped.
    async fn farewell(self, failure: Option<Failure>) {
        let down = async {
            if let Some(stream) = &self.downstream {
                // It notices by itself if this does not reach it.
                let _ = stream.send(Kind::ToServer, &ToServer::Abort, Bytes::new()).await;
            }
        };
        let up = async {
            if let Some(Failure { hop, error }) = failure {
                let failed = FromServer::Failed { hop, error };
                let _ = self.upstream.connection.send(self.upstream.frame(&failed)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(down, up) }).await;
    }
}

/// The writer's side did what it must not.
fn violated(what: &dyn std::fmt::Display) -> Failure {
    Failure::own(WireError::new(
        ErrorCode::Protocol,
        format!("the writer broke the protocol: {what}"),
    ))
}
