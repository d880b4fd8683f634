//! Notices that the machine slept: the monotonic clock stands still then, so a lease that looks fresh may be old.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Clocks read one after the other differ by this much at most on a machine that did not sleep.
const JITTER: Duration = Duration::from_millis(20);

/// Time slept since the machine's start: the boot clock counts sleep, the monotonic one does not.
fn slept() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    };
    let monotonic = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(monotonic)
}

/// Remembers how long the machine had slept when the leader's lease was last proven.
#[derive(Debug)]
pub(crate) struct SleepWatch {
    known: AtomicU64,
    /// Milliseconds of sleep that tests make up.
    #[cfg(test)]
    made_up: AtomicU64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl SleepWatch {
    pub(crate) fn new() -> Self {
        Self {
            known: AtomicU64::new(millis(slept())),
            #[cfg(test)]
            made_up: AtomicU64::new(0),
        }
    }

    /// How long the machine has slept, if that is more than when [`Self::proven`] was last called.
    pub(crate) fn new_sleep(&self) -> Option<u64> {
        self.new_sleep_at(self.now())
    }

    #[cfg(not(test))]
    fn now(&self) -> u64 {
        millis(slept())
    }

    #[cfg(test)]
    fn now(&self) -> u64 {
        millis(slept()) + self.made_up.load(Ordering::Acquire)
    }

    /// As if the machine had slept.
    #[cfg(test)]
    pub(crate) fn make_up(&self, sleep: Duration) {
        self.made_up.fetch_add(millis(sleep), Ordering::AcqRel);
    }

    fn new_sleep_at(&self, now: u64) -> Option<u64> {
        let known = self.known.load(Ordering::Acquire);
        (now > known.saturating_add(millis(JITTER))).then_some(now)
    }

    /// The lease was proven after the machine had slept this long.
    pub(crate) fn proven(&self, slept: u64) {
        self.known.fetch_max(slept, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_seen_until_the_lease_is_proven_again() {
        let watch = SleepWatch::new();
        assert_eq!(watch.new_sleep(), None);
        let later = millis(slept()) + 1000;
        assert_eq!(watch.new_sleep_at(later), Some(later));
        assert_eq!(watch.new_sleep_at(later), Some(later), "until it is proven");
        watch.proven(later);
        assert_eq!(watch.new_sleep_at(later), None);
    }
}
