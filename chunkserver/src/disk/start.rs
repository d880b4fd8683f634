//! A start: directories are claimed, it is decided which are disks of this server ([`super::roster`]), and new ones get
//! their identity.
//!
//! A new disk's identity is on it before any other disk's list names it: a crash in between leaves a disk that is known
//! and not a name without a disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gabion_protocol::ClusterId;

use super::directory::Claimed;
use super::error::DiskError;
use super::identity::{DiskId, DiskIdentity};
use super::roster::{self, Fate, Roster, Seen};

/// What there is to be opened.
#[derive(Debug)]
pub(super) struct Start {
    /// Directories that are disks of this server, each with the identity it shall have for this run.
    pub(super) disks: Vec<(Claimed, DiskIdentity)>,
    /// The other directories, with the reason.
    pub(super) absent: Vec<(PathBuf, DiskError)>,
}

impl Start {
    /// Locks and reads the directories and decides; gives new disks their identity.
    pub(super) fn prepare(dirs: &[PathBuf], cluster: ClusterId) -> Result<Self, DiskError> {
        let mut absent = Vec::new();
        let claimed = claim(dirs, &mut absent)?;
        let seen = see(&claimed, None);
        let Roster { fates, missing, disks } = roster::decide(&seen, !absent.is_empty());
        let mut common = roster::common(&seen, cluster, disks)?;
        let mut ours = Vec::new();
        for (disk, fate) in claimed.into_iter().zip(fates) {
            let own = match (&disk.identity, fate) {
                (Some(own), _) => Ok(own.clone()),
                (None, Fate::LeftOut) => Err(not_mounted(&disk.dir, &missing)),
                (None, Fate::Known | Fate::New) => make_new(&disk, &mut common),
            };
            match own {
                Ok(own) => ours.push((disk, own)),
                Err(error) => leave_out(&mut absent, &disk.dir, error),
            }
        }
        let disks = ours.into_iter().map(|(disk, own)| {
            let identity = DiskIdentity {
                disk: own.disk,
                indexed: own.indexed,
                ..common.clone()
            };
            (disk, identity)
        });
        Ok(Self {
            disks: disks.collect(),
            absent,
        })
    }
}

/// Makes the empty directory `dir`, one of `dirs`, a disk of the stopped server whose other disks are in `dirs`, though
/// disks are missing; which of them are let go of is up to [`super::roster`]. The next start makes its index.
///
/// # Errors
/// [`DiskError::Adopt`] if it is not such a directory, or as [`super::Store::open`].
pub fn adopt(dirs: &[PathBuf], cluster: ClusterId, dir: &Path) -> Result<DiskId, DiskError> {
    let refused = |why: &str| DiskError::Adopt {
        dir: dir.to_owned(),
        why: why.to_owned(),
    };
    let mut absent = Vec::new();
    if !dirs.iter().any(|configured| configured == dir) {
        return Err(refused("the configuration does not name it in dirs"));
    }
    let claimed = claim(dirs, &mut absent)?;
    if let Some(at) = absent.iter().position(|(failed, _)| failed == dir) {
        return Err(absent.swap_remove(at).1);
    }
    let seen = see(&claimed, Some(dir));
    let roster = roster::decide(&seen, !absent.is_empty());
    let mut common = roster::common(&seen, cluster, roster.disks)?;
    if !claimed.iter().any(|disk| disk.identity.is_some()) {
        return Err(refused(
            "no other directory holds a disk of this server: a start makes new disks of all",
        ));
    }
    match claimed.iter().find(|disk| disk.dir == dir) {
        Some(disk) if disk.identity.is_none() => make_new(disk, &mut common).map(|own| own.disk),
        _ => Err(refused("it is a disk of this server already")),
    }
}

/// Claims every directory that lets itself be claimed.
fn claim(dirs: &[PathBuf], absent: &mut Vec<(PathBuf, DiskError)>) -> Result<Vec<Claimed>, DiskError> {
    let mut claimed = Vec::new();
    for dir in dirs {
        match Claimed::claim(dir) {
            Ok(disk) => claimed.push(disk),
            Err(e @ (DiskError::Locked { .. } | DiskError::Identity { .. })) => return Err(e),
            Err(e) => leave_out(absent, dir, e),
        }
    }
    Ok(claimed)
}

fn see<'a>(claimed: &'a [Claimed], asked: Option<&Path>) -> Vec<Seen<'a>> {
    let seen = claimed.iter().map(|disk| Seen {
        dir: &disk.dir,
        identity: disk.identity.as_ref(),
        mount_point: disk.mount_point,
        asked: asked == Some(&disk.dir),
    });
    seen.collect()
}

/// Gives a directory the identity of a new disk, durably, and puts it on the list.
fn make_new(disk: &Claimed, common: &mut DiskIdentity) -> Result<DiskIdentity, DiskError> {
    let mut own = common.clone();
    own.disk = DiskId::random();
    own.indexed = false;
    own.disks.insert(own.disk);
    own.store(&disk.dir)?;
    tracing::info!(dir = %disk.dir.display(), disk = %own.disk, "new disk");
    common.disks.clone_from(&own.disks);
    Ok(own)
}

fn not_mounted(dir: &Path, missing: &BTreeSet<DiskId>) -> DiskError {
    let why = match (missing.first(), missing.len()) {
        (None, _) => "another data directory cannot be looked at".to_owned(),
        (Some(one), 1) => format!("disk {one} of this server is missing"),
        (Some(first), all) => format!("disk {first} of this server and {} more are missing", all - 1),
    };
    DiskError::NotMounted {
        dir: dir.to_owned(),
        why,
    }
}

/// Takes note of a directory that is not in service.
pub(super) fn leave_out(absent: &mut Vec<(PathBuf, DiskError)>, dir: &Path, error: DiskError) {
    let help = error.to_wire().help.unwrap_or_default();
    tracing::error!(dir = %dir.display(), %error, help, "disk not in service");
    absent.push((dir.to_owned(), error));
}
