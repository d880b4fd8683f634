//! Which master to ask next, for one request.
//!
//! The request goes to the supposed leader. Silence does not end an attempt: another master is asked beside it, since
//! the silent one may be slow and not dead, and the same request never runs twice. After a longer silence the silent
//! one is asked again too: its answer may be lost. A refusal or a closed connection moves on at once. When a whole
//! round brought nothing there is a short pause: an election is running.

use std::time::Duration;

/// Silence of the supposed leader after which another master is asked too.
const HEDGE: Duration = Duration::from_millis(200);
/// Rounds with short pauses, enough for an election; after them the cluster is down for longer.
const EAGER_ROUNDS: u32 = 60;

/// Silence after which the same master is asked again. Nearly all requests are answered sooner, so that repeating adds
/// next to no load; and whoever lost an answer waits seconds, not as long as it would wait for an absent cluster.
const REPEAT: Duration = Duration::from_secs(2);
/// The silences double so often: a master that cannot keep up is not asked ever more.
const REPEAT_DOUBLINGS: u32 = 3;

/// How long a master that was asked again `repeats` times already may be silent before it is asked once more.
pub(crate) fn repeat_after(repeats: u32) -> Duration {
    REPEAT * 2_u32.pow(repeats.min(REPEAT_DOUBLINGS))
}

/// The masters as one request sees them; positions index the caller's list.
#[derive(Debug)]
pub(crate) struct Route {
    leader: Option<usize>,
    cursor: usize,
    masters: Vec<Master>,
    rounds: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Master {
    /// Asked, and not answered yet.
    in_flight: bool,
    /// Had its turn in this round.
    tried: bool,
    /// Turned us away for good.
    hopeless: bool,
}

impl Route {
    /// A route over `count` masters that starts at the leader if one is known, else at `start`.
    pub(crate) fn new(count: usize, leader: Option<usize>, start: usize) -> Self {
        Self {
            leader,
            cursor: if count == 0 { 0 } else { start % count },
            masters: vec![Master::default(); count],
            rounds: 0,
        }
    }

    /// Whom to ask now; `None` if everyone had a turn in this round.
    pub(crate) fn pick(&mut self) -> Option<usize> {
        let count = self.masters.len();
        let from_cursor = (0..count).map(|step| (self.cursor + step) % count);
        let chosen = self.leader.into_iter().chain(from_cursor).find(|position| {
            let master = &self.masters[*position];
            !(master.in_flight || master.tried || master.hopeless)
        })?;
        self.masters[chosen].in_flight = true;
        self.masters[chosen].tried = true;
        if self.leader != Some(chosen) {
            self.cursor = (chosen + 1) % count;
        }
        Some(chosen)
    }

    /// `who` named `leader` as the leader; it gets its turn next unless it had one in this round.
    pub(crate) fn redirected(&mut self, who: usize, leader: usize) {
        self.masters[who].in_flight = false;
        if leader >= self.masters.len() {
            self.masters.resize(leader + 1, Master::default());
        }
        self.leader = Some(leader);
    }

    /// `who` gave no useful answer.
    pub(crate) fn failed(&mut self, who: usize) {
        self.masters[who].in_flight = false;
        if self.leader == Some(who) {
            self.leader = None;
        }
    }

    /// `who` turned us away for good.
    pub(crate) fn turned_away(&mut self, who: usize) {
        self.failed(who);
        self.masters[who].hopeless = true;
    }

    /// Whether nobody is left to ask, ever.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.masters.iter().all(|master| master.hopeless)
    }

    /// Whether someone has not had a turn in this round.
    pub(crate) fn has_turn(&self) -> bool {
        self.masters
            .iter()
            .any(|master| !(master.in_flight || master.tried || master.hopeless))
    }

    /// Everyone may be asked again.
    pub(crate) fn next_round(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
        self.masters.iter_mut().for_each(|master| master.tried = false);
    }

    /// How long to wait before the next one is asked, if nothing is heard until then.
    pub(crate) fn pause(&self, random: u64) -> Duration {
        let waiting = self.masters.iter().any(|master| master.in_flight);
        let round_over = self
            .masters
            .iter()
            .all(|master| master.tried || master.hopeless || master.in_flight);
        let (low, high) = match (waiting, round_over) {
            (true, false) if self.rounds == 0 => return HEDGE,
            _ if self.rounds > EAGER_ROUNDS => (100, 250),
            (true, _) if self.rounds > EAGER_ROUNDS / 4 => (100, 250),
            (true, _) => (50, 100),
            (false, _) => (10, 50),
        };
        Duration::from_millis(low + random % (high - low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_leader_is_left_at_once_and_polling_is_short() {
        let mut route = Route::new(3, Some(1), 0);
        assert_eq!(route.pick(), Some(1));
        route.failed(1);
        assert_eq!(route.pick(), Some(0));
        // It has not noticed yet, and names the dead one: not asked again in this round.
        route.redirected(0, 1);
        assert_eq!(route.pick(), Some(2));
        route.failed(2);
        assert_eq!(route.pick(), None);
        assert!(route.pause(12345) < Duration::from_millis(50));
        route.next_round();
        assert!(route.pick().is_some());
    }

    #[test]
    fn a_silent_leader_is_hedged_and_not_asked_twice() {
        let mut route = Route::new(3, Some(0), 1);
        assert_eq!(route.pick(), Some(0));
        assert_eq!(route.pause(0), HEDGE);
        assert_eq!(route.pick(), Some(1));
        route.redirected(1, 0);
        assert_eq!(route.pick(), Some(2));
        route.redirected(2, 0);
        assert_eq!(route.pick(), None);
        route.next_round();
        assert_eq!(route.pick(), Some(1), "the silent one is still being waited for");
    }

    #[test]
    fn a_redirect_leads_to_a_master_not_known_before() {
        let mut route = Route::new(1, None, 0);
        assert_eq!(route.pick(), Some(0));
        route.redirected(0, 1);
        assert_eq!(route.pick(), Some(1));
    }

    #[test]
    fn who_turns_us_away_is_not_asked_again() {
        let mut route = Route::new(2, None, 1);
        assert_eq!(route.pick(), Some(1));
        route.turned_away(1);
        assert!(!route.is_hopeless());
        assert_eq!(route.pick(), Some(0));
        route.turned_away(0);
        route.next_round();
        assert_eq!(route.pick(), None);
        assert!(route.is_hopeless());
    }

    #[test]
    fn a_lost_answer_is_asked_for_within_seconds_and_ever_more_rarely() {
        let seconds: Vec<u64> = (0..6).map(|repeats| repeat_after(repeats).as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn polling_slows_down_when_the_cluster_stays_away() {
        let mut route = Route::new(2, None, 0);
        (0..100).for_each(|_| route.next_round());
        assert!(route.pause(0) >= Duration::from_millis(100));
    }
}
