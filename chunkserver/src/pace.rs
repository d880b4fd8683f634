//! How background copies give way to clients: at full speed while nobody else uses the server, in small pieces with
//! rests between them while somebody does.
//!
//! A rest is a multiple of what the last piece took. So copies hold the server for a fixed part of its time, whatever
//! its disks can do, and get slower by themselves when clients' work makes each piece slower. Pieces are small, so that
//! a client's request that meets one waits for little. There is a least speed: copies that never end protect nobody.
//!
//! Invariant: while clients are served one piece moves at a time, those of all copies together.

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::limits::PACKET_BYTES;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until};

use crate::foreground::Foreground;

/// A piece while clients are served: a fraction of a millisecond's work for a disk or a network.
const PIECE_BYTES: usize = 128 << 10;
/// Longest rest: at least 4 MiB a second move, which is in time for all copies a master has under way on a server.
const REST_MAX: Duration = Duration::from_millis(30);

/// What part of the server's time copies may take while clients are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// An eighth: the chunk has other copies.
    Small,
    /// Half: this is the last copy, and losing it is worse than being slow.
    Half,
}

impl Share {
    /// How long to rest after a piece.
    fn rest(self, took: Duration, least: Duration) -> Duration {
        let times = match self {
            Self::Small => 7,
            Self::Half => 1,
        };
        (took * times).max(least).min(REST_MAX)
    }
}

/// The pace of one sort of background work on a server; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    clients: Arc<Foreground>,
    /// When the next piece may begin.
    next: Arc<Mutex<Instant>>,
    /// Least rest.
    least: Duration,
}

/// The right to move a piece beside clients; when it is dropped, the piece has moved.
#[derive(Debug)]
pub(crate) struct Turn {
    next: OwnedMutexGuard<Instant>,
    began: Instant,
    share: Share,
    least: Duration,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = Instant::now();
        *self.next = now + self.share.rest(now - self.began, self.least);
    }
}

impl Pace {
    /// A pace that gives way to these clients, with rests of at least `least`: for pieces whose work is not all seen.
    pub(crate) fn new(clients: &Arc<Foreground>, least: Duration) -> Self {
        Self {
            clients: Arc::clone(clients),
            next: Arc::new(Mutex::new(Instant::now())),
            least,
        }
    }

    /// Bytes to move in one turn now.
    pub(crate) fn piece_bytes(&self) -> usize {
        if self.clients.is_busy() {
            PIECE_BYTES
        } else {
            PACKET_BYTES
        }
    }

    /// Waits until a piece may move. While no client is served that is at once, and needs no turn.
    pub(crate) async fn turn(&self, share: Share) -> Option<Turn> {
        if !self.clients.is_busy() {
            return None;
        }
        // Whoever came first goes first.
        let next = Arc::clone(&self.next).lock_owned().await;
        tokio::select! {
            () = self.clients.until_idle() => None,
            () = sleep_until(*next) => Some(Turn {
                next,
                began: Instant::now(),
                share,
                least: self.least,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rests_grow_with_what_a_piece_took_and_have_an_end() {
        assert_eq!(Share::Small.rest(ms(1), NONE), ms(7));
        assert_eq!(Share::Small.rest(ms(2), NONE), ms(14), "slower clients, slower copies");
        assert_eq!(Share::Half.rest(ms(2), NONE), ms(2));
        assert_eq!(Share::Small.rest(ms(500), NONE), REST_MAX);
        assert_eq!(Share::Small.rest(NONE, ms(2)), ms(2));
    }

    /// Moves `count` pieces of some milliseconds in each of four copies at once; when each began and ended.
    async fn move_pieces(pace: &Pace, share: Share, count: usize) -> Vec<(Instant, Instant)> {
        let pieces = parking_lot::Mutex::new(Vec::new());
        let copy = || async {
            for _ in 0..count {
                let turn = pace.turn(share).await;
                let began = Instant::now();
                tokio::time::sleep(ms(1)).await;
                pieces.lock().push((began, Instant::now()));
                drop(turn);
            }
        };
        tokio::join!(copy(), copy(), copy(), copy());
        let mut pieces = pieces.into_inner();
        pieces.sort();
        pieces
    }

    #[tokio::test]
    async fn copies_keep_to_their_share_while_clients_are_served() {
        let clients = Arc::new(Foreground::default());
        let pace = Pace::new(&clients, NONE);
        let _working = clients.begin();
        assert_eq!(pace.piece_bytes(), PIECE_BYTES);
        for (share, times) in [(Share::Small, 7), (Share::Half, 1)] {
            // The last pieces of another share may be resting.
            drop(pace.turn(share).await);
            let pieces = move_pieces(&pace, share, 5).await;
            assert_eq!(pieces.len(), 20);
            for two in pieces.windows(2) {
                let ((began, ended), (next, _)) = (two[0], two[1]);
                let rest = ((ended - began) * times).min(REST_MAX);
                assert!(
                    next >= ended + rest,
                    "{share:?}: {:?} after {:?}",
                    next - ended,
                    ended - began
                );
            }
        }
    }

    #[tokio::test]
    async fn nothing_holds_copies_back_while_no_client_is_served() {
        let clients = Arc::new(Foreground::default());
        let pace = Pace::new(&clients, REST_MAX);
        assert_eq!(pace.piece_bytes(), PACKET_BYTES);
        let pieces = move_pieces(&pace, Share::Small, 5).await;
        let together = pieces.windows(2).filter(|two| two[1].0 < two[0].1).count();
        assert!(together > 0, "copies move side by side");
        let working = clients.begin();
        let resting = pace.turn(Share::Small).await;
        assert!(resting.is_some());
        let waiting = pace.turn(Share::Small);
        let gone = async {
            drop(working);
            pace.clients.until_idle().await;
        };
        let (turn, ()) = tokio::join!(
            async {
                drop(resting);
                let first = waiting.await;
                drop(first);
                clients.until_idle().await;
                pace.turn(Share::Small).await
            },
            gone
        );
        assert!(turn.is_none(), "the last client has gone");
    }
}
