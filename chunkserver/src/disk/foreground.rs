//! Whether a disk works for others now, so that background reads can give way.
//!
//! What counts is work on the disk: jobs of its threads that read and write, and changes of its index, those that still
//! wait for a thread included. Reads from the page cache do not touch the disk and do not count.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A disk without work for so long is taken for idle: a reader or writer asks for its next piece within it. As ZFS does
/// it (`zfs_scan_idle`).
const IDLE: Duration = Duration::from_millis(50);

/// Counts foreground work under way.
#[derive(Debug, Default)]
pub(crate) struct Foreground {
    state: Mutex<State>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    jobs: usize,
    ended: Option<Instant>,
}

/// A piece of foreground work; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Working(Arc<Foreground>);

impl Drop for Working {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.jobs -= 1;
        state.ended = Some(Instant::now());
        if state.jobs == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Foreground {
    /// A piece of work begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.state.lock().jobs += 1;
        Working(Arc::clone(self))
    }

    /// Since when there is no work; `None` while there is.
    fn idle_since(&self) -> Option<Option<Instant>> {
        let state = self.state.lock();
        (state.jobs == 0).then_some(state.ended)
    }

    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> bool {
        self.idle_since().is_none()
    }

    /// Waits until the disk is idle, at most for `patience`; tells whether it had to wait.
    pub(crate) async fn give_way(&self, patience: Duration) -> bool {
        let mut waited = false;
        let idle = async {
            loop {
                let ended = self.idle.notified();
                match self.idle_since() {
                    None => {
                        waited = true;
                        ended.await;
                    }
                    Some(Some(since)) if since.elapsed() < IDLE => {
                        waited = true;
                        sleep_until(since + IDLE).await;
                    }
                    Some(_) => return,
                }
            }
        };
        // Patience may end: a disk that is never idle is read, too.
        let _ = tokio::time::timeout(patience, idle).await;
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let ended = disk.idle_since().unwrap().unwrap();
        let (waited, at) = waiting.await.unwrap();
        assert!(waited && at >= ended + IDLE, "it let the next piece come");
        assert!(!disk.give_way(LONG).await);
    }

    #[tokio::test]
    async fn patience_ends() {
        let disk = Arc::new(Foreground::default());
        let _work = disk.begin();
        assert!(disk.give_way(MOMENT).await);
    }
}
