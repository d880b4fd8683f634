//! The masters: who they are, which one leads, and asking them until one answers.
//!
//! [`Masters::ask`] sends one request wherever [`Route`] says until it is answered or the time is up. Commands carry
//! their (session, sequence), so sending them to several masters, or again to the same one, runs them once. So nobody
//! waits for ever for an answer that was lost on a connection that lives: who owes one for long is asked again.

mod endpoint;
mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gabion_protocol::ids::MasterId;
use gabion_protocol::messages::master::{Admin, Freshness, Op, Query, Request, Response};
use gabion_protocol::net::Dialer;
use gabion_protocol::{Action, ErrorCode, WireError};
use parking_lot::Mutex;

use crate::policy::route::{Route, repeat_after};
use crate::random;
use endpoint::Endpoint;
pub(crate) use session::Session;
use session::Sessions;

/// Most master addresses remembered: redirects of a broken cluster must not grow the list without end.
const ENDPOINTS_MAX: usize = 64;
/// A connection on which a request stayed unanswered for so long while another master answered it is given up.
const SILENT: Duration = Duration::from_secs(1);

/// The masters of one cluster.
#[derive(Debug)]
pub(crate) struct Masters {
    dialer: Dialer,
    wait: Duration,
    fleet: Mutex<Fleet>,
    sessions: Sessions,
}

#[derive(Debug)]
struct Fleet {
    endpoints: Vec<Arc<Endpoint>>,
    leader: Option<usize>,
}

impl Fleet {
    fn position(&mut self, address: &str) -> Option<usize> {
        let known = self.endpoints.iter().position(|endpoint| endpoint.address() == address);
        known.or_else(|| {
            if self.endpoints.len() >= ENDPOINTS_MAX {
                return None;
            }
            self.endpoints.push(Arc::new(Endpoint::new(address)));
            Some(self.endpoints.len() - 1)
        })
    }
}

/// Who can answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answerer {
    Leader,
    Anyone,
}

fn answerer(request: &Request) -> Answerer {
    match request {
        Request::Access { .. }
        | Request::Query {
            freshness: Freshness::Stale,
            ..
        } => Answerer::Anyone,
        // A follower sends a new session to the leader, who is then known before the first command.
        Request::OpenSession
        | Request::Command { .. }
        | Request::Query { .. }
        | Request::Register(_)
        | Request::Beat(_)
        | Request::ScrubReport(_)
        | Request::Inventory(_)
        | Request::Disks(_)
        | Request::Admin(_) => Answerer::Leader,
    }
}

/// Whether the masters take a request they know already for the same one, or it changes nothing. An operator's
/// request is neither: it may take long, and the second would fail because of the first.
fn may_be_repeated(request: &Request) -> bool {
    match request {
        Request::OpenSession
        | Request::Command { .. }
        | Request::Query { .. }
        | Request::Access { .. }
        // Numbered by the asker, or a question.
        | Request::Admin(
            Admin::StartScrub { .. }
            | Admin::ScrubStatus
            | Admin::InventoryStatus
            | Admin::AcceptUnknown { .. }
            | Admin::DiskStatus
            | Admin::InspectChunk { .. }
            | Admin::RepairChunk { .. },
        ) => true,
        Request::Admin(_)
        | Request::Register(_)
        | Request::Beat(_)
        | Request::ScrubReport(_)
        | Request::Inventory(_) | Request::Disks(_) => false,
    }
}

/// Said by a master before it ran anything, or by nobody at all: the same request may go elsewhere.
fn means_elsewhere(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader | ErrorCode::NoLeader | ErrorCode::NoQuorum | ErrorCode::Timeout | ErrorCode::Unreachable
    )
}

impl Masters {
    pub(crate) fn new(addresses: &[String], dialer: Dialer, wait: Duration) -> Self {
        let mut fleet = Fleet {
            endpoints: Vec::new(),
            leader: None,
        };
        for address in addresses {
            fleet.position(address);
        }
        Self {
            dialer,
            wait,
            fleet: Mutex::new(fleet),
            sessions: Sessions::default(),
        }
    }

    /// Masters as last told by one of them.
    pub(crate) fn known(&self) -> Vec<(MasterId, String)> {
        let fleet = self.fleet.lock();
        let mut known: Vec<_> = fleet
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint.id()?, endpoint.address().to_owned())))
            .collect();
        known.sort();
        known
    }

    fn learn(&self, masters: &[(MasterId, String)]) {
        let mut fleet = self.fleet.lock();
        for (id, address) in masters {
            if let Some(position) = fleet.position(address) {
                fleet.endpoints[position].learn_id(*id);
            }
        }
    }

    /// Runs a command once.
    pub(crate) async fn command(&self, op: Op) -> Result<Response, WireError> {
        let session = self.session().await?;
        self.command_in(&session, op).await
    }

    /// Runs a command once, in a session of the caller's: an upload belongs to the session that opened it.
    pub(crate) async fn command_in(&self, session: &Arc<Session>, op: Op) -> Result<Response, WireError> {
        self.command_within(session, op, self.wait).await
    }

    /// As [`Self::command_in`], with a time of its own.
    pub(crate) async fn command_within(
        &self,
        session: &Arc<Session>,
        op: Op,
        wait: Duration,
    ) -> Result<Response, WireError> {
        let until = Instant::now() + wait;
        let turn = session.turn(wait).await?;
        let request = Request::Command {
            request: turn.request(),
            answered_below: turn.answered_below(),
            op,
        };
        let left = until.saturating_duration_since(Instant::now());
        let answer = self.ask_within(request, left).await;
        if matches!(&answer, Err(error) if error.code == ErrorCode::OutcomeUnknown) {
            // The masters have forgotten the session; later commands begin another.
            self.sessions.forget(session);
        }
        answer
    }

    /// A linearizable read.
    pub(crate) async fn query(&self, query: Query) -> Result<Response, WireError> {
        self.ask(Request::Query {
            query,
            freshness: Freshness::Linearizable,
        })
        .await
    }

    /// An operator's request.
    pub(crate) async fn admin(&self, admin: Admin) -> Result<Response, WireError> {
        self.ask(Request::Admin(admin)).await
    }

    /// Asks one master by its id; its answer may be stale.
    pub(crate) async fn query_one(&self, master: MasterId, query: Query) -> Result<Response, WireError> {
        let endpoint = {
            let fleet = self.fleet.lock();
            let known = fleet.endpoints.iter().find(|endpoint| endpoint.id() == Some(master));
            known.cloned()
        };
        let endpoint = endpoint.ok_or_else(|| {
            WireError::new(ErrorCode::NotFound, format!("there is no master m{master}"))
                .help("see the masters: gabion admin status")
        })?;
        let request = Request::Query {
            query,
            freshness: Freshness::Stale,
        };
        let answer = tokio::time::timeout(self.wait, endpoint.ask(&self.dialer, &request, self.wait)).await;
        answer.unwrap_or_else(|_| {
            Err(WireError::new(
                ErrorCode::Timeout,
                format!("no answer from {} within {} s", endpoint.label(), self.wait.as_secs()),
            ))
        })
    }

    /// Sends `request` to masters until one answers it, or the time is up.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, WireError> {
        self.ask_within(request, self.wait).await
    }

    async fn ask_within(&self, request: Request, wait: Duration) -> Result<Response, WireError> {
        let mut asking = Asking::new(self, request, wait);
        let mut attempts = FuturesUnordered::new();
        loop {
            if let Some(position) = asking.next() {
                attempts.push(asking.attempt(position));
            }
            if asking.route.is_hopeless() {
                return Err(asking.failure());
            }
            let pause = asking.pause();
            tokio::select! {
                biased;
                Some((attempt, answer)) = attempts.next(), if !attempts.is_empty() => {
                    if let Some(decided) = asking.heard(attempt, answer) {
                        return decided;
                    }
                }
                () = tokio::time::sleep(pause) => {
                    if asking.is_late() {
                        return Err(asking.failure());
                    }
                    asking.silence();
                }
            }
        }
    }
}

/// One request under way.
struct Asking<'a> {
    masters: &'a Masters,
    request: Arc<Request>,
    answerer: Answerer,
    started: Instant,
    wait: Duration,
    route: Route,
    /// How each master answered last, in the fleet's order.
    tried: Vec<Tried>,
    /// Whether the next master has its turn now, not after a pause.
    asks_now: bool,
    /// Asked for by the leader itself: not before this.
    not_before: Option<Instant>,
}

/// What became of asking one master.
#[derive(Debug, Clone, Default)]
struct Tried {
    /// Since when it owes an answer.
    asked: Option<Instant>,
    /// When it was asked last, while it owes an answer.
    repeated: Option<Instant>,
    /// How often it was asked again since it owes an answer.
    repeats: u32,
    /// How often it was asked in all.
    attempts: u32,
    error: Option<WireError>,
}

/// One asking of one master.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    position: usize,
    /// The master's how many-eth.
    number: u32,
}

impl<'a> Asking<'a> {
    fn new(masters: &'a Masters, request: Request, wait: Duration) -> Self {
        let answerer = answerer(&request);
        let (count, leader) = {
            let fleet = masters.fleet.lock();
            (fleet.endpoints.len(), fleet.leader)
        };
        let start = usize::try_from(random() % 1024).unwrap_or(0);
        Self {
            masters,
            request: Arc::new(request),
            answerer,
            started: Instant::now(),
            wait,
            route: Route::new(count, leader, start),
            tried: vec![Tried::default(); count],
            asks_now: true,
            not_before: None,
        }
    }

    /// Whom to ask now.
    fn next(&mut self) -> Option<usize> {
        if !std::mem::take(&mut self.asks_now) {
            return None;
        }
        self.overdue().or_else(|| self.route.pick())
    }

    /// A master that owes an answer for so long that it is asked again. The answer may be lost, not late.
    fn overdue(&mut self) -> Option<usize> {
        if !may_be_repeated(&self.request) {
            return None;
        }
        let is_overdue = |tried: &Tried| {
            let asked = tried.repeated.map(|repeated| repeated.elapsed());
            asked.is_some_and(|silent| silent >= repeat_after(tried.repeats))
        };
        let position = self.tried.iter().position(is_overdue)?;
        self.tried[position].repeats += 1;
        Some(position)
    }

    fn attempt(&mut self, position: usize) -> impl Future<Output = (Attempt, Result<Response, WireError>)> + use<'a> {
        self.tried.resize(self.tried.len().max(position + 1), Tried::default());
        let tried = &mut self.tried[position];
        let now = Instant::now();
        tried.asked.get_or_insert(now);
        tried.repeated = Some(now);
        tried.attempts += 1;
        let attempt = Attempt {
            position,
            number: tried.attempts,
        };
        let endpoint = Arc::clone(&self.masters.fleet.lock().endpoints[position]);
        let request = Arc::clone(&self.request);
        let dialer = &self.masters.dialer;
        // Longer than the request's own time, which ends it in one place.
        let left = self.left() + SILENT;
        async move { (attempt, endpoint.ask(dialer, &request, left).await) }
    }

    fn left(&self) -> Duration {
        self.wait.saturating_sub(self.started.elapsed())
    }

    fn is_late(&self) -> bool {
        self.left().is_zero()
    }

    fn pause(&self) -> Duration {
        let pause = match self.not_before {
            Some(moment) => moment.saturating_duration_since(Instant::now()),
            None => self.route.pause(random()),
        };
        pause.min(self.left())
    }

    /// Nothing was heard for a while: someone else gets a turn.
    fn silence(&mut self) {
        self.not_before = None;
        self.asks_now = true;
        if !self.route.has_turn() {
            self.route.next_round();
        }
    }

    /// An answer has come; `Some` ends the request.
    fn heard(&mut self, attempt: Attempt, answer: Result<Response, WireError>) -> Option<Result<Response, WireError>> {
        let position = attempt.position;
        let error = match answer {
            Ok(response) => {
                self.answered_by(position);
                return Some(Ok(response));
            }
            Err(error) => error,
        };
        let tried = &mut self.tried[position];
        if attempt.number < tried.attempts && means_elsewhere(error.code) {
            // It was asked again since, and what it says to that counts.
            return None;
        }
        tried.asked = None;
        tried.repeated = None;
        tried.repeats = 0;
        tried.error = Some(error.clone());
        let ended = self.refused(position, &error);
        ended.then_some(Err(error))
    }

    fn answered_by(&self, position: usize) {
        let mut fleet = self.masters.fleet.lock();
        if self.answerer == Answerer::Leader {
            fleet.leader = Some(position);
        }
        for (silent, tried) in fleet.endpoints.iter().zip(&self.tried) {
            if tried.asked.is_some_and(|asked| asked.elapsed() > SILENT)
                && silent.address() != fleet.endpoints[position].address()
            {
                silent.close();
            }
        }
    }

    /// What a refusal means for the route; true if it is the request's answer.
    fn refused(&mut self, position: usize, error: &WireError) -> bool {
        let endpoint = Arc::clone(&self.masters.fleet.lock().endpoints[position]);
        match (error.code, error.action) {
            (_, Action::Redirect) => {
                let leader = error
                    .leader
                    .as_deref()
                    .and_then(|address| self.masters.fleet.lock().position(address));
                match leader {
                    Some(leader) => self.route.redirected(position, leader),
                    None => self.route.failed(position),
                }
                self.asks_now = true;
                false
            }
            (code, _) if means_elsewhere(code) => {
                self.route.failed(position);
                self.asks_now = true;
                false
            }
            (ErrorCode::Busy, Action::Retry { after_ms }) => {
                self.route.failed(position);
                let jitter = random() % u64::from(after_ms.max(10));
                self.not_before = Some(Instant::now() + Duration::from_millis(u64::from(after_ms) + jitter));
                false
            }
            // It turned us away at the door; another one may not.
            (
                ErrorCode::WrongKey
                | ErrorCode::WrongCluster
                | ErrorCode::WrongVersion
                | ErrorCode::StaleDirectory
                | ErrorCode::Protocol,
                _,
            ) if !endpoint.is_connected() => {
                self.route.turned_away(position);
                self.asks_now = true;
                false
            }
            _ => true,
        }
    }

    /// The error of a request nobody answered in time.
    fn failure(&self) -> WireError {
        let endpoints = self.masters.fleet.lock().endpoints.clone();
        let refusals = || self.tried.iter().filter_map(|tried| tried.error.as_ref());
        if let Some(error) = refusals().find(|_| self.route.is_hopeless()) {
            return self.with_tried(error.clone(), &endpoints);
        }
        if let Some(leader) = self.silent_leader(&endpoints) {
            let error = WireError::new(
                ErrorCode::Timeout,
                format!("the leader did not answer within {} s", self.wait.as_secs()),
            )
            .why(format!(
                "{leader} is up, and busy or waiting for chunkservers or for the other masters"
            ))
            .help("see gabion admin status, or wait longer (--wait 60s)");
            return self.with_tried(error, &endpoints);
        }
        let unheard = |code| matches!(code, ErrorCode::Unreachable | ErrorCode::Timeout);
        let up = refusals().filter(|error| !unheard(error.code)).count();
        let total = endpoints.len();
        let error = if up == 0 {
            WireError::new(ErrorCode::Unreachable, "no master can be reached")
                .why(format!(
                    "none of {total} masters answered within {} s",
                    self.wait.as_secs()
                ))
                .help("check the addresses (GABION_MASTERS) and that the masters run: ops/cluster status")
        } else if up * 2 <= total {
            WireError::new(ErrorCode::NoQuorum, "the masters have no majority")
                .why(format!(
                    "{up} of {total} masters are up; a majority is needed to decide anything"
                ))
                .help("start the masters that are down: ops/cluster start NODE")
        } else {
            WireError::new(ErrorCode::NoLeader, "no master is leader")
                .why(format!("{up} of {total} masters are up, an election is running"))
                .help("wait a few seconds (--wait 30s), or start the masters that are down: ops/cluster start NODE")
        };
        self.with_tried(error, &endpoints)
    }

    /// The master others name as the leader, if we are connected to it and it is silent.
    fn silent_leader(&self, endpoints: &[Arc<Endpoint>]) -> Option<String> {
        let named: Vec<&str> = self
            .tried
            .iter()
            .filter_map(|tried| tried.error.as_ref()?.leader.as_deref())
            .collect();
        let mut asked = self
            .tried
            .iter()
            .zip(endpoints)
            .filter(|(tried, _)| tried.asked.is_some());
        let (_, silent) = asked.find(|(_, endpoint)| endpoint.is_connected() && named.contains(&endpoint.address()))?;
        Some(silent.label())
    }

    fn with_tried(&self, error: WireError, endpoints: &[Arc<Endpoint>]) -> WireError {
        self.tried
            .iter()
            .zip(endpoints)
            .fold(error, |error, (tried, endpoint)| {
                let answer = match (&tried.error, tried.asked) {
                    (_, Some(asked)) => format!("no answer within {} ms", asked.elapsed().as_millis()),
                    (Some(refusal), None) => refusal.leader.as_ref().map_or_else(
                        || {
                            refusal
                                .tried
                                .first()
                                .map_or_else(|| refusal.message.clone(), |own| own.result.clone())
                        },
                        |leader| format!("follower, names {leader} as the leader"),
                    ),
                    (None, None) => return error,
                };
                error.tried(endpoint.label(), answer)
            })
    }
}
