//! Disks of chunkservers: what each server tells of its own, for operators, and which copies leave failing disks, for
//! repair.
//!
//! Soft: nothing is logged. A new leader is told within seconds, and until then treats those copies like any others. What
//! is believed of a copy is only that another should be made from it; it goes by the rule for copies that are too much,
//! which `state::repair` judges.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, Incarnation, ReplicaNumber, ServerId};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::{DISKS_MAX, LEAVING_PAGE};
use gabion_protocol::messages::master::{DiskInfo, DiskReport, DiskState, Response, ServerDisks};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;

use super::beat;
use super::shared::Master;
use crate::plan::repair::ChunkView;
use crate::plan::search::Leaving;
use crate::state::read;

/// Copies of one server that are worked on at one time; the others come when these have left.
const LEAVING_MAX: usize = 4 * LEAVING_PAGE;

/// What is known of the servers' disks.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<BTreeMap<ServerId, Known>>);

#[derive(Debug)]
struct Known {
    told: Duration,
    incarnation: Incarnation,
    disks: Vec<DiskInfo>,
    leaving: BTreeMap<ChunkId, ReplicaNumber>,
}

impl Disks {
    fn take(&self, report: DiskReport, now: Duration) {
        let mut servers = self.0.lock();
        let before = servers.remove(&report.server);
        let fails = report.disks.iter().any(|disk| disk.state == DiskState::Failing);
        let same = before.filter(|before| fails && before.incarnation == report.incarnation);
        let mut leaving = same.map(|before| before.leaving).unwrap_or_default();
        for (chunk, replica) in report.leaving {
            if leaving.len() < LEAVING_MAX {
                leaving.insert(chunk, replica);
            }
        }
        let known = Known {
            told: now,
            incarnation: report.incarnation,
            disks: report.disks,
            leaving,
        };
        servers.insert(report.server, known);
    }

    /// Copies that are to leave their disks.
    pub(super) fn leaving(&self) -> Leaving {
        let mut all = Leaving::new();
        for (server, known) in self.0.lock().iter() {
            for (chunk, replica) in &known.leaving {
                all.entry(*chunk).or_default().insert(*server, *replica);
            }
        }
        all
    }

    /// Forgets copies that have left: none of the chunk's rows, as they were looked at, names them as leaving any more.
    pub(super) fn have_left(&self, looked: &Leaving, chunks: &[ChunkView]) {
        let stay: BTreeMap<ChunkId, &ChunkView> = chunks.iter().map(|view| (view.id, view)).collect();
        let mut servers = self.0.lock();
        for (chunk, copies) in looked {
            for (server, replica) in copies {
                let stays = stay.get(chunk).is_some_and(|view| view.leaving.contains(server));
                if let Some(known) = servers.get_mut(server).filter(|_| !stays)
                    && known.leaving.get(chunk) == Some(replica)
                {
                    known.leaving.remove(chunk);
                }
            }
        }
    }

    fn shown(&self, server: ServerId, name: String, incarnation: Incarnation, now: Duration) -> ServerDisks {
        let servers = self.0.lock();
        let known = servers.get(&server).filter(|known| known.incarnation == incarnation);
        let age = |known: &Known| u64::try_from(now.saturating_sub(known.told).as_millis()).unwrap_or(u64::MAX);
        ServerDisks {
            server,
            name,
            age_ms: known.map(age),
            disks: known.map(|known| known.disks.clone()).unwrap_or_default(),
        }
    }
}

impl Master {
    /// Takes a chunkserver's report in.
    ///
    /// # Errors
    /// As for a beat; [`ErrorCode::InvalidArgument`] if it breaks a limit.
    pub(super) async fn disk_report(&self, identity: &Identity, report: DiskReport) -> Result<Response, WireError> {
        let server = report.server;
        let row = self.read_stale(move |view| read::server(view, server)).await?;
        let row = row.ok_or_else(|| beat::unknown(server))?;
        beat::check(identity, &row, server, report.incarnation)?;
        if report.disks.len() > DISKS_MAX || report.leaving.len() > LEAVING_PAGE {
            let message = format!("a report of c{server}'s disks is longer than reports are");
            return Err(WireError::new(ErrorCode::InvalidArgument, message).help("update the chunkserver"));
        }
        let leaves = !report.leaving.is_empty();
        self.disks.take(report, monotonic());
        if leaves {
            self.repairs.wake();
        }
        Ok(Response::Done)
    }

    /// How every server's disks are.
    ///
    /// # Errors
    /// Where the leader is.
    pub(super) async fn disk_status(&self) -> Result<Response, WireError> {
        let servers = self.read_stale(|view| read::servers(view)).await?;
        let now = monotonic();
        let serving = servers.into_iter().filter(|(_, row)| !row.retired);
        let shown = serving.map(|(server, row)| self.disks.shown(server, row.name, row.incarnation, now));
        Ok(Response::Disks(shown.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: DiskState, leaving: &[u64]) -> DiskReport {
        let disk = DiskInfo {
            disk: None,
            directory: "/d".to_owned(),
            state,
            why: String::new(),
            bytes_total: 1,
            bytes_free: 1,
            copies: Some(1),
        };
        DiskReport {
            server: ServerId(1),
            incarnation: Incarnation([1; 16]),
            disks: vec![disk],
            leaving: leaving.iter().map(|of| (chunk(*of), ReplicaNumber(*of))).collect(),
        }
    }

    fn chunk(counter: u64) -> ChunkId {
        let mut chunk = ChunkId::from_bytes([0; 14]);
        chunk.counter = counter;
        chunk
    }

    fn known(disks: &Disks) -> Vec<u64> {
        disks.leaving().keys().map(|chunk| chunk.counter).collect()
    }

    #[test]
    fn copies_leave_until_their_rows_are_gone_or_the_disk_is_well() {
        let disks = Disks::default();
        let now = Duration::from_secs(1);
        disks.take(report(DiskState::Failing, &[1, 2]), now);
        disks.take(report(DiskState::Failing, &[3]), now);
        assert_eq!(known(&disks), [1, 2, 3], "a list is told in parts");
        disks.have_left(&disks.leaving(), &[]);
        assert_eq!(known(&disks), [0; 0], "no row names them");
        disks.take(report(DiskState::Failing, &[4]), now);
        disks.take(report(DiskState::Serving, &[]), now);
        assert_eq!(known(&disks), [0; 0], "another life, or another disk");
        for page in 0..10 {
            let page: Vec<u64> = (page * 256..(page + 1) * 256).collect();
            disks.take(report(DiskState::Failing, &page), now);
        }
        assert_eq!(known(&disks).len(), LEAVING_MAX);
        let other = Incarnation([2; 16]);
        assert_eq!(disks.shown(ServerId(1), "c1".into(), other, now).age_ms, None);
    }
}
