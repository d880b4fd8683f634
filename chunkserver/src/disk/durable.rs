//! The one way a small file is replaced: temporary file → fsync → rename → fsync of the directory.
//!
//! After a crash at any point the final name holds either the old or the new content, whole. A rename before the
//! first fsync could leave an empty file under the final name; one without the second could come undone.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::DiskError;

/// Replaces `path` by a file of exactly `content`.
pub(crate) fn publish(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let temporary = temporary_name(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|e| DiskError::io("create", &temporary, e))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|e| DiskError::io("write", &temporary, e))?;
    rustix::fs::rename(&temporary, path).map_err(|e| DiskError::io("rename", &temporary, e))?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Makes the directory's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|e| DiskError::io("sync directory", dir, e))
}

/// What [`publish`] leaves behind when it is interrupted; worth nothing.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
