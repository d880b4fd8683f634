//! A [`FileWriter`] as tokio's `AsyncWrite`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use gabion_protocol::messages::master::Entry;
use tokio::io::AsyncWrite;

use super::FileWriter;
use crate::Error;

/// Writes a file through [`AsyncWrite`]. Shutting it down finishes the file.
pub struct WriteStream(State);

enum State {
    Idle(Box<FileWriter>),
    Writing(BoxFuture<'static, (Box<FileWriter>, Result<(), Error>)>),
    Finishing(BoxFuture<'static, Result<Entry, Error>>),
    Over(Option<Entry>),
}

impl std::fmt::Debug for WriteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteStream").finish_non_exhaustive()
    }
}

impl FileWriter {
    /// The same as an [`AsyncWrite`].
    #[must_use = "a file that is not finished does not appear"]
    pub fn into_stream(self) -> WriteStream {
        WriteStream(State::Idle(Box::new(self)))
    }
}

impl WriteStream {
    /// The file as it appeared, once the stream was shut down.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        match &self.0 {
            State::Over(entry) => entry.as_ref(),
            State::Idle(_) | State::Writing(_) | State::Finishing(_) => None,
        }
    }

    /// Waits until what was taken is handed on.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<&mut Box<FileWriter>, Error>> {
        if let State::Writing(writing) = &mut self.0 {
            let (writer, written) = ready!(writing.as_mut().poll(context));
            self.0 = State::Idle(writer);
            written?;
        }
        Poll::Ready(match &mut self.0 {
            State::Idle(writer) => Ok(writer),
            State::Writing(_) | State::Finishing(_) | State::Over(_) => Err(Error::new(
                gabion_protocol::ErrorCode::Internal,
                "the file is finished already",
            )),
        })
    }
}

impl AsyncWrite for WriteStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let writer = ready!(self.poll_idle(context))?;
        let taken = writer.fill(bytes);
        if let Some(packet) = writer.full_packet() {
            let State::Idle(mut writer) = std::mem::replace(&mut self.0, State::Over(None)) else {
                return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
            };
            self.0 = State::Writing(Box::pin(async move {
                let written = writer.take(packet).await;
                (writer, written)
            }));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if matches!(self.0, State::Over(_)) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_idle(context))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if matches!(self.0, State::Idle(_) | State::Writing(_)) {
            ready!(self.poll_idle(context))?;
            if let State::Idle(writer) = std::mem::replace(&mut self.0, State::Over(None)) {
                self.0 = State::Finishing(Box::pin(writer.finish()));
            }
        }
        if let State::Finishing(finishing) = &mut self.0 {
            let finished = ready!(finishing.as_mut().poll(context));
            self.0 = State::Over(None);
            self.0 = State::Over(Some(finished?));
        }
        Poll::Ready(Ok(()))
    }
}
