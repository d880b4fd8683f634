//! Files: extents, what inodes say of them, and what belongs to files.

use std::collections::BTreeMap;

use gabion_protocol::checksum::{self, Running};
use gabion_protocol::ids::Ino;

use super::{Loaded, Report};
use crate::state::key::chunk::Phase;
use crate::state::key::extent::Extent;
use crate::state::key::inode::{Body, Content, Inode};

/// What a walk over a file's extents finds.
#[derive(Default)]
pub(super) struct Walked {
    /// Length, and the CRC if all parts are known.
    whole: Running,
    has_unknown: bool,
    has_gap: bool,
    overlaps: bool,
    extents: u64,
}

impl Walked {
    pub(super) fn take(&mut self, offset: u64, extent: &Extent) {
        self.overlaps |= offset < self.whole.len();
        self.reach(offset);
        self.whole.append(extent.crc.unwrap_or(0), extent.length);
        self.has_unknown |= extent.crc.is_none();
        self.extents += 1;
    }

    /// What no extent holds is zeros.
    pub(super) fn reach(&mut self, end: u64) {
        let gap = end.saturating_sub(self.whole.len());
        self.has_gap |= gap > 0;
        self.whole.append(checksum::zeros(gap), gap);
    }

    /// Whether a file that says so is what was found.
    pub(super) fn is(&self, content: &Content) -> bool {
        let crc = match content.crc {
            Some(crc) => !self.has_unknown && crc == self.whole.crc(),
            None => true,
        };
        !self.overlaps && (self.whole.len(), self.extents) == (content.length, content.extents) && crc
    }
}

fn content(inode: &Inode) -> Option<&Content> {
    match &inode.body {
        Body::File(content) => Some(content),
        Body::Upload(upload) => Some(&upload.content),
        Body::Directory | Body::Link { .. } => None,
    }
}

impl Loaded {
    /// A file's extents follow each other, fit their chunks, and make up its length and its CRC, with zeros in the
    /// gaps.
    pub(super) fn check_extents(&self, report: &mut Report) {
        let mut files: BTreeMap<Ino, Walked> = BTreeMap::new();
        for ((ino, offset), extent) in &self.extents {
            files.entry(*ino).or_default().take(*offset, extent);
            self.check_extent(*ino, *offset, extent, report);
        }
        for (ino, inode) in &self.inodes {
            let Some(content) = content(inode) else {
                continue;
            };
            let mut walked = files.remove(ino).unwrap_or_default();
            walked.reach(content.length);
            if !walked.is(content) && !self.is_coming_apart(*ino) {
                report.find(format!(
                    "file {ino} says {content:?}, its {} extents have {} bytes with CRC {:08x}{}{}",
                    walked.extents,
                    walked.whole.len(),
                    walked.whole.crc(),
                    if walked.overlaps { ", and overlap" } else { "" },
                    if walked.has_gap { ", and a gap" } else { "" },
                ));
            }
        }
        for ino in files.keys() {
            report.find(format!("extents belong to inode {ino}, which is no file"));
        }
    }

    pub(super) fn check_extent(&self, ino: Ino, offset: u64, extent: &Extent, report: &mut Report) {
        let wrong = match self.chunks.get(&extent.chunk) {
            None => "is missing",
            Some(chunk) if chunk.phase != Phase::Sealed => "is not sealed",
            Some(chunk) if extent.chunk_offset.saturating_add(extent.length) > chunk.length => "is shorter",
            Some(chunk) if extent.length == chunk.length && extent.crc != Some(chunk.crc) => "has another CRC",
            Some(_) if extent.length == 0 => "has nothing of it",
            Some(_) => return,
        };
        report.find(format!(
            "file {ino} at {offset} lies in chunk {}, which {wrong}",
            extent.chunk
        ));
    }

    /// A file counts as degraded exactly the chunks written for it that have too few copies.
    pub(super) fn check_degraded(&self, report: &mut Report) {
        let mut degraded: BTreeMap<Ino, u64> = BTreeMap::new();
        for chunk in self.chunks.values().filter(|chunk| chunk.is_degraded()) {
            *degraded.entry(chunk.owner).or_default() += 1;
        }
        for (ino, inode) in self.inodes.iter().filter(|(ino, _)| !self.is_coming_apart(**ino)) {
            let Some(content) = content(inode) else {
                continue;
            };
            let found = degraded.get(ino).copied().unwrap_or(0);
            if content.degraded != found {
                report.find(format!(
                    "file {ino} counts {} degraded chunks, {found} are",
                    content.degraded
                ));
            }
        }
    }

    /// A write lease is of a file.
    pub(super) fn check_write_leases(&self, report: &mut Report) {
        for ino in &self.write_leases {
            if !matches!(self.inodes.get(ino).map(|inode| &inode.body), Some(Body::File(_))) {
                report.find(format!("inode {ino} has a write lease and is no file"));
            }
        }
    }

    /// What may lie in small chunks is a file; a large chunk has copies for all that its file wants.
    pub(super) fn check_merges(&self, report: &mut Report) {
        for ino in &self.fragmented {
            if !matches!(self.inodes.get(ino).map(|inode| &inode.body), Some(Body::File(_))) {
                report.find(format!("inode {ino} is noted as lying in small chunks and is no file"));
            }
        }
        for (id, row) in &self.merges {
            let chunk = self.chunks.get(id);
            if !chunk.is_some_and(|chunk| chunk.owner == row.file && chunk.replicas.len() == usize::from(chunk.wanted))
            {
                report.find(format!(
                    "chunk {id} is made for file {}, and is not as it should be: {chunk:?}",
                    row.file
                ));
            }
        }
    }
}
