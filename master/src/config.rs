//! A master's settings: a TOML file, then `GABION_MASTER_…`, then `--set`.
//!
//! Checked once, at start: [`Config::check`] refuses what could only fail later, and says which key is wrong. The
//! effective configuration is printed by `--print-config`, in the form the file has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gabion_protocol::config::{self, ConfigError, Override, Size, Span};
use gabion_protocol::ids::MasterId;
use gabion_protocol::keys::{Holder, KeyFile, KeyFileError};
use gabion_protocol::limits;
use serde::{Deserialize, Serialize};

/// The prefix of environment variables that change settings.
pub const ENVIRONMENT_PREFIX: &str = "GABION_MASTER";

/// A master's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This master's id: never used before, never used again after its directory is lost.
    pub id: u64,
    /// Its directory, its own alone.
    pub dir: PathBuf,
    /// The root key; only masters hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Runs without a key, on loopback only.
    #[serde(default)]
    pub insecure: bool,
    /// Where it listens to masters, `host:port`.
    pub raft_listen: String,
    /// Where masters reach it; by default what the member list says, else `raft_listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_advertise: Option<String>,
    /// Where it listens to everyone else, `host:port`.
    pub client_listen: String,
    /// Where everyone else reaches it; by default what the member list says, else `client_listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_advertise: Option<String>,
    /// Space on its disk that is kept for the way out of a full one; by default 256 MiB, or an eighth of the disk if that
    /// is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Size>,
    /// Whether this is a new master that waits to be added to a running cluster.
    #[serde(default)]
    pub join: bool,
    /// What the cluster is bootstrapped with; without effect afterwards.
    #[serde(default)]
    pub cluster: ClusterSettings,
    /// Periods.
    #[serde(default)]
    pub timing: Timing,
    /// The log.
    #[serde(default)]
    pub raft: RaftSettings,
    /// Making lost copies anew.
    #[serde(default)]
    pub repair: RepairSettings,
    /// Moving copies from full chunkservers to emptier ones.
    #[serde(default)]
    pub balance: BalanceSettings,
    /// Comparing what chunkservers hold with what the masters know.
    #[serde(default)]
    pub inventory: InventorySettings,
    /// Memory of RocksDB.
    #[serde(default)]
    pub memory: MemorySettings,
    /// The masters a new cluster begins with.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// A master of the static list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where masters reach it.
    pub raft: String,
    /// Where everyone else reaches it.
    pub client: String,
}

/// What a new cluster begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSettings {
    /// Copies of each chunk when an upload does not say.
    pub replicas: u8,
    /// Bytes of a chunk when an upload does not say.
    pub chunk_size: Size,
    /// How long what is removed can be restored; `0s` for not at all.
    pub trash: Span,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            replicas: limits::REPLICAS_DEFAULT,
            chunk_size: Size(limits::CHUNK_BYTES_DEFAULT),
            trash: Span::from_millis(limits::TRASH_MS),
        }
    }
}

/// Periods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// After so long without a beat a chunkserver gets no new writes.
    pub suspect: Span,
    /// After so long without a beat a chunkserver's copies count no more.
    pub lost: Span,
    /// How long a token is valid. Of the cluster: taken when it is bootstrapped.
    pub token: Span,
    /// How long an upload lives without a word of its writer. Of the cluster.
    pub upload_lease: Span,
    /// How long a session lives without a command. Of the cluster.
    pub session: Span,
    /// How often state time moves.
    pub tick: Span,
    /// How long an upload waits for enough chunkservers before it fails.
    pub placement_wait: Span,
    /// How long requests under way may take once the master is asked to stop.
    pub stop: Span,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            suspect: Span::from_millis(2_000),
            lost: Span::from_millis(15_000),
            token: Span::from_millis(limits::TOKEN_MS),
            upload_lease: Span::from_millis(limits::UPLOAD_LEASE_MS),
            session: Span::from_millis(limits::SESSION_MS),
            tick: Span::from_millis(1_000),
            placement_wait: Span::from_millis(10_000),
            stop: Span::from_millis(5_000),
        }
    }
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftSettings {
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for followers a little behind.
    pub keep_log: u64,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            snapshot_every: 100_000,
            keep_log: 20_000,
        }
    }
}

/// Making lost copies anew. Each byte of a copy is read on one server and written on another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairSettings {
    /// How long after the other servers became suspect the last copy of a chunk waits for them. Also how long a server
    /// must have been back before a copy elsewhere is dropped because of its own.
    pub urgent: Span,
    /// Bytes of copies under way that are read from one server: two chunks of the default size keep its disk busy, and
    /// leave room for readers.
    pub source: Size,
    /// Bytes of copies under way that are written to one server.
    pub target: Size,
    /// Bytes of copies under way in the whole cluster: what a few dozen servers do at the limits above.
    pub cluster: Size,
}

impl Default for RepairSettings {
    fn default() -> Self {
        Self {
            urgent: Span::from_millis(5_000),
            source: Size(128 << 20),
            target: Size(128 << 20),
            cluster: Size(8 << 30),
        }
    }
}

/// Moving copies from full chunkservers to emptier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalanceSettings {
    /// How far from the mean the used share of a server's space may be, in percent of that space: below it placement
    /// alone evens things out, as it prefers servers with more room.
    pub threshold: u8,
    /// Bytes of moves under way from one server, and to one: one chunk of the default size, half of what repair may
    /// take, because nobody waits for a move.
    pub budget: Size,
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self {
            threshold: 5,
            budget: Size(64 << 20),
        }
    }
}

/// Comparing what chunkservers hold with what the masters know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InventorySettings {
    /// How long a copy that no row names is kept before it is removed: time to see the alarm, and to stop the masters if it
    /// is they who are wrong.
    pub keep_unknown: Span,
    /// How long a part of a server's copies must have stood still, on both sides, before it is compared copy by copy.
    pub quiet: Span,
}

impl Default for InventorySettings {
    fn default() -> Self {
        Self {
            keep_unknown: Span::from_millis(limits::UNKNOWN_MS),
            quiet: Span::from_millis(5_000),
        }
    }
}

/// Memory of RocksDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Cached blocks.
    pub cache: Size,
    /// One write buffer.
    pub write_buffer: Size,
    /// All write buffers.
    pub write_buffers: Size,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            cache: Size(32 << 20),
            write_buffer: Size(16 << 20),
            write_buffers: Size(64 << 20),
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The id is 0.
    #[error("id must be 1 or more")]
    Id,
    /// No key, and not said to run without one.
    #[error(
        "key_file is missing: make one with `gabion-master keys new --out root.key`, or set insecure = true to try a cluster out on loopback"
    )]
    NoKey,
    /// A key and `insecure` exclude each other.
    #[error("key_file and insecure exclude each other: remove one")]
    KeyAndInsecure,
    /// Without a key only loopback is safe.
    #[error(
        "{key} = {address:?} is not a loopback address: without a key a master listens on loopback only; set key_file"
    )]
    InsecureAddress {
        /// Which setting.
        key: &'static str,
        /// Its value.
        address: String,
    },
    /// Not `host:port`.
    #[error("{key} = {address:?} is not host:port with a port from 1 to 65535")]
    Address {
        /// Which setting.
        key: String,
        /// Its value.
        address: String,
    },
    /// Nobody can connect to the unspecified address.
    #[error("{key} = {address:?} is no address others can reach: set it to this machine's host name or address")]
    Unspecified {
        /// Which setting.
        key: &'static str,
        /// Its value.
        address: String,
    },
    /// The two listeners are one.
    #[error("raft_listen and client_listen are both {0:?}: give each its own port")]
    SameAddress(String),
    /// Named twice in the member list.
    #[error("members names {what} twice")]
    Duplicate {
        /// Which id or address.
        what: String,
    },
    /// The list does not name this master.
    #[error(
        "members does not name this master (id = {id}): add it, or set join = true if it is to be added to a running cluster"
    )]
    NotMember {
        /// Its id.
        id: u64,
    },
    /// The list and the settings disagree.
    #[error("members gives master {id} the address {listed:?}, but {key} = {own:?}")]
    OtherAddress {
        /// Its id.
        id: u64,
        /// Which setting.
        key: &'static str,
        /// What the list says.
        listed: String,
        /// What the setting says.
        own: String,
    },
    /// Out of range.
    #[error("{key} = {value} is out of range: {range}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        range: String,
    },
}

/// Why a master cannot start with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// They cannot be read.
    #[error(transparent)]
    Load(#[from] ConfigError),
    /// They make no sense.
    #[error("the configuration is wrong: {0}")]
    Check(#[from] CheckError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

impl Config {
    /// Loads and checks the settings.
    ///
    /// # Errors
    /// [`SettingsError`] names the key that is wrong.
    pub fn load(file: Option<&Path>, flags: &[Override]) -> Result<Self, SettingsError> {
        let mut overrides = config::from_environment(ENVIRONMENT_PREFIX, std::env::vars());
        overrides.extend_from_slice(flags);
        let config: Self = config::load(file, &overrides)?;
        config.check()?;
        Ok(config)
    }

    /// This master's id.
    #[must_use]
    pub fn master_id(&self) -> MasterId {
        MasterId(self.id)
    }

    /// The cluster's root key.
    ///
    /// # Errors
    /// [`KeyFileError`] if the file cannot be read, is open to others, or holds another kind of key.
    pub fn root_key(&self) -> Result<KeyFile, KeyFileError> {
        match &self.key_file {
            Some(path) => KeyFile::load_for(path, &Holder::Root),
            None => Ok(KeyFile::insecure_root()),
        }
    }

    fn listed(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.id == self.id)
    }

    /// Where masters reach this one.
    #[must_use]
    pub fn raft_address(&self) -> &str {
        let listed = self.listed().map(|member| &member.raft);
        self.raft_advertise.as_ref().or(listed).unwrap_or(&self.raft_listen)
    }

    /// Where everyone else reaches this one.
    #[must_use]
    pub fn client_address(&self) -> &str {
        let listed = self.listed().map(|member| &member.client);
        self.client_advertise.as_ref().or(listed).unwrap_or(&self.client_listen)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`CheckError`] for the first setting that cannot be.
    pub fn check(&self) -> Result<(), CheckError> {
        if self.id == 0 {
            return Err(CheckError::Id);
        }
        self.check_key()?;
        self.check_members()?;
        self.check_addresses()?;
        self.check_ranges()
    }

    fn check_key(&self) -> Result<(), CheckError> {
        match (&self.key_file, self.insecure) {
            (None, false) => return Err(CheckError::NoKey),
            (Some(_), true) => return Err(CheckError::KeyAndInsecure),
            (Some(_), false) => return Ok(()),
            (None, true) => {}
        }
        for (key, address) in [
            ("raft_listen", &self.raft_listen),
            ("client_listen", &self.client_listen),
        ] {
            if !is_loopback(address) {
                return Err(CheckError::InsecureAddress {
                    key,
                    address: address.clone(),
                });
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), CheckError> {
        check_address("raft_listen", &self.raft_listen)?;
        check_address("client_listen", &self.client_listen)?;
        if self.raft_listen == self.client_listen {
            return Err(CheckError::SameAddress(self.raft_listen.clone()));
        }
        for (key, address) in [
            ("raft_advertise", self.raft_address()),
            ("client_advertise", self.client_address()),
        ] {
            check_address(key, address)?;
            if host(address).is_some_and(|host| host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())) {
                return Err(CheckError::Unspecified {
                    key,
                    address: address.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), CheckError> {
        let mut seen = BTreeSet::new();
        for member in &self.members {
            check_address(&format!("members of master {}: raft", member.id), &member.raft)?;
            check_address(&format!("members of master {}: client", member.id), &member.client)?;
            for what in [format!("id {}", member.id), member.raft.clone(), member.client.clone()] {
                if !seen.insert(what.clone()) {
                    return Err(CheckError::Duplicate { what });
                }
            }
        }
        let Some(own) = self.listed() else {
            return if self.join {
                Ok(())
            } else {
                Err(CheckError::NotMember { id: self.id })
            };
        };
        for (key, listed, own) in [
            ("raft_advertise", &own.raft, self.raft_address()),
            ("client_advertise", &own.client, self.client_address()),
        ] {
            if listed != own {
                return Err(CheckError::OtherAddress {
                    id: self.id,
                    key,
                    listed: listed.clone(),
                    own: own.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), CheckError> {
        let out = |key, value: &dyn std::fmt::Display, range: String| {
            Err(CheckError::Range {
                key,
                value: value.to_string(),
                range,
            })
        };
        let ClusterSettings {
            replicas, chunk_size, ..
        } = &self.cluster;
        if !(1..=limits::REPLICAS_MAX).contains(replicas) {
            return out("cluster.replicas", replicas, format!("1 to {}", limits::REPLICAS_MAX));
        }
        let sizes = limits::CHUNK_BYTES_MIN..=limits::CHUNK_BYTES_MAX;
        if !sizes.contains(&chunk_size.0) || !chunk_size.0.is_multiple_of(limits::BLOCK_BYTES as u64) {
            let (block, min, max) = (
                Size(limits::BLOCK_BYTES as u64),
                Size(*sizes.start()),
                Size(*sizes.end()),
            );
            return out(
                "cluster.chunk_size",
                chunk_size,
                format!("a multiple of {block}, {min} to {max}"),
            );
        }
        let timing = &self.timing;
        for (key, span, least) in [
            ("timing.suspect", timing.suspect, 1_100),
            ("timing.lost", timing.lost, 1_100),
            ("timing.token", timing.token, 1_000),
            ("timing.upload_lease", timing.upload_lease, 1_000),
            ("timing.session", timing.session, 1_000),
            ("timing.tick", timing.tick, 100),
            ("repair.urgent", self.repair.urgent, 500),
            ("inventory.keep_unknown", self.inventory.keep_unknown, 1_000),
            ("inventory.quiet", self.inventory.quiet, 500),
        ] {
            if span.millis() < least {
                return out(key, &span, format!("at least {}", Span::from_millis(least)));
            }
        }
        if timing.lost < timing.suspect {
            return out(
                "timing.lost",
                &timing.lost,
                format!("at least timing.suspect, {}", timing.suspect),
            );
        }
        if timing.tick.0 > Duration::from_secs(10) {
            return out("timing.tick", &timing.tick, "at most 10s".to_owned());
        }
        let repair = &self.repair;
        for (key, size) in [
            ("repair.source", repair.source),
            ("repair.target", repair.target),
            ("repair.cluster", repair.cluster),
            ("balance.budget", self.balance.budget),
        ] {
            if size.0 == 0 {
                return out(key, &size, "at least 1".to_owned());
            }
        }
        if !(1..=50).contains(&self.balance.threshold) {
            return out("balance.threshold", &self.balance.threshold, "1 to 50".to_owned());
        }
        if self.raft.snapshot_every == 0 {
            return out(
                "raft.snapshot_every",
                &self.raft.snapshot_every,
                "at least 1".to_owned(),
            );
        }
        Ok(())
    }
}

fn host(address: &str) -> Option<&str> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host))
}

/// Whether the address can only be this machine's own. A name is not resolved: what it means may change.
fn is_loopback(address: &str) -> bool {
    host(address)
        .is_some_and(|host| host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()))
}

fn check_address(key: &str, address: &str) -> Result<(), CheckError> {
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid {
        return Ok(());
    }
    Err(CheckError::Address {
        key: key.to_owned(),
        address: address.to_owned(),
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
