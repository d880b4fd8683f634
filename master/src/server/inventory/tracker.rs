//! What the leader remembers of one server's reports: which buckets differ, and which one is being compared.
//!
//! Pure: the rows' digests and the time are arguments.
//!
//! A bucket is compared when its two digests have differed and stood still for a while. A difference that stays, because
//! it is one that waits (for a deadline, for a repair, for a person), is compared again after ever longer rests.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::inventory::Bucket;
use gabion_protocol::messages::master::{BucketAsk, BucketPage, InventoryReport};

use crate::ledger::Known;
use crate::plan::inventory::{Differences, is_sound};

/// Rest of a bucket after its first comparison.
const REST: Duration = Duration::from_secs(10);
/// Longest rest of a bucket whose difference stays as it is.
const REST_MAX: Duration = Duration::from_secs(600);
/// A server that has not listed what it was asked for by then is asked for something else.
const LIST_MAX: Duration = Duration::from_secs(30);

/// One server, as this leader knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tracker {
    /// The term it was heard in: another leader's questions are not this one's to go on with.
    pub(super) term: u64,
    /// When the last report came.
    pub(super) heard: Duration,
    /// Of the last report.
    pub(super) copies: u64,
    pub(super) complete: bool,
    pub(super) refused: u64,
    /// Buckets compared copy by copy.
    pub(super) compared: u64,
    /// Copies found missing.
    pub(super) missing: u64,
    /// The digests it told.
    theirs: BTreeMap<Bucket, u64>,
    differing: BTreeMap<Bucket, Differing>,
    /// Copies never given out, by the bucket in which they were found.
    forgotten: BTreeMap<Bucket, u64>,
    asked: Option<Asked>,
    /// Questions asked.
    number: u64,
}

/// A bucket that differs.
#[derive(Debug, Clone, Copy)]
struct Differing {
    /// Both digests.
    pair: (u64, u64),
    /// Since when they have been these.
    since: Duration,
    /// Not compared before then.
    next: Duration,
    /// The next rest.
    rest: Duration,
}

/// What is being compared.
#[derive(Debug, Clone)]
struct Asked {
    ask: BucketAsk,
    at: Duration,
    /// What differed when this page was listed for the first time.
    first: Option<Differences>,
    /// Forgotten copies of the bucket's pages before this one.
    forgotten: u64,
}

impl Tracker {
    /// Nothing is known in this term.
    pub(super) fn new(term: u64) -> Self {
        Self {
            term,
            ..Self::default()
        }
    }

    /// Takes a report in, its page apart. `ours`: a bucket as the rows have it.
    pub(super) fn take(&mut self, report: &InventoryReport, ours: impl Fn(Bucket) -> Option<Known>, now: Duration) {
        self.heard = now;
        (self.copies, self.complete, self.refused) = (report.copies, report.complete, report.refused);
        for (number, digest) in (report.first..).zip(&report.digests) {
            if let Some(bucket) = Bucket::new(number) {
                self.theirs.insert(bucket, u64::from_be_bytes(*digest));
                self.look(bucket, &ours, now);
            }
        }
        let differing: Vec<_> = self.differing.keys().copied().collect();
        for bucket in differing {
            self.look(bucket, &ours, now);
        }
    }

    fn look(&mut self, bucket: Bucket, ours: impl Fn(Bucket) -> Option<Known>, now: Duration) {
        let (Some(theirs), Some(ours)) = (self.theirs.get(&bucket), ours(bucket)) else {
            return;
        };
        let pair = (*theirs, ours.digest);
        if pair.0 == pair.1 {
            self.differing.remove(&bucket);
            self.forgotten.remove(&bucket);
            return;
        }
        // Ours may have changed and changed back between two looks.
        let changed = ours.changed.unwrap_or_default();
        let seen = self.differing.entry(bucket).or_insert(Differing {
            pair,
            since: now,
            next: now,
            rest: REST,
        });
        if seen.pair != pair {
            (seen.pair, seen.since, seen.next, seen.rest) = (pair, now, now, REST);
        }
        seen.since = seen.since.max(changed);
    }

    /// What to ask the server for: what it was asked for already, or a bucket that has differed and stood still for `quiet`.
    pub(super) fn ask(&mut self, quiet: Duration, now: Duration) -> Option<BucketAsk> {
        if let Some(asked) = &self.asked {
            if now.saturating_sub(asked.at) < LIST_MAX {
                return Some(asked.ask);
            }
            self.give_up(now);
        }
        let due = |differing: &Differing| now.saturating_sub(differing.since) >= quiet && differing.next <= now;
        let due = self.differing.iter().filter(|(_, differing)| due(differing));
        let bucket = due
            .min_by_key(|(_, differing)| differing.next)
            .map(|(bucket, _)| *bucket)?;
        Some(self.begin(bucket, None, 0, now))
    }

    fn begin(
        &mut self,
        bucket: Bucket,
        after: Option<gabion_protocol::ChunkId>,
        forgotten: u64,
        now: Duration,
    ) -> BucketAsk {
        self.number += 1;
        let ask = BucketAsk {
            bucket: bucket.number(),
            after,
            number: self.number,
        };
        self.asked = Some(Asked {
            ask,
            at: now,
            first: None,
            forgotten,
        });
        ask
    }

    /// Whether a page is what was asked for and its bucket stood still for `quiet`; then it is to be compared.
    pub(super) fn takes(&mut self, page: &BucketPage, quiet: Duration, now: Duration) -> bool {
        let Some(asked) = self.asked.as_ref().filter(|asked| is_sound(page, &asked.ask)) else {
            return false;
        };
        if Duration::from_millis(page.quiet_ms) < quiet {
            let bucket = Bucket::new(asked.ask.bucket);
            self.asked = None;
            if let Some(differing) = bucket.and_then(|bucket| self.differing.get_mut(&bucket)) {
                differing.since = now;
            }
            return false;
        }
        true
    }

    /// Takes in what differs between a page and the rows; what is proven by now and to be acted upon.
    pub(super) fn compared(&mut self, page: &BucketPage, found: Differences, now: Duration) -> Differences {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.ask == page.ask) else {
            return Differences::default();
        };
        let Some(bucket) = Bucket::new(asked.ask.bucket) else {
            return Differences::default();
        };
        if asked.first.is_none() && !found.is_empty() {
            // Listed once more, after the rows were read.
            self.number += 1;
            asked.ask.number = self.number;
            asked.at = now;
            asked.first = Some(found);
            return Differences::default();
        }
        let proven = asked
            .first
            .take()
            .map(|first| first.confirmed_by(&found))
            .unwrap_or_default();
        let forgotten = asked.forgotten + proven.forgotten.len() as u64;
        self.missing += proven.missing.len() as u64;
        match page.copies.last().filter(|_| page.more) {
            Some((last, _)) => drop(self.begin(bucket, Some(*last), forgotten, now)),
            None => self.finish(bucket, forgotten, now),
        }
        proven
    }

    fn finish(&mut self, bucket: Bucket, forgotten: u64, now: Duration) {
        self.asked = None;
        self.compared += 1;
        if forgotten > 0 {
            self.forgotten.insert(bucket, forgotten);
        } else {
            self.forgotten.remove(&bucket);
        }
        self.rest(bucket, now);
    }

    fn give_up(&mut self, now: Duration) {
        if let Some(bucket) = self.asked.take().and_then(|asked| Bucket::new(asked.ask.bucket)) {
            self.rest(bucket, now);
        }
    }

    fn rest(&mut self, bucket: Bucket, now: Duration) {
        if let Some(differing) = self.differing.get_mut(&bucket) {
            differing.next = now + differing.rest;
            differing.rest = (differing.rest * 2).min(REST_MAX);
        }
    }

    /// Compares what differs again without a rest: a person has decided.
    pub(super) fn hurry(&mut self) {
        for differing in self.differing.values_mut() {
            (differing.next, differing.rest) = (Duration::ZERO, REST);
        }
    }

    /// Buckets whose digests were told.
    pub(super) fn told(&self) -> usize {
        self.theirs.len()
    }

    /// Buckets that differ.
    pub(super) fn differing(&self) -> usize {
        self.differing.len()
    }

    /// Copies that were never given out.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.values().sum()
    }
}

#[cfg(test)]
mod tests;
