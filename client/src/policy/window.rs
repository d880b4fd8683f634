//! Which sequence numbers a session may use: the masters keep the replies of a bounded window.

use std::collections::BTreeSet;

/// The commands of one session. Invariant: `below <= next <= below + slots`, and nothing in `answered` is under `below`.
#[derive(Debug)]
pub(crate) struct Window {
    slots: u64,
    /// The next sequence to give out.
    next: u64,
    /// Every sequence under this is answered.
    below: u64,
    /// Answered ones above a gap.
    answered: BTreeSet<u64>,
}

impl Window {
    pub(crate) fn new(slots: u64) -> Self {
        Self {
            slots,
            next: 1,
            below: 1,
            answered: BTreeSet::new(),
        }
    }

    /// A sequence and the bound below which all are answered; `None` while the window is full.
    pub(crate) fn take(&mut self) -> Option<(u64, u64)> {
        if self.next >= self.below + self.slots {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        Some((sequence, self.below))
    }

    /// The answer has come, or nobody waits for it any more: it will never be sent again.
    pub(crate) fn answered(&mut self, sequence: u64) {
        debug_assert!(
            self.below <= sequence && sequence < self.next,
            "{sequence} is not in flight"
        );
        self.answered.insert(sequence);
        while self.answered.remove(&self.below) {
            self.below += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_window_never_exceeds_its_slots(steps in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 0..200)) {
            let mut window = Window::new(8);
            let mut flying: Vec<u64> = Vec::new();
            for (take, which) in steps {
                if take {
                    let lowest = flying.iter().min().copied();
                    match window.take() {
                        Some((sequence, below)) => {
                            prop_assert_eq!(below, lowest.unwrap_or(sequence), "exactly the unanswered bound");
                            prop_assert!(sequence < below + 8);
                            flying.push(sequence);
                        }
                        None => prop_assert_eq!(window.next, lowest.unwrap() + 8),
                    }
                } else if !flying.is_empty() {
                    let sequence = flying.swap_remove(which.index(flying.len()));
                    window.answered(sequence);
                }
            }
        }
    }
}
