//! The whole server: opens its disks, registers, listens, and stops in good order.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use gabion_protocol::buffer::Pool;
use gabion_protocol::hello::{Hello, Target};
use gabion_protocol::keys::{Key, KeyFile, Role, connection_key};
use gabion_protocol::net::{Acceptor, Dialer, Handshakes, SeatCounts, Seats, accept_seated};
use gabion_protocol::{ErrorCode, Incarnation, WireError};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::disk::{Store, StoreOptions};
use crate::masters::{Masters, MastersOptions};
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::repair::Means;
use crate::scrub::{self, Limits};
use crate::serve::serve;

/// Idle bytes kept in aligned buffers for padding and re-reads.
const POOL_BYTES: usize = 8 << 20;
/// How long writes under way may take once the server is asked to stop.
const STOP: Duration = Duration::from_secs(5);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    store: Store,
    masters: Masters,
    pipeline: Pipeline,
    acceptor: Acceptor,
    scrub: Limits,
}

impl Server {
    /// Opens the disks and binds the address. Nothing is said to anyone yet.
    ///
    /// # Errors
    /// [`WireError`] with what to do: directory in use or of another cluster, port taken, and the like.
    pub async fn open(config: &Config, key: KeyFile) -> Result<Self, WireError> {
        let listener = TcpListener::bind(&config.listen).await.map_err(|error| {
            WireError::new(
                ErrorCode::Conflict,
                format!("cannot listen on {}: {error}", config.listen),
            )
            .help("stop whoever uses the port, or set another one with listen")
        })?;
        let options = StoreOptions {
            dirs: config.dirs.clone(),
            cluster: key.cluster,
            reserve: config.reserve.map(|size| size.0),
            direct_io: config.direct_io,
            pool: Pool::new(POOL_BYTES),
        };
        let opened = tokio::task::spawn_blocking(move || Store::open(&options)).await;
        let opened =
            opened.map_err(|error| WireError::new(ErrorCode::Internal, format!("cannot open the disks: {error}")))?;
        let (store, recovered) = opened.map_err(|e| e.to_wire())?;
        for found in &recovered {
            let damaged = found.damaged.len();
            tracing::info!(
                chunks = found.chunks,
                open = found.open,
                orphans = found.orphans,
                damaged,
                "disk opened"
            );
        }
        let boot = store.identity().map_err(|e| e.to_wire())?.boot;
        let incarnation = Incarnation::random();
        let streams = Arc::new(AtomicU32::new(0));
        let dialer = Dialer {
            cluster: key.cluster,
            identity: config.identity(),
            boot,
            incarnation,
            key: key.key.clone(),
            ticket: None,
            target: Target {
                role: Role::Master,
                id: None,
            },
        };
        let options = MastersOptions {
            addresses: config.masters.clone(),
            dialer,
            advertise: config.address().to_owned(),
            rack: config.rack.clone(),
        };
        let masters = Masters::new(options, store.clone(), Arc::clone(&streams)).await?;
        let admitting = masters.clone();
        let acceptor = Acceptor {
            cluster: key.cluster,
            identity: config.identity(),
            boot,
            incarnation,
            admit: Arc::new(move |hello: &Hello| admit(&admitting, hello)),
        };
        let pipeline = Pipeline::new(store.clone(), masters.clone(), config.write_memory.0, streams);
        Ok(Self {
            listener,
            store,
            masters,
            pipeline,
            acceptor,
            scrub: Limits {
                period_ms: config.scrub_period.millis(),
                rate_max: config.scrub_rate.0,
            },
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// What it knows of the masters.
    #[must_use]
    pub fn masters(&self) -> Masters {
        self.masters.clone()
    }

    /// Its disks.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Serves until `stop`, lets writes under way end, and closes the disks.
    ///
    /// # Errors
    /// The masters' final refusal of this server.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WireError> {
        let tasks = TaskTracker::new();
        let talking = self.masters.clone();
        let dropping = Pace::new(&self.pipeline.clients, Duration::ZERO);
        let stopping = stop.clone();
        // Beats go on while writes end, so that the masters do not take a stopping server for a dead one too early.
        let silent = CancellationToken::new();
        let hush = silent.clone();
        let talk = tokio::spawn(async move {
            let result = talking.run(hush, dropping).await;
            if result.is_err() {
                stopping.cancel();
            }
            result
        });
        let copies = self.masters.copies();
        let copying = copies.run(Means::new(
            self.store.clone(),
            self.pipeline.peers.clone(),
            Pace::new(&self.pipeline.clients, Duration::ZERO),
        ));
        let copying = tokio::spawn(stop.clone().run_until_cancelled_owned(copying));
        let scrubbing = scrub::run(self.store.clone(), self.masters.clone(), self.scrub, stop.clone());
        let scrubbing = tokio::spawn(scrubbing);
        let connections = CancellationToken::new();
        self.listen(&stop, &connections, &tasks).await;
        tasks.close();
        if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
            tracing::warn!("writes were still under way at the end; their chunks stay open");
        }
        connections.cancel();
        silent.cancel();
        let talked = talk.await.unwrap_or(Ok(()));
        // It ended with `stop`, and its copies with it: they begin anew after a start.
        let _ = copying.await;
        // Before the disks are closed. It ends with `stop`.
        let _ = scrubbing.await;
        drop(self.pipeline);
        self.store.close().await;
        talked
    }

    async fn listen(&self, stop: &CancellationToken, connections: &CancellationToken, tasks: &TaskTracker) {
        let seats = Seats::new(SeatCounts::of_this_process());
        let mut handshakes = Handshakes::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of file descriptors, most likely: room comes when a connection ends.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let handshake = handshakes.begin();
            let guest = Guest {
                seats: seats.clone(),
                acceptor: self.acceptor.clone(),
                pipeline: self.pipeline.clone(),
                stop: stop.clone(),
                tasks: tasks.clone(),
            };
            let ended = connections.clone();
            // Not tracked: a connection lives as long as its peer likes, requests on it are what counts.
            tokio::spawn(async move {
                ended.run_until_cancelled(guest.entertain(socket, handshake)).await;
            });
        }
    }
}

/// One accepted socket.
struct Guest {
    seats: Seats,
    acceptor: Acceptor,
    pipeline: Pipeline,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Guest {
    async fn entertain(self, socket: TcpStream, handshake: CancellationToken) {
        let accepted = accept_seated(socket, &self.acceptor, &self.seats);
        let greeted = handshake.run_until_cancelled(accepted).await;
        // Makes room for another.
        handshake.cancel();
        let Some(greeted) = greeted else {
            tracing::debug!("a handshake made room for a newer one");
            return;
        };
        match greeted {
            Ok((connection, incoming, _seat)) => {
                serve(self.pipeline, connection, incoming, self.stop, self.tasks).await;
            }
            Err(error) => tracing::debug!(%error, "a peer was not admitted"),
        }
    }
}

/// Who may come in: clients, operators and chunkservers with a ticket a master made for this server.
fn admit(masters: &Masters, hello: &Hello) -> Result<Key, WireError> {
    let who = &hello.from.identity;
    if who.role == Role::Master {
        return Err(WireError::new(
            ErrorCode::WrongRole,
            "a master has no business with a chunkserver's data",
        ));
    }
    let (server, now) = masters.standing()?;
    let refuse = |why: &str| {
        Err(
            WireError::new(ErrorCode::BadToken, format!("{who} is not admitted: {why}"))
                .help("ask a master for access"),
        )
    };
    let Some(ticket) = &hello.ticket else {
        return refuse("it shows no ticket");
    };
    if ticket.bearer != *who || ticket.server != server {
        return refuse("its ticket is for someone else");
    }
    if ticket.expires <= now {
        return refuse("its ticket has expired");
    }
    Ok(connection_key(masters.key(), ticket))
}
