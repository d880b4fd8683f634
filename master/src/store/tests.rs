use std::sync::Arc;

use super::memory::{Memory, MemoryLimits};
use super::state_db::StateDb;
use super::states::States;
use super::{StoreError, durable};
use crate::raft::codec::AppliedState;
use crate::raft::types::log_id;
use crate::state::rows::{Changes, Rows};

mod model;

fn memory() -> Memory {
    Memory::new(MemoryLimits::default())
}

fn applied(index: u64) -> AppliedState {
    AppliedState {
        last: Some(log_id(1, 1, index)),
        ..AppliedState::default()
    }
}

fn put(key: u8, value: &str) -> Changes {
    [(vec![key], Some(value.into()))].into()
}

#[test]
fn a_view_does_not_see_later_writes() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(StateDb::open(dir.path(), &memory()).unwrap());
    db.store(&mut put(1, "old"), &applied(1)).unwrap();
    let view = db.view();
    db.store(&mut put(1, "new"), &applied(2)).unwrap();
    db.store(&mut put(2, "more"), &applied(3)).unwrap();
    assert_eq!(view.get(&[1]).unwrap().unwrap(), b"old");
    assert_eq!(view.scan(&[1], &[9], 9).unwrap().len(), 1);
    assert_eq!(view.applied_index().unwrap(), 1);
    let now = db.view();
    assert_eq!(now.scan(&[1], &[9], 9).unwrap().len(), 2);
    assert_eq!(now.scan(&[1], &[9], 1).unwrap().len(), 1);
    assert!(now.scan(&[9], &[1], 9).unwrap().is_empty());
}

/// Rows that would have to come from the disk are not taken for rows that do not exist.
#[test]
fn a_row_that_is_not_in_memory_is_away_and_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let first = StateDb::open(dir.path(), &memory()).unwrap();
    first.store(&mut put(5, "far"), &applied(1)).unwrap();
    first.flush().unwrap();
    drop(first);
    let db = Arc::new(StateDb::open(dir.path(), &memory()).unwrap());
    db.store(&mut put(7, "near"), &applied(2)).unwrap();
    let mut view = db.view();
    let near = view.in_memory(|view| view.get(&[7]).unwrap());
    assert_eq!(near, Some(Some(b"near".to_vec())));
    assert_eq!(view.in_memory(|view| view.get(&[5]).ok()), None, "it is on disk only");
    assert_eq!(view.in_memory(|view| view.scan(&[4], &[6], 9).ok()), None);
    assert_eq!(view.get(&[5]).unwrap().unwrap(), b"far", "whoever may wait gets it");
    let now_near = view.in_memory(|view| view.get(&[5]).unwrap());
    assert_eq!(now_near, Some(Some(b"far".to_vec())), "it is in the cache now");
}

#[test]
fn rows_and_applied_id_go_back_together_when_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path(), &memory()).unwrap();
    db.store(&mut put(1, "flushed"), &applied(1)).unwrap();
    db.flush().unwrap();
    db.store(&mut put(1, "lost"), &applied(2)).unwrap();
    // What a kill leaves: the files as they are now.
    for name in durable::list(dir.path()).unwrap() {
        std::fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let after = StateDb::open(copy.path(), &memory()).unwrap();
    assert_eq!(after.get(&[1]).unwrap().unwrap(), b"flushed");
    assert_eq!(after.applied().unwrap(), applied(1));
}

#[test]
fn installing_swaps_rows_and_keeps_old_views() {
    let dir = tempfile::tempdir().unwrap();
    let states = States::open(&dir.path().join("state"), &memory()).unwrap();
    let old = states.current();
    old.store(&mut put(1, "old"), &applied(1)).unwrap();
    let view = old.view();

    let other = StateDb::open(&dir.path().join("other"), &memory()).unwrap();
    other.store(&mut put(1, "new"), &applied(9)).unwrap();
    let copy = dir.path().join("copy");
    other.checkpoint(&copy).unwrap();
    assert!(matches!(
        states.install(&copy, &applied(8)),
        Err(StoreError::Damaged { .. })
    ));
    assert_eq!(states.current().get(&[1]).unwrap().unwrap(), b"old");

    states.install(&copy, &applied(9)).unwrap();
    assert_eq!(states.current().get(&[1]).unwrap().unwrap(), b"new");
    let old_path = old.path().to_owned();
    drop(old);
    assert_eq!(view.get(&[1]).unwrap().unwrap(), b"old");
    assert!(old_path.exists());
    drop(view);
    assert!(!old_path.exists(), "replaced rows go with their last reader");
    drop(states);
    let states = States::open(&dir.path().join("state"), &memory()).unwrap();
    assert_eq!(states.current().applied().unwrap(), applied(9));
}

#[test]
fn lost_pointer_or_directory_is_damage_not_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let states = States::open(&root, &memory()).unwrap();
    states.current().store(&mut put(1, "x"), &applied(1)).unwrap();
    drop(states);
    std::fs::rename(root.join("CURRENT"), root.join("elsewhere")).unwrap();
    assert!(matches!(
        States::open(&root, &memory()),
        Err(StoreError::Damaged { .. })
    ));
    std::fs::rename(root.join("elsewhere"), root.join("CURRENT")).unwrap();
    std::fs::remove_dir_all(root.join("1")).unwrap();
    assert!(matches!(
        States::open(&root, &memory()),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn files_are_published_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/file");
    durable::create_dir(path.parent().unwrap()).unwrap();
    durable::write_file(&path, b"one").unwrap();
    durable::write_file(&path, b"two").unwrap();
    assert_eq!(durable::read_file(&path).unwrap().unwrap(), b"two");
    std::fs::create_dir(dir.path().join("half.tmp")).unwrap();
    durable::remove_leftovers(dir.path()).unwrap();
    assert_eq!(durable::list(dir.path()).unwrap(), ["a"]);
}
