//! The one way files and directories of a master become durable: written under a temporary name, synced, renamed,
//! and the directory synced.
//!
//! Invariant: after a crash a published name holds everything or does not exist.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::StoreError;

/// Makes the directory and its missing parents, durably.
pub(crate) fn create_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(StoreError::file("create the directory", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    sync_parent(path)
}

/// Syncs a directory: what was created, renamed or removed in it stays so.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(StoreError::file("sync the directory", path))
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        Some(_) | None => sync_dir(Path::new(".")),
    }
}

/// Syncs a file's bytes and length.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(StoreError::file("sync", path))
}

/// Renames what is complete and synced to its final name.
pub(crate) fn publish(temporary: &Path, name: &Path) -> Result<(), StoreError> {
    fs::rename(temporary, name).map_err(StoreError::file("rename to", name))?;
    sync_parent(name)
}

/// Writes a small file so that after a crash either the old bytes or the new are there.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary_name(path);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StoreError::file("write", &temporary))?;
    publish(&temporary, path)
}

/// The bytes of a small file, if it exists.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("read", path)(error)),
    }
}

/// The name under which `path` is prepared; [`remove_leftovers`] finds it after a crash.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Removes a directory tree, if it exists.
pub(crate) fn remove_dir(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Names in a directory, sorted. Names that are not UTF-8 are not ours and are skipped.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    read().map_err(StoreError::file("list", path))
}

/// Removes what a crash left half-made in a directory.
pub(crate) fn remove_leftovers(path: &Path) -> Result<(), StoreError> {
    for name in list(path)?.iter().filter(|name| name.ends_with(".tmp")) {
        let leftover = path.join(name);
        if leftover.is_dir() {
            remove_dir(&leftover)?;
        } else {
            fs::remove_file(&leftover).map_err(StoreError::file("remove", &leftover))?;
        }
    }
    Ok(())
}

/// Copies a RocksDB directory: table files, which RocksDB never changes, by hard link, the rest by bytes.
pub(crate) fn clone_database(source: &Path, target: &Path) -> Result<(), StoreError> {
    create_dir(target)?;
    for name in database_files(source)? {
        let (from, to) = (source.join(&name), target.join(&name));
        if name.ends_with(".sst") || name.ends_with(".blob") {
            fs::hard_link(&from, &to).map_err(StoreError::file("link", &to))?;
        } else {
            fs::copy(&from, &to).map_err(StoreError::file("copy to", &to))?;
            sync_file(&to)?;
        }
    }
    sync_dir(target)
}

/// The files that make up a RocksDB directory at rest, without its text logs and lock.
pub(crate) fn database_files(path: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = list(path)?;
    names.retain(|name| !(name.starts_with("LOG") || name == "LOCK" || name.ends_with(".tmp")));
    Ok(names)
}
