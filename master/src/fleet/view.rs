//! The pure core of the fleet: beats in, judgements out. Time is an argument: monotonic, since any fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::ids::{Incarnation, ServerId};
use gabion_protocol::messages::master::{Health, Load};

/// How long silence may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Before a server is suspect.
    pub suspect: Duration,
    /// Before it is lost.
    pub lost: Duration,
}

/// What a server's beats said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// When the last beat came.
    pub last: Duration,
    /// Space and load as of that beat.
    pub load: Load,
    /// Chunks placed on it since. Their bytes are not foretold: most chunks stay far below their limit.
    pub placed: u32,
    /// Since when it beats without a gap that made it suspect.
    pub steady_since: Duration,
    /// When it last came back from such gaps, the latest last.
    returns: [Option<Duration>; FLAPS],
}

/// So many returns within [`FLAP_WINDOW`] make a server one that comes and goes.
const FLAPS: usize = 3;
/// A server that came back [`FLAPS`] times within this time is not relied upon until it has been steady for as long:
/// work done because it was away would be undone each time it shows up, and never end.
const FLAP_WINDOW: Duration = Duration::from_secs(120);

impl Seen {
    /// Whether the server comes and goes, so that its copies are no copies to rely on.
    #[must_use]
    pub fn is_flapping(&self, now: Duration) -> bool {
        self.returns[0].is_some_and(|first| now.saturating_sub(first) < FLAP_WINDOW)
    }
}

/// All servers' beats, as one master heard them.
#[derive(Debug, Clone)]
pub struct View {
    periods: Periods,
    servers: BTreeMap<ServerId, Seen>,
    /// Since when this master leads: silence is counted from here at the earliest.
    leads_since: Option<Duration>,
}

impl View {
    /// Nothing is known.
    #[must_use]
    pub fn new(periods: Periods) -> Self {
        Self {
            periods,
            servers: BTreeMap::new(),
            leads_since: None,
        }
    }

    /// Takes a beat in. Whether more can be placed now than before it.
    pub fn beat(&mut self, server: ServerId, incarnation: Incarnation, load: Load, now: Duration) -> bool {
        let better = match self.servers.get(&server) {
            Some(old) => {
                let usable = old.incarnation == incarnation && self.is_usable(old, now);
                !usable || load.bytes_free > old.load.bytes_free || load.disks_ok > old.load.disks_ok
            }
            None => true,
        };
        let known = self.servers.get(&server).filter(|old| old.incarnation == incarnation);
        let (mut steady_since, mut returns) = (now, [None; FLAPS]);
        if let Some(old) = known {
            (steady_since, returns) = (old.steady_since, old.returns);
            // A master that stood still heard nobody, which is nobody's gap.
            let heard = Some(old.last).max(self.leads_since).unwrap_or(old.last);
            if now.saturating_sub(heard) >= self.periods.suspect {
                steady_since = now;
                returns.rotate_left(1);
                returns[FLAPS - 1] = Some(now);
            }
        }
        let seen = Seen {
            incarnation,
            last: now,
            load,
            placed: 0,
            steady_since,
            returns,
        };
        self.servers.insert(server, seen);
        better
    }

    /// This master leads from `now` on: every server gets one full period before it is judged, and gaps in what was
    /// heard before are nobody's fault.
    pub fn lead(&mut self, now: Duration) {
        self.leads_since = Some(now);
        for seen in self.servers.values_mut() {
            seen.returns = [None; FLAPS];
        }
    }

    /// A chunk was placed on these servers.
    pub fn placed(&mut self, servers: &[ServerId]) {
        for server in servers {
            if let Some(seen) = self.servers.get_mut(server) {
                seen.placed = seen.placed.saturating_add(1);
            }
        }
    }

    /// What the registered directory's beats said; `None` if this master heard none of it.
    #[must_use]
    pub fn seen(&self, server: ServerId, incarnation: Incarnation) -> Option<&Seen> {
        self.servers.get(&server).filter(|seen| seen.incarnation == incarnation)
    }

    /// What silence says about a server's copies.
    #[must_use]
    pub fn health(&self, server: ServerId, incarnation: Incarnation, now: Duration) -> Health {
        let last = self.seen(server, incarnation).map(|seen| seen.last);
        let Some(since) = last.max(self.leads_since) else {
            // A follower that never heard of it: silence proves nothing.
            return Health::Suspect;
        };
        let silent = now.saturating_sub(since);
        if silent >= self.periods.lost {
            Health::Lost
        } else if silent >= self.periods.suspect {
            Health::Suspect
        } else {
            Health::Alive
        }
    }

    /// How long nothing was heard of a server, counted from when this master began to lead at the earliest; `None` if
    /// this master neither leads nor ever heard it.
    #[must_use]
    pub fn silence(&self, server: ServerId, incarnation: Incarnation, now: Duration) -> Option<Duration> {
        let last = self.seen(server, incarnation).map(|seen| seen.last);
        last.max(self.leads_since).map(|since| now.saturating_sub(since))
    }

    /// Whether a server can be expected to answer. One this master never heard gets the credit of [`Self::health`].
    #[must_use]
    pub fn is_reachable(&self, server: ServerId, incarnation: Incarnation, now: Duration) -> bool {
        match self.seen(server, incarnation) {
            Some(seen) => self.is_usable(seen, now),
            None => self.health(server, incarnation, now) == Health::Alive,
        }
    }

    /// How long a new leader still waits for the first beat of a server it has never heard in its life; `None` if it
    /// has heard it, or the wait is over. A master that leads just after its start has not heard living servers yet,
    /// and would place fewer copies than wanted without need. One it did hear and that fell silent is not waited for.
    #[must_use]
    pub fn first_beat_due(&self, server: ServerId, incarnation: Incarnation, now: Duration) -> Option<Duration> {
        if self.seen(server, incarnation).is_some() {
            return None;
        }
        let end = self.leads_since? + self.periods.suspect;
        end.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Whether new writes may go to a server: only where a beat proves that it lives. Unlike [`Self::health`] this
    /// gives no credit to a new leader, who has heard the beats of all living servers as a follower.
    #[must_use]
    pub fn is_usable(&self, seen: &Seen, now: Duration) -> bool {
        now.saturating_sub(seen.last) < self.periods.suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERIODS: Periods = Periods {
        suspect: Duration::from_secs(2),
        lost: Duration::from_secs(15),
    };
    const LIFE: Incarnation = Incarnation([1; 16]);
    const OTHER_LIFE: Incarnation = Incarnation([2; 16]);
    const SERVER: ServerId = ServerId(1);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn health(view: &View, millis: u64) -> Health {
        view.health(SERVER, LIFE, at(millis))
    }

    #[test]
    fn suspect_then_lost_then_back() {
        let mut view = View::new(PERIODS);
        view.lead(at(0));
        view.beat(SERVER, LIFE, Load::default(), at(1000));
        assert_eq!(health(&view, 2999), Health::Alive);
        assert_eq!(health(&view, 3000), Health::Suspect);
        assert_eq!(health(&view, 15_999), Health::Suspect);
        assert_eq!(health(&view, 16_000), Health::Lost);
        assert!(
            view.beat(SERVER, LIFE, Load::default(), at(20_000)),
            "waiters are woken"
        );
        assert_eq!(health(&view, 20_001), Health::Alive);
    }

    #[test]
    fn a_new_leader_gives_a_full_period_but_places_by_proof() {
        let mut view = View::new(PERIODS);
        view.beat(SERVER, LIFE, Load::default(), at(0));
        assert_eq!(
            health(&view, 60_000),
            Health::Lost,
            "as a follower it only tells what it heard"
        );
        view.lead(at(60_000));
        assert_eq!(health(&view, 61_999), Health::Alive);
        assert_eq!(health(&view, 62_000), Health::Suspect);
        assert_eq!(health(&view, 75_000), Health::Lost);
        let seen = *view.seen(SERVER, LIFE).unwrap();
        assert!(!view.is_usable(&seen, at(60_000)), "no beat proves that it lives");
    }

    #[test]
    fn a_new_leader_waits_only_for_servers_it_has_never_heard() {
        let mut view = View::new(PERIODS);
        assert_eq!(
            view.first_beat_due(SERVER, LIFE, at(0)),
            None,
            "a follower places nothing"
        );
        view.lead(at(1000));
        assert_eq!(view.first_beat_due(SERVER, LIFE, at(1500)), Some(at(1500)));
        assert_eq!(view.first_beat_due(SERVER, LIFE, at(3000)), None, "the wait ends");
        view.beat(SERVER, LIFE, Load::default(), at(1600));
        assert_eq!(view.first_beat_due(SERVER, LIFE, at(1700)), None);
        view.lead(at(60_000));
        assert_eq!(
            view.first_beat_due(SERVER, LIFE, at(60_001)),
            None,
            "it fell silent before"
        );
    }

    #[test]
    fn a_server_that_comes_and_goes_is_not_relied_upon_until_it_stays() {
        let mut view = View::new(PERIODS);
        view.lead(at(0));
        let mut now = 0;
        for gap in [1000, 5000, 1000, 20_000, 1000, 3000] {
            now += gap;
            view.beat(SERVER, LIFE, Load::default(), at(now));
        }
        let seen = *view.seen(SERVER, LIFE).unwrap();
        assert_eq!(seen.steady_since, at(now));
        assert!(seen.is_flapping(at(now)), "three gaps in half a minute");
        assert!(!seen.is_flapping(at(6000 + 120_000)), "the first is long ago");
        let mut steady = View::new(PERIODS);
        steady.lead(at(0));
        for second in 1..100 {
            steady.beat(SERVER, LIFE, Load::default(), at(second * 1000));
        }
        let seen = *steady.seen(SERVER, LIFE).unwrap();
        assert_eq!((seen.steady_since, seen.is_flapping(at(100_000))), (at(1000), false));
        // This master stood still, and the server did not.
        steady.lead(at(200_000));
        steady.beat(SERVER, LIFE, Load::default(), at(200_500));
        assert_eq!(steady.seen(SERVER, LIFE).unwrap().steady_since, at(1000));
    }

    #[test]
    fn beats_of_another_directory_count_for_nothing() {
        let mut view = View::new(PERIODS);
        view.lead(at(0));
        view.beat(SERVER, OTHER_LIFE, Load::default(), at(20_000));
        assert_eq!(health(&view, 20_000), Health::Lost);
        assert!(view.seen(SERVER, LIFE).is_none());
        assert_eq!(view.health(SERVER, OTHER_LIFE, at(20_000)), Health::Alive);
    }

    #[test]
    fn placements_count_until_the_next_beat() {
        let mut view = View::new(PERIODS);
        view.beat(SERVER, LIFE, Load::default(), at(0));
        view.placed(&[SERVER, ServerId(9)]);
        view.placed(&[SERVER]);
        assert_eq!(view.seen(SERVER, LIFE).unwrap().placed, 2);
        assert!(
            !view.beat(SERVER, LIFE, Load::default(), at(500)),
            "nothing better: nobody is woken"
        );
        assert_eq!(view.seen(SERVER, LIFE).unwrap().placed, 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Beat,
        Lead,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![(1u64..6000).prop_map(Step::Pass), Just(Step::Beat), Just(Step::Lead)];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        /// Whatever happens: health follows from the later of the last beat and the last time leadership began.
        #[test]
        fn health_is_silence(steps in steps()) {
            let mut view = View::new(PERIODS);
            let (mut now, mut heard) = (0, None);
            for step in steps {
                match step {
                    Step::Pass(millis) => now += millis,
                    Step::Beat => {
                        view.beat(SERVER, LIFE, Load::default(), at(now));
                        heard = Some(now);
                    }
                    Step::Lead => {
                        view.lead(at(now));
                        heard = Some(now);
                    }
                }
                let expected = match heard.map(|heard| now - heard) {
                    None | Some(2_000..15_000) => Health::Suspect,
                    Some(0..2_000) => Health::Alive,
                    Some(_) => Health::Lost,
                };
                prop_assert_eq!(health(&view, now), expected);
            }
        }
    }
}
