//! The one place that writes to standard output: it is for data only, everything else goes to standard error.

use std::io::Write as _;

/// Writes `text` to standard output.
///
/// # Errors
/// If it cannot be written, for example to a closed pipe.
pub fn data(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
