//! The arguments of `gabion find` and `gabion tree`.

use clap::{Args, ValueEnum};
use gabion_protocol::FsPath;

use super::{Printing, remote_path};

#[derive(Debug, Args)]
#[command(after_help = "\
Tests are all to be met; those of find(1) may have one dash: -name, -iname, -path, -type, -size,
-mtime, -empty, -maxdepth, -mindepth.
SIZE is a number and c (bytes, as without a letter), k, M, G or T; +SIZE is more, -SIZE less, SIZE alone that many units,
rounded up. DAYS are whole days since the content changed, with + and - alike.")]
pub(crate) struct Find {
    /// Where to look; each PATH is found itself, too
    #[arg(value_name = "PATH", default_value = "/", value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Names that match a pattern: * ? [a-z] [!a]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// The same, large and small letters alike
    #[arg(long, value_name = "PATTERN")]
    pub(crate) iname: Option<String>,
    /// Whole paths that match a pattern, in which * stands for slashes, too
    #[arg(long, value_name = "PATTERN")]
    pub(crate) path: Option<String>,
    /// Files of no bytes, and directories that hold nothing
    #[arg(long)]
    pub(crate) empty: bool,
    /// Files, directories or symbolic links
    #[arg(long = "type", value_name = "f|d|l")]
    pub(crate) kind: Option<Sort>,
    /// Files of a size
    #[arg(long, value_name = "[+-]SIZE", allow_hyphen_values = true, value_parser = size)]
    pub(crate) size: Option<Measure>,
    /// By the age of their content
    #[arg(long, value_name = "[+-]DAYS", allow_hyphen_values = true, value_parser = days)]
    pub(crate) mtime: Option<Measure>,
    /// How many levels below PATH
    #[arg(long, value_name = "N")]
    pub(crate) maxdepth: Option<usize>,
    /// From how many levels below PATH on
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub(crate) mindepth: usize,
    /// A zero byte after each path instead of a line's end
    #[arg(short = '0', long)]
    pub(crate) print0: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// A directory
    #[arg(value_name = "PATH", default_value = "/", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// How many levels
    #[arg(short = 'L', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) level: Option<u16>,
    /// Directories only
    #[arg(short, long)]
    pub(crate) directories: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// What kind of entry is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Files
    #[value(name = "f")]
    File,
    /// Directories
    #[value(name = "d")]
    Directory,
    /// Symbolic links
    #[value(name = "l")]
    Link,
}

/// A number and how values compare with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// More than so many.
    More(u64),
    /// Less than so many.
    Less(u64),
    /// So many units of this size, rounded up.
    Exactly {
        /// How many.
        count: u64,
        /// Of what.
        unit: u64,
    },
}

impl Measure {
    fn parse(text: &str, unit_of: impl Fn(&str) -> Option<(&str, u64)>) -> Option<Self> {
        let (sign, rest) = match text.as_bytes().first()? {
            b'+' | b'-' => text.split_at(1),
            _ => ("", text),
        };
        let (digits, unit) = unit_of(rest)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let count: u64 = is_number.then(|| digits.parse().ok())??;
        let whole = count.checked_mul(unit)?;
        Some(match sign {
            "+" => Self::More(whole),
            "-" => Self::Less(whole),
            _ => Self::Exactly { count, unit },
        })
    }

    /// Whether a value is as asked for.
    pub(crate) fn takes(self, value: u64) -> bool {
        match self {
            Self::More(than) => value > than,
            Self::Less(than) => value < than,
            Self::Exactly { count, unit } => value.div_ceil(unit) == count,
        }
    }
}

fn size(text: &str) -> Result<Measure, String> {
    Measure::parse(text, bytes_of_letter).ok_or_else(|| "expected a size such as +10M, -4k or 0".to_owned())
}

/// The digits of a size, and the unit its letter stands for.
fn bytes_of_letter(text: &str) -> Option<(&str, u64)> {
    for (letter, unit) in [("c", 1), ("k", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)] {
        if let Some(digits) = text.strip_suffix(letter) {
            return Some((digits, unit));
        }
    }
    Some((text, 1))
}

fn days(text: &str) -> Result<Measure, String> {
    Measure::parse(text, |text| Some((text, 1))).ok_or_else(|| "expected days such as +30 or -1".to_owned())
}

/// Long options of `find` may have one dash, as fingers know them.
pub(crate) fn with_two_dashes(arguments: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut is_find = false;
    let mut doubled = Vec::new();
    for argument in arguments {
        let known = [
            "-name",
            "-iname",
            "-path",
            "-empty",
            "-type",
            "-size",
            "-mtime",
            "-maxdepth",
            "-mindepth",
            "-print0",
        ];
        if is_find && known.iter().any(|known| argument == *known) {
            let mut double = std::ffi::OsString::from("-");
            double.push(&argument);
            doubled.push(double);
            continue;
        }
        is_find |= argument == "find";
        doubled.push(argument);
    }
    doubled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_compare_as_asked() {
        for (text, yes, no) in [
            ("+1k", &[1025u64, 5000][..], &[1024u64, 0][..]),
            ("-1k", &[0, 1023], &[1024]),
            ("1k", &[1, 1024], &[0, 1025]),
            ("0", &[0], &[1]),
            ("5c", &[5], &[4, 6]),
            ("+2G", &[(2 << 30) + 1], &[2 << 30]),
        ] {
            let measure = size(text).unwrap();
            assert!(yes.iter().all(|value| measure.takes(*value)), "{text}");
            assert!(!no.iter().any(|value| measure.takes(*value)), "{text}");
        }
        for wrong in ["", "+", "k", "1x", "++1", "1 k", "99999999999T", "-"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(days("+1k").is_err());
        assert_eq!(days("-3"), Ok(Measure::Less(3)));
    }

    #[test]
    fn one_dash_is_enough() {
        let given = [
            "gabion", "find", "/-name", "-name", "*.rs", "-type", "f", "-o", "json", "-0",
        ];
        let doubled = with_two_dashes(given.into_iter().map(Into::into));
        let expected = [
            "gabion", "find", "/-name", "--name", "*.rs", "--type", "f", "-o", "json", "-0",
        ];
        assert_eq!(doubled, expected);
        let other = ["gabion", "list", "-name"];
        assert_eq!(with_two_dashes(other.into_iter().map(Into::into)), other);
    }
}
