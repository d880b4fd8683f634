//! Finds chunkservers for new chunks, and waits a while if there are too few: one may be starting, or have missed
//! beats for a moment only.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::Health;
use gabion_protocol::process::monotonic;
use tokio::time::Instant;

use super::shared::Master;
use crate::plan::placement::{Candidate, Placement, PlacementFailure, place};
use crate::state::key::condition::Condition;
use crate::state::key::server::Server;
use crate::state::{conditions, read};

impl Master {
    /// A chain of servers for each chunk, or why there is none now.
    async fn place(&self, wanted: &Placement) -> Result<Result<Placed, (PlacementFailure, Hope)>, WireError> {
        let (servers, conditions) = self.servers().await?;
        let now = monotonic();
        let candidates = self.candidates(&servers, &conditions, now);
        Ok(match place(wanted, &candidates) {
            Ok(chains) => {
                let short = chains.iter().any(|chain| chain.len() < usize::from(wanted.wanted));
                let first_beats_due = if short {
                    self.first_beats_due(&servers, now)
                } else {
                    None
                };
                Ok(Placed {
                    chains,
                    first_beats_due,
                })
            }
            Err(failure) => {
                let all_alive = candidates.iter().all(|c| c.retired || c.health == Health::Alive);
                let hopeless = all_alive && matches!(failure, PlacementFailure::NoSpace { .. });
                Err((failure, if hopeless { Hope::None } else { Hope::Servers }))
            }
        })
    }

    /// A chain of servers for each chunk, if there is no reason to wait for more servers.
    pub(super) async fn place_now(&self, wanted: &Placement) -> Result<Option<Vec<Vec<ServerId>>>, WireError> {
        let placed = self
            .place(wanted)
            .await?
            .ok()
            .filter(|placed| placed.first_beats_due.is_none());
        Ok(placed.map(|placed| self.taken(placed.chains)))
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
            let (until, failure) = match self.place(&wanted).await? {
                Ok(Placed {
                    chains,
                    first_beats_due: Some(left),
                }) if Instant::now() < deadline => {
                    tracing::debug!(?left, copies = chains.len(), "waiting for servers not heard yet");
                    (deadline.min(Instant::now() + left), None)
                }
                Ok(Placed { chains, .. }) => return Ok(self.taken(chains)),
                Err((failure, Hope::None)) => return Err(failure.to_wire(cannot)),
                Err((failure, Hope::Servers)) => (deadline, Some(failure)),
            };
            tokio::select! {
                // The sender lives as long as this master.
                _ = better.changed() => {}
                () = tokio::time::sleep_until(until) => if let Some(failure) = failure {
                    return Err(failure.to_wire(cannot));
                },
                () = self.deposed() => return Err(self.not_leader()),
                () = self.stopping.cancelled() => return Err(self.not_leader()),
            }
        }
    }

    /// The chains, counted as load until the servers' next beats.
    fn taken(&self, chains: Vec<Vec<ServerId>>) -> Vec<Vec<ServerId>> {
        chains.iter().for_each(|chain| self.fleet.placed(chain));
        chains
    }

    /// How long the last of those servers that this new leader has never heard is waited for.
    fn first_beats_due(&self, servers: &[(ServerId, Server)], now: Duration) -> Option<Duration> {
        let serving = servers.iter().filter(|(_, server)| !server.retired);
        self.fleet.read(|fleet| {
            serving
                .filter_map(|(id, server)| fleet.first_beat_due(*id, server.incarnation, now))
                .max()
        })
    }

    /// The registered servers, and what those are there for that do not just serve.
    pub(super) async fn servers(&self) -> Result<(Vec<(ServerId, Server)>, Conditions), WireError> {
        self.read_stale(|view| Ok((read::servers(view)?, conditions::all(view)?)))
            .await
    }

    /// The registered servers as the planner sees them: fit for writes only by proof of a beat.
    pub(super) fn candidates(
        &self,
        servers: &[(ServerId, Server)],
        conditions: &Conditions,
        now: Duration,
    ) -> Vec<Candidate> {
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
                    condition: conditions.get(id).copied().map(Into::into).unwrap_or_default(),
                }
            };
            servers.iter().map(candidate).collect()
        })
    }
}

/// Servers that do not just serve.
pub(super) type Conditions = BTreeMap<ServerId, Condition>;

/// Chains for new chunks.
struct Placed {
    chains: Vec<Vec<ServerId>>,
    /// Some chain is shorter than wanted, and servers may still be heard within this time.
    first_beats_due: Option<Duration>,
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
