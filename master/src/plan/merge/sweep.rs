//! Walks over the extents of files that may lie in small chunks, in bounded steps, to find runs that can be merged.
//!
//! Invariants: a round reads a bounded number of rows; in memory there is a cursor for each file that is being looked at.
//! A file is done with when a walk over all of it, begun after its last change, found nothing to merge and nothing that
//! only cannot be merged now. A walk that found nothing rests.
//!
//! A large chunk is begun only where all copies that its file wants find a server with room to spare, and of pieces that
//! lack nothing: merging takes room for a while, and frees none that is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, Ino, ServerId, StateTime};
use gabion_protocol::limits::{CHUNK_BYTES_DEFAULT, MERGE_PIECES_MAX, MERGES_MAX, MERGES_PER_SERVER_MAX};

use super::{BUSY_RUN_MIN, Part, QUIET_MS, Terms, runs};
use crate::plan::placement::{Candidate, Placement, place};
use crate::plan::repair::Fleet;
use crate::plan::search::chunk_view;
use crate::state::key::chunk::Phase;
use crate::state::key::extent::Extent;
use crate::state::key::fragmented::Fragmented;
use crate::state::key::inode::Content;
use crate::state::key::merge::Merge;
use crate::state::merges::{self, MergePlan, RUN_MIN};
use crate::state::rows::{Rows, RowsError};

/// Rows read in one round: some tens of milliseconds.
const ROUND_ROWS: usize = 8192;
/// Extents of a file looked at together. A file that is being changed is left alone while it has fewer.
const PAGE: usize = 2048;
/// Files looked at in one round.
const FILES: usize = 64;
/// Files of which a cursor is kept.
const WALKS_MAX: usize = 4096;
/// Rest of a file after a walk that found nothing.
const REST: Duration = Duration::from_secs(1);
/// Rest of a file of which a merge came to nothing, or is held up.
const REST_HELD_UP: Duration = Duration::from_secs(10);
/// Bytes a server keeps for those who write, beside a large chunk.
const ROOM_LEFT: u64 = 256 << 20;

/// Where the walks are.
#[derive(Debug, Default)]
pub struct Sweep {
    walks: BTreeMap<Ino, Walk>,
    /// The file looked at last.
    after: Option<Ino>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Walk {
    /// The last change before it began.
    changed: StateTime,
    /// Where it goes on.
    next: u64,
    /// It found something to merge.
    found: bool,
    /// It found something that cannot be merged now.
    held_up: bool,
    /// The file was being changed meanwhile: short runs were passed over.
    was_busy: bool,
    /// Until when the file rests, whatever comes.
    rests: Duration,
}

/// What a round goes by.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The servers.
    pub fleet: &'a Fleet,
    /// Merges under way.
    pub under_way: &'a [(ChunkId, Merge)],
    /// Copies of large chunks being made, by server.
    pub building: BTreeMap<ServerId, usize>,
    /// Monotonic.
    pub now: Duration,
    /// State time.
    pub state_now: StateTime,
    /// Randomness.
    pub seed: u64,
}

/// What a round found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Runs to be merged.
    pub plans: Vec<MergePlan>,
    /// Files of which nothing is left to be merged, and the change after which that was seen.
    pub settled: Vec<(Ino, StateTime)>,
}

/// One round at work.
struct Round<'a> {
    scene: &'a Scene<'a>,
    /// Servers that take another copy, with what this round takes taken.
    takers: Vec<Candidate>,
    building: BTreeMap<ServerId, usize>,
    rows_left: usize,
    found: Found,
}

impl Sweep {
    /// Looks at some files.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn round(&mut self, rows: &dyn Rows, scene: &Scene<'_>) -> Result<Found, RowsError> {
        let files = merges::fragmented(rows, self.after, FILES)?;
        self.after = files.last().map(|(file, _)| *file).filter(|_| files.len() == FILES);
        if self.walks.len() > WALKS_MAX {
            self.walks.clear();
        }
        let mut round = Round {
            scene,
            takers: scene.fleet.takers().cloned().collect(),
            building: scene.building.clone(),
            rows_left: ROUND_ROWS,
            found: Found::default(),
        };
        let mut before = None;
        for (file, hint) in files {
            if round.rows_left == 0 {
                self.after = before;
                break;
            }
            before = Some(file);
            round.rows_left -= 1;
            let Some(content) = merges::content(rows, file)? else {
                round.settle(file, hint);
                continue;
            };
            let walk = self.walks.entry(file).or_default();
            if scene.now < walk.rests {
                continue;
            }
            if round.walk(rows, (file, hint), &content, walk)? {
                self.walks.remove(&file);
            }
        }
        Ok(round.found)
    }

    /// A merge of a file came to nothing: it is left alone for a while.
    pub fn avoid(&mut self, file: Ino, now: Duration) {
        let walk = self.walks.entry(file).or_default();
        *walk = Walk {
            rests: now + REST_HELD_UP,
            ..Walk::default()
        };
    }
}

impl Round<'_> {
    fn settle(&mut self, file: Ino, hint: Fragmented) {
        self.found.settled.push((file, hint.changed));
    }

    /// Walks on over a file; whether it is done with.
    fn walk(
        &mut self,
        rows: &dyn Rows,
        (file, hint): (Ino, Fragmented),
        content: &Content,
        walk: &mut Walk,
    ) -> Result<bool, RowsError> {
        if walk.next == 0 {
            *walk = Walk {
                changed: hint.changed,
                ..Walk::default()
            };
        }
        let rested = self.scene.state_now.0.saturating_sub(hint.changed.0);
        let is_busy = rested < QUIET_MS;
        walk.was_busy |= is_busy;
        let terms = Terms {
            least: if is_busy { BUSY_RUN_MIN } else { RUN_MIN },
            most: MERGE_PIECES_MAX,
            bytes_max: content.chunk_bytes.min(CHUNK_BYTES_DEFAULT),
        };
        let extents = merges::extents(rows, file, walk.next, PAGE)?;
        self.rows_left = self.rows_left.saturating_sub(extents.len());
        // Whoever is writing has the servers for himself until there is a page of extents: merging takes a fifth of what one
        // file can be appended, and most files rest before that.
        let is_soon = is_busy && extents.len() < PAGE;
        let last = if is_soon {
            0
        } else {
            self.plan(rows, (file, content), &extents, &terms, walk)?
        };
        if extents.len() == PAGE {
            let next = last.max(PAGE - MERGE_PIECES_MAX);
            let end = extents.last().map_or(0, |(offset, extent)| offset + extent.length);
            walk.next = extents.get(next).map_or(end, |(offset, _)| *offset);
            return Ok(false);
        }
        walk.next = 0;
        if !walk.found && !walk.held_up && !walk.was_busy && walk.changed == hint.changed {
            self.settle(file, hint);
            return Ok(true);
        }
        let rest = match (walk.found, walk.held_up) {
            (true, _) => Duration::ZERO,
            (false, true) => REST_HELD_UP,
            (false, false) => REST,
        };
        walk.rests = self.scene.now + rest;
        Ok(false)
    }

    /// Plans runs of a file's extents; the number of those up to the end of the last run.
    fn plan(
        &mut self,
        rows: &dyn Rows,
        (file, content): (Ino, &Content),
        extents: &[(u64, Extent)],
        terms: &Terms,
        walk: &mut Walk,
    ) -> Result<usize, RowsError> {
        let mut parts: Vec<Part> = extents.iter().map(|of| self.part(file, of)).collect();
        // What is being merged is merged further when that is done.
        walk.found |= parts.iter().any(|part| !part.is_free);
        let mut last = 0;
        loop {
            let Some(run) = runs(&parts, terms).into_iter().next() else {
                return Ok(last);
            };
            let mut is_sound = true;
            for at in run.clone() {
                if !self.is_sound(rows, extents[at].1.chunk)? {
                    is_sound = false;
                    walk.held_up = true;
                    parts[at].is_free = false;
                }
            }
            if !is_sound {
                continue;
            }
            let (from, length) = (
                parts[run.start].offset,
                parts[run.clone()].iter().map(|part| part.length).sum(),
            );
            let Some(targets) = self.targets(content, length, file.0 ^ from) else {
                walk.found |= self.found.plans.len() + self.scene.under_way.len() > 0;
                walk.held_up = true;
                return Ok(run.start.max(last));
            };
            self.found.plans.push(MergePlan {
                file,
                from,
                to: from + length,
                targets,
            });
            walk.found = true;
            last = run.end;
            parts[run].iter_mut().for_each(|part| part.is_free = false);
        }
    }

    fn part(&self, file: Ino, (offset, extent): &(u64, Extent)) -> Part {
        let mut merged = self.scene.under_way.iter().filter(|(_, row)| row.file == file);
        let end = offset + extent.length;
        Part {
            offset: *offset,
            length: extent.length,
            is_free: merged.all(|(_, row)| end <= row.offset || row.end() <= *offset),
        }
    }

    /// Whether a chunk has enough copies that can be read now.
    fn is_sound(&mut self, rows: &dyn Rows, chunk: ChunkId) -> Result<bool, RowsError> {
        self.rows_left = self.rows_left.saturating_sub(1);
        let view = chunk_view(rows, chunk)?.filter(|view| view.chunk.phase == Phase::Sealed);
        Ok(view.is_some_and(|view| self.scene.fleet.sources(&view).len() >= usize::from(view.chunk.wanted.min(2))))
    }

    /// Servers for all copies of a large chunk, if it may begin.
    fn targets(&mut self, content: &Content, length: u64, lot: u64) -> Option<Vec<ServerId>> {
        if self.scene.under_way.len() + self.found.plans.len() >= MERGES_MAX {
            return None;
        }
        let has_time = |of: &&Candidate| self.building.get(&of.server).copied().unwrap_or(0) < MERGES_PER_SERVER_MAX;
        let takers: Vec<Candidate> = self.takers.iter().filter(has_time).cloned().collect();
        let request = Placement {
            wanted: content.replicas,
            count: 1,
            chunk_bytes: length + ROOM_LEFT,
            avoid: Vec::new(),
            seed: self.scene.seed ^ lot,
        };
        let chain = place(&request, &takers).ok()?.pop()?;
        if chain.len() < usize::from(content.replicas) {
            return None;
        }
        for server in &chain {
            *self.building.entry(*server).or_default() += 1;
            if let Some(taker) = self.takers.iter_mut().find(|of| of.server == *server) {
                taker.bytes_free = taker.bytes_free.saturating_sub(length);
            }
        }
        Some(chain)
    }
}

#[cfg(test)]
mod tests;
