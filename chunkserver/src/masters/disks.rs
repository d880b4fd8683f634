//! Tells the leader how the disks are, and which copies are to leave failing ones.
//!
//! Beside the beats, on the way that inventory reports go: a failing disk that takes its time to list copies must not make
//! this server look silent.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::LEAVING_PAGE;
use gabion_protocol::messages::master::{DiskInfo, DiskReport, DiskState, Request, Response};
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
    fn is_due(&self, states: &[DiskState]) -> bool {
        let period = if states.contains(&DiskState::Failing) {
            LEAVING
        } else {
            STEADY
        };
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
        if !reports.is_due(&states) {
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
        let (Response::Done, _) = answer.await? else {
            return Err(unexpected(&connection.peer().address));
        };
        reports.leaving = next;
        Ok(())
    }
}
