//! Reads frames from the read half of a socket: heads and messages through a small buffer, large payloads straight
//! into aligned pooled memory.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::buffer::Pool;
use crate::frame::{Frame, FrameError, FrameLimits, HEADER_BYTES, Head};

/// Bytes the buffer asks the kernel for at once: many small frames come in one read.
const READ_BYTES: usize = 64 << 10;
/// The same after a frame with a large payload: the next is likely to have one too, and what the buffer takes of it
/// is copied once more.
const READ_BYTES_HEAD: usize = 4 << 10;
/// Payloads from here on are large.
const LARGE_BYTES: usize = 32 << 10;

#[derive(Debug)]
pub(super) struct FrameReader<R> {
    half: R,
    buffer: BytesMut,
    /// Most bytes to ask for before the next head is known.
    ahead: usize,
    pool: Pool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(half: R, pool: Pool) -> Self {
        Self {
            half,
            buffer: BytesMut::with_capacity(READ_BYTES),
            ahead: READ_BYTES,
            pool,
        }
    }

    /// The next frame; `None` if the peer has closed between two frames.
    ///
    /// `idle` is the longest time without a single byte.
    pub(super) async fn next(&mut self, limits: FrameLimits, idle: Duration) -> Result<Option<Frame>, FrameError> {
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer, limits)? {
                break head;
            }
            if !self.fill(self.ahead, idle).await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Truncated)
                };
            }
        };
        while self.buffer.len() < HEADER_BYTES + head.message_len {
            let missing = HEADER_BYTES + head.message_len - self.buffer.len();
            if !self.fill(missing.max(self.ahead), idle).await? {
                return Err(FrameError::Truncated);
            }
        }
        let header = self.buffer.split_to(HEADER_BYTES);
        let message = self.buffer.split_to(head.message_len).freeze();
        head.check(&header, &message)?;
        let payload = self.payload(head.payload_len, idle).await?;
        self.ahead = if payload.len() < LARGE_BYTES {
            READ_BYTES
        } else {
            READ_BYTES_HEAD
        };
        Ok(Some(Frame {
            kind: head.kind,
            flags: head.flags,
            stream: head.stream,
            message,
            payload,
        }))
    }

    async fn payload(&mut self, len: usize, idle: Duration) -> Result<Bytes, FrameError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut payload = self.pool.take(len);
        let memory = payload.as_mut();
        let mut filled = len.min(self.buffer.len());
        memory[..filled].copy_from_slice(&self.buffer.split_to(filled));
        while filled < len {
            let read = timed(idle, self.half.read(&mut memory[filled..])).await?;
            if read == 0 {
                return Err(FrameError::Truncated);
            }
            filled += read;
        }
        Ok(payload.freeze())
    }

    async fn fill(&mut self, most: usize, idle: Duration) -> Result<bool, FrameError> {
        self.buffer.reserve(READ_BYTES / 4);
        let mut room = (&mut self.buffer).limit(most);
        let read = timed(idle, self.half.read_buf(&mut room)).await?;
        Ok(read > 0)
    }
}

async fn timed<T>(idle: Duration, read: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(idle, read)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the peer is silent")))
}
