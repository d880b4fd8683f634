//! Whom to avoid when bytes are damaged on their way between servers.
//!
//! Every server verifies before it passes on, so damage lies between the one that complains and the one before it: a
//! network card, a cable, a memory. Which end is to blame shows only when others complain too. One complaint speaks
//! against the receiver; a sender of whom more receivers complain than its receiver complains of senders is what they
//! have in common.

use std::time::{Duration, Instant};

use gabion_protocol::ids::ServerId;

/// A complaint counts for so long.
const MEMORY: Duration = Duration::from_secs(10);

/// What was complained of lately. `None` as a sender is this client.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Vec<(Option<ServerId>, ServerId, Instant)>);

/// What a complaint means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Who is to be avoided.
    pub(crate) avoid: ServerId,
    /// Who was suspected before for nothing but having got bytes from that server.
    pub(crate) cleared: Vec<ServerId>,
}

impl Complaints {
    /// `receiver` complains of bytes that came from `sender`.
    pub(crate) fn hear(&mut self, sender: Option<ServerId>, receiver: ServerId, now: Instant) -> Verdict {
        self.0
            .retain(|(from, to, when)| (*from, *to) != (sender, receiver) && now - *when < MEMORY);
        self.0.push((sender, receiver, now));
        match sender {
            Some(sender) if self.receivers(sender).len() > self.senders_count(receiver) => {
                let mut cleared = self.receivers(sender);
                cleared.retain(|receiver| self.senders_count(*receiver) == 1);
                Verdict { avoid: sender, cleared }
            }
            Some(_) | None => Verdict {
                avoid: receiver,
                cleared: Vec::new(),
            },
        }
    }

    fn receivers(&self, sender: ServerId) -> Vec<ServerId> {
        let of_it = self.0.iter().filter(|(from, _, _)| *from == Some(sender));
        of_it.map(|(_, to, _)| *to).collect()
    }

    fn senders_count(&self, receiver: ServerId) -> usize {
        self.0.iter().filter(|(_, to, _)| *to == receiver).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is avoided after each complaint, 0 being the client.
    fn avoided(complaints: &[(u32, u32)]) -> Vec<u32> {
        let now = Instant::now();
        let mut known = Complaints::default();
        let sender = |id: u32| (id > 0).then_some(ServerId(id));
        let hear = |(from, to): &(u32, u32)| known.hear(sender(*from), ServerId(*to), now).avoid.0;
        complaints.iter().map(hear).collect()
    }

    #[test]
    fn a_receiver_is_avoided_whoever_sends() {
        assert_eq!(avoided(&[(0, 1), (2, 1), (3, 1), (2, 1)]), [1, 1, 1, 1]);
    }

    #[test]
    fn a_sender_of_whom_several_complain_is_avoided_and_they_are_cleared() {
        assert_eq!(avoided(&[(1, 2), (1, 2), (1, 3), (1, 3), (1, 2)]), [2, 2, 1, 1, 1]);
        let now = Instant::now();
        let mut known = Complaints::default();
        known.hear(Some(ServerId(1)), ServerId(2), now);
        known.hear(None, ServerId(4), now);
        known.hear(Some(ServerId(1)), ServerId(4), now);
        let verdict = known.hear(Some(ServerId(1)), ServerId(3), now);
        assert_eq!(verdict.avoid, ServerId(1));
        assert_eq!(verdict.cleared, [2, 3].map(ServerId), "the fourth had another reason");
    }

    #[test]
    fn two_bad_receivers_are_told_from_a_bad_sender_by_a_second_sender() {
        assert_eq!(avoided(&[(1, 2), (1, 3), (4, 2), (4, 3)]), [2, 1, 2, 3]);
    }

    #[test]
    fn old_complaints_are_forgotten() {
        let now = Instant::now();
        let mut known = Complaints::default();
        known.hear(Some(ServerId(1)), ServerId(2), now);
        let verdict = known.hear(Some(ServerId(1)), ServerId(3), now + MEMORY);
        assert_eq!(verdict.avoid, ServerId(3));
    }
}
