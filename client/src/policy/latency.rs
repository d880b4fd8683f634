//! How long an answer usually takes, and from when on its absence means trouble.

use std::time::Duration;

/// Never suspect anyone sooner: a scheduler or a disk may well pause for this long.
pub(crate) const PATIENCE_MIN: Duration = Duration::from_millis(200);
/// Never wait longer before looking elsewhere: people notice a second.
pub(crate) const PATIENCE_MAX: Duration = Duration::from_millis(700);
const SAMPLES: usize = 64;
/// The 95th percentile is looked for again after this many answers: readers ask for it more often than that, and it
/// moves slowly.
const AFRESH: usize = 8;

/// The last answers' times.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    samples: [Duration; SAMPLES],
    count: usize,
    /// As of the last multiple of [`AFRESH`] answers.
    p95: Option<Duration>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            samples: [Duration::ZERO; SAMPLES],
            count: 0,
            p95: None,
        }
    }
}

impl Latency {
    /// An answer took this long.
    pub(crate) fn record(&mut self, took: Duration) {
        self.samples[self.count % SAMPLES] = took;
        self.count += 1;
        if self.count.is_multiple_of(AFRESH) {
            let known = self.count.min(SAMPLES);
            let mut known = self.samples[..known].to_vec();
            let at = known.len() * 19 / 20;
            self.p95 = Some(*known.select_nth_unstable(at).1);
        }
    }

    /// Nineteen answers of twenty came within this time; `None` before there is experience.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.p95
    }

    /// How long to wait before looking elsewhere.
    pub(crate) fn patience(&self) -> Duration {
        self.p95()
            .map_or(PATIENCE_MAX, |p95| (p95 * 3).clamp(PATIENCE_MIN, PATIENCE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_experience_within_bounds() {
        let mut latency = Latency::default();
        assert_eq!(latency.patience(), PATIENCE_MAX, "no experience");
        (0..20).for_each(|_| latency.record(Duration::from_millis(2)));
        assert_eq!(latency.patience(), PATIENCE_MIN);
        (0..SAMPLES).for_each(|_| latency.record(Duration::from_millis(100)));
        assert_eq!(latency.patience(), Duration::from_millis(300));
        (0..SAMPLES).for_each(|_| latency.record(Duration::from_secs(9)));
        assert_eq!(latency.patience(), PATIENCE_MAX);
    }
}
