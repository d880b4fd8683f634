//! The servers of one granted chunk, and what to do when they fail or fall silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use gabion_protocol::ids::{Ino, ServerId};
use gabion_protocol::messages::data::{Hop, WriteSpec};
use gabion_protocol::messages::master::{ChunkGrant, Seal};
use gabion_protocol::net::Connection;
use gabion_protocol::{ErrorCode, WireError};

use crate::Error;
use crate::client::Inner;
use crate::policy::chain::{HopView, Pulse, Verdict, dead, judge};
use crate::policy::latency::PATIENCE_MAX;

/// Why a chain was given up.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: WireError,
    /// Servers to avoid.
    pub(super) blame: Vec<ServerId>,
    /// No other chain can help.
    pub(super) is_final: bool,
}

impl Failure {
    /// Nobody is to blame; another chain may do better.
    pub(super) fn of(error: WireError) -> Self {
        Self {
            error,
            blame: Vec::new(),
            is_final: false,
        }
    }

    /// Our own side failed.
    pub(super) fn fatal(error: Error) -> Self {
        Self {
            is_final: true,
            ..Self::of(error.into_details())
        }
    }
}

/// One granted chunk's servers, in order.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub(super) inner: &'a Arc<Inner>,
    /// The file the chunk is for.
    owner: Ino,
    bytes_max: u64,
    pub(super) grant: &'a ChunkGrant,
    pub(super) servers: Vec<ServerId>,
}

impl<'a> Chain<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, owner: Ino, bytes_max: u64, grant: &'a ChunkGrant) -> Self {
        Self {
            inner,
            owner,
            bytes_max,
            grant,
            servers: grant.replicas.iter().map(|replica| replica.server).collect(),
        }
    }

    /// The connection to the first server.
    pub(super) async fn connect(&self) -> Result<Connection, WireError> {
        let inner = self.inner;
        let head = self.servers.first().ok_or_else(|| {
            WireError::new(
                ErrorCode::Protocol,
                format!("chunk {} was granted without servers", self.grant.chunk),
            )
        })?;
        inner.servers.connection(&inner.masters, *head).await
    }

    /// What the servers are told about the chunk.
    pub(super) fn spec(&self, file_offset: u64) -> Result<WriteSpec, WireError> {
        let hop = |replica: &gabion_protocol::messages::master::Replica| {
            let address = self.inner.servers.address(replica.server).ok_or_else(|| {
                WireError::new(
                    ErrorCode::Protocol,
                    format!("the masters did not tell where chunkserver {} is", replica.server),
                )
            })?;
            Ok(Hop {
                server: replica.server,
                address,
                token: replica.token,
            })
        };
        Ok(WriteSpec {
            chunk: self.grant.chunk,
            generation: self.grant.generation,
            chain: self.grant.replicas.iter().map(hop).collect::<Result<_, WireError>>()?,
            owner: self.owner,
            file_offset,
            bytes_max: self.bytes_max,
        })
    }

    /// What the masters are told about the sealed chunk: an ack of the first server speaks for the whole chain.
    pub(super) fn sealed(&self, file_offset: u64, length: u64, crc: u32) -> Seal {
        Seal {
            chunk: self.grant.chunk,
            generation: self.grant.generation,
            file_offset,
            length,
            crc,
            members: self.servers.clone(),
        }
    }

    /// How long the chain may be silent before its servers are looked at.
    pub(super) fn patience(&self) -> Duration {
        let patience = |server: &ServerId| self.inner.servers.patience(*server);
        self.servers.iter().map(patience).max().unwrap_or(PATIENCE_MAX)
    }

    pub(super) async fn probe(&self) -> Vec<Pulse> {
        let inner = self.inner;
        inner.servers.probe(&inner.masters, &self.servers).await
    }

    /// Waits for `answer`; while it does not come, looks whether the servers are alive.
    pub(super) async fn watch<T>(&self, answer: impl Future<Output = Result<T, WireError>>) -> Result<T, Failure> {
        let mut answer = std::pin::pin!(answer);
        let asked = Instant::now();
        let mut patience = self.patience();
        loop {
            let answered = match tokio::time::timeout(patience, &mut answer).await {
                Ok(answered) => Some(answered),
                Err(_) => {
                    let pulses = self.probe().await;
                    // An answer that came meanwhile counts.
                    match answer.as_mut().now_or_never() {
                        Some(answered) => Some(answered),
                        None => {
                            self.conclude(&pulses, &vec![0; pulses.len()], asked.elapsed())?;
                            patience = patience.max(asked.elapsed() / 2);
                            None
                        }
                    }
                }
            };
            match answered {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => return Err(self.blame(error).await),
                None => {}
            }
        }
    }

    /// Looks at the servers and judges them.
    pub(super) async fn judge(&self, stored: &[u64], silent: Duration) -> Result<(), Failure> {
        let pulses = self.probe().await;
        self.conclude(&pulses, stored, silent)
    }

    /// Judges servers just probed.
    pub(super) fn conclude(&self, pulses: &[Pulse], stored: &[u64], silent: Duration) -> Result<(), Failure> {
        let views = pulses.iter().zip(stored).map(|(pulse, stored)| HopView {
            pulse: *pulse,
            stored: *stored,
        });
        let views: Vec<_> = views.collect();
        match judge(&views, silent) {
            Verdict::Wait => Ok(()),
            Verdict::Leave(hops) => {
                let millis = silent.as_millis();
                let what = if hops.iter().any(|hop| pulses[*hop] != Pulse::Alive) {
                    "does not answer"
                } else {
                    "stores nothing"
                };
                Err(Failure {
                    blame: hops.into_iter().map(|hop| self.servers[hop]).collect(),
                    ..Failure::of(WireError::new(
                        ErrorCode::Timeout,
                        format!("{what}, no progress for {millis} ms"),
                    ))
                })
            }
        }
    }

    /// The chain failed as a whole: finds out which server did.
    pub(super) async fn blame(&self, error: WireError) -> Failure {
        if error.code == ErrorCode::BadToken {
            // A fresh grant has fresh tokens.
            return Failure::of(error);
        }
        let pulses = self.probe().await;
        let dead = dead(pulses.into_iter());
        let mut blame: Vec<_> = dead.into_iter().map(|hop| self.servers[hop]).collect();
        if blame.is_empty() && is_the_servers(error.code) {
            // Each server that passed the error up has added a line.
            blame.extend(self.culprit(error.tried.len(), error.code));
        }
        Failure {
            blame,
            ..Failure::of(error)
        }
    }

    /// A server said which hop failed.
    pub(super) async fn hop_failed(&self, hop: u8, error: WireError) -> Failure {
        match self.culprit(usize::from(hop), error.code) {
            Some(server) if is_the_servers(error.code) => Failure {
                blame: vec![server],
                ..Failure::of(error)
            },
            _ => self.blame(error).await,
        }
    }

    /// Whom the error of the server at `hop` speaks against.
    fn culprit(&self, hop: usize, code: ErrorCode) -> Option<ServerId> {
        let server = *self.servers.get(hop)?;
        if code != ErrorCode::ChecksumMismatch {
            return Some(server);
        }
        // What it got is not what was sent: every server verifies before it passes on.
        let sender = hop.checked_sub(1).map(|above| self.servers[above]);
        Some(self.inner.servers.complained(sender, server))
    }
}

/// Whether such an error speaks against a server, and not against the grant.
fn is_the_servers(code: ErrorCode) -> bool {
    !matches!(code, ErrorCode::BadToken | ErrorCode::Fenced)
}
