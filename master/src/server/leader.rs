//! What only the leader does: begin the cluster's state once, and let state time pass.
//!
//! Time is the leader's monotonic clock from the moment it is established. A new leader begins to count anew, so a
//! failover costs a moment of state time and never adds any: leases live longer, none ends early. Time in which
//! nobody could have renewed a lease (the process or machine stood still) does not count either.
//!
//! Proposals are bound to the term in which they were decided.

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::Timeline;
use gabion_protocol::process::monotonic;
use tokio::time::MissedTickBehavior;

use super::balance;
use super::command::wall_ms;
use super::merge;
use super::repair;
use super::shared::Master;
use crate::state::reply::Outcome;
use crate::state::{Bootstrap, Command, read};

/// A tick advances time by at most so many periods: a longer gap is a pause of this process.
const TICKS_MAX: u32 = 3;
/// A gap between two wake-ups that says that this process stood still.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows who leads, and does the leader's work while it is this master. Ends with Raft, or when cancelled.
pub(super) async fn follow(master: Arc<Master>) {
    let id = master.id.0;
    let mut leadership = master.raft.leader_watch();
    loop {
        let Ok(now) = leadership.wait_for(|now| now.established).await.map(|now| now.clone()) else {
            return;
        };
        master.fleet.lead(monotonic());
        tracing::info!(term = now.term, "this master leads");
        let mut watched = master.raft.leader_watch();
        // Without a majority it still is the leader: its proposals then fail by themselves.
        let deposed = watched.wait_for(|later| later.leader != Some(id) || later.term != now.term);
        tokio::select! {
            () = lead(&master, now.term) => {}
            () = notice_pauses(&master) => {}
            () = repair::lead(&master, now.term) => {}
            () = balance::lead(&master, now.term) => {}
            () = merge::lead(&master, now.term) => {}
            ended = deposed => if ended.is_err() {
                return;
            },
        }
        tracing::info!(term = now.term, "this master leads no more");
    }
}

/// Gives every chunkserver a full period again when this process stood still, in which no beat could be heard.
async fn notice_pauses(master: &Master) {
    let mut timer = tokio::time::interval(PAUSE / 4);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = monotonic();
    loop {
        timer.tick().await;
        let now = monotonic();
        if now.saturating_sub(last) > PAUSE {
            tracing::warn!(paused = ?now.saturating_sub(last), "this process stood still");
            master.fleet.lead(now);
        }
        last = now;
    }
}

/// The leader's work, for ever.
async fn lead(master: &Master, term: u64) {
    let period = master.settings.tick;
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun = false;
    let mut last = monotonic();
    loop {
        timer.tick().await;
        if !begun {
            match begin(master, term).await {
                Ok(()) => begun = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot begin the cluster's state yet");
                    continue;
                }
            }
        }
        let now = monotonic();
        let advance = now.saturating_sub(last).min(period * TICKS_MAX);
        // Also if the tick fails: whether it counted is unknown, and time must not pass twice.
        last = now;
        if let Err(error) = tick(master, term, advance).await {
            tracing::debug!(%error, "state time did not move");
        }
    }
}

/// The first commands of a cluster; does nothing if there were any.
async fn begin(master: &Master, term: u64) -> Result<(), WireError> {
    let view = master.view().await?;
    let run = async |command: Command| {
        master
            .propose_in_term(term, &command)
            .await?
            .into_wire(&command.cannot())
    };
    if read::cluster(&view).map_err(super::shared::row_error)?.is_none() {
        run(Command::Bootstrap(Bootstrap {
            cluster: master.keys.cluster,
            timeline: Timeline(1),
            settings: master.settings.bootstrap,
            wall_ms: wall_ms(),
        }))
        .await?;
        tracing::info!(cluster = %master.keys.cluster, "the cluster's state begins");
    }
    if read::trash_terms(&view).map_err(super::shared::row_error)?.is_none() {
        let keep_ms = master.settings.trash_ms;
        run(Command::BeginTrash { keep_ms }).await?;
    }
    Ok(())
}

/// Lets state time pass, and does what is due. When that is more than one tick does, ticks follow each other until the
/// next period begins, each after a rest as long as it took: reclaiming a big tree takes half of what the masters can
/// do at most, and leaves the other half to everybody else.
async fn tick(master: &Master, term: u64, advance: Duration) -> Result<(), WireError> {
    // A master whose machine slept gives no orders until it has proved itself, and perhaps no client asks it to.
    let proven = master.raft.prove_after_sleep().await;
    proven.map_err(|error| master.propose_error("cannot advance the clock", error))?;
    let mut advance_ms = u64::try_from(advance.as_millis()).unwrap_or(u64::MAX);
    let began = monotonic();
    loop {
        let last = monotonic();
        let command = Command::Tick { advance_ms };
        let outcome = master.propose_in_term(term, &command).await?;
        let Outcome::Ticked { more: true, .. } = outcome.into_wire(&command.cannot())? else {
            return Ok(());
        };
        advance_ms = 0;
        let now = monotonic();
        let rest = now.saturating_sub(last);
        if now.saturating_sub(began) + rest >= master.settings.tick {
            return Ok(());
        }
        tokio::time::sleep(rest).await;
    }
}
