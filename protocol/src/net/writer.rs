//! Writes frames to the write half of a socket: small ones gathered, payloads without a copy, files by `sendfile`.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::SendFlags;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::frame::{Head, Kind};
use crate::limits::KEEP_ALIVE_MS;

/// Longest time without progress before a peer that does not read is given up.
const STALL: Duration = Duration::from_secs(30);
/// Small frames are gathered up to this many bytes before they are written.
const GATHER_BYTES: usize = 64 << 10;
/// A frame with less payload is small.
const SMALL_BYTES: usize = 8 << 10;

/// A frame to be sent.
#[derive(Debug)]
pub enum Outgoing {
    /// Message and payload in memory.
    Frame {
        /// What the message is.
        kind: Kind,
        /// Which exchange.
        stream: u64,
        /// postcard bytes.
        message: Vec<u8>,
        /// Raw bytes.
        payload: Bytes,
    },
    /// The payload is a range of a file, sent by `sendfile`. If the file turns out shorter, the connection is closed:
    /// the promised length cannot be taken back.
    File {
        /// What the message is.
        kind: Kind,
        /// Which exchange.
        stream: u64,
        /// postcard bytes.
        message: Vec<u8>,
        /// The file.
        file: Arc<std::fs::File>,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: usize,
    },
}

impl Outgoing {
    /// Whether it is better gathered with others than sent at once.
    fn is_small(&self) -> bool {
        match self {
            Self::Frame { payload, .. } => payload.len() < SMALL_BYTES,
            Self::File { .. } => false,
        }
    }
}

/// Takes frames from `queue` until it closes or the socket fails.
pub(super) async fn write_all(mut half: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) -> std::io::Result<()> {
    let mut gathered = BytesMut::with_capacity(GATHER_BYTES);
    let keep_alive = Duration::from_millis(KEEP_ALIVE_MS);
    loop {
        let mut next = match tokio::time::timeout(keep_alive, queue.recv()).await {
            Ok(Some(outgoing)) => Some(outgoing),
            Ok(None) => break,
            Err(_) => {
                Head::write(Kind::KeepAlive, 0, 0, &[], 0, &mut gathered);
                None
            }
        };
        if next.as_ref().is_some_and(Outgoing::is_small) {
            // Whoever else is about to send goes first, so that many small frames share one system call: each costs
            // several microseconds here and a wake-up there. With nobody else about, this returns at once.
            tokio::task::yield_now().await;
        }
        while let Some(outgoing) = next {
            write_one(&mut half, &mut gathered, outgoing).await?;
            next = if gathered.len() < GATHER_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        flush(&mut half, &mut gathered, Bytes::new()).await?;
    }
    half.shutdown().await
}

async fn write_one(half: &mut OwnedWriteHalf, gathered: &mut BytesMut, outgoing: Outgoing) -> std::io::Result<()> {
    match outgoing {
        Outgoing::Frame {
            kind,
            stream,
            message,
            payload,
        } => {
            Head::write(kind, 0, stream, &message, payload.len(), gathered);
            if payload.is_empty() {
                return Ok(());
            }
            flush(half, gathered, payload).await
        }
        Outgoing::File {
            kind,
            stream,
            message,
            file,
            offset,
            len,
        } => {
            Head::write(kind, 0, stream, &message, len, gathered);
            send_before_more(half, gathered).await?;
            send_file(half, &file, offset, len).await
        }
    }
}

/// Writes what was gathered and then `payload`, in one system call where the socket takes both.
async fn flush(half: &mut OwnedWriteHalf, gathered: &mut BytesMut, mut payload: Bytes) -> std::io::Result<()> {
    while gathered.has_remaining() || payload.has_remaining() {
        let slices = [IoSlice::new(gathered), IoSlice::new(&payload)];
        let written = stalled(half.write_vectored(&slices)).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        let of_gathered = written.min(gathered.len());
        gathered.advance(of_gathered);
        payload.advance(written - of_gathered);
    }
    gathered.clear();
    Ok(())
}

/// Writes what was gathered so that the kernel sends it together with what follows: sent alone, it would wake the peer
/// twice for one frame.
async fn send_before_more(half: &OwnedWriteHalf, gathered: &mut BytesMut) -> std::io::Result<()> {
    let socket = half.as_ref();
    while gathered.has_remaining() {
        let sent = stalled(socket.async_io(Interest::WRITABLE, || {
            rustix::net::send(socket, gathered, SendFlags::MORE | SendFlags::NOSIGNAL).map_err(Into::into)
        }))
        .await?;
        gathered.advance(sent);
    }
    gathered.clear();
    Ok(())
}

async fn send_file(half: &OwnedWriteHalf, file: &std::fs::File, offset: u64, len: usize) -> std::io::Result<()> {
    let socket = half.as_ref();
    let (mut at, end) = (offset, offset + len as u64);
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let mut position = at;
        let sent = stalled(socket.async_io(Interest::WRITABLE, || {
            rustix::fs::sendfile(socket, file, Some(&mut position), left).map_err(Into::into)
        }))
        .await?;
        if sent == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("a file that is being sent ends at {at}, its index promised {end}"),
            ));
        }
        at += sent as u64;
    }
    Ok(())
}

async fn stalled<T>(io: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(STALL, io).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "the peer does not read",
        ))
    })
}
