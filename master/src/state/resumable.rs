//! Uploads that outlive their client: the same identity finds the one it left by its path, and takes it over.
//!
//! What counts is what the masters recorded: the chunks sealed in file order, their length and CRC. The new owner compares
//! that with the beginning of his own bytes, and goes on after it. Taking over raises the upload's generation, so that
//! the former owner, if he still lives, is refused ([`Refusal::UploadFenced`]); the chunks he had open are given up.
//!
//! Invariants: an identity has at most one resumable upload to a path; the row is there as long as the upload is one.

use gabion_protocol::ids::{Ino, SessionId, StateTime, UploadGeneration};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits;
use gabion_protocol::messages::master::{Room, UploadOptions};
use gabion_protocol::path::FsPath;

use super::key;
use super::key::inode::{Body, Inode, InodeKey, Upload};
use super::key::resumable::{Resumable, ResumableKey};
use super::key::upload_lease::{LeaseDue, UploadLeaseKey};
use super::reply::{Outcome, Refusal};
use super::rows::{Rows, RowsError};
use super::tx::{Stop, Tx};
use super::uploads::{self, Owner};
use super::{chunks, quotas};

/// Identities that may have a resumable upload to one path at the same time: bounds the search.
pub(super) const OWNERS_MAX: usize = 64;

/// No client's session: they are random, and of a time when there was a cluster.
const NOBODY: SessionId = SessionId {
    opened: StateTime(0),
    random: 0,
};

/// Takes over the upload to `path` that `owner` left, or begins one.
pub(super) fn open(
    tx: &mut Tx<'_>,
    session: SessionId,
    path: &FsPath,
    options: &UploadOptions,
    terms: Resumable,
    room: Room,
) -> Result<Outcome, Stop> {
    let content = uploads::empty(tx.world.cluster.settings, options)?;
    uploads::check_target(tx, path, options)?;
    let rows = key::scan_prefix::<ResumableKey>(tx.rows(), &ResumableKey::prefix(path.as_str()), OWNERS_MAX)?;
    let of_owner = rows.iter().find(|(_, row)| row.owner == terms.owner);
    if let Some((row, former)) = of_owner {
        let inode = tx.require(&InodeKey(row.upload))?;
        if let Body::Upload(upload) = inode.body.clone() {
            if fits(&upload, options) {
                look_again(tx, row.upload, &upload, former);
                tx.put(row, &terms);
                return take_over(tx, session, row.upload, (inode, upload), options, room);
            }
            // Stored otherwise: nothing of it can be used.
            uploads::end(tx, row.upload, inode, upload)?;
        }
    } else if rows.len() == OWNERS_MAX {
        let limit = OWNERS_MAX as u64;
        return Err(Refusal::TooMany {
            asked: limit + 1,
            limit,
        }
        .into());
    }
    let ino = tx.next_ino()?;
    let upload = uploads::begin(tx, session, path, options, content);
    quotas::open(tx, ino, &upload, room, 0)?;
    uploads::begun(tx, ino, options.mode, upload, Vec::new());
    let row = ResumableKey {
        path: path.to_string(),
        upload: ino,
    };
    tx.put(&row, &terms);
    Ok(answer(ino, UploadGeneration(1), &content))
}

/// Whether what is recorded is stored as `options` ask; what they leave open fits.
fn fits(upload: &Upload, options: &UploadOptions) -> bool {
    options
        .replicas
        .is_none_or(|replicas| replicas == upload.content.replicas)
        && options
            .chunk_bytes
            .is_none_or(|bytes| bytes == upload.content.chunk_bytes)
}

fn take_over(
    tx: &mut Tx<'_>,
    session: SessionId,
    ino: Ino,
    (mut inode, mut upload): (Inode, Upload),
    options: &UploadOptions,
    room: Room,
) -> Result<Outcome, Stop> {
    fence(tx, &mut upload)?;
    upload.session = session;
    upload.replace = options.replace;
    upload.parents = options.parents;
    upload.modified_ms = options.modified_ms;
    inode.mode = options.mode;
    let (generation, content) = (upload.generation, upload.content);
    quotas::open(tx, ino, &upload, room, 0)?;
    uploads::save(tx, Owner::new(session, ino, generation), inode, upload)?;
    Ok(answer(ino, generation, &content))
}

/// Once the lease of a kept upload is over, its row is looked at when the time of keeping ends: from now on there is a
/// lease again.
fn look_again(tx: &mut Tx<'_>, ino: Ino, upload: &Upload, former: &Resumable) {
    if upload.lease > tx.now() {
        return;
    }
    let deadline = upload.lease.plus(former.keep_ms);
    tx.delete(&UploadLeaseKey { deadline, ino });
    let deadline = tx.now().plus(tx.world.cluster.settings.upload_lease_ms);
    tx.put(&UploadLeaseKey { deadline, ino }, &LeaseDue);
}

/// Makes the upload nobody's: its former owner is refused from now on, what he had open is given up.
fn fence(tx: &mut Tx<'_>, upload: &mut Upload) -> Result<(), RowsError> {
    for chunk in std::mem::take(&mut upload.open) {
        chunks::abandon(tx, chunk)?;
    }
    upload.generation = UploadGeneration(upload.generation.0.saturating_add(1));
    upload.session = NOBODY;
    Ok(())
}

fn answer(upload: Ino, generation: UploadGeneration, content: &key::inode::Content) -> Outcome {
    Outcome::Resumed {
        upload,
        generation,
        chunk_bytes: content.chunk_bytes,
        replicas: content.replicas,
        length: content.length,
        crc: content.crc.unwrap_or(0),
    }
}

/// Until when an upload is kept whose lease is over; `None` if it cannot be resumed.
pub(super) fn kept_until(rows: &dyn Rows, ino: Ino, upload: &Upload) -> Result<Option<StateTime>, RowsError> {
    let row = key::get(rows, &row(ino, upload))?;
    Ok(row.map(|terms| upload.lease.plus(terms.keep_ms)))
}

/// The lease of an upload that is kept is over: nobody owns it until it is taken over, and it holds no room.
pub(super) fn orphan(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode, mut upload: Upload) -> Result<(), RowsError> {
    quotas::release(tx, ino)?;
    if upload.open.is_empty() {
        return Ok(());
    }
    fence(tx, &mut upload)?;
    inode.body = Body::Upload(upload);
    inode.since = tx.moment();
    tx.put(&InodeKey(ino), &inode);
    Ok(())
}

/// The upload is a file now, or given up.
pub(super) fn forget(tx: &mut Tx<'_>, ino: Ino, upload: &Upload) -> Result<(), RowsError> {
    let row = row(ino, upload);
    if !upload.is_stock() && tx.get(&row)?.is_some() {
        tx.delete(&row);
    }
    Ok(())
}

fn row(upload: Ino, state: &Upload) -> ResumableKey {
    ResumableKey {
        path: state.path.to_string(),
        upload,
    }
}

/// How long an upload is kept at most.
pub(super) fn terms(owner: &Identity, keep_ms: u64) -> Resumable {
    Resumable {
        owner: owner.clone(),
        keep_ms: keep_ms.min(limits::RESUME_MS_MAX),
    }
}
