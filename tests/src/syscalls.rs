//! System calls of single threads that fail as a broken disk makes them fail. Needs strace.
//!
//! Threads are chosen by name, so that the fault hits what it is meant for: a chunkserver syncs chunks' files on its
//! `disk-write` threads and its index on `index-writer`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::command;

/// Calls that fail as long as this lives.
#[derive(Debug)]
pub struct FailingCalls {
    strace: Child,
    log: PathBuf,
}

/// One call that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The file it was about.
    pub path: String,
    /// Whether it failed by our doing.
    pub injected: bool,
}

/// Why this machine cannot make system calls fail, if so.
#[must_use]
pub fn missing() -> Option<String> {
    crate::skip::missing(&["strace"])
}

/// Threads of `process` whose names begin with `prefix`.
fn threads(process: u32, prefix: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(prefix));
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path())).filter(named);
    tasks
        .filter_map(|task| Some(task.file_name()?.to_str()?.to_owned()))
        .collect()
}

/// The calls of a log that returned. One that another thread's interrupts is logged in two lines, of which only the
/// first names the file: `17 pread64(5</a>, <unfinished ...>` and `17 <... pread64 resumed>…) = -1 EIO (INJECTED)`.
fn returned(log: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        let named = || Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
        if line.contains("<unfinished ...>") {
            unfinished.extend(named().map(|path| (thread, path)));
        } else if line.contains(" = ") {
            let path = if line.contains(" resumed>") {
                unfinished.remove(thread)
            } else {
                named()
            };
            calls.extend(path.map(|path| Call {
                path,
                injected: line.contains("(INJECTED)"),
            }));
        }
    }
    calls
}

impl FailingCalls {
    /// Makes `calls` (strace's list) of the threads of `process` named `threads_named`… fail with EIO: in each thread
    /// those that `when` says (`1`: its first; `1+`: all). With `paths`, only calls on exactly those files.
    ///
    /// # Panics
    /// If strace cannot be attached.
    #[must_use]
    pub fn begin(process: u32, threads_named: &str, calls: &str, when: &str, paths: &[PathBuf], log: &Path) -> Self {
        let threads = threads(process, threads_named);
        assert!(!threads.is_empty(), "process {process} has no thread {threads_named}");
        let mut strace: Command = command(Path::new("/usr/bin/strace"), None);
        strace.arg("-y").arg("-o").arg(log);
        strace.args(["-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error=EIO:when={when}")]);
        threads.iter().for_each(|thread| {
            strace.args(["-p", thread]);
        });
        paths.iter().for_each(|path| {
            strace.arg("-P").arg(path);
        });
        let mut child = strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut attached = 0;
        for line in said.map_while(Result::ok) {
            eprintln!("{line}");
            attached += usize::from(line.contains("attached"));
            if attached == threads.len() {
                break;
            }
        }
        assert_eq!(attached, threads.len(), "strace is not attached");
        Self {
            strace: child,
            log: log.to_owned(),
        }
    }

    /// The calls so far that returned.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        returned(&String::from_utf8_lossy(&text))
    }

    /// Files on which a call failed by our doing.
    #[must_use]
    pub fn failed_on(&self) -> Vec<String> {
        let failed = self.calls().into_iter().filter(|call| call.injected);
        failed.map(|call| call.path).collect()
    }

    /// Ends it: calls succeed again.
    ///
    /// # Panics
    /// If strace does not end.
    pub fn end(mut self) {
        self.detach();
    }

    fn detach(&mut self) {
        // On SIGTERM it lets go of the threads and ends. It has ended by itself if they have.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

impl Drop for FailingCalls {
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_two_lines_is_one_call() {
        let log = "17 pread64(5</a>,  <unfinished ...>\n\
                   18 pread64(6</b>, \"x\", 1, 0) = 1\n\
                   17 <... pread64 resumed>0x7f, 1, 0) = -1 EIO (Input/output error) (INJECTED)\n\
                   18 pread64(6</b>,  <unfinished ...>\n";
        let call = |path: &str, injected| Call {
            path: path.to_owned(),
            injected,
        };
        assert_eq!(returned(log), [call("/b", false), call("/a", true)]);
    }
}
