//! Writes one chunk down a chain, and again down another chain until one has sealed it.
//!
//! An upload's sole writer can give any packet again until its chunk is sealed. So a chain that fails is not repaired
//! and its survivors are not sealed: the chunk is abandoned and written anew elsewhere. There is no partial state to
//! reason about, and the cost is at most one chunk sent twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use gabion_protocol::checksum::Running;
use gabion_protocol::frame::{Frame, Kind};
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::messages::data::{FromServer, Request, Response, ToServer};
use gabion_protocol::messages::master::Seal;
use gabion_protocol::messages::{Answer, decode};
use gabion_protocol::net::Stream;
use gabion_protocol::{Action, ErrorCode, WireError};

use super::chain::{Chain, Failure};
use super::packet::{Feed, Packet};
use super::upload::Upload;
use crate::Error;
use crate::client::Inner;
use crate::error::Context as _;
use crate::random;

/// Frames that may wait to be heard: acks for each packet of a generous window.
const ACKS: usize = 256;
/// Longest wait for room in a connection's queue before its server is looked at.
const QUEUE: Duration = Duration::from_secs(1);

/// One chunk of an upload.
#[derive(Debug)]
pub(super) struct ChunkJob {
    pub(super) upload: Arc<Upload>,
    pub(super) file_offset: u64,
    pub(super) feed: Feed,
}

impl ChunkJob {
    /// Writes the chunk until it is sealed on a whole chain.
    pub(super) async fn run(mut self) -> Result<Seal, Error> {
        let mut attempts = Attempts::new(&self.upload.inner);
        let mut credited = 0;
        loop {
            let grant = self.upload.grant().await?;
            let chain = self.upload.chain(&grant);
            let pushed = match Push::open(&self.upload, &chain, &mut self.feed, self.file_offset, &mut credited).await {
                Ok(push) => push.run().await,
                Err(failure) => Err(failure),
            };
            match pushed {
                Ok(seal) => return Ok(seal),
                Err(failure) => {
                    self.upload.abandon(grant.chunk).await;
                    attempts.failed(&chain, failure, credited).await?;
                }
            }
            self.feed.rewind();
        }
    }
}

/// What was tried so far for one chunk, and until when to go on.
pub(super) struct Attempts {
    inner: Arc<Inner>,
    trouble: Trouble,
    count: u32,
    tried: Vec<(String, String)>,
}

impl Attempts {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            trouble: Trouble::default(),
            count: 0,
            tried: Vec::new(),
        }
    }

    /// A chain failed when the attempts together had stored `stored` bytes: says whether to go on.
    pub(super) async fn failed(&mut self, chain: &Chain<'_>, failure: Failure, stored: u64) -> Result<(), Error> {
        let servers = &self.inner.servers;
        // What is silent or gone is left by all at once; who answers that it is busy or full serves others still.
        let is_gone = matches!(failure.error.code, ErrorCode::Timeout | ErrorCode::Unreachable);
        for server in &failure.blame {
            if is_gone {
                servers.leave(*server);
            } else {
                servers.failed(*server);
            }
        }
        let labels = |ids: &[gabion_protocol::ServerId]| {
            let labels: Vec<_> = ids.iter().map(|id| servers.label(*id)).collect();
            labels.join(", ")
        };
        let who = if failure.blame.is_empty() {
            labels(&chain.servers)
        } else {
            labels(&failure.blame)
        };
        tracing::debug!(chunk = %chain.grant.chunk, %who, error = %failure.error, "a chain failed");
        self.tried.retain(|(known, _)| *known != who);
        self.tried.push((who, failure.error.message.clone()));
        let (trouble, is_new) = self.trouble.since(stored, Instant::now());
        if is_new {
            self.count = 0;
        }
        if failure.is_final || trouble > self.inner.config.wait {
            let mut error = failure.error;
            for (what, result) in self.tried.drain(..) {
                error = error.tried(what, result);
            }
            return Err(error.into());
        }
        self.count += 1;
        if self.count > 1 {
            // The first failure costs nothing; a cluster in trouble is not hammered.
            let most = u64::from(self.count.min(10)) * 50;
            tokio::time::sleep(Duration::from_millis(20 + random() % most)).await;
        }
        Ok(())
    }
}

/// How long a chunk has not got on, however long it was on its way before: a source may be slow.
#[derive(Debug, Default)]
struct Trouble {
    began: Option<Instant>,
    stored: u64,
}

impl Trouble {
    /// An attempt has failed, `stored` bytes are stored at most so far: for how long attempts have failed without
    /// progress, and whether that begins now.
    fn since(&mut self, stored: u64, now: Instant) -> (Duration, bool) {
        let has_progressed = stored > self.stored;
        self.stored = self.stored.max(stored);
        match self.began {
            Some(began) if !has_progressed => (now - began, false),
            _ => {
                self.began = Some(now);
                (Duration::ZERO, true)
            }
        }
    }
}

/// A chunk on its way down one chain.
struct Push<'a> {
    upload: &'a Upload,
    chain: &'a Chain<'a>,
    feed: &'a mut Feed,
    file_offset: u64,
    /// Bytes of this chunk told as progress, over all attempts.
    credited: &'a mut u64,
    stream: Stream,
    window: u64,
    sent: u64,
    stored: Vec<u64>,
    crc: Running,
    sealing: bool,
    /// When the chain last made progress, or began to owe us some.
    progress: Instant,
    /// When to look at its servers if nothing is heard until then.
    look_at: Instant,
}

impl<'a> Push<'a> {
    async fn open(
        upload: &'a Upload,
        chain: &'a Chain<'a>,
        feed: &'a mut Feed,
        file_offset: u64,
        credited: &'a mut u64,
    ) -> Result<Self, Failure> {
        let opening = async {
            let connection = chain.connect().await?;
            let mut stream = connection.open_stream(ACKS)?;
            let request = Request::OpenWrite(chain.spec(file_offset)?);
            stream.send(Kind::DataRequest, &request, Bytes::new()).await?;
            let frame = stream.receive().await.ok_or_else(lost)?;
            match read::<Answer<Response>>(&frame)?? {
                Response::Opened { window_bytes } => Ok((stream, u64::from(window_bytes))),
                _ => Err(crate::client::unexpected()),
            }
        };
        let (stream, window) = chain.watch(opening).await?;
        Ok(Self {
            upload,
            chain,
            feed,
            file_offset,
            credited,
            stream,
            window,
            sent: 0,
            stored: vec![0; chain.servers.len()],
            crc: Running::default(),
            sealing: false,
            progress: Instant::now(),
            look_at: Instant::now(),
        })
    }

    async fn run(mut self) -> Result<Seal, Failure> {
        loop {
            let owed = self.sealing || self.sent > self.acked();
            let in_flight = self.sent - self.acked();
            let room = in_flight == 0 || in_flight + PACKET_BYTES as u64 <= self.window;
            tokio::select! {
                biased;
                frame = self.stream.receive() => {
                    if let Some(seal) = self.heard(frame).await? {
                        return Ok(seal);
                    }
                }
                next = self.feed.next(), if room && !self.sealing => {
                    match next.map_err(Failure::fatal)? {
                        Some(packet) => self.push(packet).await?,
                        None => self.seal().await?,
                    }
                    if !owed {
                        self.progressed();
                    }
                }
                () = tokio::time::sleep_until(self.look_at.into()), if owed => {
                    if let Some(seal) = self.look().await? {
                        return Ok(seal);
                    }
                }
            }
        }
    }

    /// Bytes stored on every server of the chain.
    fn acked(&self) -> u64 {
        self.stored.iter().copied().min().unwrap_or(0)
    }

    fn progressed(&mut self) {
        self.progress = Instant::now();
        self.look_at = self.progress + self.chain.patience();
    }

    async fn push(&mut self, packet: Packet) -> Result<(), Failure> {
        let len = packet.bytes.len() as u64;
        self.crc.append_blocks(&packet.crcs, len);
        let message = ToServer::Packet {
            offset: self.sent,
            crcs: packet.crcs,
        };
        self.send(&message, packet.bytes).await?;
        self.sent += len;
        Ok(())
    }

    async fn seal(&mut self) -> Result<(), Failure> {
        self.sealing = true;
        let message = ToServer::Seal {
            length: self.sent,
            crc: self.crc.crc(),
        };
        self.send(&message, Bytes::new()).await
    }

    async fn send(&mut self, message: &ToServer, payload: Bytes) -> Result<(), Failure> {
        loop {
            let sending = self.stream.send(Kind::ToServer, message, payload.clone());
            match tokio::time::timeout(QUEUE, sending).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(self.chain.blame(error).await),
                // The queue to the first server does not move.
                Err(_) => self.chain.judge(&self.stored, self.progress.elapsed()).await?,
            }
        }
    }

    async fn heard(&mut self, frame: Option<Frame>) -> Result<Option<Seal>, Failure> {
        let Some(frame) = frame else {
            return Err(self.chain.blame(lost()).await);
        };
        match read::<FromServer>(&frame).map_err(Failure::of)? {
            FromServer::Ack { stored } => {
                let before = self.acked();
                if stored.len() == self.stored.len() {
                    self.stored = stored;
                }
                let acked = self.acked();
                if acked > before {
                    self.progressed();
                    let news = acked.saturating_sub(*self.credited);
                    *self.credited += news;
                    self.upload.advance(news);
                }
                Ok(None)
            }
            FromServer::Sealed { length, crc } => self.sealed(length, crc).map(Some),
            FromServer::Failed { hop, error } => Err(self.chain.hop_failed(hop, error).await),
        }
    }

    fn sealed(&mut self, length: u64, crc: u32) -> Result<Seal, Failure> {
        if !self.sealing || length != self.sent || crc != self.crc.crc() {
            let error = WireError::new(
                ErrorCode::ChecksumMismatch,
                format!(
                    "chunk {} was sealed with {length} bytes and CRC {crc:08x}, but {} bytes with CRC {:08x} were sent",
                    self.chain.grant.chunk,
                    self.sent,
                    self.crc.crc()
                ),
            );
            return Err(Failure::of(error));
        }
        let news = length.saturating_sub(*self.credited);
        *self.credited += news;
        self.upload.advance(news);
        Ok(self.chain.sealed(self.file_offset, length, crc))
    }

    /// Nothing was heard for a while: looks whether the servers are alive. What they said meanwhile counts.
    async fn look(&mut self) -> Result<Option<Seal>, Failure> {
        let silent_since = self.progress;
        let pulses = self.chain.probe().await;
        while let Some(frame) = self.stream.receive().now_or_never() {
            if let Some(seal) = self.heard(frame).await? {
                return Ok(Some(seal));
            }
        }
        if self.progress == silent_since {
            let silent = self.progress.elapsed();
            self.chain.conclude(&pulses, &self.stored, silent)?;
            self.look_at = Instant::now() + self.chain.patience().max(silent / 2);
        }
        Ok(None)
    }
}

/// Writes a whole small chunk with one request, on one chain after another until one has it.
pub(super) async fn put_small(upload: &Arc<Upload>, packet: Packet) -> Result<Seal, Error> {
    let mut attempts = Attempts::new(&upload.inner);
    loop {
        let grant = upload.grant().await?;
        let chain = upload.chain(&grant);
        match push_small(&chain, &packet).await {
            Ok(seal) => {
                upload.advance(seal.length);
                return Ok(seal);
            }
            Err(failure) => {
                upload.abandon(grant.chunk).await;
                attempts.failed(&chain, failure, 0).await?;
            }
        }
    }
}

/// Writes a whole small chunk down one chain.
pub(super) async fn push_small(chain: &Chain<'_>, packet: &Packet) -> Result<Seal, Failure> {
    let (length, crc) = (packet.bytes.len() as u64, gabion_protocol::checksum::crc(&packet.bytes));
    let putting = async {
        let connection = chain.connect().await?;
        let request = Request::PutSmall {
            spec: chain.spec(0)?,
            crcs: packet.crcs.clone(),
        };
        let deadline = chain.inner.config.wait;
        let call = connection.call(Kind::DataRequest, &request, packet.bytes.clone(), deadline);
        match call.await?.0 {
            Response::Sealed { length: l, crc: c } if (l, c) == (length, crc) => Ok(()),
            _ => Err(crate::client::unexpected().action(Action::Refresh)),
        }
    };
    chain.watch(putting).await?;
    Ok(chain.sealed(0, length, crc))
}

fn lost() -> WireError {
    WireError::new(
        ErrorCode::Unreachable,
        "the connection to the first server of the chain ended",
    )
}

fn read<M: serde::de::DeserializeOwned>(frame: &Frame) -> Result<M, WireError> {
    decode(&frame.message).map_err(|error| {
        WireError::new(
            ErrorCode::Protocol,
            format!("cannot read a chunkserver's answer: {error}"),
        )
    })
}

/// The seals of an upload, which finish in any order and are logged in file order.
#[derive(Debug, Default)]
pub(super) struct Seals {
    waiting: std::collections::BTreeMap<u64, Seal>,
    ready: Vec<Seal>,
    whole: Running,
    /// Each seal is logged as soon as those before it are: what is not logged is sent again after a crash.
    at_once: bool,
}

/// Seals logged at once: few commands for huge files, and little left for Commit.
const SEALS_PER_COMMAND: usize = 32;

impl Seals {
    /// The seals of what follows a `beginning` that is logged, each to be logged at once.
    pub(super) fn after(beginning: Running) -> Self {
        Self {
            whole: beginning,
            at_once: true,
            ..Self::default()
        }
    }

    /// Seals that wait for one before them.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A chunk is sealed.
    pub(super) fn add(&mut self, seal: Seal) {
        self.waiting.insert(seal.file_offset, seal);
        while let Some(seal) = self.waiting.remove(&self.whole.len()) {
            self.whole.append(seal.crc, seal.length);
            self.ready.push(seal);
        }
    }

    /// Seals to be logged now, if there are many.
    pub(super) fn batch(&mut self) -> Option<Vec<Seal>> {
        let least = if self.at_once { 1 } else { SEALS_PER_COMMAND };
        (self.ready.len() >= least).then(|| std::mem::take(&mut self.ready))
    }

    /// The last seals, and the file's length and CRC.
    pub(super) fn rest(&mut self) -> (Vec<Seal>, u64, u32) {
        (std::mem::take(&mut self.ready), self.whole.len(), self.whole.crc())
    }
}

/// Logs seals if there are many.
pub(super) async fn log_seals(upload: &Upload, seals: &mut Seals) -> Result<(), Error> {
    match seals.batch() {
        Some(batch) => upload.log_seals(batch).await.context(|| "cannot log sealed chunks"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::checksum::crc;
    use gabion_protocol::ids::{ChunkId, Generation, Timeline, VolumeId};
    use proptest::prelude::*;

    #[test]
    fn trouble_counts_from_its_beginning_and_ends_with_progress() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut trouble = Trouble::default();
        assert_eq!(
            trouble.since(100, at(1000)),
            (Duration::ZERO, true),
            "a slow source is no trouble"
        );
        assert_eq!(trouble.since(100, at(1020)), (Duration::from_secs(20), false));
        assert_eq!(
            trouble.since(40, at(1025)),
            (Duration::from_secs(25), false),
            "known bytes are no progress"
        );
        assert_eq!(trouble.since(101, at(1060)), (Duration::ZERO, true));
        assert_eq!(trouble.since(101, at(1070)), (Duration::from_secs(10), false));
    }

    proptest! {
        #[test]
        fn seals_come_out_in_file_order_with_the_crc_of_the_whole(
            cuts in prop::collection::vec(1usize..300, 1..80),
            order: prop::sample::Index,
        ) {
            let whole: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| (i * 7) as u8).collect();
            let mut offset = 0;
            let mut all = Vec::new();
            for (i, len) in cuts.iter().enumerate() {
                all.push(Seal {
                    chunk: ChunkId { volume: VolumeId(0), timeline: Timeline(1), counter: i as u64 },
                    generation: Generation(1),
                    file_offset: offset as u64,
                    length: *len as u64,
                    crc: crc(&whole[offset..offset + len]),
                    members: Vec::new(),
                });
                offset += len;
            }
            let mut shuffled = all.clone();
            let pivot = order.index(shuffled.len());
            shuffled.rotate_left(pivot);
            let mut seals = Seals::default();
            let mut logged = Vec::new();
            for seal in shuffled {
                seals.add(seal);
                logged.extend(seals.batch().into_iter().flatten());
            }
            let (rest, length, file_crc) = seals.rest();
            logged.extend(rest);
            prop_assert_eq!(logged, all);
            prop_assert_eq!((length, file_crc), (whole.len() as u64, crc(&whole)));
        }
    }
}
