//! Where the masters are and who we are: given by the program, the environment, or a file; the first found wins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gabion_protocol::config::{self, Span};
use gabion_protocol::keys::{Holder, Identity, KeyFile, KeyFileError, Role};
use gabion_protocol::{ErrorCode, WireError};
use serde::Deserialize;

use crate::Error;

/// How long an operation goes on trying while the cluster cannot serve it.
const WAIT: Duration = Duration::from_secs(30);

/// Reads of one download in flight, of 1 MiB each.
///
/// On one machine, where the next answer is never far, `gabion-bench in-flight` tells only one from several: four to
/// sixteen are 1.2 to 1.4 times as fast as one, and differ by less than the noise. What several are for is distance:
/// eight keep 10 Gbit/s busy over a round trip of up to 6 ms, for 8 MiB of memory. More would only fill more memory.
const READS_IN_FLIGHT: usize = 8;

/// What a client needs to know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Client addresses of masters, `host:port`. One that is up is enough: it names the others.
    pub masters: Vec<String>,
    /// Who we are. A root key is refused: it belongs on masters only.
    pub key: KeyFile,
    /// How long an operation goes on trying while the cluster cannot serve it.
    pub wait: Duration,
    /// Chunks of one upload in flight at a time.
    pub chunks_in_flight: usize,
    /// Reads of one download in flight at a time.
    pub reads_in_flight: usize,
}

/// Settings a program was given by its user; they win over environment and files.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Client addresses of masters.
    pub masters: Option<Vec<String>>,
    /// The key file.
    pub key_file: Option<PathBuf>,
    /// How long to go on trying.
    pub wait: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    masters: Option<Vec<String>>,
    key_file: Option<PathBuf>,
    wait: Option<Span>,
    /// The cluster runs without keys, on loopback.
    #[serde(default)]
    insecure: bool,
}

impl Config {
    /// A configuration with defaults for all but the essential.
    #[must_use]
    pub fn new(masters: Vec<String>, key: KeyFile) -> Self {
        Self {
            masters,
            key,
            wait: WAIT,
            chunks_in_flight: 2,
            reads_in_flight: READS_IN_FLIGHT,
        }
    }

    /// From `GABION_MASTERS`, `GABION_KEY_FILE` and `GABION_WAIT`, `~/.config/gabion/config.toml`,
    /// `/etc/gabion/client.toml`. A variable that is set to nothing counts as unset.
    ///
    /// # Errors
    /// What is missing or wrong, and where to set it.
    pub fn discover() -> Result<Self, Error> {
        Self::with_settings(Settings::default())
    }

    /// As [`Config::discover`], but `settings` win.
    ///
    /// # Errors
    /// What is missing or wrong, and where to set it.
    pub fn with_settings(settings: Settings) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let home = variable("XDG_CONFIG_HOME")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
        let files: Vec<PathBuf> = home
            .map(|home| home.join("gabion/config.toml"))
            .into_iter()
            .chain([PathBuf::from("/etc/gabion/client.toml")])
            .collect();
        Self::find(settings, variable, &files)
    }

    fn find(settings: Settings, variable: impl Fn(&str) -> Option<String>, files: &[PathBuf]) -> Result<Self, Error> {
        let file = read_first(files)?;
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let masters = settings
            .masters
            .or_else(|| Some(split_list(&variable("GABION_MASTERS")?)))
            .or(file.masters)
            .filter(|masters| !masters.is_empty())
            .ok_or_else(|| {
                missing(
                    "no masters are configured",
                    "set GABION_MASTERS=host:port,host:port or --masters",
                )
            })?;
        if let Some(wrong) = masters.iter().find(|address| !is_address(address)) {
            return Err(missing(
                &format!("{wrong:?} is not an address of the form host:port"),
                "give masters as host:port, separated by commas; IPv6 addresses as [address]:port",
            ));
        }
        let key_file = settings
            .key_file
            .or_else(|| variable("GABION_KEY_FILE").map(PathBuf::from))
            .or(file.key_file);
        let key = match key_file {
            Some(path) => load_key(&path)?,
            None if file.insecure || variable("GABION_INSECURE").is_some_and(|value| value == "1") => insecure_key(),
            None => {
                return Err(missing(
                    "no key file is configured",
                    "set GABION_KEY_FILE=path or --key-file",
                ));
            }
        };
        let wait = match (settings.wait, variable("GABION_WAIT")) {
            (Some(wait), _) => wait,
            (None, Some(text)) => {
                let span: Span = text
                    .parse()
                    .map_err(|why: String| missing(&format!("GABION_WAIT: {why}"), "set GABION_WAIT=30s"))?;
                span.0
            }
            (None, None) => file.wait.map_or(WAIT, |span| span.0),
        };
        Ok(Self {
            wait,
            ..Self::new(masters, key)
        })
    }

    /// Who we are.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        match &self.key.holder {
            Holder::One(identity) => Ok(identity.clone()),
            Holder::Root => Err(WireError::new(
                ErrorCode::WrongKey,
                "the key file holds the cluster's root key, which belongs on masters only",
            )
            .help("issue a key for this user: gabion-master keys issue --root ROOT --role client --id NAME --out FILE")
            .into()),
        }
    }
}

/// The key of a client of a cluster that runs without authentication.
fn insecure_key() -> KeyFile {
    KeyFile::insecure_root().issue(Identity {
        role: Role::Operator,
        id: "anyone".to_owned(),
    })
}

fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn read_first(files: &[PathBuf]) -> Result<File, Error> {
    let Some(path) = files.iter().find(|path| path.exists()) else {
        return Ok(File::default());
    };
    let mut file: File = config::load(Some(path), &[])
        .map_err(|error| missing(&error.to_string(), &format!("correct {}", path.display())))?;
    // A relative key file lies beside the file that names it.
    if let (Some(key_file), Some(directory)) = (&file.key_file, path.parent()) {
        file.key_file = Some(directory.join(key_file));
    }
    Ok(file)
}

fn load_key(path: &Path) -> Result<KeyFile, Error> {
    KeyFile::load(path).map_err(|error| {
        let code = match &error {
            KeyFileError::Io { .. } => ErrorCode::InvalidArgument,
            KeyFileError::TooOpen { .. } | KeyFileError::Malformed { .. } | KeyFileError::WrongHolder { .. } => {
                ErrorCode::WrongKey
            }
        };
        WireError::new(code, error.to_string())
            .help("set GABION_KEY_FILE or --key-file to the key file issued for you")
            .into()
    })
}

fn missing(what: &str, help: &str) -> Error {
    WireError::new(ErrorCode::InvalidArgument, what).help(help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(directory: &Path, role: Role) -> PathBuf {
        let path = directory.join(format!("{role}.key"));
        let id = "a".to_owned();
        KeyFile::new_root().issue(Identity { role, id }).create(&path).unwrap();
        path
    }

    #[test]
    fn program_then_environment_then_file() {
        let directory = tempfile::tempdir().unwrap();
        key_file(directory.path(), Role::Client);
        let operator = key_file(directory.path(), Role::Operator);
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "masters = [\"f:1\"]\nkey_file = \"client.key\"\nwait = \"5s\"").unwrap();
        let files = [directory.path().join("absent"), file];

        let config = Config::find(Settings::default(), |_| None, &files).unwrap();
        assert_eq!(
            (config.masters, config.wait),
            (vec!["f:1".to_owned()], Duration::from_secs(5))
        );

        let variable = |name: &str| match name {
            "GABION_MASTERS" => Some("e:1, e:2,".to_owned()),
            "GABION_KEY_FILE" => Some(operator.display().to_string()),
            _ => None,
        };
        let config = Config::find(Settings::default(), variable, &files).unwrap();
        assert_eq!(config.masters, ["e:1", "e:2"]);
        assert_eq!(config.identity().unwrap().role, Role::Operator);

        let settings = Settings {
            masters: Some(vec!["[::1]:3".to_owned()]),
            ..Settings::default()
        };
        assert_eq!(Config::find(settings, variable, &files).unwrap().masters, ["[::1]:3"]);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let directory = tempfile::tempdir().unwrap();
        key_file(directory.path(), Role::Client);
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "masters = [\"f:1\"]\nkey_file = \"client.key\"\nwait = \"5s\"").unwrap();
        let config = Config::find(Settings::default(), |_| Some(String::new()), &[file]).unwrap();
        assert_eq!(config.masters, ["f:1"]);
        assert_eq!(config.wait, Duration::from_secs(5));
        let error = Config::find(Settings::default(), |_| Some(String::new()), &[]).unwrap_err();
        assert!(
            error.report().contains("no masters are configured"),
            "{}",
            error.report()
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "master = [\"f:1\"]").unwrap();
        let error = Config::find(Settings::default(), |_| None, &[file]).unwrap_err();
        assert!(
            error.report().contains("master") && error.exit_code() == 2,
            "{}",
            error.report()
        );

        let error = Config::find(Settings::default(), |_| None, &[]).unwrap_err();
        assert!(error.report().contains("GABION_MASTERS"), "{}", error.report());

        let masters = |text: &str| Settings {
            masters: Some(vec![text.to_owned()]),
            ..Settings::default()
        };
        let error = Config::find(masters("nonsense"), |_| None, &[]).unwrap_err();
        assert!(error.report().contains("host:port"), "{}", error.report());
        let error = Config::find(masters("h:1"), |_| None, &[]).unwrap_err();
        assert!(error.report().contains("GABION_KEY_FILE"), "{}", error.report());
    }

    #[test]
    fn a_root_key_is_refused() {
        let config = Config::new(vec!["h:1".to_owned()], KeyFile::new_root());
        assert_eq!(config.identity().unwrap_err().exit_code(), 6);
    }
}
