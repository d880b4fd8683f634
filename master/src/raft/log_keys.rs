//! The key space of the Raft log's database **[format]**: one byte of kind, then the index big-endian.

pub(crate) const VOTE: [u8; 1] = [0x01];
pub(crate) const COMMITTED: [u8; 1] = [0x02];
pub(crate) const PURGED: [u8; 1] = [0x03];
const ENTRY: u8 = 0x10;

/// The key of the entry at `index`.
pub(crate) fn entry(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// A key after every entry.
pub(crate) fn entry_end() -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = ENTRY + 1;
    key
}

/// The index of an entry's key.
pub(crate) fn entry_index(key: &[u8]) -> Option<u64> {
    let (kind, index) = key.split_first()?;
    (*kind == ENTRY).then_some(u64::from_be_bytes(index.try_into().ok()?))
}
