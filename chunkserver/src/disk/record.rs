//! What the index says about a chunk **[format]**.
//!
//! Key: kind byte, then the chunk id's 14 big-endian bytes.
//!
//! | kind | key | value |
//! |---|---|---|
//! | 0x00 | a name | a setting of the disk (`epoch`: term u64, leader u64; `scrub`: `crate::scrub::Mark`) |
//! | 0x01 | chunk id | [`Record`] |
//! | 0x02 | chunk id | the bytes of a chunk whose record's place is [`Place::Blob`] |
//!
//! A record's value, numbers big-endian:
//!
//! ```text
//! version u8 = 1 | state u8 | place u8 | 0 u8 | generation u32 | replica u64 | owner u64 | file_offset u64
//! length u64 | crc u32 | block CRCs u32 × ⌈length / 64 KiB⌉ | crc32 of all before u32
//! ```
//!
//! The record's own CRC covers what lies between RocksDB's checksums and this program's memory.

use bytes::{Buf, BufMut};
use gabion_protocol::checksum;
use gabion_protocol::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use gabion_protocol::{ChunkId, Generation, Ino, ReplicaNumber};

const VERSION: u8 = 1;
/// Bytes of a record without block CRCs.
const FIXED_BYTES: usize = 48;

/// Kinds of keys. Numbers are the format: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    Setting = 0,
    Record = 1,
    Blob = 2,
}

/// The key of one kind for one chunk.
pub(crate) fn chunk_key(kind: KeyKind, chunk: ChunkId) -> [u8; 1 + ChunkId::BYTES] {
    let mut key = [kind as u8; 1 + ChunkId::BYTES];
    key[1..].copy_from_slice(&chunk.to_bytes());
    key
}

/// A chunk's state on this disk. Numbers are the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Being written, or left by a writer that went away; proves `length` bytes.
    Open = 1,
    /// Immutable and synced.
    Sealed = 2,
    /// Its bytes cannot be trusted; kept until a master orders it dropped.
    SetAside = 3,
}

/// Where a chunk's bytes are. Numbers are the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// In the index.
    Blob = 1,
    /// In its own file.
    File = 2,
}

/// What the index says about a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its state.
    pub state: State,
    /// Where its bytes are.
    pub place: Place,
    /// The generation it is written under; older ones are fenced.
    pub generation: Generation,
    /// Which copy this is; orders name it.
    pub replica: ReplicaNumber,
    /// The file it was written for, so that a disk alone is enough to put files together again.
    pub owner: Ino,
    /// Where in that file it begins.
    pub file_offset: u64,
    /// Bytes proved by `crcs`.
    pub length: u64,
    /// CRC of those bytes.
    pub crc: u32,
    /// CRC of each block.
    pub crcs: Vec<u32>,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.crcs.len() as u64, self.length.div_ceil(BLOCK_BYTES as u64));
        let mut out = Vec::with_capacity(FIXED_BYTES + self.crcs.len() * 4);
        out.put_u8(VERSION);
        out.put_u8(self.state as u8);
        out.put_u8(self.place as u8);
        out.put_u8(0);
        out.put_u32(self.generation.0);
        out.put_u64(self.replica.0);
        out.put_u64(self.owner.0);
        out.put_u64(self.file_offset);
        out.put_u64(self.length);
        out.put_u32(self.crc);
        self.crcs.iter().for_each(|crc| out.put_u32(*crc));
        out.put_u32(checksum::crc(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < FIXED_BYTES {
            return Err(format!("a record of {} bytes is too short", bytes.len()));
        }
        let (mut body, mut own_crc) = bytes.split_at(bytes.len() - 4);
        if checksum::crc(body) != own_crc.get_u32() {
            return Err("a record's checksum differs".to_owned());
        }
        let version = body.get_u8();
        if version != VERSION {
            return Err(format!("a record has version {version}; this program knows {VERSION}"));
        }
        let state = match body.get_u8() {
            1 => State::Open,
            2 => State::Sealed,
            3 => State::SetAside,
            other => return Err(format!("a record has state {other}")),
        };
        let place = match body.get_u8() {
            1 => Place::Blob,
            2 => Place::File,
            other => return Err(format!("a record has place {other}")),
        };
        let _reserved = body.get_u8();
        let mut record = Self {
            state,
            place,
            generation: Generation(body.get_u32()),
            replica: ReplicaNumber(body.get_u64()),
            owner: Ino(body.get_u64()),
            file_offset: body.get_u64(),
            length: body.get_u64(),
            crc: body.get_u32(),
            crcs: Vec::new(),
        };
        let blocks = record.length.div_ceil(BLOCK_BYTES as u64);
        if record.length > CHUNK_BYTES_MAX || body.len() as u64 != blocks * 4 {
            return Err(format!(
                "a record of {} bytes has {} bytes of block checksums",
                record.length,
                body.len()
            ));
        }
        record.crcs = body.chunks_exact(4).map(|mut crc| crc.get_u32()).collect();
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::{Timeline, VolumeId};
    use proptest::prelude::*;

    fn record() -> Record {
        let crcs = vec![0x0102_0304, 0x0506_0708];
        Record {
            state: State::Sealed,
            place: Place::File,
            generation: Generation(1),
            replica: ReplicaNumber(7),
            owner: Ino(9),
            file_offset: 64 << 20,
            length: 65_537,
            crc: checksum::combine_blocks(&crcs, 65_537),
            crcs,
        }
    }

    #[test]
    fn golden_record() {
        let hex = gabion_protocol::keys::hex(&record().encode());
        assert_eq!(hex, include_str!("golden/record.hex").trim());
        let open = Record {
            state: State::Open,
            length: 0,
            crc: 0,
            crcs: Vec::new(),
            ..record()
        };
        assert_eq!(
            gabion_protocol::keys::hex(&open.encode()),
            include_str!("golden/record_open.hex").trim()
        );
    }

    #[test]
    fn golden_keys() {
        let chunk = ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(1),
            counter: 0x2a,
        };
        assert_eq!(
            chunk_key(KeyKind::Record, chunk),
            [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2a]
        );
        assert_eq!(chunk_key(KeyKind::Blob, chunk)[0], 2);
        assert_eq!(KeyKind::Setting as u8, 0);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = record().encode();
        assert_eq!(Record::decode(&good).unwrap(), record());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes: Vec<u8>) {
            prop_assert!(Record::decode(&bytes).is_err());
            bytes.extend(checksum::crc(&bytes).to_be_bytes());
            let _ = Record::decode(&bytes);
        }
    }
}
