//! Stocks: chunks granted for small files before anyone has named them.
//!
//! A file of one small chunk needs two log entries if its chunk is granted for it alone. A client that writes many
//! takes chunks for several at once, and each file then costs one entry. A stock is an upload without a name (to the
//! root, where no file can appear): its lease, its owner and its end are an upload's.
//!
//! Invariant: each chunk of a stock belongs to an inode number allocated with it, the n-th (from 0) to the n + 1st
//! after the stock's own, so that a chunkserver is told the right file before there is one.

use gabion_protocol::ids::{Ino, ServerId, SessionId};
use gabion_protocol::limits;
use gabion_protocol::messages::master::{Seal, UploadOptions};
use gabion_protocol::path::FsPath;

use super::chunks;
use super::key::chunk::ChunkKey;
use super::reply::{Outcome, Refusal};
use super::tx::{Stop, Tx};
use super::uploads::{self, Owner};

/// Grants a stock of chunks.
pub(super) fn open(
    tx: &mut Tx<'_>,
    session: SessionId,
    replicas: Option<u8>,
    placements: &[Vec<ServerId>],
) -> Result<Outcome, Stop> {
    uploads::bound(placements.len(), limits::GRANT_CHUNKS_MAX)?;
    let options = UploadOptions {
        replicas,
        chunk_bytes: None,
        replace: false,
        parents: false,
        mode: 0,
        modified_ms: None,
    };
    let content = uploads::empty(tx.world.cluster.settings, &options)?;
    let mut stock = uploads::begin(tx, session, &FsPath::root(), &options, content);
    let ino = tx.next_ino()?;
    let mut granted = Vec::with_capacity(placements.len());
    for chain in placements {
        let file = tx.next_ino()?;
        let chunk = chunks::open(tx, file, content.replicas, chain)?;
        stock.open.push(chunk.chunk);
        granted.push(chunk);
    }
    Ok(uploads::begun(tx, ino, options.mode, stock, granted))
}

/// Makes a file of one of the stock's chunks. With its last chunk the stock is gone.
pub(super) fn put_file(
    tx: &mut Tx<'_>,
    owner: Owner,
    path: &FsPath,
    options: &UploadOptions,
    seal: &Seal,
    wall_ms: i64,
) -> Result<Outcome, Stop> {
    let (inode, mut stock) = owner.claim_stock(tx)?;
    let mut content = uploads::empty(tx.world.cluster.settings, options)?;
    let (granted, asked) = (stock.content.replicas, content.replicas);
    if granted != asked {
        return Err(Refusal::StockCopies { granted, asked }.into());
    }
    if !stock.open.contains(&seal.chunk) {
        return Err(Refusal::ChunkNotOpen { chunk: seal.chunk }.into());
    }
    let ino: Ino = tx.require(&ChunkKey(seal.chunk))?.owner;
    uploads::append(tx, ino, &mut stock.open, &mut content, seal)?;
    uploads::went_on(tx, owner, inode, stock)?;
    uploads::appear(tx, path, options, ino, content, wall_ms)
}
