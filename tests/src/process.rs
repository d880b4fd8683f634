//! One server process: started with its log in a file, signalled, and killed when the test ends, however it ends.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{end_of, tell};

/// A running (or just ended) process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    began: Instant,
}

/// `program` as a command that dies with the test: an aborted test must not leave clusters running. In `namespace` if
/// one is named. Both wrappers replace themselves by the program, so the process id is the program's.
#[must_use]
pub fn command(program: &Path, namespace: Option<&str>) -> Command {
    let mut words: Vec<&std::ffi::OsStr> = Vec::new();
    if let Some(namespace) = namespace {
        words.extend(["ip", "netns", "exec", namespace].map(std::ffi::OsStr::new));
    }
    if Path::new("/usr/bin/setpriv").exists() {
        words.extend(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"].map(std::ffi::OsStr::new));
    }
    words.push(program.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    // The tester's own settings must not leak into what is tested.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GABION_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "1");
    command
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let open = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(log)
                .expect("the log file opens")
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            began: Instant::now(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been running.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If there is no such process any more: the planned fault did not fire.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("{} cannot be sent {signal:?}: {error}", self.name));
    }

    /// Kills it and does not wait.
    pub(crate) fn kill(&mut self) {
        // SIGKILL ends a stopped process too. It may have ended meanwhile: then there is nothing to kill.
        let _ = self.child.kill();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let began = Instant::now();
        let ended = end_of(&mut self.child, deadline);
        tell(&format!("{} ends", self.name), began);
        ended.unwrap_or_else(|| {
            panic!(
                "{} (process {}) does not end within {deadline:?}",
                self.name,
                self.child.id()
            )
        })
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.log)
    }
}

/// What a log file holds; nothing if there is none.
#[must_use]
pub fn read_log(path: &Path) -> String {
    std::fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        self.kill();
        let _ = end_of(&mut self.child, Duration::from_secs(10));
    }
}
