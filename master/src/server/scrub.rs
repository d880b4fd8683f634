//! Scrubs of the fleet: what chunkservers tell of theirs, and what operators ask for.
//!
//! An operator's request is not logged. It is an order that the leader repeats until each server has it on its own disk,
//! and the operator is told which have: the way Ceph's monitors hand `deep-scrub` to the daemons that keep its state. So
//! a leader that changes cannot lose what was answered, and a pass costs the log nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::{Epoch, ServerId};
use gabion_protocol::keys::Identity;
use gabion_protocol::messages::master::{Health, Response, ScrubProgress, ScrubReport, ServerScrub};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::beat;
use super::shared::Master;
use crate::state::read;

/// Longest wait for servers to begin: some reports of theirs.
const BEGIN_MAX: Duration = Duration::from_secs(6);

/// What is known of the servers' scrubs. Soft.
#[derive(Debug, Default)]
pub(super) struct Scrubs {
    servers: Mutex<BTreeMap<ServerId, Known>>,
    heard: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// When it came, and what it said.
    told: Option<(Duration, u64, ScrubProgress)>,
    /// An operator's request that it has yet to obey, and the term of the leader who was asked: another leader's
    /// requests are not this one's to repeat.
    wanted: Option<(u64, u64)>,
}

impl Scrubs {
    /// Takes a report in; the request to begin a pass for, if there is one.
    fn take(&self, report: &ScrubReport, term: u64, now: Duration) -> Option<u64> {
        let mut servers = self.servers.lock();
        let known = servers.entry(report.server).or_default();
        known.told = Some((now, report.obeyed, report.progress));
        let open = |(request, asked): &(u64, u64)| *asked == term && *request != report.obeyed;
        known.wanted = known.wanted.filter(open);
        let start = known.wanted.map(|(request, _)| request);
        drop(servers);
        self.heard.send_replace(());
        start
    }

    fn want(&self, servers: &[ServerId], request: u64, term: u64) {
        let mut known = self.servers.lock();
        for server in servers {
            let known = known.entry(*server).or_default();
            if known.told.is_none_or(|(_, obeyed, _)| obeyed != request) {
                known.wanted = Some((request, term));
            }
        }
    }

    /// Whether a server has obeyed a request.
    fn has_begun(&self, server: ServerId, request: u64) -> bool {
        let servers = self.servers.lock();
        let told = servers.get(&server).and_then(|known| known.told);
        told.is_some_and(|(_, obeyed, _)| obeyed == request)
    }

    fn shown(&self, server: ServerId, name: String, term: u64, now: Duration) -> ServerScrub {
        let servers = self.servers.lock();
        let known = servers.get(&server);
        let told = known.and_then(|known| known.told);
        ServerScrub {
            server,
            name,
            waiting: known.is_some_and(|known| known.wanted.is_some_and(|(_, asked)| asked == term)),
            age_ms: told.map(|(at, ..)| u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX)),
            progress: told.map(|(.., progress)| progress).unwrap_or_default(),
        }
    }
}

impl Master {
    /// Takes a chunkserver's report in, and says whether it is to begin a pass.
    ///
    /// # Errors
    /// As for a beat.
    pub(super) async fn scrub_report(&self, identity: &Identity, report: ScrubReport) -> Result<Response, WireError> {
        let Some(epoch) = self.epoch() else {
            let (epoch, start) = (None, None);
            return Ok(Response::ScrubAnswer { epoch, start });
        };
        let server = report.server;
        let row = self.read_stale(move |view| read::server(view, server)).await?;
        let row = row.ok_or_else(|| beat::unknown(server))?;
        beat::check(identity, &row, server, report.incarnation)?;
        let start = self.scrubs.take(&report, epoch.term, monotonic());
        let epoch = Some(epoch);
        Ok(Response::ScrubAnswer { epoch, start })
    }

    /// Asks servers to begin a pass, and waits a while until they have.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if there is no such server; or where the leader is.
    pub(super) async fn start_scrub(&self, request: u64, asked: Vec<ServerId>) -> Result<Response, WireError> {
        if request == 0 {
            return Err(WireError::new(
                ErrorCode::InvalidArgument,
                "a scrub's request number is not 0",
            ));
        }
        let epoch = self.leading()?;
        let names = self.serving_names().await?;
        if let Some(stranger) = asked.iter().find(|server| !names.contains_key(server)) {
            let error = WireError::new(ErrorCode::NotFound, format!("no chunkserver c{stranger} is registered"));
            return Err(error.action(Action::GiveUp).help("see: gabion admin status"));
        }
        let servers: Vec<_> = if asked.is_empty() {
            names.into_keys().collect()
        } else {
            asked
        };
        let mut heard = self.scrubs.heard.subscribe();
        self.scrubs.want(&servers, request, epoch.term);
        let alive = self.alive(&servers).await?;
        let all_begin = async {
            while !alive.iter().all(|server| self.scrubs.has_begun(*server, request)) {
                // The sender lives in self, so waiting cannot fail.
                let _ = heard.changed().await;
            }
        };
        // Those that have not begun are named.
        let _ = tokio::time::timeout(BEGIN_MAX, all_begin).await;
        let begins = |server: &ServerId| self.scrubs.has_begun(*server, request);
        let (begun, waiting) = servers.into_iter().partition(begins);
        Ok(Response::ScrubStarted { begun, waiting })
    }

    /// How far every server's scrub is.
    ///
    /// # Errors
    /// Where the leader is.
    pub(super) async fn scrub_status(&self) -> Result<Response, WireError> {
        let epoch = self.leading()?;
        let (names, now) = (self.serving_names().await?, monotonic());
        let shown = names
            .into_iter()
            .map(|(server, name)| self.scrubs.shown(server, name, epoch.term, now));
        Ok(Response::ScrubStatus(shown.collect()))
    }

    fn leading(&self) -> Result<Epoch, WireError> {
        self.epoch().ok_or_else(|| self.not_leader())
    }

    /// Registered servers that no other took over.
    async fn serving_names(&self) -> Result<BTreeMap<ServerId, String>, WireError> {
        self.read_stale(|view| {
            let servers = read::servers(view)?.into_iter();
            let serving = servers.filter(|(_, row)| !row.retired);
            Ok(serving.map(|(server, row)| (server, row.name)).collect())
        })
        .await
    }

    async fn alive(&self, servers: &[ServerId]) -> Result<Vec<ServerId>, WireError> {
        let rows = self.read_stale(|view| read::servers(view)).await?;
        let now = monotonic();
        let is_alive = |server: &ServerId| {
            let row = rows.iter().find(|(id, _)| id == server);
            row.is_some_and(|(id, row)| {
                self.fleet.read(|fleet| fleet.health(*id, row.incarnation, now)) == Health::Alive
            })
        };
        Ok(servers.iter().copied().filter(is_alive).collect())
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::ids::Incarnation;

    use super::*;

    fn report(obeyed: u64) -> ScrubReport {
        ScrubReport {
            server: ServerId(1),
            incarnation: Incarnation([1; 16]),
            obeyed,
            progress: ScrubProgress::default(),
        }
    }

    #[test]
    fn a_request_is_repeated_until_it_is_obeyed_and_by_the_leader_who_was_asked() {
        let scrubs = Scrubs::default();
        let now = Duration::from_secs(1);
        assert_eq!(scrubs.take(&report(0), 4, now), None);
        scrubs.want(&[ServerId(1)], 9, 4);
        assert_eq!(scrubs.take(&report(0), 4, now), Some(9));
        assert_eq!(scrubs.take(&report(0), 4, now), Some(9), "the answer may be lost");
        assert!(!scrubs.has_begun(ServerId(1), 9));
        assert!(scrubs.shown(ServerId(1), "c1".into(), 4, now).waiting);
        assert_eq!(scrubs.take(&report(9), 4, now), None);
        assert!(scrubs.has_begun(ServerId(1), 9));
        assert!(!scrubs.shown(ServerId(1), "c1".into(), 4, now).waiting);
        scrubs.want(&[ServerId(1)], 9, 4);
        assert_eq!(scrubs.take(&report(9), 4, now), None, "asked again for the same");
        scrubs.want(&[ServerId(1)], 10, 4);
        assert_eq!(scrubs.take(&report(9), 6, now), None, "of an earlier term");
        assert_eq!(scrubs.take(&report(9), 4, now), None, "and forgotten with it");
    }
}
