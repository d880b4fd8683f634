//! The arguments of `gabion admin balance`.

use clap::{Args, Subcommand};

use super::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Balance {
    /// Show how full the chunkservers are, and what would be moved between them
    Plan(BalancePlan),
    /// Let copies be moved from full chunkservers to emptier ones; shows the plan, and acts with --apply
    Start(BalanceSwitch),
    /// Move no copies any more, and give up those under way; shows the plan, and acts with --apply
    Stop(BalanceSwitch),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Copies are moved by themselves when a server's used share is farther from the mean of all than balance.threshold in the
masters' settings, until all are within half of it. Servers that are drained, in maintenance, silent or have a failed disk
take no part.")]
pub(crate) struct BalancePlan {
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct BalanceSwitch {
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
}
