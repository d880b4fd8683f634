use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::disk::database::open_db;

const BLOB_BYTES: usize = 32 << 10;
const GIB: u64 = 1 << 30;

fn held(total: u64, garbage: u64) -> Held {
    Held { total, garbage }
}

#[test]
fn little_garbage_is_left_and_much_is_taken_in_parts_that_there_is_room_for() {
    let plenty = 1000 * GIB;
    assert_eq!(held(0, 0).part(plenty, GARBAGE_MIN), None);
    assert_eq!(
        held(9 * GIB, 3 * GIB - 1).part(plenty, GARBAGE_MIN),
        None,
        "less than a third"
    );
    assert_eq!(held(9 * GIB, 3 * GIB).part(plenty, GARBAGE_MIN), Some(0.25));
    let crowded = held(9 * GIB, GIB).part(GIB, GARBAGE_MIN);
    assert!(crowded.is_some(), "as much as is free");
    assert_eq!(held(9 * GIB, GIB - 1).part(GIB, GARBAGE_MIN), None);
    assert_eq!(
        held(GARBAGE_MIN, GARBAGE_MIN - 1).part(plenty, GARBAGE_MIN),
        None,
        "too little to care"
    );
    assert_eq!(held(9 * GIB, 9 * GIB).part(plenty, GARBAGE_MIN), Some(0.25));
    let part = held(9 * GIB, 5 * GIB).part(GIB, GARBAGE_MIN).expect("some");
    assert!(
        part * 4.0 * GIB as f64 <= GIB as f64 / 2.0,
        "{part} of 4 GiB are more than half of what is free"
    );
    assert_eq!(held(900 * GIB, 500 * GIB).part(GIB, GARBAGE_MIN), None, "no room");
    assert_eq!(held(9 * GIB, 5 * GIB).part(0, GARBAGE_MIN), None);
}

#[test]
fn looks_come_after_so_many_removals_and_never_pile_up() {
    let (waker, looks) = looks();
    waker.removed(REMOVALS_MIN - 1);
    assert!(looks.woken.try_recv().is_err());
    waker.removed(1);
    waker.removed(REMOVALS_MIN);
    waker.removed(REMOVALS_MIN);
    assert!(looks.wait());
    assert!(looks.woken.try_recv().is_err(), "one look is for all before it");
    waker.removed(0);
    assert!(looks.wait(), "what came while one waited is looked at after it");
    drop(waker);
    assert!(!looks.wait());
}

#[test]
fn whoever_finds_no_room_has_what_was_removed_looked_at() {
    let (waker, looks) = looks();
    waker.want_room();
    assert!(looks.woken.try_recv().is_err(), "nothing was removed");
    waker.removed(1);
    waker.want_room();
    waker.want_room();
    assert!(looks.wait());
    assert!(looks.woken.try_recv().is_err(), "it was looked at");
}

fn key(number: usize) -> [u8; 8] {
    (number as u64).to_be_bytes()
}

/// Each its own, and not to be compressed.
fn blob(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(BLOB_BYTES / 8).flatten().collect()
}

fn blob_files(dir: &Path) -> BTreeSet<std::ffi::OsString> {
    let entries = std::fs::read_dir(dir.join("index")).expect("the index");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| Path::new(name).extension().is_some_and(|ext| ext == "blob"))
        .collect()
}

/// An index with so many blobs, in many blob files.
fn filled(dir: &Path, count: usize) -> DB {
    let db = open_db(dir, true).expect("a new index");
    for number in 0..count {
        db.put(key(number), blob(number)).expect("written");
        if number % 50 == 49 {
            db.flush().expect("flushed");
        }
    }
    db.flush().expect("flushed");
    db
}

#[test]
fn compactions_do_not_rewrite_what_is_wanted() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = filled(dir.path(), 600);
    let before = blob_files(dir.path());
    assert!(before.len() >= 12, "{} blob files", before.len());
    compact(&db, BottommostLevelCompaction::Force);
    assert_eq!(blob_files(dir.path()), before);
    for number in 0..100 {
        db.delete(key(number * 6)).expect("removed");
    }
    reclaim_from(&db, &|| GIB, 1 << 20).expect("looked");
    assert_eq!(blob_files(dir.path()), before, "a sixth is garbage: it is not worth it");
}

#[test]
fn space_of_what_was_removed_comes_back_and_the_rest_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = filled(dir.path(), 600);
    let whole = Held::of(&db).expect("numbers").total;
    let removed = |number: usize| !number.is_multiple_of(3);
    for number in (0..600).filter(|number| removed(*number)) {
        db.delete(key(number)).expect("removed");
    }
    reclaim_from(&db, &|| GIB, 1 << 20).expect("reclaimed");
    let left = Held::of(&db).expect("numbers");
    assert!(left.garbage < left.total / 3, "{left:?}");
    assert!(left.total <= whole * 5 / 9, "{left:?} of {whole}");
    for number in 0..600 {
        let wanted = (!removed(number)).then(|| blob(number));
        assert_eq!(db.get(key(number)).expect("read"), wanted, "{number}");
    }
    let before = blob_files(dir.path());
    compact(&db, BottommostLevelCompaction::Force);
    assert_eq!(
        blob_files(dir.path()),
        before,
        "afterwards, blobs stay where they are again"
    );
}

#[test]
fn a_database_that_is_being_closed_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = filled(dir.path(), 200);
    for number in 0..150 {
        db.delete(key(number)).expect("removed");
    }
    db.cancel_all_background_work(false);
    // It returns, with an error or without.
    drop(reclaim_from(&db, &|| GIB, 1 << 20));
    drop(db);
    let db = open_db(dir.path(), false).expect("opened again");
    assert_eq!(db.get(key(199)).expect("read"), Some(blob(199)));
}
