//! Sends a snapshot to a master that lags too far: announce the files, learn what is there already, send the rest.
//!
//! Every part has its own time limit, so a transfer may take as long as it makes progress. A broken transfer is
//! resumed: the receiver keeps what it has verified.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::error::{ErrorCode, WireError};

use super::links::{Links, Purpose};
use super::snapshots::SnapshotDir;
use super::types::{MasterNode, Vote};
use super::wire::{Request, Response};

/// Bytes of one part.
pub(crate) const PART_BYTES: usize = 1 << 20;
/// Longest wait for one part to be stored.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the receiver to verify what it has, or to install: it reads and links every file.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

fn unexpected(response: &Response) -> WireError {
    WireError::new(ErrorCode::Protocol, format!("unexpected answer {response:?}"))
}

fn local(error: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::DiskFailed, format!("cannot read the snapshot: {error}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    tokio::task::spawn_blocking(work).await.map_err(local)?
}

/// Sends `snapshot`; gives the vote the receiver knows after it has installed or refused it.
pub(crate) async fn send(
    links: &Arc<Links>,
    to: (u64, &MasterNode),
    vote: Vote,
    snapshot: &Arc<SnapshotDir>,
) -> Result<Vote, WireError> {
    let measured = Arc::clone(snapshot);
    let files = blocking(move || measured.files().map(<[_]>::to_vec).map_err(local)).await?;
    let last = snapshot.applied().last.map(Into::into);
    let offer = Request::OfferSnapshot {
        last,
        files: files.clone(),
    };
    let purpose = Purpose::Snapshot;
    let have = match links.ask(to, purpose, &offer, Bytes::new(), WHOLE_TIMEOUT).await? {
        Response::Have(have) if have.len() == files.len() => have,
        other => return Err(unexpected(&other)),
    };
    for (index, (file, have)) in files.iter().zip(have).enumerate() {
        let path = snapshot.path().join(&file.name);
        let opened = Arc::new(blocking(move || File::open(path).map_err(local)).await?);
        let mut offset = have;
        while offset < file.bytes {
            let len = usize::try_from(file.bytes - offset).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let source = Arc::clone(&opened);
            let part: Bytes = blocking(move || {
                let mut part = vec![0; len];
                source.read_exact_at(&mut part, offset).map_err(local)?;
                Ok(part.into())
            })
            .await?;
            let request = Request::SnapshotPart {
                file: u32::try_from(index).map_err(local)?,
                offset,
                crc: crc32fast::hash(&part),
            };
            match links.ask(to, purpose, &request, part, PART_TIMEOUT).await? {
                Response::PartStored => offset += len as u64,
                other => return Err(unexpected(&other)),
            }
        }
    }
    let install = Request::InstallSnapshot {
        vote: vote.into(),
        last,
    };
    match links.ask(to, purpose, &install, Bytes::new(), WHOLE_TIMEOUT).await? {
        Response::Installed { vote } => Ok(vote.into()),
        other => Err(unexpected(&other)),
    }
}
