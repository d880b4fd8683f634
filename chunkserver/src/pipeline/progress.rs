//! How far each hop of a write stream is, and when the hop above is told. Pure: no socket, no disk, no clock.

use gabion_protocol::limits::BLOCK_BYTES;

/// An ack is due when some hop moved this far since the last one: about one per packet and hop, whatever the packets'
/// size.
const ACK_BYTES: u64 = 1 << 20;

/// Positions of this server and the ones after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    window: u64,
    received: u64,
    /// Bytes stored, this server first.
    stored: Vec<u64>,
    /// What was told last.
    told: Vec<u64>,
}

/// What a peer did that it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{in_flight} bytes are in flight, the window is {window}")]
    Window { in_flight: u64, window: u64 },
    #[error("it acknowledges what it cannot have")]
    Ack,
}

impl Progress {
    /// A stream over `hops` servers, this one included, with `window` bytes.
    pub(crate) fn new(window: u64, hops: usize) -> Self {
        Self {
            window,
            received: 0,
            stored: vec![0; hops],
            told: vec![0; hops],
        }
    }

    /// A packet came. The sender may have only a window's bytes beyond what it was told every hop has.
    pub(crate) fn receive(&mut self, len: u64) -> Result<(), Violation> {
        let acked = self.told.iter().min().copied().unwrap_or(0);
        let in_flight = self.received + len - acked;
        if in_flight > self.window {
            let window = self.window;
            return Err(Violation::Window { in_flight, window });
        }
        self.received += len;
        self.check();
        Ok(())
    }

    /// This server has stored all bytes before `end`.
    pub(crate) fn store(&mut self, end: u64) {
        self.stored[0] = end;
        self.check();
    }

    /// The next server told how far it and the ones after it are.
    pub(crate) fn downstream(&mut self, positions: &[u64]) -> Result<(), Violation> {
        let known = &mut self.stored[1..];
        let moves_on = |(old, new): (&u64, &u64)| old <= new && *new <= self.received;
        if positions.len() != known.len() || !known.iter().zip(positions).all(moves_on) {
            return Err(Violation::Ack);
        }
        known.copy_from_slice(positions);
        self.check();
        Ok(())
    }

    /// Bytes stored here.
    pub(crate) fn stored(&self) -> u64 {
        self.stored[0]
    }

    /// Bytes received.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The ack to send now, if one is due: a hop moved far, or has all there is.
    pub(crate) fn ack(&mut self) -> Option<Vec<u64>> {
        let step = ACK_BYTES.min(self.window / 4).max(BLOCK_BYTES as u64);
        let due = |(now, told): (&u64, &u64)| now - told >= step || (now > told && *now == self.received);
        if !self.stored.iter().zip(&self.told).any(due) {
            return None;
        }
        self.told.clone_from(&self.stored);
        Some(self.stored.clone())
    }

    fn check(&self) {
        debug_assert!(
            self.told
                .iter()
                .zip(&self.stored)
                .all(|(told, stored)| told <= stored && *stored <= self.received)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_window_bounds_what_is_in_flight() {
        let mut progress = Progress::new(4 * MIB, 2);
        for _ in 0..4 {
            progress.receive(MIB).unwrap();
        }
        let violation = Violation::Window {
            in_flight: 4 * MIB + 1,
            window: 4 * MIB,
        };
        assert_eq!(progress.receive(1), Err(violation.clone()));
        progress.store(4 * MIB);
        assert_eq!(progress.ack(), Some(vec![4 * MIB, 0]));
        assert_eq!(progress.receive(1), Err(violation), "the slowest hop counts");
        progress.downstream(&[MIB]).unwrap();
        assert_eq!(progress.ack(), Some(vec![4 * MIB, MIB]));
        progress.receive(MIB).unwrap();
    }

    #[test]
    fn acks_are_few_and_the_last_bytes_are_told() {
        let mut progress = Progress::new(4 * MIB, 1);
        progress.receive(MIB + 5).unwrap();
        progress.store(1000);
        assert_eq!(progress.ack(), None);
        progress.store(MIB);
        assert_eq!(progress.ack(), Some(vec![MIB]));
        progress.store(MIB + 5);
        assert_eq!(progress.ack(), Some(vec![MIB + 5]));
        assert_eq!(progress.ack(), None);
    }

    #[test]
    fn an_impossible_ack_is_refused() {
        let mut progress = Progress::new(4 * MIB, 3);
        progress.receive(MIB).unwrap();
        progress.downstream(&[MIB, 5]).unwrap();
        for wrong in [&[MIB + 1, 5][..], &[MIB, 4], &[MIB], &[MIB, 5, 0]] {
            assert_eq!(progress.downstream(wrong), Err(Violation::Ack), "{wrong:?}");
        }
    }

    proptest! {
        /// A sender that keeps to the window is never refused and never stuck.
        #[test]
        fn an_honest_sender_gets_through(lens in prop::collection::vec(1u64..=MIB, 1..60), window in MIB..6 * MIB) {
            let mut progress = Progress::new(window, 2);
            let (mut sent, mut acked) = (0, 0);
            for len in lens {
                while sent + len - acked > window {
                    progress.store(sent);
                    progress.downstream(&[sent]).unwrap();
                    let told = progress.ack();
                    prop_assert!(told.is_some(), "stuck at {} of {}", acked, sent);
                    acked = told.unwrap()[1];
                }
                prop_assert!(progress.receive(len).is_ok());
                sent += len;
            }
        }
    }
}
