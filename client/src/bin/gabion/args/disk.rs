//! The arguments of `gabion admin disk`.

use clap::{Args, Subcommand};

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// List the disks of the chunkservers and how they are
    #[command(visible_alias = "ls")]
    List(DiskList),
}

#[derive(Debug, Args)]
#[command(after_help = "\
States: serving; full (serves what it has, no room for more); failing (a write to it failed: it serves what it has, takes no
new chunks, and its copies are made anew on other servers); out of service (nothing on it can be reached; its copies are made
anew on other servers).")]
pub(crate) struct DiskList {
    /// Only the disks of this chunkserver, by name or number
    #[arg(long, value_name = "ID")]
    pub(crate) server: Option<String>,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}
