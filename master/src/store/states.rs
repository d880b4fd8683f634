//! `state/<n>/` directories and the pointer `state/CURRENT` to the one that counts.
//!
//! A snapshot is installed beside the old rows and becomes current by one rename. Readers that hold the old rows
//! keep them; their directory goes when the last of them is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::memory::Memory;
use super::state_db::StateDb;
use super::{StoreError, durable};
use crate::raft::codec::AppliedState;

/// The current state rows of a master, replaceable while in use.
pub(crate) struct States {
    root: PathBuf,
    memory: Memory,
    current: RwLock<(u64, Arc<StateDb>)>,
}

fn pointer(root: &Path) -> PathBuf {
    root.join("CURRENT")
}

/// The number of the current directory, if the pointer exists.
pub(crate) fn current_number(root: &Path) -> Result<Option<u64>, StoreError> {
    let path = pointer(root);
    let Some(bytes) = durable::read_file(&path)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim_end().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(StoreError::Damaged {
            path,
            why: format!("{text:?} is no number"),
        }),
    }
}

/// The pointer is written before the first row: rows without it mean that it was lost, not that this is a first start.
fn refuse_data_without_pointer(root: &Path) -> Result<(), StoreError> {
    for name in durable::list(root)? {
        if name.parse::<u64>().is_ok() && root.join(&name).join("CURRENT").exists() {
            return Err(StoreError::Damaged {
                path: pointer(root),
                why: format!("the pointer is missing though rows exist in {name}/"),
            });
        }
    }
    Ok(())
}

impl States {
    /// Opens the current rows below `root`, making an empty set on the first start.
    pub(crate) fn open(root: &Path, memory: &Memory) -> Result<Self, StoreError> {
        durable::create_dir(root)?;
        durable::remove_leftovers(root)?;
        let number = match current_number(root)? {
            Some(number) => number,
            None => {
                refuse_data_without_pointer(root)?;
                durable::create_dir(&root.join("1"))?;
                durable::write_file(&pointer(root), b"1\n")?;
                1
            }
        };
        let current = root.join(number.to_string());
        if !current.is_dir() {
            // RocksDB would make an empty one, and this master would have forgotten what it applied.
            return Err(StoreError::Damaged {
                path: current,
                why: "the directory the pointer names is missing".to_owned(),
            });
        }
        for name in durable::list(root)? {
            if name.parse::<u64>().is_ok_and(|other| other != number) {
                durable::remove_dir(&root.join(name))?;
            }
        }
        let db = StateDb::open(&current, memory)?;
        Ok(Self {
            root: root.to_owned(),
            memory: memory.clone(),
            current: RwLock::new((number, Arc::new(db))),
        })
    }

    /// The rows that count now.
    pub(crate) fn current(&self) -> Arc<StateDb> {
        Arc::clone(&self.current.read().1)
    }

    /// Makes a copy of the complete database in `source` the current rows.
    ///
    /// # Errors
    /// [`StoreError`]; the former rows then stay current.
    pub(crate) fn install(&self, source: &Path, expected: &AppliedState) -> Result<(), StoreError> {
        let number = self.current.read().0 + 1;
        let target = self.root.join(number.to_string());
        let temporary = durable::temporary_name(&target);
        durable::remove_dir(&temporary)?;
        durable::remove_dir(&target)?;
        durable::clone_database(source, &temporary)?;
        durable::publish(&temporary, &target)?;
        let db = StateDb::open(&target, &self.memory)?;
        let found = db.applied()?;
        if found != *expected {
            return Err(StoreError::Damaged {
                path: target,
                why: format!("it should hold {:?}, it holds {:?}", expected.last, found.last),
            });
        }
        durable::write_file(&pointer(&self.root), format!("{number}\n").as_bytes())?;
        let mut current = self.current.write();
        let (_, old) = std::mem::replace(&mut *current, (number, Arc::new(db)));
        old.remove_when_unused();
        Ok(())
    }
}
