//! Accepts connections at the client address, within limits, and lets in who proves an issued key.

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::hello::Hello;
use gabion_protocol::keys::Key;
use gabion_protocol::net::{self, Acceptor, Handshakes, Seats};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::shared::Master;
use super::{connection, roles};

/// Wait after a failure to accept, which is a lack of file descriptors more often than not: there is no event for
/// their return.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the master stops taking requests.
pub(super) async fn accept_all(master: Arc<Master>, listener: TcpListener, seats: Seats) {
    let acceptor = Arc::new(acceptor(&master));
    let mut handshakes = Handshakes::default();
    let stopping = master.stopping.clone();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let guest = Guest {
                        master: Arc::clone(&master),
                        acceptor: Arc::clone(&acceptor),
                        seats: seats.clone(),
                    };
                    master.connections.spawn(guest.entertain(socket, handshakes.begin()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let _ = stopping.run_until_cancelled(accept).await;
}

/// Whoever is at an accepted socket.
struct Guest {
    master: Arc<Master>,
    acceptor: Arc<Acceptor>,
    seats: Seats,
}

impl Guest {
    async fn entertain(self, socket: TcpStream, handshake: CancellationToken) {
        let address = socket
            .peer_addr()
            .map_or_else(|_| String::new(), |address| address.to_string());
        let accepted = net::accept_seated(socket, &self.acceptor, &self.seats);
        let accepted = handshake.run_until_cancelled(accepted).await;
        // Makes room for another.
        handshake.cancel();
        match accepted {
            Some(Ok((connection, incoming, _seat))) => connection::serve(self.master, connection, incoming).await,
            Some(Err(error)) => tracing::info!(address, %error, "a peer was turned away"),
            None => tracing::info!(address, "a handshake made room for a newer one"),
        }
    }
}

fn acceptor(master: &Master) -> Acceptor {
    let keys = master.keys.clone();
    let admit = move |hello: &Hello| -> Result<Key, WireError> {
        roles::admit(&hello.from.identity)?;
        Ok(keys.of(&hello.from.identity))
    };
    Acceptor {
        cluster: master.keys.cluster,
        identity: master.identity(),
        boot: master.boot,
        incarnation: master.incarnation,
        admit: Arc::new(admit),
    }
}
