//! Inventory: takes what chunkservers say they hold, compares it with the rows, and logs what is proven to differ.
//!
//! Digests only say where to look. What is decided is decided by the leader, from rows read behind a barrier after the
//! server's list arrived, twice (`plan::inventory`), and bound to its term; `state::inventory` looks at the rows again.
//!
//! | found | then |
//! |---|---|
//! | a copy is missing | it is logged as suspected, and its server looks again; if that has a disk out of service, as damaged |
//! | a damaged copy is listed as whole | it counts again, and its server reads it again |
//! | a copy nobody knows | set aside; removed after a day |
//! | a copy that was never given out | an alarm; nothing else, ever |

mod tracker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, ServerId};
use gabion_protocol::inventory::{BUCKETS, Bucket};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::{BATCH_ROWS_MAX, INVENTORY_DIGESTS, INVENTORY_PAGE};
use gabion_protocol::messages::master::{BucketPage, Damage, InventoryReport, Response, ServerInventory};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::beat;
use super::shared::{Master, read_many, row_error};
use crate::plan::inventory::{Copy, Differences, compare};
use crate::state::{Command, inventory, read};
use tracker::Tracker;

/// What a leader remembers of inventories. Soft.
#[derive(Debug)]
pub(super) struct Inventories {
    servers: Mutex<BTreeMap<ServerId, Tracker>>,
    /// One walk over a server's rows at a time: they are in no hurry, and a new leader has other things to do.
    walks: Arc<Semaphore>,
}

impl Default for Inventories {
    fn default() -> Self {
        Self {
            servers: Mutex::default(),
            walks: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Inventories {
    /// Works on what is remembered of a server in this term.
    fn with<T>(&self, server: ServerId, term: u64, work: impl FnOnce(&mut Tracker) -> T) -> T {
        let mut servers = self.servers.lock();
        let tracker = servers.entry(server).or_insert_with(|| Tracker::new(term));
        if tracker.term != term {
            *tracker = Tracker::new(term);
        }
        work(tracker)
    }
}

impl Master {
    /// Takes a chunkserver's report in, and says what it is to list.
    ///
    /// # Errors
    /// As for a beat; [`ErrorCode::InvalidArgument`] if the report breaks a limit.
    pub(super) async fn inventory(&self, identity: &Identity, report: InventoryReport) -> Result<Response, WireError> {
        let server = report.server;
        let row = self.read_stale(move |view| read::server(view, server)).await?;
        let row = row.ok_or_else(|| beat::unknown(server))?;
        beat::check(identity, &row, server, report.incarnation)?;
        check(&report)?;
        self.tail.hear(&report);
        let Some(epoch) = self.epoch() else {
            let (epoch, list) = (None, None);
            return Ok(Response::InventoryAnswer { epoch, list });
        };
        self.mind_tail().await?;
        let ready = self
            .ledger
            .known(server, Bucket::of(ChunkId::from_bytes([0; 14])))
            .is_some();
        if !ready {
            self.walk(server);
        }
        let (quiet, now) = (self.settings.inventory_quiet, monotonic());
        let ours = |bucket| self.ledger.known(server, bucket);
        let judged = self.inventories.with(server, epoch.term, |tracker| {
            tracker.take(&report, ours, now);
            report
                .listed
                .as_ref()
                .is_some_and(|page| tracker.takes(page, quiet, now))
        });
        if let Some(page) = report.listed.filter(|_| judged) {
            self.judge(server, page, epoch.term).await?;
        }
        let ask = |tracker: &mut Tracker| tracker.ask(quiet, monotonic());
        let list = self.inventories.with(server, epoch.term, ask);
        let epoch = Some(epoch);
        Ok(Response::InventoryAnswer { epoch, list })
    }

    /// Has a server's digests made from its rows.
    fn walk(&self, server: ServerId) {
        let Ok(turn) = Arc::clone(&self.inventories.walks).try_acquire_owned() else {
            return;
        };
        let Some(walk) = self.ledger.begin(server) else {
            return;
        };
        let (ledger, view) = (Arc::clone(&self.ledger), self.raft.stale_view());
        tokio::task::spawn_blocking(move || {
            let began = monotonic();
            match ledger.walk(&walk, &view) {
                Ok(()) => {
                    tracing::debug!(%server, took = ?monotonic().saturating_sub(began), "copies are accounted for")
                }
                Err(error) => tracing::error!(%server, %error, "cannot walk over a server's rows"),
            }
            drop(turn);
        });
    }

    /// Compares a page with the rows behind a barrier, and logs what is proven.
    async fn judge(&self, server: ServerId, page: BucketPage, term: u64) -> Result<(), WireError> {
        let view = self.proven_view().await?;
        let compared = read_many(view, move |view| {
            let found = compare(view, server, &page).map_err(row_error)?;
            Ok((page, found))
        });
        let (page, found) = compared.await?;
        let (proven, copies, complete) = self.inventories.with(server, term, |tracker| {
            let proven = tracker.compared(&page, found, monotonic());
            (proven, tracker.copies, tracker.complete)
        });
        if proven.is_empty() {
            return Ok(());
        }
        tell(server, &proven, complete);
        let stopped = async || self.read_stale(move |view| inventory::doubt(view, server)).await;
        for command in commands(server, &proven, copies, complete, self.settings.keep_unknown) {
            self.propose_in_term(term, &command)
                .await?
                .into_wire(&command.cannot())?;
        }
        if !proven.unknown.is_empty()
            && let Some(doubt) = stopped().await?.filter(|doubt| doubt.stopped)
        {
            let believed = inventory::believed(copies);
            tracing::error!(
                %server, unknown = doubt.unknown, copies, believed,
                "too many of a server's copies are unknown: none is removed until an operator accepts it"
            );
        }
        self.repairs.wake();
        Ok(())
    }

    /// What every server holds, compared with the rows.
    ///
    /// # Errors
    /// Where the leader is.
    pub(super) async fn inventory_status(&self) -> Result<Response, WireError> {
        let epoch = self.epoch().ok_or_else(|| self.not_leader())?;
        let rows = self.read_stale(|view| {
            let servers = read::servers(view)?.into_iter().filter(|(_, row)| !row.retired);
            servers
                .map(|(server, row)| Ok((server, row.name, inventory::doubt(view, server)?)))
                .collect::<Result<Vec<_>, _>>()
        });
        let (rows, now) = (rows.await?, monotonic());
        let trackers = self.inventories.servers.lock();
        let shown = rows.into_iter().map(|(server, name, doubt)| {
            let tracker = trackers.get(&server).filter(|tracker| tracker.term == epoch.term);
            let count =
                |of: fn(&Tracker) -> usize| tracker.map_or(0, |tracker| u16::try_from(of(tracker)).unwrap_or(u16::MAX));
            ServerInventory {
                server,
                name,
                age_ms: tracker.map(|tracker| millis(now.saturating_sub(tracker.heard))),
                copies: tracker.map_or(0, |tracker| tracker.copies),
                complete: tracker.is_none_or(|tracker| tracker.complete),
                refused: tracker.map_or(0, |tracker| tracker.refused),
                heard: count(Tracker::told),
                differing: count(Tracker::differing),
                compared: tracker.map_or(0, |tracker| tracker.compared),
                missing: tracker.map_or(0, |tracker| tracker.missing),
                unknown: doubt.map_or(0, |doubt| doubt.unknown),
                stopped: doubt.is_some_and(|doubt| doubt.stopped),
                forgotten: tracker.map_or(0, Tracker::forgotten),
            }
        });
        Ok(Response::Inventories(shown.collect()))
    }

    /// An operator accepts that so many of a server's copies are unknown.
    ///
    /// # Errors
    /// [`ErrorCode::Conflict`] if the server is not stopped; or where the leader is.
    pub(super) async fn accept_unknown(&self, server: ServerId) -> Result<Response, WireError> {
        let view = self.view().await?;
        let doubt = read_many(view, move |view| inventory::doubt(view, server).map_err(row_error));
        match doubt.await? {
            Some(doubt) if doubt.stopped => {}
            // The answer to the first request may have been lost.
            Some(doubt) if doubt.accepted => return Ok(Response::Done),
            _ => {
                let message = format!("nothing is to be accepted of c{server}: it is not stopped");
                let error = WireError::new(ErrorCode::Conflict, message).action(Action::GiveUp);
                return Err(error.help("see: gabion admin inventory status"));
            }
        }
        let command = Command::UnknownAccepted { server };
        self.propose(&command).await?.into_wire(&command.cannot())?;
        if let Some(tracker) = self.inventories.servers.lock().get_mut(&server) {
            tracker.hurry();
        }
        Ok(Response::Done)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn check(report: &InventoryReport) -> Result<(), WireError> {
    let digests = report.digests.len();
    let fits = digests <= INVENTORY_DIGESTS && usize::from(report.first) + digests <= usize::from(BUCKETS);
    let listed = report.listed.as_ref().map_or(0, |page| page.copies.len());
    if fits && listed <= INVENTORY_PAGE {
        return Ok(());
    }
    let message = format!(
        "an inventory report of c{} has {digests} digests from bucket {} on and {listed} copies",
        report.server, report.first
    );
    Err(WireError::new(ErrorCode::InvalidArgument, message).help("update the chunkserver"))
}

fn tell(server: ServerId, proven: &Differences, complete: bool) {
    let (missing, unknown) = (proven.missing.len(), proven.unknown.len());
    let (forgotten, doubted) = (proven.forgotten.len(), proven.doubted.len());
    tracing::warn!(
        %server, missing, unknown, forgotten, doubted, complete,
        "what a chunkserver holds differs from what the masters know"
    );
    if let Some((chunk, _)) = proven.forgotten.first() {
        tracing::error!(
            %server, forgotten, %chunk,
            "a chunkserver holds copies these masters never gave out: they were started from an old copy of their \
             directories; nothing of it is removed"
        );
    }
}

/// What is logged about proven differences. What is never logged is a copy that was never given out: nothing may be done
/// about it.
fn commands(server: ServerId, proven: &Differences, held: u64, complete: bool, keep: Duration) -> Vec<Command> {
    let batches = |copies: &std::collections::BTreeSet<Copy>| -> Vec<Vec<Copy>> {
        let copies: Vec<_> = copies.iter().copied().collect();
        copies.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec).collect()
    };
    let mut commands = Vec::new();
    for copies in batches(&proven.doubted) {
        commands.push(Command::DamageDoubted { server, copies });
    }
    for copies in batches(&proven.missing) {
        let what = if complete {
            "its server does not list it"
        } else {
            "unavailable: a disk of its server is out of service"
        };
        let damage = |(chunk, replica)| Damage {
            chunk,
            replica,
            what: what.to_owned(),
        };
        let found = copies.into_iter().map(damage);
        commands.push(if complete {
            let found = found.map(|damage| (server, damage)).collect();
            Command::DamageSuspected { found }
        } else {
            let found = found.collect();
            Command::DamageFound { server, found }
        });
    }
    for copies in batches(&proven.unknown) {
        commands.push(Command::UnknownFound {
            server,
            held,
            keep_ms: millis(keep),
            copies,
        });
    }
    commands
}
