//! What to do when a chain of servers makes no progress.

use std::time::Duration;

/// A hop that answers but stores less than another for so long is left out.
const LAGGARD: Duration = Duration::from_secs(5);
/// Hops that all answer and all stand still for so long are left for another chain.
const STANDSTILL: Duration = Duration::from_secs(10);

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Answered.
    Alive,
    /// No answer in time: hung, cut off, or just very busy.
    Silent,
    /// Refused or broken off: no longer there.
    Gone,
}

/// The servers that failed by the strongest evidence there is: on an overloaded machine the busy fall silent when
/// one is killed, and must not be left out with it.
pub(crate) fn dead(pulses: impl Iterator<Item = Pulse> + Clone) -> Vec<usize> {
    let are = |wanted| {
        let found = pulses.clone().enumerate().filter(move |(_, pulse)| *pulse == wanted);
        found.map(|(position, _)| position).collect::<Vec<_>>()
    };
    let gone = are(Pulse::Gone);
    if gone.is_empty() { are(Pulse::Silent) } else { gone }
}

/// One server of a chain, as its writer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HopView {
    /// What became of a probe just now.
    pub(crate) pulse: Pulse,
    /// Bytes it says it has stored.
    pub(crate) stored: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everyone is alive, just slow.
    Wait,
    /// Write the chunk again on another chain, without these hops.
    Leave(Vec<usize>),
}

/// Judges a chain that made no progress for `silent`.
pub(crate) fn judge(hops: &[HopView], silent: Duration) -> Verdict {
    let dead = dead(hops.iter().map(|hop| hop.pulse));
    if !dead.is_empty() {
        return Verdict::Leave(dead);
    }
    let least = hops.iter().map(|hop| hop.stored).min().unwrap_or(0);
    let most = hops.iter().map(|hop| hop.stored).max().unwrap_or(0);
    if silent >= LAGGARD && least < most {
        let laggards = hops.iter().enumerate().filter(|(_, hop)| hop.stored == least);
        return Verdict::Leave(laggards.map(|(position, _)| position).collect());
    }
    if silent >= STANDSTILL {
        return Verdict::Leave(Vec::new());
    }
    Verdict::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    use Pulse::{Alive, Gone, Silent};

    fn hops(views: &[(Pulse, u64)]) -> Vec<HopView> {
        let hop = |(pulse, stored): &(Pulse, u64)| HopView {
            pulse: *pulse,
            stored: *stored,
        };
        views.iter().map(hop).collect()
    }

    const SHORT: Duration = Duration::from_millis(700);

    #[test]
    fn the_dead_are_left_at_once_the_slow_are_not() {
        let leave = |hops: &[(Pulse, u64)]| judge(&self::hops(hops), SHORT);
        assert_eq!(leave(&[(Alive, 5), (Silent, 3), (Alive, 3)]), Verdict::Leave(vec![1]));
        assert_eq!(leave(&[(Alive, 5), (Alive, 3), (Alive, 3)]), Verdict::Wait);
        assert_eq!(
            leave(&[(Silent, 5), (Alive, 3), (Gone, 3)]),
            Verdict::Leave(vec![2]),
            "the surer one"
        );
    }

    #[test]
    fn a_laggard_is_left_in_the_end_but_equals_wait_longer() {
        let after = |silent, hops: &[(Pulse, u64)]| judge(&self::hops(hops), silent);
        assert_eq!(
            after(LAGGARD, &[(Alive, 5), (Alive, 3), (Alive, 5)]),
            Verdict::Leave(vec![1])
        );
        assert_eq!(after(LAGGARD, &[(Alive, 5), (Alive, 5)]), Verdict::Wait);
        assert_eq!(after(STANDSTILL, &[(Alive, 5), (Alive, 5)]), Verdict::Leave(vec![]));
    }
}
