//! Signs what lets a client reach chunkservers: tokens for chunks, tickets for connections.
//!
//! Nothing here is stored: every key is derived from the root key when needed. Invariant: a token expires no later
//! than the masters keep the chunk, so that it never goes away under a valid token. A single copy may, when others make
//! it superfluous: its reader goes on with one of those.

use std::collections::BTreeMap;

use gabion_protocol::ids::{ChunkId, ClusterId, ServerId, SessionId, StateTime};
use gabion_protocol::keys::{Identity, Key, Role, Ticket, wrap_connection_key};
use gabion_protocol::limits::TICKET_MS;
use gabion_protocol::messages::master::{ChunkGrant, Replica, ServerAccess};
use gabion_protocol::token::{Grant, Mode, Token};

use crate::fleet::View as FleetView;
use crate::state::key::chunk::{Chunk, Phase, ReplicaState};
use crate::state::key::server::Server;
use crate::state::read::{self, FileExtent};
use crate::state::reply::GrantedChunk;
use crate::state::rows::{Rows, RowsError};

/// The root key and what it is the root of.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) cluster: ClusterId,
    pub(super) root: Key,
}

impl Keys {
    pub(super) fn of(&self, identity: &Identity) -> Key {
        self.root.identity_key(self.cluster, identity)
    }

    fn of_server(&self, name: &str) -> Key {
        self.of(&Identity {
            role: Role::Chunkserver,
            id: name.to_owned(),
        })
    }

    /// How `asker` reaches a server until a ticket's period from `now`.
    pub(super) fn access(&self, id: ServerId, server: &Server, asker: &Identity, now: StateTime) -> ServerAccess {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).expect("the operating system provides randomness");
        let ticket = Ticket {
            bearer: asker.clone(),
            server: id,
            expires: now.plus(TICKET_MS),
            nonce,
        };
        let wrapped_key = wrap_connection_key(&self.of_server(&server.name), &self.of(asker), &ticket);
        ServerAccess {
            server: id,
            name: server.name.clone(),
            address: server.address.clone(),
            ticket,
            wrapped_key,
        }
    }
}

/// Signs for one answer: servers' rows and keys are looked up once each.
pub(super) struct Signer<'a> {
    pub(super) keys: &'a Keys,
    pub(super) rows: &'a dyn Rows,
    pub(super) asker: &'a Identity,
    pub(super) session: SessionId,
    pub(super) now: StateTime,
    /// How long a token is valid.
    pub(super) token_ms: u64,
    servers: BTreeMap<ServerId, Option<(Server, Key)>>,
}

impl<'a> Signer<'a> {
    /// Signs for `asker`'s `session` by what `rows` say.
    ///
    /// # Errors
    /// [`RowsError`] if the rows cannot be read.
    pub(super) fn new(
        keys: &'a Keys,
        rows: &'a dyn Rows,
        asker: &'a Identity,
        session: SessionId,
    ) -> Result<Self, RowsError> {
        let token_ms = read::cluster(rows)?.map_or(0, |cluster| cluster.settings.token_ms);
        Ok(Self {
            keys,
            rows,
            asker,
            session,
            now: read::now(rows)?,
            token_ms,
            servers: BTreeMap::new(),
        })
    }

    fn server(&mut self, id: ServerId) -> Result<Option<&(Server, Key)>, RowsError> {
        if !self.servers.contains_key(&id) {
            let row = read::server(self.rows, id)?;
            let known = row.map(|server| {
                let key = self.keys.of_server(&server.name);
                (server, key)
            });
            self.servers.insert(id, known);
        }
        Ok(self.servers.get(&id).and_then(Option::as_ref))
    }

    /// The granted chunks with write tokens.
    pub(super) fn grants(&mut self, granted: &[GrantedChunk]) -> Result<Vec<ChunkGrant>, RowsError> {
        let mut grants = Vec::with_capacity(granted.len());
        for chunk in granted {
            // A retried command's chunk may have been given up since: its copies are kept so long and no longer.
            let expires = match read::chunk(self.rows, chunk.chunk)?.map(|row| row.phase) {
                Some(Phase::Open | Phase::Sealed) => self.now.plus(self.token_ms),
                Some(Phase::Garbage { tokens_end }) => tokens_end.min(self.now.plus(self.token_ms)),
                None => self.now,
            };
            let mut replicas = Vec::with_capacity(chunk.replicas.len());
            for (server, replica) in chunk.replicas.iter().copied() {
                let grant = Grant {
                    chunk: chunk.chunk,
                    generation: chunk.generation,
                    replica,
                    server,
                    mode: Mode::Write,
                    session: self.session,
                    expires,
                };
                if let Some((_, key)) = self.server(server)? {
                    replicas.push(Replica {
                        server,
                        token: Token::sign(grant, key),
                        healthy: true,
                    });
                }
            }
            grants.push(ChunkGrant {
                chunk: chunk.chunk,
                generation: chunk.generation,
                replicas,
            });
        }
        Ok(grants)
    }

    /// The live copies of a sealed chunk with read tokens, those that can be expected to serve first.
    pub(super) fn copies(&mut self, extent: &FileExtent, health: Judge<'_>) -> Result<Vec<Replica>, RowsError> {
        self.copies_of(extent.extent.chunk, &extent.chunk, &extent.damaged, health)
    }

    /// As [`Self::copies`]: of a chunk, some of whose copies were reported `damaged`.
    pub(super) fn copies_of(
        &mut self,
        id: ChunkId,
        chunk: &Chunk,
        damaged: &[ServerId],
        health: Judge<'_>,
    ) -> Result<Vec<Replica>, RowsError> {
        let Chunk {
            generation, replicas, ..
        } = chunk;
        let mut copies = Vec::with_capacity(replicas.len());
        for copy in replicas.iter().filter(|copy| copy.state == ReplicaState::Live) {
            let grant = Grant {
                chunk: id,
                generation: *generation,
                replica: copy.number,
                server: copy.server,
                mode: Mode::Read,
                session: self.session,
                expires: self.now.plus(self.token_ms),
            };
            if let Some((row, key)) = self.server(copy.server)? {
                copies.push(Replica {
                    server: copy.server,
                    token: Token::sign(grant, key),
                    healthy: health.is_alive(copy.server, row) && !damaged.contains(&copy.server),
                });
            }
        }
        copies.sort_by_key(|copy| !copy.healthy);
        Ok(copies)
    }

    /// How to reach every server signed for so far.
    pub(super) fn accesses(&self) -> Vec<ServerAccess> {
        let known = self
            .servers
            .iter()
            .filter_map(|(id, known)| Some((*id, known.as_ref()?)));
        known
            .map(|(id, (server, _))| self.keys.access(id, server, self.asker, self.now))
            .collect()
    }
}

/// The fleet at one moment.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) fleet: &'a FleetView,
    /// Monotonic.
    pub(super) now: std::time::Duration,
}

impl Judge<'_> {
    /// Whether a server can be expected to serve reads.
    fn is_alive(&self, id: ServerId, server: &Server) -> bool {
        !server.retired && self.fleet.is_reachable(id, server.incarnation, self.now)
    }
}
