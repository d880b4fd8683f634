//! The command-line tools, pointed at the cluster.

use super::{Access, Cluster, LOG_LINES};
use crate::binaries::binary;
use crate::command::Tool;
use crate::process::read_log;

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

    /// Asserts that the masters agree and no copy is damaged. Copies may be missing (8): servers were down while
    /// chunks were written, and that is told.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_undamaged(&self) {
        self.verify().arg("masters").run().ok();
        let replicas = self.verify().arg("replicas").run();
        assert!([0, 8].contains(&replicas.code()), "{replicas}");
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
