//! Files on their way: an invisible inode collects sealed chunks until Commit gives it its name in one step.
//!
//! The path is looked up at the opening, to fail early, and again at the commit, which counts. Missing directories
//! above are made by the commit: an upload that is given up leaves nothing behind.

use gabion_protocol::checksum::Running;
use gabion_protocol::ids::{ChunkId, Ino, ServerId, SessionId, StateTime, UploadGeneration};
use gabion_protocol::limits;
use gabion_protocol::messages::master::{Room, Seal, UploadOptions};
use gabion_protocol::path::FsPath;

use super::OPEN_CHUNKS_MAX;
use super::key::Kind;
use super::key::extent::{Extent, ExtentKey};
use super::key::inode::{Body, Content, Inode, InodeKey, Parent, Upload};
use super::key::meta::Settings;
use super::key::upload_lease::{LeaseDue, UploadLeaseKey};
use super::links::{self, Last};
use super::names::{self, Making, Walk};
use super::reply::{GrantedChunk, Outcome, Refusal};
use super::rows::RowsError;
use super::tx::{Stop, Tx};
use super::{chunks, clock, quotas, resumable, trash, tree_copies};

/// Who claims which upload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    session: SessionId,
    pub(super) upload: Ino,
    generation: UploadGeneration,
}

impl Owner {
    pub(super) fn new(session: SessionId, upload: Ino, generation: UploadGeneration) -> Self {
        Self {
            session,
            upload,
            generation,
        }
    }

    /// The inode and its upload to a name, if the claim is right.
    pub(super) fn claim(self, tx: &Tx<'_>) -> Result<(Inode, Upload), Stop> {
        self.claim_if(tx, |upload| !upload.is_stock() && !upload.is_tree_copy())
    }

    /// The inode and its stock, if the claim is right.
    pub(super) fn claim_stock(self, tx: &Tx<'_>) -> Result<(Inode, Upload), Stop> {
        self.claim_if(tx, Upload::is_stock)
    }

    /// The inode and its upload or stock, if the claim is right.
    pub(super) fn claim_chunks(self, tx: &Tx<'_>) -> Result<(Inode, Upload), Stop> {
        self.claim_if(tx, |upload| !upload.is_tree_copy())
    }

    /// The inode and what keeps the lease of a directory's copy, if the claim is right.
    pub(super) fn claim_tree_copy(self, tx: &Tx<'_>) -> Result<(Inode, Upload), Stop> {
        self.claim_if(tx, Upload::is_tree_copy)
    }

    /// The same, whatever the lease is for.
    fn claim_any(self, tx: &Tx<'_>) -> Result<(Inode, Upload), Stop> {
        self.claim_if(tx, |_| true)
    }

    fn claim_if(self, tx: &Tx<'_>, fits: impl FnOnce(&Upload) -> bool) -> Result<(Inode, Upload), Stop> {
        let upload = self.upload;
        let gone = Refusal::UploadGone { upload };
        let inode = tx.get(&InodeKey(upload))?.ok_or_else(|| gone.clone())?;
        match &inode.body {
            Body::Directory | Body::Link { .. } => Err(gone.into()),
            Body::File(_) if inode.parent.ino == Parent::NOWHERE => Err(gone.into()),
            Body::File(_) => Err(Refusal::UploadCommitted { upload }.into()),
            Body::Upload(state) if state.session != self.session || state.generation != self.generation => {
                let generation = state.generation;
                Err(Refusal::UploadFenced { upload, generation }.into())
            }
            Body::Upload(state) if !fits(state) => Err(gone.into()),
            Body::Upload(state) => {
                let state = state.clone();
                Ok((inode, state))
            }
        }
    }
}

/// What a commit says about the whole file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    pub(super) length: u64,
    pub(super) crc: u32,
    pub(super) wall_ms: i64,
}

/// Whether a file may have so many copies.
pub(super) fn replicas_fit(replicas: u8) -> bool {
    (1..=limits::REPLICAS_MAX).contains(&replicas)
}

/// Whether chunks may be so long: whole blocks, within the limits.
pub(super) fn chunk_bytes_fit(bytes: u64) -> bool {
    (limits::CHUNK_BYTES_MIN..=limits::CHUNK_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(limits::BLOCK_BYTES as u64)
}

/// The content of a file without bytes.
pub(super) fn empty(settings: Settings, options: &UploadOptions) -> Result<Content, Refusal> {
    let replicas = options.replicas.unwrap_or(settings.replicas);
    if !replicas_fit(replicas) {
        return Err(Refusal::Replicas { asked: replicas });
    }
    let chunk_bytes = options.chunk_bytes.unwrap_or(settings.chunk_bytes);
    if !chunk_bytes_fit(chunk_bytes) {
        return Err(Refusal::ChunkBytes { asked: chunk_bytes });
    }
    Ok(Content {
        length: 0,
        crc: Some(0),
        replicas,
        chunk_bytes,
        extents: 0,
        degraded: 0,
    })
}

/// Makes an empty file.
pub(super) fn create_empty(
    tx: &mut Tx<'_>,
    path: &FsPath,
    options: &UploadOptions,
    wall_ms: i64,
) -> Result<Outcome, Stop> {
    let content = empty(tx.world.cluster.settings, options)?;
    let ino = tx.next_ino()?;
    appear(tx, path, options, ino, content, wall_ms)
}

/// Gives a file that is complete its name, in place of an older file.
pub(super) fn appear(
    tx: &mut Tx<'_>,
    path: &FsPath,
    options: &UploadOptions,
    ino: Ino,
    content: Content,
    wall_ms: i64,
) -> Result<Outcome, Stop> {
    let place = Place::of(path, options.parents, options.replace);
    let (parent, path) = make_room(tx, place, wall_ms)?;
    let since = tx.moment();
    let inode = Inode {
        body: Body::File(content),
        mode: options.mode,
        modified_ms: options.modified_ms.unwrap_or(wall_ms),
        parent: Parent::nowhere(since),
        since,
        generation: 0,
    };
    names::link(tx, parent, path.name().unwrap_or_default(), ino, inode)?;
    names::answer(tx, &path, ino)
}

/// Where something shall appear, and what may be done for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) path: &'a FsPath,
    /// What becomes of a link that is there.
    pub(super) last: Last,
    /// Whether directories above may be made.
    pub(super) parents: bool,
    /// Whether an older file or link may give way.
    pub(super) replace: bool,
}

impl<'a> Place<'a> {
    /// A file's: as open(2) has it, one that may replace another goes where a link leads, also if nothing is there yet;
    /// one that must be new (`O_EXCL`) finds the link in its place.
    pub(super) fn of(path: &'a FsPath, parents: bool, replace: bool) -> Self {
        let last = if replace { Last::Follow } else { Last::Keep };
        Self {
            path,
            last,
            parents,
            replace,
        }
    }
}

/// The directory where something may appear, and its path without links: directories above it are made, an older file
/// gives way, as far as its maker allows.
pub(super) fn make_room(tx: &mut Tx<'_>, place: Place<'_>, wall_ms: i64) -> Result<(Ino, FsPath), Stop> {
    let path = links::live(tx.rows(), place.path, place.last)?;
    let Some((above, name)) = path.parent_and_name() else {
        return Err(Refusal::IsDirectory { path: path.clone() }.into());
    };
    let making = place.parents.then_some(Making {
        mode: names::PARENTS_MODE,
        wall_ms,
    });
    let parent = names::directory(tx, &above, making)?;
    if let Some(older) = tx.get(&names::entry(parent, name))? {
        let path = path.clone();
        if older.directory {
            return Err(Refusal::IsDirectory { path }.into());
        }
        if !place.replace {
            return Err(Refusal::Exists { path }.into());
        }
        names::discard(tx, older.ino)?;
    }
    Ok((parent, path))
}

/// Begins an upload.
pub(super) fn open(
    tx: &mut Tx<'_>,
    session: SessionId,
    path: &FsPath,
    options: &UploadOptions,
    placements: &[Vec<ServerId>],
    room: Room,
) -> Result<Outcome, Stop> {
    let content = empty(tx.world.cluster.settings, options)?;
    check_target(tx, path, options)?;
    let ino = tx.next_ino()?;
    let mut upload = begin(tx, session, path, options, content);
    let chunks = open_chunks(tx, ino, &mut upload, placements)?;
    quotas::open(tx, ino, &upload, room, 0)?;
    Ok(begun(tx, ino, options.mode, upload, chunks))
}

/// An upload as it begins.
pub(super) fn begin(
    tx: &Tx<'_>,
    session: SessionId,
    path: &FsPath,
    options: &UploadOptions,
    content: Content,
) -> Upload {
    let lease = tx.now().plus(tx.world.cluster.settings.upload_lease_ms);
    Upload {
        content,
        path: path.clone(),
        replace: options.replace,
        parents: options.parents,
        modified_ms: options.modified_ms,
        generation: UploadGeneration(1),
        session,
        lease,
        open: Vec::new(),
    }
}

/// Writes an upload that begins, and answers with its first chunks.
pub(super) fn begun(tx: &mut Tx<'_>, ino: Ino, mode: u32, upload: Upload, chunks: Vec<GrantedChunk>) -> Outcome {
    let Upload {
        lease,
        content: Content {
            replicas, chunk_bytes, ..
        },
        ..
    } = upload;
    let since = tx.moment();
    let inode = Inode {
        body: Body::Upload(upload),
        mode,
        modified_ms: 0,
        parent: Parent::nowhere(since),
        since,
        generation: 0,
    };
    tx.put(&InodeKey(ino), &inode);
    tx.put(&UploadLeaseKey { deadline: lease, ino }, &LeaseDue);
    Outcome::Upload {
        upload: ino,
        generation: UploadGeneration(1),
        chunk_bytes,
        replicas,
        chunks,
    }
}

/// Whether a file could appear at the path now.
pub(super) fn check_target(tx: &Tx<'_>, path: &FsPath, options: &UploadOptions) -> Result<(), Stop> {
    let place = Place::of(path, options.parents, options.replace);
    let path = links::live(tx.rows(), path, place.last)?;
    let path = || path.clone();
    match names::walk(tx.rows(), &path())? {
        Walk::Found(dentry) if dentry.directory => Err(Refusal::IsDirectory { path: path() }.into()),
        Walk::Found(_) if !options.replace => Err(Refusal::Exists { path: path() }.into()),
        Walk::Found(_) => Ok(()),
        Walk::Blocked(path) => Err(Refusal::NotDirectory { path }.into()),
        Walk::Missing(missing) if missing == path() || options.parents => Ok(()),
        Walk::Missing(path) => Err(Refusal::NotFound { path }.into()),
    }
}

fn open_chunks(
    tx: &mut Tx<'_>,
    ino: Ino,
    upload: &mut Upload,
    placements: &[Vec<ServerId>],
) -> Result<Vec<GrantedChunk>, Stop> {
    bound(placements.len(), limits::GRANT_CHUNKS_MAX)?;
    bound(upload.open.len() + placements.len(), OPEN_CHUNKS_MAX)?;
    let mut granted = Vec::with_capacity(placements.len());
    for chain in placements {
        let chunk = chunks::open(tx, ino, upload.content.replicas, chain)?;
        upload.open.push(chunk.chunk);
        granted.push(chunk);
    }
    Ok(granted)
}

pub(super) fn bound(asked: usize, limit: usize) -> Result<(), Refusal> {
    if asked > limit {
        return Err(Refusal::TooMany {
            asked: asked as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Grants more chunks, and takes back those the writer gave up.
pub(super) fn grant(
    tx: &mut Tx<'_>,
    owner: Owner,
    placements: &[Vec<ServerId>],
    abandoned: &[ChunkId],
) -> Result<Outcome, Stop> {
    let (inode, mut upload) = owner.claim(tx)?;
    bound(abandoned.len(), OPEN_CHUNKS_MAX)?;
    for chunk in abandoned {
        if let Some(at) = upload.open.iter().position(|open| open == chunk) {
            upload.open.remove(at);
            chunks::abandon(tx, *chunk)?;
        }
    }
    let granted = open_chunks(tx, owner.upload, &mut upload, placements)?;
    quotas::granted(tx, owner.upload, &upload)?;
    save(tx, owner, inode, upload)?;
    Ok(Outcome::Chunks(granted))
}

/// Records sealed chunks.
pub(super) fn seal(tx: &mut Tx<'_>, owner: Owner, seals: &[Seal]) -> Result<Outcome, Stop> {
    let (inode, mut upload) = owner.claim(tx)?;
    record(tx, owner.upload, &mut upload, seals)?;
    save(tx, owner, inode, upload)?;
    Ok(Outcome::Done)
}

/// Writes an upload whose owner was heard of.
pub(super) fn save(tx: &mut Tx<'_>, owner: Owner, mut inode: Inode, mut upload: Upload) -> Result<(), RowsError> {
    quotas::settle(tx, owner.upload, &upload)?;
    upload.lease = tx.now().plus(tx.world.cluster.settings.upload_lease_ms);
    inode.body = Body::Upload(upload);
    inode.since = tx.moment();
    tx.put(&InodeKey(owner.upload), &inode);
    Ok(())
}

fn record(tx: &mut Tx<'_>, ino: Ino, upload: &mut Upload, seals: &[Seal]) -> Result<(), Stop> {
    bound(seals.len(), limits::BATCH_ROWS_MAX)?;
    for seal in seals {
        append(tx, ino, &mut upload.open, &mut upload.content, seal)?;
    }
    Ok(())
}

/// Appends one sealed chunk of those that are `open` to a file.
pub(super) fn append(
    tx: &mut Tx<'_>,
    ino: Ino,
    open: &mut Vec<ChunkId>,
    content: &mut Content,
    seal: &Seal,
) -> Result<(), Stop> {
    let Seal { chunk, length, .. } = *seal;
    take_open(open, chunk)?;
    if seal.file_offset != content.length {
        return Err(Refusal::SealOutOfOrder {
            chunk,
            offset: seal.file_offset,
            expected: content.length,
        }
        .into());
    }
    if length == 0 || length > content.chunk_bytes {
        return Err(Refusal::SealLength { chunk, length }.into());
    }
    let end = content.length.checked_add(length);
    if end.is_none_or(|end| end > limits::FILE_BYTES_MAX) {
        return Err(Refusal::FileTooLong.into());
    }
    let degraded = chunks::seal(tx, seal, ino)?;
    let extent = Extent {
        chunk,
        chunk_offset: 0,
        length,
        crc: Some(seal.crc),
        since: tx.moment(),
    };
    let offset = content.length;
    tx.put(&ExtentKey { ino, offset }, &extent);
    let mut whole = Running::default();
    whole.append(content.crc.unwrap_or(0), content.length);
    whole.append(seal.crc, length);
    content.crc = Some(whole.crc());
    content.length = whole.len();
    content.extents += 1;
    content.degraded += u64::from(degraded);
    Ok(())
}

/// Takes a chunk out of those that are open.
pub(super) fn take_open(open: &mut Vec<ChunkId>, chunk: ChunkId) -> Result<(), Refusal> {
    let at = open.iter().position(|open| *open == chunk);
    open.remove(at.ok_or(Refusal::ChunkNotOpen { chunk })?);
    Ok(())
}

/// The length and CRC of sealed chunks that follow each other from offset 0 on, if they do.
pub(super) fn in_order(seals: &[Seal], chunk_bytes: u64) -> Result<Running, Refusal> {
    let mut whole = Running::default();
    for seal in seals {
        let Seal { chunk, length, .. } = *seal;
        if seal.file_offset != whole.len() {
            return Err(Refusal::SealOutOfOrder {
                chunk,
                offset: seal.file_offset,
                expected: whole.len(),
            });
        }
        if length == 0 || length > chunk_bytes {
            return Err(Refusal::SealLength { chunk, length });
        }
        whole.append(seal.crc, length);
    }
    Ok(whole)
}

/// Writes an upload or stock after chunks of it went elsewhere. A stock without any is gone.
pub(super) fn went_on(tx: &mut Tx<'_>, owner: Owner, inode: Inode, upload: Upload) -> Result<(), RowsError> {
    if upload.is_stock() && upload.open.is_empty() {
        tx.delete(&InodeKey(owner.upload));
        return Ok(());
    }
    save(tx, owner, inode, upload)
}

/// Records the last chunks and gives the file its name, in place of an older file.
pub(super) fn commit(tx: &mut Tx<'_>, owner: Owner, seals: &[Seal], whole: Whole) -> Result<Outcome, Stop> {
    let (mut inode, mut upload) = owner.claim(tx)?;
    record(tx, owner.upload, &mut upload, seals)?;
    check_whole(&upload.content, whole)?;
    let place = Place::of(&upload.path, upload.parents, upload.replace);
    let (parent, path) = make_room(tx, place, whole.wall_ms)?;
    resumable::forget(tx, owner.upload, &upload)?;
    quotas::release(tx, owner.upload)?;
    for chunk in &upload.open {
        chunks::abandon(tx, *chunk)?;
    }
    inode.body = Body::File(upload.content);
    inode.modified_ms = upload.modified_ms.unwrap_or(whole.wall_ms);
    names::link(tx, parent, path.name().unwrap_or_default(), owner.upload, inode)?;
    names::answer(tx, &path, owner.upload)
}

fn check_whole(content: &Content, whole: Whole) -> Result<(), Refusal> {
    if content.length != whole.length {
        return Err(Refusal::Length {
            told: whole.length,
            recorded: content.length,
        });
    }
    // Not known if it shares a part of a file that was overwritten: its chunks have their CRCs all the same.
    match content.crc {
        Some(recorded) if recorded != whole.crc => Err(Refusal::Crc {
            told: whole.crc,
            recorded,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Gives an upload up. One that is gone already is fine.
pub(super) fn abort(tx: &mut Tx<'_>, owner: Owner) -> Result<Outcome, Stop> {
    match owner.claim_any(tx) {
        Ok((inode, upload)) => {
            end(tx, owner.upload, inode, upload)?;
            Ok(Outcome::Done)
        }
        Err(Stop::Refused(Refusal::UploadGone { .. })) => Ok(Outcome::Done),
        Err(stop) => Err(stop),
    }
}

/// Ends an upload that did not appear: what it has becomes garbage.
pub(super) fn end(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode, upload: Upload) -> Result<(), RowsError> {
    resumable::forget(tx, ino, &upload)?;
    quotas::release(tx, ino)?;
    if upload.is_tree_copy() {
        tree_copies::end(tx, ino)?;
    }
    for chunk in &upload.open {
        chunks::abandon(tx, *chunk)?;
    }
    inode.body = Body::File(upload.content);
    let deadline = tx.now();
    trash::put(tx, ino, inode, deadline);
    Ok(())
}

/// Renews the leases of those uploads that are still the session's. Others are passed over: the next command for
/// one of them says what became of it.
pub(super) fn renew(tx: &mut Tx<'_>, session: SessionId, uploads: &[(Ino, UploadGeneration)]) -> Result<Outcome, Stop> {
    bound(uploads.len(), limits::BATCH_ROWS_MAX)?;
    for (upload, generation) in uploads {
        let owner = Owner::new(session, *upload, *generation);
        match owner.claim_any(tx) {
            Ok((inode, upload)) => save(tx, owner, inode, upload)?,
            Err(Stop::Refused(_)) => {}
            Err(stop) => return Err(stop),
        }
    }
    Ok(Outcome::Done)
}

/// Ends uploads whose lease is over and that are not kept, at most `limit`; whether more are due.
pub(super) fn expire(tx: &mut Tx<'_>, swept: &mut StateTime, limit: usize) -> Result<bool, RowsError> {
    let (due, more) = clock::due::<UploadLeaseKey>(tx, Kind::UploadLease, swept, limit)?;
    for row in due {
        tx.delete(&row);
        let Some(inode) = tx.get(&InodeKey(row.ino))? else {
            continue;
        };
        let Body::Upload(upload) = &inode.body else {
            continue;
        };
        let is_over = upload.lease <= tx.now();
        let until = match is_over {
            true => resumable::kept_until(tx.rows(), row.ino, upload)?.unwrap_or(upload.lease),
            false => upload.lease,
        };
        let upload = upload.clone();
        if until <= tx.now() {
            end(tx, row.ino, inode, upload)?;
            continue;
        }
        let later = UploadLeaseKey { deadline: until, ..row };
        tx.put(&later, &LeaseDue);
        if is_over {
            resumable::orphan(tx, row.ino, inode, upload)?;
        }
    }
    Ok(more)
}
