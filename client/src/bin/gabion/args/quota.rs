//! The arguments of `gabion quota`.

use clap::{Args, Subcommand};
use gabion_protocol::FsPath;
use gabion_protocol::config::Size;

use super::{Printing, remote_path};

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Limit what a directory may hold with all below it; with an operator's key
    Set(QuotaSet),
    /// Show the quotas that what is written into a directory counts against, and what is left of them
    Get(QuotaGet),
    /// Take the quotas of directories away; with an operator's key
    Clear(QuotaClear),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A write that would pass the quota fails, and leaves nothing; so do copies, moves and restorations. Each file counts with its
own length, without its copies on several chunkservers and whether or not it shares its chunks with others. What is in the
trash, or only in a snapshot, does not count. If the directory holds more already, nothing is removed, and nothing can
grow. A limit that is not named stays as it is.")]
pub(crate) struct QuotaSet {
    /// The directory
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// Bytes of all files below it, for example 10GiB
    #[arg(long, value_name = "SIZE", required_unless_present = "entries")]
    pub(crate) bytes: Option<Size>,
    /// Files and directories below it, itself not counted
    #[arg(long, value_name = "N")]
    pub(crate) entries: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Quotas of directories above count, too: the one with the least left binds. RESERVED is what writes under way keep for
themselves; it is given back when they end, or when their client has not been heard of for a minute.")]
pub(crate) struct QuotaGet {
    /// The directory
    #[arg(value_name = "PATH", default_value = "/", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct QuotaClear {
    /// The directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
}
