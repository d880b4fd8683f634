use gabion_protocol::inventory::BLOCK_IDS;
use gabion_protocol::{ChunkId, Incarnation, ReplicaNumber, ServerId, Timeline, VolumeId};

use super::*;
use crate::plan::inventory::Copy;

const QUIET: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

fn copy(number: u64) -> Copy {
    let chunk = ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter: 3 * BLOCK_IDS + number,
    };
    (chunk, ReplicaNumber(number))
}

fn bucket() -> Bucket {
    Bucket::of(copy(0).0)
}

/// A report whose bucket 3 has this digest.
fn report(digest: u64) -> InventoryReport {
    InventoryReport {
        server: ServerId(1),
        incarnation: Incarnation([1; 16]),
        copies: 5,
        highest: None,
        highest_number: ReplicaNumber(0),
        refused: 0,
        complete: true,
        first: 2,
        digests: vec![[0; 8], digest.to_be_bytes()],
        listed: None,
    }
}

/// The rows' digests: all 0 but bucket 3's.
fn ours(digest: u64, changed: Option<Duration>) -> impl Fn(Bucket) -> Option<Known> {
    move |of| {
        let digest = if of == bucket() { digest } else { 0 };
        Some(Known { digest, changed })
    }
}

fn page(ask: BucketAsk, copies: &[u64], more: bool) -> BucketPage {
    BucketPage {
        ask,
        quiet_ms: 60_000,
        copies: copies.iter().map(|number| copy(*number)).collect(),
        more,
    }
}

fn unknown(copies: &[u64]) -> Differences {
    Differences {
        unknown: copies.iter().map(|number| copy(*number)).collect(),
        ..Differences::default()
    }
}

/// A tracker that asks for bucket 3.
fn asking() -> (Tracker, BucketAsk) {
    let mut tracker = Tracker::new(1);
    tracker.take(&report(7), ours(8, None), at(0));
    let ask = tracker.ask(QUIET, at(5)).unwrap();
    assert_eq!((ask.bucket, ask.after), (bucket().number(), None));
    (tracker, ask)
}

#[test]
fn only_what_differs_and_stands_still_is_asked_for() {
    let mut tracker = Tracker::new(1);
    tracker.take(&report(7), |_| None, at(0));
    assert_eq!(tracker.ask(QUIET, at(60)), None, "our digests are not ready");
    tracker.take(&report(7), ours(7, None), at(0));
    assert_eq!(tracker.ask(QUIET, at(60)), None, "nothing differs");
    tracker.take(&report(7), ours(8, None), at(60));
    assert_eq!(tracker.ask(QUIET, at(64)), None);
    tracker.take(&report(7), ours(9, None), at(64));
    assert_eq!(tracker.ask(QUIET, at(68)), None, "ours changed");
    tracker.take(&report(6), ours(9, None), at(68));
    assert_eq!(tracker.ask(QUIET, at(72)), None, "theirs changed");
    tracker.take(&report(6), ours(9, Some(at(72))), at(72));
    assert_eq!(tracker.ask(QUIET, at(76)), None, "ours changed and changed back");
    assert!(tracker.ask(QUIET, at(77)).is_some());
    assert_eq!((tracker.told(), tracker.differing()), (2, 1));
}

#[test]
fn a_difference_counts_when_it_was_listed_again_after_the_rows_were_read() {
    let (mut tracker, first) = asking();
    assert_eq!(tracker.ask(QUIET, at(6)), Some(first), "the answer may have been lost");
    let listed = page(first, &[1, 2, 3], false);
    assert!(tracker.takes(&listed, QUIET, at(6)));
    assert!(
        tracker.compared(&listed, unknown(&[1, 2]), at(6)).is_empty(),
        "once proves nothing"
    );
    let second = tracker.ask(QUIET, at(6)).unwrap();
    assert!(second.number > first.number);
    assert!(
        !tracker.takes(&listed, QUIET, at(6)),
        "listed before the rows were read"
    );
    assert!(
        tracker.compared(&listed, unknown(&[1, 2]), at(6)).is_empty(),
        "judged twice at once"
    );
    let again = page(second, &[2, 3], false);
    assert!(tracker.takes(&again, QUIET, at(7)));
    assert_eq!(tracker.compared(&again, unknown(&[2, 4]), at(7)), unknown(&[2]));
    assert_eq!(tracker.compared, 1);
    assert_eq!(tracker.ask(QUIET, at(7)), None);
}

#[test]
fn pages_follow_each_other_and_forgotten_copies_are_counted_together() {
    let forgotten = |copies: &[u64]| Differences {
        forgotten: copies.iter().map(|number| copy(*number)).collect(),
        ..Differences::default()
    };
    let (mut tracker, mut ask) = asking();
    for (copies, found, more) in [(&[1, 2][..], &[2][..], true), (&[3, 5], &[], true), (&[6], &[6], false)] {
        let rounds = if found.is_empty() { 1 } else { 2 };
        for _ in 0..rounds {
            assert_eq!(tracker.ask(QUIET, at(6)), Some(ask));
            let page = page(ask, copies, more);
            assert!(tracker.takes(&page, QUIET, at(6)));
            tracker.compared(&page, forgotten(found), at(6));
            ask = tracker.ask(QUIET, at(6)).unwrap_or(ask);
        }
        if more {
            assert_eq!(ask.after, Some(copy(*copies.last().unwrap()).0));
        }
    }
    assert_eq!((tracker.forgotten(), tracker.compared), (2, 1));
    tracker.take(&report(8), ours(8, None), at(20));
    assert_eq!((tracker.forgotten(), tracker.differing()), (0, 0), "they are gone");
}

#[test]
fn a_difference_that_stays_is_compared_ever_less_often() {
    let (mut tracker, _) = asking();
    let (mut times, mut second) = (Vec::new(), 5);
    while times.len() < 9 {
        if let Some(ask) = tracker.ask(QUIET, at(second)) {
            times.push(second);
            tracker.compared(&page(ask, &[], false), Differences::default(), at(second));
        }
        second += 1;
    }
    assert_eq!(times, [5, 15, 35, 75, 155, 315, 635, 1235, 1835]);
    tracker.hurry();
    assert!(tracker.ask(QUIET, at(second)).is_some());
}

#[test]
fn what_was_not_asked_for_or_still_changes_is_not_judged() {
    let (mut tracker, ask) = asking();
    let mut other = ask;
    other.bucket += 1;
    assert!(!tracker.takes(&page(other, &[], false), QUIET, at(6)));
    assert!(!tracker.takes(&page(ask, &[2, 1], false), QUIET, at(6)), "not sorted");
    assert!(
        !tracker.takes(&page(ask, &[BLOCK_IDS], false), QUIET, at(6)),
        "of another bucket"
    );
    assert!(
        !tracker.takes(&page(ask, &[], true), QUIET, at(6)),
        "it would never end"
    );
    let mut restless = page(ask, &[1], false);
    restless.quiet_ms = 4_999;
    assert!(!tracker.takes(&restless, QUIET, at(6)));
    assert_eq!(tracker.ask(QUIET, at(10)), None, "it has to stand still first");
    assert!(tracker.ask(QUIET, at(11)).is_some());
    // A server that does not answer holds nobody up.
    tracker.take(&report(7), ours(8, None), at(12));
    assert_eq!(tracker.ask(QUIET, at(42)), None);
}
