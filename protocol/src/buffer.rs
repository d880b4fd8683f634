//! Reused, page-aligned buffers for payloads.
//!
//! A payload is read from the socket straight into such a buffer, forwarded from it and written to disk from it with
//! `O_DIRECT`, which wants aligned memory. Buffers are kept for reuse because the first touch of fresh memory costs
//! more than the copy it saves, above all on virtual machines.
//!
//! Invariant: a pool keeps at most its limit of idle bytes; buffers in use are bounded by the windows of the streams
//! that hold them.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Alignment of a buffer's first byte: what `O_DIRECT` needs on every common device.
pub const ALIGNMENT: usize = 4096;

/// Sizes that are kept: small requests, one packet, the largest payload.
const SIZES: [usize; 3] = [128 << 10, 1 << 20, 4 << 20];

/// A pool of buffers.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    idle: Mutex<Idle>,
    idle_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Idle {
    by_size: [Vec<Vec<u8>>; SIZES.len()],
    bytes: usize,
}

impl Pool {
    /// A pool that keeps at most `idle_bytes_max` bytes of idle buffers.
    #[must_use]
    pub fn new(idle_bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            idle: Mutex::default(),
            idle_bytes_max,
        }))
    }

    /// A buffer of `len` bytes with any content.
    ///
    /// # Panics
    /// If `len` is over the largest payload, which the frame parser has refused before.
    #[must_use]
    pub fn take(&self, len: usize) -> Buffer {
        let class = SIZES
            .iter()
            .position(|size| len <= *size)
            .expect("payload lengths are checked before a buffer is taken");
        let reused = {
            let mut idle = self.0.idle.lock();
            let memory = idle.by_size[class].pop();
            if memory.is_some() {
                idle.bytes -= SIZES[class];
            }
            memory
        };
        let memory = reused.unwrap_or_else(|| vec![0; SIZES[class] + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "a byte pointer can always be aligned");
        Buffer {
            memory,
            start,
            len,
            class,
            pool: self.clone(),
        }
    }
}

/// An aligned buffer; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    class: usize,
    pool: Pool,
}

impl Buffer {
    /// The buffer as shared bytes, still aligned, still going back to the pool when the last share is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut idle = self.pool.0.idle.lock();
        if idle.bytes + SIZES[self.class] <= self.pool.0.idle_bytes_max {
            idle.bytes += SIZES[self.class];
            idle.by_size[self.class].push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = Pool::new(2 << 20);
        let mut buffer = pool.take(1000);
        buffer.as_mut().fill(7);
        let bytes = buffer.freeze();
        assert_eq!(bytes.as_ptr().align_offset(ALIGNMENT), 0);
        assert_eq!(&bytes[..], &[7; 1000]);
        let address = bytes.as_ptr();
        drop(bytes);
        assert_eq!(pool.take(5).as_ref().as_ptr(), address, "reused");
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Pool::new(1 << 20);
        let taken: Vec<_> = (0..8).map(|_| pool.take(1 << 20)).collect();
        drop(taken);
        assert_eq!(pool.0.idle.lock().bytes, 1 << 20);
    }
}
