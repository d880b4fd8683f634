//! The one error of this library: a [`WireError`] with what the caller wanted in front.

use std::fmt;

use gabion_protocol::path::PathError;
use gabion_protocol::{Action, ErrorCode, WireError};

/// Why an operation failed, what was tried, and what to do next.
///
/// Programs branch on [`Error::code`]; people read [`Error::report`].
#[derive(Debug, Clone)]
pub struct Error(Box<WireError>);

impl Error {
    /// An error with its code's default advice to programs.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        WireError::new(code, message).into()
    }

    /// The user stopped `what` (a verb phrase).
    #[must_use]
    pub fn interrupted(what: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Interrupted, format!("{what}: interrupted"))
    }

    /// `what` (a verb phrase) failed on this machine.
    #[must_use]
    pub fn local(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::NotFound => ErrorCode::NotFound,
            ErrorKind::AlreadyExists => ErrorCode::Exists,
            ErrorKind::IsADirectory => ErrorCode::IsDirectory,
            ErrorKind::NotADirectory => ErrorCode::NotDirectory,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
            ErrorKind::Interrupted => ErrorCode::Interrupted,
            ErrorKind::InvalidInput | ErrorKind::InvalidFilename => ErrorCode::InvalidArgument,
            _ => ErrorCode::LocalFile,
        };
        let wire = WireError::new(code, format!("{what}: {error}")).action(Action::GiveUp);
        match code {
            ErrorCode::NoSpace => wire.help("free space on this machine, then run the command again"),
            _ => wire,
        }
        .into()
    }

    /// The same, told as the reason why `what` (a verb phrase) failed.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        let message = format!("{what}: {}", self.0.message);
        // Through the constructor, which bounds the length.
        self.0.message = WireError::new(self.0.code, message).message;
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The exit code of a command that fails with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.0.code.exit_code()
    }

    /// The whole error as a terminal shows it: what failed, what was tried, why, and what to do next.
    #[must_use]
    pub fn report(&self) -> String {
        self.0.report()
    }

    /// All that is known, for programs.
    #[must_use]
    pub fn details(&self) -> &WireError {
        &self.0
    }

    /// The same, by value: to add what is known from elsewhere.
    #[must_use]
    pub fn into_details(self) -> WireError {
        *self.0
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        Self(Box::new(wire))
    }
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::new(ErrorCode::InvalidPath, error.to_string())
    }
}

impl fmt::Display for Error {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind;
        let kind = match error.code() {
            ErrorCode::NotFound => ErrorKind::NotFound,
            ErrorCode::Exists => ErrorKind::AlreadyExists,
            ErrorCode::NoSpace => ErrorKind::StorageFull,
            ErrorCode::Timeout => ErrorKind::TimedOut,
            ErrorCode::WrongKey | ErrorCode::WrongRole | ErrorCode::BadToken => ErrorKind::PermissionDenied,
            ErrorCode::Corrupt | ErrorCode::ChecksumMismatch => ErrorKind::InvalidData,
            _ => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Puts what was wanted in front of an error.
pub(crate) trait Context<T> {
    /// `what` is a verb phrase, made only if there is an error that does not say itself what cannot be done, as a
    /// master's refusals do.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Error> {
        self.map_err(|error| {
            let error: Error = error.into();
            if error.0.message.starts_with("cannot ") {
                error
            } else {
                error.context(what())
            }
        })
    }
}
