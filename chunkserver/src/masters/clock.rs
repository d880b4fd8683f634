//! An estimate of state time: what a master said last, plus what our own clock has measured since.

use std::time::Duration;

use gabion_protocol::StateTime;
use gabion_protocol::process::boottime;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// State time as this server estimates it. Time goes on while the machine is suspended: a token does not live longer
/// because its server slept.
#[derive(Debug, Default)]
pub struct StateClock {
    heard: Mutex<Option<(StateTime, Duration)>>,
    told: Notify,
}

impl StateClock {
    /// The estimate; `None` before a master told the time.
    #[must_use]
    pub fn now(&self) -> Option<StateTime> {
        self.at(boottime())
    }

    fn at(&self, local: Duration) -> Option<StateTime> {
        let (said, at) = (*self.heard.lock())?;
        let elapsed = u64::try_from(local.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        Some(said.plus(elapsed))
    }

    /// Takes what a master said. The leader's word counts; a follower may lag, so its word counts only if it is later
    /// than the estimate.
    pub(super) fn hear(&self, said: StateTime, from_leader: bool) {
        self.hear_at(said, from_leader, boottime());
    }

    fn hear_at(&self, said: StateTime, from_leader: bool, local: Duration) {
        let estimate = self.at(local);
        if from_leader || estimate.is_none_or(|estimate| said > estimate) {
            *self.heard.lock() = Some((said, local));
            self.told.notify_waiters();
        }
    }

    /// Waits until a master told the time.
    pub(super) async fn known(&self) {
        loop {
            let told = self.told.notified();
            if self.now().is_some() {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_counts_and_a_lagging_follower_does_not() {
        let clock = StateClock::default();
        let second = Duration::from_secs(1);
        assert_eq!(clock.at(second), None);
        clock.hear_at(StateTime(500), false, second);
        assert_eq!(clock.at(second * 2), Some(StateTime(1500)));
        clock.hear_at(StateTime(900), false, second * 2);
        assert_eq!(clock.at(second * 2), Some(StateTime(1500)), "a follower lags");
        clock.hear_at(StateTime(1400), true, second * 2);
        assert_eq!(clock.at(second * 2), Some(StateTime(1400)), "the leader does not");
    }
}
