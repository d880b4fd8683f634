//! The arguments of `gabion append`, `truncate`, `setrep` and `tail`.

use std::path::PathBuf;

use clap::Args;
use gabion_protocol::FsPath;
use gabion_protocol::config::Size;
use gabion_protocol::limits::REPLICAS_MAX;

use super::remote_path;

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion append [OPTIONS] <SRC>... <PATH>",
    after_help = "\
SRC is a local file; - is standard input. PATH is a file on the cluster. What several clients append at the same time
comes to lie one behind another, in pieces of a whole chunk, or of what standard input gave within a second; with
--exclusive nobody else writes meanwhile. Readers see a growing file, each byte only when it is on all its disks.

Examples:
  gabion append today.log /logs/all.log
  make 2>&1 | gabion append --create - /logs/build"
)]
pub(crate) struct Append {
    /// Local files, or - for standard input; last, the remote file
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Make the file, empty, if it is missing; of a link to nothing, what it leads to
    #[arg(short, long)]
    pub(crate) create: bool,
    /// Be the only writer; fails if someone else is
    #[arg(long)]
    pub(crate) exclusive: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A file that becomes longer reads as zeros there, which take no space.

Examples:
  gabion truncate 0 /logs/all.log
  gabion truncate 10GiB /disk.img")]
pub(crate) struct Truncate {
    /// The length the files shall have, for example 0 or 64KiB
    #[arg(value_name = "SIZE")]
    pub(crate) size: Size,
    /// Files
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Copies are made, and those too many dropped, in the background; what is written from now on has so many at once.

Examples:
  gabion setrep 5 /important.db --until-copied
  gabion setrep 2 -R /scratch")]
pub(crate) struct SetReplicas {
    /// Copies of each chunk
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(REPLICAS_MAX)))]
    pub(crate) replicas: u8,
    /// Files, and directories with -R
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// All files that directories hold
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Wait until no chunk has fewer copies than wanted
    #[arg(short = 'w', long)]
    pub(crate) until_copied: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Head {
    /// Files
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Lines to show
    #[arg(short = 'n', long, value_name = "N", default_value = "10", conflicts_with = "bytes")]
    pub(crate) lines: u64,
    /// Bytes to show, for example 64KiB
    #[arg(short = 'c', long, value_name = "SIZE")]
    pub(crate) bytes: Option<Size>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With -f, a file that becomes shorter is shown from its beginning, and so is one that takes its name; both are said on
standard error.

Examples:
  gabion tail -n 100 /logs/all.log
  gabion tail -f /logs/all.log | grep ERROR")]
pub(crate) struct Tail {
    /// The file
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: FsPath,
    /// Lines to show
    #[arg(short = 'n', long, value_name = "N", default_value = "10", conflicts_with = "bytes")]
    pub(crate) lines: u64,
    /// Bytes to show, for example 64KiB
    #[arg(short = 'c', long, value_name = "SIZE")]
    pub(crate) bytes: Option<Size>,
    /// Go on as the file grows, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The same, and wait for a file that is missing
    #[arg(short = 'F')]
    pub(crate) follow_name: bool,
}
