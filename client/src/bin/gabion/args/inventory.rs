//! Arguments of `gabion admin inventory`.

use clap::{Args, Subcommand};

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Inventory {
    /// Show how what each chunkserver holds compares with what the masters know
    Status(InventoryStatus),
    /// Accept that more of a chunkserver's copies are unknown to the masters than they believe: the copies may be removed
    Accept(InventoryAccept),
}

#[derive(Debug, Args)]
pub(crate) struct InventoryStatus {
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct InventoryAccept {
    /// The chunkserver, by name or number
    #[arg(value_name = "ID")]
    pub(crate) server: String,
    /// Do it; without, only say what would be done
    #[arg(long)]
    pub(crate) apply: bool,
}
