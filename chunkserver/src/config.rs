//! A chunkserver's settings: a TOML file, then `GABION_CHUNKSERVER_…`, then `--set`.
//!
//! Checked once, at start: [`Config::check`] refuses what could only fail later, and says which key is wrong.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use gabion_protocol::config::{self, ConfigError, Override, Size, Span};
use gabion_protocol::keys::{Holder, Identity, KeyFile, KeyFileError, Role};
use serde::{Deserialize, Serialize};

/// The prefix of environment variables that change settings.
pub const ENVIRONMENT_PREFIX: &str = "GABION_CHUNKSERVER";

/// A chunkserver's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name, which its key was issued for.
    pub name: String,
    /// Its directories, one per disk.
    pub dirs: Vec<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Runs without a key, on loopback only.
    #[serde(default)]
    pub insecure: bool,
    /// Where it listens, `host:port`.
    pub listen: String,
    /// Where others reach it; `listen` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
    /// Servers of one rack fail together.
    #[serde(default)]
    pub rack: String,
    /// Bytes kept free on each disk: writes are refused before they are touched. If not said, 1 GiB or a twentieth of
    /// the disk, whichever is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Size>,
    /// Whether chunks are written past the page cache where the file system lets us.
    #[serde(default = "default_direct_io")]
    pub direct_io: bool,
    /// Bytes of packets in memory for all write streams together.
    #[serde(default = "default_windows")]
    pub write_memory: Size,
    /// Within this time every copy is re-read from its disk and compared with its checksums.
    #[serde(default = "default_scrub_period")]
    pub scrub_period: Span,
    /// Bytes per second that are read for that from each disk at most.
    #[serde(default = "default_scrub_rate")]
    pub scrub_rate: Size,
}

fn default_direct_io() -> bool {
    true
}

/// Latent errors are found while the other copies are still there, and a disk of 4 TB is read at 4 MB/s.
fn default_scrub_period() -> Span {
    Span::from_millis(14 * 24 * 3600 * 1000)
}

/// A fifth of what a spinning disk reads.
fn default_scrub_rate() -> Size {
    Size(32 << 20)
}

fn default_windows() -> Size {
    Size(64 << 20)
}

/// Why a chunkserver cannot start with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// They cannot be read.
    #[error(transparent)]
    Load(#[from] ConfigError),
    /// They make no sense.
    #[error("the configuration is wrong: {key} {why}")]
    Check {
        /// Which setting.
        key: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
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

    /// Who this server is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            role: Role::Chunkserver,
            id: self.name.clone(),
        }
    }

    /// Its key.
    ///
    /// # Errors
    /// [`KeyFileError`] if the file cannot be read, is open to others, or holds another key.
    pub fn key(&self) -> Result<KeyFile, KeyFileError> {
        match &self.key_file {
            Some(path) => KeyFile::load_for(path, &Holder::One(self.identity())),
            None => Ok(KeyFile::insecure_root().issue(self.identity())),
        }
    }

    /// Where others reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        self.advertise.as_ref().unwrap_or(&self.listen)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`SettingsError::Check`] for the first setting that cannot be.
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |key, why: &str| {
            Err(SettingsError::Check {
                key,
                why: why.to_owned(),
            })
        };
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_name_byte) {
            return wrong("name", "must be 1 to 64 letters, digits, dots, dashes or underscores");
        }
        if self.dirs.is_empty() {
            return wrong("dirs", "names no directory: give one for each disk");
        }
        if (1..self.dirs.len()).any(|i| self.dirs[..i].contains(&self.dirs[i])) {
            return wrong("dirs", "names a directory twice");
        }
        match (&self.key_file, self.insecure) {
            (None, false) => {
                return wrong(
                    "key_file",
                    "is missing: issue one with `gabion-master keys issue`, or set insecure = true on loopback",
                );
            }
            (Some(_), true) => return wrong("insecure", "excludes key_file: remove one"),
            (None, true) if !is_loopback(&self.listen) => {
                return wrong(
                    "listen",
                    "is not a loopback address: without a key a server listens on loopback only; set key_file",
                );
            }
            (None, true) | (Some(_), false) => {}
        }
        self.check_addresses()?;
        if self.write_memory.0 < 4 << 20 || self.write_memory.0 > 16 << 30 {
            return wrong("write_memory", "must be 4MiB to 16GiB");
        }
        if !(1_000..=400 * 24 * 3600 * 1000).contains(&self.scrub_period.millis()) {
            return wrong("scrub_period", "must be 1s to 400d");
        }
        if !(64 << 10..=16 << 30).contains(&self.scrub_rate.0) {
            return wrong("scrub_rate", "must be 64KiB to 16GiB, which is read in one second");
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), SettingsError> {
        let wrong = |key, why: String| Err(SettingsError::Check { key, why });
        if port_of(&self.listen).is_none() {
            return wrong("listen", format!("{:?} is not host:port", self.listen));
        }
        if port_of(self.address()).is_none_or(|port| port == 0) {
            return wrong(
                "advertise",
                format!("{:?} is not host:port with a port from 1 to 65535", self.address()),
            );
        }
        let host = self.address().rsplit_once(':').map_or("", |(host, _)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if ip.is_ok_and(|ip| ip.is_unspecified()) {
            return wrong(
                "advertise",
                format!(
                    "{:?} is no address others can reach: set this machine's name",
                    self.address()
                ),
            );
        }
        if self.masters.is_empty() || self.masters.len() > 32 {
            return wrong("masters", "must name 1 to 32 client addresses of masters".to_owned());
        }
        match self
            .masters
            .iter()
            .find(|address| port_of(address).is_none_or(|port| port == 0))
        {
            Some(address) => wrong("masters", format!("names {address:?}, which is not host:port")),
            None => Ok(()),
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn port_of(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    if host.is_empty() { None } else { port.parse().ok() }
}

fn is_loopback(address: &str) -> bool {
    address
        .to_socket_addrs()
        .is_ok_and(|mut addresses| addresses.len() > 0 && addresses.all(|address| address.ip().is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            name: "c1".into(),
            dirs: vec!["/d".into()],
            key_file: None,
            insecure: true,
            listen: "127.0.0.1:7201".into(),
            advertise: None,
            masters: vec!["127.0.0.1:7001".into()],
            rack: String::new(),
            reserve: None,
            direct_io: true,
            write_memory: default_windows(),
            scrub_period: default_scrub_period(),
            scrub_rate: default_scrub_rate(),
        }
    }

    #[test]
    fn a_printed_configuration_loads_again() {
        let text = toml::to_string(&config()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config());
        assert!(config().check().is_ok());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            match config.check().unwrap_err() {
                SettingsError::Check { key, .. } => key,
                other => panic!("{other}"),
            }
        };
        assert_eq!(wrong(|c| c.name = "a/b".into()), "name");
        assert_eq!(wrong(|c| c.dirs.clear()), "dirs");
        assert_eq!(wrong(|c| c.dirs.push("/d".into())), "dirs");
        assert_eq!(wrong(|c| c.insecure = false), "key_file");
        assert_eq!(wrong(|c| c.key_file = Some("/k".into())), "insecure");
        assert_eq!(wrong(|c| c.listen = "0.0.0.0:1".into()), "listen");
        assert_eq!(wrong(|c| c.listen = "nohost".into()), "listen");
        assert_eq!(wrong(|c| c.advertise = Some("[::]:5".into())), "advertise");
        assert_eq!(wrong(|c| c.scrub_period = Span::from_millis(10)), "scrub_period");
        assert_eq!(wrong(|c| c.scrub_rate = Size(0)), "scrub_rate");
        assert_eq!(wrong(|c| c.masters.clear()), "masters");
        assert_eq!(wrong(|c| c.masters.push("m".into())), "masters");
    }
}
