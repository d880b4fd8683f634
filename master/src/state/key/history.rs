//! Old values that a snapshot still sees, and the rule that says which those are.
//!
//! Rows are made by `state::preserve`, read by `state::past`, and removed by `state::snapshots`.

use serde::{Deserialize, Serialize};

use super::meta::Pin;
use super::{Fields, Key, Kind, Moment, Value};

/// Key of a [`Past`]: all past values of a row lie together, the earliest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryKey {
    /// The live row's key, with its kind.
    pub key: Vec<u8>,
    /// When the value stopped to stand.
    pub until: Moment,
}

impl Key for HistoryKey {
    const KIND: Kind = Kind::History;
    type Value = Past;

    /// A zero byte ends the live key: names hold none and other keys of a kind have one length, so that byte order
    /// is still the live rows' order.
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.key);
        out.push(0);
        out.extend(self.until.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (rest, until) = fields.rest().split_last_chunk::<8>()?;
        let (end, key) = rest.split_last()?;
        let until = Moment(u64::from_be_bytes(*until));
        (*end == 0).then(|| Self {
            key: key.to_vec(),
            until,
        })
    }
}

/// A value that stood from `since` until its key's `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When it began to stand.
    pub since: Moment,
    /// The value as it was stored.
    pub value: Vec<u8>,
}

impl Value for Past {}

/// Whether a value that stands since `since` must be kept when it is changed: one of these snapshots is not older than
/// it, and reaches it. `reaches` walks the parents as of a snapshot; it is asked last because it reads rows.
pub fn must_keep<'a, E>(
    since: Moment,
    snapshots: impl Iterator<Item = &'a Pin>,
    mut reaches: impl FnMut(&Pin) -> Result<bool, E>,
) -> Result<bool, E> {
    for snapshot in snapshots {
        if since <= snapshot.moment && reaches(snapshot)? {
            return Ok(true);
        }
    }
    Ok(false)
}
