//! Which directories are the server's disks: decided from what each says, without touching any of them.
//!
//! A disk that is not mounted leaves an empty directory behind. Taken for a new disk, it would turn every copy on the
//! real one from *unavailable* into *absent*, and new copies would fill the file system below. So each disk has an id,
//! and each `disk.id` names all disks of the server as of its last start:
//!
//! * an empty directory becomes a new disk if no disk named there is missing, if it is a mount point itself (then
//!   somebody mounted an empty disk there), or if the operator asks for it; else it is left out of service;
//! * a disk that is missing stays on the list, start after start, also if its directory is taken out of the
//!   configuration. The list lets go of it when a new disk is adopted in spite of it and no directory is left that it
//!   could still appear in: every configured one is in service. A disk that comes back later is known by its identity.
//!
//! The list that counts is that of the latest start: an older one may name disks that were let go of since.

use std::collections::BTreeSet;
use std::path::Path;

use gabion_protocol::{ClusterId, Incarnation};

use super::error::DiskError;
use super::identity::{DiskId, DiskIdentity, FILE_NAME};

/// A directory as a start finds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) dir: &'a Path,
    /// `None` for one without chunks and identity.
    pub(super) identity: Option<&'a DiskIdentity>,
    /// Whether a file system of its own is mounted on it.
    pub(super) mount_point: bool,
    /// Whether the operator asks that it becomes a disk.
    pub(super) asked: bool,
}

/// What becomes of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the disk it says it is.
    Known,
    /// It becomes a new disk.
    New,
    /// It may be where a missing disk belongs.
    LeftOut,
}

/// What becomes of all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Roster {
    /// In the order of the directories.
    pub(super) fates: Vec<Fate>,
    /// Disks that none of the directories holds.
    pub(super) missing: BTreeSet<DiskId>,
    /// The server's disks from now on, but for the new ones.
    pub(super) disks: BTreeSet<DiskId>,
}

/// Decides. `unreadable`: some other directory of the configuration cannot be looked at.
pub(super) fn decide(seen: &[Seen<'_>], unreadable: bool) -> Roster {
    let identities = || seen.iter().filter_map(|one| one.identity);
    let latest = identities().map(|identity| identity.boot).max();
    let named = identities().filter(|identity| Some(identity.boot) == latest);
    let present: BTreeSet<_> = identities().map(|identity| identity.disk).collect();
    let missing: BTreeSet<_> = named
        .flat_map(|identity| identity.disks.difference(&present))
        .copied()
        .collect();
    // Without any identity, the directory that cannot be looked at may hold the list.
    let doubtful = !missing.is_empty() || (present.is_empty() && unreadable);
    let fate = |one: &Seen<'_>| match one.identity {
        Some(_) => Fate::Known,
        None if one.asked || !doubtful => Fate::New,
        None if one.mount_point && !present.is_empty() => Fate::New,
        None => Fate::LeftOut,
    };
    let fates: Vec<_> = seen.iter().map(fate).collect();
    let all_serve = !unreadable && !fates.contains(&Fate::LeftOut);
    let let_go = all_serve && fates.contains(&Fate::New);
    let mut disks = present;
    if !let_go {
        disks.extend(&missing);
    }
    Roster { fates, missing, disks }
}

/// What all disks agree on, one start later; a new life if none says anything. The disk's own fields are for the
/// caller to fill in.
pub(super) fn common(
    seen: &[Seen<'_>],
    cluster: ClusterId,
    disks: BTreeSet<DiskId>,
) -> Result<DiskIdentity, DiskError> {
    let mut common: Option<DiskIdentity> = None;
    let mut ids = BTreeSet::new();
    for (dir, own) in seen.iter().filter_map(|one| Some((one.dir, one.identity?))) {
        let refused = |why: &str| DiskError::Identity {
            path: dir.join(FILE_NAME),
            why: why.to_owned(),
        };
        if own.cluster != cluster {
            return Err(DiskError::WrongCluster {
                dir: dir.to_owned(),
                found: own.cluster,
                expected: cluster,
            });
        }
        if !ids.insert(own.disk) {
            return Err(refused(
                "another data directory says that it is the same disk: one is a copy",
            ));
        }
        let Some(known) = &mut common else {
            common = Some(own.clone());
            continue;
        };
        let conflict = known.server.zip(own.server).is_some_and(|(a, b)| a != b);
        if conflict || known.incarnation != own.incarnation {
            return Err(refused("it belongs to another server than the other data directories"));
        }
        known.server = known.server.or(own.server);
        known.boot = known.boot.max(own.boot);
    }
    let mut identity = common.unwrap_or_else(|| DiskIdentity {
        cluster,
        incarnation: Incarnation::random(),
        disk: DiskId([0; 16]),
        disks: BTreeSet::new(),
        server: None,
        boot: 0,
        indexed: false,
    });
    identity.boot += 1;
    identity.disks = disks;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> DiskId {
        DiskId([byte; 16])
    }

    fn disk(own: u8, disks: &[u8], boot: u64) -> DiskIdentity {
        DiskIdentity {
            cluster: ClusterId([1; 16]),
            incarnation: Incarnation([2; 16]),
            disk: id(own),
            disks: disks.iter().map(|byte| id(*byte)).collect(),
            server: None,
            boot,
            indexed: true,
        }
    }

    fn holds(identity: &DiskIdentity) -> Seen<'_> {
        Seen {
            identity: Some(identity),
            ..empty()
        }
    }

    fn empty() -> Seen<'static> {
        Seen {
            dir: Path::new("/d"),
            identity: None,
            mount_point: false,
            asked: false,
        }
    }

    fn mounted() -> Seen<'static> {
        Seen {
            mount_point: true,
            ..empty()
        }
    }

    fn asked() -> Seen<'static> {
        Seen { asked: true, ..empty() }
    }

    /// Fates and the list that follows.
    #[track_caller]
    fn decides(seen: &[Seen<'_>], fates: &[Fate], disks: &[u8]) {
        let roster = decide(seen, false);
        let disks: BTreeSet<_> = disks.iter().map(|byte| id(*byte)).collect();
        assert_eq!((&roster.fates[..], roster.disks), (fates, disks));
    }

    #[test]
    fn a_first_start_and_a_disk_more_need_no_word() {
        decides(&[empty()], &[Fate::New], &[]);
        decides(&[empty(), mounted()], &[Fate::New, Fate::New], &[]);
        let one = disk(1, &[1], 3);
        decides(&[holds(&one), empty()], &[Fate::Known, Fate::New], &[1]);
    }

    #[test]
    fn an_empty_directory_while_a_disk_is_missing_is_left_out_until_that_is_settled() {
        let one = disk(1, &[1, 2], 3);
        decides(&[holds(&one), empty()], &[Fate::Known, Fate::LeftOut], &[1, 2]);
        // The disk is back.
        let two = disk(2, &[1, 2], 2);
        decides(&[holds(&one), holds(&two)], &[Fate::Known, Fate::Known], &[1, 2]);
        // An empty disk in its place, or the operator's word.
        decides(&[holds(&one), mounted()], &[Fate::Known, Fate::New], &[1]);
        decides(&[holds(&one), asked()], &[Fate::Known, Fate::New], &[1]);
    }

    #[test]
    fn a_disk_taken_out_of_the_configuration_is_not_forgotten_by_that_alone() {
        let one = disk(1, &[1, 2], 3);
        decides(&[holds(&one)], &[Fate::Known], &[1, 2]);
        let later = disk(1, &[1, 2], 4);
        decides(&[holds(&later), empty()], &[Fate::Known, Fate::LeftOut], &[1, 2]);
        decides(&[holds(&later), asked()], &[Fate::Known, Fate::New], &[1]);
    }

    #[test]
    fn adopting_one_directory_does_not_open_the_other() {
        let one = disk(1, &[1, 2, 3], 3);
        for adopted in [asked(), mounted()] {
            decides(
                &[holds(&one), adopted, empty()],
                &[Fate::Known, Fate::New, Fate::LeftOut],
                &[1, 2, 3],
            );
        }
        let roster = decide(&[holds(&one), asked()], true);
        assert_eq!(
            roster.disks.len(),
            3,
            "a missing disk may be the one that cannot be read"
        );
    }

    #[test]
    fn the_latest_list_counts() {
        // Disk 9 was let go of while disk 2 was away.
        let (one, two) = (disk(1, &[1, 2], 8), disk(2, &[1, 2, 9], 5));
        decides(
            &[holds(&one), holds(&two), empty()],
            &[Fate::Known, Fate::Known, Fate::New],
            &[1, 2],
        );
    }

    #[test]
    fn no_new_life_begins_beside_a_directory_that_cannot_be_read() {
        let roster = decide(&[empty(), mounted()], true);
        assert_eq!(roster.fates, [Fate::LeftOut, Fate::LeftOut]);
    }

    #[test]
    fn a_copy_of_a_disk_and_a_disk_of_another_server_are_refused() {
        let cluster = ClusterId([1; 16]);
        let one = disk(1, &[1, 2], 3);
        let mut other = disk(2, &[2], 5);
        let agree = |a: &DiskIdentity, b: &DiskIdentity| common(&[holds(a), holds(b)], cluster, BTreeSet::new());
        assert_eq!(agree(&one, &other).unwrap().boot, 6);
        assert!(matches!(agree(&one, &one), Err(DiskError::Identity { .. })));
        other.incarnation = Incarnation([3; 16]);
        assert!(matches!(agree(&one, &other), Err(DiskError::Identity { .. })));
    }
}
