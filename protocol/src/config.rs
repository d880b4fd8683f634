//! Configuration: a TOML file, then the environment, then flags; later ones win.
//!
//! Unknown keys and wrong types are errors that name the key and where it was set: a misspelt setting that is silently
//! ignored is found on the worst of days. Settings change by restart.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not valid TOML: {why}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        why: String,
    },
    /// A key is unknown, missing, or has a wrong value.
    #[error("the configuration ({origin}) is wrong: {why}")]
    Value {
        /// Where the values came from.
        origin: String,
        /// Which key and why.
        why: String,
    },
}

/// One setting from outside the file, and where it came from (`GABION_X_LISTEN`, `--set listen`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key; dots separate tables.
    pub key: String,
    /// A TOML value, or plain text.
    pub value: String,
    /// For error messages.
    pub origin: String,
}

impl Override {
    /// A `KEY=VALUE` flag.
    ///
    /// # Errors
    /// A sentence, if there is no `=`.
    pub fn from_flag(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        Ok(Self {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
            origin: format!("--set {}", key.trim()),
        })
    }
}

/// Settings from environment variables `PREFIX_KEY`; two underscores stand for a dot.
#[must_use]
pub fn from_environment(prefix: &str, variables: impl Iterator<Item = (String, String)>) -> Vec<Override> {
    let mut overrides: Vec<_> = variables
        .filter_map(|(name, value)| {
            let key = name
                .strip_prefix(prefix)?
                .strip_prefix('_')?
                .to_lowercase()
                .replace("__", ".");
            (!key.is_empty()).then_some(Override {
                key,
                value,
                origin: name,
            })
        })
        .collect();
    overrides.sort_by(|a, b| a.key.cmp(&b.key));
    overrides
}

/// Reads the file, if one is named, and lays `overrides` over it in order.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned>(file: Option<&Path>, overrides: &[Override]) -> Result<T, ConfigError> {
    let mut table = toml::Table::new();
    let mut origin = "defaults".to_owned();
    if let Some(path) = file {
        origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: origin.clone(),
            source,
        })?;
        // The file alone first: its own mistakes are then told with their line.
        table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: origin.clone(),
            why: error.to_string(),
        })?;
        if overrides.is_empty() {
            return toml::from_str(&text).map_err(|error| ConfigError::Value {
                origin,
                why: error.to_string(),
            });
        }
    }
    for setting in overrides {
        lay_over(&mut table, setting)?;
        origin.push_str(", ");
        origin.push_str(&setting.origin);
    }
    table.try_into().map_err(|error: toml::de::Error| ConfigError::Value {
        origin,
        why: error.to_string(),
    })
}

fn lay_over(table: &mut toml::Table, setting: &Override) -> Result<(), ConfigError> {
    let mut names = setting.key.split('.').peekable();
    let mut at = table;
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            at.insert(name.to_owned(), value_of(&setting.value));
            return Ok(());
        }
        at = at
            .entry(name)
            .or_insert_with(|| toml::Table::new().into())
            .as_table_mut()
            .ok_or_else(|| ConfigError::Value {
                origin: setting.origin.clone(),
                why: format!("{name} is not a table"),
            })?;
    }
    Ok(())
}

/// The text as a TOML value if it is one, else as a string: `8` is a number, `5s` and `host:1` are text.
fn value_of(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| if table.len() == 1 { table.remove("value") } else { None })
        .filter(|value| !value.is_datetime())
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// A size in bytes, written `64MiB`, `1GiB`, `4096` or `4096B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("{text:?} is not a size such as 64MiB");
        let (number, unit) = SIZE_UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
            .unwrap_or((text, 1));
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (suffix, unit) = SIZE_UNITS
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
            .unwrap_or(&("B", 1));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

/// A span of time, written `500ms`, `5s`, `10m`, `2h` or `14d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Span {
    /// A span of so many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("{text:?} is not a span of time such as 5s or 200ms");
        let (number, unit) = SPAN_UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
            .ok_or_else(wrong)?;
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self::from_millis).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis();
        let (suffix, unit) = SPAN_UNITS
            .iter()
            .rev()
            .find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit))
            .unwrap_or(&("ms", 1));
        write!(f, "{}{suffix}", millis / unit)
    }
}

/// A number or a text in a configuration file.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer) {
            Ok(NumberOrText::Number(bytes)) => Ok(Self(bytes)),
            Ok(NumberOrText::Text(text)) => text.parse().map_err(serde::de::Error::custom),
            Err(_) => Err(serde::de::Error::custom(
                "expected a size such as \"64MiB\" or a number of bytes",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        listen: String,
        #[serde(default)]
        count: u32,
        beat: Option<Span>,
        cache: Option<Size>,
    }

    fn load_text(text: &str, overrides: &[Override]) -> Result<Example, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test's own temporary file")]
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), overrides)
    }

    #[test]
    fn file_then_environment_then_flag() {
        let variables = [("GABION_X_COUNT", "2"), ("GABION_X_BEAT", "5s"), ("OTHER", "1")];
        let mut overrides = from_environment("GABION_X", variables.iter().map(|(k, v)| ((*k).into(), (*v).into())));
        overrides.push(Override::from_flag("count=3").unwrap());
        let example = load_text("listen = \"h:1\"\ncount = 1\ncache = \"1MiB\"", &overrides).unwrap();
        let expected = Example {
            listen: "h:1".into(),
            count: 3,
            beat: Some(Span::from_millis(5000)),
            cache: Some(Size(1 << 20)),
        };
        assert_eq!(example, expected);
    }

    #[test]
    fn mistakes_name_their_key() {
        for (text, named) in [
            ("listen = \"h:1\"\nlisten_adress = 1", "listen_adress"),
            ("listen = 5", "listen"),
            ("count = 1", "listen"),
            ("listen = \"h:1\"\nbeat = \"5 parsecs\"", "5 parsecs"),
            ("listen = ", "TOML"),
        ] {
            let error = load_text(text, &[]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let wrong = Override::from_flag("count=many").unwrap();
        let error = load_text("listen = \"h:1\"", &[wrong]).unwrap_err().to_string();
        assert!(error.contains("count"), "{error}");
        assert!(Override::from_flag("count").is_err());
    }

    proptest! {
        #[test]
        fn sizes_and_spans_survive_text(n in 0u64..1 << 50) {
            prop_assert_eq!(Size(n).to_string().parse::<Size>().unwrap(), Size(n));
            prop_assert_eq!(Span::from_millis(n).to_string().parse::<Span>().unwrap(), Span::from_millis(n));
        }

        #[test]
        fn any_text_parses_or_fails(text: String) {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Span>();
            let _ = value_of(&text);
        }
    }
}
