//! Gathers commands that come while others are on their way through the log, so that many share its costs.
//!
//! A batch costs the log the same whether it holds one command or a hundred: a sync and about ten thread switches on
//! each master. The first few commands go at once, since a client alone must not wait for anyone. More than that
//! wait until all that are on their way have been answered, and then go together. The slower the log, the more
//! gather: nothing is timed.
//!
//! Invariants: whoever waits is let go when the last on its way has left; a waiter that gives up leaves no trace.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Commands on their way at once that need not wait: as many as a few clients with one command each.
const FREE: usize = 8;

/// The commands of this master that are on their way, and those that wait.
#[derive(Debug, Default)]
pub(crate) struct Gathering(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    on_their_way: usize,
    waiting: Vec<oneshot::Sender<Pass>>,
}

/// The right of one command to go through the log, given back when it is answered or given up.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gathering>);

impl Gathering {
    /// Waits for the command's turn.
    pub(crate) async fn pass(self: &Arc<Self>) -> Pass {
        let turn = {
            let mut crowd = self.0.lock();
            if crowd.on_their_way < FREE && crowd.waiting.is_empty() {
                crowd.on_their_way += 1;
                return Pass(Arc::clone(self));
            }
            let (go, turn) = oneshot::channel();
            crowd.waiting.push(go);
            turn
        };
        // Senders are kept until they are used.
        turn.await.expect("whoever waits is let go")
    }

    fn left(self: &Arc<Self>) {
        let waiting = {
            let mut crowd = self.0.lock();
            crowd.on_their_way -= 1;
            if crowd.on_their_way > 0 {
                return;
            }
            crowd.on_their_way = crowd.waiting.len();
            std::mem::take(&mut crowd.waiting)
        };
        for go in waiting {
            // One that has given up comes back as an error, and leaves with it.
            let _ = go.send(Pass(Arc::clone(self)));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.left();
    }
}
