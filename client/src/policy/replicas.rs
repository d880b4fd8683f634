//! Which copy of a chunk to read first.

use std::time::Duration;

/// One copy, as its reader sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The masters think well of it.
    pub(crate) healthy: bool,
    /// Its server failed us a short while ago, or this copy was found wrong.
    pub(crate) troubled: bool,
    /// How long its server takes for most reads, if known.
    pub(crate) latency: Option<Duration>,
}

/// Positions in the order of asking: the sound before the troubled, the fast before the slow. Servers of about the
/// same speed, and those not known yet, are drawn by lot, so that readers spread over them.
pub(crate) fn order(candidates: &[Candidate], random: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|position| {
        let candidate = &candidates[*position];
        // Within a factor of four nobody is preferred.
        let class = candidate
            .latency
            .map_or(0, |latency| latency.as_millis().max(1).ilog2() / 2);
        let lot = (*position as u64 + 1).wrapping_mul(random | 1).rotate_left(29);
        (candidate.troubled, !candidate.healthy, class, lot)
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: Candidate = Candidate {
        healthy: true,
        troubled: false,
        latency: None,
    };

    #[test]
    fn sound_and_fast_first() {
        let troubled = Candidate {
            troubled: true,
            ..SOUND
        };
        let doubted = Candidate {
            healthy: false,
            ..SOUND
        };
        let slow = Candidate {
            latency: Some(Duration::from_millis(900)),
            ..SOUND
        };
        for random in 0..50 {
            assert_eq!(order(&[troubled, doubted, slow, SOUND], random), [3, 2, 1, 0]);
        }
    }

    #[test]
    fn equals_share_the_load() {
        let firsts: std::collections::BTreeSet<usize> = (0..100)
            .map(|i| order(&[SOUND; 3], u64::wrapping_mul(i, 0x9e37_79b9_7f4a_7c15))[0])
            .collect();
        assert_eq!(firsts.len(), 3);
    }
}
