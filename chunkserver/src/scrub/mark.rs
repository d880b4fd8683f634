//! How far a disk's scrub is, as its index keeps it **[format]**, under the setting `scrub`.
//!
//! Numbers big-endian; times are state time in milliseconds:
//!
//! ```text
//! version u8 = 1 | kind u8 | flags u8 | 0 u8 | asked u64 | started u64 | bytes u64 | chunks u64 | damaged u64
//! after [14] | until [14] | last: started u64 | ended u64 | bytes u64 | chunks u64 | damaged u64 | crc32 of all before u32
//! ```
//!
//! Flags: 1 `started`, 2 `after`, 4 `until`, 8 `last` are there (else zeros stand in their place), 16 the end was reached.

use bytes::{Buf, BufMut};
use gabion_protocol::{ChunkId, StateTime, checksum};

const VERSION: u8 = 1;
const BYTES: usize = 4 + 5 * 8 + 2 * ChunkId::BYTES + 5 * 8 + 4;

/// What a pass is for. Numbers are the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Its turn came.
    #[default]
    Regular = 1,
    /// An operator asked for it.
    Asked = 2,
}

/// How far a disk's scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    /// The operator's request obeyed last; 0 if none.
    pub(crate) asked: u64,
    /// When this pass began; `None` before the first.
    pub(crate) started: Option<StateTime>,
    /// The last chunk read: all up to it are done.
    pub(crate) after: Option<ChunkId>,
    /// The last chunk of a pass that was asked for.
    pub(crate) until: Option<ChunkId>,
    /// Whether the end of the chunks was reached in this pass.
    pub(crate) ended: bool,
    /// Bytes read in this pass.
    pub(crate) bytes: u64,
    /// Copies read in this pass.
    pub(crate) chunks: u64,
    /// Damaged copies found in this pass.
    pub(crate) damaged: u64,
    /// The last pass that reached the end.
    pub(crate) last: Option<Last>,
}

/// A completed pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) started: StateTime,
    pub(crate) ended: StateTime,
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) damaged: u64,
}

impl Mark {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = [
            self.started.is_some(),
            self.after.is_some(),
            self.until.is_some(),
            self.last.is_some(),
            self.ended,
        ];
        let flags = (0u8..).zip(flags).map(|(bit, set)| u8::from(set) << bit).sum();
        let last = self.last.unwrap_or(Last {
            started: StateTime(0),
            ended: StateTime(0),
            bytes: 0,
            chunks: 0,
            damaged: 0,
        });
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&[VERSION, self.kind as u8, flags, 0]);
        out.put_u64(self.asked);
        out.put_u64(self.started.map_or(0, |at| at.0));
        out.put_u64(self.bytes);
        out.put_u64(self.chunks);
        out.put_u64(self.damaged);
        for chunk in [self.after, self.until] {
            out.put_slice(&chunk.map_or([0; ChunkId::BYTES], ChunkId::to_bytes));
        }
        for number in [last.started.0, last.ended.0, last.bytes, last.chunks, last.damaged] {
            out.put_u64(number);
        }
        out.put_u32(checksum::crc(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() != BYTES {
            return Err(format!("a scrub mark of {} bytes instead of {BYTES}", bytes.len()));
        }
        let (mut body, mut own_crc) = bytes.split_at(BYTES - 4);
        if checksum::crc(body) != own_crc.get_u32() {
            return Err("a scrub mark's checksum differs".to_owned());
        }
        let version = body.get_u8();
        if version != VERSION {
            return Err(format!(
                "a scrub mark has version {version}; this program knows {VERSION}"
            ));
        }
        let kind = match body.get_u8() {
            1 => Kind::Regular,
            2 => Kind::Asked,
            other => return Err(format!("a scrub mark has kind {other}")),
        };
        let flags = body.get_u8();
        let _reserved = body.get_u8();
        let has = |bit: u8| flags & (1 << bit) != 0;
        let asked = body.get_u64();
        let started = body.get_u64();
        let (bytes, chunks, damaged) = (body.get_u64(), body.get_u64(), body.get_u64());
        let [mut after, mut until] = [[0; ChunkId::BYTES]; 2];
        body.copy_to_slice(&mut after);
        body.copy_to_slice(&mut until);
        let last = Last {
            started: StateTime(body.get_u64()),
            ended: StateTime(body.get_u64()),
            bytes: body.get_u64(),
            chunks: body.get_u64(),
            damaged: body.get_u64(),
        };
        Ok(Self {
            kind,
            asked,
            started: has(0).then_some(StateTime(started)),
            after: has(1).then(|| ChunkId::from_bytes(after)),
            until: has(2).then(|| ChunkId::from_bytes(until)),
            last: has(3).then_some(last),
            ended: has(4),
            bytes,
            chunks,
            damaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::keys::hex;
    use gabion_protocol::{Timeline, VolumeId};
    use proptest::prelude::*;

    use super::*;

    fn mark() -> Mark {
        let chunk = |counter| ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter,
        };
        Mark {
            kind: Kind::Asked,
            asked: 2,
            started: Some(StateTime(3)),
            after: Some(chunk(4)),
            until: Some(chunk(5)),
            ended: true,
            bytes: 6,
            chunks: 7,
            damaged: 8,
            last: Some(Last {
                started: StateTime(9),
                ended: StateTime(10),
                bytes: 11,
                chunks: 12,
                damaged: 13,
            }),
        }
    }

    #[test]
    fn golden_mark() {
        let frozen = "01021f000000000000000002000000000000000300000000000000060000000000000007000000000000000800000000000100000000000000040000000000010000000000000005\
                      0000000000000009000000000000000a000000000000000b000000000000000c000000000000000d";
        let bytes = mark().encode();
        assert_eq!(hex(&bytes[..BYTES - 4]), frozen);
        assert_eq!(Mark::decode(&bytes).unwrap(), mark());
        let fresh = Mark::default();
        assert_eq!(Mark::decode(&fresh.encode()).unwrap(), fresh);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = mark().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Mark::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes in proptest::collection::vec(any::<u8>(), BYTES - 4)) {
            prop_assert!(Mark::decode(&bytes).is_err());
            bytes.extend(checksum::crc(&bytes).to_be_bytes());
            let _ = Mark::decode(&bytes);
        }
    }
}
