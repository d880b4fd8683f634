//! Background copies: a leader orders a copy of a sealed chunk, and this server pulls it from another one.
//!
//! * [`Board`] is what is ordered, under way and to be reported: pure bookkeeping;
//! * [`pull`] makes one copy;
//! * [`build`] makes one of parts of others;
//! * [`together`] lets small ones share their turns and syncs;
//! * [`Copies`] is what beats and the worker share, and [`Copies::run`] is the worker.
//!
//! Invariants: a copy is reported only when it is as durable as a sealed chunk and has the masters' length and CRC;
//! reports are repeated until a leader has answered a beat that carried them; the same order twice is one copy; at most
//! [`RUNNING_WEIGHT`] of copies are under way, a large one with a few packets in memory, and they give way to clients
//! ([`Pace`]). A crash leaves an open record, which counts for nothing, and the order comes again.

mod board;
mod build;
mod pull;
mod together;

use std::sync::Arc;

use gabion_protocol::messages::master::{BuildOrder, CopyOrder, OrderDone};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::disk::Store;
use crate::pace::Pace;
use crate::peers::Peers;

use board::{Board, Key};
use build::Build;
use pull::{Doubt, Outcome, Pull};
use together::Together;

/// Copies under way at one time, by weight: eight large ones, or as many small ones as make a piece of a few KiB each.
/// Keeps a disk busy beside its foreground work, and memory small.
const RUNNING_WEIGHT: usize = 64;
/// Of a copy with a file of its own; a small one has 1.
const LARGE_WEIGHT: usize = 8;

/// What a copy is made with.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    /// Where to.
    store: Store,
    /// Where from.
    peers: Peers,
    /// How fast.
    pace: Pace,
    /// How small ones get there.
    together: Arc<Together>,
}

impl Means {
    pub(crate) fn new(store: Store, peers: Peers, pace: Pace) -> Self {
        let together = Arc::new(Together::new(store.clone(), pace.clone()));
        Self {
            store,
            peers,
            pace,
            together,
        }
    }
}

/// The copies this server is told to make; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    board: Mutex<Board<CopyOrder>>,
    /// Begun only while no copy of a chunk waits that others may be lost of.
    builds: Mutex<Board<BuildOrder>>,
    news: Notify,
    dry: Notify,
}

/// How a task of the worker ended.
enum Ended {
    Pull(Key, Outcome),
    Build(Key, Outcome),
    /// A source was asked to read its copy again.
    Asked(Option<OrderDone>),
}

impl Copies {
    /// Takes the copy orders of a leader that is to be obeyed: all that it has for this server, or its first.
    pub(crate) fn hear(&self, copies: Vec<CopyOrder>, builds: Vec<BuildOrder>) {
        let has_copies = self.0.board.lock().hear(copies);
        let has_builds = self.0.builds.lock().hear(builds);
        if has_copies || has_builds {
            self.0.news.notify_one();
        }
    }

    /// What is to be reported with the next beat.
    pub(crate) fn reports(&self) -> Vec<OrderDone> {
        let mut reports = self.0.board.lock().reports();
        reports.extend(self.0.builds.lock().reports());
        reports
    }

    /// A leader has taken these reports.
    pub(crate) fn confirmed(&self, taken: &[OrderDone]) {
        self.0.board.lock().confirmed(taken);
        self.0.builds.lock().confirmed(taken);
    }

    /// Resolves when all that was ordered has been carried out since it last did.
    pub(crate) async fn ran_dry(&self) {
        self.0.dry.notified().await;
    }

    /// Makes copies for ever.
    pub(crate) async fn run(self, means: Means) {
        let mut tasks: JoinSet<Ended> = JoinSet::new();
        loop {
            while let Some((key, order)) = self.0.board.lock().start(RUNNING_WEIGHT) {
                let pull = Pull::new(means.clone(), order);
                tasks.spawn(async move { Ended::Pull(key, Box::pin(pull.run()).await) });
            }
            while let Some((key, order)) = self.next_build() {
                let build = Build::new(means.clone(), order);
                tasks.spawn(async move { Ended::Build(key, Box::pin(build.run()).await) });
            }
            tokio::select! {
                Some(ended) = tasks.join_next() => match ended {
                    Ok(Ended::Pull(key, outcome)) => {
                        self.0.board.lock().end(key, outcome.done);
                        self.tell_if_dry();
                        ask(&mut tasks, outcome.doubts);
                    }
                    Ok(Ended::Build(key, outcome)) => {
                        self.0.builds.lock().end(key, outcome.done);
                        self.tell_if_dry();
                        ask(&mut tasks, outcome.doubts);
                    }
                    Ok(Ended::Asked(found)) => self.0.board.lock().add(found),
                    // A panic ends the process; else the worker itself is ending.
                    Err(error) => tracing::error!(%error, "a copy ended without a word"),
                },
                () = self.0.news.notified() => {}
            }
        }
    }

    fn next_build(&self) -> Option<(Key, watch::Receiver<BuildOrder>)> {
        if !self.0.board.lock().is_dry() {
            return None;
        }
        self.0.builds.lock().start(RUNNING_WEIGHT)
    }

    fn tell_if_dry(&self) {
        if self.0.board.lock().is_dry() && self.0.builds.lock().is_dry() {
            self.0.dry.notify_one();
        }
    }
}

/// Has sources whose bytes were wrong read their copies again.
fn ask(tasks: &mut JoinSet<Ended>, doubts: Vec<Doubt>) {
    for doubt in doubts {
        tasks.spawn(async move { Ended::Asked(doubt.settle().await) });
    }
}
