//! The arguments of `gabion admin chunk`.

use clap::{Args, Subcommand};
use gabion_protocol::ChunkId;
use gabion_protocol::messages::master::ChunkTrouble;

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Chunk {
    /// List the chunks that are not as they should be
    List(ChunkList),
    /// Show all that is known of a chunk and its copies
    Show(ChunkShow),
    /// Have the servers of a chunk read their copies again, and repair it before all others; shows the plan, and acts with
    /// --apply
    Repair(ChunkRepair),
}

#[derive(Debug, Args)]
pub(crate) struct ChunkList {
    /// Which: under (fewer good copies than wanted), damaged (a copy was reported damaged), missing (no good copy on a
    /// server that answers)
    #[arg(long, value_name = "STATE", value_parser = trouble)]
    pub(crate) state: ChunkTrouble,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct ChunkShow {
    /// The chunk, as gabion chunks and gabion admin chunk list name it
    #[arg(value_name = "ID")]
    pub(crate) chunk: ChunkId,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Waits for a minute until the copies are read and those that are missing are made, and says what was found. Exits 8 if the
chunk has fewer copies than wanted then, 7 if it has none that is good.")]
pub(crate) struct ChunkRepair {
    /// The chunk, as gabion chunks and gabion admin chunk list name it
    #[arg(value_name = "ID")]
    pub(crate) chunk: ChunkId,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

fn trouble(text: &str) -> Result<ChunkTrouble, String> {
    match text {
        "under" => Ok(ChunkTrouble::Under),
        "damaged" => Ok(ChunkTrouble::Damaged),
        "missing" => Ok(ChunkTrouble::Missing),
        _ => Err("expected under, damaged or missing".to_owned()),
    }
}
