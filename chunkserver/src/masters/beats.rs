//! The tasks that talk: one per master, and one that carries out orders.
//!
//! Invariant: there is a task for every address of the configuration, and for every other one the masters told; a
//! leader's list replaces what was told before, a follower's, which may be old, only adds to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{
    Beat, BuildOrder, CopyOrder, Order, OrderDone, Registration, Request, Response,
};
use gabion_protocol::net::{Connection, dial};
use gabion_protocol::{Action, ChunkId, Epoch, ReplicaNumber, ServerId, WireError};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::reports::Reports;
use super::{ANSWER, Masters};
use crate::pace::{Pace, Share};

/// Between beats to the leader: a lost server is noticed within a few of them.
const BEAT_LEADER: Duration = Duration::from_millis(500);
/// Between beats to a follower: it only has to be warm when it becomes leader.
const BEAT_FOLLOWER: Duration = Duration::from_millis(1000);
/// Between a beat to the leader and one that comes early, because there are reports that it waits for.
const BEAT_EARLY: Duration = Duration::from_millis(50);
/// Between attempts to reach a master or to register.
const AGAIN: Duration = Duration::from_millis(300);
/// After the first attempt to register; doubled up to [`AGAIN`]. Who starts together with the masters is there with them.
const AGAIN_FIRST: Duration = Duration::from_millis(30);
/// Copies dropped at one time: they share syncs, and a client's request waits for them at most.
const DROPS_AT_A_TIME: usize = 64;
/// Longest wait for a connection.
const DIAL: Duration = Duration::from_secs(2);

type Orders = Vec<(ChunkId, ReplicaNumber)>;

impl Masters {
    /// Talks to the masters until `stop`; copies are dropped at the pace of `dropping`.
    ///
    /// # Errors
    /// The masters' refusal of this server, if it is final: another life of its directory is known under its number,
    /// its key is wrong, and the like.
    pub(crate) async fn run(&self, stop: CancellationToken, dropping: Pace) -> Result<(), WireError> {
        let (orders, waiting) = mpsc::channel(1);
        let stopped = stop.clone();
        let talk = async {
            let mut tasks = JoinSet::new();
            tasks.spawn(obey(self.clone(), dropping, waiting));
            let rechecking = self.clone();
            tasks.spawn(async move { rechecking.0.recheck.run(&rechecking).await });
            let server = self.register().await?;
            self.beat_everywhere(server, &orders, &mut tasks).await;
            Ok(())
        };
        stopped.run_until_cancelled(talk).await.unwrap_or(Ok(()))
    }

    /// Keeps one task for each master there is; ends only by being dropped.
    async fn beat_everywhere(&self, server: ServerId, orders: &mpsc::Sender<Orders>, tasks: &mut JoinSet<()>) {
        let configured: BTreeSet<String> = self.0.options.addresses.iter().cloned().collect();
        let mut running = BTreeMap::<String, AbortHandle>::new();
        let mut told = self.0.told.subscribe();
        loop {
            let wanted: BTreeSet<String> = &configured | &*told.borrow_and_update();
            running.retain(|address, task| {
                let stays = wanted.contains(address);
                if !stays {
                    tracing::info!(%address, "no master is there any more");
                    task.abort();
                    self.0.connections.lock().remove(address);
                }
                stays
            });
            for address in wanted {
                running.entry(address).or_insert_with_key(|address| {
                    tasks.spawn(keep_beating(self.clone(), server, address.clone(), orders.clone()))
                });
            }
            // The sender lives in self, so waiting cannot fail.
            let _ = told.changed().await;
        }
    }

    /// Takes in which masters there are, as one of them says.
    fn hear_of(&self, masters: Vec<String>, leads: bool) {
        self.0.told.send_if_modified(|told| {
            let mut now: BTreeSet<_> = masters.into_iter().collect();
            if !leads {
                now.extend(told.iter().cloned());
            }
            let news = now != *told;
            *told = now;
            news
        });
    }

    /// Asks the masters in turn, following redirects, until one has registered this server.
    async fn register(&self) -> Result<ServerId, WireError> {
        let mut addresses = self.0.options.addresses.clone();
        let configured = addresses.len();
        let mut next = 0;
        let mut pause = AGAIN_FIRST;
        let mut redirected = false;
        loop {
            let address = addresses[next % addresses.len()].clone();
            match self.register_at(&address).await {
                Ok(server) => {
                    self.0.store.set_server(server).await.map_err(|e| e.to_wire())?;
                    self.0.server.send_replace(Some(server));
                    tracing::info!(%server, "registered");
                    return Ok(server);
                }
                Err(error) if error.action == Action::GiveUp => return Err(error),
                Err(error) => {
                    tracing::debug!(%address, %error, "not registered yet");
                    addresses.truncate(configured);
                    next = (next + 1) % configured;
                    if let Some(leader) = error.leader {
                        next = addresses.iter().position(|known| *known == leader).unwrap_or_else(|| {
                            addresses.push(leader);
                            configured
                        });
                        // There is nothing to wait for, unless masters name each other.
                        redirected = !redirected;
                        if redirected {
                            continue;
                        }
                    }
                    redirected = false;
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN);
                }
            }
        }
    }

    async fn register_at(&self, address: &str) -> Result<ServerId, WireError> {
        let connection = dial(address, &self.0.options.dialer, DIAL).await?;
        let identity = self.0.store.identity().map_err(|e| e.to_wire())?;
        let registration = Request::Register(Registration {
            server: identity.server,
            incarnation: identity.incarnation,
            boot: identity.boot,
            address: self.0.options.advertise.clone(),
            rack: self.0.options.rack.clone(),
        });
        match connection
            .call(Kind::MasterRequest, &registration, Bytes::new(), ANSWER * 2)
            .await?
        {
            (Response::Registered { server }, _) => Ok(server),
            _ => Err(unexpected(address)),
        }
    }

    /// One beat; tells whether the master leads.
    async fn beat(
        &self,
        connection: &Connection,
        server: ServerId,
        orders: &mpsc::Sender<Orders>,
    ) -> Result<bool, WireError> {
        let inner = &self.0;
        let identity = inner.store.identity().map_err(|e| e.to_wire())?;
        let done: Vec<_> = inner.done.lock().iter().copied().collect();
        let copied = inner.copies.reports();
        let intact = inner.recheck.answers();
        let damaged = inner.store.damage();
        let mut load = inner.store.load();
        load.streams = inner.streams.load(Ordering::Relaxed);
        let request = Request::Beat(Beat {
            server,
            incarnation: identity.incarnation,
            epoch: *inner.epoch.lock(),
            load,
            done: done
                .iter()
                .map(|(chunk, replica)| OrderDone::Dropped {
                    chunk: *chunk,
                    replica: *replica,
                })
                .chain(copied.iter().cloned())
                .chain(intact.iter().cloned())
                .collect(),
            damaged: damaged.clone(),
        });
        let answer = connection
            .call(Kind::MasterRequest, &request, Bytes::new(), ANSWER)
            .await?;
        let (
            Response::BeatAnswer {
                epoch,
                now,
                orders: ordered,
                masters,
            },
            _,
        ) = answer
        else {
            return Err(unexpected(&connection.peer().address));
        };
        let Some(epoch) = epoch else {
            inner.clock.hear(now, false);
            self.hear_of(masters, false);
            return Ok(false);
        };
        // An overruled leader's word does not set the clock back.
        if epoch >= *inner.epoch.lock() {
            inner.clock.hear(now, true);
        }
        if self.accept(epoch).await? {
            self.hear_of(masters, true);
            inner.done.lock().retain(|one| !done.contains(one));
            inner.recheck.answered(&intact);
            inner.store.damage_taken(&damaged);
            inner.copies.confirmed(&copied);
            let Sorted {
                drops,
                copies,
                builds,
                verify,
            } = Sorted::from(ordered);
            inner.copies.hear(copies, builds);
            inner.recheck.order(verify.into_iter());
            if !drops.is_empty() {
                // While a batch is under way the next is not taken: the master repeats it.
                let _ = orders.try_send(drops);
            }
        }
        Ok(true)
    }

    /// Whether orders of `epoch` are to be obeyed; a higher one than ever is made durable first.
    pub(super) async fn accept(&self, epoch: Epoch) -> Result<bool, WireError> {
        // One at a time: a lower epoch must not become durable after a higher one.
        let _turn = self.0.accepting.lock().await;
        let highest = *self.0.epoch.lock();
        if epoch < highest {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%epoch, %highest, "orders of an overruled leader are not obeyed");
            return Ok(false);
        }
        if epoch > highest {
            self.0.store.set_epoch(epoch).await.map_err(|e| e.to_wire())?;
            *self.0.epoch.lock() = epoch;
        }
        Ok(true)
    }
}

/// Orders by what is done about them.
#[derive(Debug, Default)]
struct Sorted {
    drops: Orders,
    copies: Vec<CopyOrder>,
    builds: Vec<BuildOrder>,
    verify: Orders,
}

impl From<Vec<Order>> for Sorted {
    fn from(ordered: Vec<Order>) -> Self {
        let mut sorted = Self::default();
        for order in ordered {
            match order {
                Order::Drop { chunk, replica } if sorted.drops.len() < BATCH_ROWS_MAX => {
                    sorted.drops.push((chunk, replica));
                }
                Order::Drop { .. } => {}
                Order::Copy(copy) => sorted.copies.push(copy),
                Order::Build(build) => sorted.builds.push(build),
                Order::Verify { chunk, replica } => sorted.verify.push((chunk, replica)),
            }
        }
        sorted
    }
}

pub(super) fn unexpected(address: &str) -> WireError {
    WireError::new(
        gabion_protocol::ErrorCode::Protocol,
        format!("master {address} answered something else"),
    )
    .action(Action::Retry { after_ms: 1000 })
}

async fn keep_beating(masters: Masters, server: ServerId, address: String, orders: mpsc::Sender<Orders>) {
    loop {
        match dial(&address, &masters.0.options.dialer, DIAL).await {
            Ok(connection) => {
                masters.0.connections.lock().insert(address.clone(), connection.clone());
                masters.introduce_stock(server, &connection).await;
                let led = Notify::new();
                let error = tokio::select! {
                    error = beat_on(&masters, server, &connection, &orders, &led) => error,
                    () = masters.report_inventory(server, &connection, &led) => return,
                };
                masters.0.connections.lock().remove(&address);
                if error.action == Action::GiveUp {
                    tracing::warn!(%address, %error, "a master refuses this server's beats");
                } else {
                    tracing::debug!(%address, %error, "a master does not answer");
                }
            }
            Err(error) => tracing::debug!(%address, %error, "a master cannot be reached"),
        }
        sleep(AGAIN).await;
    }
}

/// Beats until an error, which it returns; tells `led` of each beat that a leader has answered.
async fn beat_on(
    masters: &Masters,
    server: ServerId,
    connection: &Connection,
    orders: &mpsc::Sender<Orders>,
    led: &Notify,
) -> WireError {
    let mut leads = false;
    let mut ticks = ticks(BEAT_LEADER);
    let mut skipped = false;
    let mut beaten = Instant::now();
    let mut reports = Reports::default();
    loop {
        let early = async {
            sleep_until(beaten + BEAT_EARLY).await;
            masters.0.copies.ran_dry().await;
        };
        tokio::select! {
            _ = ticks.tick() => {
                // Ticks come at the leader's pace; a follower hears every second of them.
                skipped = !leads && !skipped && BEAT_FOLLOWER > BEAT_LEADER;
                if skipped {
                    continue;
                }
            }
            // Orders come with the answers: a server that has carried all of them out is not to wait for the next.
            () = early, if leads => {}
        }
        beaten = Instant::now();
        match masters.beat(connection, server, orders).await {
            Ok(now_leads) => leads = now_leads,
            Err(error) => return error,
        }
        if leads {
            led.notify_one();
        }
        if leads && let Err(error) = masters.report(connection, server, &mut reports).await {
            return error;
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Carries out orders, batch by batch, some of a batch at a time: a tree of many files must not keep clients waiting.
async fn obey(masters: Masters, pace: Pace, mut orders: mpsc::Receiver<Orders>) {
    while let Some(batch) = orders.recv().await {
        let mut done = Vec::new();
        for some in batch.chunks(DROPS_AT_A_TIME) {
            let turn = pace.turn(Share::Small).await;
            done.extend(masters.0.store.drop_copies(some).await);
            drop(turn);
        }
        masters.confirm(done);
    }
}
