//! Whether there is work for others now, so that background work can give way.
//!
//! Each disk has one of these, for jobs of its threads that read and write and changes of its index, those that still
//! wait for a thread included; reads from the page cache do not touch the disk and do not count. The server has one for
//! what clients ask of it, wherever the bytes come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use gabion_protocol::process::monotonic;
use tokio::sync::Notify;

/// Nobody works any more after so long without work: a reader or writer asks for its next piece within it. As ZFS does
/// it (`zfs_scan_idle`).
const IDLE: Duration = Duration::from_millis(50);

/// Counts foreground work under way. Without locks: each request of each client comes by.
#[derive(Debug, Default)]
pub(crate) struct Foreground {
    jobs: AtomicUsize,
    /// When work ended last, in nanoseconds of the monotonic clock; zero if never.
    ended: AtomicU64,
    idle: Notify,
}

/// A piece of foreground work; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Working(Arc<Foreground>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.store(nanos(), Ordering::Relaxed);
        // Whoever sees no jobs sees when they ended.
        if self.0.jobs.fetch_sub(1, Ordering::Release) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

fn nanos() -> u64 {
    u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX)
}

impl Foreground {
    /// A piece of work begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// How long to wait until nobody works any more, if nobody begins; `None` while somebody does.
    fn idle_in(&self) -> Option<Duration> {
        if self.jobs.load(Ordering::Acquire) > 0 {
            return None;
        }
        let ended = Duration::from_nanos(self.ended.load(Ordering::Relaxed));
        if ended.is_zero() {
            return Some(Duration::ZERO);
        }
        Some((ended + IDLE).saturating_sub(monotonic()))
    }

    /// Whether somebody works, or may at any moment ask for the next piece.
    pub(crate) fn is_busy(&self) -> bool {
        self.idle_in() != Some(Duration::ZERO)
    }

    /// Whether somebody works at this moment.
    #[cfg(test)]
    pub(crate) fn has_work(&self) -> bool {
        self.idle_in().is_none()
    }

    /// Waits until nobody works any more.
    pub(crate) async fn until_idle(&self) {
        loop {
            let ended = self.idle.notified();
            match self.idle_in() {
                None => ended.await,
                Some(Duration::ZERO) => return,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Waits until the disk is idle, at most for `patience`; tells whether it had to wait.
    pub(crate) async fn give_way(&self, patience: Duration) -> bool {
        if !self.is_busy() {
            return false;
        }
        // Patience may end: a disk that is never idle is read, too.
        let _ = tokio::time::timeout(patience, self.until_idle()).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const LONG: Duration = Duration::from_secs(3600);

    /// Long enough for a wait that ends too early to show.
    const MOMENT: Duration = Duration::from_millis(150);

    #[tokio::test]
    async fn waits_for_the_end_of_work_and_for_its_next_piece() {
        let disk = Arc::new(Foreground::default());
        assert!(!disk.give_way(LONG).await, "nobody works");
        let first = disk.begin();
        let second = disk.begin();
        let waiting = {
            let disk = Arc::clone(&disk);
            tokio::spawn(async move { (disk.give_way(LONG).await, Instant::now()) })
        };
        drop(first);
        tokio::time::sleep(MOMENT).await;
        assert!(!waiting.is_finished(), "one piece is still under way");
        drop(second);
        let next = disk.begin();
        tokio::time::sleep(MOMENT).await;
        assert!(!waiting.is_finished(), "the next piece came within a moment");
        drop(next);
        let ended = Instant::now();
        let (waited, at) = waiting.await.unwrap();
        // A timer of the runtime may be a millisecond early against the system's clock.
        assert!(
            waited && at + Duration::from_millis(2) >= ended + IDLE,
            "it let the next piece come"
        );
        assert!(!disk.give_way(LONG).await);
    }

    #[tokio::test]
    async fn patience_ends() {
        let disk = Arc::new(Foreground::default());
        let _work = disk.begin();
        assert!(disk.give_way(MOMENT).await);
    }
}
