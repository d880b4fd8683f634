//! Uploads that can be resumed: each row leads to one, and an identity has one on the way to a path.

use std::collections::BTreeSet;

use super::{Body, Loaded, Report};

impl Loaded {
    pub(super) fn check_resumable(&self, report: &mut Report) {
        let mut owners = BTreeSet::new();
        for (row, terms) in &self.resumable {
            let of_path = self.inodes.get(&row.upload).is_some_and(
                |inode| matches!(&inode.body, Body::Upload(upload) if upload.path.as_str() == row.path && !upload.is_stock()),
            );
            if !of_path {
                report.find(format!(
                    "inode {} can be resumed on the way to {:?}, and is no upload to it",
                    row.upload, row.path
                ));
            }
            if !owners.insert((&row.path, terms.owner.to_string())) {
                report.find(format!("{} has two uploads to resume to {:?}", terms.owner, row.path));
            }
        }
    }
}
