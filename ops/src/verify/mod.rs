//! Verification: every check names what it found and where, and ends with one summary line.
//!
//! | module | what is compared |
//! |---|---|
//! | [`tree`] | a local tree with one of the cluster, both ways, by content |
//! | [`replicas`] | every copy of every chunk, read again by its server, with what the masters hold |
//! | [`masters`] | the masters' state with each other's, at one log index |
//! | [`offline`] | the directory of a stopped server with its own checksums |
//!
//! Nothing here changes anything, but for damage that is reported to the masters. Exit codes: 7 if bytes are wrong
//! or a state differs, else 8 if something is missing or could not be looked at, else 0.

pub mod masters;
pub mod offline;
pub mod replicas;
pub mod tree;

use gabion_client::terminal::{Failure, failure};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is missing, or could not be looked at.
    Incomplete,
    /// Bytes are not what they should be.
    Damaged,
}

impl Severity {
    /// The exit code of a check whose worst finding this is.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Incomplete => failure::PARTIAL,
            Self::Damaged => 7,
        }
    }
}

/// The end of a check with these findings, all of them told already.
///
/// # Errors
/// [`Failure::Told`] with the exit code of the worst.
pub fn end(findings: impl IntoIterator<Item = Severity>) -> Result<(), Failure> {
    match findings.into_iter().max() {
        None => Ok(()),
        Some(worst) => Err(Failure::Told {
            exit_code: worst.exit_code(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        use Severity::{Damaged, Incomplete};
        assert!(end([]).is_ok());
        assert_eq!(end([Incomplete]).unwrap_err().exit_code(), 8);
        assert_eq!(end([Incomplete, Damaged, Incomplete]).unwrap_err().exit_code(), 7);
    }
}
