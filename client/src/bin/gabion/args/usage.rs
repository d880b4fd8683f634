//! The arguments of `gabion du` and `gabion df`.

use clap::{ArgAction, Args};
use gabion_protocol::FsPath;

use super::{Printing, remote_path};

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Sizes are those of the files, without their copies. The masters keep them for every directory, so that no tree is walked,
however large. What is in the trash does not count."
)]
pub(crate) struct Usage {
    /// Files and directories
    #[arg(value_name = "PATH", default_value = "/", value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Only what each PATH holds in all, not what its entries hold
    #[arg(short, long)]
    pub(crate) summarize: bool,
    /// Sizes as people read them, which is the default
    #[arg(short, long, conflicts_with = "bytes")]
    pub(crate) human_readable: bool,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Size and free space are of the chunkservers' disks as of their last beats, less what they keep in reserve; every copy of
a chunk takes its space. A server that does not beat is not counted."
)]
pub(crate) struct Space {
    /// Show also each chunkserver
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Sizes as people read them, which is the default
    #[arg(short, long, conflicts_with = "bytes")]
    pub(crate) human_readable: bool,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}
