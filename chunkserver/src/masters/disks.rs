//! Tells the leader how the disks are, and which copies are to leave those that fail or are drained; hears which are to
//! be drained.
//!
//! Beside the beats, on the way that inventory reports go: a failing disk that takes its time to list copies must not make
//! this server look silent.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::{DISKS_MAX, LEAVING_PAGE};
use gabion_protocol::messages::master::{DiskInfo, DiskOrder, DiskReport, DiskState, Request, Response};
use gabion_protocol::net::Connection;
use gabion_protocol::{ChunkId, ServerId, WireError};
use tokio::time::Instant;

use super::beats::unexpected;
use super::{ANSWER, Masters};

/// Between two reports while nothing but numbers changes.
const STEADY: Duration = Duration::from_secs(5);
/// Between two reports while copies are to leave a disk.
const LEAVING: Duration = Duration::from_secs(1);

/// Where the reports on one connection are.
#[derive(Debug, Default)]
pub(super) struct DiskReports {
    /// When the last one was sent, and the states it told, whether or not it was answered.
    last: Option<(Instant, Vec<DiskState>)>,
    /// After which chunk the next list of leaving copies goes on.
    leaving: Option<ChunkId>,
}

impl DiskReports {
    fn is_due(&self, states: &[DiskState], leaves: bool) -> bool {
        let period = if leaves { LEAVING } else { STEADY };
        let told = |(at, told): &(Instant, Vec<DiskState>)| told == states && at.elapsed() < period;
        !self.last.as_ref().is_some_and(told)
    }
}

impl Masters {
    /// Tells a leader how the disks are, if it is time to.
    pub(super) async fn report_disks(
        &self,
        connection: &Connection,
        server: ServerId,
        reports: &mut DiskReports,
    ) -> Result<(), WireError> {
        let store = &self.0.store;
        let disks: Vec<DiskInfo> = store.disk_infos();
        let states: Vec<_> = disks.iter().map(|disk| disk.state).collect();
        let leaves = |disk: &DiskInfo| {
            matches!(disk.state, DiskState::Failing | DiskState::Draining)
                && disk.copies.is_some_and(|copies| copies > 0)
        };
        if !reports.is_due(&states, disks.iter().any(leaves)) {
            return Ok(());
        }
        // A disk that cannot tell is out of service by now, and the next report says so.
        let (leaving, next) = store.leaving(reports.leaving, LEAVING_PAGE).await.unwrap_or_default();
        let request = Request::Disks(Box::new(DiskReport {
            server,
            incarnation: store.identity().map_err(|e| e.to_wire())?.incarnation,
            disks,
            leaving,
        }));
        // Also if nobody answers: the reports behind this one are not to wait for it again at once.
        reports.last = Some((Instant::now(), states));
        let answer = connection.call(Kind::MasterRequest, &request, Bytes::new(), ANSWER);
        match answer.await? {
            (Response::Done, _) => {}
            (Response::DiskAnswer { epoch, orders }, _) => {
                if self.accept(epoch).await? {
                    self.obey_about_disks(orders).await;
                }
            }
            _ => return Err(unexpected(&connection.peer().address)),
        }
        reports.leaving = next;
        Ok(())
    }

    /// What cannot be done now is ordered again.
    async fn obey_about_disks(&self, orders: Vec<DiskOrder>) {
        for order in orders.into_iter().take(DISKS_MAX) {
            if let Err(error) = self.0.store.set_draining(order.disk, order.drain).await {
                tracing::error!(%error, drain = order.drain, "cannot obey an operator's word about a disk");
            }
        }
    }
}
