//! Room on the masters' disks: every master watches its own; the leader asks the voters, and refuses what grows while
//! fewer than a majority have room. What is decided is in [`crate::space::judge`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::RequestId;
use gabion_protocol::keys::Identity;
use gabion_protocol::messages::master::Op;
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::command::filled;
use super::shared::Master;
use crate::space::judge::{Verdict, Voter, grows, verdict};
use crate::space::{Level, Room};
use crate::state::read;

/// How often a disk is looked at: in less time a burst of writes does not use up what is left below the low mark.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for a voter's answer.
const ASK: Duration = Duration::from_millis(400);
/// What a voter said counts for so long: a restart is no lack of room.
const SAID: Duration = Duration::from_secs(10);
/// Longest wait for commands that are in the log already.
const APPLY_MAX: Duration = Duration::from_secs(5);

/// What the leader knows and decided last.
#[derive(Debug)]
pub(super) struct Rooms(Mutex<(Verdict, BTreeMap<u64, Voter>)>);

impl Default for Rooms {
    fn default() -> Self {
        Self(Mutex::new((Verdict::Open, BTreeMap::new())))
    }
}

/// What voters said, and when.
struct Heard {
    since: Duration,
    voters: BTreeMap<u64, (Duration, Voter)>,
}

impl Heard {
    /// What counts now, after a round of answers.
    fn merge(&mut self, answers: BTreeMap<u64, Voter>, now: Duration) -> BTreeMap<u64, Voter> {
        let mut all = BTreeMap::new();
        for (id, answer) in answers {
            let voter = match (answer, self.voters.get(&id)) {
                (Voter::Silent, Some((at, said))) if now.saturating_sub(*at) < SAID => said.clone(),
                (Voter::Silent, None) if now.saturating_sub(self.since) < SAID => Voter::Unknown,
                (Voter::Silent, _) => Voter::Silent,
                (answer, _) => {
                    self.voters.insert(id, (now, answer.clone()));
                    answer
                }
            };
            all.insert(id, voter);
        }
        all
    }
}

/// Watches for ever.
pub(super) async fn watch(master: Arc<Master>) {
    let mut timer = tokio::time::interval(LOOK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard: Option<Heard> = None;
    loop {
        timer.tick().await;
        master.raft.look_at_disk().await;
        if !master.raft.is_established_leader() {
            heard = None;
            *master.rooms.0.lock() = (Verdict::Open, BTreeMap::new());
            continue;
        }
        let answers = master.raft.rooms(ASK).await;
        let now = monotonic();
        let heard = heard.get_or_insert_with(|| Heard {
            since: now,
            voters: BTreeMap::new(),
        });
        let voters = heard.merge(answers, now);
        let decided = verdict(master.id.0, &voters);
        let before = std::mem::replace(&mut *master.rooms.0.lock(), (decided, voters)).0;
        match decided {
            // Twice in a row: disks that fill up together are not seen in one moment.
            Verdict::HandOver(heir) | Verdict::HandOverFirst(heir) if before == decided => {
                tracing::warn!(heir, "this master's disk is nearly full; another one shall lead");
                if let Err(error) = master.raft.transfer_leader(heir).await {
                    tracing::warn!(heir, %error, "leadership was not handed over");
                }
            }
            Verdict::Open | Verdict::Closed | Verdict::HandOver(_) | Verdict::HandOverFirst(_) => {}
        }
    }
}

impl Master {
    /// Turns away what grows while there is no room for it. A command that has run gets its answer, though: to be told
    /// otherwise would be false.
    ///
    /// # Errors
    /// [`ErrorCode::NoSpace`] names the masters and their directories; [`ErrorCode::Busy`] while another one is about to
    /// lead.
    pub(super) async fn has_room_for(&self, asker: &Identity, request: RequestId, op: &Op) -> Result<(), WireError> {
        if !grows(op) {
            return Ok(());
        }
        let (decided, voters) = {
            let rooms = self.rooms.0.lock();
            if matches!(rooms.0, Verdict::Open | Verdict::HandOver(_)) {
                return Ok(());
            }
            rooms.clone()
        };
        let cannot = || filled(op.clone(), asker, Vec::new()).cannot();
        let error = match decided {
            Verdict::Open | Verdict::HandOver(_) => return Ok(()),
            Verdict::HandOverFirst(heir) => {
                let message = format!("{} now: m{heir} is about to lead instead of m{}", cannot(), self.id);
                WireError::new(ErrorCode::Busy, message).why(format!("the disk of m{} is full", self.id))
            }
            Verdict::Closed => refusal(&cannot(), &voters),
        };
        // It may be in the log, not applied yet, under an attempt that was given up.
        if !self.raft.applied_all(APPLY_MAX).await {
            let message = format!("{}: the masters' disks are slow", cannot());
            return Err(WireError::new(ErrorCode::Busy, message));
        }
        if self.read_stale(move |view| read::has_run(view, request)).await? {
            return Ok(());
        }
        Err(error)
    }
}

/// Says whose disk is full, and what helps.
fn refusal(cannot: &str, voters: &BTreeMap<u64, Voter>) -> WireError {
    let mib = |bytes: u64| bytes >> 20;
    let mut error = WireError::new(
        ErrorCode::NoSpace,
        format!("{cannot}: the disks of the masters are nearly full"),
    );
    let mut low = Vec::new();
    for (id, voter) in voters {
        let said = match voter {
            Voter::Unknown => "not asked yet".to_owned(),
            Voter::Silent => "does not answer".to_owned(),
            Voter::Said(Room {
                level,
                free,
                needed,
                dir,
            }) => {
                let (free, needed) = (mib(*free), mib(*needed));
                match level {
                    Level::Enough => format!("{free} MiB free in {dir}, enough"),
                    Level::Low | Level::Spent => {
                        low.push(format!("m{id} ({dir})"));
                        format!("{free} MiB free in {dir}, needs {needed} MiB")
                    }
                }
            }
        };
        error = error.tried(format!("m{id}"), said);
    }
    let low = low.join(", ");
    error
        .why("too few masters have room for more names; what is stored can be read and removed")
        .help(format!(
            "make room on the disk of {low}; writes are then accepted again by themselves"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(level: Level) -> Voter {
        Voter::Said(Room {
            level,
            free: 3 << 20,
            needed: 160 << 20,
            dir: "/var/lib/m2".into(),
        })
    }

    #[test]
    fn a_restart_is_no_lack_of_room() {
        let seconds = Duration::from_secs;
        let mut heard = Heard {
            since: seconds(100),
            voters: BTreeMap::new(),
        };
        let mut hear = |voter: Voter, at| heard.merge(BTreeMap::from([(2, voter)]), seconds(at))[&2].clone();
        assert_eq!(hear(Voter::Silent, 101), Voter::Unknown);
        assert_eq!(hear(said(Level::Enough), 102), said(Level::Enough));
        assert_eq!(hear(Voter::Silent, 111), said(Level::Enough));
        assert_eq!(hear(Voter::Silent, 113), Voter::Silent);
        assert_eq!(hear(said(Level::Low), 114), said(Level::Low));
    }

    #[test]
    fn the_refusal_names_master_and_directory() {
        let voters = BTreeMap::from([(1, Voter::Silent), (2, said(Level::Low)), (3, said(Level::Enough))]);
        let error = refusal("cannot upload to /f", &voters);
        assert_eq!((error.code, error.code.exit_code()), (ErrorCode::NoSpace, 9));
        let report = error.report();
        for part in [
            "cannot upload to /f",
            "m2",
            "/var/lib/m2",
            "3 MiB free",
            "needs 160 MiB",
            "make room",
        ] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
}
