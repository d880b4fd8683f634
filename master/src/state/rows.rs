//! The pure state machine's view of its rows: an ordered byte map, and a batch of changes laid over it.
//!
//! This is the one boundary between deciding and storing. The state machine reads and writes through [`Batch`];
//! whoever drives it (RocksDB in a master, a `BTreeMap` in tests and models) supplies [`Rows`] and stores the
//! changes atomically, together with the applied log id.
//!
//! Invariants: a batch reads its own writes; iteration order is byte order; an error of the store below is never
//! turned into an outcome, because two masters could then differ: the caller must stop the process.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A failure of the store below the state machine. It is final: the process that sees it must stop.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The store could not be read.
    #[error("cannot read state rows: {0}")]
    Read(String),
    /// A row does not decode: the directory is damaged or was written by a newer version.
    #[error("state row {key} does not decode: {why}")]
    Corrupt {
        /// The row's key in hexadecimal.
        key: String,
        /// What the decoder said.
        why: String,
    },
    /// The row is not in memory, and nobody wants to wait for the disk here.
    #[error("the row is not in memory")]
    Away,
    /// The rows are of a newer release.
    #[error("the cluster is at feature level {level}, this program knows {known}: install the newer release")]
    Newer {
        /// The cluster's level.
        level: u32,
        /// The highest this program knows.
        known: u32,
    },
}

/// One row: key and value bytes.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered byte map that can be read.
pub trait Rows {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`RowsError::Read`] if the store fails.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError>;

    /// At most `limit` rows with `from <= key < to`, in key order.
    ///
    /// # Errors
    /// [`RowsError::Read`] if the store fails.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError>;
}

/// Rows in memory, for models and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRows(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl Rows for MemoryRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        Ok(self
            .0
            .range::<[u8], _>(range)
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

impl MemoryRows {
    /// Stores a batch's changes.
    pub fn store(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

/// What a batch changes: `None` removes the row.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes laid over rows; reads see them.
pub struct Batch<'a> {
    base: &'a dyn Rows,
    changes: Changes,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Batch<'a> {
    /// An empty batch over `base`.
    pub fn new(base: &'a dyn Rows) -> Self {
        Self {
            base,
            changes: Changes::new(),
        }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    /// Removes the row under `key`, if there is one.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Lays another batch's changes over this one's.
    pub fn absorb(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    /// What lies under the changes.
    pub fn base(&self) -> &'a dyn Rows {
        self.base
    }

    /// The changes so far.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Ends the batch.
    #[must_use]
    pub fn into_changes(self) -> Changes {
        self.changes
    }
}

impl Rows for Batch<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut over = self.changes.range::<[u8], _>(range).peekable();
        if over.peek().is_none() {
            return self.base.scan(from, to, limit);
        }
        let hidden = self
            .changes
            .range::<[u8], _>(range)
            .filter(|(_, value)| value.is_none())
            .count();
        // Removed rows may hide as many base rows, so that many more are read to still fill the limit.
        let below = self.base.scan(from, to, limit.saturating_add(hidden))?;
        let mut below = below.into_iter().peekable();
        let mut rows = Vec::new();
        while rows.len() < limit {
            let take_over = match (over.peek(), below.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((over_key, _)), Some((below_key, _))) => {
                    if **over_key == *below_key {
                        below.next();
                        true
                    } else {
                        **over_key < *below_key
                    }
                }
            };
            if take_over {
                if let Some((key, Some(value))) = over.next() {
                    rows.push((key.clone(), value.clone()));
                }
            } else if let Some(row) = below.next() {
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A batch over rows reads as the rows would after the batch is stored.
        #[test]
        fn batch_reads_like_stored(
            base in proptest::collection::btree_map(0u8..20, any::<u8>(), 0..15),
            changes in proptest::collection::btree_map(0u8..20, proptest::option::of(any::<u8>()), 0..15),
            from in 0u8..20, to in 0u8..22, limit in 0usize..12,
        ) {
            let rows = MemoryRows(base.into_iter().map(|(k, v)| (vec![k], vec![v])).collect());
            let mut batch = Batch::new(&rows);
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(vec![key], vec![value]),
                    None => batch.delete(vec![key]),
                }
            }
            let scanned = batch.scan(&[from], &[to], limit).unwrap();
            let gets: Vec<_> = (0..20).map(|k| batch.get(&[k]).unwrap()).collect();
            let mut stored = rows.clone();
            stored.store(batch.into_changes());
            prop_assert_eq!(scanned, stored.scan(&[from], &[to], limit).unwrap());
            for k in 0..20u8 {
                prop_assert_eq!(&gets[usize::from(k)], &stored.get(&[k]).unwrap());
            }
        }
    }
}
