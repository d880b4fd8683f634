//! The arguments of `gabion ln` and `gabion readlink`.

use clap::Args;
use gabion_protocol::FsPath;

use super::{Printing, remote_path};

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion ln -s [OPTIONS] <TARGET>... <PATH>",
    after_help = "\
TARGET is kept as it is written, and nothing need be there: absolute, or from the directory that the link is in. If PATH is
a directory, it takes a link to each TARGET under the last name of that.
Reading and writing go through a link to what it leads to; rm, mv, ln, readlink and stat are of the link itself."
)]
pub(crate) struct MakeLinks {
    /// What the link stands for; last, where it shall be
    #[arg(value_name = "TARGET", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<String>,
    /// Make symbolic links: the only ones there are
    #[arg(short, long)]
    pub(crate) symbolic: bool,
    /// Replace a file or link that exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Make missing directories above PATH
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Take PATH as the link's name, also if it is a directory, or a link to one (also -n)
    #[arg(short = 'T', long, visible_short_alias = 'n')]
    pub(crate) no_target_directory: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReadLinks {
    /// Links
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Show the path without links that each PATH leads to, which need not be a link
    #[arg(short = 'f', long)]
    pub(crate) canonicalize: bool,
    /// No line's end after the last one
    #[arg(short = 'n', long)]
    pub(crate) no_newline: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}
