//! Finds chunkservers for new chunks, and waits a while if there are too few: one may be starting, or have missed
//! beats for a moment only.

use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::Health;
use gabion_protocol::process::monotonic;
use tokio::time::Instant;

use super::shared::Master;
use crate::plan::placement::{Candidate, Placement, PlacementFailure, place};
use crate::state::key::server::Server;
use crate::state::read;

impl Master {
    /// A chain of servers for each chunk, or why there is none now.
    pub(super) async fn place(
        &self,
        wanted: Placement,
    ) -> Result<Result<Vec<Vec<ServerId>>, (PlacementFailure, Hope)>, WireError> {
        let servers = self.read_stale(|view| read::servers(view)).await?;
        let candidates = self.candidates(&servers, monotonic());
        Ok(match place(&wanted, &candidates) {
            Ok(chains) => {
                chains.iter().for_each(|chain| self.fleet.placed(chain));
                Ok(chains)
            }
            Err(failure) => {
                let all_alive = candidates.iter().all(|c| c.retired || c.health == Health::Alive);
                let hopeless = all_alive && matches!(failure, PlacementFailure::NoSpace { .. });
                Err((failure, if hopeless { Hope::None } else { Hope::Servers }))
            }
        })
    }

    /// As [`Self::place`], but waits for servers until `deadline` or until this master leads no more.
    pub(super) async fn place_patiently(
        &self,
        wanted: Placement,
        cannot: &str,
        deadline: Duration,
    ) -> Result<Vec<Vec<ServerId>>, WireError> {
        let deadline = Instant::now() + deadline;
        let mut better = self.fleet.better();
        loop {
            better.mark_unchanged();
            let (failure, hope) = match self.place(wanted.clone()).await? {
                Ok(chains) => return Ok(chains),
                Err(failed) => failed,
            };
            if hope == Hope::None {
                return Err(failure.to_wire(cannot));
            }
            tokio::select! {
                changed = better.changed() => if changed.is_err() {
                    return Err(failure.to_wire(cannot));
                },
                () = tokio::time::sleep_until(deadline) => return Err(failure.to_wire(cannot)),
                () = self.deposed() => return Err(self.not_leader()),
                () = self.stopping.cancelled() => return Err(self.not_leader()),
            }
        }
    }

    /// The registered servers as the planner sees them: fit for writes only by proof of a beat.
    fn candidates(&self, servers: &[(ServerId, Server)], now: Duration) -> Vec<Candidate> {
        self.fleet.read(|fleet| {
            let candidate = |(id, server): &(ServerId, Server)| {
                let seen = fleet.seen(*id, server.incarnation);
                let load = seen.map(|seen| seen.load).unwrap_or_default();
                let health = match fleet.health(*id, server.incarnation, now) {
                    _ if seen.is_some_and(|seen| fleet.is_usable(seen, now)) => Health::Alive,
                    Health::Lost => Health::Lost,
                    Health::Alive | Health::Suspect => Health::Suspect,
                };
                Candidate {
                    server: *id,
                    name: server.name.clone(),
                    rack: server.rack.clone(),
                    bytes_free: load.bytes_free,
                    streams: load.streams.saturating_add(seen.map_or(0, |seen| seen.placed)),
                    health,
                    disks_ok: load.disks_ok,
                    retired: server.retired,
                }
            };
            servers.iter().map(candidate).collect()
        })
    }
}

/// Whether waiting may help a placement that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// A server may come, or come back.
    Servers,
    /// Every server is well, and full.
    None,
}

/// A seed that differs for each placement.
pub(super) fn seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    u64::from_be_bytes(bytes)
}
