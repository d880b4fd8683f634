//! Known bytes: a file's content follows from a seed and its length, so that the ledger needs no copy of it.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

/// Bytes made at a time.
const PIECE: usize = 1 << 20;

/// Endless bytes of one seed.
#[derive(Debug, Clone)]
pub struct Content {
    state: u64,
}

impl Content {
    /// The bytes of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring states.
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
        Self { state: state | 1 }
    }

    fn next_word(&mut self) -> u64 {
        // xorshift64: fast, and no two blocks of a file are alike, which is all that is needed here.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Fills `bytes`. Pieces must be multiples of 8 bytes except for the last.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let next = self.next_word().to_le_bytes();
            word.copy_from_slice(&next[..word.len()]);
        }
    }
}

/// `len` bytes of `seed`.
#[must_use]
pub fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("it fits memory")];
    Content::new(seed).fill(&mut bytes);
    bytes
}

/// Writes `len` bytes of `seed`; gives their CRC.
///
/// # Panics
/// If `out` refuses them.
pub fn pour(seed: u64, len: u64, out: &mut impl Write) -> u32 {
    let mut content = Content::new(seed);
    let mut hash = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut left = len;
    while left > 0 {
        let part = left.min(PIECE as u64) as usize;
        content.fill(&mut piece[..part]);
        hash.update(&piece[..part]);
        out.write_all(&piece[..part]).expect("the bytes can be written");
        left -= part as u64;
    }
    hash.finalize()
}

/// Makes a file of `len` bytes of `seed`; gives their CRC.
///
/// # Panics
/// If the file cannot be written.
pub fn file(path: &Path, seed: u64, len: u64) -> u32 {
    pour(seed, len, &mut File::create(path).expect("the file can be made"))
}

/// Length and CRC of a file.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn measure(path: &Path) -> (u64, u32) {
    measure_reader(File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Length and CRC of all that `reader` gives.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn measure_reader(reader: impl Read) -> (u64, u32) {
    let mut reader = BufReader::with_capacity(PIECE, reader);
    let mut hash = crc32fast::Hasher::new();
    let mut len = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let read = reader.read(&mut piece).expect("the bytes can be read");
        if read == 0 {
            return (len, hash.finalize());
        }
        hash.update(&piece[..read]);
        len += read as u64;
    }
}

/// Whether two files hold the same bytes, compared byte by byte.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn same(left: &Path, right: &Path) -> bool {
    let open = |path: &Path| BufReader::with_capacity(PIECE, File::open(path).expect("the file opens"));
    let (mut left, mut right) = (open(left), open(right));
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let read = left.read(&mut a).expect("the file can be read");
        if read == 0 {
            return right.read(&mut b).expect("the file can be read") == 0;
        }
        if right.read_exact(&mut b[..read]).is_err() || a[..read] != b[..read] {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let mut poured = Vec::new();
        let crc = pour(7, 3 * PIECE as u64 + 5, &mut poured);
        assert_eq!(poured, bytes(7, 3 * PIECE as u64 + 5));
        assert_eq!(measure_reader(&poured[..]), (poured.len() as u64, crc));
        assert_ne!(bytes(7, 64), bytes(8, 64));
    }

    #[test]
    fn a_short_or_changed_copy_is_not_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        file(&a, 1, 100_000);
        file(&b, 1, 100_000);
        assert!(same(&a, &b));
        file(&b, 1, 99_999);
        assert!(!same(&a, &b) && !same(&b, &a));
        file(&b, 2, 100_000);
        assert!(!same(&a, &b));
    }
}
