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
