//! How far chunks and copies are numbered as chunkservers know it: masters that were started from an old copy of their
//! directories know less, and must not give the same numbers out again.
//!
//! Every chunkserver tells every master before its first beat on a connection. A master places chunks only on servers whose
//! beat it has heard, and asks here before each; so it has heard of the numbers of every server it would use, also in the
//! first moment of its leadership.

use gabion_protocol::error::WireError;
use gabion_protocol::ids::{ChunkId, ReplicaNumber};
use gabion_protocol::messages::master::InventoryReport;
use parking_lot::Mutex;

use super::shared::Master;
use crate::state::key::meta::{ClusterKey, CountersKey};
use crate::state::{Command, key};

/// The highest numbers heard of.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<Heard>);

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    highest: Option<ChunkId>,
    number: ReplicaNumber,
    /// What was logged last: beyond some distance the rows do not believe it, and it is not told again.
    told: Option<(Option<ChunkId>, ReplicaNumber)>,
}

impl Tail {
    /// Takes in what a server says.
    pub(super) fn hear(&self, report: &InventoryReport) {
        let mut heard = self.0.lock();
        heard.highest = heard.highest.max(report.highest);
        heard.number = heard.number.max(report.highest_number);
    }
}

impl Master {
    /// Makes sure that no number is given out that a chunkserver has heard before. Costs a look at two rows that are in
    /// memory; a command only if the masters lost their memory, and perhaps once after an election.
    ///
    /// # Errors
    /// If the command is not agreed to: then nothing may be placed.
    pub(super) async fn mind_tail(&self) -> Result<(), WireError> {
        let heard = *self.tail.0.lock();
        let Some(highest) = heard
            .highest
            .filter(|_| heard.told != Some((heard.highest, heard.number)))
        else {
            return Ok(());
        };
        let behind = self.read_stale(move |view| {
            let (Some(cluster), Some(counters)) = (key::get(view, &ClusterKey)?, key::get(view, &CountersKey)?) else {
                return Ok(false);
            };
            let behind = highest.timeline == cluster.timeline && highest.counter >= counters.chunk;
            Ok(behind || heard.number.0 >= counters.replica)
        });
        if !behind.await? {
            return Ok(());
        }
        let number = heard.number;
        // Judged by the rows as of its place in the log, however far this master has applied by now.
        let command = Command::TailLost { highest, number };
        self.propose(&command).await?.into_wire(&command.cannot())?;
        self.tail.0.lock().told = Some((heard.highest, heard.number));
        Ok(())
    }
}
