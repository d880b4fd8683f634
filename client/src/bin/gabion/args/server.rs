//! The arguments of `gabion admin server`.

use clap::{Args, Subcommand};
use gabion_protocol::config::Span;

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// List the chunkservers and what they are there for
    #[command(visible_alias = "ls")]
    List(ServerList),
    /// Show what a chunkserver holds, and how far it is from being empty
    Show(ServerShow),
    /// Have all copies of a chunkserver made anew elsewhere; shows the plan, and acts with --apply
    Drain(ServerDrain),
    /// Hold repair back while a chunkserver is away; shows the plan, and acts with --apply
    Maintenance(ServerMaintenance),
    /// Remove a chunkserver that was drained, or is lost, for ever; shows the plan, and acts with --apply
    Remove(ServerRemove),
}

#[derive(Debug, Args)]
pub(crate) struct ServerList {
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct ServerShow {
    /// The server, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A drained server gets no new copies. Its copies are made anew on others, then dropped; it may be used to read from until
then. When it holds nothing any more (gabion admin server show ID), remove it, or put it back with --cancel.")]
pub(crate) struct ServerDrain {
    /// The server, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// Put it back into service
    #[arg(long, conflicts_with = "force")]
    pub(crate) cancel: bool,
    /// Also if the others have too little room now, or are too few
    #[arg(long)]
    pub(crate) force: bool,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Until the time is over the server's copies count although it is silent, and it gets no new ones. After that, a server
that is still away is lost like any other.")]
pub(crate) struct ServerMaintenance {
    /// The server, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// How long, for example 30m
    #[arg(
        long = "for",
        value_name = "TIME",
        required_unless_present = "end",
        conflicts_with = "end"
    )]
    pub(crate) time: Option<Span>,
    /// End it now
    #[arg(long)]
    pub(crate) end: bool,
    /// Also if some files cannot be read meanwhile
    #[arg(long)]
    pub(crate) force: bool,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A removed server's number is never used again, and its directory cannot come back: start it with an empty one to have it
join anew. What holds a copy that is needed is not removed.")]
pub(crate) struct ServerRemove {
    /// The server, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}
