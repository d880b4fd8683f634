//! Errors that travel: a code, what failed and why, what was tried, and what the caller should do.
//!
//! Programs branch on [`ErrorCode`] and [`Action`], never on text. Codes are numbered by position and only ever
//! appended; a peer that does not know a code still knows the action.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{ERROR_DETAILS_MAX, ERROR_TEXT_BYTES_MAX};

/// What is wrong. The order is the wire format: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorCode {
    /// A defect of ours.
    Internal,
    /// The request breaks a rule of its form.
    InvalidArgument,
    /// The path breaks a rule.
    InvalidPath,
    /// No such file, directory, chunk or server.
    NotFound,
    /// There is something already.
    Exists,
    /// A file is needed, a directory is there.
    IsDirectory,
    /// A directory is needed, a file is there.
    NotDirectory,
    /// The directory holds entries.
    NotEmpty,
    /// What the request was planned from has changed.
    Conflict,
    /// This master is not the leader.
    NotLeader,
    /// No master is leader just now.
    NoLeader,
    /// The masters reached are no majority.
    NoQuorum,
    /// No answer in time.
    Timeout,
    /// The peer cannot be reached.
    Unreachable,
    /// The peer has no room for the request now.
    Busy,
    /// Fewer chunkservers can take a copy than the promise needs.
    TooFewServers,
    /// No space left.
    NoSpace,
    /// The peer does not know the key.
    WrongKey,
    /// The role may not do this.
    WrongRole,
    /// The token does not allow this.
    BadToken,
    /// It belongs to another cluster.
    WrongCluster,
    /// No protocol version in common.
    WrongVersion,
    /// The peer's directory is older than what its peers remember.
    StaleDirectory,
    /// Fenced by a later generation, owner or epoch.
    Fenced,
    /// Stored bytes do not have their checksum.
    Corrupt,
    /// No copy can be read.
    Missing,
    /// The bytes sent do not have the checksum sent with them.
    ChecksumMismatch,
    /// The session is too old to tell whether the command ran.
    OutcomeUnknown,
    /// A disk failed.
    DiskFailed,
    /// The bytes of the connection make no sense.
    Protocol,
    /// The limit of the cluster is reached.
    LimitExceeded,
    /// Stopped by the user.
    Interrupted,
    /// A file of the caller's own machine cannot be read or written.
    LocalFile,
    /// It is in a snapshot, which never changes.
    ReadOnly,
    /// A directory would hold more than its quota allows.
    QuotaExceeded,
}

impl ErrorCode {
    /// The word users and scripts see, for example `NO_LEADER`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The exit code of a command that fails with this, one table for all binaries.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        self.row().1
    }

    /// What a caller does when nothing else is said.
    #[must_use]
    pub fn default_action(self) -> Action {
        self.row().2
    }

    /// The one table: name, exit code (0 ok, 1 other, 2 usage, 3 not found, 4 precondition, 5 unavailable,
    /// 6 not authorised, 7 integrity, 8 partial, 9 no space or quota, 130 interrupted), action.
    fn row(self) -> (&'static str, u8, Action) {
        use Action::{GiveUp, Refresh, Retry};
        const SOON: Action = Retry { after_ms: 20 };
        match self {
            Self::Internal => ("INTERNAL", 1, GiveUp),
            Self::InvalidArgument => ("INVALID_ARGUMENT", 2, GiveUp),
            Self::InvalidPath => ("INVALID_PATH", 2, GiveUp),
            Self::NotFound => ("NOT_FOUND", 3, GiveUp),
            Self::Exists => ("EXISTS", 4, GiveUp),
            Self::IsDirectory => ("IS_DIRECTORY", 4, GiveUp),
            Self::NotDirectory => ("NOT_DIRECTORY", 4, GiveUp),
            Self::NotEmpty => ("NOT_EMPTY", 4, GiveUp),
            Self::Conflict => ("CONFLICT", 4, Refresh),
            Self::NotLeader => ("NOT_LEADER", 5, SOON),
            Self::NoLeader => ("NO_LEADER", 5, SOON),
            Self::NoQuorum => ("NO_QUORUM", 5, SOON),
            Self::Timeout => ("TIMEOUT", 5, SOON),
            Self::Unreachable => ("UNREACHABLE", 5, SOON),
            Self::Busy => ("BUSY", 5, SOON),
            Self::TooFewServers => ("TOO_FEW_SERVERS", 5, Retry { after_ms: 500 }),
            Self::NoSpace => ("NO_SPACE", 9, GiveUp),
            Self::WrongKey => ("WRONG_KEY", 6, GiveUp),
            Self::WrongRole => ("WRONG_ROLE", 6, GiveUp),
            Self::BadToken => ("BAD_TOKEN", 6, Refresh),
            Self::WrongCluster => ("WRONG_CLUSTER", 6, GiveUp),
            Self::WrongVersion => ("WRONG_VERSION", 1, GiveUp),
            Self::StaleDirectory => ("STALE_DIRECTORY", 1, GiveUp),
            Self::Fenced => ("FENCED", 4, GiveUp),
            Self::Corrupt => ("CORRUPT", 7, Refresh),
            Self::Missing => ("MISSING", 7, Refresh),
            Self::ChecksumMismatch => ("CHECKSUM_MISMATCH", 7, Refresh),
            Self::OutcomeUnknown => ("OUTCOME_UNKNOWN", 1, GiveUp),
            Self::DiskFailed => ("DISK_FAILED", 5, Refresh),
            Self::Protocol => ("PROTOCOL", 1, GiveUp),
            Self::LimitExceeded => ("LIMIT_EXCEEDED", 4, GiveUp),
            Self::Interrupted => ("INTERRUPTED", 130, GiveUp),
            Self::LocalFile => ("LOCAL_FILE", 1, GiveUp),
            Self::ReadOnly => ("READ_ONLY", 4, GiveUp),
            Self::QuotaExceeded => ("QUOTA_EXCEEDED", 9, GiveUp),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Ask again, the same way, after a while.
    Retry {
        /// Milliseconds to wait first.
        after_ms: u32,
    },
    /// Ask the leader, whose address the error carries.
    Redirect,
    /// Ask the masters for fresh locations, tokens or names, then try again.
    Refresh,
    /// Nothing the program does helps; a person must read this.
    GiveUp,
}

/// One thing that was tried, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Which peer or object, for example `m2 127.0.0.1:7002` or `c3`.
    pub what: String,
    /// How it answered.
    pub result: String,
}

/// An error as it travels and as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// What is wrong.
    pub code: ErrorCode,
    /// What the caller should do.
    pub action: Action,
    /// What failed: a verb phrase, for example `cannot write /logs/a: no master is leader`.
    pub message: String,
    /// Where the leader listens, for [`Action::Redirect`].
    pub leader: Option<String>,
    /// What was tried.
    pub tried: Vec<Tried>,
    /// Why, in a sentence.
    pub why: Option<String>,
    /// What a person may do next.
    pub help: Option<String>,
}

impl WireError {
    /// An error with its code's default action.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            action: code.default_action(),
            message: clip(message.into()),
            leader: None,
            tried: Vec::new(),
            why: None,
            help: None,
        }
    }

    /// A redirect to the leader's client address.
    #[must_use]
    pub fn redirect(leader: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorCode::NotLeader, "this master is not the leader");
        error.action = Action::Redirect;
        error.leader = Some(leader.into());
        error
    }

    /// The same with another action.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    /// The same with a reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(clip(why.into()));
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(clip(help.into()));
        self
    }

    /// The same with one more attempt, of which an error keeps a bounded number.
    #[must_use]
    pub fn tried(mut self, what: impl Into<String>, result: impl Into<String>) -> Self {
        if self.tried.len() < ERROR_DETAILS_MAX {
            self.tried.push(Tried {
                what: clip(what.into()),
                result: clip(result.into()),
            });
        }
        self
    }

    /// Whether trying again, perhaps elsewhere, may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.action != Action::GiveUp
    }
}

fn clip(mut text: String) -> String {
    if text.len() > ERROR_TEXT_BYTES_MAX {
        let end = (0..=ERROR_TEXT_BYTES_MAX).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
    }
    text
}

impl fmt::Display for WireError {
    /// One line; [`WireError::report`] gives the whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for WireError {}

impl WireError {
    /// The whole error as a terminal shows it.
    #[must_use]
    pub fn report(&self) -> String {
        use fmt::Write as _;
        let mut text = format!("error{self}");
        let width = self.tried.iter().map(|t| t.what.chars().count()).max().unwrap_or(0);
        for (i, tried) in self.tried.iter().enumerate() {
            let label = if i == 0 { "tried" } else { "     " };
            let _ = write!(text, "\n  {label}  {:width$}  {}", tried.what, tried.result);
        }
        if let Some(why) = &self.why {
            let _ = write!(text, "\n  why    {why}");
        }
        if let Some(help) = &self.help {
            let _ = write!(text, "\n  help   {help}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_promised() {
        let error = WireError::new(ErrorCode::NoLeader, "cannot write /logs/a: no master is leader")
            .tried("m1 127.0.0.1:7001", "follower, term 41")
            .tried("m2", "connection refused")
            .why("an election is running")
            .help("wait a few seconds");
        assert_eq!(
            error.report(),
            "error[NO_LEADER]: cannot write /logs/a: no master is leader\n  \
             tried  m1 127.0.0.1:7001  follower, term 41\n         \
             m2                 connection refused\n  \
             why    an election is running\n  \
             help   wait a few seconds"
        );
    }

    #[test]
    fn golden_error_bytes() {
        let error = WireError::redirect("h:1");
        let bytes = postcard::to_stdvec(&error).unwrap();
        assert_eq!(bytes[..2], [9, 1], "code NotLeader, action Redirect");
        assert_eq!(postcard::to_stdvec(&ErrorCode::Interrupted).unwrap(), [31]);
    }

    #[test]
    fn long_texts_are_clipped_at_a_character() {
        let error = WireError::new(ErrorCode::Internal, "ü".repeat(5000));
        assert!(error.message.len() <= ERROR_TEXT_BYTES_MAX);
    }
}
