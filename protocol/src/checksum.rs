//! CRC-32 (IEEE 802.3, as in zlib): one per 64 KiB block, combined to the CRC of a chunk and of a file.
//!
//! Combining uses the algebra of CRCs (as zlib's `crc32_combine`): the CRC of a whole follows from the CRCs and
//! lengths of its parts, without the bytes. So the masters can hold a file's CRC though no one process read the file.

use crate::limits::BLOCK_BYTES;

/// The CRC of `bytes`.
#[must_use]
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The CRCs of `bytes`, one per block; the last block may be short.
#[must_use]
pub fn block_crcs(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(BLOCK_BYTES).map(crc).collect()
}

/// Whether `bytes` have exactly these block CRCs.
#[must_use]
pub fn blocks_match(bytes: &[u8], crcs: &[u32]) -> bool {
    first_bad_block(bytes, crcs).is_none()
}

/// The index of the first block whose CRC differs, or the count of blocks if their number differs.
#[must_use]
pub fn first_bad_block(bytes: &[u8], crcs: &[u32]) -> Option<usize> {
    if bytes.len().div_ceil(BLOCK_BYTES) != crcs.len() {
        return Some(bytes.len().div_ceil(BLOCK_BYTES).min(crcs.len()));
    }
    bytes
        .chunks(BLOCK_BYTES)
        .zip(crcs)
        .position(|(block, expected)| crc(block) != *expected)
}

/// A CRC and the length it covers; appending parts gives the whole's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    crc: u32,
    len: u64,
}

impl Running {
    /// Appends a part of `len` bytes with CRC `crc`.
    pub fn append(&mut self, crc: u32, len: u64) {
        let mut whole = crc32fast::Hasher::new_with_initial_len(self.crc, self.len);
        whole.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
        self.crc = whole.finalize();
        self.len += len;
    }

    /// Appends `len` bytes given as block CRCs, the last block short if `len` is no multiple of the block size.
    pub fn append_blocks(&mut self, crcs: &[u32], len: u64) {
        let mut left = len;
        for crc in crcs {
            let part = left.min(BLOCK_BYTES as u64);
            self.append(*crc, part);
            left -= part;
        }
        debug_assert_eq!(left, 0, "block CRCs do not cover the length");
    }

    /// The CRC of everything appended.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Bytes appended.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a length in bytes, not a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

/// The CRC of `len` zero bytes, in a number of steps that grows with the logarithm of `len`.
#[must_use]
pub fn zeros(len: u64) -> u32 {
    let mut whole = Running::default();
    // CRCs of runs of 1, 2, 4, … zeros.
    let mut run = Running::default();
    run.append(crc(&[0]), 1);
    let mut left = len;
    while left > 0 {
        if left & 1 == 1 {
            whole.append(run.crc, run.len);
        }
        left >>= 1;
        if left > 0 {
            run.append(run.crc, run.len);
        }
    }
    whole.crc
}

/// The CRC of `len` bytes that have these block CRCs.
#[must_use]
pub fn combine_blocks(crcs: &[u32], len: u64) -> u32 {
    let mut whole = Running::default();
    whole.append_blocks(crcs, len);
    whole.crc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_crc() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn combined_is_whole(len in 0usize..300_000, cut in 0usize..300_000, seed: u8) {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            prop_assert_eq!(combine_blocks(&block_crcs(&bytes), len as u64), crc(&bytes));
            let (a, b) = bytes.split_at(cut.min(len));
            let mut running = Running::default();
            running.append(crc(a), a.len() as u64);
            running.append(crc(b), b.len() as u64);
            prop_assert_eq!((running.crc(), running.len()), (crc(&bytes), len as u64));
        }
    }

    #[test]
    fn zeros_have_the_crc_of_zeros() {
        for len in [0, 1, 2, 3, 1000, 65_536, 1_048_577] {
            assert_eq!(zeros(len), crc(&vec![0; len as usize]), "{len} zeros");
        }
        let (mut twice, half) = (Running::default(), 1 << 40);
        twice.append(zeros(half), half);
        twice.append(zeros(half), half);
        assert_eq!(zeros(2 * half), twice.crc());
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut bytes = vec![7; 3 * BLOCK_BYTES + 5];
        let crcs = block_crcs(&bytes);
        assert!(blocks_match(&bytes, &crcs));
        bytes[2 * BLOCK_BYTES] ^= 1;
        assert_eq!(first_bad_block(&bytes, &crcs), Some(2));
        assert_eq!(first_bad_block(&bytes[..BLOCK_BYTES], &crcs), Some(1));
    }
}
