//! Decides: when a disk is low, when its reserve comes and goes, and what a leader takes meanwhile. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::messages::master::{AttributeChange, Change, Op, QuotaChange};

use super::{Level, Room, SpaceOptions};

/// Bytes of the reserve when nothing is said: what RocksDB needs to write out all its buffers, twice, and a log.
const RESERVE_BYTES: u64 = 256 << 20;
/// The reserve, and the room below which a master is low, are at most this part of the disk each.
const PART_OF_DISK: u64 = 8;
/// A disk stays full for so long before it gets the reserve: whoever fills it in a burst would take the reserve, too.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Bytes of the reserve.
    pub reserve: u64,
    /// With less free the master is low.
    pub low: u64,
    /// With less free the file system counts as full.
    pub full: u64,
}

impl Marks {
    /// For a disk of so many bytes. RocksDB may at any time write out all its buffers, and as much of a log besides.
    #[must_use]
    pub fn of(disk: u64, options: SpaceOptions) -> Self {
        let part = disk / PART_OF_DISK;
        let low = options.write_buffers.saturating_mul(2).min(part);
        Self {
            reserve: options.reserve.unwrap_or_else(|| RESERVE_BYTES.min(part)),
            low,
            full: options.write_buffer.min(low / 4),
        }
    }

    /// A master that was low needs a quarter more, so that it does not change its mind with every write.
    fn enough(&self) -> u64 {
        self.low + self.low / 4
    }

    /// Bytes that must be free for the master to be well again.
    #[must_use]
    pub fn needed(&self, held: bool) -> u64 {
        let reserve = if held { 0 } else { self.reserve };
        self.enough().saturating_add(reserve)
    }
}

/// What was seen of a disk.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Bytes free.
    pub free: u64,
    /// Whether the reserve is there.
    pub held: bool,
    /// Monotonic time.
    pub now: Duration,
    /// A write has failed, or the process is about to start: no patience.
    pub urgent: bool,
}

/// What is to be done with the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// It is given back to the file system.
    Release,
    /// It is made.
    Make,
}

/// What is remembered between two looks.
#[derive(Debug)]
pub struct Judge {
    marks: Marks,
    full_since: Option<Duration>,
    low: bool,
}

impl Judge {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(marks: Marks) -> Self {
        Self {
            marks,
            full_since: None,
            low: false,
        }
    }

    /// The marks.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What to do about what was seen.
    pub fn look(&mut self, seen: Seen) -> Step {
        if seen.free >= self.marks.full {
            self.full_since = None;
        }
        match seen.held {
            true if seen.free < self.marks.full => {
                let since = *self.full_since.get_or_insert(seen.now);
                if seen.urgent || seen.now.saturating_sub(since) >= PATIENCE {
                    Step::Release
                } else {
                    Step::Keep
                }
            }
            false if seen.free >= self.marks.needed(false) => Step::Make,
            true | false => Step::Keep,
        }
    }

    /// How much room there is, after the step.
    pub fn level(&mut self, free: u64, held: bool) -> Level {
        let mark = if self.low { self.marks.enough() } else { self.marks.low };
        self.low = !held || free < mark;
        match (self.low, held) {
            (false, _) => Level::Enough,
            (true, true) => Level::Low,
            (true, false) => Level::Spent,
        }
    }
}

/// Whether a client's command needs room for good. What frees room, or keeps alive what is there, does not.
#[must_use]
pub fn grows(op: &Op) -> bool {
    match op {
        Op::Mkdir { .. }
        | Op::OpenUpload { .. }
        | Op::OpenStock { .. }
        | Op::ResumeUpload { .. }
        | Op::PutFile { .. }
        | Op::GrantChunks { .. }
        | Op::SealChunks { .. }
        | Op::Commit { .. }
        | Op::Rename { .. }
        | Op::CreateFile { .. }
        | Op::Copy(_)
        | Op::CopyExtents { .. }
        | Op::CreateSnapshot { .. }
        | Op::OpenSized { .. }
        | Op::ResumeSized { .. }
        | Op::CopyTree(_)
        | Op::Link(_)
        // What can be restored stays, with rows that say how: removing for good makes room.
        | Op::MoveToTrash { .. }
        | Op::Restore { .. } => true,
        Op::SetQuota { change, .. } => !matches!(change, QuotaChange::Clear),
        Op::ChangeAttributes { change, .. } => !matches!(change, AttributeChange::Remove { .. }),
        // A report is a row for each damaged copy at most, and integrity must not wait for room.
        Op::AbortUpload { .. }
        | Op::Renew { .. }
        | Op::Remove { .. }
        | Op::RemoveSnapshot { .. }
        | Op::ReportDamage { .. }
        | Op::EmptyTrash { .. }
        // A row is written in place of another.
        | Op::SetAttributes { .. }
        | Op::SetCondition { .. }
        | Op::SetBalance { .. } => false,
        Op::ChangeFile(change) => match change.what {
            Change::Splice { .. } | Change::SetReplicas { .. } | Change::TakeLease { .. } => true,
            Change::Truncate { .. } | Change::EndLease => false,
        },
    }
}

/// What a leader knows of a voter's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voter {
    /// It was not asked yet, or does not know the question: it counts as well.
    Unknown,
    /// It does not answer: it takes no entries.
    Silent,
    /// What it said.
    Said(Room),
}

impl Voter {
    fn takes(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Silent => false,
            Self::Said(room) => room.level == Level::Enough,
        }
    }

    fn is_low(&self) -> bool {
        matches!(self, Self::Said(room) if room.level != Level::Enough)
    }
}

/// What a leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes everything.
    Open,
    /// It takes everything still, and lets this voter lead, which has room.
    HandOver(u64),
    /// It has no room left at all while others have: this voter must lead before anything grows.
    HandOverFirst(u64),
    /// It takes nothing that grows: fewer than a majority have room.
    Closed,
}

/// Judges by what the voters say, the leader among them. A minority that is low changes nothing (others go on), also if
/// the leader is of it.
#[must_use]
pub fn verdict(leader: u64, voters: &BTreeMap<u64, Voter>) -> Verdict {
    let majority = voters.len() / 2 + 1;
    let takers = voters.values().filter(|voter| voter.takes()).count();
    if !voters.values().any(Voter::is_low) {
        // Who is silent is no matter of room.
        return Verdict::Open;
    }
    if takers < majority {
        return Verdict::Closed;
    }
    let own = voters.get(&leader);
    let with_room = |(_, voter): &(&u64, &Voter)| matches!(voter, Voter::Said(room) if room.level == Level::Enough);
    let heir = voters.iter().find(with_room).map(|(id, _)| *id);
    match (own, heir) {
        (Some(Voter::Said(room)), Some(heir)) => match room.level {
            Level::Enough => Verdict::Open,
            Level::Low => Verdict::HandOver(heir),
            Level::Spent => Verdict::HandOverFirst(heir),
        },
        (_, _) => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MARKS: Marks = Marks {
        reserve: 256 * MIB,
        low: 128 * MIB,
        full: 16 * MIB,
    };

    fn seen(free_mib: u64, held: bool, at: u64) -> Seen {
        Seen {
            free: free_mib * MIB,
            held,
            now: Duration::from_millis(at),
            urgent: false,
        }
    }

    #[test]
    fn marks_fit_the_disk() {
        let options = SpaceOptions {
            reserve: None,
            write_buffer: 16 * MIB,
            write_buffers: 64 * MIB,
        };
        assert_eq!(Marks::of(1 << 40, options), MARKS);
        let small = Marks::of(512 * MIB, options);
        assert_eq!((small.reserve, small.low, small.full), (64 * MIB, 64 * MIB, 16 * MIB));
        let tiny = Marks::of(64 * MIB, options);
        assert_eq!((tiny.reserve, tiny.low, tiny.full), (8 * MIB, 8 * MIB, 2 * MIB));
        let asked = SpaceOptions {
            reserve: Some(7),
            ..options
        };
        assert_eq!(Marks::of(1 << 40, asked).reserve, 7);
    }

    #[test]
    fn the_reserve_goes_when_the_disk_stays_full_and_comes_back_with_room() {
        let mut judge = Judge::new(MARKS);
        assert_eq!(judge.look(seen(1000, false, 0)), Step::Make);
        assert_eq!(judge.look(seen(744, true, 0)), Step::Keep);
        assert_eq!(judge.level(744 * MIB, true), Level::Enough);
        assert_eq!(judge.look(seen(100, true, 100)), Step::Keep);
        assert_eq!(judge.level(100 * MIB, true), Level::Low);
        // A burst, and it comes down again.
        assert_eq!(judge.look(seen(1, true, 200)), Step::Keep);
        assert_eq!(judge.look(seen(20, true, 1900)), Step::Keep);
        assert_eq!(judge.look(seen(1, true, 2300)), Step::Keep);
        assert_eq!(judge.look(seen(0, true, 4300)), Step::Release);
        assert_eq!(judge.level(256 * MIB, false), Level::Spent);
        // As much as the reserve alone is no room.
        assert_eq!(judge.look(seen(256, false, 4400)), Step::Keep);
        assert_eq!(judge.look(seen(415, false, 4500)), Step::Keep);
        assert_eq!(judge.look(seen(416, false, 4600)), Step::Make);
        assert_eq!(judge.level(160 * MIB, true), Level::Enough);
    }

    #[test]
    fn a_failed_write_has_no_patience() {
        let mut judge = Judge::new(MARKS);
        let urgent = Seen {
            urgent: true,
            ..seen(0, true, 0)
        };
        assert_eq!(judge.look(urgent), Step::Release);
        let roomy = Seen {
            urgent: true,
            ..seen(17, true, 0)
        };
        assert_eq!(judge.look(roomy), Step::Keep);
    }

    #[test]
    fn it_is_well_again_only_with_more_room_than_it_was_low_with() {
        let mut judge = Judge::new(MARKS);
        assert_eq!(judge.level(128 * MIB, true), Level::Enough);
        assert_eq!(judge.level(127 * MIB, true), Level::Low);
        assert_eq!(judge.level(159 * MIB, true), Level::Low);
        assert_eq!(judge.level(160 * MIB, true), Level::Enough);
        assert_eq!(judge.level(130 * MIB, true), Level::Enough);
        assert_eq!((MARKS.needed(true), MARKS.needed(false)), (160 * MIB, 416 * MIB));
    }

    fn said(level: Level) -> Voter {
        Voter::Said(Room {
            level,
            free: 1,
            needed: 2,
            dir: "/m".into(),
        })
    }

    fn voters(all: [Voter; 3]) -> BTreeMap<u64, Voter> {
        (1..).zip(all).collect()
    }

    #[test]
    fn a_low_minority_changes_nothing_and_a_low_majority_closes() {
        use Level::{Enough, Low, Spent};
        let is = |all: [Voter; 3], expected| {
            assert_eq!(verdict(1, &voters(all.clone())), expected, "{all:?}");
        };
        is([said(Enough), said(Enough), said(Enough)], Verdict::Open);
        is([said(Enough), said(Low), said(Enough)], Verdict::Open);
        is([said(Enough), Voter::Silent, Voter::Silent], Verdict::Open);
        is([said(Enough), said(Spent), Voter::Unknown], Verdict::Open);
        is([said(Low), said(Enough), said(Enough)], Verdict::HandOver(2));
        is([said(Low), Voter::Unknown, said(Enough)], Verdict::HandOver(3));
        is([said(Spent), said(Enough), said(Enough)], Verdict::HandOverFirst(2));
        is([said(Low), Voter::Unknown, Voter::Unknown], Verdict::Open);
        is([said(Enough), said(Low), said(Low)], Verdict::Closed);
        is([said(Low), said(Low), said(Enough)], Verdict::Closed);
        is([said(Low), Voter::Silent, said(Enough)], Verdict::Closed);
        is([said(Enough), said(Low), Voter::Silent], Verdict::Closed);
        let alone = BTreeMap::from([(1, said(Low))]);
        assert_eq!(verdict(1, &alone), Verdict::Closed);
    }
}
