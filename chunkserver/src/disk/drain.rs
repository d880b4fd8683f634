//! `draining`: a file beside `disk.id` that says that an operator wants the disk empty **[format]**. It is there or it is not;
//! its words are for the person who finds it. It is on the disk, so that the disk takes nothing new after a restart
//! either, whichever master leads then.

use std::path::Path;

use super::durable::{publish, sync_dir, temporary_name};
use super::error::DiskError;

/// The file's name in the disk's directory.
const FILE_NAME: &str = "draining";

const WORDS: &str = "This disk is being emptied by an operator's word: it serves what it has and takes nothing new.\n\
                     To have it serve again: gabion admin disk drain SERVER DISK --cancel --apply\n";

/// What an operator said last.
pub(super) struct Drain;

impl Drain {
    /// Whether the disk in this directory is being drained.
    pub(super) fn load(dir: &Path) -> Result<bool, DiskError> {
        let leftover = temporary_name(&dir.join(FILE_NAME));
        if leftover.exists() {
            std::fs::remove_file(&leftover).map_err(|e| DiskError::io("remove", &leftover, e))?;
        }
        let path = dir.join(FILE_NAME);
        path.try_exists().map_err(|e| DiskError::io("look for", &path, e))
    }

    /// Makes it so, durably.
    pub(super) fn store(dir: &Path, drain: bool) -> Result<(), DiskError> {
        let path = dir.join(FILE_NAME);
        if drain {
            return publish(&path, WORDS.as_bytes());
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::io("remove", &path, error)),
            _ => sync_dir(dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_stays_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Drain::load(dir.path()).unwrap());
        for _ in 0..2 {
            Drain::store(dir.path(), true).unwrap();
            assert!(Drain::load(dir.path()).unwrap());
        }
        std::fs::write(dir.path().join("draining.tmp"), "half").unwrap();
        for _ in 0..2 {
            Drain::store(dir.path(), false).unwrap();
            assert!(!Drain::load(dir.path()).unwrap());
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }
}
