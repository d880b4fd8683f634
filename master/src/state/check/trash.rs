//! The trash: the rows of a removal belong together, and nothing is half taken apart but what is due.

use gabion_protocol::ids::Ino;

use super::{Loaded, Report};
use crate::state::key::Key;
use crate::state::key::dentry::DentryKey;
use crate::state::key::extent::ExtentKey;
use crate::state::key::inode::Body;
use crate::state::key::meta::TrashTotal;

impl Loaded {
    fn now(&self) -> gabion_protocol::ids::StateTime {
        self.clock.map(|clock| clock.now).unwrap_or_default()
    }

    /// Whether an inode of the trash is, or may be, half taken apart.
    pub(super) fn is_coming_apart(&self, ino: Ino) -> bool {
        self.trash.get(&ino).is_some_and(|deadline| *deadline <= self.now())
    }

    /// Whether an inode is in the trash as a whole.
    pub(super) fn is_whole_trash(&self, ino: Ino) -> bool {
        self.trash.contains_key(&ino) && !self.is_coming_apart(ino)
    }

    pub(super) fn check_trash(&self, report: &mut Report) {
        for (ino, deadline) in &self.trash {
            if *deadline > self.now() && !self.kept.contains_key(ino) {
                report.find(format!(
                    "inode {ino} goes at {deadline} and cannot be restored until then"
                ));
            }
        }
        let mut total = TrashTotal::default();
        for (ino, kept) in &self.kept {
            if self.trash.get(ino) != Some(&kept.deadline) {
                report.find(format!("inode {ino} can be restored and is not in the trash: {kept:?}"));
            }
            let path = (kept.path.to_string(), kept.removed);
            if self.kept_paths.get(&path) != Some(ino) {
                report.find(format!("inode {ino} is not found by its path: {kept:?}"));
            }
            total.entries += 1;
            match self.inodes.get(ino).map(|inode| &inode.body) {
                Some(Body::File(content)) => {
                    total.files += 1;
                    total.bytes += content.length;
                }
                Some(Body::Directory) => {
                    let below = self.totals.get(ino).copied().unwrap_or_default();
                    total.files += below.files;
                    total.directories += below.directories + 1;
                    total.bytes += below.bytes;
                }
                Some(Body::Link { target }) => {
                    total.files += 1;
                    total.bytes += target.len() as u64;
                }
                Some(Body::Upload(_)) | None => {
                    report.find(format!("inode {ino} can be restored and is no file, directory or link"));
                }
            }
        }
        if self.kept_paths.len() != self.kept.len() {
            report.find(format!(
                "{} removals have {} rows by path",
                self.kept.len(),
                self.kept_paths.len()
            ));
        }
        if self.trash_total.unwrap_or_default() != total {
            report.find(format!(
                "the trash holds {:?} in all, a walk finds {total:?}",
                self.trash_total
            ));
        }
        self.check_taken_apart(report);
    }

    fn check_taken_apart(&self, report: &mut Report) {
        for (ino, last) in &self.taken_apart {
            if !self.is_coming_apart(*ino) {
                report.find(format!("inode {ino} is half taken apart and not due"));
            }
            let entries = self.dentries.range((*ino, String::new())..=(*ino, name_of(last)));
            let extents = self.extents.range((*ino, 0)..=(*ino, offset_of(last)));
            if DentryKey::decode(last).is_some() && entries.count() > 0
                || ExtentKey::decode(last).is_some() && extents.count() > 0
            {
                report.find(format!("rows of inode {ino} lie where no tick looks any more"));
            }
        }
    }
}

fn name_of(last: &[u8]) -> String {
    DentryKey::decode(last).map(|key| key.name).unwrap_or_default()
}

fn offset_of(last: &[u8]) -> u64 {
    ExtentKey::decode(last).map_or(0, |key| key.offset)
}
