//! The order of keys is their meaning.

use gabion_protocol::ids::{ChunkId, Ino, StateTime, Timeline, VolumeId};
use proptest::prelude::*;

use super::dentry::DentryKey;
use super::extent::ExtentKey;
use super::history::{HistoryKey, must_keep};
use super::meta::Pin;
use super::trash::TrashKey;
use super::*;

#[test]
fn kinds_have_distinct_numbers_above_the_adaptors() {
    let numbers = (1..=32).chain([35, 36, 37, 38, 39]);
    assert!(numbers.eq(Kind::ALL.map(|kind| kind as u8)));
    for kind in Kind::ALL {
        assert_eq!(Kind::of(&[kind as u8]), Some(kind));
    }
    assert_eq!((Kind::of(&[0]), Kind::of(&[40]), Kind::of(&[])), (None, None, None));
}

#[test]
fn a_prefix_ends_before_the_next() {
    assert_eq!(prefix_end(&[4, 7]), [4, 8]);
    assert_eq!(prefix_end(&[4, 255, 255]), [5]);
}

#[test]
fn history_is_kept_only_for_snapshots_that_reach_it() {
    let pin = |moment| Pin {
        moment: Moment(moment),
        root: Ino::ROOT,
    };
    let keep = |since, snapshots: &[u64], reached: u64| {
        let snapshots: Vec<_> = snapshots.iter().copied().map(pin).collect();
        must_keep(Moment(since), snapshots.iter(), |snapshot| {
            Ok::<_, ()>(snapshot.moment == Moment(reached))
        })
        .unwrap()
    };
    assert!(!keep(5, &[], 0), "without snapshots nothing is");
    assert!(!keep(5, &[4], 4), "newer than the snapshot");
    assert!(keep(5, &[5], 5));
    assert!(keep(5, &[3, 7, 9], 9));
    assert!(!keep(5, &[7], 0), "the snapshot is of another tree");
    assert!(
        !must_keep(Moment(5), [pin(4)].iter(), |_| Err::<bool, _>(
            "a newer value walks nothing"
        ))
        .unwrap()
    );
}

fn name() -> impl Strategy<Value = String> {
    "[a-c ü]{0,4}"
}

proptest! {
    #[test]
    fn dentries_sort_by_directory_then_name(a: (u64, ), b: (u64, ), left in name(), right in name()) {
        let key = |parent: u64, name: &str| DentryKey { parent: Ino(parent), name: name.to_owned() };
        let (left, right) = (key(a.0, &left), key(b.0, &right));
        let order = (left.parent, left.name.as_bytes()).cmp(&(right.parent, right.name.as_bytes()));
        prop_assert_eq!(left.encode().cmp(&right.encode()), order);
        prop_assert_eq!(DentryKey::decode(&left.encode()), Some(left));
    }

    #[test]
    fn history_sorts_by_live_key_then_moment(left in name(), right in name(), a: u64, b: u64) {
        let key = |name: &str, until| {
            let live = DentryKey { parent: Ino(7), name: name.to_owned() };
            HistoryKey { key: live.encode(), until: Moment(until) }
        };
        let (l, r) = (key(&left, a), key(&right, b));
        prop_assert_eq!(l.encode().cmp(&r.encode()), (left.as_bytes(), a).cmp(&(right.as_bytes(), b)));
        prop_assert_eq!(HistoryKey::decode(&l.encode()), Some(l));
    }

    #[test]
    fn keys_survive_their_bytes(a: u64, b: u64, v: u16, t: u32) {
        let extent = ExtentKey { ino: Ino(a), offset: b };
        prop_assert_eq!(ExtentKey::decode(&extent.encode()), Some(extent));
        let trash = TrashKey { deadline: StateTime(a), ino: Ino(b) };
        prop_assert_eq!(TrashKey::decode(&trash.encode()), Some(trash));
        let id = ChunkId { volume: VolumeId(v), timeline: Timeline(t), counter: a };
        let key = chunk::ChunkKey(id);
        prop_assert_eq!(chunk::ChunkKey::decode(&key.encode()), Some(key));
        let mut long = key.encode();
        long.push(0);
        prop_assert_eq!(chunk::ChunkKey::decode(&long), None);
    }
}
