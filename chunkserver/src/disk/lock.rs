//! The exclusive lock on a data directory, released by the kernel when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::DiskError;

/// Held as long as the directory is in use.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(crate) fn acquire(dir: &Path) -> Result<Self, DiskError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| DiskError::io("open", &path, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(locked(dir, &mut file)),
            Err(e) => return Err(DiskError::io("lock", &path, e)),
        }
        // The pid is for people; the lock itself is the kernel's.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| DiskError::io("write", &path, e))?;
        Ok(Self { _file: file })
    }
}

fn locked(dir: &Path, file: &mut File) -> DiskError {
    let mut text = String::new();
    let holder = match file.read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    };
    DiskError::Locked {
        dir: dir.to_owned(),
        holder,
    }
}
