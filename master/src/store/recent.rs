//! The rows read or written last, in memory, over the rows of a database.
//!
//! Applying a command reads the same few rows again and again: the session's, its slots of stored answers, the
//! directories above a name, the upload that an earlier command made. Asking RocksDB for them was half of what
//! applying cost. What is not there is remembered, too: most names and slots that are looked for are new.
//!
//! Invariant: what is remembered of a row is what the database holds. It holds because there is one writer, which
//! tells here what it has stored before anything is read again.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::state::rows::{Changes, RowsError};

/// Bytes of keys and values in a generation, [`OVERHEAD`] for each row included: thousands of commands back.
const GENERATION_BYTES: usize = 2 << 20;
/// Bytes a row takes besides its key and value, about.
const OVERHEAD: usize = 96;

type Value = Option<Vec<u8>>;

/// Rows as they are now; `None` where there is none.
#[derive(Default)]
pub(super) struct Recent(Mutex<Generations>);

/// Rows used since the last change of generations, and those of the one before. A row's place costs nothing but its
/// hash: a cache that keeps its rows in order of use cost three times as much, a tenth of what applying takes.
#[derive(Default)]
struct Generations {
    young: HashMap<Vec<u8>, Value, RandomState>,
    old: HashMap<Vec<u8>, Value, RandomState>,
    young_bytes: usize,
}

impl Generations {
    fn get(&mut self, key: &[u8]) -> Option<Value> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// Also forgets what was known of the row.
    fn insert(&mut self, key: Vec<u8>, value: Value) {
        let bytes = OVERHEAD + key.len() + value.as_ref().map_or(0, Vec::len);
        if self.young_bytes + bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        // An older value below is hidden, and goes with its generation.
        self.young_bytes += bytes;
        self.young.insert(key, value);
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.0.lock();
        f.debug_tuple("Recent")
            .field(&(rows.young.len() + rows.old.len()))
            .finish()
    }
}

impl Recent {
    /// The row under `key`, read with `read` if it is not remembered. The lock is held meanwhile, so that a value
    /// read before a write is never remembered after it.
    pub(super) fn get(&self, key: &[u8], read: impl FnOnce() -> Result<Value, RowsError>) -> Result<Value, RowsError> {
        let mut rows = self.0.lock();
        if let Some(value) = rows.get(key) {
            return Ok(value);
        }
        let value = read()?;
        rows.insert(key.to_owned(), value.clone());
        Ok(value)
    }

    /// Runs `write`, and takes the changes that it has stored.
    pub(super) fn store<E>(
        &self,
        changes: &mut Changes,
        write: impl FnOnce(&Changes) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rows = self.0.lock();
        write(changes)?;
        for (key, value) in std::mem::take(changes) {
            rows.insert(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::rows::{MemoryRows, Rows};

    proptest! {
        /// Whatever is read, written and forgotten in between, a row reads as it is stored.
        #[test]
        fn rows_read_as_they_are_stored(
            steps in proptest::collection::vec((0u8..40, proptest::option::of(0usize..600_000), any::<bool>()), 1..200),
        ) {
            let (recent, mut stored) = (Recent::default(), MemoryRows::default());
            for (key, value, write) in steps {
                let key = vec![key];
                if write {
                    // Values so long that most of them do not fit together.
                    let value = value.map(|bytes| vec![key[0]; bytes]);
                    let mut changes: Changes = [(key.clone(), value)].into();
                    recent.store(&mut changes, |changes| {
                        stored.store(changes.clone());
                        Ok::<_, ()>(())
                    }).unwrap();
                    prop_assert!(changes.is_empty());
                }
                let read = recent.get(&key, || stored.get(&key)).unwrap();
                prop_assert_eq!(read, stored.get(&key).unwrap());
            }
            let rows = recent.0.lock();
            let held: usize = rows.young.values().chain(rows.old.values()).flatten().map(Vec::len).sum();
            prop_assert!(held <= 2 * GENERATION_BYTES);
        }
    }

    /// Also a row that fills a generation by itself.
    #[test]
    fn a_large_row_replaces_a_small_one() {
        let recent = Recent::default();
        for bytes in [1, GENERATION_BYTES + 1, 2] {
            let value = Some(vec![7; bytes]);
            let mut changes: Changes = [(vec![1], value.clone())].into();
            recent.store(&mut changes, |_| Ok::<_, ()>(())).unwrap();
            let read = recent.get(&[1], || Ok(value.clone())).unwrap();
            assert_eq!(read.map(|value| value.len()), Some(bytes));
        }
    }

    #[test]
    fn what_was_not_stored_is_not_remembered() {
        let recent = Recent::default();
        let mut changes: Changes = [(vec![1], Some(vec![2]))].into();
        assert_eq!(recent.store(&mut changes, |_| Err("full")), Err("full"));
        assert_eq!(changes.len(), 1, "kept for another try");
        assert_eq!(recent.get(&[1], || Ok(None)).unwrap(), None);
        assert!(recent.get(&[3], || Err(RowsError::Away)).is_err());
        assert_eq!(
            recent.get(&[3], || Ok(Some(vec![4]))).unwrap(),
            Some(vec![4]),
            "a failure is no answer"
        );
    }
}
