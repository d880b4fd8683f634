use gabion_protocol::Generation;

use super::*;

#[test]
fn only_a_row_that_counts_the_copy_says_something_about_it() {
    let row = |state, length, crc, number, copy| ChunkInfo {
        chunk: ChunkId::from_bytes([0; 14]),
        state,
        generation: Generation(1),
        length,
        crc,
        references: 1,
        wanted: 3,
        replicas: vec![
            (ServerId(1), ReplicaNumber(number), copy),
            (ServerId(2), ReplicaNumber(8), ReplicaState::Live),
        ],
    };
    let says = |row: ChunkInfo| difference(&row, (ServerId(1), ReplicaNumber(7)), (9, 5));
    let (sealed, live) = (ChunkState::Sealed, ReplicaState::Live);
    assert_eq!(says(row(sealed, 9, 5, 7, live)), None);
    let what = says(row(sealed, 9, 6, 7, live)).unwrap();
    assert!(what.contains("00000005") && what.contains("00000006"), "{what}");
    assert!(says(row(sealed, 8, 5, 7, live)).is_some());
    assert_eq!(says(row(ChunkState::Open, 0, 0, 7, live)), None, "not sealed there yet");
    assert_eq!(says(row(ChunkState::Garbage, 8, 5, 7, live)), None, "wanted no more");
    assert_eq!(
        says(row(sealed, 8, 5, 7, ReplicaState::Dropping)),
        None,
        "on its way out"
    );
    assert_eq!(says(row(sealed, 8, 5, 9, live)), None, "another copy");
}

#[test]
fn masters_that_contradict_many_copies_are_not_believed() {
    assert!(masters_are_credible(1, 0), "the first copy read may be the old one");
    assert!(masters_are_credible(16, 16));
    assert!(!masters_are_credible(17, 100));
    assert!(masters_are_credible(17, 1700) && !masters_are_credible(18, 1700));
}
