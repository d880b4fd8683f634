//! Records for the end of a file gather while others are on their way there, and go together: in one chunk, with one
//! command.
//!
//! A small record costs a round trip of data, a sync on every server of its chunk and a log entry, whether it is one or
//! many. The first one goes at once, since a writer alone must not wait for anyone. Those that come meanwhile wait until it
//! is back, until they are as many as are on their way, or until they fill a chunk. The slower the cluster, the more
//! gather: nothing is timed. The writers of a group that is back are likely to append again at once, so it lets them do so
//! before the next one leaves. Writers of several processes share less, see the masters' gathering.
//!
//! Invariants: a record lies in its group in one piece, and its writer is told where; a group goes as a whole or not at
//! all; each writer waits for its own answer; whoever gives up before its record has left leaves no trace.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use gabion_protocol::ids::Ino;
use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use gabion_protocol::messages::master::SpliceAt;
use gabion_protocol::{Action, ErrorCode, WireError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::packet::Packet;
use super::target::Target;
use crate::Error;

/// Groups on their way at once that need not be full: while one is put on disks, another goes through the log.
const FREE: usize = 2;
/// Groups on their way at once.
const GROUPS_MAX: usize = 8;
/// Times that a group which is back lets other tasks go first, until its writers have appended again: some tens of
/// microseconds, of the milliseconds that a group is on its way.
const LOOKS_MAX: usize = 64;

/// The records of a client that wait, by file and write lease.
#[derive(Debug, Default)]
pub(crate) struct Gatherings(Mutex<BTreeMap<Key, Gathering>>);

type Key = (Ino, Option<u64>);

#[derive(Debug, Default)]
struct Gathering {
    waiting: VecDeque<Record>,
    /// Of those that wait.
    bytes: u64,
    /// Groups, those included that have not taken their records yet.
    on_their_way: usize,
    /// The one group that has not.
    is_departing: bool,
    /// Records of the groups that have.
    gone: usize,
}

/// A record, and who is to be told where it is.
#[derive(Debug)]
struct Record {
    bytes: Bytes,
    told: oneshot::Sender<Result<u64, Error>>,
}

impl Gathering {
    fn push(&mut self, record: Record) {
        self.bytes += record.bytes.len() as u64;
        self.waiting.push_back(record);
    }

    /// Whether a group may set off; it counts as on its way then.
    fn set_off(&mut self) -> bool {
        let most = if self.is_full() {
            GROUPS_MAX
        } else if self.waiting.len() >= self.gone {
            FREE
        } else {
            1
        };
        let may = !self.waiting.is_empty() && !self.is_departing && self.on_their_way < most;
        self.on_their_way += usize::from(may);
        self.is_departing |= may;
        may
    }

    fn is_full(&self) -> bool {
        self.bytes >= SMALL_CHUNK_BYTES
    }

    /// The group that sets off leaves, with as many as are returned.
    fn depart(&mut self) -> Vec<Record> {
        let group = self.take();
        self.is_departing = false;
        self.gone += group.len();
        group
    }

    /// A group of so many records is back.
    fn arrive(&mut self, count: usize) {
        self.on_their_way -= 1;
        self.gone -= count;
    }

    /// The first records that wait, as many as fit a chunk.
    fn take(&mut self) -> Vec<Record> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(record) = self.waiting.front() {
            let len = record.bytes.len() as u64;
            let is_wanted = !record.told.is_closed();
            if is_wanted && bytes + len > SMALL_CHUNK_BYTES {
                break;
            }
            self.bytes -= len;
            let record = self.waiting.pop_front();
            if is_wanted {
                bytes += len;
                group.extend(record);
            }
        }
        group
    }
}

impl Gatherings {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn set_off(&self, key: Key) -> bool {
        self.0.lock().get_mut(&key).is_some_and(Gathering::set_off)
    }

    /// Whether so many wait.
    fn are_back(&self, key: Key, count: usize) -> bool {
        self.0.lock().get(&key).is_none_or(|of| of.waiting.len() >= count)
    }

    fn depart(&self, key: Key) -> Vec<Record> {
        self.0.lock().get_mut(&key).map(Gathering::depart).unwrap_or_default()
    }

    /// A group is back, or has never left.
    fn arrive(&self, key: Key, left: Option<usize>) {
        let mut gatherings = self.0.lock();
        let Some(gathering) = gatherings.get_mut(&key) else {
            return;
        };
        gathering.is_departing &= left.is_some();
        gathering.arrive(left.unwrap_or(0));
        if gathering.on_their_way == 0 && gathering.waiting.is_empty() {
            gatherings.remove(&key);
        }
    }
}

impl Target {
    /// Appends a record that fits a small chunk, with others if there are some; where it begins.
    pub(crate) async fn append_small(&self, bytes: Bytes) -> Result<u64, Error> {
        debug_assert!((1..=SMALL_CHUNK_BYTES).contains(&(bytes.len() as u64)));
        let (told, answer) = oneshot::channel();
        let record = Record { bytes, told };
        self.inner
            .gatherings
            .0
            .lock()
            .entry(self.key())
            .or_default()
            .push(record);
        self.set_off();
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }

    fn key(&self) -> Key {
        (self.file, self.lease)
    }

    /// Sends the groups off that may go. They go on without their writers, which share them.
    fn set_off(&self) {
        if self.inner.gatherings.set_off(self.key()) {
            let (target, left) = (self.clone(), None);
            tokio::spawn(Trip { target, left }.run());
        }
    }
}

/// A group on its way; the next one may go when it ends, however it does.
struct Trip {
    target: Target,
    /// Its records, since it left.
    left: Option<usize>,
}

impl Trip {
    async fn run(mut self) {
        let (gatherings, key) = (&self.target.inner.gatherings, self.target.key());
        // Whoever is about to append comes along.
        tokio::task::yield_now().await;
        let group = gatherings.depart(key);
        self.left = Some(group.len());
        // Not all may have fitted.
        self.target.set_off();
        if group.is_empty() {
            return;
        }
        let put = self.target.put_small(&Packet::new(joined(&group)), SpliceAt::End).await;
        let mut next = put.map(|spliced| spliced.offset);
        let count = group.len();
        for Record { bytes, told } in group {
            // One that has given up is not told.
            let _ = told.send(next.clone());
            next = next.map(|offset| offset + bytes.len() as u64);
        }
        for _ in 0..LOOKS_MAX {
            if gatherings.are_back(key, count) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.target.inner.gatherings.arrive(self.target.key(), self.left);
        if tokio::runtime::Handle::try_current().is_ok() {
            self.target.set_off();
        }
    }
}

fn joined(group: &[Record]) -> Bytes {
    if let [alone] = group {
        return alone.bytes.clone();
    }
    let len = group.iter().map(|record| record.bytes.len()).sum();
    let mut all = BytesMut::with_capacity(len);
    group.iter().for_each(|record| all.extend_from_slice(&record.bytes));
    all.freeze()
}

/// The group's task has ended without a word, with the runtime that it ran on.
fn interrupted() -> Error {
    let error = WireError::new(ErrorCode::OutcomeUnknown, "the task that wrote it was stopped");
    error
        .action(Action::GiveUp)
        .help("look whether the bytes are in the file before they are written again")
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(len: u64) -> (Record, oneshot::Receiver<Result<u64, Error>>) {
        let (told, answer) = oneshot::channel();
        let bytes = Bytes::from(vec![7; len as usize]);
        (Record { bytes, told }, answer)
    }

    /// How many records go now, if some do.
    fn depart(gathering: &mut Gathering) -> Option<usize> {
        gathering.set_off().then(|| gathering.depart().len())
    }

    #[test]
    fn a_few_go_at_once_and_more_go_together_when_one_is_back() {
        let mut gathering = Gathering::default();
        let mut answers = Vec::new();
        let mut come = |gathering: &mut Gathering| {
            let (record, answer) = record(4096);
            answers.push(answer);
            gathering.push(record);
            depart(gathering)
        };
        assert_eq!(come(&mut gathering), Some(1));
        assert_eq!(come(&mut gathering), Some(1), "as many as are on their way");
        for _ in 0..31 {
            assert_eq!(come(&mut gathering), None);
        }
        assert_eq!(come(&mut gathering), Some(32), "a full chunk need not wait");
        assert_eq!(come(&mut gathering), None);
        assert_eq!(come(&mut gathering), None);
        gathering.arrive(1);
        gathering.arrive(1);
        assert_eq!(depart(&mut gathering), None, "two behind 32 wait for more");
        assert_eq!(come(&mut gathering), None);
        gathering.arrive(32);
        assert_eq!(depart(&mut gathering), Some(3));
        assert_eq!(depart(&mut gathering), None);
        assert_eq!((gathering.bytes, gathering.gone, gathering.on_their_way), (0, 3, 1));
    }

    #[test]
    fn one_group_takes_its_records_before_the_next_sets_off() {
        let mut gathering = Gathering::default();
        let (first, _first) = record(4096);
        gathering.push(first);
        assert!(gathering.set_off());
        let (second, _second) = record(4096);
        gathering.push(second);
        assert!(!gathering.set_off(), "it goes along");
        assert_eq!(gathering.depart().len(), 2);
    }

    proptest! {
        /// Records go in their order, each once, in groups that fit; none waits while nothing is on its way.
        #[test]
        fn every_record_goes_once(steps in prop::collection::vec((0u8..3, 1..=SMALL_CHUNK_BYTES), 1..100)) {
            let mut gathering = Gathering::default();
            let (mut answers, mut on_their_way) = (Vec::new(), Vec::<usize>::new());
            let (mut come, mut gone, mut left) = (0, 0, 0);
            for (step, len) in steps {
                match step {
                    0 if !on_their_way.is_empty() => {
                        gathering.arrive(on_their_way.remove(0));
                    }
                    1 if !gathering.waiting.is_empty() => {
                        // The last one gives up.
                        gathering.waiting.back_mut().unwrap().told = oneshot::channel().0;
                        left += 1;
                    }
                    _ => {
                        // The length is its number, so that it is told from others.
                        let (record, answer) = record(1 + come * len / (come + 1) % SMALL_CHUNK_BYTES);
                        come += 1;
                        answers.push(answer);
                        gathering.push(record);
                    }
                }
                while gathering.set_off() {
                    let group = gathering.depart();
                    let bytes: u64 = group.iter().map(|record| record.bytes.len() as u64).sum();
                    prop_assert!(bytes <= SMALL_CHUNK_BYTES);
                    gone += group.len();
                    on_their_way.push(group.len());
                    prop_assert!(on_their_way.len() <= GROUPS_MAX);
                }
                let waiting: u64 = gathering.waiting.iter().map(|record| record.bytes.len() as u64).sum();
                prop_assert_eq!(waiting, gathering.bytes);
                prop_assert_eq!(gathering.on_their_way, on_their_way.len());
                prop_assert!(gathering.waiting.is_empty() || !on_their_way.is_empty());
            }
            prop_assert!(gone + gathering.waiting.len() <= come as usize);
            prop_assert!(gone + gathering.waiting.len() + left >= come as usize);
        }
    }
}
