//! One peer's connection, dialed once for all who want it.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use gabion_protocol::net::{Connection, Dialer, dial};
use gabion_protocol::{ErrorCode, WireError};
use parking_lot::Mutex;

/// Longest a dial may take. Callers wait less; the dial goes on without them, so that a far peer is reached at last.
const DIAL: Duration = Duration::from_secs(3);

type Dialed = Shared<BoxFuture<'static, Result<Connection, WireError>>>;

/// A connection that is made when first wanted, and again when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<Option<Dialed>>);

impl Link {
    /// The connection, dialed at `address` if there is none.
    pub(crate) async fn connection(
        &self,
        address: &str,
        dialer: impl FnOnce() -> Dialer,
    ) -> Result<Connection, WireError> {
        let dialed = {
            let mut link = self.0.lock();
            match link.as_ref().filter(|dialed| is_useful(dialed)) {
                Some(dialed) => dialed.clone(),
                None => link.insert(start(address.to_owned(), dialer())).clone(),
            }
        };
        dialed.await
    }

    /// Ends the connection, if there is one.
    pub(crate) fn close(&self) {
        if let Some(Ok(connection)) = self.0.lock().take().and_then(|dialed| dialed.peek().cloned()) {
            connection.close();
        }
    }
}

fn is_useful(dialed: &Dialed) -> bool {
    match dialed.peek() {
        None => true,
        Some(Ok(connection)) => !connection.is_closed(),
        Some(Err(_)) => false,
    }
}

fn start(address: String, dialer: Dialer) -> Dialed {
    let task = tokio::spawn(async move { dial(&address, &dialer, DIAL).await });
    async move {
        task.await.unwrap_or_else(|error| {
            Err(WireError::new(
                ErrorCode::Internal,
                format!("a dial was cut short: {error}"),
            ))
        })
    }
    .boxed()
    .shared()
}
