//! The arguments of `gabion admin`, but for those that are many.

use clap::{ArgAction, Args, Subcommand};
use gabion_protocol::FsPath;
use gabion_protocol::config::Span;

use super::{Chunk, Disk, Printing, Server, balance, inventory, remote_path};

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Show the cluster at a glance: masters, chunkservers, copies
    Status(Status),
    /// Look at and change the group of masters
    #[command(subcommand)]
    Raft(Raft),
    /// Look at chunkservers, empty them, leave them alone for a while, remove them
    #[command(subcommand)]
    Server(Server),
    /// Look at the disks of the chunkservers, and empty them
    #[command(subcommand)]
    Disk(Disk),
    /// Look at single chunks, and have them repaired
    #[command(subcommand)]
    Chunk(Chunk),
    /// Have chunkservers read their copies again, and see how far they are
    #[command(subcommand)]
    Scrub(Scrub),
    /// Look how evenly chunkservers are filled, and let copies be moved or not
    #[command(subcommand)]
    Balance(balance::Balance),
    /// Compare what chunkservers hold with what the masters know
    #[command(subcommand)]
    Inventory(inventory::Inventory),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scrub {
    /// Read all copies again now, as fast as the servers' settings allow; or those of some files, and wait for it
    Start(ScrubStart),
    /// Show how far each server is, and what it found
    Status(ScrubStatus),
}

#[derive(Debug, Args)]
pub(crate) struct ScrubStart {
    /// Only the copies of the files below PATH; waits until they are read, and exits 7 if some are damaged
    #[arg(value_name = "PATH", value_parser = remote_path, conflicts_with = "server")]
    pub(crate) path: Option<FsPath>,
    /// Only this chunkserver, by name or number; may be repeated
    #[arg(long, value_name = "ID", action = ArgAction::Append)]
    pub(crate) server: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubStatus {
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show it again every so often until interrupted
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<Span>,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Raft {
    /// Show each master: role, term, log index
    Status(RaftStatus),
    /// Add a master that was started with `join = true`; shows the plan, and acts with --apply
    Add(RaftAdd),
    /// Remove a master for ever; shows the plan, and acts with --apply
    Remove(RaftRemove),
    /// Hand leadership to another master
    TransferLeader(TransferLeader),
    /// Have the leader build a snapshot now
    Snapshot,
}

#[derive(Debug, Args)]
pub(crate) struct RaftStatus {
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct RaftAdd {
    /// Its id: a number no master ever had
    #[arg(value_name = "ID")]
    pub(crate) id: u64,
    /// Where it listens to masters
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) raft: String,
    /// Where it listens to clients
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) client: String,
    /// The master it takes the place of, which is removed in the same change
    #[arg(long, value_name = "ID")]
    pub(crate) replaces: Option<u64>,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RaftRemove {
    /// Its id, which is never used again
    #[arg(value_name = "ID")]
    pub(crate) id: u64,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TransferLeader {
    /// To which master [default: the one whose log is longest]
    #[arg(long, value_name = "ID", action = ArgAction::Set)]
    pub(crate) to: Option<u64>,
}
