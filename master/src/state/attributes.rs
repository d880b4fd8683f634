//! Owner, group and extended attributes of files, directories and links. They belong to the inode: renames, the trash and
//! restoring keep them, a file that replaces another has its own.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits;
use gabion_protocol::messages::master::AttributeChange;
use gabion_protocol::path::FsPath;

use super::key::attributes::AttributesKey;
use super::links::{self, Last};
use super::names;
use super::reply::{Outcome, Refusal};
use super::rows::RowsError;
use super::tx::{Stop, Tx};

/// Changes what is told of what a path leads to.
pub(super) fn change(tx: &mut Tx<'_>, path: &FsPath, change: &AttributeChange) -> Result<Outcome, Stop> {
    let path = links::live(tx.rows(), path, Last::Follow)?;
    let ino = names::find(tx.rows(), &path)?.ino;
    change_of(tx, &path, ino, change)?;
    names::answer(tx, &path, ino)
}

/// Changes what is told of an inode.
pub(super) fn change_of(tx: &mut Tx<'_>, path: &FsPath, ino: Ino, change: &AttributeChange) -> Result<(), Stop> {
    let row = AttributesKey(ino);
    let mut attributes = tx.get(&row)?.unwrap_or_default();
    match change {
        AttributeChange::Owner { owner, group } => {
            for (slot, name) in [(&mut attributes.owner, owner), (&mut attributes.group, group)] {
                if let Some(name) = name {
                    if name.len() > limits::NAME_BYTES_MAX || name.contains('\0') {
                        return Err(Refusal::OwnerName.into());
                    }
                    slot.clone_from(name);
                }
            }
        }
        AttributeChange::Set { name, value } => {
            if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || name.contains('\0') {
                return Err(Refusal::AttributeName.into());
            }
            attributes.extended.insert(name.clone(), value.clone());
            let bytes = attributes.bytes();
            if bytes > limits::ATTRIBUTES_BYTES_MAX {
                return Err(Refusal::AttributesTooLarge { bytes: bytes as u64 }.into());
            }
        }
        AttributeChange::Remove { name } => {
            if attributes.extended.remove(name).is_none() {
                let path = path.clone();
                return Err(Refusal::NoAttribute { path }.into());
            }
        }
    }
    if attributes.is_empty() {
        forget(tx, ino)?;
    } else {
        attributes.since = tx.moment();
        tx.put(&row, &attributes);
    }
    Ok(())
}

/// The inode goes.
pub(super) fn forget(tx: &mut Tx<'_>, ino: Ino) -> Result<(), RowsError> {
    // Few have any: a read costs less than a mark for a row that never was.
    if tx.get(&AttributesKey(ino))?.is_some() {
        tx.delete(&AttributesKey(ino));
    }
    Ok(())
}
