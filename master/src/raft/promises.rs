//! What peers are known to have on their disks: votes they gave, and how far their logs match.
//!
//! A master whose directory is an older copy has forgotten some of it: it could vote twice in a term, or be counted
//! for an entry that it no longer has. Its start counter does not tell if the copy was made since the last start. So a
//! master that starts asks the others what they know of it, and does not start from less.
//!
//! Invariants: only what a peer had synced before it said so is noted, so that no crash can make a healthy master look
//! like a copy. Only a leader of a later vote may cut a log, so a match proves a loss only while the peer's own vote is
//! not later than that of the leader it matched.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::types::{CommittedLeader, LogId, Vote};

/// What is known of one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// The latest vote it gave: for whom, in which term.
    pub(crate) voted: Option<CommittedLeader>,
    /// Up to where its log is that of this leader: this master, when it led last.
    pub(crate) matched: Option<(CommittedLeader, LogId)>,
}

/// What is known of all peers since this process began.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<BTreeMap<u64, Promise>>);

impl Promises {
    /// What is known of `peer`.
    pub(crate) fn of(&self, peer: u64) -> Promise {
        self.0.lock().get(&peer).copied().unwrap_or_default()
    }

    /// `peer` has synced a vote.
    pub(crate) fn voted(&self, peer: u64, vote: &Vote) {
        let mut all = self.0.lock();
        let promise = all.entry(peer).or_default();
        promise.voted = promise.voted.max(Some(vote.leader_id));
    }

    /// `peer` has synced everything up to `last` of the log of the leader of `vote`.
    pub(crate) fn matched(&self, peer: u64, vote: &Vote, last: Option<LogId>) {
        self.voted(peer, vote);
        let Some(last) = last else { return };
        let mut all = self.0.lock();
        let promise = all.entry(peer).or_default();
        let known = promise.matched.filter(|(leader, _)| *leader >= vote.leader_id);
        promise.matched = known.max(Some((vote.leader_id, last)));
    }

    /// Whether `peer` denies an entry that it had under the same leader: it has lost a part of its log.
    pub(crate) fn is_loss(&self, peer: u64, vote: &Vote, conflict: u64) -> bool {
        let matched = self.of(peer).matched;
        matched.is_some_and(|(leader, last)| leader == vote.leader_id && conflict <= last.index)
    }
}

/// What a directory holds less than its owner once had, if so.
pub(crate) fn lost(known: &Promise, voted: Option<CommittedLeader>, last: Option<LogId>) -> Option<String> {
    if let Some(known) = known.voted.filter(|known| Some(*known) > voted) {
        let own = voted.map_or_else(|| "none".to_owned(), |own| format!("one of term {}", own.term));
        return Some(format!(
            "a vote it gave in term {} is remembered, its directory holds {own}",
            known.term
        ));
    }
    let (leader, matched) = known.matched?;
    if voted > Some(leader) || last >= Some(matched) {
        return None;
    }
    let own = last.map_or_else(|| "is empty".to_owned(), |last| format!("ends at entry {}", last.index));
    Some(format!(
        "log entry {} of it is remembered, the log in its directory {own}",
        matched.index
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    fn vote(term: u64, node: u64) -> Vote {
        Vote::new_committed(term, node)
    }

    fn leader(term: u64, node: u64) -> CommittedLeader {
        vote(term, node).leader_id
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let promises = Promises::default();
        assert_eq!(lost(&promises.of(2), None, None), None, "nothing is known");
        promises.matched(2, &vote(3, 1), Some(log_id(3, 1, 80)));
        promises.matched(2, &vote(3, 1), Some(log_id(3, 1, 50)));
        let known = promises.of(2);
        assert_eq!(lost(&known, Some(leader(3, 1)), Some(log_id(3, 1, 80))), None);
        assert_eq!(lost(&known, Some(leader(3, 1)), Some(log_id(3, 1, 81))), None);
        let why = lost(&known, Some(leader(3, 1)), Some(log_id(3, 1, 79))).unwrap();
        assert!(why.contains("80") && why.contains("79"), "{why}");
        assert!(lost(&known, Some(leader(3, 1)), None).is_some());
        // A longer log of an earlier leader is another log.
        assert!(lost(&known, Some(leader(3, 1)), Some(log_id(2, 3, 200))).is_some());
    }

    #[test]
    fn a_later_leader_may_have_cut_the_log() {
        let promises = Promises::default();
        promises.matched(2, &vote(3, 1), Some(log_id(3, 1, 80)));
        assert_eq!(lost(&promises.of(2), Some(leader(4, 3)), Some(log_id(2, 1, 60))), None);
        // Under a later vote of this master the log may be shorter, too.
        promises.matched(2, &vote(5, 1), Some(log_id(5, 1, 70)));
        assert_eq!(lost(&promises.of(2), Some(leader(5, 1)), Some(log_id(5, 1, 70))), None);
        assert!(lost(&promises.of(2), Some(leader(5, 1)), Some(log_id(5, 1, 69))).is_some());
    }

    #[test]
    fn a_vote_must_be_there() {
        let promises = Promises::default();
        promises.voted(2, &Vote::new(7, 2));
        promises.voted(2, &Vote::new(6, 3));
        let known = promises.of(2);
        assert!(lost(&known, Some(leader(6, 3)), None).is_some());
        assert!(
            lost(&known, Some(leader(7, 1)), None).is_some(),
            "another candidate of the term"
        );
        assert!(lost(&known, None, None).is_some());
        assert_eq!(lost(&known, Some(leader(7, 2)), None), None);
        assert_eq!(lost(&known, Some(leader(9, 1)), None), None);
        assert_eq!(promises.of(3), Promise::default());
    }

    #[test]
    fn a_denied_entry_is_a_loss_only_under_the_same_leader() {
        let promises = Promises::default();
        promises.matched(2, &vote(3, 1), Some(log_id(3, 1, 80)));
        assert!(promises.is_loss(2, &vote(3, 1), 80));
        assert!(!promises.is_loss(2, &vote(3, 1), 81));
        assert!(!promises.is_loss(2, &vote(4, 1), 80));
        assert!(!promises.is_loss(3, &vote(3, 1), 80));
    }
}
