//! What to do when a chain of servers makes no progress.

use std::time::Duration;

/// A hop that answers but stores less than another for so long is left out.
const LAGGARD: Duration = Duration::from_secs(5);
/// Hops that all answer and all stand still for so long are left for another chain.
const STANDSTILL: Duration = Duration::from_secs(10);

/// One server of a chain, as its writer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HopView {
    /// It answered a probe just now.
    pub(crate) answers: bool,
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
    let positions = |wanted: &dyn Fn(&HopView) -> bool| -> Vec<usize> {
        let found = hops.iter().enumerate().filter(|(_, hop)| wanted(hop));
        found.map(|(position, _)| position).collect()
    };
    let dead = positions(&|hop| !hop.answers);
    if !dead.is_empty() {
        return Verdict::Leave(dead);
    }
    let least = hops.iter().map(|hop| hop.stored).min().unwrap_or(0);
    let most = hops.iter().map(|hop| hop.stored).max().unwrap_or(0);
    if silent >= LAGGARD && least < most {
        return Verdict::Leave(positions(&|hop| hop.stored == least));
    }
    if silent >= STANDSTILL {
        return Verdict::Leave(Vec::new());
    }
    Verdict::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(views: &[(bool, u64)]) -> Vec<HopView> {
        let hop = |(answers, stored): &(bool, u64)| HopView {
            answers: *answers,
            stored: *stored,
        };
        views.iter().map(hop).collect()
    }

    const SHORT: Duration = Duration::from_millis(700);

    #[test]
    fn the_dead_are_left_at_once_the_slow_are_not() {
        assert_eq!(
            judge(&hops(&[(true, 5), (false, 3), (true, 3)]), SHORT),
            Verdict::Leave(vec![1])
        );
        assert_eq!(judge(&hops(&[(true, 5), (true, 3), (true, 3)]), SHORT), Verdict::Wait);
    }

    #[test]
    fn a_laggard_is_left_in_the_end_but_equals_wait_longer() {
        assert_eq!(
            judge(&hops(&[(true, 5), (true, 3), (true, 5)]), LAGGARD),
            Verdict::Leave(vec![1])
        );
        assert_eq!(judge(&hops(&[(true, 5), (true, 5)]), LAGGARD), Verdict::Wait);
        assert_eq!(
            judge(&hops(&[(true, 5), (true, 5)]), STANDSTILL),
            Verdict::Leave(vec![])
        );
    }
}
