//! What is on its way to servers and off them: what their beats say of their disks is made up for by it.
//!
//! Rows say what is being copied, what a move will drop and what is ordered dropped. A beat is up to half a second old
//! when that is done, so what has just ended counts until the server has been heard again a moment later ([`Lately`]).
//! Small chunks live in the servers' indexes, where a removed one leaves its room only when tables are rewritten: those
//! that were moved away count as gone for an hour, or a full server would be emptied for space that shows later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_protocol::ids::{ChunkId, ReplicaNumber, ServerId};
use gabion_protocol::limits::SMALL_CHUNK_BYTES;

use super::Busy;
use crate::plan::repair::weight;
use crate::plan::search::COPYING_MAX;
use crate::state::key::chunk::{Chunk, ReplicaState};
use crate::state::rows::{Rows, RowsError};
use crate::state::{balance, read, repair};

/// Moves looked at in one round: far more than budgets allow.
pub const MOVES_MAX: usize = COPYING_MAX;
/// Drop orders of a server looked at in one round. Of one that has more nobody knows how full it will be in a moment.
const DROPS_MAX: usize = 256;
/// A beat that comes so long after something has ended was made after it.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the room of small chunks that were moved away is waited for.
const SETTLE_SMALL: Duration = Duration::from_secs(3600);
/// Moved small chunks are added up for each of these.
const SPAN: Duration = Duration::from_secs(60);

type Copy = (ChunkId, ReplicaNumber);

/// One copy's bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    server: ServerId,
    bytes: u64,
    comes: bool,
    /// It goes because of a move.
    moved: bool,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    copies: BTreeMap<Copy, Flow>,
    /// Servers with too many drop orders to look at.
    pub unclear: BTreeSet<ServerId>,
    /// Moves of which a copy is being made.
    pub busy: Busy,
    /// Moves under way.
    pub moving: u64,
    /// Their bytes.
    pub moving_bytes: u64,
}

impl Flows {
    /// What is on its way to these servers and off them.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn read(rows: &dyn Rows, servers: &[ServerId]) -> Result<Self, RowsError> {
        let mut flows = Self::default();
        for key in repair::copying(rows, COPYING_MAX)? {
            flows.add(rows, (key.chunk, key.number), key.server, true)?;
        }
        for server in servers {
            let drops = read::drop_orders(rows, *server, DROPS_MAX + 1)?;
            if drops.len() > DROPS_MAX {
                flows.unclear.insert(*server);
            }
            for (chunk, number) in drops {
                flows.add(rows, (chunk, number), *server, false)?;
            }
        }
        for (id, row, chunk) in balance::moves(rows, MOVES_MAX)? {
            flows.moving += 1;
            flows.moving_bytes += chunk.length;
            let goes = Flow {
                server: row.from,
                bytes: chunk.length,
                comes: false,
                moved: true,
            };
            flows.copies.insert((id, row.goes), goes);
            if is_copying(&chunk, row.comes) {
                *flows.busy.from.entry(row.from).or_default() += weight(chunk.length);
                *flows.busy.to.entry(row.to).or_default() += weight(chunk.length);
            }
        }
        Ok(flows)
    }

    fn add(&mut self, rows: &dyn Rows, copy: Copy, server: ServerId, comes: bool) -> Result<(), RowsError> {
        if let Some(chunk) = read::chunk(rows, copy.0)? {
            let flow = Flow {
                server,
                bytes: chunk.length,
                comes,
                moved: false,
            };
            self.copies.insert(copy, flow);
        }
        Ok(())
    }

    /// What comes to each server, and what goes from it.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for flow in self.copies.values() {
            let sum = sums.entry(flow.server);
            *if flow.comes { &mut sum.comes } else { &mut sum.goes } += flow.bytes;
        }
        sums
    }
}

fn is_copying(chunk: &Chunk, number: ReplicaNumber) -> bool {
    let mut copies = chunk.replicas.iter();
    copies.any(|copy| copy.number == number && copy.state == ReplicaState::Copying)
}

/// Bytes of one server that come and go, and that came and went so short a time ago that its beats may not show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// They are on their way to it.
    pub comes: u64,
    /// They are about to go.
    pub goes: u64,
    /// They may have come since its last beat.
    pub came: u64,
    /// They may have gone since its last beat.
    pub went: u64,
}

/// The same of all servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<ServerId, Sum>);

impl Sums {
    /// Those of one server.
    #[must_use]
    pub fn of(&self, server: ServerId) -> Sum {
        self.0.get(&server).copied().unwrap_or_default()
    }

    fn entry(&mut self, server: ServerId) -> &mut Sum {
        self.0.entry(server).or_default()
    }
}

/// What ended a moment ago, as one leader remembers it.
#[derive(Debug, Default)]
pub struct Lately {
    before: BTreeMap<Copy, Flow>,
    ended: Vec<(Flow, Duration)>,
    /// Small chunks that were moved away, by server and by when.
    small: BTreeMap<(ServerId, Duration), u64>,
}

impl Lately {
    /// Takes note of what is under way now; gives that together with what has ended since the last time, as far as the
    /// servers' beats cannot show it. `heard` says when a server last beat.
    pub fn note(&mut self, flows: &Flows, heard: impl Fn(ServerId) -> Option<Duration>, now: Duration) -> Sums {
        let mut before = std::mem::take(&mut self.before);
        for (copy, flow) in &flows.copies {
            // A copy that a move made superfluous is one like any other when it is ordered dropped.
            let moved = flow.moved || before.remove(copy).is_some_and(|was| was.moved);
            self.before.insert(*copy, Flow { moved, ..*flow });
        }
        for flow in before.into_values() {
            self.ended.push((flow, now));
            if flow.moved && flow.bytes <= SMALL_CHUNK_BYTES {
                let span = SPAN * u32::try_from(now.as_secs() / SPAN.as_secs()).unwrap_or(u32::MAX);
                *self.small.entry((flow.server, span)).or_default() += flow.bytes;
            }
        }
        self.ended
            .retain(|(flow, ended)| heard(flow.server).is_none_or(|heard| heard < *ended + SETTLE));
        self.small
            .retain(|(_, since), _| now.saturating_sub(*since) < SETTLE_SMALL);
        let mut sums = flows.sums();
        let is_small_move = |flow: &Flow| flow.moved && flow.bytes <= SMALL_CHUNK_BYTES;
        for (flow, _) in self.ended.iter().filter(|(flow, _)| !is_small_move(flow)) {
            let sum = sums.entry(flow.server);
            *if flow.comes { &mut sum.came } else { &mut sum.went } += flow.bytes;
        }
        for ((server, _), bytes) in &self.small {
            sums.entry(*server).goes += bytes;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_counts_until_beats_show_it_and_small_chunks_for_an_hour() {
        const MIB: u64 = 1 << 20;
        let server = ServerId(1);
        let flow = |number, bytes, comes, moved| {
            let copy = (ChunkId::from_bytes([1; 14]), ReplicaNumber(number));
            let flow = Flow {
                server,
                bytes,
                comes,
                moved,
            };
            (copy, flow)
        };
        let copies = [
            flow(1, 10 * MIB, true, false),
            flow(2, 5 * MIB, false, true),
            flow(3, 1000, false, true),
        ];
        let under_way = Flows {
            copies: copies.into(),
            ..Flows::default()
        };
        let mut lately = Lately::default();
        let at = Duration::from_secs;
        let mut note = |flows: &Flows, heard, now| {
            let sums = lately.note(flows, |_| Some(at(heard)), at(now));
            let Sum {
                comes,
                goes,
                came,
                went,
            } = sums.of(server);
            (comes, goes, came, went)
        };
        assert_eq!(note(&under_way, 100, 100), (10 * MIB, 5 * MIB + 1000, 0, 0));
        let over = Flows::default();
        let may_show = (0, 1000, 10 * MIB, 5 * MIB);
        assert_eq!(note(&over, 100, 101), may_show, "no beat since");
        assert_eq!(note(&over, 101, 102), may_show, "that beat may be older than the end");
        assert_eq!(
            note(&over, 102, 103),
            (0, 1000, 0, 0),
            "the small one's room shows later"
        );
        assert_eq!(note(&over, 3800, 3800), (0, 0, 0, 0));
    }
}
