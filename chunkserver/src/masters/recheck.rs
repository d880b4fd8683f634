//! Copies the masters want re-read, because a reader reported them: read one after the other, and answered with the
//! beats, by damage or by "intact".
//!
//! Nothing here is durable: the masters repeat an order until they have its answer.

use std::collections::BTreeSet;

use gabion_protocol::messages::data::Verdict;
use gabion_protocol::messages::master::OrderDone;
use gabion_protocol::{ChunkId, ReplicaNumber};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Masters;
use crate::scrub::differs;

/// Copies that wait to be read; the masters order the others again.
const WAITING_MAX: usize = 256;
/// Answers that wait for a beat.
const INTACT_MAX: usize = 256;

type Copy = (ChunkId, ReplicaNumber);

/// Orders to re-read, and their answers.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    waiting: Mutex<BTreeSet<Copy>>,
    more: Notify,
    intact: Mutex<BTreeSet<Copy>>,
}

impl Recheck {
    /// Takes orders; one that waits already is not taken twice.
    pub(super) fn order(&self, copies: impl Iterator<Item = Copy>) {
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        for copy in copies {
            if waiting.len() < WAITING_MAX {
                waiting.insert(copy);
            }
        }
        if waiting.len() > before {
            self.more.notify_one();
        }
    }

    /// What to tell the masters.
    pub(super) fn answers(&self) -> Vec<OrderDone> {
        let intact = self.intact.lock();
        let answer = |(chunk, replica): &Copy| OrderDone::Intact {
            chunk: *chunk,
            replica: *replica,
        };
        intact.iter().map(answer).collect()
    }

    /// A leader has logged these answers.
    pub(super) fn answered(&self, answers: &[OrderDone]) {
        let mut intact = self.intact.lock();
        for answer in answers {
            if let OrderDone::Intact { chunk, replica } = answer {
                intact.remove(&(*chunk, *replica));
            }
        }
    }

    /// Reads what is ordered, for ever.
    pub(super) async fn run(&self, masters: &Masters) {
        loop {
            let more = self.more.notified();
            // It stays in the set while it is read: the order is repeated meanwhile.
            let next = self.waiting.lock().first().copied();
            let Some(copy) = next else {
                more.await;
                continue;
            };
            self.read(masters, copy).await;
            self.waiting.lock().remove(&copy);
        }
    }

    async fn read(&self, masters: &Masters, copy: Copy) {
        let (chunk, replica) = copy;
        let store = &masters.0.store;
        let verdict = match store.verify(chunk, replica).await {
            Ok(verdict) => verdict,
            // Nothing is known of it: the masters ask again.
            Err(error) => {
                tracing::warn!(%chunk, %replica, %error, "a reported copy cannot be read again now");
                return;
            }
        };
        match verdict {
            // The reader compared it with the masters' sum, not with ours.
            Verdict::Good { length, crc } => match differs(masters, chunk, replica, (length, crc)).await {
                Ok(None) => self.is_intact(copy),
                Ok(Some(what)) => store.set_aside(chunk, replica, &what).await,
                Err(error) => tracing::debug!(%chunk, %error, "a reported copy waits for the masters"),
            },
            // Set aside and reported where it was found.
            Verdict::Damaged { .. } | Verdict::Unreadable { .. } => {}
            Verdict::Missing => store.report(chunk, replica, "the server does not hold this copy"),
            Verdict::Unsealed { .. } => store.report(chunk, replica, "the copy was never completed"),
        }
    }

    fn is_intact(&self, copy: Copy) {
        let (chunk, replica) = copy;
        tracing::info!(%chunk, %replica, "a reported copy was read again and is whole");
        let mut intact = self.intact.lock();
        if intact.len() < INTACT_MAX {
            intact.insert(copy);
        }
    }
}
