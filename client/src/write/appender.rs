//! Writing at the end of a file that is there: what is given is gathered, and put into the file chunk by chunk.
//!
//! Whole chunks go into the file as soon as they and those before them are sealed, the rest at [`Appender::sync`]. So
//! the file always holds a prefix of what was given, however the writer ends.

use std::any::Any;
use std::sync::Arc;

use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use gabion_protocol::messages::master::SpliceAt;
use tokio::task::JoinSet;

use super::chunk::Seals;
use super::packet::Packet;
use super::{CreateOptions, FileWriter, OpenChunk, Piece, Target};
use crate::Error;

/// Writes at the end of a file, see [`crate::File::appender`].
#[derive(Debug)]
#[must_use = "what was not synced is not in the file"]
pub struct Appender {
    writer: FileWriter,
    /// Keeps the file open, and its lease.
    _file: Arc<dyn Any + Send + Sync>,
}

impl Appender {
    pub(crate) fn new(target: Target, file: Arc<dyn Any + Send + Sync>) -> Self {
        let writer = FileWriter {
            inner: Arc::clone(&target.inner),
            path: target.path.clone(),
            options: CreateOptions::default(),
            chunk_bytes: target.chunk_bytes,
            upload: None,
            progress: None,
            filling: None,
            first: None,
            chunk: None,
            handed: 0,
            jobs: JoinSet::new(),
            seals: Seals::default(),
            source: None,
            target: Some(target),
            failed: None,
            is_over: false,
        };
        Self { writer, _file: file }
    }

    /// Takes all of `bytes`. Waits while too much is in flight.
    ///
    /// # Errors
    /// Why the file cannot be written; later calls fail the same way.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.writer.write(bytes).await
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Puts all that was taken into the file. After success it is on the disks of all replicas, and readers see it.
    ///
    /// # Errors
    /// Why not; a part may be there.
    pub async fn sync(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.writer.failed {
            return Err(error.clone());
        }
        let synced = self.writer.sync_appended().await;
        synced.map_err(|error| self.writer.fail(error))
    }

    /// The same for the last time.
    ///
    /// # Errors
    /// As with [`Appender::sync`].
    pub async fn finish(mut self) -> Result<(), Error> {
        let synced = self.sync().await;
        self.writer.give_up().await;
        synced
    }
}

impl FileWriter {
    /// Puts the chunks that are sealed, and follow what is in the file, into it.
    pub(super) async fn append_sealed(&mut self) -> Result<(), Error> {
        let (Some(upload), Some(target)) = (&self.upload, &self.target) else {
            return Ok(());
        };
        let (seals, ..) = self.seals.rest();
        if !seals.is_empty() {
            target.splice(upload, seals, SpliceAt::End).await?;
        }
        Ok(())
    }

    async fn sync_appended(&mut self) -> Result<(), Error> {
        let mut last = self.first.take();
        if let Some((buffer, filled)) = self.filling.take() {
            let packet = Packet::new(buffer.freeze().slice(..filled));
            // With nothing else in its chunk, a small one needs no chunk of an upload.
            if self.chunk.is_none() && last.is_none() && packet.bytes.len() as u64 <= SMALL_CHUNK_BYTES {
                last = Some(packet);
            } else {
                if let Some(first) = last.take() {
                    self.hand(first).await?;
                }
                self.hand(packet).await?;
            }
        }
        if let Some(OpenChunk { pieces, .. }) = self.chunk.take()
            && pieces.send(Piece::End).await.is_err()
        {
            return Err(self.why_ended().await);
        }
        while !self.jobs.is_empty() {
            self.collect_one().await?;
        }
        if let (Some(packet), Some(target)) = (last, &self.target) {
            target.splice_small(&packet, SpliceAt::End).await?;
        }
        Ok(())
    }
}
