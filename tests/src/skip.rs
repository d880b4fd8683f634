//! Tests that cannot run on this machine: they say so where the test runner does not hide it.

use std::io::Write as _;

/// Says that `test` did not run, and why. Lines that begin with `skipped:` are counted by `ops/test`.
///
/// # Panics
/// If `GABION_TEST_NO_SKIP` is set: where everything is installed, a skip is a failure.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("GABION_TEST_NO_SKIP").is_none(),
        "{test} cannot run here: {why}"
    );
    // Past the test runner's capture, which would hide it as the test "passes".
    let mut stderr = std::io::stderr().lock();
    // A closed stderr must not fail the test.
    let _ = writeln!(stderr, "skipped: {test}: {why}");
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why `tools` cannot be used as root, if so.
#[must_use]
pub fn missing(tools: &[&str]) -> Option<String> {
    if !is_root() {
        return Some("needs root".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = |tool: &str| path.split(':').any(|dir| std::path::Path::new(dir).join(tool).exists());
    tools
        .iter()
        .find(|tool| !found(tool))
        .map(|tool| format!("needs {tool}, which is not installed"))
}
