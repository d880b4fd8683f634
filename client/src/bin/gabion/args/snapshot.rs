//! The arguments of `gabion snapshot`.

use clap::{Args, Subcommand};
use gabion_protocol::FsPath;

use super::{Printing, remote_path};

/// A snapshot as the user writes it: `PATH@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotName {
    pub(crate) directory: FsPath,
    pub(crate) name: String,
}

impl std::fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.directory, self.name)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Keep what a directory holds now, at once and taking no space until it changes
    Create(SnapshotCreate),
    /// Show the snapshots of a directory, or all
    #[command(visible_alias = "ls")]
    List(SnapshotList),
    /// Show what was added (+), removed (-) and changed (M) since a snapshot
    Diff(SnapshotDiff),
    /// Make a directory what it was, by reference: no byte is moved
    Restore(SnapshotRestore),
    /// Remove snapshots; the space that only they took comes back
    #[command(visible_alias = "remove")]
    Rm(SnapshotRemove),
}

#[derive(Debug, Args)]
#[command(after_help = "\
What the snapshot shows is read at PATH/.snapshot/NAME, by every command that reads; `gabion cp` takes files back from
there, `gabion snapshot restore` all. A directory that has snapshots can be renamed and not removed.")]
pub(crate) struct SnapshotCreate {
    /// The directory, and the snapshot's name
    #[arg(value_name = "PATH@NAME", value_parser = snapshot_name)]
    pub(crate) of: SnapshotName,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotList {
    /// The directory [default: all that have snapshots]
    #[arg(value_name = "PATH", value_parser = remote_path)]
    pub(crate) path: Option<FsPath>,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotRemove {
    /// The snapshots
    #[arg(value_name = "PATH@NAME", required = true, value_parser = snapshot_name)]
    pub(crate) snapshots: Vec<SnapshotName>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Files that are missing or changed come back one by one, each whole; run it again if it was interrupted. What is newer stays,
unless it is in the way of something older, or with --delete; it then goes into the trash.")]
pub(crate) struct SnapshotRestore {
    /// The snapshot
    #[arg(value_name = "PATH@NAME", value_parser = snapshot_name)]
    pub(crate) of: SnapshotName,
    /// Into another directory, which is made if it is missing
    #[arg(long, value_name = "PATH", value_parser = remote_path)]
    pub(crate) to: Option<FsPath>,
    /// Remove what the snapshot does not show, too, into the trash
    #[arg(long)]
    pub(crate) delete: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// What a snapshot is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotState {
    Now,
    Then(SnapshotName),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Paths are told below the directory. A directory that is new or gone is told alone, not what it holds. A renamed file is
removed in one place and added in another.")]
pub(crate) struct SnapshotDiff {
    /// The older state
    #[arg(value_name = "PATH@A", value_parser = snapshot_name)]
    pub(crate) from: SnapshotName,
    /// The newer one: another snapshot, or now
    #[arg(value_name = "PATH@B|now", value_parser = snapshot_state)]
    pub(crate) to: Option<SnapshotState>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

fn snapshot_name(text: &str) -> Result<SnapshotName, String> {
    let Some((path, name)) = text.rsplit_once('@') else {
        return Err("a snapshot is named PATH@NAME, for example /photos@monday".to_owned());
    };
    if name.is_empty() || name.contains('/') {
        return Err("a snapshot's name has no slash and is not empty".to_owned());
    }
    Ok(SnapshotName {
        directory: remote_path(path)?,
        name: name.to_owned(),
    })
}

fn snapshot_state(text: &str) -> Result<SnapshotState, String> {
    match text {
        "now" => Ok(SnapshotState::Now),
        _ => snapshot_name(text).map(SnapshotState::Then),
    }
}
