//! Waiting for events. Nothing in the suites sleeps and hopes: it is told of the event, or polls for what it needs, with a
//! deadline.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Between two polls: short against every time-out of the system.
const POLL: Duration = Duration::from_millis(20);

/// Waits that last longer are told if they are asked for.
const NOTICED: Duration = Duration::from_millis(100);

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
    let began = Instant::now();
    let given = try_until(deadline, poll).unwrap_or_else(|| panic!("waited {deadline:?} in vain: {what}"));
    tell(what, began);
    given
}

/// With `GABION_TEST_TIMES=1`, says what a test waited for since `began` if it was not for a moment only: what makes a
/// suite long.
pub(crate) fn tell(what: &str, began: Instant) {
    let took = began.elapsed();
    if took > NOTICED && std::env::var_os("GABION_TEST_TIMES").is_some() {
        eprintln!("{:7.2} s {what}", took.as_secs_f64());
    }
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
    let began = Instant::now();
    while began.elapsed() < span {
        if let Some(why) = broken() {
            panic!("{why}");
        }
        std::thread::sleep(POLL);
    }
    tell("(watching that nothing happens)", began);
}

/// How a child ended, as soon as it has; `None` after `deadline`. The suites run thousands of commands that take some
/// milliseconds each: the kernel tells of their end, nobody looks again and again.
///
/// # Panics
/// If the kernel cannot tell (it can since Linux 5.3).
pub fn end_of(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let ended = |child: &mut Child| child.try_wait().expect("a child can be waited for");
    // Also because one that was waited for before has no process id any more.
    if let Some(status) = ended(child) {
        return Some(status);
    }
    let end = Instant::now() + deadline;
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a child has a process id");
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("deadlines are short");
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
            Ok(0) => return ended(child),
            // Of a process that is traced its tracer hears first; then it is ours to wait for.
            Ok(_) => return try_until(end.saturating_duration_since(Instant::now()), || ended(child)),
            Err(Errno::INTR) => {}
            Err(error) => panic!("cannot wait for process {}: {error}", child.id()),
        }
    }
}
