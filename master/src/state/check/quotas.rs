//! Quotas and copies under way: what is reserved belongs to uploads, and is counted right.

use std::collections::BTreeMap;

use gabion_protocol::ids::Ino;

use super::{Loaded, Report, is_upload};
use crate::state::key::inode::{Body, Inode, Parent};
use crate::state::key::meta::QuotasInUse;
use crate::state::key::total::Total;

impl Loaded {
    /// Adds what uploads have reserved to the totals a walk finds.
    pub(super) fn sum_reservations(&self, walked: &mut BTreeMap<Ino, Total>) {
        for held in self.reservations.values() {
            let mut at = held.directory;
            for _ in 0..200 {
                let Some(inode) = self.inodes.get(&at) else {
                    break;
                };
                let total = walked.entry(at).or_default();
                total.reserved += held.bytes;
                total.reserved_entries += held.entries;
                if at == Ino::ROOT {
                    break;
                }
                at = inode.parent.ino;
            }
        }
    }

    pub(super) fn check_quotas(&self, report: &mut Report) {
        for ino in &self.quotas {
            if !self.inodes.get(ino).is_some_and(Inode::is_directory) {
                report.find(format!("inode {ino} has a quota and is no directory"));
            }
        }
        for (ino, held) in &self.reservations {
            if !self.inodes.get(ino).is_some_and(is_upload) {
                report.find(format!("inode {ino} holds room and is no upload: {held:?}"));
            }
        }
        let found = QuotasInUse {
            quotas: self.quotas.len() as u64,
            reservations: self.reservations.len() as u64,
        };
        if found != self.quotas_in_use {
            report.find(format!("there are {found:?}, {:?} are counted", self.quotas_in_use));
        }
    }

    /// Whether an inode is the directory that will appear when its copy is whole.
    pub(super) fn is_being_built(&self, ino: Ino) -> bool {
        self.tree_copies.values().any(|copy| copy.root == ino)
    }

    pub(super) fn check_tree_copies(&self, report: &mut Report) {
        for (ino, copy) in &self.tree_copies {
            let root = self.inodes.get(&copy.root);
            if root.is_none_or(|root| !root.is_directory() || root.parent.ino != Parent::NOWHERE) {
                report.find(format!("copy {ino} builds {}, which is no hidden directory", copy.root));
            }
        }
        for (ino, inode) in &self.inodes {
            let is_copy = matches!(&inode.body, Body::Upload(upload) if upload.is_tree_copy());
            if is_copy != self.tree_copies.contains_key(ino) {
                report.find(format!(
                    "inode {ino} stands for a copy of a directory without a row, or the reverse"
                ));
            }
        }
    }
}
