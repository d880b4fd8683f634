//! One run of a command-line tool: exit code, data and messages.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::command;
use crate::wait::{end_of, tell};

/// No command of the suites takes longer, unless it says so.
const DEADLINE: Duration = Duration::from_secs(120);

/// A tool with its arguments and settings, not yet run.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    shown: String,
    deadline: Duration,
}

impl Tool {
    /// The tool at `program`.
    #[must_use]
    pub fn new(program: &Path) -> Self {
        Self {
            shown: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            command: command(program, None),
            deadline: DEADLINE,
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// In a working directory.
    #[must_use]
    pub fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// With another deadline than two minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end, without input.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.spawn().wait()
    }

    /// Runs it to its end with `input` on stdin. A tool that ends early is not waited for by the writer.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run_with(mut self, input: &[u8]) -> Outcome {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = self.spawn();
        let mut stdin = running.stdin.take().expect("stdin is piped");
        std::thread::scope(|scope| {
            // A broken pipe is the tool's right; what it made of the input shows in its outcome.
            scope.spawn(move || drop(stdin.write_all(input)));
            running.wait()
        })
    }

    /// Starts it with stdin and stdout in the test's hands: [`Running::stdin`], [`Running::stdout`].
    #[must_use]
    pub fn start_piped(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = self.spawn();
        running.stdout = running.child.stdout.take();
        running
    }

    /// Starts it without input, its stdout collected.
    #[must_use]
    pub fn start(mut self) -> Running {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.spawn()
    }

    fn spawn(mut self) -> Running {
        let mut child = self
            .command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.shown));
        Running {
            stdin: child.stdin.take(),
            stdout: None,
            stderr: child.stderr.take().map(collect),
            child,
            shown: self.shown,
            began: Instant::now(),
            deadline: self.deadline,
        }
    }
}

fn collect(mut reader: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks off has given what it had.
        let _ = reader.read_to_end(&mut bytes);
        bytes
    })
}

/// A tool that runs.
#[derive(Debug)]
pub struct Running {
    /// Its input, if piped.
    pub stdin: Option<ChildStdin>,
    /// Its output, if the test reads it itself.
    pub stdout: Option<ChildStdout>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    child: Child,
    shown: String,
    began: Instant,
    deadline: Duration,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended already: the planned fault did not fire.
    pub fn signal(&mut self, signal: Signal) {
        assert!(
            self.child.try_wait().expect("a child can be waited for").is_none(),
            "{} ended before it could be sent {signal:?}",
            self.shown
        );
        kill_process(Pid::from_child(&self.child), signal).expect("a running child can be signalled");
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// If the system cannot tell.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for its end, stdin closed.
    ///
    /// # Panics
    /// If its deadline passes; it is killed then.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        drop(self.stdin.take());
        drop(self.stdout.take());
        let stdout = self.child.stdout.take().map(collect);
        let status = end_of(&mut self.child, self.deadline);
        let took = self.began.elapsed();
        tell(&self.shown, self.began);
        if status.is_none() {
            // It may end in this moment; then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let bytes = |handle: Option<JoinHandle<Vec<u8>>>| {
            handle.map_or_else(Vec::new, |handle| handle.join().expect("collecting does not panic"))
        };
        let outcome = Outcome {
            stdout: bytes(stdout),
            stderr: String::from_utf8_lossy(&bytes(self.stderr.take())).into_owned(),
            status,
            took,
            shown: std::mem::take(&mut self.shown),
        };
        assert!(outcome.status.is_some(), "took over {:?}: {outcome}", self.deadline);
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // As above: it may just have ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a run of a tool ended.
#[derive(Debug)]
pub struct Outcome {
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
    status: Option<ExitStatus>,
    shown: String,
}

impl Outcome {
    /// The exit code; 128 + signal if a signal ended it, as shells count.
    #[must_use]
    pub fn code(&self) -> i32 {
        let Some(status) = self.status else { return -1 };
        status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1)
    }

    /// stdout as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stdout as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// Asserts exit code 0.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{self}");
        self
    }

    /// What is wrong if this is not exit code `code` with all `words` (any case) in the messages, and no panic.
    #[must_use]
    pub fn unlike(&self, code: i32, words: &[&str]) -> Option<String> {
        let said = self.stderr.to_lowercase();
        let missing: Vec<_> = words
            .iter()
            .filter(|word| !said.contains(&word.to_lowercase()))
            .collect();
        if self.code() != code {
            return Some(format!("exit code {code} expected: {self}"));
        }
        if !missing.is_empty() {
            return Some(format!("the message does not say {missing:?}: {self}"));
        }
        said.contains("panicked").then(|| format!("it panicked: {self}"))
    }

    /// Asserts exit code `code` and that the messages say all `words`.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        if let Some(wrong) = self.unlike(code, words) {
            panic!("{wrong}");
        }
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.text().chars().take(2000).collect();
        write!(
            f,
            "`{}` ended with code {} after {:?}\n--- stdout ({} bytes)\n{shown}\n--- stderr\n{}\n---",
            self.shown,
            self.code(),
            self.took,
            self.stdout.len(),
            self.stderr
        )
    }
}

/// Files and directories below `dir`, with the length of files: what a command left behind.
///
/// # Panics
/// If the directory cannot be read.
#[must_use]
pub fn left_in(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entry = |entry: walkdir::DirEntry| {
        let length = entry
            .metadata()
            .map_or(0, |data| if data.is_file() { data.len() } else { 0 });
        (entry.path().strip_prefix(dir).expect("it is below").to_owned(), length)
    };
    walkdir::WalkDir::new(dir)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .map(|found| entry(found.expect("the directory can be read")))
        .collect()
}
