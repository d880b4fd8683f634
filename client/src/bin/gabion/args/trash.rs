//! The arguments of `gabion trash`.

use clap::{Args, Subcommand};
use gabion_protocol::messages::master::TrashRef;
use gabion_protocol::{FsPath, Ino};

use super::{Printing, remote_path};

#[derive(Debug, Subcommand)]
pub(crate) enum Trash {
    /// Show what was removed and can be restored, what goes first in front
    #[command(visible_alias = "ls")]
    List(TrashList),
    /// Put files and whole trees back where they were
    Restore(TrashRestore),
    /// Remove all of the trash, or what is named, for good
    Empty(TrashEmpty),
}

#[derive(Debug, Args)]
pub(crate) struct TrashList {
    /// Show also how many files, when it was removed, and when it goes
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(after_help = "\
WHAT is a number of `gabion trash list`, or the path it was removed from, where the newest removal counts.
A tree comes back whole, in one step.")]
pub(crate) struct TrashRestore {
    /// Numbers or paths
    #[arg(value_name = "WHAT", required = true, value_parser = trash_ref)]
    pub(crate) what: Vec<TrashRef>,
    /// Restore to this path; into it, if it is a directory
    #[arg(long, value_name = "PATH", value_parser = remote_path)]
    pub(crate) to: Option<FsPath>,
}

#[derive(Debug, Args)]
pub(crate) struct TrashEmpty {
    /// Numbers or paths [default: all of it]
    #[arg(value_name = "WHAT", value_parser = trash_ref)]
    pub(crate) what: Vec<TrashRef>,
    /// Do not ask
    #[arg(short, long, visible_alias = "yes")]
    pub(crate) force: bool,
}

/// Something in the trash: a number, or the path it was removed from.
fn trash_ref(text: &str) -> Result<TrashRef, String> {
    if let Ok(number) = text.parse() {
        return Ok(TrashRef::Ino(Ino(number)));
    }
    remote_path(text)
        .map(TrashRef::Path)
        .map_err(|why| format!("neither a number of `gabion trash list` nor a path: {why}"))
}
