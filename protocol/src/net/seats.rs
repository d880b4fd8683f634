//! How many may be connected at one time: handshakes under way, and connections of each role.
//!
//! A role has seats of its own, so that no number of clients keeps a chunkserver or an operator out. A seat is taken
//! once the peer has proved its role, so nobody takes another role's. Before that a peer takes one of few handshakes,
//! and the oldest of those gives way: silent sockets keep nobody waiting.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorCode, WireError};
use crate::keys::{Identity, Role};
use crate::limits::{
    CHUNKSERVER_CONNECTIONS_MAX, CLIENT_CONNECTIONS_MAX, HANDSHAKES_MAX, MASTER_CONNECTIONS_MAX,
    OPERATOR_CONNECTIONS_MAX,
};

/// Handshakes under way, oldest first. A new one is never turned away: the oldest gives way, for a peer that is well
/// is done with its own long before.
#[derive(Debug, Default)]
pub struct Handshakes(VecDeque<CancellationToken>);

impl Handshakes {
    /// The token of a new handshake: cancelled when it has to end. Whoever runs it cancels it when it has ended.
    pub fn begin(&mut self) -> CancellationToken {
        if self.0.len() >= HANDSHAKES_MAX {
            self.0.retain(|running| !running.is_cancelled());
        }
        if self.0.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.cancel();
        }
        let handshake = CancellationToken::new();
        self.0.push_back(handshake.clone());
        handshake
    }
}

/// Most connections of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatCounts {
    /// Of clients.
    pub clients: usize,
    /// Of operators.
    pub operators: usize,
    /// Of chunkservers.
    pub chunkservers: usize,
    /// Of masters.
    pub masters: usize,
}

impl Default for SeatCounts {
    fn default() -> Self {
        Self {
            clients: CLIENT_CONNECTIONS_MAX,
            operators: OPERATOR_CONNECTIONS_MAX,
            chunkservers: CHUNKSERVER_CONNECTIONS_MAX,
            masters: MASTER_CONNECTIONS_MAX,
        }
    }
}

impl SeatCounts {
    /// The limits, or less where the process may not open as many files: an eighth of these stays for other use.
    #[must_use]
    pub fn of_this_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::default().within(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// In the same proportions, for a process that may have `files` open.
    fn within(self, files: usize) -> Self {
        let all = self.clients + self.operators + self.chunkservers + self.masters;
        let room = (files - files / 8).saturating_sub(HANDSHAKES_MAX);
        if all <= room {
            return self;
        }
        let share = |seats: usize| (seats * room / all).max(1);
        Self {
            clients: share(self.clients),
            operators: share(self.operators),
            chunkservers: share(self.chunkservers),
            masters: share(self.masters),
        }
    }

    fn of(&self, role: Role) -> usize {
        match role {
            Role::Client => self.clients,
            Role::Operator => self.operators,
            Role::Chunkserver => self.chunkservers,
            Role::Master => self.masters,
        }
    }
}

/// The seats of one server; clones share them.
#[derive(Debug, Clone)]
pub struct Seats {
    counts: SeatCounts,
    clients: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    chunkservers: Arc<Semaphore>,
    masters: Arc<Semaphore>,
}

/// A taken seat; free again when dropped.
#[derive(Debug)]
#[must_use = "a dropped seat is free"]
pub struct Seat {
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    /// As many seats as said.
    #[must_use]
    pub fn new(counts: SeatCounts) -> Self {
        let seats = |role| Arc::new(Semaphore::new(counts.of(role)));
        Self {
            counts,
            clients: seats(Role::Client),
            operators: seats(Role::Operator),
            chunkservers: seats(Role::Chunkserver),
            masters: seats(Role::Master),
        }
    }

    /// A seat for a peer that has proved who it is.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] if its role has none left.
    pub fn take(&self, identity: &Identity) -> Result<Seat, WireError> {
        let role = identity.role;
        let seats = match role {
            Role::Client => &self.clients,
            Role::Operator => &self.operators,
            Role::Chunkserver => &self.chunkservers,
            Role::Master => &self.masters,
        };
        match Arc::clone(seats).try_acquire_owned() {
            Ok(permit) => Ok(Seat { _permit: permit }),
            Err(_) => Err(WireError::new(
                ErrorCode::Busy,
                format!(
                    "no connection is left for {identity}: {} of role {role} are open, the most this server takes",
                    self.counts.of(role)
                ),
            )
            .help("close connections that are not used, or try again")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(role: Role) -> Identity {
        Identity { role, id: "x".into() }
    }

    #[test]
    fn the_oldest_handshake_gives_way() {
        let mut handshakes = Handshakes::default();
        let first: Vec<_> = (0..HANDSHAKES_MAX).map(|_| handshakes.begin()).collect();
        assert!(first.iter().all(|running| !running.is_cancelled()));
        // One that has ended makes room.
        first[5].cancel();
        let _next = handshakes.begin();
        assert!(!first[0].is_cancelled());
        let _last = handshakes.begin();
        assert!(first[0].is_cancelled() && !first[1].is_cancelled());
    }

    #[test]
    fn each_role_has_its_own_seats_and_a_seat_comes_back() {
        let seats = Seats::new(SeatCounts {
            clients: 2,
            operators: 1,
            chunkservers: 1,
            masters: 1,
        });
        let taken = [who(Role::Client), who(Role::Client)].map(|client| seats.take(&client).unwrap());
        let refused = seats.take(&who(Role::Client)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Busy);
        for role in [Role::Operator, Role::Chunkserver, Role::Master] {
            let one = seats.take(&who(role)).unwrap();
            assert!(seats.take(&who(role)).is_err());
            drop(one);
            assert!(seats.take(&who(role)).is_ok());
        }
        drop(taken);
        assert!(seats.take(&who(Role::Client)).is_ok());
    }

    #[test]
    fn few_files_mean_few_seats_of_every_role() {
        let counts = SeatCounts::default();
        assert_eq!(counts.within(1 << 20), counts);
        let few = counts.within(1024);
        let all = few.clients + few.operators + few.chunkservers + few.masters;
        assert!(
            all + HANDSHAKES_MAX <= 1024 && few.clients > 100 && few.chunkservers > 100,
            "{few:?}"
        );
        assert!(counts.within(0).chunkservers > 0);
    }
}
