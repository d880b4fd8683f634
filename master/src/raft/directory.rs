//! A master's directory: whose it is, who uses it now, and how often it was started.
//!
//! ```text
//! reserve    room kept for a full disk
//! lock       held by the running process, names it
//! identity   cluster id and master id, written once
//! boot       counts starts
//! complete   log and rows exist, written once
//! peers      what is remembered of the other masters' starts
//! raft/      the log           state/<n>/  rows           snapshots/  incoming/
//! ```

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gabion_protocol::ids::{ClusterId, Incarnation};
use gabion_protocol::keys::{hex, unhex};

use crate::space::{Space, SpaceOptions};
use crate::store::{StoreError, durable};

const COMPLETE: &str = "complete";

/// A directory this master must not use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another process runs on it.
    #[error("{path} is in use by process {pid}; stop it first, or give this master another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, as far as known.
        pid: String,
    },
    /// It belongs to someone else.
    #[error("{path} belongs to {found}, this is {expected}; check the configured directory, cluster and id")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        expected: String,
    },
    /// A part of it is gone.
    #[error("{path} is incomplete: {missing} is missing; replace this master under a new id")]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A locked directory; free again when dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    boot: u64,
    life: Life,
    space: Arc<Space>,
    _lock: File,
}

/// One life of a directory, drawn when it is first used: an emptied one that is used again has another.
pub(crate) type Life = [u8; 8];

impl Directory {
    /// Locks the directory, makes room in it if the disk is full, checks that it belongs to this master and counts the
    /// start, durably.
    pub(crate) fn open(path: &Path, cluster: ClusterId, id: u64, room: SpaceOptions) -> Result<Self, DirectoryError> {
        durable::create_dir(path)?;
        let mut lock = lock(path)?;
        // Before the first write, and not before the lock: the reserve may be another process's.
        let space = Space::open(path, room)?;
        name_owner(path, &mut lock)?;
        let identity = format!("gabion master 1\ncluster {cluster}\nid {id}\n");
        let (identity_path, boot_path) = (path.join("identity"), path.join("boot"));
        let life_path = path.join("life");
        let (boot, life) = match durable::read_file(&identity_path)? {
            Some(found) if found == identity.as_bytes() => (last_boot(path, &boot_path)?, read_life(path, &life_path)?),
            Some(found) => {
                return Err(DirectoryError::NotOurs {
                    path: path.to_owned(),
                    found: one_line(&String::from_utf8_lossy(&found)),
                    expected: one_line(&identity),
                });
            }
            None if path.join(super::LOG_DIR).exists() || path.join(super::STATE_DIR).exists() => {
                return Err(DirectoryError::Incomplete {
                    path: path.to_owned(),
                    missing: "identity",
                });
            }
            None => {
                let mut life = Life::default();
                life.copy_from_slice(&Incarnation::random().0[..8]);
                // Counter and life first: with an identity they must exist.
                durable::write_file(&boot_path, b"0\n")?;
                durable::write_file(&life_path, format!("{}\n", hex(&life)).as_bytes())?;
                durable::write_file(&identity_path, identity.as_bytes())?;
                (0, life)
            }
        };
        let boot = boot + 1;
        durable::write_file(&boot_path, format!("{boot}\n").as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            boot,
            life,
            space,
            _lock: lock,
        })
    }

    /// The directory's life and then this run of the process: what peers tell copies and emptied directories by.
    pub(crate) fn incarnation(&self, run: Incarnation) -> Incarnation {
        let mut both = run;
        both.0[..8].copy_from_slice(&self.life);
        both
    }

    /// The room on its disk.
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Counts the starts, this one included.
    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses a directory that has lost its log or its rows: votes or applied entries would be forgotten.
    pub(crate) fn check_complete(&self) -> Result<(), DirectoryError> {
        if !self.join(COMPLETE).exists() {
            return Ok(());
        }
        let has = |part: &str| self.join(part).join("CURRENT").exists();
        let missing = match (has(super::LOG_DIR), has(super::STATE_DIR)) {
            (true, true) => return Ok(()),
            (false, true | false) => "raft/",
            (true, false) => "state/",
        };
        Err(DirectoryError::Incomplete {
            path: self.path.clone(),
            missing,
        })
    }

    /// Notes that log and rows exist: from now on they must.
    pub(crate) fn mark_complete(&self) -> Result<(), DirectoryError> {
        let path = self.join(COMPLETE);
        if !path.exists() {
            durable::write_file(&path, b"")?;
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.trim_end().replace('\n', ", ")
}

fn read_life(path: &Path, life_path: &Path) -> Result<Life, DirectoryError> {
    let Some(bytes) = durable::read_file(life_path)? else {
        return Err(DirectoryError::Incomplete {
            path: path.to_owned(),
            missing: "life",
        });
    };
    let text = String::from_utf8_lossy(&bytes);
    unhex(text.trim_end()).ok_or_else(|| {
        DirectoryError::Store(StoreError::Damaged {
            path: life_path.to_owned(),
            why: format!("{text:?} is not 16 hexadecimal digits"),
        })
    })
}

fn last_boot(path: &Path, boot_path: &Path) -> Result<u64, DirectoryError> {
    let Some(bytes) = durable::read_file(boot_path)? else {
        return Err(DirectoryError::Incomplete {
            path: path.to_owned(),
            missing: "boot",
        });
    };
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end().parse().map_err(|_| {
        DirectoryError::Store(StoreError::Damaged {
            path: boot_path.to_owned(),
            why: format!("{text:?} is no number"),
        })
    })
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let lock_path = path.join("lock");
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
    };
    let mut file = open().map_err(StoreError::file("open", &lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            return Err(DirectoryError::InUse {
                path: path.to_owned(),
                pid: pid.trim_end().to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => {
            return Err(StoreError::file("lock", &lock_path)(source).into());
        }
    }
    Ok(file)
}

/// Writes into the locked file who holds it.
fn name_owner(path: &Path, lock: &mut File) -> Result<(), DirectoryError> {
    let mut write = || {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    };
    Ok(write().map_err(StoreError::file("write", path.join("lock")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([1; 16]);
    const NO_RESERVE: SpaceOptions = SpaceOptions {
        reserve: Some(0),
        write_buffer: 0,
        write_buffers: 0,
    };

    #[test]
    fn starts_are_counted_and_strangers_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m1");
        let first = Directory::open(&path, CLUSTER, 1, NO_RESERVE).unwrap();
        assert_eq!(first.boot(), 1);
        let in_use = Directory::open(&path, CLUSTER, 1, NO_RESERVE).unwrap_err();
        let text = in_use.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(first);
        assert_eq!(Directory::open(&path, CLUSTER, 1, NO_RESERVE).unwrap().boot(), 2);
        for (cluster, id) in [(ClusterId([2; 16]), 1), (CLUSTER, 2)] {
            let refused = Directory::open(&path, cluster, id, NO_RESERVE).unwrap_err();
            assert!(matches!(refused, DirectoryError::NotOurs { .. }));
        }
        assert_eq!(
            Directory::open(&path, CLUSTER, 1, NO_RESERVE).unwrap().boot(),
            3,
            "refusals are no starts"
        );
    }

    #[test]
    fn an_emptied_directory_has_another_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m1");
        let run = Incarnation([9; 16]);
        let life = || Directory::open(&path, CLUSTER, 1, NO_RESERVE).unwrap().incarnation(run);
        let first = life();
        assert_eq!(first, life(), "a restart has the same");
        assert_eq!(first.0[8..], run.0[8..]);
        std::fs::remove_dir_all(&path).unwrap();
        assert_ne!(first, life());
    }

    #[test]
    fn an_incomplete_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Directory::open(dir.path(), CLUSTER, 1, NO_RESERVE).unwrap());
        std::fs::remove_file(dir.path().join("boot")).unwrap();
        let refused = Directory::open(dir.path(), CLUSTER, 1, NO_RESERVE).unwrap_err();
        assert!(matches!(refused, DirectoryError::Incomplete { missing: "boot", .. }));
        std::fs::remove_file(dir.path().join("identity")).unwrap();
        std::fs::create_dir(dir.path().join("raft")).unwrap();
        let refused = Directory::open(dir.path(), CLUSTER, 1, NO_RESERVE).unwrap_err();
        assert!(matches!(
            refused,
            DirectoryError::Incomplete {
                missing: "identity",
                ..
            }
        ));
    }
}
