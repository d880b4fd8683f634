//! The command-line tools, pointed at the cluster.

use std::time::Duration;

use super::{Access, Cluster, LOG_LINES};
use crate::binaries::binary;
use crate::command::Tool;
use crate::process::read_log;
use crate::scaled;

impl Cluster {
    /// How to use the cluster as a client.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            masters: (1..=self.plan.masters)
                .map(|number| self.advertised(&format!("m{number}")))
                .collect(),
            key_file: self.path().join("client.key"),
        }
    }

    fn tool(&self, program: &str, key: &str) -> Tool {
        let masters = self.access().masters.join(",");
        Tool::new(&binary(program))
            .env("GABION_MASTERS", masters)
            .env("GABION_KEY_FILE", self.path().join(key))
            // No configuration of whoever runs the tests.
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("no-config"))
    }

    /// `gabion`, as a client.
    #[must_use]
    pub fn gabion(&self) -> Tool {
        self.tool("gabion", "client.key")
    }

    /// `gabion`, as an operator.
    #[must_use]
    pub fn operator(&self) -> Tool {
        self.tool("gabion", "operator.key")
    }

    /// `gabion-verify`, as an operator.
    #[must_use]
    pub fn verify(&self) -> Tool {
        self.tool("gabion-verify", "operator.key")
    }

    /// Asserts that the masters agree and every copy of every chunk is good and there.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.verify().arg("masters").run().ok();
        self.verify().arg("replicas").run().ok();
    }

    /// Asserts that the masters agree, and that every copy they know of is good and there. A file may have two of three
    /// copies, if it was written while a server was away and says so of itself, or gets its third just now; no copy that
    /// was acknowledged may be missing, and every server answers.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_undamaged(&self) {
        self.verify().arg("masters").run().ok();
        let says_so = |path: &String| self.stat(path).is_some_and(|entry| entry.degraded);
        let silent: Vec<_> = self
            .short_of_a_copy()
            .into_iter()
            .filter(|path| !says_so(path))
            .collect();
        if silent.is_empty() {
            return;
        }
        // Between the two looks the copy may have been made.
        let still = self.short_of_a_copy();
        for path in silent {
            let is_short = still.contains(&path);
            assert!(!is_short, "{path} has fewer copies than wanted and does not say so");
        }
    }

    /// The files with two of three copies.
    ///
    /// # Panics
    /// If anything worse is found.
    fn short_of_a_copy(&self) -> Vec<String> {
        // Each copy is read.
        let limit = Duration::from_secs(scaled(120, 1800));
        let replicas = self.verify().args(["-o", "json", "replicas"]).deadline(limit).run();
        let report = replicas.json();
        let findings = report["findings"].as_array().expect("findings are a list");
        let expected = if findings.is_empty() { 0 } else { 8 };
        assert_eq!(replicas.code(), expected, "{replicas}");
        let path = |finding: &serde_json::Value| {
            assert!(
                finding["kind"] == "too_few" && finding["what"] == "2 of 3 copies",
                "a copy is missing, or worse: {finding}: {replicas}"
            );
            finding["path"].as_str().expect("a file is named").to_owned()
        };
        findings.iter().map(path).collect()
    }

    pub(super) fn show_logs(&self) {
        for node in self.nodes.values() {
            let log = read_log(&node.log);
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {} (last {LOG_LINES} of {} lines)", node.name, lines.len());
            lines[lines.len().saturating_sub(LOG_LINES)..]
                .iter()
                .for_each(|line| eprintln!("{line}"));
        }
    }
}
