//! `--local MxC`: a cluster of our own for one measurement, made by `ops/cluster` and removed afterwards.
//!
//! The measurement itself runs as a child of this process, pointed at the new cluster by its environment like any
//! other client.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

/// Masters and chunkservers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    masters: u8,
    chunkservers: u8,
}

impl std::str::FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text
            .split_once('x')
            .and_then(|(masters, chunkservers)| Some((masters.parse().ok()?, chunkservers.parse().ok()?)));
        let Some((masters, chunkservers)) = numbers else {
            bail!("\"{text}\" is not masters x chunkservers, such as 3x3");
        };
        Ok(Self { masters, chunkservers })
    }
}

/// Runs the rest of the command line against a fresh cluster.
pub(crate) fn run(shape: Shape, script: &Path) -> Result<ExitCode> {
    let dir = std::env::current_dir()?.join(format!("gabion-bench-cluster-{}", std::process::id()));
    let cluster = Local {
        dir,
        script: script.to_owned(),
    };
    cluster.up(shape)?;
    // What `ops/cluster env` prints is made for a shell, which knows its quotes.
    let child = Command::new("bash")
        .args(["-c", "eval \"$1\"; shift; exec \"$@\"", "gabion-bench"])
        .arg(cluster.script(&["env"])?)
        .arg(std::env::current_exe()?)
        .args(without_local(std::env::args_os().skip(1)))
        .env("GABION_BENCH_CLUSTER", &cluster.dir)
        .status()
        .context("running the measurement")?;
    Ok(ExitCode::from(u8::try_from(child.code().unwrap_or(1)).unwrap_or(1)))
}

/// Stopped and removed when dropped.
struct Local {
    dir: PathBuf,
    script: PathBuf,
}

impl Local {
    fn script(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.script)
            .args(words)
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .with_context(|| format!("running {} (--script says where it is)", self.script.display()))?;
        ensure!(
            output.status.success(),
            "{} {} failed:\n{}",
            self.script.display(),
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn up(&self, shape: Shape) -> Result<()> {
        let (masters, chunkservers) = (shape.masters.to_string(), shape.chunkservers.to_string());
        let port = free_base_port()?.to_string();
        let words = ["up", "--masters", &masters, "--chunkservers", &chunkservers];
        self.script(&[&words[..], &["--base-port", &port]].concat())?;
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Err(error) = self.script(&["down"]) {
            eprintln!("warning: {error:#}; what is left is in {}", self.dir.display());
            return;
        }
        // Nothing to be done about a leftover but to leave it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A base port whose cluster's ports are free now.
fn free_base_port() -> Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (20_000..60_000)
        .step_by(400)
        .find(|base| (1..10).all(|n| is_free(base + n) && is_free(base + 100 + n) && is_free(base + 200 + n)))
        .context("no free ports for a cluster of our own")
}

/// The command line for the child: all of it but `--local`.
fn without_local(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut skip = false;
    for word in words {
        if std::mem::take(&mut skip) {
            continue;
        }
        match word.to_str() {
            Some("--local") => skip = true,
            Some(text) if text.starts_with("--local=") => {}
            _ => kept.push(word),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_gets_all_but_local() {
        let words = ["--local", "3x3", "write", "--local=1x2", "--size", "1MiB"];
        let kept = without_local(words.into_iter().map(OsString::from));
        assert_eq!(kept, ["write", "--size", "1MiB"]);
        let shape: Shape = "3x4".parse().unwrap();
        assert_eq!((shape.masters, shape.chunkservers), (3, 4));
        assert!("3".parse::<Shape>().is_err() && "3x".parse::<Shape>().is_err());
    }
}
