//! Dialing and accepting: TCP, then the hello of [`crate::hello`].

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::connection::{Connection, Incoming, Peer, Side};
use super::reader::FrameReader;
use super::seats::{Seat, Seats};
use crate::buffer::Pool;
use crate::error::{ErrorCode, WireError};
use crate::frame::{FrameLimits, Head, Kind};
use crate::hello::{
    Challenge, Hello, Introduction, LEVEL_MAX, Proof, Target, Transcript, VERSION_MAX, VERSION_MIN, check_target,
    choose_version,
};
use crate::ids::{ClusterId, Incarnation};
use crate::keys::{Identity, Key, Purpose, Ticket};
use crate::limits::{HANDSHAKE_MS_MAX, SEND_QUEUE_FRAMES, UNACKNOWLEDGED_MS_MAX};
use crate::messages::{Answer, decode, encode};

/// Idle bytes each process keeps in pooled payload buffers: a few streams' windows.
const POOL_BYTES: usize = 32 << 20;

/// The process's pool: buffers must outlive connections, or each new one pays the first touch again.
fn pool() -> &'static Pool {
    static POOL: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    POOL.get_or_init(|| Pool::new(POOL_BYTES))
}

/// What a dialing side says of itself, whom it wants, and the key it proves.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub identity: Identity,
    /// Counts its starts; 0 for programs without a directory.
    pub boot: u64,
    /// This run of the process.
    pub incarnation: Incarnation,
    /// The key both sides prove: the dialer's own, or, with a ticket, the ticket's.
    pub key: Key,
    /// What entitles it, towards a chunkserver.
    pub ticket: Option<Ticket>,
    /// Whom it wants.
    pub target: Target,
}

/// Decides whether a peer may come in, and with which key it must prove itself.
pub trait Admit: Send + Sync {
    /// The key the dialer must prove.
    ///
    /// # Errors
    /// Why the dialer is turned away; it is told.
    fn admit(&self, hello: &Hello) -> Result<Key, WireError>;
}

impl<F: Fn(&Hello) -> Result<Key, WireError> + Send + Sync> Admit for F {
    fn admit(&self, hello: &Hello) -> Result<Key, WireError> {
        self(hello)
    }
}

/// What an accepting side says of itself, and whom it admits.
#[derive(Clone)]
pub struct Acceptor {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub identity: Identity,
    /// Counts its starts.
    pub boot: u64,
    /// This run of the process.
    pub incarnation: Incarnation,
    /// Whom it admits.
    pub admit: Arc<dyn Admit>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

fn introduction(identity: &Identity, boot: u64, incarnation: Incarnation) -> Introduction {
    Introduction {
        identity: identity.clone(),
        boot,
        incarnation,
        level: LEVEL_MAX,
        // A fresh random 128-bit value.
        nonce: Incarnation::random().0,
    }
}

/// Connects to `address` (`host:port`; names are resolved again each time) and proves both sides.
///
/// # Errors
/// [`ErrorCode::Unreachable`], [`ErrorCode::Timeout`], or why the peer turned us away.
pub async fn dial(address: &str, dialer: &Dialer, deadline: Duration) -> Result<Connection, WireError> {
    let attempt = async {
        let socket = TcpStream::connect(address).await.map_err(|error| {
            WireError::new(
                ErrorCode::Unreachable,
                format!("cannot connect to {} at {address}: {error}", dialer.target.role),
            )
        })?;
        greet(socket, address, dialer).await
    };
    tokio::time::timeout(deadline, attempt).await.unwrap_or_else(|_| {
        Err(WireError::new(
            ErrorCode::Timeout,
            format!(
                "no connection to {} at {address} within {} ms",
                dialer.target.role,
                deadline.as_millis()
            ),
        ))
    })
}

async fn greet(socket: TcpStream, address: &str, dialer: &Dialer) -> Result<Connection, WireError> {
    let mut link = Link::new(socket, address)?;
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        cluster: dialer.cluster,
        from: introduction(&dialer.identity, dialer.boot, dialer.incarnation),
        target: dialer.target.clone(),
        ticket: dialer.ticket.clone(),
    };
    link.say(Kind::Hello, &hello).await?;
    let challenge: Challenge = link.hear::<Answer<Challenge>>(Kind::Challenge).await??;
    let transcript = Transcript::new(&hello, challenge.version, &challenge.from);
    if !transcript.proves(&dialer.key, Purpose::ProofOfAcceptor, &challenge.proof) {
        return Err(WireError::new(
            ErrorCode::WrongKey,
            format!("{address} does not hold the key of {}", dialer.identity),
        )
        .why("the key file is of another cluster, another id, or not issued by this cluster's root key")
        .help("use the key file that was issued for this cluster"));
    }
    let proof = transcript.prove(&dialer.key, Purpose::ProofOfDialer);
    link.say(Kind::Proof, &Proof { proof }).await?;
    link.hear::<Answer<()>>(Kind::Welcome).await??;
    let peer = Peer {
        introduction: challenge.from,
        version: challenge.version,
        address: address.to_owned(),
    };
    Ok(link.start(peer, Side::Dialer, None))
}

/// Greets a peer that has connected. The second value gives the frames of streams the peer opens.
///
/// # Errors
/// Why there is no connection; the peer has been told where that was possible.
pub async fn accept(socket: TcpStream, acceptor: &Acceptor) -> Result<(Connection, Incoming), WireError> {
    let (connection, incoming, ()) = accept_if(socket, acceptor, |_| Ok(())).await?;
    Ok((connection, incoming))
}

/// As [`accept`], if the peer's role has a seat left. The connection is to be closed before the seat is dropped.
///
/// # Errors
/// As [`accept`], and [`ErrorCode::Busy`] without a seat.
pub async fn accept_seated(
    socket: TcpStream,
    acceptor: &Acceptor,
    seats: &Seats,
) -> Result<(Connection, Incoming, Seat), WireError> {
    accept_if(socket, acceptor, |identity| seats.take(identity)).await
}

/// `take` is asked once the peer has proved who it is.
async fn accept_if<T>(
    socket: TcpStream,
    acceptor: &Acceptor,
    take: impl FnOnce(&Identity) -> Result<T, WireError>,
) -> Result<(Connection, Incoming, T), WireError> {
    let deadline = Duration::from_millis(HANDSHAKE_MS_MAX);
    tokio::time::timeout(deadline, welcome(socket, acceptor, take))
        .await
        .unwrap_or_else(|_| {
            Err(WireError::new(
                ErrorCode::Timeout,
                format!("the peer did not prove who it is within {} ms", deadline.as_millis()),
            ))
        })
}

async fn welcome<T>(
    socket: TcpStream,
    acceptor: &Acceptor,
    take: impl FnOnce(&Identity) -> Result<T, WireError>,
) -> Result<(Connection, Incoming, T), WireError> {
    let address = socket
        .peer_addr()
        .map_or_else(|_| "a lost peer".to_owned(), |address| address.to_string());
    let mut link = Link::new(socket, &address)?;
    let hello: Hello = link.hear(Kind::Hello).await?;
    let admitted = check_target(&hello, acceptor.cluster, &acceptor.identity)
        .and_then(|()| choose_version(&hello))
        .and_then(|version| Ok((version, acceptor.admit.admit(&hello)?)));
    let (version, key) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            link.say(Kind::Challenge, &Answer::<Challenge>::Err(error.clone()))
                .await?;
            return Err(error);
        }
    };
    let from = introduction(&acceptor.identity, acceptor.boot, acceptor.incarnation);
    let transcript = Transcript::new(&hello, version, &from);
    let proof = transcript.prove(&key, Purpose::ProofOfAcceptor);
    link.say(Kind::Challenge, &Answer::Ok(Challenge { version, from, proof }))
        .await?;
    let proof: Proof = link.hear(Kind::Proof).await?;
    if !transcript.proves(&key, Purpose::ProofOfDialer, &proof.proof) {
        let error = WireError::new(
            ErrorCode::WrongKey,
            format!("{} at {address} does not hold its key", hello.from.identity),
        );
        link.say(Kind::Welcome, &Answer::<()>::Err(error.clone())).await?;
        return Err(error);
    }
    let taken = match take(&hello.from.identity) {
        Ok(taken) => taken,
        Err(error) => {
            link.say(Kind::Welcome, &Answer::<()>::Err(error.clone())).await?;
            return Err(error);
        }
    };
    link.say(Kind::Welcome, &Answer::Ok(())).await?;
    let peer = Peer {
        introduction: hello.from,
        version,
        address,
    };
    let (sender, incoming) = mpsc::channel(SEND_QUEUE_FRAMES);
    Ok((link.start(peer, Side::Acceptor, Some(sender)), incoming, taken))
}

/// A socket during its handshake.
struct Link {
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    address: String,
}

impl Link {
    fn new(socket: TcpStream, address: &str) -> Result<Self, WireError> {
        // Frames are gathered by the writer already; waiting for more would only add latency.
        socket.set_nodelay(true).map_err(|error| broken(address, &error))?;
        // A machine that vanished answers nothing at all: without this the kernel repeats itself for a quarter hour.
        rustix::net::sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS_MAX)
            .map_err(|error| broken(address, &error))?;
        let (read_half, writer) = socket.into_split();
        Ok(Self {
            reader: FrameReader::new(read_half, pool().clone()),
            writer,
            address: address.to_owned(),
        })
    }

    async fn say<M: Serialize>(&mut self, kind: Kind, message: &M) -> Result<(), WireError> {
        let mut bytes = bytes::BytesMut::new();
        Head::write(kind, 0, 0, &encode(message), 0, &mut bytes);
        write(&mut self.writer, &bytes)
            .await
            .map_err(|error| broken(&self.address, &error))
    }

    async fn hear<M: DeserializeOwned>(&mut self, kind: Kind) -> Result<M, WireError> {
        let idle = Duration::from_millis(HANDSHAKE_MS_MAX);
        let frame = self
            .reader
            .next(FrameLimits::HELLO, idle)
            .await
            .map_err(|error| broken(&self.address, &error))?
            .ok_or_else(|| broken(&self.address, &"the peer closed the connection in the handshake"))?;
        if frame.kind != kind {
            return Err(broken(
                &self.address,
                &format!("expected {kind:?}, got {:?}", frame.kind),
            ));
        }
        decode(&frame.message).map_err(|error| broken(&self.address, &error))
    }

    fn start(self, peer: Peer, side: Side, incoming: Option<mpsc::Sender<crate::frame::Frame>>) -> Connection {
        Connection::start(peer, side, self.reader, self.writer, incoming)
    }
}

async fn write(half: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    half.write_all(bytes).await
}

fn broken(address: &str, why: &dyn std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::Unreachable, format!("cannot greet {address}: {why}"))
}
