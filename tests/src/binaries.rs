//! Where the binaries under test are: beside the test's own executable, so that tests and binaries are of one build.

use std::path::PathBuf;

/// The path of a binary of this workspace.
///
/// # Panics
/// If it has not been built: a test that silently ran another one would prove nothing.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    // target/release/deps/suite-0123 -> target/release
    let built = test
        .ancestors()
        .nth(2)
        .expect("test executables are in target/PROFILE/deps");
    let path = built.join(name);
    assert!(
        path.is_file(),
        "{} does not exist: run `cargo build --release` first (the tests drive real binaries)",
        path.display()
    );
    path
}
