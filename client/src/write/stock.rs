//! Chunks granted ahead for small files: a file costs one round trip of data and one command.
//!
//! A client that writes one small file asks for one chunk; each time a stock is used up the next is twice as large, up
//! to what one command grants, so that whoever writes thousands asks rarely, and nobody has many in vain. The next
//! stock is fetched before the last chunk is taken. What is not used within a while is given back.
//!
//! Invariants: a chunk is taken once; a stock's lease is kept until its last chunk is used or given up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use gabion_protocol::ids::{Ino, UploadGeneration};
use gabion_protocol::limits::GRANT_CHUNKS_MAX;
use gabion_protocol::messages::master::{ChunkGrant, Entry, Op, Response, Seal, UploadOptions};
use gabion_protocol::{ErrorCode, FsPath, WireError};
use parking_lot::Mutex;

use super::chain::Chain;
use super::chunk::{Attempts, push_small};
use super::packet::Packet;
use super::upload::{self, Needs, appeared};
use crate::Error;
use crate::client::{Inner, unexpected};
use crate::masters::Session;
use crate::policy::placement;

/// The chunks a client has at hand, by the copies they want.
#[derive(Debug, Default)]
pub(crate) struct Stocks(Mutex<BTreeMap<u8, Arc<Shelf>>>);

/// Chunks of one number of copies.
#[derive(Debug, Default)]
struct Shelf {
    goods: Mutex<Goods>,
    /// Held while a stock is fetched, so that many writers fetch one.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Goods {
    ready: VecDeque<Item>,
    /// Chunks the last stock had.
    last: usize,
    /// Something was taken since [`Stocks::give_back_idle`] looked.
    used: bool,
}

/// A chunk at hand.
#[derive(Debug)]
struct Item {
    stock: Arc<Stock>,
    /// The file it will be.
    file: Ino,
    grant: ChunkGrant,
}

/// What the masters granted with one command.
#[derive(Debug)]
struct Stock {
    inner: Weak<Inner>,
    ino: Ino,
    generation: UploadGeneration,
    session: Arc<Session>,
    chunk_bytes: u64,
    /// Chunks that are not files yet.
    left: AtomicU64,
}

impl Stocks {
    fn shelf(&self, replicas: u8) -> Arc<Shelf> {
        Arc::clone(self.0.lock().entry(replicas).or_default())
    }

    /// Gives back what nobody has used since the last call.
    pub(crate) fn give_back_idle(&self) {
        let shelves: Vec<_> = self.0.lock().values().cloned().collect();
        for shelf in shelves {
            let idle = {
                let mut goods = shelf.goods.lock();
                if std::mem::take(&mut goods.used) {
                    continue;
                }
                std::mem::take(&mut *goods)
            };
            // Not under the lock: the last of a stock's chunks gives the stock back.
            drop(idle);
        }
    }
}

impl Shelf {
    /// A chunk on a chain without servers that failed us lately, if there is one; others are given up.
    fn take(&self, inner: &Inner) -> Option<Item> {
        let mut unfit = Vec::new();
        let taken = {
            let mut goods = self.goods.lock();
            goods.used = true;
            let troubles = inner.servers.troubles();
            loop {
                let Some(item) = goods.ready.pop_front() else {
                    break None;
                };
                let mut chain = item.grant.replicas.iter();
                if chain.any(|replica| troubles.contains_key(&replica.server)) {
                    unfit.push(item);
                } else {
                    break Some(item);
                }
            }
        };
        drop(unfit);
        taken
    }

    /// Takes the other chunks of a stock that is gone, or whose tokens are too old, off the shelf.
    fn forget(&self, stock: &Arc<Stock>) {
        let ready = |item: &Item| !Arc::ptr_eq(&item.stock, stock);
        // The caller holds the stock: it does not end under the lock.
        self.goods.lock().ready.retain(ready);
    }

    /// Whether the next stock should be fetched before this one is used up.
    fn is_low(&self) -> bool {
        let goods = self.goods.lock();
        goods.last > 1 && goods.ready.len() <= goods.last / 2
    }

    /// A chunk to write a small file to.
    async fn get(self: &Arc<Self>, inner: &Arc<Inner>, replicas: u8) -> Result<Item, Error> {
        if let Some(item) = self.take(inner) {
            if self.is_low() {
                self.fetch_ahead(inner, replicas);
            }
            return Ok(item);
        }
        let _turn = self.fetching.lock().await;
        if let Some(item) = self.take(inner) {
            return Ok(item);
        }
        let mut items = self.fetch(inner, replicas).await?;
        // As with an upload's chunks: a fresh chain is as good as it gets, troubled servers are left out of it.
        let mut first = items.pop_front().ok_or_else(unexpected)?;
        let chain: Vec<_> = first.grant.replicas.iter().map(|replica| replica.server).collect();
        let writable = placement::writable(&chain, &inner.servers.troubles(), placement::needed(replicas));
        first
            .grant
            .replicas
            .retain(|replica| writable.contains(&replica.server));
        self.goods.lock().ready.extend(items);
        Ok(first)
    }

    fn fetch_ahead(self: &Arc<Self>, inner: &Arc<Inner>, replicas: u8) {
        let (shelf, inner) = (Arc::clone(self), Arc::clone(inner));
        tokio::spawn(async move {
            let Ok(_turn) = shelf.fetching.try_lock() else {
                return;
            };
            if !shelf.is_low() {
                return;
            }
            match shelf.fetch(&inner, replicas).await {
                Ok(items) => shelf.goods.lock().ready.extend(items),
                // Whoever needs a chunk asks again, and tells.
                Err(error) => tracing::debug!(%error, "cannot get chunks for small files ahead of need"),
            }
        });
    }

    async fn fetch(&self, inner: &Arc<Inner>, replicas: u8) -> Result<VecDeque<Item>, Error> {
        let last = self.goods.lock().last;
        let chunks = (last * 2).clamp(1, GRANT_CHUNKS_MAX);
        let session = inner.masters.session().await?;
        let needs = Needs {
            replicas,
            chunk_bytes: session.defaults().chunk_bytes,
        };
        let open = |avoid| Op::OpenStock {
            replicas: Some(replicas),
            chunks: chunks as u8,
            avoid,
        };
        let Response::Upload {
            upload: ino,
            generation,
            chunk_bytes,
            chunks: grants,
            servers,
            ..
        } = upload::place(inner, &session, needs, open).await?
        else {
            return Err(unexpected().into());
        };
        inner.servers.learn(servers);
        inner.uploads.keep(ino, generation, &session);
        self.goods.lock().last = chunks;
        let stock = Arc::new(Stock {
            inner: Arc::downgrade(inner),
            ino,
            generation,
            session,
            chunk_bytes,
            left: AtomicU64::new(grants.len() as u64),
        });
        let item = |(n, grant)| Item {
            stock: Arc::clone(&stock),
            file: Ino(ino.0 + 1 + n as u64),
            grant,
        };
        Ok(grants.into_iter().enumerate().map(item).collect())
    }
}

impl Stock {
    async fn put(&self, inner: &Inner, path: &FsPath, options: &UploadOptions, seal: Seal) -> Result<Entry, WireError> {
        let op = Op::PutFile {
            path: path.clone(),
            options: options.clone(),
            stock: self.ino,
            generation: self.generation,
            seal,
        };
        match self.used(inner, op).await? {
            Response::Entry(entry) => Ok(entry),
            _ => Err(unexpected()),
        }
    }

    /// Runs a command that uses one of the chunks.
    async fn used(&self, inner: &Inner, op: Op) -> Result<Response, WireError> {
        let answer = inner.masters.command_in(&self.session, op).await?;
        self.left.fetch_sub(1, Ordering::Relaxed);
        Ok(answer)
    }
}

impl Drop for Stock {
    /// Gives back what did not become a file. Best effort: the lease ends it anyway.
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        inner.uploads.close(self.ino);
        if *self.left.get_mut() == 0 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let session = Arc::clone(&self.session);
        let op = Op::AbortUpload {
            upload: self.ino,
            generation: self.generation,
        };
        runtime.spawn(async move {
            if let Err(error) = inner.masters.command_in(&session, op).await {
                tracing::debug!(%error, "cannot give chunks for small files back");
            }
        });
    }
}

/// Writes a file of one small packet.
pub(super) async fn put_file(
    inner: &Arc<Inner>,
    path: &FsPath,
    options: &UploadOptions,
    packet: &Packet,
) -> Result<Entry, Error> {
    let defaults = inner.masters.session().await?.defaults();
    let replicas = options.replicas.unwrap_or(defaults.replicas);
    let shelf = inner.stocks.shelf(replicas);
    let mut is_again = false;
    loop {
        let (item, seal) = stored(inner, &shelf, replicas, None, packet).await?;
        match item.stock.put(inner, path, options, seal).await {
            // Our lease has ended, as after a long sleep: nothing has appeared, the bytes are still here.
            Err(error) if error.code == ErrorCode::Fenced && !is_again => {
                is_again = true;
                shelf.forget(&item.stock);
            }
            // Unavailable: it may have been carried out all the same.
            Err(error) if error.code == ErrorCode::OutcomeUnknown || error.code.exit_code() == 5 => {
                return appeared(inner, path, item.file).await.ok_or_else(|| error.into());
            }
            put => return Ok(put?),
        }
    }
}

/// Writes a small packet to a chunk, and has `op` put that into a file that is there.
pub(super) async fn put_into(
    inner: &Arc<Inner>,
    file: Ino,
    replicas: u8,
    packet: &Packet,
    op: impl Fn(Ino, UploadGeneration, Seal) -> Op,
) -> Result<Response, Error> {
    let shelf = inner.stocks.shelf(replicas);
    let mut is_again = false;
    loop {
        let (item, seal) = stored(inner, &shelf, replicas, Some(file), packet).await?;
        let op = op(item.stock.ino, item.stock.generation, seal);
        match item.stock.used(inner, op).await {
            // As above; what else is fenced, as a lost write lease, is so the second time, too.
            Err(error) if error.code == ErrorCode::Fenced && !is_again => {
                is_again = true;
                shelf.forget(&item.stock);
            }
            answer => return Ok(answer?),
        }
    }
}

/// Writes a small packet to chunks of stocks until a whole chain has it. Chunkservers are told that it is of `file`, or
/// of the one the chunk would become.
async fn stored(
    inner: &Arc<Inner>,
    shelf: &Arc<Shelf>,
    replicas: u8,
    file: Option<Ino>,
    packet: &Packet,
) -> Result<(Item, Seal), Error> {
    let mut attempts = Attempts::new(inner);
    loop {
        let item = shelf.get(inner, replicas).await?;
        let chain = Chain::new(inner, file.unwrap_or(item.file), item.stock.chunk_bytes, &item.grant);
        let failure = match push_small(&chain, packet).await {
            Ok(seal) => return Ok((item, seal)),
            Err(failure) => failure,
        };
        let is_stale = failure.error.code == ErrorCode::BadToken;
        attempts.failed(&chain, failure, 0).await?;
        if is_stale {
            shelf.forget(&item.stock);
        }
    }
}
