//! The one frame on every connection, for control, data and Raft **[format]**.
//!
//! ```text
//! magic u32 | version u8 | kind u8 | flags u16 | stream u64 | message_len u32 | payload_len u32 | crc u32
//! message (postcard) | payload (raw bytes serde never touches)
//! ```
//!
//! All numbers are big-endian. The CRC covers the 24 bytes before it and the message; the payload has its own CRCs,
//! which travel in the message. Lengths are checked before anything is allocated: a peer cannot make us allocate more
//! than [`FrameLimits`] say, and not even that before it has sent the header.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::limits::{HELLO_BYTES_MAX, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// `GBN1`.
pub const MAGIC: u32 = 0x4742_4e31;
/// Version of the frame itself.
pub const FRAME_VERSION: u8 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 28;

/// Which family a frame's message belongs to. Numbers are the wire format: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Dialer's hello.
    Hello = 1,
    /// Acceptor's challenge.
    Challenge = 2,
    /// Dialer's proof.
    Proof = 3,
    /// Acceptor's welcome.
    Welcome = 4,
    /// Nothing; the connection is alive.
    KeepAlive = 5,
    /// [`crate::messages::master::Request`].
    MasterRequest = 16,
    /// Its answer.
    MasterResponse = 17,
    /// [`crate::messages::data::Request`].
    DataRequest = 32,
    /// Its answer.
    DataResponse = 33,
    /// [`crate::messages::data::ToServer`].
    ToServer = 34,
    /// [`crate::messages::data::FromServer`].
    FromServer = 35,
    /// A request between masters.
    RaftRequest = 48,
    /// Its answer.
    RaftResponse = 49,
    /// A frame of a longer exchange between masters, from the side that opened it.
    RaftDown = 50,
    /// The same, from the other side.
    RaftUp = 51,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Hello,
        Self::Challenge,
        Self::Proof,
        Self::Welcome,
        Self::KeepAlive,
        Self::MasterRequest,
        Self::MasterResponse,
        Self::DataRequest,
        Self::DataResponse,
        Self::ToServer,
        Self::FromServer,
        Self::RaftRequest,
        Self::RaftResponse,
        Self::RaftDown,
        Self::RaftUp,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the message is.
    pub kind: Kind,
    /// Reserved; 0.
    pub flags: u16,
    /// Which exchange of the connection it belongs to.
    pub stream: u64,
    /// postcard bytes.
    pub message: Bytes,
    /// Raw bytes.
    pub payload: Bytes,
}

/// Largest lengths accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes of a message.
    pub message: usize,
    /// Bytes of a payload.
    pub payload: usize,
}

impl FrameLimits {
    /// Before the peer has proved who it is.
    pub const HELLO: Self = Self {
        message: HELLO_BYTES_MAX - HEADER_BYTES,
        payload: 0,
    };
    /// After that.
    pub const FULL: Self = Self {
        message: MESSAGE_BYTES_MAX,
        payload: PAYLOAD_BYTES_MAX,
    };
}

/// Why bytes are not a frame. After any of these the connection cannot go on: where the next frame begins is unknown.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// It ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// Not Gabion's protocol.
    #[error("not a Gabion frame (magic {0:08x})")]
    Magic(u32),
    /// Another version of the frame.
    #[error("frame version {0} is not {FRAME_VERSION}")]
    Version(u8),
    /// An unknown kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Over the limit.
    #[error("{what} of {len} bytes is over the limit of {max}")]
    TooLong {
        /// Message or payload.
        what: &'static str,
        /// Declared length.
        len: usize,
        /// Limit.
        max: usize,
    },
    /// Bits flipped on the way.
    #[error("the frame's checksum differs")]
    Checksum,
}

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the message is.
    pub kind: Kind,
    /// Reserved.
    pub flags: u16,
    /// Which exchange.
    pub stream: u64,
    /// Bytes of the message.
    pub message_len: usize,
    /// Bytes of the payload.
    pub payload_len: usize,
    crc: u32,
}

impl Head {
    /// Parses the first [`HEADER_BYTES`] of `bytes`; `None` if there are fewer.
    ///
    /// # Errors
    /// [`FrameError`] if they are no header within `limits`.
    pub fn parse(bytes: &[u8], limits: FrameLimits) -> Result<Option<Self>, FrameError> {
        let Some(mut header) = bytes.get(..HEADER_BYTES) else {
            // A peer that does not speak our protocol is told so at its fourth byte, not after a time-out.
            if let Some(mut magic) = bytes.get(..4) {
                check_magic(magic.get_u32())?;
            }
            return Ok(None);
        };
        check_magic(header.get_u32())?;
        let version = header.get_u8();
        if version != FRAME_VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = header.get_u8();
        let head = Self {
            kind: Kind::from_number(kind).ok_or(FrameError::Kind(kind))?,
            flags: header.get_u16(),
            stream: header.get_u64(),
            message_len: header.get_u32() as usize,
            payload_len: header.get_u32() as usize,
            crc: header.get_u32(),
        };
        check_len("message", head.message_len, limits.message)?;
        check_len("payload", head.payload_len, limits.payload)?;
        Ok(Some(head))
    }

    /// Whether header and message arrived as they were sent.
    ///
    /// # Errors
    /// [`FrameError::Checksum`].
    pub fn check(&self, header: &[u8], message: &[u8]) -> Result<(), FrameError> {
        if frame_crc(&header[..HEADER_BYTES - 4], message) == self.crc {
            Ok(())
        } else {
            Err(FrameError::Checksum)
        }
    }

    /// Writes the header of a frame with this message and a payload of `payload_len` bytes, then the message.
    pub fn write(kind: Kind, flags: u16, stream: u64, message: &[u8], payload_len: usize, out: &mut BytesMut) {
        out.reserve(HEADER_BYTES + message.len());
        let start = out.len();
        out.put_u32(MAGIC);
        out.put_u8(FRAME_VERSION);
        out.put_u8(kind as u8);
        out.put_u16(flags);
        out.put_u64(stream);
        out.put_u32(message.len() as u32);
        out.put_u32(payload_len as u32);
        let crc = frame_crc(&out[start..], message);
        out.put_u32(crc);
        out.put_slice(message);
    }
}

fn check_magic(magic: u32) -> Result<(), FrameError> {
    if magic == MAGIC {
        Ok(())
    } else {
        Err(FrameError::Magic(magic))
    }
}

fn check_len(what: &'static str, len: usize, max: usize) -> Result<(), FrameError> {
    if len <= max {
        Ok(())
    } else {
        Err(FrameError::TooLong { what, len, max })
    }
}

fn frame_crc(header: &[u8], message: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(header);
    hash.update(message);
    hash.finalize()
}

/// The frame as a codec, for anything that reads and writes whole frames. [`crate::net`] shares its parser, but reads
/// payloads straight into aligned buffers.
#[derive(Debug, Clone, Copy)]
pub struct FrameCodec {
    limits: FrameLimits,
}

impl FrameCodec {
    /// A codec that accepts frames within `limits`.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits }
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = Head::parse(bytes, self.limits)? else {
            return Ok(None);
        };
        let whole = HEADER_BYTES + head.message_len + head.payload_len;
        if bytes.len() < whole {
            bytes.reserve(whole - bytes.len());
            return Ok(None);
        }
        let header = bytes.split_to(HEADER_BYTES);
        let message = bytes.split_to(head.message_len).freeze();
        head.check(&header, &message)?;
        Ok(Some(Frame {
            kind: head.kind,
            flags: head.flags,
            stream: head.stream,
            message,
            payload: bytes.split_to(head.payload_len).freeze(),
        }))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(bytes)? {
            Some(frame) => Ok(Some(frame)),
            None if bytes.is_empty() => Ok(None),
            None => Err(FrameError::Truncated),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        check_len("message", frame.message.len(), self.limits.message)?;
        check_len("payload", frame.payload.len(), self.limits.payload)?;
        Head::write(
            frame.kind,
            frame.flags,
            frame.stream,
            &frame.message,
            frame.payload.len(),
            out,
        );
        out.extend_from_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(message: &[u8], payload: &[u8]) -> Frame {
        Frame {
            kind: Kind::DataRequest,
            flags: 0,
            stream: 0x0102_0304_0506_0708,
            message: Bytes::copy_from_slice(message),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    fn encoded(frame: Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        FrameCodec::new(FrameLimits::FULL).encode(frame, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn golden_frame() {
        let bytes = encoded(frame(b"hi", b"data"));
        let mut expected = b"GBN1".to_vec();
        expected.extend([1, 32, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2, 0, 0, 0, 4]);
        let crc = frame_crc(&expected, b"hi");
        assert_eq!(crc, 0xbf4d_65bb);
        expected.extend(crc.to_be_bytes());
        expected.extend(b"hidata");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn lengths_are_refused_before_anything_is_allocated() {
        for (message, payload) in [(u32::MAX, 0), (0, u32::MAX), (MESSAGE_BYTES_MAX as u32 + 1, 0)] {
            let mut bytes = BytesMut::new();
            Head::write(Kind::Hello, 0, 1, b"", 0, &mut bytes);
            bytes[16..20].copy_from_slice(&message.to_be_bytes());
            bytes[20..24].copy_from_slice(&payload.to_be_bytes());
            let capacity = bytes.capacity();
            let result = FrameCodec::new(FrameLimits::FULL).decode(&mut bytes);
            assert!(matches!(result, Err(FrameError::TooLong { .. })));
            assert_eq!(bytes.capacity(), capacity);
        }
        let mut bytes = encoded(frame(&[0; HELLO_BYTES_MAX], b""));
        assert!(
            FrameCodec::new(FrameLimits::HELLO).decode(&mut bytes).is_err(),
            "hello limit"
        );
    }

    #[test]
    fn a_stranger_is_told_at_the_fourth_byte() {
        let mut bytes = BytesMut::from(&b"GET "[..]);
        assert!(matches!(
            FrameCodec::new(FrameLimits::FULL).decode(&mut bytes),
            Err(FrameError::Magic(_))
        ));
    }

    #[test]
    fn every_flipped_bit_of_header_and_message_is_found() {
        let good = encoded(frame(b"message", b""));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer length leaves the frame incomplete: the end of the connection then refuses it.
            assert!(
                FrameCodec::new(FrameLimits::FULL).decode_eof(&mut bytes).is_err(),
                "bit {bit}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_or_an_error(bytes: Vec<u8>, prefix in 0usize..30) {
            let mut all = encoded(frame(b"m", b"p"));
            all.truncate(prefix);
            all.extend_from_slice(&bytes);
            let mut codec = FrameCodec::new(FrameLimits::HELLO);
            while let Ok(Some(_)) = codec.decode(&mut all) {}
            prop_assert!(all.capacity() <= 64 << 10);
        }

        #[test]
        fn frames_survive_any_cut(message: Vec<u8>, payload: Vec<u8>, cut: prop::sample::Index) {
            let sent = frame(&message, &payload);
            let bytes = encoded(sent.clone());
            let (first, rest) = bytes.split_at(cut.index(bytes.len()));
            let mut codec = FrameCodec::new(FrameLimits::FULL);
            let mut buffer = BytesMut::from(first);
            prop_assert!(codec.decode(&mut buffer).unwrap().is_none());
            buffer.extend_from_slice(rest);
            prop_assert_eq!(codec.decode(&mut buffer).unwrap(), Some(sent));
            prop_assert!(buffer.is_empty());
        }
    }
}
