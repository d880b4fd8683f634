//! Servers in network namespaces of their own, joined by a bridge, so that a server can be cut off: its packets vanish
//! without a word, in both directions, while it runs on and believes its connections alive.
//!
//! Needs root and iproute2, nothing else: a disabled bridge port drops every frame silently and keeps its carrier.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::skip::missing;

/// A bridge and the namespaces on it. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    id: String,
    subnet: String,
    hosts: RefCell<BTreeMap<String, Host>>,
}

#[derive(Debug, Clone)]
struct Host {
    namespace: String,
    port: String,
    address: String,
}

/// Bridge port states as the kernel numbers them.
const PORT_DISABLED: &str = "0";
const PORT_FORWARDING: &str = "3";

fn ip(line: &str) -> Result<(), String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let done = Command::new(words[0]).args(&words[1..]).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("`{line}`: {error}")),
    }
}

fn must(line: &str) {
    ip(line).unwrap_or_else(|why| panic!("{why}"));
}

impl Network {
    /// Why this machine cannot have one, if so.
    #[must_use]
    pub fn missing() -> Option<String> {
        missing(&["ip", "bridge"]).or_else(|| {
            let name = format!("gt{}p", std::process::id());
            let tried = ip(&format!("ip netns add {name}")).and_then(|()| {
                let made = ip(&format!("ip link add {name} type bridge"));
                // What was made for the trial goes, whatever came of it.
                let _ = ip(&format!("ip link del {name}"));
                let _ = ip(&format!("ip netns del {name}"));
                made
            });
            tried.err().map(|why| format!("cannot make network namespaces: {why}"))
        })
    }

    /// A new bridge.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Self {
            // Interface names have at most 15 bytes.
            id: format!("gt{}x{count}", process % 100_000),
            subnet: format!("10.{}.{}", 128 + process % 100, (process / 100 + count) % 256),
            hosts: RefCell::default(),
        };
        must(&format!("ip link add {} type bridge", network.id));
        must(&format!("ip addr add {}.1/24 dev {}", network.subnet, network.id));
        must(&format!("ip link set {} up", network.id));
        network
    }

    /// Namespace and address of a host, made at the first call.
    pub(crate) fn host_of(&self, name: &str) -> (String, String) {
        let mut hosts = self.hosts.borrow_mut();
        let number = hosts.len() + 2;
        let host = hosts.entry(name.to_owned()).or_insert_with(|| {
            let host = Host {
                namespace: format!("{}-{name}", self.id),
                port: format!("{}{name}", self.id),
                address: format!("{}.{number}", self.subnet),
            };
            let Host {
                namespace,
                port,
                address,
            } = &host;
            must(&format!("ip netns add {namespace}"));
            must(&format!(
                "ip link add {port} type veth peer name eth0 netns {namespace}"
            ));
            must(&format!("ip link set {port} master {} up", self.id));
            must(&format!("ip -n {namespace} addr add {address}/24 dev eth0"));
            must(&format!("ip -n {namespace} link set eth0 up"));
            must(&format!("ip -n {namespace} link set lo up"));
            host
        });
        (host.namespace.clone(), host.address.clone())
    }

    /// From now on every packet from and to `name` is dropped silently.
    ///
    /// # Panics
    /// If the network refuses, or packets still arrive: then the fault did not fire.
    pub fn cut(&self, name: &str, address: &str) {
        self.set(name, PORT_DISABLED);
        let socket = address.parse().expect("a host's address is numeric");
        let tried = std::net::TcpStream::connect_timeout(&socket, std::time::Duration::from_millis(300));
        let silent = tried.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
        assert!(silent, "{name} was cut off, but it can still be reached");
    }

    /// Packets flow again.
    ///
    /// # Panics
    /// If the network refuses.
    pub fn join(&self, name: &str) {
        self.set(name, PORT_FORWARDING);
    }

    /// From now on nothing passes between `name` and `others`, silently, while everybody else reaches them all.
    ///
    /// # Panics
    /// If the network refuses.
    pub fn part(&self, name: &str, others: &[String]) {
        // Frames to a hardware address that nobody has reach nobody, and no sender is told.
        self.each_way(name, others, |host, other| {
            let (namespace, address) = (&host.namespace, &other.address);
            must(&format!(
                "ip -n {namespace} neigh replace {address} lladdr 02:00:00:00:00:fe nud permanent dev eth0"
            ));
        });
    }

    /// They reach each other again.
    ///
    /// # Panics
    /// If the network refuses.
    pub fn rejoin(&self, name: &str, others: &[String]) {
        self.each_way(name, others, |host, other| {
            must(&format!(
                "ip -n {} neigh del {} dev eth0",
                host.namespace, other.address
            ));
        });
    }

    fn each_way(&self, name: &str, others: &[String], change: impl Fn(&Host, &Host)) {
        let hosts = self.hosts.borrow();
        let host = |name: &str| hosts.get(name).unwrap_or_else(|| panic!("there is no host {name}"));
        for other in others {
            change(host(name), host(other));
            change(host(other), host(name));
        }
    }

    fn set(&self, name: &str, state: &str) {
        let port = self.hosts.borrow().get(name).map(|host| host.port.clone());
        let port = port.unwrap_or_else(|| panic!("there is no host {name}"));
        must(&format!("bridge link set dev {port} state {state}"));
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Cleaning up goes on past failures: what is left is named after a process that is gone.
        let _ = ip(&format!("ip link del {}", self.id));
        for host in self.hosts.borrow().values() {
            let _ = ip(&format!("ip netns del {}", host.namespace));
        }
    }
}
