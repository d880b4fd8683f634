//! What a server's scrub tells the masters, all disks together, and what an operator asked of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use gabion_protocol::StateTime;
use gabion_protocol::messages::master::{ScrubPass, ScrubProgress};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::mark::{Kind, Last, Mark};

/// How far the disks are.
#[derive(Debug)]
pub(crate) struct Board {
    /// `None` until a disk's mark is read.
    disks: Mutex<BTreeMap<usize, Option<Shown>>>,
    gave_way: AtomicU64,
    /// The operator's request heard last; 0 if none.
    asked: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    mark: Mark,
    stored: u64,
    /// The request whose pass is on the disk.
    obeyed: u64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            disks: Mutex::default(),
            gave_way: AtomicU64::new(0),
            asked: watch::Sender::new(0),
        }
    }
}

impl Board {
    /// An operator asks for a pass, perhaps again.
    pub(crate) fn ask(&self, request: u64) {
        self.asked
            .send_if_modified(|asked| std::mem::replace(asked, request) != request);
    }

    /// What operators ask for.
    pub(super) fn asked(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// There are so many disks, of which nothing is known yet.
    pub(super) fn expect(&self, disks: usize) {
        self.disks.lock().extend((0..disks).map(|disk| (disk, None)));
    }

    /// How far a disk is, with so many bytes to read.
    pub(super) fn show(&self, disk: usize, mark: Mark, stored: u64) {
        let mut disks = self.disks.lock();
        let shown = disks.entry(disk).or_default().get_or_insert_default();
        (shown.mark, shown.stored) = (mark, stored);
    }

    /// The pass that `request` asked for is on the disk.
    pub(super) fn durable(&self, disk: usize, request: u64) {
        let mut disks = self.disks.lock();
        disks.entry(disk).or_default().get_or_insert_default().obeyed = request;
    }

    /// A disk is out of service.
    pub(super) fn leave(&self, disk: usize) {
        self.disks.lock().remove(&disk);
    }

    /// Reading waited so often for foreground work.
    pub(super) fn gave_way(&self, times: u64) {
        self.gave_way.fetch_add(times, Ordering::Relaxed);
    }

    /// The request that all disks have obeyed, 0 if none, and how far they are; `None` before that is known of each, as
    /// just after a start, or if no disk serves.
    pub(crate) fn told(&self) -> Option<(u64, ScrubProgress)> {
        let disks: Vec<Shown> = self.disks.lock().values().copied().collect::<Option<_>>()?;
        if disks.is_empty() {
            return None;
        }
        let mut obeyed = disks.iter().map(|shown| shown.obeyed);
        let first = obeyed.next().unwrap_or(0);
        let all = if obeyed.all(|other| other == first) { first } else { 0 };
        let mut progress = ScrubProgress {
            gave_way: self.gave_way.load(Ordering::Relaxed),
            ..ScrubProgress::default()
        };
        for Shown { mark, stored, .. } in &disks {
            progress.started = [progress.started, mark.started].into_iter().flatten().min();
            progress.asked |= mark.kind == Kind::Asked;
            progress.running |= !mark.ended;
            progress.bytes_done += mark.bytes;
            progress.bytes_total += mark.bytes.max(*stored);
            progress.chunks_done += mark.chunks;
            progress.damaged += mark.damaged;
        }
        let last: Option<Vec<Last>> = disks.iter().map(|shown| shown.mark.last).collect();
        progress.last = last.and_then(|last| last.into_iter().map(pass).reduce(both));
        Some((all, progress))
    }
}

fn pass(last: Last) -> ScrubPass {
    let Last {
        started,
        ended,
        bytes,
        chunks,
        damaged,
    } = last;
    ScrubPass {
        started,
        ended,
        bytes,
        chunks,
        damaged,
    }
}

fn both(a: ScrubPass, b: ScrubPass) -> ScrubPass {
    let earlier = |a: StateTime, b: StateTime| a.min(b);
    ScrubPass {
        started: earlier(a.started, b.started),
        ended: earlier(a.ended, b.ended),
        bytes: a.bytes + b.bytes,
        chunks: a.chunks + b.chunks,
        damaged: a.damaged + b.damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(ended: u64) -> Option<Last> {
        Some(Last {
            started: StateTime(1),
            ended: StateTime(ended),
            bytes: 10,
            chunks: 2,
            damaged: 1,
        })
    }

    #[test]
    fn a_request_is_obeyed_when_it_is_on_every_disk() {
        let board = Board::default();
        let obeyed = || board.told().map(|(obeyed, _)| obeyed);
        assert_eq!(obeyed(), None);
        board.expect(2);
        board.durable(0, 7);
        assert_eq!(obeyed(), None, "nothing is known of the other disk");
        board.durable(1, 0);
        assert_eq!(obeyed(), Some(0), "one disk has not");
        board.durable(1, 7);
        assert_eq!(obeyed(), Some(7));
        board.durable(2, 3);
        assert_eq!(obeyed(), Some(0));
        board.leave(2);
        assert_eq!(obeyed(), Some(7), "a disk out of service does not count");
        let mut asked = board.asked();
        board.ask(8);
        assert!(asked.has_changed().unwrap());
        assert_eq!(*asked.borrow_and_update(), 8);
        board.ask(8);
        assert!(!asked.has_changed().unwrap(), "the same again is no news");
    }

    #[test]
    fn disks_are_told_together() {
        let board = Board::default();
        let mark = |bytes, ended, last| Mark {
            started: Some(StateTime(5 + bytes)),
            bytes,
            ended,
            last,
            chunks: 1,
            damaged: 1,
            ..Mark::default()
        };
        board.show(0, mark(30, true, last(9)), 20);
        board.show(1, mark(10, false, None), 40);
        board.gave_way(3);
        let told = board.told().unwrap().1;
        assert_eq!((told.bytes_done, told.bytes_total, told.chunks_done), (40, 70, 2));
        assert_eq!(
            (told.started, told.running, told.gave_way),
            (Some(StateTime(15)), true, 3)
        );
        assert_eq!(told.last, None, "not every copy has been read yet");
        board.show(1, mark(40, true, last(8)), 40);
        let told = board.told().unwrap().1;
        let last = told.last.unwrap();
        assert_eq!((last.ended, last.bytes, last.damaged), (StateTime(8), 20, 2));
        assert!(!told.running);
    }
}
