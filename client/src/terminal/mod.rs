//! What Gabion's command-line tools share: numbers and times as people read them, tables, JSON,
//! progress, failures.
//!
//! Nothing here reaches a cluster, and programs that store files do not need it. Standard output is data and goes
//! through [`output::Output`]; everything else is said on standard error.
//!
//! | module | what it holds |
//! |---|---|
//! | [`text`] | sizes, rates, spans, times, names with their control characters made visible |
//! | [`output`] | tables, JSON documents and JSON lines on standard output |
//! | [`progress`] | bars on standard error |
//! | [`failure`] | why a command failed, how that is shown, and its exit code |

pub mod failure;
pub mod output;
pub mod progress;
pub mod text;

pub use failure::{Failure, Refusal, Tally};
pub use output::{Column, Format, Output, Table};
pub use progress::{FileProgress, Progress};
