//! Disks of chunkservers: what each server tells of its own, for operators, and which copies leave those that fail or are
//! drained, for repair; and which disks operators want drained.
//!
//! Soft: nothing is logged. A new leader is told within seconds, and until then treats those copies like any others. What
//! is believed of a copy is only that another should be made from it; it goes by the rule for copies that are too much,
//! which `state::repair` judges. That a disk is drained lies on that disk itself; here an operator's word only waits for
//! the server's next report, and whoever gave it sees whether it arrived.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, Incarnation, ReplicaNumber, ServerId};
use gabion_protocol::keys::{Identity, hex};
use gabion_protocol::limits::{DISKS_MAX, LEAVING_PAGE};
use gabion_protocol::messages::master::{DiskInfo, DiskOrder, DiskReport, DiskState, Response, ServerDisks};
use gabion_protocol::process::monotonic;
use parking_lot::Mutex;

use super::beat;
use super::shared::Master;
use crate::plan::repair::ChunkView;
use crate::plan::search::Leaving;
use crate::state::read;

/// Copies of one server that are worked on at one time; the others come when these have left.
const LEAVING_MAX: usize = 4 * LEAVING_PAGE;

/// So long a server is told what an operator wants of a disk: it reports every few seconds.
const WANTED: Duration = Duration::from_secs(60);

/// What is known of the servers' disks.
#[derive(Debug, Default)]
pub(super) struct Disks {
    servers: Mutex<BTreeMap<ServerId, Known>>,
    wanted: Mutex<Wanted>,
}

/// Whether an operator wants a disk drained or to serve, and until when its server is told so.
type Wanted = BTreeMap<(ServerId, [u8; 16]), (bool, Duration)>;

#[derive(Debug)]
struct Known {
    told: Duration,
    incarnation: Incarnation,
    disks: Vec<DiskInfo>,
    leaving: BTreeMap<ChunkId, ReplicaNumber>,
}

impl Disks {
    fn take(&self, report: DiskReport, now: Duration) {
        let mut servers = self.servers.lock();
        let before = servers.remove(&report.server);
        let leaves = |disk: &DiskInfo| matches!(disk.state, DiskState::Failing | DiskState::Draining);
        let leaves = report.disks.iter().any(leaves);
        let same = before.filter(|before| leaves && before.incarnation == report.incarnation);
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

    /// Remembers an operator's word.
    fn want(&self, server: ServerId, disk: [u8; 16], drain: bool, now: Duration) {
        self.wanted.lock().insert((server, disk), (drain, now + WANTED));
    }

    /// What a server that has told of its disks is to do; forgets what is done, and what took too long.
    fn orders(&self, server: ServerId, disks: &[DiskInfo], now: Duration) -> Vec<DiskOrder> {
        let mut wanted = self.wanted.lock();
        wanted.retain(|(of, disk), (drain, until)| {
            let told = disks.iter().find(|told| *of == server && told.disk == Some(*disk));
            let done = told.is_some_and(|told| (told.state == DiskState::Draining) == *drain);
            *until > now && !done
        });
        let known = |disk: &[u8; 16]| disks.iter().any(|told| told.disk == Some(*disk));
        let orders = wanted.iter().filter(|((of, disk), _)| *of == server && known(disk));
        orders
            .map(|((_, disk), (drain, _))| DiskOrder {
                disk: *disk,
                drain: *drain,
            })
            .collect()
    }

    /// How a disk is, as its server told last.
    fn state(&self, server: ServerId, disk: [u8; 16]) -> Option<DiskState> {
        let servers = self.servers.lock();
        let disks = &servers.get(&server)?.disks;
        disks.iter().find(|told| told.disk == Some(disk)).map(|told| told.state)
    }

    /// Copies that are to leave their disks.
    pub(super) fn leaving(&self) -> Leaving {
        let mut all = Leaving::new();
        for (server, known) in self.servers.lock().iter() {
            for (chunk, replica) in &known.leaving {
                all.entry(*chunk).or_default().insert(*server, *replica);
            }
        }
        all
    }

    /// Forgets copies that have left: none of the chunk's rows, as they were looked at, names them as leaving any more.
    pub(super) fn have_left(&self, looked: &Leaving, chunks: &[ChunkView]) {
        let stay: BTreeMap<ChunkId, &ChunkView> = chunks.iter().map(|view| (view.id, view)).collect();
        let mut servers = self.servers.lock();
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
        let servers = self.servers.lock();
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
        let orders = self.disks.orders(server, &report.disks, monotonic());
        self.disks.take(report, monotonic());
        if leaves {
            self.repairs.wake();
        }
        match self.epoch() {
            Some(epoch) if !orders.is_empty() => Ok(Response::DiskAnswer { epoch, orders }),
            _ => Ok(Response::Done),
        }
    }

    /// Has a server drain one of its disks, or take it into service again.
    ///
    /// # Errors
    /// Where the leader is; [`ErrorCode::NotFound`] if this leader has not heard of the disk, or nothing on it can be
    /// reached; [`ErrorCode::TooFewServers`] if its copies could not be made elsewhere and `force` is not set.
    pub(super) async fn drain_disk(
        &self,
        server: ServerId,
        disk: [u8; 16],
        drain: bool,
        force: bool,
    ) -> Result<Response, WireError> {
        let refuse = |code, message: String, help: &str| Err(WireError::new(code, message).help(help));
        let name = hex(&disk);
        match self.disks.state(server, disk) {
            None => {
                let message = format!("c{server} has not told this leader of a disk {name}");
                return refuse(ErrorCode::NotFound, message, "see: gabion admin disk list");
            }
            Some(DiskState::OutOfService) => {
                let message = format!("disk {name} of c{server} is out of service: its copies are made anew already");
                return refuse(ErrorCode::NotFound, message, "see: gabion admin disk list");
            }
            Some(_) => {}
        }
        if drain && !force {
            let view = self.view().await?;
            let plan = self.plan_of(view, server).await?;
            let plan = plan.ok_or_else(|| beat::unknown(server))?;
            // The disk's chunks are some of the server's, so this may be too careful.
            let (others, wanted) = (plan.others.len(), plan.wanted_max);
            if others < usize::from(wanted) {
                let message = format!(
                    "cannot drain disk {name} of c{server}: {others} other servers are in service, and some chunks want \
                     {wanted} copies"
                );
                let help = "add a chunkserver first; with --force the disk holds its copies until there is one";
                return refuse(ErrorCode::TooFewServers, message, help);
            }
        }
        self.disks.want(server, disk, drain, monotonic());
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
        disks.take(report(DiskState::Draining, &[]), now);
        assert_eq!(known(&disks).len(), LEAVING_MAX, "whatever the reason is");
        let other = Incarnation([2; 16]);
        assert_eq!(disks.shown(ServerId(1), "c1".into(), other, now).age_ms, None);
    }

    #[test]
    fn an_operators_word_is_told_until_it_is_obeyed_or_a_minute_is_over() {
        let disks = Disks::default();
        let (server, now) = (ServerId(1), Duration::from_secs(1));
        let told = |state, disk| {
            let mut info = report(state, &[]).disks.remove(0);
            info.disk = Some([disk; 16]);
            info
        };
        let order = |disk, drain| DiskOrder {
            disk: [disk; 16],
            drain,
        };
        let two = [told(DiskState::Serving, 1), told(DiskState::Failing, 2)];
        disks.want(server, [1; 16], true, now);
        disks.want(server, [2; 16], true, now);
        disks.want(ServerId(2), [1; 16], true, now);
        for _ in 0..2 {
            assert_eq!(disks.orders(server, &two, now), [order(1, true), order(2, true)]);
        }
        let two = [told(DiskState::Draining, 1), told(DiskState::Failing, 2)];
        assert_eq!(disks.orders(server, &two, now), [order(2, true)]);
        disks.want(server, [1; 16], false, now);
        assert_eq!(disks.orders(server, &two, now), [order(1, false), order(2, true)]);
        let one = [told(DiskState::Serving, 1)];
        assert_eq!(disks.orders(server, &one, now), [], "the other disk is not there");
        assert_eq!(disks.orders(server, &two, now + WANTED), [], "nobody waits any more");
        assert_eq!(disks.orders(ServerId(2), &one, now + WANTED), []);
    }
}
