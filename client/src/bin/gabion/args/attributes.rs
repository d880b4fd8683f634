//! The arguments of `gabion chmod` and `gabion touch`.

use clap::Args;
use gabion_protocol::FsPath;

use super::{octal, remote_path};

#[derive(Debug, Args)]
pub(crate) struct ChangeMode {
    /// Permission bits, in octal
    #[arg(value_name = "MODE", value_parser = octal)]
    pub(crate) mode: u32,
    /// Files and directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Also all that directories hold
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Touch {
    /// Files and directories; a file that is missing is made, empty
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Change the modification time, as always: there is no other
    #[arg(short)]
    pub(crate) modification: bool,
    /// Make no file
    #[arg(short = 'c', long)]
    pub(crate) no_create: bool,
    /// To which time, for example 2026-11-22T13:04:06Z [default: now]
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub(crate) date: Option<i64>,
}

/// Milliseconds since 1970 of a time in RFC 3339.
fn time(text: &str) -> Result<i64, String> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "expected a time such as 2026-11-22T13:04:06Z".to_owned())
}
