//! Sessions: what makes a command run once, however often it is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gabion_protocol::ids::{RequestId, SessionId};
use gabion_protocol::limits::{REPLY_SLOTS, SESSION_MS};
use gabion_protocol::messages::master::{Defaults, Request, Response};
use gabion_protocol::{ErrorCode, WireError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Masters;
use crate::policy::window::Window;
use crate::random;

/// A session idle for longer is not used again: the masters might have forgotten it, and a command sent into a
/// forgotten session has an unknown outcome.
const IDLE: Duration = Duration::from_millis(SESSION_MS / 2);

/// The current session, opened when first needed.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Mutex<Option<Arc<Session>>>,
    /// Held while one is opened, so that many commands open one session.
    opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    fn current(&self) -> Option<Arc<Session>> {
        let current = self.current.lock();
        current.as_ref().filter(|session| session.is_fresh()).cloned()
    }

    /// Later commands begin another session than this one.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|known| Arc::ptr_eq(known, session)) {
            *current = None;
        }
    }
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    defaults: Defaults,
    used: Mutex<Instant>,
    window: Mutex<Window>,
    room: Notify,
}

impl Session {
    /// Its id.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// The cluster's defaults, as told when it was opened.
    pub(crate) fn defaults(&self) -> Defaults {
        self.defaults
    }

    fn is_fresh(&self) -> bool {
        self.used.lock().elapsed() < IDLE
    }

    /// A sequence number for one command; waits while too many are in flight.
    pub(super) async fn turn(self: &Arc<Self>, deadline: Duration) -> Result<Turn, WireError> {
        let taken = async {
            loop {
                // Registered before the look, so that room made in between is not missed.
                let room = self.room.notified();
                if let Some(taken) = self.window.lock().take() {
                    return taken;
                }
                room.await;
            }
        };
        let (sequence, answered_below) = tokio::time::timeout(deadline, taken).await.map_err(|_| {
            WireError::new(
                ErrorCode::Timeout,
                format!("{REPLY_SLOTS} commands of this client are unanswered"),
            )
        })?;
        *self.used.lock() = Instant::now();
        Ok(Turn {
            session: Arc::clone(self),
            sequence,
            answered_below,
        })
    }
}

/// The right to send one command, given back when it is answered or its sender goes.
#[derive(Debug)]
pub(super) struct Turn {
    session: Arc<Session>,
    sequence: u64,
    answered_below: u64,
}

impl Turn {
    pub(super) fn request(&self) -> RequestId {
        RequestId {
            session: self.session.id,
            sequence: self.sequence,
        }
    }

    pub(super) fn answered_below(&self) -> u64 {
        self.answered_below
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.session.window.lock().answered(self.sequence);
        self.session.room.notify_waiters();
    }
}

impl Masters {
    /// The current session, opened if there is none.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, WireError> {
        if let Some(session) = self.sessions.current() {
            return Ok(session);
        }
        let _opening = self.sessions.opening.lock().await;
        if let Some(session) = self.sessions.current() {
            return Ok(session);
        }
        let Response::Session { now, defaults, masters } = self.ask(Request::OpenSession).await? else {
            return Err(crate::client::unexpected());
        };
        self.learn(&masters);
        let session = Arc::new(Session {
            id: SessionId {
                opened: now,
                random: random(),
            },
            defaults,
            used: Mutex::new(Instant::now()),
            window: Mutex::new(Window::new(REPLY_SLOTS)),
            room: Notify::new(),
        });
        *self.sessions.current.lock() = Some(Arc::clone(&session));
        Ok(session)
    }
}
