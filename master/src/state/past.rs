//! Values as of a moment, and the directories a snapshot reaches.
//!
//! A value stands from its `since` until it is changed; what some snapshot still sees then lies in history. So the
//! value as of a moment is the live one if it is old enough, else the one of history whose time holds the moment, and
//! there is at most one. Where nothing says that a moment is meant, only live rows are read.

use std::collections::{BTreeMap, VecDeque};

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{DEPTH_MAX, LIST_PAGE_MAX};

use super::key::history::HistoryKey;
use super::key::inode::{InodeKey, Parent};
use super::key::meta::Pin;
use super::key::{self, Key, Kind, Moment, Value, Versioned};
use super::rows::{Row, Rows, RowsError};

/// The value under `key`, as of a moment.
pub(super) fn get<K>(rows: &dyn Rows, key: &K, at: Option<Moment>) -> Result<Option<K::Value>, RowsError>
where
    K: Key,
    K::Value: Versioned,
{
    let live = key::get(rows, key)?;
    let Some(at) = at else {
        return Ok(live);
    };
    if let Some(live) = live
        && live.since() <= at
    {
        return Ok(Some(live));
    }
    let from = HistoryKey {
        key: key.encode(),
        until: Moment(at.0.saturating_add(1)),
    };
    let end = HistoryKey {
        until: Moment(u64::MAX),
        ..from.clone()
    };
    let found = key::scan::<HistoryKey>(rows, &from.encode(), &end.encode(), 1)?;
    match found.into_iter().next() {
        Some((row, past)) if past.since <= at => decode::<K>(&row.key, &past.value).map(Some),
        _ => Ok(None),
    }
}

/// As [`get`], for a value that other rows say is there.
pub(super) fn require<K>(rows: &dyn Rows, key: &K, at: Option<Moment>) -> Result<K::Value, RowsError>
where
    K: Key,
    K::Value: Versioned,
{
    get(rows, key, at)?.ok_or_else(|| key::corrupt(&key.encode(), "it is missing"))
}

fn decode<K: Key>(key: &[u8], value: &[u8]) -> Result<K::Value, RowsError> {
    K::Value::decode(value).map_err(|why| key::corrupt(key, why))
}

/// At most `limit` rows with `from <= key < to`, as of a moment. `to` is the end of a prefix, or a key of fixed length.
pub(super) fn scan<K>(
    rows: &dyn Rows,
    from: &[u8],
    to: &[u8],
    limit: usize,
    at: Option<Moment>,
) -> Result<Vec<(K, K::Value)>, RowsError>
where
    K: Key,
    K::Value: Versioned,
{
    let Some(at) = at else {
        return key::scan(rows, from, to, limit);
    };
    let in_history = |key: &[u8]| [&[Kind::History as u8], key].concat();
    let mut live = Pages::new(rows, from.to_vec(), to.to_vec(), limit);
    let mut past = Pages::new(rows, in_history(from), in_history(to), limit);
    let (mut next_live, mut next_past) = (live.live::<K>(at)?, past.past::<K>(from, at)?);
    let mut found = Vec::new();
    while found.len() < limit {
        let is_live = match (&next_live, &next_past) {
            (Some((live, _)), Some((past, _))) => live < past,
            (live, past) => match (live, past) {
                (Some(_), _) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            },
        };
        let next = match is_live {
            true => std::mem::replace(&mut next_live, live.live::<K>(at)?),
            false => std::mem::replace(&mut next_past, past.past::<K>(from, at)?),
        };
        if let Some((key, value)) = next {
            found.push((key::decode(&key)?, value));
        }
    }
    Ok(found)
}

/// A row's key and its value.
type Found<V> = (Vec<u8>, V);

/// Rows of a range, read a page at a time.
struct Pages<'a> {
    rows: &'a dyn Rows,
    from: Vec<u8>,
    to: Vec<u8>,
    limit: usize,
    page: VecDeque<Row>,
    is_last: bool,
}

impl<'a> Pages<'a> {
    fn new(rows: &'a dyn Rows, from: Vec<u8>, to: Vec<u8>, limit: usize) -> Self {
        Self {
            rows,
            from,
            to,
            limit: limit.clamp(1, LIST_PAGE_MAX),
            page: VecDeque::new(),
            is_last: false,
        }
    }

    fn next(&mut self) -> Result<Option<Row>, RowsError> {
        if self.page.is_empty() && !self.is_last {
            self.page = self.rows.scan(&self.from, &self.to, self.limit)?.into();
            self.is_last = self.page.len() < self.limit;
            if let Some((last, _)) = self.page.back() {
                self.from = last.clone();
                self.from.push(0);
            }
        }
        Ok(self.page.pop_front())
    }

    /// The next live row that stood at the moment.
    fn live<K>(&mut self, at: Moment) -> Result<Option<Found<K::Value>>, RowsError>
    where
        K: Key,
        K::Value: Versioned,
    {
        while let Some((key, value)) = self.next()? {
            let value = decode::<K>(&key, &value)?;
            if value.since() <= at {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }

    /// The next past value that stood at the moment.
    fn past<K>(&mut self, from: &[u8], at: Moment) -> Result<Option<Found<K::Value>>, RowsError>
    where
        K: Key,
        K::Value: Versioned,
    {
        while let Some((key, value)) = self.next()? {
            let row: HistoryKey = key::decode(&key)?;
            let past = decode::<HistoryKey>(&key, &value)?;
            // A row's history comes after the row's own key: the key a scan begins after has its history behind it.
            if row.key.as_slice() >= from && past.since <= at && at < row.until {
                let value = decode::<K>(&row.key, &past.value)?;
                return Ok(Some((row.key, value)));
            }
        }
        Ok(None)
    }
}

/// Which inodes hung under which snapshot's directory, remembered while one command asks.
pub(super) struct Reach<'a> {
    rows: &'a dyn Rows,
    known: BTreeMap<(Moment, Ino), bool>,
    ways: BTreeMap<Ino, Way>,
}

/// An inode's way up as it is now: itself and what is above, and since when all of it stands.
struct Way {
    since: Moment,
    up: Vec<Ino>,
}

impl<'a> Reach<'a> {
    /// Over rows that no change has been made to since the moment they are of.
    pub(super) fn new(rows: &'a dyn Rows) -> Self {
        Self {
            rows,
            known: BTreeMap::new(),
            ways: BTreeMap::new(),
        }
    }

    /// Whether an inode hung under the snapshot's directory, or was it.
    ///
    /// Most inodes hang where they hung at the moment of every snapshot: one walk answers for all of these.
    pub(super) fn holds(&mut self, pin: &Pin, ino: Ino) -> Result<bool, RowsError> {
        if !self.ways.contains_key(&ino) {
            let way = self.way(ino)?;
            self.ways.insert(ino, way);
        }
        match self.ways.get(&ino) {
            Some(way) if way.since <= pin.moment => Ok(way.up.contains(&pin.root)),
            _ => self.held(pin, ino),
        }
    }

    fn way(&self, ino: Ino) -> Result<Way, RowsError> {
        let (mut at, mut up, mut since) = (ino, Vec::new(), Moment(0));
        while at != Parent::NOWHERE && up.len() <= DEPTH_MAX + 1 {
            up.push(at);
            let Some(inode) = key::get(self.rows, &InodeKey(at))? else {
                // It is gone, and who asks means a time before.
                since = Moment(u64::MAX);
                break;
            };
            since = since.max(inode.parent.since);
            if at == Ino::ROOT {
                break;
            }
            at = inode.parent.ino;
        }
        Ok(Way { since, up })
    }

    /// The same by a walk up as of the snapshot's moment.
    fn held(&mut self, pin: &Pin, ino: Ino) -> Result<bool, RowsError> {
        let (mut at, mut way) = (ino, Vec::new());
        let held = loop {
            if at == pin.root {
                break true;
            }
            if let Some(known) = self.known.get(&(pin.moment, at)) {
                break *known;
            }
            way.push(at);
            if at == Ino::ROOT || way.len() > DEPTH_MAX + 1 {
                break false;
            }
            match get(self.rows, &InodeKey(at), Some(pin.moment))? {
                Some(inode) if inode.parent.ino != Parent::NOWHERE => at = inode.parent.ino,
                _ => break false,
            }
        };
        for ino in way {
            self.known.insert((pin.moment, ino), held);
        }
        Ok(held)
    }
}
