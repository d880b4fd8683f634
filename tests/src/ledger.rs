//! The account of what was done to the cluster, kept outside it, and the judge who compares it with what is there.
//!
//! An operation ends as *ok* (it was acknowledged: it must be seen), *failed* (refused: it must not be seen) or
//! *unknown* (no answer: either is right). Each path has one owner who works on it in order, so the states a path may
//! be in follow from its records alone.
//!
//! The judge is proved by lies planted in its own unit tests: a checker that has never failed has checked nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::Mutex;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// A file of this length whose bytes, as downloaded, have this CRC.
    File {
        /// Bytes.
        len: u64,
        /// CRC-32.
        crc: u32,
    },
    /// A directory.
    Directory,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A new file with this content, or one that replaces the old.
    Put(Found),
    /// The path shall go away.
    Remove,
    /// What is at the path shall be at the other.
    Rename(String),
}

/// How it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Acknowledged.
    Ok,
    /// Refused.
    Failed(String),
    /// Not answered: it may have happened.
    Unknown(String),
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where.
    pub path: String,
    /// What.
    pub deed: Deed,
    /// How it ended.
    pub answer: Answer,
}

/// All operations in the order in which they ended.
#[derive(Debug, Default)]
pub struct Ledger {
    records: Mutex<Vec<Record>>,
}

impl Ledger {
    /// Notes an operation that has ended.
    pub fn note(&self, path: &str, deed: Deed, answer: Answer) {
        self.records.lock().push(Record {
            path: path.to_owned(),
            deed,
            answer,
        });
    }

    /// What was noted so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }

    /// Compares with what is there.
    #[must_use]
    pub fn judge(&self, actual: &BTreeMap<String, Found>) -> Vec<Violation> {
        judge(&self.records(), actual)
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, but not there.
    Missing(String),
    /// There, but with bytes nobody wrote there last.
    WrongBytes {
        /// Where.
        path: String,
        /// What it is.
        found: Found,
        /// What it may be.
        allowed: Vec<Found>,
    },
    /// Removed, renamed away or refused, but there.
    Resurrected(String),
    /// Nobody ever wrote there.
    Phantom(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{path}: acknowledged, but it is gone"),
            Self::WrongBytes { path, found, allowed } => write!(f, "{path}: is {found:?}, may be {allowed:?}"),
            Self::Resurrected(path) => write!(f, "{path}: removed or refused, but it is there"),
            Self::Phantom(path) => write!(f, "{path}: is there, but nobody wrote it"),
        }
    }
}

type States = BTreeSet<Option<Found>>;

/// The states each path of the records may be in.
fn allowed_states(records: &[Record]) -> BTreeMap<String, States> {
    let absent = || States::from([None]);
    let mut paths: BTreeMap<String, States> = BTreeMap::new();
    for record in records {
        let before = paths.get(&record.path).cloned().unwrap_or_else(absent);
        let mut effects = match &record.deed {
            Deed::Put(content) => vec![(record.path.clone(), States::from([Some(*content)]))],
            Deed::Remove => vec![(record.path.clone(), absent())],
            Deed::Rename(to) => vec![(record.path.clone(), absent()), (to.clone(), before)],
        };
        for (path, after) in &mut effects {
            let states = paths.entry(path.clone()).or_insert_with(absent);
            match record.answer {
                Answer::Ok => states.clone_from(after),
                Answer::Failed(_) => {}
                Answer::Unknown(_) => states.append(after),
            }
        }
    }
    paths
}

/// Every way in which `actual` breaks what `records` promise.
#[must_use]
pub fn judge(records: &[Record], actual: &BTreeMap<String, Found>) -> Vec<Violation> {
    let allowed = allowed_states(records);
    let of_known = allowed.iter().filter_map(|(path, states)| {
        let found = actual.get(path).copied();
        if states.contains(&found) {
            return None;
        }
        let contents: Vec<Found> = states.iter().copied().flatten().collect();
        Some(match found {
            None => Violation::Missing(path.clone()),
            Some(_) if contents.is_empty() => Violation::Resurrected(path.clone()),
            Some(found) => Violation::WrongBytes {
                path: path.clone(),
                found,
                allowed: contents,
            },
        })
    });
    let phantoms = actual
        .keys()
        .filter(|path| !allowed.contains_key(*path))
        .map(|path| Violation::Phantom(path.clone()));
    of_known.chain(phantoms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Found = Found::File { len: 1, crc: 0xaa };
    const B: Found = Found::File { len: 1, crc: 0xbb };

    fn record(path: &str, deed: Deed, answer: Answer) -> Record {
        Record {
            path: path.to_owned(),
            deed,
            answer,
        }
    }

    fn unknown() -> Answer {
        Answer::Unknown("timeout".to_owned())
    }

    fn refused() -> Answer {
        Answer::Failed("no".to_owned())
    }

    fn actual(entries: &[(&str, Found)]) -> BTreeMap<String, Found> {
        entries
            .iter()
            .map(|(path, found)| ((*path).to_owned(), *found))
            .collect()
    }

    /// A history with every kind of deed and answer.
    fn history() -> Vec<Record> {
        vec![
            record("/kept", Deed::Put(A), Answer::Ok),
            record("/replaced", Deed::Put(A), Answer::Ok),
            record("/replaced", Deed::Put(B), Answer::Ok),
            record("/removed", Deed::Put(A), Answer::Ok),
            record("/removed", Deed::Remove, Answer::Ok),
            record("/old", Deed::Put(A), Answer::Ok),
            record("/old", Deed::Rename("/new".to_owned()), Answer::Ok),
            record("/refused", Deed::Put(A), refused()),
            record("/dir", Deed::Put(Found::Directory), Answer::Ok),
        ]
    }

    fn truth() -> BTreeMap<String, Found> {
        actual(&[("/kept", A), ("/replaced", B), ("/new", A), ("/dir", Found::Directory)])
    }

    #[test]
    fn the_truth_is_accepted() {
        assert_eq!(judge(&history(), &truth()), []);
    }

    #[test]
    fn planted_lies_are_caught() {
        let lie = |change: &dyn Fn(&mut BTreeMap<String, Found>)| {
            let mut told = truth();
            change(&mut told);
            judge(&history(), &told)
        };
        let missing = lie(&|told| {
            told.remove("/kept");
        });
        assert_eq!(missing, [Violation::Missing("/kept".into())]);
        let wrong = lie(&|told| {
            told.insert("/kept".into(), B);
        });
        assert!(matches!(&wrong[..], [Violation::WrongBytes { path, .. }] if path == "/kept"));
        let stale = lie(&|told| {
            told.insert("/replaced".into(), A);
        });
        assert!(matches!(&stale[..], [Violation::WrongBytes { path, .. }] if path == "/replaced"));
        let shorter = lie(&|told| {
            told.insert("/kept".into(), Found::File { len: 0, crc: 0xaa });
        });
        assert!(matches!(&shorter[..], [Violation::WrongBytes { .. }]));
        let back = lie(&|told| {
            told.insert("/removed".into(), A);
        });
        assert_eq!(back, [Violation::Resurrected("/removed".into())]);
        let renamed_back = lie(&|told| {
            told.insert("/old".into(), A);
        });
        assert_eq!(renamed_back, [Violation::Resurrected("/old".into())]);
        let half = lie(&|told| {
            told.insert("/refused".into(), A);
        });
        assert_eq!(half, [Violation::Resurrected("/refused".into())]);
        let phantom = lie(&|told| {
            told.insert("/ghost".into(), A);
        });
        assert_eq!(phantom, [Violation::Phantom("/ghost".into())]);
        let kind = lie(&|told| {
            told.insert("/dir".into(), A);
        });
        assert!(matches!(&kind[..], [Violation::WrongBytes { .. }]));
    }

    #[test]
    fn what_was_not_answered_may_be_either_but_nothing_else() {
        let put = [
            record("/p", Deed::Put(A), Answer::Ok),
            record("/p", Deed::Put(B), unknown()),
        ];
        assert_eq!(judge(&put, &actual(&[("/p", A)])), []);
        assert_eq!(judge(&put, &actual(&[("/p", B)])), []);
        assert_eq!(judge(&put, &actual(&[])), [Violation::Missing("/p".into())]);
        let removed = [
            record("/p", Deed::Put(A), Answer::Ok),
            record("/p", Deed::Remove, unknown()),
        ];
        assert_eq!(judge(&removed, &actual(&[])), []);
        assert_eq!(judge(&removed, &actual(&[("/p", A)])), []);
        assert!(!judge(&removed, &actual(&[("/p", B)])).is_empty());
        let settled = [&removed[..], &[record("/p", Deed::Put(B), Answer::Ok)]].concat();
        assert!(
            !judge(&settled, &actual(&[("/p", A)])).is_empty(),
            "a later answer settles it"
        );
    }
}
