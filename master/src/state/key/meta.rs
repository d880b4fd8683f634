//! Facts about the cluster, a row each. They are apart because they change at different times.

use gabion_protocol::ids::{ChunkId, ClusterId, Ino, ReplicaNumber, StateTime, Timeline, VolumeId};
use gabion_protocol::limits;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Moment, Value};

macro_rules! meta {
    ($(#[$doc:meta])* $key:ident = $field:literal => $value:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $key;

        impl Key for $key {
            const KIND: Kind = Kind::Meta;
            type Value = $value;

            fn write(&self, out: &mut Vec<u8>) {
                out.push($field);
            }

            fn read(fields: &mut Fields<'_>) -> Option<Self> {
                (fields.take::<1>()? == [$field]).then_some(Self)
            }
        }

        impl Value for $value {}
    };
}

meta!(
    /// Key of [`Cluster`].
    ClusterKey = 1 => Cluster
);
meta!(
    /// Key of [`Clock`].
    ClockKey = 2 => Clock
);
meta!(
    /// Key of [`Counters`].
    CountersKey = 3 => Counters
);
meta!(
    /// Key of [`Level`].
    LevelKey = 4 => Level
);
meta!(
    /// Key of [`TrashTerms`].
    TrashTermsKey = 8 => TrashTerms
);
meta!(
    /// Key of [`TrashTotal`].
    TrashTotalKey = 9 => TrashTotal
);
meta!(
    /// Key of [`LostTail`].
    LostTailKey = 22 => LostTail
);
meta!(
    /// Key of [`Balance`].
    BalanceKey = 30 => Balance
);

meta!(
    /// Key of [`Pins`].
    PinsKey = 12 => Pins
);
meta!(
    /// Key of [`Pruning`].
    PruningKey = 13 => Pruning
);
meta!(
    /// Key of [`QuotasInUse`].
    QuotasInUseKey = 32 => QuotasInUse
);

/// Which cluster this is, and its settings. Written by the first command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// Counts restorations from a backup.
    pub timeline: Timeline,
    /// Added to log indexes to make [`super::Moment`]s.
    pub moment_base: u64,
    /// What the operator chose.
    pub settings: Settings,
}

/// Defaults and periods all masters must agree on. Milliseconds are of state time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Copies of each chunk when an upload does not say.
    pub replicas: u8,
    /// Bytes of a chunk when an upload does not say.
    pub chunk_bytes: u64,
    /// How long a session lives without a command. Must not grow later: a session forgotten under the shorter
    /// period would look young under the longer one, and run its commands again.
    pub session_ms: u64,
    /// How long an upload lives without a word of its owner.
    pub upload_lease_ms: u64,
    /// How long the longest token is valid: unwanted chunks are kept that long.
    pub token_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: limits::REPLICAS_DEFAULT,
            chunk_bytes: limits::CHUNK_BYTES_DEFAULT,
            session_ms: limits::SESSION_MS,
            upload_lease_ms: limits::UPLOAD_LEASE_MS,
            token_ms: limits::TOKEN_MS,
        }
    }
}

/// State time. Only a tick moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// Now.
    pub now: StateTime,
    /// How far the rows by deadline are worked off.
    pub swept: Swept,
}

/// Before these times the rows by deadline are gone, so that a tick does not step over what earlier ticks removed:
/// a store keeps removed rows for a while, and stepping over a million of them takes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Swept {
    /// Of sessions.
    pub sessions: StateTime,
    /// Of upload leases.
    pub uploads: StateTime,
    /// Of trash.
    pub trash: StateTime,
    /// Of garbage.
    pub garbage: StateTime,
}

/// The next number of each sort. Numbers are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The next inode.
    pub ino: u64,
    /// The next chunk's counter within the timeline.
    pub chunk: u64,
    /// The next chunkserver.
    pub server: u32,
    /// The next replica.
    pub replica: u64,
}

/// The feature level: which commands and outcomes every master has announced to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// The level.
    pub level: u32,
}

/// What the trash is like. Written right after the first command; until then the default counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashTerms {
    /// How long what is removed can be restored, milliseconds of state time; 0 for not at all.
    pub keep_ms: u64,
}

impl Default for TrashTerms {
    fn default() -> Self {
        Self {
            keep_ms: limits::TRASH_MS,
        }
    }
}

/// What can be restored in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrashTotal {
    /// Removals.
    pub entries: u64,
    /// Files, those in trees too.
    pub files: u64,
    /// Directories, those in trees too.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Chunks that chunkservers hold and the masters know nothing of, though they were given out: masters lost their memory.
/// Written once that is seen, and kept for ever: these chunks are not removed, whatever is given out later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostTail {
    /// The timeline.
    pub timeline: Timeline,
    /// The first counter that may be forgotten.
    pub from: u64,
    /// The first one after them.
    pub to: u64,
    /// The first number of a copy that may be forgotten.
    pub number_from: u64,
    /// The first one after them.
    pub number_to: u64,
}

/// Whether copies are moved from full servers to empty ones. Written when an operator first says so; until then they
/// are: a new server fills up without anybody knowing a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Whether they are.
    pub runs: bool,
}

impl Default for Balance {
    fn default() -> Self {
        Self { runs: true }
    }
}

impl LostTail {
    /// Whether a chunk is one of them.
    #[must_use]
    pub fn holds(&self, chunk: ChunkId) -> bool {
        chunk.volume == VolumeId(0) && chunk.timeline == self.timeline && (self.from..self.to).contains(&chunk.counter)
    }

    /// Whether the number of a copy is one of them.
    #[must_use]
    pub fn holds_number(&self, number: ReplicaNumber) -> bool {
        (self.number_from..self.number_to).contains(&number.0)
    }
}

/// What history is kept for. Missing without snapshots: who changes something then reads no more than that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pins {
    /// All snapshots, the oldest first. A directory that is being copied counts as one more, perhaps of the same moment.
    pub live: Vec<Pin>,
}

/// A snapshot, without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What it shows: everything as it was after the command of this moment.
    pub moment: Moment,
    /// Of which directory.
    pub root: Ino,
}

/// How far history is pruned after snapshots were removed; missing when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pruning {
    /// Key of the last row of history that was looked at; empty at the beginning.
    pub last: Vec<u8>,
    /// Another snapshot was removed meanwhile: it begins again at the end.
    pub again: bool,
}

/// How many quotas and reservations there are. Missing without any: who writes then reads no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotasInUse {
    /// Directories that have one.
    pub quotas: u64,
    /// Uploads that hold room against quotas.
    pub reservations: u64,
}
