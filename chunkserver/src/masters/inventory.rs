//! Tells the leader which copies this server holds: a few digests after each beat, and lists of copies where it asks; and,
//! less often, how its disks are.
//!
//! Reports go their own way beside the beats on the same connection: a leader that takes its time to judge a list must not
//! make this server look silent.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::inventory::{BUCKETS, Bucket};
use gabion_protocol::limits::{INVENTORY_DIGESTS, INVENTORY_PAGE};
use gabion_protocol::messages::master::{BucketAsk, BucketPage, InventoryReport, Request, Response};
use gabion_protocol::net::Connection;
use gabion_protocol::{ServerId, WireError};
use tokio::sync::Notify;

use super::Masters;
use super::beats::unexpected;
use super::disks::DiskReports;

/// How long a leader may take to judge a list.
const ANSWER: Duration = Duration::from_secs(10);
/// Lists sent for one beat: many buckets that differ are worked off one after the other without hurry.
const LISTS_PER_BEAT: usize = 16;

/// Where the reports on one connection are.
#[derive(Debug)]
struct Round {
    /// The bucket whose digest is told next.
    next: u16,
    /// Which disks were in service, and since when it is these.
    serving: (Vec<bool>, Instant),
}

impl Masters {
    /// Tells a master, before the first beat on a connection, how far this server's chunks and copies are numbered: it must
    /// not place a chunk here before it knows, whether it leads now or later.
    pub(super) async fn introduce_stock(&self, server: ServerId, connection: &Connection) {
        let mut round = Round {
            next: 0,
            serving: (Vec::new(), Instant::now()),
        };
        let report = self.inventory_report(server, (0, Vec::new()), None, &mut round);
        let told = async {
            let request = Request::Inventory(Box::new(report?));
            let answer = connection.call::<_, Response>(Kind::MasterRequest, &request, Bytes::new(), super::ANSWER);
            answer.await.map(drop)
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "a master did not take the first inventory report");
        }
    }

    /// Reports each time `led` says that the master on this connection has answered a beat as the leader. Ends only by
    /// being dropped.
    pub(super) async fn report_inventory(&self, server: ServerId, connection: &Connection, led: &Notify) {
        let mut round = Round {
            next: 0,
            serving: (self.0.store.stock().serving, Instant::now()),
        };
        let mut disks = DiskReports::default();
        loop {
            led.notified().await;
            if let Err(error) = self.report_once(server, connection, &mut round).await {
                // The beats notice whether the connection is to blame.
                tracing::debug!(%error, "an inventory report was not taken");
            }
            if let Err(error) = self.report_disks(connection, server, &mut disks).await {
                tracing::debug!(%error, "a report of the disks was not taken");
            }
        }
    }

    async fn report_once(&self, server: ServerId, connection: &Connection, round: &mut Round) -> Result<(), WireError> {
        let (mut digests, mut listed) = (self.digests(round), None);
        for _ in 0..=LISTS_PER_BEAT {
            let report = self.inventory_report(server, std::mem::take(&mut digests), listed.take(), round)?;
            let request = Request::Inventory(Box::new(report));
            let answer = connection.call(Kind::MasterRequest, &request, Bytes::new(), ANSWER);
            let (Response::InventoryAnswer { epoch, list }, _) = answer.await? else {
                return Err(unexpected(&connection.peer().address));
            };
            let (Some(epoch), Some(ask)) = (epoch, list) else {
                break;
            };
            if !self.accept(epoch).await? {
                break;
            }
            listed = self.list(&ask, round).await?;
        }
        Ok(())
    }

    /// The digests that are due: the first of them and all.
    fn digests(&self, round: &mut Round) -> (u16, Vec<[u8; 8]>) {
        let first = round.next;
        let buckets = (first..BUCKETS).take(INVENTORY_DIGESTS).filter_map(Bucket::new);
        let digests: Vec<_> = buckets
            .map(|bucket| self.0.store.digest(bucket).to_be_bytes())
            .collect();
        // At most BUCKETS.
        round.next = (first + digests.len() as u16) % BUCKETS;
        (first, digests)
    }

    fn inventory_report(
        &self,
        server: ServerId,
        (first, digests): (u16, Vec<[u8; 8]>),
        listed: Option<BucketPage>,
        round: &mut Round,
    ) -> Result<InventoryReport, WireError> {
        let identity = self.0.store.identity().map_err(|e| e.to_wire())?;
        // After the list: if a disk went out of service meanwhile, the masters must know.
        let stock = self.0.store.stock();
        if stock.serving != round.serving.0 {
            round.serving = (stock.serving, Instant::now());
        }
        Ok(InventoryReport {
            server,
            incarnation: identity.incarnation,
            copies: stock.copies,
            highest: stock.highest,
            highest_number: stock.highest_number,
            refused: self.0.refused.load(Ordering::Relaxed),
            complete: stock.complete,
            first,
            digests,
            listed,
        })
    }

    async fn list(&self, ask: &BucketAsk, round: &Round) -> Result<Option<BucketPage>, WireError> {
        let Some(bucket) = Bucket::new(ask.bucket) else {
            return Ok(None);
        };
        let quiet = self.0.store.quiet(bucket).min(round.serving.1.elapsed());
        let listing = self.0.store.list_bucket(bucket, ask.after, INVENTORY_PAGE);
        let (copies, more) = listing.await.map_err(|e| e.to_wire())?;
        Ok(Some(BucketPage {
            ask: *ask,
            quiet_ms: u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX),
            copies,
            more,
        }))
    }
}
