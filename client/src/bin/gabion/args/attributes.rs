//! The arguments of `gabion chmod`, `gabion chown`, `gabion touch` and `gabion xattr`.

use clap::{ArgAction, Args, Subcommand};
use gabion_protocol::FsPath;

use super::{Printing, octal, remote_path};

#[derive(Debug, Args)]
pub(crate) struct ChangeMode {
    /// Permission bits, in octal
    #[arg(value_name = "MODE", value_parser = octal)]
    pub(crate) mode: u32,
    /// Files and directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Also all that directories hold, but links
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Owner and group are names, or numbers, as you like: they are kept and shown; nothing is decided by them yet."
)]
pub(crate) struct ChangeOwner {
    /// Who it shall belong to: USER, USER:GROUP, or :GROUP; an empty word takes the old one away
    #[arg(value_name = "USER[:GROUP]", value_parser = ownership)]
    pub(crate) owner: Ownership,
    /// Files and directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Also all that directories hold; of links in them, the links themselves
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Of a link, change the link itself and not what it leads to
    #[arg(short = 'h', long)]
    pub(crate) no_dereference: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
}

/// A change of owner, group or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) owner: Option<String>,
    pub(crate) group: Option<String>,
}

/// As `chown` reads it, but for `USER:`, which takes the group away here: there is no login group to fall back to.
fn ownership(text: &str) -> Result<Ownership, String> {
    let some = |text: &str| Some(text.to_owned());
    Ok(match text.split_once(':') {
        None => Ownership {
            owner: some(text),
            group: None,
        },
        Some(("", group)) => Ownership {
            owner: None,
            group: some(group),
        },
        Some((owner, group)) => Ownership {
            owner: some(owner),
            group: some(group),
        },
    })
}

/// Named as the tools of other systems that have one command for it; its verbs are those of `gabion trash`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExtendedAttributes {
    /// Show the names of a file's attributes and how long their values are
    #[command(visible_alias = "ls")]
    List(AttributeList),
    /// Write the value of an attribute to standard output, as it is
    Get(AttributeName),
    /// Set an attribute; its value is an argument, or what standard input brings if none is given
    Set(AttributeSet),
    /// Remove an attribute
    Rm(AttributeName),
}

#[derive(Debug, Args)]
pub(crate) struct AttributeList {
    /// A file or directory
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: FsPath,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct AttributeName {
    /// A file or directory
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// Name of the attribute
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct AttributeSet {
    /// A file or directory
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// Name of the attribute
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Its value [default: standard input]
    #[arg(value_name = "VALUE")]
    pub(crate) value: Option<std::ffi::OsString>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Touch {
    /// Files and directories; a file that is missing is made, empty, also where a link leads to
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Change the modification time, as always: there is no other
    #[arg(short)]
    pub(crate) modification: bool,
    /// Make no file
    #[arg(short = 'c', long)]
    pub(crate) no_create: bool,
    /// Of a link, change the link itself and not what it leads to; makes no file
    #[arg(short = 'h', long)]
    pub(crate) no_dereference: bool,
    /// To which time, for example 2026-11-22T13:04:06Z [default: now]
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub(crate) date: Option<i64>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
}

/// Milliseconds since 1970 of a time in RFC 3339.
fn time(text: &str) -> Result<i64, String> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "expected a time such as 2026-11-22T13:04:06Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_chown_reads_them() {
        let read = |text| {
            let read = ownership(text).unwrap();
            (read.owner, read.group)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("ann"), (some("ann"), None));
        assert_eq!(read("ann:staff"), (some("ann"), some("staff")));
        assert_eq!(read(":staff"), (None, some("staff")));
        assert_eq!(read("1000:"), (some("1000"), some("")));
        assert_eq!(read(""), (some(""), None));
    }
}
