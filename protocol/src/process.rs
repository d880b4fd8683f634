//! What every server process does at start: logs to stderr, aborts on panic, raises its file limit, hears signals.

use std::time::Duration;

/// Logs to stderr, as `RUST_LOG` says (`info` if it says nothing). Standard output is for data.
pub fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=error"));
    // Fails only if logging is set up already, as in tests that start servers in one process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(rustix::termios::isatty(std::io::stderr()))
        .try_init();
}

/// Makes any panic end the process: a server with a dead task would promise what it no longer does.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Raises the soft limit of open files to the hard limit and returns it.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// Threads of a runtime that moves bytes: half of the cores, at least one.
///
/// Whoever receives, checks and sends needs the other half: disk threads, the kernel's network work, and on a small
/// machine the processes at the other ends. A second thread on two cores mostly wakes the first one up; it cost random
/// reads a third and uploads a tenth (ops/BENCHMARKS.md). `TOKIO_WORKER_THREADS` overrides it.
#[must_use]
pub fn byte_threads() -> usize {
    let asked = std::env::var("TOKIO_WORKER_THREADS").ok();
    let asked = asked
        .and_then(|threads| threads.parse().ok())
        .filter(|threads| *threads > 0);
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)))
}

/// Waits for SIGTERM or SIGINT: the request to stop gracefully.
///
/// # Errors
/// If the signals cannot be watched.
pub async fn stop_requested() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Monotonic time that stands still while the machine is suspended.
#[must_use]
pub fn monotonic() -> Duration {
    clock(rustix::time::ClockId::Monotonic)
}

/// Monotonic time that goes on while the machine is suspended. Its distance from [`monotonic`] grows by each suspend.
#[must_use]
pub fn boottime() -> Duration {
    clock(rustix::time::ClockId::Boottime)
}

fn clock(id: rustix::time::ClockId) -> Duration {
    let now = rustix::time::clock_gettime(id);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Whether a text is that of a disk without room for us, a quota's end included. RocksDB, and whatever wraps an error
/// into a text, tells it in words only: the system's, and those of [`std::io::ErrorKind`].
#[must_use]
pub fn says_full(text: &str) -> bool {
    [
        "No space left on device",
        "Disk quota exceeded",
        "no storage space",
        "quota exceeded",
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_its_words() {
        use rustix::io::Errno;
        use std::io::{Error, ErrorKind};
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let text = Error::from_raw_os_error(errno.raw_os_error()).to_string();
            assert!(says_full(&format!("IO error: while appending: {text}")), "{text}");
        }
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(says_full(&Error::from(kind).to_string()), "{kind}");
        }
        assert!(!says_full(
            &Error::from_raw_os_error(Errno::IO.raw_os_error()).to_string()
        ));
    }
}
