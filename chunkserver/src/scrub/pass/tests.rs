use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use gabion_protocol::{Timeline, VolumeId};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    period_ms: 1_000_000,
    rate_max: 10_000,
};
const LENGTH_MAX: u64 = 40_000;

fn chunk(counter: u64) -> ChunkId {
    ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    }
}

/// A disk and its scrub: what a worker does, with no disk below it.
struct Disk {
    pass: Pass,
    now: StateTime,
    chunks: BTreeMap<ChunkId, u64>,
    durable: Option<Mark>,
    /// Every read: when, which chunk, how many bytes.
    reads: Vec<(u64, ChunkId, u64)>,
    /// Chunks that are there since the pass began, and how often they were read in it.
    whole_pass: BTreeMap<ChunkId, u32>,
    /// Chunks read after the last save: they may be read again after a crash.
    unsaved: BTreeSet<ChunkId>,
    again: BTreeSet<ChunkId>,
    began: Option<StateTime>,
    passes: u32,
}

impl Disk {
    fn new(chunks: BTreeMap<ChunkId, u64>) -> Self {
        Self {
            pass: Pass::new(None, LIMITS),
            now: StateTime(1),
            chunks,
            durable: None,
            reads: Vec::new(),
            whole_pass: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            again: BTreeSet::new(),
            began: None,
            passes: 0,
        }
    }

    fn stored(&self) -> u64 {
        self.chunks.values().sum()
    }

    fn add(&mut self, id: u64, bytes: u64) {
        self.chunks.entry(chunk(id)).or_insert(bytes);
    }

    fn remove(&mut self, nth: usize) {
        let Some(id) = self.chunks.keys().nth(nth % self.chunks.len().max(1)).copied() else {
            return;
        };
        self.chunks.remove(&id);
        self.whole_pass.remove(&id);
    }

    /// The process ends and starts again: what was not saved is forgotten.
    fn restart(&mut self) {
        self.pass = Pass::new(self.durable, LIMITS);
        self.again.append(&mut self.unsaved);
        let durable = self.durable.and_then(|mark| mark.started);
        if durable != self.began {
            // An older pass goes on, of which nothing was kept here.
            self.began = durable;
            self.whole_pass.clear();
        }
    }

    fn ask(&mut self, request: u64) {
        let last = self.chunks.keys().next_back().copied();
        self.pass.ask(request, last, self.now);
        self.notice_begin();
    }

    /// A new pass: the one before it must have read everything that was there all the time, once.
    fn notice_begin(&mut self) {
        let mark = *self.pass.mark();
        if mark.started == self.began && mark.started.is_some() {
            return;
        }
        self.began = mark.started;
        self.whole_pass = self.chunks.keys().map(|id| (*id, 0)).collect();
        self.again.clear();
        self.unsaved.clear();
    }

    fn check_pass(&mut self) {
        self.passes += 1;
        for (id, times) in &self.whole_pass {
            let allowed = 1 + u32::from(self.again.contains(id));
            assert!(
                (1..=allowed).contains(times),
                "{id} was read {times} times in a pass, {allowed} allowed"
            );
        }
    }

    /// Does what the pass says, for so many milliseconds.
    fn run(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while self.now < end {
            let ended = self.pass.mark().last;
            let step = self.pass.next(self.now, self.stored());
            self.notice_begin();
            match step {
                Step::Save => {
                    self.durable = Some(*self.pass.mark());
                    self.pass.saved(self.now);
                    self.unsaved.clear();
                }
                Step::Wait { ms } => self.now = self.now.plus(ms.min(end.0 - self.now.0)),
                Step::Read { after, until } => {
                    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                    let to = until.map_or(Bound::Unbounded, Bound::Included);
                    let found = match after >= until && until.is_some() {
                        true => None,
                        false => self.chunks.range((from, to)).next().map(|(id, len)| (*id, *len)),
                    };
                    match found {
                        Some((id, bytes)) => {
                            self.reads.push((self.now.0, id, bytes));
                            *self.whole_pass.entry(id).or_default() += 1;
                            self.unsaved.insert(id);
                            self.pass.read(id, bytes, false);
                        }
                        None => {
                            if self.pass.mark().kind == Kind::Asked || !self.pass.mark().ended {
                                self.check_pass();
                            }
                            self.pass.at_end(self.now);
                            self.notice_begin();
                        }
                    }
                }
            }
            assert!(
                ended <= self.pass.mark().last.or(ended),
                "a completed pass is not forgotten"
            );
        }
    }

    /// In no span of time more than the rate allows, and one chunk.
    fn check_budget(&self) {
        for from in 0..self.reads.len() {
            let mut bytes = 0;
            for (at, _, len) in &self.reads[from..] {
                let span = at - self.reads[from].0;
                assert!(
                    bytes <= LIMITS.rate_max * span / 1000 + LENGTH_MAX,
                    "{bytes} bytes in {span} ms"
                );
                bytes += len;
            }
        }
    }
}

impl PartialOrd for Last {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.ended.cmp(&other.ended))
    }
}

#[derive(Debug, Clone)]
enum Event {
    Run(u64),
    Add(u64),
    AddBelow(u64, u64),
    Remove(usize),
    Restart,
    Ask(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1u64..300_000).prop_map(Event::Run),
        2 => (1..LENGTH_MAX).prop_map(Event::Add),
        1 => (0u64..60, 1..LENGTH_MAX).prop_map(|(id, len)| Event::AddBelow(id, len)),
        2 => any::<usize>().prop_map(Event::Remove),
        1 => Just(Event::Restart),
        1 => (0u64..3).prop_map(Event::Ask),
    ];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    /// Chunks come and go, the server restarts, operators ask: every pass reads once whatever was there all the time,
    /// and the budget is kept as long as the process lives.
    #[test]
    fn every_chunk_is_read_once_a_pass(first in 0u64..30, events in events()) {
        let mut disk = Disk::new((0..first).map(|id| (chunk(id * 2), 1 + id * 1000)).collect());
        let mut next = 1000;
        for event in events {
            match event {
                Event::Run(ms) => disk.run(ms),
                Event::Add(bytes) => {
                    next += 1;
                    disk.add(next, bytes);
                }
                Event::AddBelow(id, bytes) => disk.add(id, bytes),
                Event::Remove(nth) => disk.remove(nth),
                Event::Restart => {
                    disk.check_budget();
                    disk.reads.clear();
                    disk.restart();
                }
                Event::Ask(request) => disk.ask(request),
            }
        }
        disk.run(3 * LIMITS.period_ms);
        prop_assert!(disk.passes >= 2, "passes end");
        disk.check_budget();
    }

    /// If the rate allows it, no copy goes unread for longer than a period, new ones included.
    #[test]
    fn no_copy_goes_unread_for_a_period(adds in proptest::collection::vec((1u64..200_000, 1u64..LENGTH_MAX), 1..40)) {
        let mut disk = Disk::new((0..10).map(|id| (chunk(id), 10_000)).collect());
        let mut written: BTreeMap<ChunkId, u64> = disk.chunks.keys().map(|id| (*id, 1)).collect();
        for (next, (ms, bytes)) in (1000..).zip(adds) {
            disk.run(ms);
            disk.add(next, bytes);
            written.insert(chunk(next), disk.now.0);
        }
        disk.run(2 * LIMITS.period_ms);
        for (at, id, _) in &disk.reads {
            let before = written.insert(*id, *at).unwrap();
            prop_assert!(at - before <= LIMITS.period_ms, "{id} went unread from {before} to {at}");
        }
        for (id, at) in written {
            prop_assert!(disk.now.0 - at <= LIMITS.period_ms, "{id} was read last at {at}, now is {}", disk.now.0);
        }
    }
}

#[test]
fn a_pass_is_spread_over_its_period() {
    let mut disk = Disk::new((0..90).map(|id| (chunk(id), 1000)).collect());
    disk.run(400_000);
    let half = disk.reads.len();
    assert!((40..=50).contains(&half), "{half} of 90 after half of the spread");
    disk.run(450_000);
    assert_eq!((disk.reads.len(), disk.passes), (90, 1), "nothing is read twice");
    disk.run(100_000);
    assert!(disk.reads.len() > 90, "the next pass began");
}

#[test]
fn an_asked_pass_reads_at_the_rate_allowed_and_is_obeyed_once() {
    let mut disk = Disk::new((0..50).map(|id| (chunk(id), 10_000)).collect());
    disk.run(10_000);
    disk.ask(7);
    let before = disk.reads.len();
    // A busy writer adds faster than the scrub reads: the pass still ends.
    for id in 0..60 {
        disk.run(1000);
        disk.add(1000 + id, 20_000);
    }
    let mark = *disk.pass.mark();
    let last = mark.last.unwrap();
    assert_eq!((last.chunks, last.bytes, mark.kind), (50, 500_000, Kind::Regular));
    assert!(disk.reads.len() >= before + 50);
    disk.ask(7);
    assert_eq!(
        disk.pass.mark().kind,
        Kind::Regular,
        "the repeated order begins nothing"
    );
    disk.restart();
    disk.ask(7);
    assert_eq!(disk.pass.mark().kind, Kind::Regular, "not after a restart either");
    disk.ask(8);
    assert_eq!(disk.pass.mark().kind, Kind::Asked);
}

#[test]
fn a_restart_goes_on_where_it_was_saved() {
    let mut disk = Disk::new((0..50).map(|id| (chunk(id), 10_000)).collect());
    disk.ask(1);
    disk.run(30_000);
    let read = disk.reads.len();
    disk.restart();
    disk.reads.clear();
    disk.run(1500);
    let first = disk.reads[0].1;
    assert!(
        first > chunk(read as u64 / 2),
        "it began again at {first} after {read} chunks"
    );
    assert!(first <= chunk(read as u64), "{first} is beyond what was read");
}

#[test]
fn it_gives_way_longer_while_it_is_in_time() {
    let mut pass = Pass::new(None, LIMITS);
    pass.next(StateTime(0), 1000);
    assert_eq!(pass.patience_ms(StateTime(0), 1000), PATIENCE_MS_MAX);
    let fast = Limits {
        rate_max: 100 << 20,
        ..LIMITS
    };
    let mut late = Pass::new(None, fast);
    late.next(StateTime(0), 1 << 40);
    assert_eq!(late.patience_ms(StateTime(950_000), 1 << 40), 10, "at the rate allowed");
    late.ask(1, Some(chunk(1)), StateTime(0));
    assert_eq!(late.patience_ms(StateTime(950_000), 1 << 40), PATIENCE_MS_MAX);
}

#[test]
fn masters_that_were_restored_do_not_stop_it() {
    let mut disk = Disk::new((0..5).map(|id| (chunk(id), 1000)).collect());
    disk.now = StateTime(1 << 40);
    disk.run(1000);
    disk.restart();
    disk.now = StateTime(5);
    disk.run(LIMITS.period_ms);
    assert!(disk.passes > 0, "state time went back by years");
}
