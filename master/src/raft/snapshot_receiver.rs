//! Receives a snapshot into `incoming/`, one at a time, resumable.
//!
//! Parts arrive in order and are appended to their file. After a broken transfer the same snapshot may be offered
//! again, by the same leader or another: a file that is complete and has the announced CRC is kept; of one that is
//! incomplete the bytes that are there are kept, and the whole is verified at the end. What is not announced is
//! removed. A snapshot is handed on only when every file has its length and CRC and is synced.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use gabion_protocol::error::{ErrorCode, WireError};

use super::snapshots::{SnapshotDir, SnapshotFile, Snapshots, measure};
use super::types::LogId;
use crate::store::durable;

/// Files of one snapshot, against a peer that announces without end.
const FILES_MAX: usize = 100_000;

/// The transfer under way.
struct Transfer {
    last: Option<LogId>,
    files: Vec<SnapshotFile>,
    open: Option<(usize, File)>,
}

/// What receives snapshots.
pub(crate) struct SnapshotReceiver {
    dir: PathBuf,
    transfer: Option<Transfer>,
}

fn disk(error: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::DiskFailed, format!("cannot store the snapshot: {error}"))
}

fn refused(why: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, why)
}

/// Only names RocksDB gives its files: no path may lead out of the directory.
fn is_plain_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(allowed)
}

impl SnapshotReceiver {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, transfer: None }
    }

    /// Begins or resumes a transfer; says of each file how many of its first bytes are here.
    pub(crate) fn offer(&mut self, last: Option<LogId>, files: Vec<SnapshotFile>) -> Result<Vec<u64>, WireError> {
        if files.len() > FILES_MAX || !files.iter().all(|file| is_plain_name(&file.name)) {
            return Err(refused("the snapshot's list of files makes no sense"));
        }
        self.transfer = None;
        durable::create_dir(&self.dir).map_err(disk)?;
        for name in durable::list(&self.dir).map_err(disk)? {
            if !files.iter().any(|file| file.name == name) {
                std::fs::remove_file(self.dir.join(name)).map_err(disk)?;
            }
        }
        let have = files.iter().map(|file| self.have(file)).collect::<Result<_, _>>()?;
        self.transfer = Some(Transfer {
            last,
            files,
            open: None,
        });
        Ok(have)
    }

    fn have(&self, file: &SnapshotFile) -> Result<u64, WireError> {
        let path = self.dir.join(&file.name);
        let Ok(metadata) = std::fs::metadata(&path) else {
            File::options().write(true).create_new(true).open(&path).map_err(disk)?;
            return Ok(0);
        };
        if metadata.len() < file.bytes {
            return Ok(metadata.len());
        }
        if measure(&path).map_err(disk)? == (file.bytes, file.crc) {
            return Ok(file.bytes);
        }
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|damaged| damaged.set_len(0))
            .map_err(disk)?;
        Ok(0)
    }

    /// Stores a part.
    pub(crate) fn store(&mut self, index: u32, offset: u64, crc: u32, part: &[u8]) -> Result<(), WireError> {
        let Some(transfer) = &mut self.transfer else {
            return Err(refused("no snapshot was offered on this side; offer it again"));
        };
        let index = index as usize;
        let Some(file) = transfer.files.get(index) else {
            return Err(refused(format!("the snapshot has no file {index}")));
        };
        if crc32fast::hash(part) != crc {
            return Err(WireError::new(
                ErrorCode::ChecksumMismatch,
                format!("a part of {} changed on the way", file.name),
            ));
        }
        if transfer.open.as_ref().is_none_or(|(open, _)| *open != index) {
            let path = self.dir.join(&file.name);
            let opened = OpenOptions::new().write(true).open(path).map_err(disk)?;
            transfer.open = Some((index, opened));
        }
        let Some((_, open)) = &transfer.open else {
            unreachable!("opened just now");
        };
        let length = open.metadata().map_err(disk)?.len();
        if offset != length || part.len() as u64 > file.bytes.saturating_sub(offset) {
            return Err(refused(format!(
                "a part of {} bytes at {offset} does not follow the {length} bytes of {} that are here",
                part.len(),
                file.name
            )));
        }
        open.write_all_at(part, offset).map_err(disk)
    }

    /// Verifies and syncs everything and hands the snapshot on.
    pub(crate) fn finish(&mut self, last: Option<LogId>, snapshots: &Snapshots) -> Result<Arc<SnapshotDir>, WireError> {
        let Some(transfer) = self.transfer.take().filter(|transfer| transfer.last == last) else {
            return Err(refused("another snapshot was offered meanwhile; offer it again"));
        };
        for file in &transfer.files {
            let path = self.dir.join(&file.name);
            if measure(&path).map_err(disk)? != (file.bytes, file.crc) {
                // Nothing of it can be trusted: the next transfer sends it whole.
                std::fs::remove_file(&path).map_err(disk)?;
                return Err(WireError::new(
                    ErrorCode::ChecksumMismatch,
                    format!("{} arrived damaged", file.name),
                ));
            }
            durable::sync_file(&path).map_err(disk)?;
        }
        durable::sync_dir(&self.dir).map_err(disk)?;
        let snapshot = snapshots.adopt_received(&self.dir).map_err(disk)?;
        if snapshot.applied().last != last {
            return Err(WireError::new(
                ErrorCode::Corrupt,
                format!(
                    "the snapshot covers {:?}, announced was {last:?}",
                    snapshot.applied().last
                ),
            ));
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::codec::AppliedState;
    use crate::raft::types::log_id;
    use crate::store::memory::{Memory, MemoryLimits};
    use crate::store::state_db::StateDb;

    fn send_all(receiver: &mut SnapshotReceiver, from: &SnapshotDir, parts_max: usize) -> Result<usize, WireError> {
        let files = from.files().unwrap().to_vec();
        let have = receiver.offer(from.applied().last, files.clone())?;
        let mut parts = 0;
        for (index, (file, have)) in files.iter().zip(have).enumerate() {
            let bytes = std::fs::read(from.path().join(&file.name)).unwrap();
            let mut offset = usize::try_from(have).unwrap();
            while offset < bytes.len() && parts < parts_max {
                let part = &bytes[offset..bytes.len().min(offset + 1000)];
                receiver.store(index as u32, offset as u64, crc32fast::hash(part), part)?;
                offset += part.len();
                parts += 1;
            }
        }
        Ok(parts)
    }

    #[test]
    fn a_broken_transfer_is_resumed_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(MemoryLimits::default());
        let db = StateDb::open(&dir.path().join("db"), &memory).unwrap();
        let applied = AppliedState {
            last: Some(log_id(1, 1, 5)),
            ..AppliedState::default()
        };
        let mut rows = (0..200u8)
            .map(|key| (vec![key.max(1), key], Some(vec![key; 100])))
            .collect();
        db.store(&mut rows, &applied).unwrap();
        let sender = Snapshots::open(&dir.path().join("sender"), &memory).unwrap();
        let snapshot = sender.build(&db).unwrap();
        let snapshots = Snapshots::open(&dir.path().join("receiver"), &memory).unwrap();
        let incoming = dir.path().join("incoming");

        let mut receiver = SnapshotReceiver::new(incoming.clone());
        let first = send_all(&mut receiver, &snapshot, 3).unwrap();
        assert_eq!(first, 3);
        assert!(receiver.finish(applied.last, &snapshots).is_err(), "incomplete");
        // The process restarts: what is there is kept. One flipped bit is found at the end, and sent again.
        let mut receiver = SnapshotReceiver::new(incoming.clone());
        let rest = send_all(&mut receiver, &snapshot, usize::MAX).unwrap();
        let sst = durable::list(&incoming)
            .unwrap()
            .into_iter()
            .find(|name| name.ends_with(".sst"))
            .unwrap();
        let mut bytes = std::fs::read(incoming.join(&sst)).unwrap();
        bytes[10] ^= 1;
        durable::write_file(&incoming.join(&sst), &bytes).unwrap();
        let damaged = receiver.finish(applied.last, &snapshots).unwrap_err();
        assert_eq!(damaged.code, ErrorCode::ChecksumMismatch);
        let again = send_all(&mut receiver, &snapshot, usize::MAX).unwrap();
        assert!(0 < again && again < rest + 3, "only the damaged file is sent again");
        let received = receiver.finish(applied.last, &snapshots).unwrap();
        assert_eq!(received.applied(), &applied);
    }

    #[test]
    fn hostile_offers_and_parts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut receiver = SnapshotReceiver::new(dir.path().join("incoming"));
        let file = |name: &str| SnapshotFile {
            name: name.into(),
            bytes: 4,
            crc: 0,
        };
        for name in ["", "../x", "a/b", ".hidden", "/etc/passwd", "a\0"] {
            assert!(receiver.offer(None, vec![file(name)]).is_err(), "{name:?}");
        }
        assert!(receiver.store(0, 0, 0, b"").is_err(), "nothing offered");
        receiver.offer(None, vec![file("a.sst")]).unwrap();
        let crc = crc32fast::hash(b"abc");
        assert!(receiver.store(1, 0, crc, b"abc").is_err(), "no such file");
        assert!(receiver.store(0, 2, crc, b"abc").is_err(), "leaves a hole");
        assert!(receiver.store(0, 0, crc ^ 1, b"abc").is_err(), "damaged");
        receiver.store(0, 0, crc, b"abc").unwrap();
        assert!(receiver.store(0, 3, crc, b"abc").is_err(), "longer than announced");
    }
}
