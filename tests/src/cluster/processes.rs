//! The cluster's processes: started, stopped, killed, paused.

use std::time::Duration;

use rustix::process::Signal;

use super::{Cluster, Node};
use crate::binaries::binary;
use crate::command::Tool;
use crate::network::Network;
use crate::process::{Process, command};
use crate::wait::seconds;

impl Cluster {
    /// A server by name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Names of all masters.
    #[must_use]
    pub fn masters(&self) -> Vec<String> {
        self.nodes
            .values()
            .filter(|node| node.is_master())
            .map(|node| node.name.clone())
            .collect()
    }

    /// Names of all chunkservers.
    #[must_use]
    pub fn chunkservers(&self) -> Vec<String> {
        self.nodes
            .values()
            .filter(|node| !node.is_master())
            .map(|node| node.name.clone())
            .collect()
    }

    /// The command that runs a server's binary with its configuration.
    #[must_use]
    pub fn server_tool(&self, name: &str) -> Tool {
        let node = self.node(name);
        let program = if node.is_master() {
            "gabion-master"
        } else {
            "gabion-chunkserver"
        };
        Tool::new(&binary(program)).arg("--config").arg(&node.config)
    }

    /// Starts a server that does not run.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn start(&mut self, name: &str) {
        let node = self.node_mut(name);
        assert!(node.process.is_none(), "{name} runs already");
        let program = binary(if node.is_master() {
            "gabion-master"
        } else {
            "gabion-chunkserver"
        });
        let mut command = command(&program, node.namespace.as_deref());
        command.arg("--config").arg(&node.config);
        node.process = Some(Process::start(name, command, &node.log));
    }

    /// Starts every server that does not run, all at once.
    ///
    /// # Panics
    /// If one cannot be started.
    pub fn start_all(&mut self) {
        let idle = |node: &&Node| node.process.is_none();
        let names: Vec<_> = self.nodes.values().filter(idle).map(|node| node.name.clone()).collect();
        names.iter().for_each(|name| self.start(name));
    }

    /// Stops a server gracefully (SIGTERM) and asserts that it says so with exit code 0.
    ///
    /// # Panics
    /// If it takes over 20 s or fails.
    pub fn stop(&mut self, name: &str) {
        let mut process = self.take(name);
        process.signal(Signal::TERM);
        let status = process.wait(seconds(20));
        assert!(status.success(), "{name} stopped with {status}");
    }

    /// Kills a server (SIGKILL).
    ///
    /// # Panics
    /// If it had ended by itself before: then the fault was not ours.
    pub fn kill(&mut self, name: &str) {
        let mut process = self.take(name);
        let before = process.ended();
        assert!(before.is_none(), "{name} had ended by itself: {before:?}");
        process.signal(Signal::KILL);
        process.wait(seconds(10));
    }

    /// Kills every running server at once.
    ///
    /// # Panics
    /// If one had ended by itself before.
    pub fn kill_all(&mut self) {
        let mut processes: Vec<_> = self
            .nodes
            .values_mut()
            .filter_map(|node| Some((node.name.clone(), node.process.take()?)))
            .collect();
        for (name, process) in &mut processes {
            assert!(process.ended().is_none(), "{name} had ended by itself");
        }
        processes.iter().for_each(|(_, process)| process.signal(Signal::KILL));
        for (_, process) in &mut processes {
            process.wait(seconds(10));
        }
    }

    fn take(&mut self, name: &str) -> Process {
        let node = self.node_mut(name);
        node.paused = false;
        node.process.take().unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// Stops a server in its tracks (SIGSTOP): it keeps its connections and says nothing.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&mut self, name: &str) {
        let node = self.node_mut(name);
        node.process().signal(Signal::STOP);
        node.paused = true;
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Panics
    /// If it does not run.
    pub fn resume(&mut self, name: &str) {
        let node = self.node_mut(name);
        node.process().signal(Signal::CONT);
        node.paused = false;
    }

    /// Whether a server that was started has ended by itself.
    #[must_use]
    pub fn ended(&self, name: &str) -> bool {
        // A child that ended stays a zombie until it is waited for, and so keeps its process id.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.node(name).process().id()));
        stat.is_ok_and(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
        })
    }

    /// Waits until a server has ended by itself; gives whether it succeeded, and its log.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait_ended(&mut self, name: &str, deadline: Duration) -> (bool, String) {
        let mut process = self.take(name);
        let status = process.wait(deadline);
        (status.success(), process.log())
    }

    /// Panics if a server that should run has ended by itself.
    ///
    /// # Panics
    /// As said.
    pub fn assert_all_run(&mut self) {
        for node in self.nodes.values_mut() {
            let ended = node.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{} ended by itself: {ended:?}", node.name);
        }
    }

    /// The network, if each server has a namespace.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was planned with namespaces")
    }
}
