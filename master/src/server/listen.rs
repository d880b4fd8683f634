//! Accepts connections at the client address, within limits, and lets in who proves an issued key.

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::WireError;
use gabion_protocol::hello::Hello;
use gabion_protocol::keys::Key;
use gabion_protocol::limits::{CONNECTIONS_MAX, HANDSHAKES_MAX};
use gabion_protocol::net::{self, Acceptor};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::shared::Master;
use super::{connection, roles};

/// Wait after a failure to accept, which is a lack of file descriptors more often than not: there is no event for
/// their return.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the master stops taking requests.
pub(super) async fn accept_all(master: Arc<Master>, listener: TcpListener) {
    let acceptor = Arc::new(acceptor(&master));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let stopping = master.stopping.clone();
    let accept = async {
        loop {
            let (Ok(seat), Ok(handshake)) = (
                Arc::clone(&connections).acquire_owned().await,
                Arc::clone(&handshakes).acquire_owned().await,
            ) else {
                return;
            };
            match listener.accept().await {
                Ok((socket, _)) => {
                    let greeted = greet(Arc::clone(&master), Arc::clone(&acceptor), socket, seat, handshake);
                    master.connections.spawn(greeted);
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

async fn greet(
    master: Arc<Master>,
    acceptor: Arc<Acceptor>,
    socket: TcpStream,
    _seat: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
) {
    let address = socket
        .peer_addr()
        .map_or_else(|_| String::new(), |address| address.to_string());
    let accepted = net::accept(socket, &acceptor).await;
    drop(handshake);
    match accepted {
        Ok((connection, incoming)) => connection::serve(master, connection, incoming).await,
        Err(error) => tracing::info!(address, %error, "a peer was turned away"),
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
