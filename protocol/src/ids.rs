//! Names of things: one type per concept, so that a chunk is never taken for an inode.
//!
//! Invariants **[format]**: ids are never used twice; their big-endian bytes sort as their numbers do; volume and
//! timeline are part of them from the first version (one volume, 0, exists today).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// A master: its Raft node id. Never reused, also not after its directory is lost.
    MasterId(u64)
);
number!(
    /// A chunkserver, numbered by the masters when it first registers. Never reused.
    ServerId(u32)
);
number!(
    /// A part of the namespace with its own Raft group. Only volume 0 exists today.
    VolumeId(u16)
);
number!(
    /// Counts restorations of the masters from a backup: ids of another timeline are not ours to delete.
    Timeline(u32)
);
number!(
    /// Counts a chunk's seal attempts; older generations are fenced.
    Generation(u32)
);
number!(
    /// One replica's file on one server, logged before the file is made or removed; orders name it. Never reused.
    ReplicaNumber(u64)
);
number!(
    /// Counts the owners of an upload; a resumed upload fences its former owner.
    UploadGeneration(u32)
);
number!(
    /// Milliseconds of the replicated clock. Leases, sessions and tokens expire by it, never by a wall clock.
    StateTime(u64)
);

impl StateTime {
    /// The state time `millis` milliseconds later, at most the greatest.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// An inode: volume in the upper 16 bits, a counter below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of volume 0.
    pub const ROOT: Self = Self(1);

    /// The volume the inode lives in.
    #[must_use]
    pub fn volume(self) -> VolumeId {
        VolumeId((self.0 >> 48) as u16)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A chunk: counters come from the Raft log and are never used twice.
///
/// Written `volume-timeline-counter` in hexadecimal, for example `0-1-2a`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId {
    /// The volume that owns the chunk.
    pub volume: VolumeId,
    /// The timeline in which it was allocated.
    pub timeline: Timeline,
    /// The number within the timeline.
    pub counter: u64,
}

impl ChunkId {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 14;

    /// Big-endian bytes; their order is the order of ids.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.volume.0.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.timeline.0.to_be_bytes());
        bytes[6..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The id of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [v0, v1, t0, t1, t2, t3, c @ ..] = bytes;
        Self {
            volume: VolumeId(u16::from_be_bytes([v0, v1])),
            timeline: Timeline(u32::from_be_bytes([t0, t1, t2, t3])),
            counter: u64::from_be_bytes(c),
        }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.volume.0, self.timeline.0, self.counter)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an id of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdParseError {
    text: String,
    expected: &'static str,
}

impl IdParseError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(80).collect(),
            expected,
        }
    }
}

impl FromStr for ChunkId {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || IdParseError::new(text, "a chunk id such as 0-1-2a");
        let canonical = |part: &str| {
            let digits = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            digits && (part == "0" || !part.starts_with('0'))
        };
        let mut parts = text.split('-');
        let (Some(v), Some(t), Some(c), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        // One text per id, because data files are named so and a stranger must not find two names for a chunk.
        if !(canonical(v) && canonical(t) && canonical(c)) {
            return Err(wrong());
        }
        Ok(Self {
            volume: VolumeId(u16::from_str_radix(v, 16).map_err(|_| wrong())?),
            timeline: Timeline(u32::from_str_radix(t, 16).map_err(|_| wrong())?),
            counter: u64::from_str_radix(c, 16).map_err(|_| wrong())?,
        })
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// A fresh random id.
            ///
            /// # Panics
            /// If the operating system gives no randomness, which no process can work without.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0; $len];
                getrandom::fill(&mut bytes).expect("the operating system provides randomness");
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::keys::unhex(text)
                    .map(Self)
                    .ok_or_else(|| IdParseError::new(text, $expected))
            }
        }
    };
}

random_id!(
    /// A cluster, drawn when its keys are made. Nothing of another cluster is ever accepted.
    ClusterId, 16, "a cluster id of 32 hexadecimal digits"
);
random_id!(
    /// One life of a disk or process directory: a copy or an emptied one is told apart from the original.
    Incarnation, 16, "an incarnation of 32 hexadecimal digits"
);

/// One client's identity for exactly-once: state time of its hello and a random part, so that an expired session
/// is told from a new one without keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// State time when the session was opened.
    pub opened: StateTime,
    /// Random.
    pub random: u64,
}

impl SessionId {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 16;

    /// Big-endian bytes, the oldest session first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.opened.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.random.to_be_bytes());
        bytes
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:016x}", self.opened.0, self.random)
    }
}

/// One command of one session: a retry carries the same, and gets the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks.
    pub session: SessionId,
    /// Counts the session's commands from 1; at most [`crate::limits::REPLY_SLOTS`] are in flight.
    pub sequence: u64,
}

/// Orders masters' orders: a later term's leader overrules an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Raft term.
    pub term: u64,
    /// The term's leader.
    pub leader: MasterId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(v: u16, t: u32, c: u64) -> ChunkId {
        ChunkId {
            volume: VolumeId(v),
            timeline: Timeline(t),
            counter: c,
        }
    }

    proptest! {
        #[test]
        fn chunk_ids_survive_text_and_bytes(v: u16, t: u32, c: u64) {
            let id = chunk(v, t, c);
            prop_assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
            prop_assert_eq!(ChunkId::from_bytes(id.to_bytes()), id);
        }

        #[test]
        fn chunk_bytes_sort_like_ids(a: (u16, u32, u64), b: (u16, u32, u64)) {
            let (a, b) = (chunk(a.0, a.1, a.2), chunk(b.0, b.1, b.2));
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
        }

        #[test]
        fn any_text_parses_or_fails_and_is_canonical(text in "[0-9a-fA-F-]{0,24}") {
            if let Ok(id) = text.parse::<ChunkId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn golden_ids() {
        assert_eq!(chunk(0, 1, 0x2a).to_string(), "0-1-2a");
        assert_eq!(chunk(1, 2, 3).to_bytes(), [0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let session = SessionId {
            opened: StateTime(0x0102),
            random: 0x0a0b,
        };
        assert_eq!(
            session.to_bytes(),
            [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b]
        );
    }
}
