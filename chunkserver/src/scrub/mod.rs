//! Scrub: every copy is re-read from its disk within a period, and damage is found before a reader needs the copy.
//!
//! | file | what it is |
//! |---|---|
//! | `pass` | decides what is read next, and when (pure) |
//! | `mark` | how far a disk is, as its index keeps it **[format]** |
//! | `board` | what is told to the masters, and what they ask for |
//! | `mod` | one task per disk that does it |
//!
//! A copy is compared with its block CRCs and its whole CRC as the index has them, and the index's length and CRC with
//! the masters': an old file with an equally old index is found, too. The masters are asked chunk by chunk, by a query
//! they answer anyway: for a million chunks and a period of two weeks that is less than one question a second, it needs
//! no state on either side, and it is made at the moment the bytes are proven.
//!
//! Invariants: a copy is set aside only for what its own bytes, its record or the leading master say of it; a lack of
//! ours, a master that does not answer, or a disk out of service is never taken for damage; nothing is deleted. Masters
//! that contradict many sound copies are not believed.

mod board;
mod mark;
mod pass;

use std::sync::Arc;
use std::time::Duration;

use gabion_protocol::messages::data::Verdict;
use gabion_protocol::messages::master::{ChunkInfo, ChunkState, ReplicaState};
use gabion_protocol::{ChunkId, ErrorCode, ReplicaNumber, ServerId, StateTime, WireError};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::disk::{Disk, DiskError, Next, Record, Store};
use crate::masters::Masters;

pub(crate) use board::Board;
pub(crate) use pass::Limits;

use mark::Mark;
use pass::{Pass, STEP_BYTES, Step};

/// Sound copies that may differ from what the masters say before the masters are doubted, and the part of the copies read
/// in a pass that may.
const DOUBT_MIN: u64 = 16;
const DOUBT_PART: u64 = 100;
/// Between attempts at what did not work for a reason that may pass.
const AGAIN: Duration = Duration::from_secs(1);

/// Scrubs all disks of a server until `stop`, then saves how far it is.
pub(crate) async fn run(store: Store, masters: Masters, limits: Limits, stop: CancellationToken) {
    masters.scrub().expect(store.disks().len());
    let disks = store.disks().iter().enumerate().map(|(number, disk)| {
        let scrub = Scrub {
            store: store.clone(),
            masters: masters.clone(),
            asked: masters.scrub().asked(),
            disk: Arc::clone(disk),
            number,
            owed: 0,
            differing: 0,
        };
        scrub.run(limits, &stop)
    });
    futures_util::future::join_all(disks).await;
}

/// The scrub of one disk.
struct Scrub {
    store: Store,
    masters: Masters,
    asked: watch::Receiver<u64>,
    disk: Arc<Disk>,
    number: usize,
    /// Bytes read since foreground work was looked at.
    owed: u64,
    /// Sound copies of this pass that differ from what the masters say.
    differing: u64,
}

impl Scrub {
    async fn run(mut self, limits: Limits, stop: &CancellationToken) {
        let mut pass = None;
        // Ends by itself when the disk is out of service.
        let ended = stop.run_until_cancelled(self.work(&mut pass, limits)).await;
        if ended.is_some() {
            self.masters.scrub().leave(self.number);
            return;
        }
        if let Some(pass) = pass
            && let Err(error) = self.disk.set_scrub_mark(pass.mark().encode()).await
        {
            tracing::warn!(%error, "how far the scrub is was not saved; it goes on from an earlier place");
        }
    }

    async fn work(&mut self, pass: &mut Option<Pass>, limits: Limits) {
        self.masters.ready().await;
        let mark = self.load().await;
        let pass = pass.insert(Pass::new(mark, limits));
        self.show(pass);
        self.masters.scrub().durable(self.number, pass.mark().asked);
        let mut began = None;
        while self.disk.serves() {
            let now = self.now().await;
            let asked = *self.asked.borrow_and_update();
            match self.turn(pass, asked, now).await {
                Ok(()) => {}
                Err(DiskError::Stopping) => return,
                Err(error) => {
                    tracing::debug!(%error, dir = %self.disk.dir.display(), "the scrub waits");
                    sleep(AGAIN).await;
                }
            }
            if began != pass.mark().started {
                began = pass.mark().started;
                self.differing = 0;
                // Failure shows at the next turn.
                let _ = self.disk.forget_cached_index().await;
            }
        }
        tracing::warn!(dir = %self.disk.dir.display(), "a disk out of service is not scrubbed");
    }

    /// Where an earlier run left off. A mark that cannot be read costs a pass begun anew, no more.
    async fn load(&self) -> Option<Mark> {
        let bytes = self.disk.scrub_mark().await.ok().flatten()?;
        let mark = Mark::decode(&bytes);
        mark.inspect_err(|why| tracing::warn!(why, "the scrub begins anew"))
            .ok()
    }

    async fn now(&self) -> StateTime {
        loop {
            if let Ok((_, now)) = self.masters.standing() {
                return now;
            }
            sleep(AGAIN).await;
        }
    }

    /// One step of a pass.
    async fn turn(&mut self, pass: &mut Pass, asked: u64, now: StateTime) -> Result<(), DiskError> {
        if asked != 0 && asked != pass.mark().asked {
            pass.ask(asked, self.disk.last_chunk().await?, now);
        }
        let step = pass.next(now, self.disk.sealed_bytes());
        self.show(pass);
        match step {
            Step::Save => {
                self.disk.set_scrub_mark(pass.mark().encode()).await?;
                pass.saved(now);
                self.masters.scrub().durable(self.number, pass.mark().asked);
            }
            Step::Wait { ms } => {
                tokio::select! {
                    () = sleep(Duration::from_millis(ms)) => {}
                    // The sender lives as long as we do.
                    _ = self.asked.changed() => self.asked.mark_changed(),
                }
            }
            Step::Read { after, until } => self.read(pass, after, until, now).await?,
        }
        Ok(())
    }

    fn show(&self, pass: &Pass) {
        self.masters
            .scrub()
            .show(self.number, *pass.mark(), self.disk.sealed_bytes());
    }

    async fn read(
        &mut self,
        pass: &mut Pass,
        after: Option<ChunkId>,
        until: Option<ChunkId>,
        now: StateTime,
    ) -> Result<(), DiskError> {
        match self.disk.next_to_scrub(after, until).await? {
            Next::End => pass.at_end(now),
            Next::Passed(chunk) => pass.read(chunk, 0, false),
            Next::SetAside(chunk, record) => {
                self.room_for_reports().await;
                let what = "it was set aside when it was found damaged or unreadable earlier";
                self.store.report(chunk, record.replica, what);
                pass.read(chunk, 0, false);
            }
            Next::Chunk(chunk, record) => {
                self.room_for_reports().await;
                let damaged = self.check(pass, chunk, &record, now).await?;
                pass.read(chunk, record.length, damaged);
            }
        }
        Ok(())
    }

    /// Re-reads a copy and compares it with the masters; whether it is damaged.
    async fn check(
        &mut self,
        pass: &Pass,
        chunk: ChunkId,
        record: &Arc<Record>,
        now: StateTime,
    ) -> Result<bool, DiskError> {
        let patience = self.patience(pass, record.length, now);
        let (verdict, waits) = self.store.scrub(&self.disk, chunk, record, patience).await?;
        self.masters.scrub().gave_way(waits);
        match verdict {
            Verdict::Damaged { .. } | Verdict::Unreadable { .. } => Ok(true),
            // Dropped meanwhile.
            Verdict::Missing | Verdict::Unsealed { .. } => Ok(false),
            Verdict::Good { .. } => {
                let Some(what) = self.differs(chunk, record).await else {
                    return Ok(false);
                };
                self.differing += 1;
                if !masters_are_credible(self.differing, pass.mark().chunks) {
                    tracing::error!(
                        %chunk, what, differing = self.differing,
                        "so many sound copies differ that the masters may have lost their memory: this one is kept in \
                         service; find out which master answers, and whether its directory was restored from a copy"
                    );
                    return Ok(false);
                }
                self.store.set_aside(chunk, record.replica, &what).await;
                Ok(true)
            }
        }
    }

    /// Small chunks give way together, not one by one.
    fn patience(&mut self, pass: &Pass, bytes: u64, now: StateTime) -> Duration {
        self.owed += bytes;
        if self.owed < STEP_BYTES {
            return Duration::ZERO;
        }
        self.owed = 0;
        Duration::from_millis(pass.patience_ms(now, self.disk.sealed_bytes()))
    }

    /// What the masters say against a copy whose bytes fit its record. Waits for a leader: a copy that was not compared
    /// does not count as read.
    async fn differs(&self, chunk: ChunkId, record: &Record) -> Option<String> {
        let sum = (record.length, record.crc);
        loop {
            match differs(&self.masters, chunk, record.replica, sum).await {
                Ok(difference) => return difference,
                Err(error) => {
                    tracing::debug!(%chunk, %error, "the scrub waits for the masters");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// No damage is found that could not be told.
    async fn room_for_reports(&self) {
        while !self.store.takes_reports() {
            sleep(AGAIN).await;
        }
    }
}

/// Whether it is the copies that are wrong, if so many of those read differ from what the masters say though their bytes
/// fit their records. A disk brings back an old file now and then; a master that was restored differs in much.
fn masters_are_credible(differing: u64, read: u64) -> bool {
    differing <= DOUBT_MIN.max(read / DOUBT_PART)
}

/// What the leading master says against a sealed copy with this length and CRC.
///
/// # Errors
/// Why it cannot be asked.
pub(crate) async fn differs(
    masters: &Masters,
    chunk: ChunkId,
    replica: ReplicaNumber,
    sum: (u64, u32),
) -> Result<Option<String>, WireError> {
    let (server, _) = masters.standing()?;
    match masters.chunk(chunk).await {
        Ok(row) => Ok(difference(&row, (server, replica), sum)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How a sealed copy differs from what the masters agreed on. A row that does not count this copy says nothing about it:
/// it is being written, dropped, or was given up.
fn difference(
    row: &ChunkInfo,
    (server, replica): (ServerId, ReplicaNumber),
    (length, crc): (u64, u32),
) -> Option<String> {
    let own = (server, replica, ReplicaState::Live);
    let counts = row.state == ChunkState::Sealed && row.replicas.contains(&own);
    let same = (row.length, row.crc) == (length, crc);
    (counts && !same).then(|| {
        format!(
            "its {length} bytes have checksum {crc:08x}; the masters agreed on {} bytes with {:08x}",
            row.length, row.crc
        )
    })
}

#[cfg(test)]
mod tests;
