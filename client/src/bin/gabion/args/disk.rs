//! The arguments of `gabion admin disk`.

use clap::{Args, Subcommand};

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// List the disks of the chunkservers and how they are
    #[command(visible_alias = "ls")]
    List(DiskList),
    /// Have all copies on a disk made anew on other servers; shows the plan, and acts with --apply
    Drain(DiskDrain),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A drained disk serves what it has and gets no new chunks, also after its server is restarted. Its copies are made anew on
other servers, then dropped. When it holds none any more (gabion admin disk list), take it out, or put it back with
--cancel.")]
pub(crate) struct DiskDrain {
    /// The server, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// The disk, by its directory or its own number (gabion admin disk list)
    #[arg(value_name = "DISK")]
    pub(crate) disk: String,
    /// Put it back into service
    #[arg(long, conflicts_with = "force")]
    pub(crate) cancel: bool,
    /// Also if the other servers are too few
    #[arg(long)]
    pub(crate) force: bool,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
States: serving; full (serves what it has, no room for more); failing (a write to it failed: it serves what it has, takes no
new chunks, and its copies are made anew on other servers); draining (the same, because an operator wants it empty); out of
service (nothing on it can be reached; its copies are made anew on other servers).")]
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
