//! Opening a write stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::limits::{BLOCK_BYTES, PACKET_BYTES};
use gabion_protocol::messages::data::{Request, Response, ToServer, WriteSpec};
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::{Connection, Stream};
use gabion_protocol::{ErrorCode, ServerId, WireError};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::stream::{Upstream, WriteStream};
use super::{Pipeline, Share, from_below, new_chunk, rest_of};

/// Most bytes of a stream in flight: covers the disk's and the chain's latency several times over.
const WINDOW_BYTES: u64 = 4 << 20;
/// Least window worth opening: one packet.
const WINDOW_BYTES_MIN: u64 = PACKET_BYTES as u64;
/// Longest wait for the disk, and for the next hop, to open.
const OPEN: Duration = Duration::from_secs(5);
/// Acks of the next hop that may wait: more than a window of the smallest packets can cause.
const ACKS_MAX: usize = 1024;

/// Who opens a stream: the connection, the stream's id on it, and the memory the connection may take.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) stream: u64,
    pub(crate) share: Share,
}

/// Where a connection's reader leaves the frames of one stream. Bounded in frames and bytes; never waits.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Frame>,
    queued: Arc<AtomicU64>,
}

/// The other end of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct InboxReader {
    frames: mpsc::Receiver<Frame>,
    queued: Arc<AtomicU64>,
}

impl Inbox {
    /// A queue for one stream.
    pub(crate) fn new() -> (Self, InboxReader) {
        // A window of the smallest whole packets, the last short one, a seal and an abort.
        let (sender, frames) = mpsc::channel((WINDOW_BYTES / BLOCK_BYTES as u64) as usize + 4);
        let queued = Arc::new(AtomicU64::new(0));
        let reader = InboxReader {
            frames,
            queued: Arc::clone(&queued),
        };
        (Self { sender, queued }, reader)
    }

    /// Leaves a frame; `false` if the stream has ended or its peer overran it.
    pub(crate) fn put(&self, frame: Frame) -> bool {
        let len = frame.payload.len() as u64;
        let fits = self.queued.fetch_add(len, Ordering::Relaxed) + len <= WINDOW_BYTES;
        fits && self.sender.try_send(frame).is_ok()
    }

    /// Whether the stream has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl InboxReader {
    /// The next frame; `None` if no more will come. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().await?;
        self.queued.fetch_sub(frame.payload.len() as u64, Ordering::Relaxed);
        Some(frame)
    }
}

impl Pipeline {
    /// Opens a write stream, answers, and runs it to its end.
    pub(crate) async fn write(self, spec: WriteSpec, writer: Writer, inbox: InboxReader) {
        let Writer {
            connection,
            stream,
            share,
        } = writer;
        let upstream = Upstream { connection, stream };
        let opened = Box::pin(self.open(&spec, upstream.clone(), inbox, &share)).await;
        let answer = opened.as_ref().map(|(_, window)| Response::Opened {
            window_bytes: *window as u32,
        });
        let answer = answer.map_err(Clone::clone);
        if let Err(error) = &answer {
            tracing::debug!(chunk = %spec.chunk, %error, "a write was not opened");
        }
        let told = upstream
            .connection
            .answer(Kind::DataResponse, stream, &answer, Bytes::new())
            .await;
        if let (Ok(()), Ok((running, _))) = (told, opened) {
            self.streams.fetch_add(1, Ordering::Relaxed);
            Box::pin(running.run()).await;
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn open(
        &self,
        spec: &WriteSpec,
        upstream: Upstream,
        inbox: InboxReader,
        share: &Share,
    ) -> Result<(WriteStream, u64), WireError> {
        let (_, grant) = self.admit(spec)?;
        // When memory gets scarce windows shrink before writers are turned away.
        let window = (self.memory_free(share) / 4).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES);
        let memory = self.reserve(share, window)?;
        let own = async {
            // A disk that hangs must not hold the stream's memory. What it still does is undone by whoever is told to
            // drop the copy; until then the chunk stays claimed.
            let opening = tokio::time::timeout(OPEN, self.store.open_write(new_chunk(spec, &grant)));
            tokio::select! {
                opened = opening => {
                    opened.map_or_else(|_| Err(disk_too_slow(spec)), |opened| opened.map_err(|e| e.to_wire()))
                }
                // Nobody waits for the answer.
                () = upstream.connection.closed() => {
                    Err(WireError::new(ErrorCode::Unreachable, "the writer went away before its stream was open"))
                }
            }
        };
        let below = async {
            match rest_of(spec) {
                Some((server, rest)) => {
                    let opened = self.open_below(server, rest).await;
                    opened.map(Some).map_err(|error| from_below(server, error))
                }
                None => Ok(None),
            }
        };
        let (own, below) = tokio::join!(own, below);
        if let (Err(_), Ok(Some((stream, _)))) = (&own, &below) {
            // The next hop holds memory for a stream that will not come. It notices by itself if this is lost.
            let _ = stream.send(Kind::ToServer, &ToServer::Abort, Bytes::new()).await;
        }
        let (chunk, below) = (own?, below?);
        let window = below.as_ref().map_or(window, |(_, theirs)| window.min(*theirs));
        let downstream = below.map(|(stream, _)| stream);
        let clients = Arc::clone(&self.clients);
        let hops = spec.chain.len();
        Ok((
            WriteStream::new(
                spec.chunk, chunk, upstream, inbox, downstream, hops, window, clients, memory,
            ),
            window,
        ))
    }

    async fn open_below(&self, server: ServerId, rest: WriteSpec) -> Result<(Stream, u64), WireError> {
        let deadline = Instant::now() + OPEN;
        let late = || {
            WireError::new(
                ErrorCode::Timeout,
                format!("server {server} did not open the stream within 5 s"),
            )
        };
        let connected = timeout_at(deadline, self.peers.connection(server)).await;
        let connection = connected.unwrap_or_else(|_| Err(late()))?;
        let exchange = async {
            let mut stream = connection.open_stream(ACKS_MAX)?;
            stream
                .send(Kind::DataRequest, &Request::OpenWrite(rest), Bytes::new())
                .await?;
            let answer = stream.receive().await.ok_or_else(|| {
                WireError::new(
                    ErrorCode::Unreachable,
                    format!("server {server} went away before it opened the stream"),
                )
            })?;
            match decode::<Answer<Response>>(&answer.message) {
                Ok(Ok(Response::Opened { window_bytes })) => Ok((stream, u64::from(window_bytes))),
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => Err(WireError::new(
                    ErrorCode::Protocol,
                    format!("server {server} answered something else"),
                )),
            }
        };
        let opened = timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(late()));
        opened.inspect_err(|error| self.peers.note(server, &connection, error))
    }
}

fn disk_too_slow(spec: &WriteSpec) -> WireError {
    let within = OPEN.as_secs();
    WireError::new(
        ErrorCode::Timeout,
        format!("the disk did not begin chunk {} within {within} s", spec.chunk),
    )
    .help("write to a fresh chunk on other servers; check the disk")
}
