//! Why a command failed, how that is shown, and its exit code.

use std::fmt::Display;
use std::io;

use gabion_protocol::{Action, ErrorCode, WireError};

/// Exit code of a command that did a part of its work, or left something degraded.
pub const PARTIAL: u8 = 8;
/// Exit code of a command the user stopped.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The cluster, or the way to it, said so.
    Cluster(Box<WireError>),
    /// The tool itself or this machine said so.
    Here(Box<Refusal>),
    /// Everything has been told already; only the exit code is left.
    Told {
        /// The exit code.
        exit_code: u8,
    },
    /// Whoever read standard output has gone: nobody is left to tell.
    ReaderGone,
}

/// A failure of this machine or of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A word for scripts, in the style of [`ErrorCode::name`].
    pub name: &'static str,
    /// The exit code.
    pub exit_code: u8,
    /// What failed.
    pub message: String,
    /// What a person may do next.
    pub help: Option<String>,
}

impl Failure {
    /// What was asked for makes no sense.
    #[must_use]
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::refusal("USAGE", 2, message, Some(help.into()))
    }

    /// A failure with a code of the cluster's table that this machine found.
    #[must_use]
    pub fn code(code: ErrorCode, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::refusal(code.name(), code.exit_code(), message, Some(help.into()))
    }

    /// A local file operation failed: `cannot {action} {path}: {error}`.
    #[must_use]
    pub fn local(action: &str, path: impl Display, error: &io::Error) -> Self {
        let (name, exit_code, help) = match error.kind() {
            io::ErrorKind::NotFound => ("NOT_FOUND", 3, None),
            io::ErrorKind::AlreadyExists => ("EXISTS", 4, None),
            io::ErrorKind::NotADirectory => ("NOT_DIRECTORY", 4, None),
            io::ErrorKind::IsADirectory => ("IS_DIRECTORY", 4, None),
            io::ErrorKind::PermissionDenied => (
                "PERMISSION_DENIED",
                6,
                Some("look at the permissions of it and of the directories above"),
            ),
            io::ErrorKind::ReadOnlyFilesystem => ("PERMISSION_DENIED", 6, Some("the file system is mounted read-only")),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ("NO_SPACE", 9, Some("make room on this machine, or name another target"))
            }
            _ => ("LOCAL_FILE", 1, None),
        };
        // The text of the system without Rust's "(os error N)".
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default();
        Self::refusal(
            name,
            exit_code,
            format!("cannot {action} {path}: {why}"),
            help.map(str::to_owned),
        )
    }

    /// A stream of the cluster failed: the cause is the library's own error, if it is one.
    #[must_use]
    pub fn from_reading(error: io::Error) -> Self {
        let kind = error.kind();
        let what = error.to_string();
        match error.into_inner().map(|inner| inner.downcast::<crate::Error>()) {
            Some(Ok(inner)) => (*inner).into(),
            _ => Self::local("read from the cluster:", what, &kind.into()),
        }
    }

    /// Standard output cannot be written.
    #[must_use]
    pub fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::local("write", "standard output", &error)
    }

    /// A task of ours ended in a panic.
    #[must_use]
    pub fn defect(what: impl Display) -> Self {
        Self::code(
            ErrorCode::Internal,
            format!("a defect of Gabion: {what}"),
            "report it, with what standard error says above",
        )
    }

    /// The user stopped the command.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::refusal("INTERRUPTED", INTERRUPTED, "stopped by the user", None)
    }

    fn refusal(name: &'static str, exit_code: u8, message: impl Into<String>, help: Option<String>) -> Self {
        Self::Here(Box::new(Refusal {
            name,
            exit_code,
            message: message.into(),
            help,
        }))
    }

    /// The exit code of a command that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Cluster(error) => error.code.exit_code(),
            Self::Here(refusal) => refusal.exit_code,
            Self::Told { exit_code } => *exit_code,
            Self::ReaderGone => 0,
        }
    }

    /// A word for scripts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cluster(error) => error.code.name(),
            Self::Here(refusal) => refusal.name,
            Self::Told { .. } => "FAILED",
            Self::ReaderGone => "READER_GONE",
        }
    }

    /// The same, with `help` if the cluster gave this code: a command knows its own options better than a master.
    #[must_use]
    pub fn advise(mut self, code: ErrorCode, help: &str) -> Self {
        if let Self::Cluster(error) = &mut self
            && error.code == code
        {
            error.help = Some(help.to_owned());
        }
        self
    }

    /// The whole failure as a terminal shows it; `None` if nothing is left to say.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        match self {
            Self::Cluster(error) => Some(error.report()),
            Self::Here(refusal) => {
                let help = refusal.help.as_ref().map(|help| format!("\n  help   {help}"));
                Some(format!(
                    "error[{}]: {}{}",
                    refusal.name,
                    refusal.message,
                    help.unwrap_or_default()
                ))
            }
            Self::Told { .. } | Self::ReaderGone => None,
        }
    }

    /// The failure in one line, for a list of many.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Cluster(error) => format!("[{}] {}", error.code, error.message),
            Self::Here(refusal) => format!("[{}] {}", refusal.name, refusal.message),
            Self::Told { exit_code } => format!("exit code {exit_code}"),
            Self::ReaderGone => "nobody reads standard output".to_owned(),
        }
    }

    /// Whether it will meet every other file as well, so that going on is a waste of the user's time.
    #[must_use]
    pub fn concerns_all(&self) -> bool {
        match self {
            Self::ReaderGone => true,
            // The trouble is where this one thing is, not on the way to the cluster.
            Self::Cluster(error) if error.action == Action::Refresh => false,
            Self::Told { .. } | Self::Cluster(_) | Self::Here(_) => {
                matches!(self.exit_code(), 5 | INTERRUPTED) || self.is_about_keys()
            }
        }
    }

    fn is_about_keys(&self) -> bool {
        use ErrorCode::{WrongCluster, WrongKey, WrongRole, WrongVersion};
        matches!(self, Self::Cluster(error) if matches!(error.code, WrongKey | WrongRole | WrongCluster | WrongVersion))
    }

    /// Whether the user stopped it.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        self.exit_code() == INTERRUPTED
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Cluster(Box::new(error))
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        error.into_details().into()
    }
}

/// How work on many things went: it goes on past failures and lists them at the end.
#[derive(Debug, Default)]
pub struct Tally {
    /// Things that went well.
    pub done: u64,
    failed: Vec<(String, Failure)>,
    skipped: u64,
}

impl Tally {
    /// One more went well.
    pub fn succeeded(&mut self) {
        self.done += 1;
    }

    /// `what` failed.
    pub fn failed(&mut self, what: impl Into<String>, failure: Failure) {
        self.failed.push((what.into(), failure));
    }

    /// One more was not tried because an earlier failure would have met it too.
    pub fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// Whether going on makes sense.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.failed.last().is_some_and(|(_, failure)| failure.concerns_all())
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.skipped == 0
    }

    /// The end of the command: a single thing that failed fails the command as it is; of several, each is listed.
    /// `verb` completes the sentence `2 of 7 files could not be …`.
    ///
    /// # Errors
    /// [`Failure`] if anything failed: exit code 8, or the common code if nothing at all went well.
    pub fn finish(mut self, noun: &str, verb: &str, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let total = self.done + self.failed.len() as u64 + self.skipped;
        if self.is_clean() {
            return Ok(());
        }
        if total == 1
            && let Some((_, failure)) = self.failed.pop()
        {
            return Err(failure);
        }
        if let Some(at) = self.failed.iter().position(|(_, failure)| failure.is_interrupt()) {
            return Err(self.failed.swap_remove(at).1);
        }
        if self
            .failed
            .iter()
            .any(|(_, failure)| matches!(failure, Failure::ReaderGone))
        {
            return Err(Failure::ReaderGone);
        }
        let of = super::text::count(total, noun);
        let (name, exit_code) = self.name_and_exit_code();
        say(&format!(
            "error[{name}]: {} of {of} could not be {verb}",
            self.failed.len() as u64 + self.skipped
        ));
        for (what, failure) in &self.failed {
            say(&format!("  {}  {}", super::text::printable(what), failure.line()));
        }
        if let Some((_, last)) = self.failed.last().filter(|_| self.skipped > 0) {
            say(&format!(
                "  {} not tried after that",
                super::text::count(self.skipped, noun)
            ));
            if let Failure::Cluster(error) = last {
                // What was tried and what to do: once, not for every file.
                say(&error.report());
            }
        }
        Err(Failure::Told { exit_code })
    }

    /// What all have in common if nothing at all went well, else that it went well in part.
    fn name_and_exit_code(&self) -> (&'static str, u8) {
        let mut causes = self
            .failed
            .iter()
            .map(|(_, failure)| (failure.name(), failure.exit_code()));
        match causes.next() {
            Some(first) if self.done == 0 && causes.all(|cause| cause == first) => first,
            _ => ("PARTIAL", PARTIAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(tally: Tally) -> (u8, String) {
        let mut said = String::new();
        let failure = tally
            .finish("file", "uploaded", &mut |line| said.push_str(&format!("{line}\n")))
            .unwrap_err();
        (failure.exit_code(), said)
    }

    #[test]
    fn one_failure_is_the_commands_own() {
        let mut tally = Tally::default();
        tally.failed("/a", WireError::new(ErrorCode::Exists, "there is a file").into());
        assert_eq!(finish(tally), (4, String::new()));
    }

    #[test]
    fn several_failures_are_listed() {
        let mut tally = Tally::default();
        tally.succeeded();
        tally.failed(
            "a\n",
            WireError::new(ErrorCode::Exists, "cannot write /a: it exists").into(),
        );
        tally.failed(
            "b",
            Failure::local("open", "b", &io::ErrorKind::PermissionDenied.into()),
        );
        let expected = "error[PARTIAL]: 2 of 3 files could not be uploaded\n  \
                        a\\n  [EXISTS] cannot write /a: it exists\n  \
                        b  [PERMISSION_DENIED] cannot open b: permission denied\n";
        assert_eq!(finish(tally), (8, expected.to_owned()));
    }

    #[test]
    fn the_same_failure_of_all_keeps_its_code() {
        let mut tally = Tally::default();
        for name in ["a", "b"] {
            tally.failed(name, WireError::new(ErrorCode::NotFound, "no such file").into());
        }
        let (code, said) = finish(tally);
        assert_eq!(code, 3);
        assert!(said.starts_with("error[NOT_FOUND]: 2 of 2 files"), "{said}");
    }

    #[test]
    fn advice_is_for_its_code_only() {
        let error = || Failure::from(WireError::new(ErrorCode::Exists, "/a exists").help("ask for replacement"));
        let advised = error().advise(ErrorCode::Exists, "use --force").report().unwrap();
        assert!(advised.ends_with("help   use --force"), "{advised}");
        let other = error().advise(ErrorCode::NotFound, "use --parents").report().unwrap();
        assert!(other.ends_with("help   ask for replacement"), "{other}");
    }

    #[test]
    fn an_unavailable_cluster_is_not_asked_for_every_file() {
        let mut tally = Tally::default();
        tally.failed("a", WireError::new(ErrorCode::NotFound, "no such file").into());
        assert!(!tally.is_hopeless());
        let elsewhere = WireError::new(ErrorCode::Unreachable, "no copy can be reached").action(Action::Refresh);
        tally.failed("c", elsewhere.into());
        assert!(!tally.is_hopeless(), "other files have other servers");
        let gone = WireError::new(ErrorCode::NoQuorum, "no majority").help("start m2");
        tally.failed("b", gone.into());
        assert!(tally.is_hopeless());
        tally.skipped();
        let (code, said) = finish(tally);
        assert_eq!(code, 8);
        assert!(
            said.contains("4 of 4 files") && said.contains("1 file not tried") && said.contains("start m2"),
            "{said}"
        );
    }

    #[test]
    fn an_interrupt_is_an_interrupt() {
        let mut tally = Tally::default();
        tally.succeeded();
        tally.failed("a", Failure::interrupted());
        assert_eq!(finish(tally), (130, String::new()));
    }

    #[test]
    fn local_failures_have_the_tables_codes() {
        for (kind, code) in [
            (io::ErrorKind::NotFound, 3),
            (io::ErrorKind::AlreadyExists, 4),
            (io::ErrorKind::PermissionDenied, 6),
            (io::ErrorKind::StorageFull, 9),
            (io::ErrorKind::Other, 1),
        ] {
            assert_eq!(Failure::local("open", "x", &kind.into()).exit_code(), code);
        }
        let error = io::Error::from_raw_os_error(28);
        let report = Failure::local("write", "/tmp/x", &error).report().unwrap();
        assert_eq!(
            report,
            "error[NO_SPACE]: cannot write /tmp/x: No space left on device\n  \
             help   make room on this machine, or name another target"
        );
    }
}
