//! What is ordered, under way and to be reported. Pure: no clock, no disk.

use std::collections::BTreeMap;

use gabion_protocol::limits::{BATCH_ROWS_MAX, SMALL_CHUNK_BYTES};
use gabion_protocol::messages::master::{BuildOrder, CopyOrder, OrderDone};
use gabion_protocol::{ChunkId, ReplicaNumber};
use tokio::sync::watch;

use super::LARGE_WEIGHT;

/// A copy.
pub(super) type Key = (ChunkId, ReplicaNumber);

/// Orders kept: a leader gives fewer.
const ORDERS_MAX: usize = 1024;

/// An order for a copy.
pub(super) trait Ordered {
    /// The copy.
    fn key(&self) -> Key;

    /// Bytes of it.
    fn length(&self) -> u64;

    /// What is less is more in need.
    fn rank(&self) -> usize;

    /// How much of what may be under way it takes.
    fn weight(&self) -> usize {
        if self.length() <= SMALL_CHUNK_BYTES {
            1
        } else {
            LARGE_WEIGHT
        }
    }
}

impl Ordered for CopyOrder {
    fn key(&self) -> Key {
        (self.chunk, self.replica)
    }

    fn length(&self) -> u64 {
        self.length
    }

    /// What has the fewest copies left is most in need.
    fn rank(&self) -> usize {
        self.sources.len()
    }
}

impl Ordered for BuildOrder {
    fn key(&self) -> Key {
        (self.chunk, self.replica)
    }

    fn length(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| piece.length)
            .fold(0, u64::saturating_add)
    }

    fn rank(&self) -> usize {
        0
    }
}

/// Copies that are ordered, under way, or made and not yet reported.
#[derive(Debug)]
pub(super) struct Board<O> {
    waiting: BTreeMap<Key, O>,
    /// The newest order of each, whose tokens are valid longest.
    running: BTreeMap<Key, watch::Sender<O>>,
    reports: Vec<OrderDone>,
}

impl<O> Default for Board<O> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            reports: Vec::new(),
        }
    }
}

/// The copy a report is about, if it is one of ours.
fn reported(done: &OrderDone) -> Option<Key> {
    match done {
        OrderDone::Copied { chunk, replica, .. } | OrderDone::CopyFailed { chunk, replica, .. } => {
            Some((*chunk, *replica))
        }
        OrderDone::Dropped { .. } | OrderDone::SourceDiffers { .. } | OrderDone::Intact { .. } => None,
    }
}

impl<O: Ordered> Board<O> {
    /// Takes a leader's orders; whether there may be something new to do. What it orders no more and has not begun is
    /// forgotten.
    pub(super) fn hear(&mut self, orders: Vec<O>) -> bool {
        self.waiting.clear();
        for order in orders.into_iter().take(ORDERS_MAX) {
            let key = order.key();
            if let Some(running) = self.running.get(&key) {
                running.send_replace(order);
            } else if !self.reports.iter().any(|done| reported(done) == Some(key)) {
                self.waiting.insert(key, order);
            }
        }
        !self.waiting.is_empty()
    }

    /// Begins the next copy, if less than the weight `most` is under way.
    pub(super) fn start(&mut self, most: usize) -> Option<(Key, watch::Receiver<O>)> {
        let running = self.running.values().map(|order| order.borrow().weight());
        if running.sum::<usize>() >= most {
            return None;
        }
        // Then the oldest.
        let neediest = self.waiting.iter().min_by_key(|(key, order)| (order.rank(), **key));
        let key = neediest.map(|(key, _)| *key)?;
        let order = self.waiting.remove(&key)?;
        let (sender, receiver) = watch::channel(order);
        self.running.insert(key, sender);
        Some((key, receiver))
    }

    /// A copy has ended; what is to be said of it, if anything.
    pub(super) fn end(&mut self, key: Key, done: Option<OrderDone>) {
        self.running.remove(&key);
        self.add(done);
    }

    /// Whether nothing is ordered that is not carried out.
    pub(super) fn is_dry(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Keeps a report. A full list forgets nothing that matters: the order comes again.
    pub(super) fn add(&mut self, done: Option<OrderDone>) {
        if let Some(done) = done.filter(|done| self.reports.len() < BATCH_ROWS_MAX && !self.reports.contains(done)) {
            self.reports.push(done);
        }
    }

    pub(super) fn reports(&self) -> Vec<OrderDone> {
        self.reports.clone()
    }

    pub(super) fn confirmed(&mut self, taken: &[OrderDone]) {
        self.reports.retain(|done| !taken.contains(done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::keys::{Identity, KeyFile, Role, Ticket};
    use gabion_protocol::messages::master::{CopySource, ServerAccess};
    use gabion_protocol::token::{Grant, Mode, Token};
    use gabion_protocol::{Generation, ServerId, SessionId, StateTime, Timeline, VolumeId};

    fn order(counter: u64) -> CopyOrder {
        CopyOrder {
            chunk: ChunkId {
                volume: VolumeId(0),
                timeline: Timeline(1),
                counter,
            },
            generation: Generation(1),
            replica: ReplicaNumber(7),
            length: 10,
            crc: 1,
            sources: Vec::new(),
        }
    }

    fn copied(key: Key) -> OrderDone {
        OrderDone::Copied {
            chunk: key.0,
            replica: key.1,
            length: 10,
            crc: 1,
        }
    }

    #[test]
    fn an_order_repeated_is_one_copy_until_its_report_is_confirmed() {
        let mut board = Board::<CopyOrder>::default();
        assert!(board.hear(vec![order(1), order(1), order(2)]));
        let (key, newest) = board.start(1).unwrap();
        assert!(board.start(1).is_none(), "one at a time");
        let mut renewed = order(1);
        renewed.crc = 2;
        board.hear(vec![renewed.clone(), order(2)]);
        assert_eq!(*newest.borrow(), renewed, "the copy under way sees the newest tokens");
        assert!(!board.is_dry(), "another waits");
        board.end(key, Some(copied(key)));
        assert!(board.hear(vec![order(1), order(2)]));
        let (second, _) = board.start(9).unwrap();
        assert_eq!(second, order(2).key());
        assert!(board.start(9).is_none(), "the first is made and reported");
        assert_eq!(board.reports(), board.reports(), "reports are repeated");
        board.confirmed(&[copied(second)]);
        assert_eq!(board.reports(), [copied(key)]);
        board.confirmed(&[copied(key)]);
        assert!(board.reports().is_empty());
    }

    fn source(of: &CopyOrder, server: u32) -> CopySource {
        let (server, expires) = (ServerId(server), StateTime(1));
        let grant = Grant {
            chunk: of.chunk,
            generation: of.generation,
            replica: of.replica,
            server,
            mode: Mode::Read,
            session: SessionId {
                opened: expires,
                random: 1,
            },
            expires,
        };
        let ticket = Ticket {
            bearer: Identity {
                role: Role::Chunkserver,
                id: "c9".to_owned(),
            },
            server,
            expires,
            nonce: [0; 16],
        };
        CopySource {
            access: ServerAccess {
                server,
                name: "c1".to_owned(),
                address: "127.0.0.1:1".to_owned(),
                ticket,
                wrapped_key: [0; 32],
            },
            token: Token::sign(grant, &KeyFile::insecure_root().key),
        }
    }

    #[test]
    fn what_has_the_fewest_copies_left_is_begun_first() {
        let (mut two, mut one, mut younger) = (order(1), order(2), order(3));
        two.sources = vec![source(&two, 1), source(&two, 2)];
        one.sources = vec![source(&one, 1)];
        younger.sources = vec![source(&younger, 1)];
        let mut board = Board::<CopyOrder>::default();
        board.hear(vec![two.clone(), younger.clone(), one.clone()]);
        let begun: Vec<Key> = std::iter::from_fn(|| board.start(9)).map(|(key, _)| key).collect();
        assert_eq!(begun, [one.key(), younger.key(), two.key()]);
    }

    #[test]
    fn many_small_copies_or_few_large_ones_are_under_way() {
        let mut board = Board::<CopyOrder>::default();
        let large = |counter| CopyOrder {
            length: SMALL_CHUNK_BYTES + 1,
            ..order(counter)
        };
        board.hear((1..=20).map(large).collect());
        assert_eq!(std::iter::from_fn(|| board.start(4 * LARGE_WEIGHT)).count(), 4);
        let mut board = Board::<CopyOrder>::default();
        board.hear((1..=20).map(order).collect());
        assert_eq!(std::iter::from_fn(|| board.start(LARGE_WEIGHT)).count(), LARGE_WEIGHT);
    }

    #[test]
    fn what_is_ordered_no_more_is_not_begun() {
        let mut board = Board::<CopyOrder>::default();
        board.hear(vec![order(1), order(2)]);
        board.hear(vec![order(2)]);
        assert_eq!(board.start(9).unwrap().0, order(2).key());
        assert!(board.start(9).is_none());
        assert!(!board.hear(Vec::new()));
        for counter in 0..2 * BATCH_ROWS_MAX as u64 {
            board.add(Some(copied(order(counter).key())));
        }
        assert_eq!(board.reports().len(), BATCH_ROWS_MAX, "bounded");
    }
}
