//! Attributes: each row is of a file or directory, tells something, and keeps the limits.

use gabion_protocol::limits;

use super::{Loaded, Report, is_upload};

impl Loaded {
    pub(super) fn check_attributes(&self, report: &mut Report) {
        for (ino, attributes) in &self.attributes {
            if self.inodes.get(ino).is_none_or(is_upload) {
                report.find(format!("inode {ino} has attributes, and is no file or directory"));
            }
            if attributes.is_empty() || attributes.bytes() > limits::ATTRIBUTES_BYTES_MAX {
                report.find(format!("the attributes of inode {ino} are none, or too many"));
            }
        }
    }
}
