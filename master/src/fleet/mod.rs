//! Which chunkservers are alive and what they carry: soft state, from heartbeats, never logged.
//!
//! Every master takes beats; only the leader judges by them. [`view`] is the pure core, `now` an argument;
//! [`Watched`] is the same behind a lock, with a signal for whoever waits for a server that can take a copy.
//!
//! Invariants: a beat counts only for the directory (incarnation) that is registered; a new leader calls no server
//! suspect or lost before a full period of its own leadership; a server that was not heard within the suspect period
//! gets no new writes, whoever leads.

pub mod view;

use std::time::Duration;

use gabion_protocol::ids::{Incarnation, ServerId};
use gabion_protocol::messages::master::Load;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use view::{Periods, Seen, View};

/// The view behind a lock, and a signal for each change that may let a waiting placement succeed.
#[derive(Debug)]
pub struct Watched {
    view: Mutex<View>,
    better: watch::Sender<u64>,
}

impl Watched {
    /// A fleet nothing is known of.
    #[must_use]
    pub fn new(periods: Periods) -> Self {
        Self {
            view: Mutex::new(View::new(periods)),
            better: watch::Sender::new(0),
        }
    }

    /// Takes a beat in.
    pub fn beat(&self, server: ServerId, incarnation: Incarnation, load: Load, now: Duration) {
        if self.view.lock().beat(server, incarnation, load, now) {
            self.announce();
        }
    }

    /// Wakes who waits for servers, for a reason that is not in beats: a registration, for example.
    pub fn announce(&self) {
        self.better.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever waiting placements should look again.
    #[must_use]
    pub fn better(&self) -> watch::Receiver<u64> {
        self.better.subscribe()
    }

    /// This master leads from `now` on.
    pub fn lead(&self, now: Duration) {
        self.view.lock().lead(now);
    }

    /// Looks at the view.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.lock())
    }

    /// A chunk was placed on these servers: their load is higher than their last beat said.
    pub fn placed(&self, servers: &[ServerId]) {
        self.view.lock().placed(servers);
    }
}
