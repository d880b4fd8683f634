//! Merging: for which runs of a file's extents one large chunk is made.
//!
//! Rules:
//! * a run is of neighbours without a gap, of at least [`Terms::least`] and at most [`Terms::most`] extents, and fits one
//!   chunk;
//! * none of them is longer than all others together. So the extent a byte lies in is at least twice as long after each
//!   merge, and a byte is written again at most as often as a chunk can be halved: a million appends cost some ten
//!   times their bytes, however they come;
//! * what may not be merged now (a chunk that lacks copies, an extent that is being merged) ends a run.
//!
//! A file that changes all the time is merged in long runs only, and where very many extents follow each other; one that
//! rests for [`QUIET_MS`], in short ones too. Each run leaves one extent of eight at least, so that merges of a file that rests come to an end.
//!
//! [`judge`] says what becomes of a merge that was begun; [`sweep`] finds files to look at.
//!
//! Pure: extents come in, runs go out.

pub mod sweep;

use std::ops::Range;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::messages::master::Seal;

use crate::state::key::chunk::Chunk;
use crate::state::key::merge::Merge;

/// Milliseconds of state time without a change after which a file rests.
pub const QUIET_MS: u64 = 3_000;
/// Fewest extents of a run of a file that is just being changed: what comes next may be merged with it.
pub const BUSY_RUN_MIN: usize = 64;

/// An extent as this planner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Whether it may be merged.
    pub is_free: bool,
}

/// What a run must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Fewest extents.
    pub least: usize,
    /// Most extents.
    pub most: usize,
    /// Most bytes.
    pub bytes_max: u64,
}

/// The runs to be merged, none of which shares an extent with another, in file order. `parts` are neighbours in a file,
/// in order.
#[must_use]
pub fn runs(parts: &[Part], terms: &Terms) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut begin = 0;
    while begin < parts.len() {
        match longest(parts, begin, terms) {
            Some(end) => {
                runs.push(begin..end);
                begin = end;
            }
            None => begin += 1,
        }
    }
    runs
}

/// Where the longest run that begins at `begin` ends.
fn longest(parts: &[Part], begin: usize, terms: &Terms) -> Option<usize> {
    let (mut sum, mut longest, mut next) = (0u64, 0u64, parts.get(begin)?.offset);
    let mut end = None;
    for (at, part) in parts.iter().enumerate().skip(begin).take(terms.most) {
        sum = sum.saturating_add(part.length);
        longest = longest.max(part.length);
        if !part.is_free || part.offset != next || sum > terms.bytes_max {
            break;
        }
        next = part.offset.saturating_add(part.length);
        let count = at + 1 - begin;
        if count >= terms.least && longest <= sum / 2 {
            end = Some(at + 1);
        }
    }
    end
}

/// What the server of a large chunk's copy said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is on its disk.
    Made {
        /// Its bytes.
        length: u64,
        /// Their CRC.
        crc: u32,
    },
    /// It could not be made.
    Failed,
}

/// What is to be done about a merge under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its copies are being made.
    Wait,
    /// All are there.
    Exchange(Seal),
    /// It comes to nothing, because of this.
    GiveUp(&'static str),
}

/// Judges a merge under way by what was heard of its copies, and whether their servers are lost.
#[must_use]
pub fn judge(
    (id, row): (ChunkId, &Merge),
    chunk: &Chunk,
    heard: impl Fn(ReplicaNumber) -> Option<Heard>,
    is_lost: impl Fn(ServerId) -> bool,
) -> Verdict {
    let mut agreed = None;
    let mut is_waiting = false;
    for copy in &chunk.replicas {
        match heard(copy.number) {
            Some(Heard::Failed) => return Verdict::GiveUp("a copy could not be made"),
            Some(Heard::Made { length, crc }) => {
                if agreed.is_some_and(|other| other != (length, crc)) {
                    return Verdict::GiveUp("its copies differ");
                }
                agreed = Some((length, crc));
            }
            None if is_lost(copy.server) => return Verdict::GiveUp("a server that was to make a copy is lost"),
            None => is_waiting = true,
        }
    }
    let Some((length, crc)) = agreed.filter(|_| !is_waiting) else {
        return Verdict::Wait;
    };
    if length != row.length() || row.crc().is_some_and(|known| known != crc) {
        return Verdict::GiveUp("its copies are not what its pieces make");
    }
    Verdict::Exchange(Seal {
        chunk: id,
        generation: chunk.generation,
        file_offset: row.offset,
        length,
        crc,
        members: chunk.replicas.iter().map(|copy| copy.server).collect(),
    })
}

#[cfg(test)]
mod tests;
