//! Damage to the files of a stopped or running chunkserver.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Flips one bit of a file's byte at `offset`.
///
/// # Panics
/// If the file cannot be changed.
pub fn flip_bit(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the byte can be read");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("the byte can be written");
    file.sync_all().expect("the change reaches the disk");
}

/// Files below `dir` for which `wanted` says yes, the largest first.
///
/// # Panics
/// If the directory cannot be read.
#[must_use]
pub fn files(dir: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<_> = WalkDir::new(dir)
        .into_iter()
        // A running server removes files while we look.
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file() && wanted(entry.path()))
        .filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?.len())))
        .collect();
    found.sort_by_key(|(path, len)| (std::cmp::Reverse(*len), path.clone()));
    found
}

/// Files of chunks (`data/xx/ID`) in a chunkserver's directory.
#[must_use]
pub fn chunk_files(dir: &Path) -> Vec<(PathBuf, u64)> {
    files(dir, |path| path.components().any(|part| part.as_os_str() == "data"))
}

/// Files of a chunkserver's index with this ending.
#[must_use]
pub fn index_files(dir: &Path, ending: &str) -> Vec<(PathBuf, u64)> {
    let ends = |path: &Path| path.extension().is_some_and(|extension| extension == ending);
    files(dir, |path| {
        ends(path) && path.components().any(|part| part.as_os_str() == "index")
    })
}

/// Bytes of all files below `dir`.
#[must_use]
pub fn bytes_below(dir: &Path) -> u64 {
    files(dir, |_| true).iter().map(|(_, len)| len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_one_bit_and_flips_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        crate::content::file(&path, 1, 1000);
        let before = std::fs::read(&path).unwrap();
        flip_bit(&path, 500);
        let after = std::fs::read(&path).unwrap();
        let bits: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((bits, after.len()), (1, before.len()));
        flip_bit(&path, 500);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
