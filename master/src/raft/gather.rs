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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_go_at_once_and_more_go_together_when_they_are_back() {
        let gathering = Arc::new(Gathering::default());
        let mut first: Vec<_> = (0..FREE).map(|_| gathering.pass().now_or_never().unwrap()).collect();
        let mut later: Vec<_> = (0..20).map(|_| Box::pin(gathering.pass())).collect();
        assert!(later.iter_mut().all(|pass| pass.now_or_never().is_none()));
        while first.len() > 1 {
            first.pop();
            assert!(later[0].as_mut().now_or_never().is_none(), "the batch is not back");
        }
        first.pop();
        let together: Vec<_> = later.iter_mut().map(|pass| pass.now_or_never().unwrap()).collect();
        let mut after = Box::pin(gathering.pass());
        assert!(after.as_mut().now_or_never().is_none(), "they are on their way");
        drop(together);
        assert!(after.now_or_never().is_some());
        assert_eq!(gathering.0.lock().on_their_way, 0);
    }

    proptest! {
        /// Whoever gives up and whenever, nobody waits while nobody is on the way.
        #[test]
        fn whoever_waits_is_let_go(steps in proptest::collection::vec((0u8..3, any::<prop::sample::Index>()), 1..200)) {
            let gathering = Arc::new(Gathering::default());
            let (mut going, mut waiting) = (Vec::new(), Vec::new());
            for (step, which) in steps {
                match step {
                    0 => waiting.push(Box::pin({
                        let gathering = Arc::clone(&gathering);
                        async move { gathering.pass().await }
                    })),
                    1 if !going.is_empty() => drop(going.swap_remove(which.index(going.len()))),
                    2 if !waiting.is_empty() => drop(waiting.swap_remove(which.index(waiting.len()))),
                    _ => {}
                }
                let mut still = Vec::new();
                for mut pass in waiting.drain(..) {
                    match pass.as_mut().now_or_never() {
                        Some(pass) => going.push(pass),
                        None => still.push(pass),
                    }
                }
                waiting = still;
                prop_assert!(waiting.is_empty() || !going.is_empty());
                prop_assert_eq!(gathering.0.lock().on_their_way, going.len());
            }
        }
    }
}
