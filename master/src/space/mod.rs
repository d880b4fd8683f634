//! Room on a master's disk: watched, and kept in reserve for the way out.
//!
//! A master whose disk is full cannot go on, and three such masters are an outage that no deletion ends: a deletion is
//! a log entry. So each master keeps a file of real blocks, `reserve`, in its directory, and says that it is *low*
//! while there is still room for what RocksDB writes on its own. The leader then accepts only what frees room or adds
//! nothing (see [`judge::grows`]). When the file system is really full the reserve is given back to it, so that
//! deletions, the removal of old log entries and a restart go on; it is made anew when there is room for it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`judge`] | pure: marks, what to do about what was seen, what a leader takes from a cluster that is low |
//! | `reserve` | the file, and the file system's numbers |
//!
//! Invariants: one low master of three changes nothing for clients; deletions, ticks, leases and purge are never
//! refused for lack of room; a master that was low takes writes again without a restart.

pub mod judge;
mod reserve;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gabion_protocol::process::{monotonic, says_full};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use judge::{Judge, Marks, Seen, Step};
use reserve::ReserveFile;

/// Wait between two attempts to write to a disk that was full. RocksDB looks for room every 5 s.
const AGAIN: Duration = Duration::from_millis(200);
/// Longest time to go on so. RocksDB needs up to two of its looks.
const AGAIN_MAX: Duration = Duration::from_secs(15);

/// How much room there is. The order is the wire format: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Enough.
    Enough,
    /// Less than what RocksDB may write on its own; the reserve is there.
    Low,
    /// The reserve has been given back, or could not be made yet.
    Spent,
}

/// What a master says about its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// How much room there is.
    pub level: Level,
    /// Bytes free, without the reserve.
    pub free: u64,
    /// Bytes that must be free for writes to be taken again.
    pub needed: u64,
    /// The directory.
    pub dir: String,
}

/// What a master's configuration says of it.
#[derive(Debug, Clone, Copy)]
pub struct SpaceOptions {
    /// Bytes of the reserve; by the size of the disk if `None`.
    pub reserve: Option<u64>,
    /// Bytes of one of RocksDB's write buffers.
    pub write_buffer: u64,
    /// Bytes of all of them.
    pub write_buffers: u64,
}

/// A master's disk and its reserve.
#[derive(Debug)]
pub struct Space {
    file: ReserveFile,
    state: Mutex<State>,
    #[cfg(test)]
    pretended: Mutex<Option<Level>>,
}

#[derive(Debug)]
struct State {
    judge: Judge,
    room: Room,
}

/// Whether an error says, somewhere among its causes, that a disk is full.
#[must_use]
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let storage_full = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
        // RocksDB tells it in words only; so does whatever wraps an error into a text.
        if storage_full || says_full(&error.to_string()) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Space {
    /// Looks at the disk of a locked directory before anything is written to it: a full disk gets its reserve back at
    /// once, one with room a reserve.
    ///
    /// # Errors
    /// [`StoreError`] if the file system does not answer.
    pub(crate) fn open(dir: &Path, options: SpaceOptions) -> Result<Arc<Self>, StoreError> {
        let mut file = ReserveFile::new(dir);
        let marks = Marks::of(file.disk_bytes()?, options);
        file.set_bytes(marks.reserve);
        let space = Self {
            file,
            state: Mutex::new(State {
                judge: Judge::new(marks),
                room: Room {
                    level: Level::Enough,
                    free: 0,
                    needed: 0,
                    dir: dir.display().to_string(),
                },
            }),
            #[cfg(test)]
            pretended: Mutex::default(),
        };
        space.look_once(true)?;
        Ok(Arc::new(space))
    }

    /// What was seen last.
    #[must_use]
    pub fn room(&self) -> Room {
        let room = self.state.lock().room.clone();
        #[cfg(test)]
        let room = Room {
            level: self.pretended.lock().unwrap_or(room.level),
            ..room
        };
        room
    }

    /// As if there were so much room.
    #[cfg(test)]
    pub(crate) fn pretend(&self, level: Option<Level>) {
        *self.pretended.lock() = level;
    }

    /// Looks at the disk, and gives the reserve back or makes it anew if it is time. Waits for the disk.
    pub(crate) fn look(&self) {
        if let Err(error) = self.look_once(false) {
            tracing::error!(%error, "cannot look at the room on this master's disk");
        }
    }

    /// A write has failed for lack of room: gives the reserve back, if it is there. Whether it goes on to make sense.
    fn relieve(&self) -> bool {
        let held = self.file.is_held();
        if let Err(error) = self.look_once(true) {
            tracing::error!(%error, "cannot look at the room on this master's disk");
        }
        if held && self.file.is_held() {
            // There was room when we looked, and yet none for the write.
            self.file.release();
        }
        let state = self.state.lock();
        held || state.room.free >= state.judge.marks().full
    }

    fn look_once(&self, urgent: bool) -> Result<(), StoreError> {
        // The lock also keeps two threads from making the reserve at a time.
        let mut state = self.state.lock();
        let seen = Seen {
            free: self.file.free()?,
            held: self.file.is_held(),
            now: monotonic(),
            urgent,
        };
        match state.judge.look(seen) {
            Step::Keep => {}
            Step::Release => self.file.release(),
            Step::Make => self.file.make(),
        }
        let before = state.room.level;
        let (free, held) = (self.file.free()?, self.file.is_held());
        let level = state.judge.level(free, held);
        let marks = *state.judge.marks();
        state.room.level = level;
        state.room.free = free;
        state.room.needed = marks.needed(held);
        let room = &state.room;
        match level {
            _ if level == before => {}
            Level::Enough => tracing::info!(free, "this master's disk has enough room again"),
            Level::Low | Level::Spent => tracing::error!(
                free,
                needed = room.needed,
                dir = room.dir,
                reserve = held,
                "this master's disk is nearly full: make room"
            ),
        }
        Ok(())
    }

    /// Writes, and writes again while the disk is full and the reserve, or RocksDB's own recovery, may help. Waits.
    ///
    /// # Errors
    /// Of the last attempt.
    pub(crate) fn with_relief<T, E: std::error::Error + 'static>(
        &self,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        loop {
            let error = match write() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !is_full(&error) || began.elapsed() > AGAIN_MAX || !self.relieve() {
                return Err(error);
            }
            tracing::warn!(%error, "the disk was full; trying again");
            std::thread::sleep(AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_its_cause() {
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        assert!(is_full(&full()));
        assert!(is_full(&StoreError::file("write", "/x")(full())));
        let os = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        assert!(says_full(&os.to_string()), "{os}");
        assert!(!is_full(&std::io::Error::other("bad")));
    }

    #[test]
    fn a_reserve_is_of_real_blocks_and_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let options = SpaceOptions {
            reserve: Some(1 << 20),
            write_buffer: 1,
            write_buffers: 1,
        };
        let space = Space::open(dir.path(), options).unwrap();
        assert_eq!(space.room().level, Level::Enough);
        let path = dir.path().join("reserve");
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap()) * 512;
        assert!(blocks() >= 1 << 20, "it must not be sparse");
        // A write that fails for lack of room gets the reserve, once, and is tried again.
        let mut attempts = 0;
        let done = space.with_relief(|| {
            attempts += 1;
            if path.exists() {
                return Err(std::io::Error::from(ErrorKind::StorageFull));
            }
            Ok(())
        });
        assert!(done.is_ok() && attempts == 2, "{done:?} after {attempts}");
        // There is room on this disk, so that the next look makes it anew.
        space.look();
        assert!(blocks() >= 1 << 20);
        let other = space.with_relief(|| Err::<(), _>(std::io::Error::other("bad")));
        assert!(other.is_err() && path.exists(), "other errors are no reason");
        // Another size is made anew, none removes it.
        let smaller = SpaceOptions {
            reserve: Some(64 << 10),
            ..options
        };
        drop(Space::open(dir.path(), smaller).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 10);
        let none = SpaceOptions {
            reserve: Some(0),
            ..options
        };
        assert_eq!(Space::open(dir.path(), none).unwrap().room().level, Level::Enough);
        assert!(!path.exists());
    }
}
