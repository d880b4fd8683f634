//! How the disks are, as the masters are told, and what is to leave one that fails or is drained.
//!
//! A disk on which a write failed serves what it has. Nobody should count on that for long, so the masters are told of its
//! copies, some at a time and in turn, and have others made from them. They go by drop orders, like any that are too much. The
//! same becomes of a disk that an operator wants empty.

use gabion_protocol::limits::{DISKS_MAX, ERROR_TEXT_BYTES_MAX};
use gabion_protocol::messages::master::{DiskInfo, DiskState};
use gabion_protocol::{ChunkId, ReplicaNumber};

use super::directory::{Disk, Space};
use super::error::DiskError;
use super::record::State;
use super::store::Store;

impl Store {
    /// How each disk is, those that could not be opened too.
    pub(crate) fn disk_infos(&self) -> Vec<DiskInfo> {
        let absent = self.absent().iter().map(|(dir, error)| DiskInfo {
            disk: None,
            directory: clipped(&dir.display().to_string()),
            state: DiskState::OutOfService,
            why: clipped(&error.to_string()),
            bytes_total: 0,
            bytes_free: 0,
            copies: None,
        });
        let opened = self.disks().iter().map(|disk| disk.info());
        opened.chain(absent).take(DISKS_MAX).collect()
    }

    /// Sealed copies on failing and draining disks of chunks after `after`, at most `limit`; and after which chunk to go on, unless
    /// that were all.
    ///
    /// # Errors
    /// [`DiskError`] if such a disk cannot tell.
    pub(crate) async fn leaving(
        &self,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<(Vec<(ChunkId, ReplicaNumber)>, Option<ChunkId>), DiskError> {
        let (mut copies, mut more) = (Vec::new(), false);
        for disk in self.serving().filter(|disk| disk.is_failing() || disk.is_draining()) {
            let index = disk.index()?;
            let list = move || {
                let mut found = Vec::new();
                index.records_from(after, |chunk, record| {
                    if record.state == State::Sealed && Some(chunk) != after {
                        found.push((chunk, record.replica));
                    }
                    found.len() < limit
                })?;
                Ok(found)
            };
            let found = disk.reads.run(list).await.inspect_err(|error| disk.note(error))?;
            more |= found.len() == limit;
            copies.extend(found);
        }
        copies.sort_unstable();
        more |= copies.len() > limit;
        copies.truncate(limit);
        let next = copies.last().filter(|_| more).map(|(chunk, _)| *chunk);
        Ok((copies, next))
    }
}

impl Store {
    /// Obeys an operator's word about the disk with this number; one that is not there or does not serve cannot.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) async fn set_draining(&self, disk: [u8; 16], drain: bool) -> Result<(), DiskError> {
        let Some(disk) = self.serving().find(|one| one.identity().disk.0 == disk).cloned() else {
            return Ok(());
        };
        let (obeying, store) = (std::sync::Arc::clone(&disk), self.clone());
        let obeyed = async move { disk.writes.run(move || obeying.set_draining(drain)).await };
        store.to_the_end(obeyed).await
    }
}

impl Disk {
    fn info(&self) -> DiskInfo {
        let space = Space::of(&self.dir).unwrap_or_default();
        let spare = space.free.saturating_sub(self.reserve);
        let failed = self.index().err().map(|error| error.to_string());
        let (state, why) = match failed {
            Some(why) => (DiskState::OutOfService, why),
            None if self.is_failing() => {
                let why = "writing to it failed; it takes no new chunks until the server is restarted";
                (DiskState::Failing, why.to_owned())
            }
            None if self.is_draining() => (DiskState::Draining, "an operator wants it empty".to_owned()),
            None if spare == 0 || !self.writable(space.free) => {
                let why = format!("{} bytes are free, its reserve is {}", space.free, self.reserve);
                (DiskState::Full, why)
            }
            None => (DiskState::Serving, String::new()),
        };
        DiskInfo {
            disk: Some(self.identity().disk.0),
            directory: clipped(&self.dir.display().to_string()),
            state,
            why: clipped(&why),
            bytes_total: space.total,
            bytes_free: if state == DiskState::Serving { spare } else { 0 },
            copies: Some(self.holdings.copies()),
        }
    }
}

fn clipped(text: &str) -> String {
    let longest = ERROR_TEXT_BYTES_MAX.min(text.len());
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}
