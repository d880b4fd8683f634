//! Questions put to the servers directly, in their own protocol: what they believe, and what is stored.

use std::time::{Duration, Instant};

use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::{Incarnation, SessionId};
use gabion_protocol::keys::{Holder, Role, unwrap_connection_key};
use gabion_protocol::messages::master::{
    Entry, Freshness, Health, Located, Page, Query, Request, Response, ServerAccess, ServerInfo, Status,
};
use gabion_protocol::net::{Connection, Dialer, dial};
use gabion_protocol::{ErrorCode, WireError};
use tokio::runtime::Runtime;

use super::{Cluster, fs_path};
use crate::wait::{seconds, tell, try_until, until};

/// For a question to one master, which may be dead, stopped or cut off.
const ASK: Duration = Duration::from_millis(500);
/// For the cluster to be whole after a start.
const READY: Duration = seconds(30);

impl Cluster {
    /// How an operator dials a master.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        let Holder::One(identity) = self.operator.holder.clone() else {
            panic!("an issued key has one holder")
        };
        Dialer {
            cluster: self.root.cluster,
            identity,
            boot: 0,
            incarnation: Incarnation::random(),
            key: self.operator.key.clone(),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: None,
            },
        }
    }

    /// A connection to one master as an operator.
    ///
    /// # Errors
    /// Why there is none.
    pub fn dial(&self, master: &str, deadline: Duration) -> Result<Connection, WireError> {
        let dialer = self.dialer();
        self.runtime
            .block_on(dial(&self.node(master).address, &dialer, deadline))
    }

    /// A connection to a chunkserver as an operator, with what the masters gave for it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn dial_server(&self, access: &ServerAccess, address: &str) -> Result<Connection, WireError> {
        let dialer = Dialer {
            key: unwrap_connection_key(&self.operator.key, &access.ticket, &access.wrapped_key),
            ticket: Some(access.ticket.clone()),
            target: Target {
                role: Role::Chunkserver,
                id: None,
            },
            ..self.dialer()
        };
        self.runtime.block_on(dial(address, &dialer, ASK))
    }

    /// Puts a request on a connection and waits for the answer.
    ///
    /// # Errors
    /// The answer, if it is an error, or why there was none.
    pub fn call(&self, connection: &Connection, request: &Request, deadline: Duration) -> Result<Response, WireError> {
        let call = connection.call(Kind::MasterRequest, request, bytes::Bytes::new(), deadline);
        self.runtime.block_on(call).map(|(answer, _)| answer)
    }

    /// Asks one master.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn ask(&self, master: &str, request: &Request) -> Result<Response, WireError> {
        let connection = self.dial(master, ASK)?;
        let answer = self.call(&connection, request, ASK);
        connection.close();
        answer
    }

    /// The runtime on which this cluster's own questions run.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What one master believes, if it answers.
    #[must_use]
    pub fn status_of(&self, master: &str) -> Option<Status> {
        if !self.node(master).answers() {
            return None;
        }
        let request = Request::Query {
            query: Query::Status,
            freshness: Freshness::Stale,
        };
        match self.ask(master, &request) {
            Ok(Response::Status(status)) => Some(*status),
            Ok(_) | Err(_) => None,
        }
    }

    /// The master that says it leads, of the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        self.masters()
            .iter()
            .filter_map(|name| self.status_of(name))
            .filter(|status| status.leader == Some(status.answered_by))
            .max_by_key(|status| status.term)
            .map(|status| format!("m{}", status.answered_by))
    }

    /// Waits for a leader.
    ///
    /// # Panics
    /// If none appears within 15 s.
    #[track_caller]
    pub fn wait_leader(&self) -> String {
        until("a master leads", seconds(15), || self.leader())
    }

    /// Waits for a leader other than `old`.
    ///
    /// # Panics
    /// If none appears within 15 s.
    #[track_caller]
    pub fn wait_leader_other_than(&self, old: &str) -> String {
        until(&format!("a master other than {old} leads"), seconds(15), || {
            self.leader().filter(|leader| leader != old)
        })
    }

    /// A master that runs and does not lead.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn follower(&self) -> String {
        let leader = self.wait_leader();
        self.masters()
            .into_iter()
            .find(|name| *name != leader && self.node(name).answers())
            .expect("a follower runs")
    }

    /// The leader's view.
    ///
    /// # Panics
    /// If there is no leader within 15 s.
    #[track_caller]
    pub fn status(&self) -> Status {
        until("the leader tells its status", seconds(15), || {
            self.status_of(&self.leader()?)
        })
    }

    /// Why the cluster is not whole; `None` if it is: one leader that all running masters follow, and every running
    /// chunkserver alive in its eyes.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some("no leader".to_owned());
        };
        let Some(status) = self.status_of(&leader) else {
            return Some(format!("{leader} does not answer"));
        };
        for node in self.nodes.values().filter(|node| node.answers()) {
            let fine = if node.is_master() {
                self.status_of(&node.name)
                    .is_some_and(|seen| seen.leader == status.leader)
            } else {
                // Heard from by a leader that may be new, and in this life, not only just before its restart.
                let serves = |server: &ServerInfo| {
                    let age = server.beat_age_ms.map(Duration::from_millis);
                    let heard = age.is_some_and(|age| age < node.process().age());
                    server.health == Health::Alive && heard && server.load.disks_ok > 0
                };
                status
                    .servers
                    .iter()
                    .any(|server| server.name == node.name && serves(server))
            };
            if !fine {
                return Some(format!("{} is not there yet", node.name));
            }
        }
        None
    }

    /// Waits until the cluster is whole.
    ///
    /// # Panics
    /// If that takes over 30 s.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let (began, mut why) = (Instant::now(), None);
        let ready = try_until(READY, || {
            self.assert_all_run();
            why = self.not_ready();
            why.is_none().then_some(())
        });
        assert!(ready.is_some(), "the cluster is not whole after {READY:?}: {why:?}");
        tell("(the cluster is whole)", began);
    }

    /// Waits until `name` is alive in the leader's eyes, or is not any more.
    ///
    /// # Panics
    /// If that takes over 30 s.
    #[track_caller]
    pub fn wait_server(&self, name: &str, alive: bool) {
        until(&format!("{name} is seen as alive = {alive}"), READY, || {
            let status = self.status_of(&self.leader()?)?;
            let server = status.servers.iter().find(|server| server.name == name)?;
            ((server.health == Health::Alive) == alive).then_some(())
        });
    }

    /// A linearizable read, retried while there is no leader.
    ///
    /// # Errors
    /// The answer, if it is an error that a retry does not help.
    #[track_caller]
    pub fn query(&self, query: &Query) -> Result<Response, WireError> {
        let request = Request::Query {
            query: query.clone(),
            freshness: Freshness::Linearizable,
        };
        until(&format!("an answer to {query:?}"), seconds(15), || {
            let leader = self.last_leader().or_else(|| self.leader())?;
            match self.ask(&leader, &request) {
                Err(error) if error.code.exit_code() == 5 => {
                    self.answered.take();
                    None
                }
                answer => {
                    self.answered.replace(Some(leader));
                    Some(answer)
                }
            }
        })
    }

    /// The master that answered the last linearizable read, if it runs: one that leads no more refuses the next.
    fn last_leader(&self) -> Option<String> {
        let last = self.answered.borrow().clone();
        last.filter(|name| self.node(name).answers())
    }

    /// What is at a path; `None` if nothing.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn stat(&self, path: &str) -> Option<Entry> {
        match self.query(&Query::Stat { path: fs_path(path) }) {
            Ok(Response::Entry(entry)) => Some(entry),
            Err(error) if error.code == ErrorCode::NotFound => None,
            other => panic!("stat {path}: {other:?}"),
        }
    }

    /// The names in a directory (the first thousand).
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        let query = Query::List {
            path: fs_path(path),
            after: None,
            limit: 1000,
        };
        match self.query(&query) {
            Ok(Response::Page(Page { entries, .. })) => entries.into_iter().map(|entry| entry.name).collect(),
            other => panic!("list {path}: {other:?}"),
        }
    }

    /// Where the first bytes of a file are.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn locate(&self, path: &str) -> Located {
        let query = Query::Locate {
            path: fs_path(path),
            ino: None,
            offset: 0,
            limit: 64,
            session: SessionId {
                opened: self.status().now,
                random: u64::from(std::process::id()),
            },
        };
        match self.query(&query) {
            Ok(Response::Located(located)) => located,
            other => panic!("locate {path}: {other:?}"),
        }
    }
}

impl Cluster {
    /// Chunk files on all servers.
    #[must_use]
    pub fn chunk_files(&self) -> usize {
        let of = |name: &String| crate::damage::chunk_files(&self.node(name).dir).len();
        self.chunkservers().iter().map(of).sum()
    }

    /// Chunks the servers say they hold, those in the index too.
    #[must_use]
    pub fn chunks_held(&self) -> u64 {
        self.status().servers.iter().map(|server| server.load.chunks).sum()
    }
}
