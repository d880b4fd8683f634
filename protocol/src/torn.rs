//! The write-ahead log that a power cut leaves behind.
//!
//! Our synced logs are RocksDB's, opened so strictly that damage in the middle is an error: what follows it was
//! acknowledged. A power cut, though, may leave a file whose length was extended while its last bytes, written but
//! never synced, read as zeros; RocksDB calls a record that ends in zeros damaged too. Cutting the zeros off turns it into
//! what it is, a record cut short at the end, which was never acknowledged.
//!
//! Invariant: only zeros at the very end of the newest log file are cut; anything else that is wrong stays wrong.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The log file.
    pub file: PathBuf,
    /// Zeros cut off its end.
    pub bytes: u64,
}

/// Cuts the zeros off the end of the newest log file of the RocksDB directory `dir`, durably; `None` if there are none.
///
/// # Errors
/// If the file cannot be read or cut.
pub fn cut_zeros(dir: &Path) -> io::Result<Option<Cut>> {
    let Some(path) = newest_log(dir)? else {
        return Ok(None);
    };
    let file = File::options().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    let kept = length_without_zeros(&file, length)?;
    if kept == length {
        return Ok(None);
    }
    file.set_len(kept)?;
    file.sync_all()?;
    Ok(Some(Cut {
        file: path,
        bytes: length - kept,
    }))
}

/// RocksDB numbers its log files `NNNNNN.log`; the highest is the newest.
fn newest_log(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| is_log)
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

fn length_without_zeros(file: &File, length: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = length;
    while end > 0 {
        let len = block.len().min(usize::try_from(end).unwrap_or(usize::MAX));
        let start = end - len as u64;
        file.read_exact_at(&mut block[..len], start)?;
        if let Some(last) = block[..len].iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own temporary files")]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_at_the_end_of_the_newest_log_go() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(cut_zeros(dir.path()).unwrap(), None);
        write("000009.log", b"old\0\0");
        write("000010.sst", b"\0\0");
        let mut torn = b"a\0b".to_vec();
        torn.resize(200_000, 0);
        write("000011.log", &torn);
        let cut = cut_zeros(dir.path()).unwrap().unwrap();
        assert_eq!(cut.bytes, 200_000 - 3);
        assert_eq!(read("000011.log"), b"a\0b");
        assert_eq!(read("000009.log"), b"old\0\0");
        assert_eq!(cut_zeros(dir.path()).unwrap(), None);
    }
}
