//! Waiting for events. Nothing in the suites sleeps and hopes: it polls for what it needs, with a deadline.

use std::time::{Duration, Instant};

/// Between two polls: short against every time-out of the system.
const POLL: Duration = Duration::from_millis(20);

/// So many seconds.
#[must_use]
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Polls until `poll` gives something.
///
/// # Panics
/// After `deadline`, naming `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, poll: impl FnMut() -> Option<T>) -> T {
    try_until(deadline, poll).unwrap_or_else(|| panic!("waited {deadline:?} in vain: {what}"))
}

/// Polls until `poll` gives something; `None` after `deadline`.
pub fn try_until<T>(deadline: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = poll() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Lets `span` pass while watching: panics with `broken`'s words as soon as it gives any. For promises that something
/// does *not* happen.
///
/// # Panics
/// With what `broken` says.
#[track_caller]
pub fn watch(span: Duration, mut broken: impl FnMut() -> Option<String>) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Some(why) = broken() {
            panic!("{why}");
        }
        std::thread::sleep(POLL);
    }
}
