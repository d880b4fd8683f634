//! How many files are on their way at one time.
//!
//! A large file keeps the network busy by itself, a few of them also a slow peer's; of small ones many must be in flight,
//! because each waits for round trips and syncs that it shares with its neighbours. They all share few connections.

use std::sync::Arc;

use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Small files at one time, unless the user chose: the commands of one session in flight.
const SMALL: u32 = 64;
/// Large files at one time, unless the user chose.
const LARGE: u32 = 8;

/// Places for files on their way.
#[derive(Debug, Clone)]
pub(crate) struct Jobs {
    places: Arc<Semaphore>,
    most: u32,
    /// Places a large file takes.
    large: u32,
}

impl Jobs {
    /// As many as the user chose, of whatever size.
    pub(crate) fn new(chosen: Option<u8>) -> Self {
        let (most, large) = match chosen {
            Some(chosen) => (u32::from(chosen.max(1)), 1),
            None => (SMALL, SMALL / LARGE),
        };
        Self {
            places: Arc::new(Semaphore::new(most as usize)),
            most,
            large,
        }
    }

    /// Most files at one time.
    pub(crate) fn most(&self) -> usize {
        self.most as usize
    }

    /// Waits for a place for a file of so many bytes, in the order of asking; an unknown length counts as large.
    pub(crate) async fn begin(&self, length: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let is_small = length.is_some_and(|length| length <= SMALL_CHUNK_BYTES);
        let places = if is_small { 1 } else { self.large };
        // Nobody closes it.
        Arc::clone(&self.places).acquire_many_owned(places).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn large_files_take_the_place_of_several_small_ones() {
        let jobs = Jobs::new(None);
        let mut held = Vec::new();
        for _ in 0..LARGE {
            held.push(jobs.begin(None).now_or_never().flatten().expect("a place is free"));
        }
        assert!(jobs.begin(Some(1)).now_or_never().is_none(), "all places are taken");
        held.pop();
        for _ in 0..SMALL / LARGE {
            held.push(jobs.begin(Some(1)).now_or_never().flatten().expect("a place is free"));
        }
        assert!(jobs.begin(Some(1)).now_or_never().is_none(), "all places are taken");
    }

    #[tokio::test]
    async fn who_chooses_gets_what_he_chose() {
        let jobs = Jobs::new(Some(2));
        let (_a, _b) = (jobs.begin(None).await, jobs.begin(Some(1)).await);
        assert!(jobs.begin(Some(1)).now_or_never().is_none());
        assert_eq!(jobs.most(), 2);
    }
}
