//! Large chunks in the place of small ones.

use super::*;

pub(super) fn queries() -> Vec<master::Query> {
    vec![master::Query::Merges]
}

pub(super) fn merges() -> Vec<String> {
    use master::{BuildOrder, BuildPiece, Order, Response};
    let piece = |crc| BuildPiece {
        chunk: chunk(),
        chunk_length: 300,
        chunk_crc: 5,
        offset: 301,
        length: 302,
        crc,
        sources: vec![token()],
    };
    let build = BuildOrder {
        chunk: chunk(),
        generation: Generation(1),
        replica: ReplicaNumber(2),
        owner: Ino(2),
        file_offset: 303,
        pieces: vec![piece(None), piece(Some(6))],
        accesses: vec![access()],
    };
    let response = Response::Merges {
        done: 300,
        under_way: 4,
        waiting: 5,
    };
    let mut all = lines("order", &[Order::Build(build)]);
    all.extend(lines("query", &queries()));
    all.extend(lines("master response", &[response]));
    all
}

/// An order of the most pieces fits a message with another one beside it, and room for the rest of a beat's answer.
#[test]
fn the_largest_orders_fit_a_message() {
    use crate::limits::{MERGE_PIECES_MAX, MERGE_SOURCES_MAX, MERGES_PER_SERVER_MAX, MESSAGE_BYTES_MAX};
    let large = ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(100),
        counter: 1 << 40,
    };
    let grant = Grant {
        chunk: large,
        generation: Generation(1),
        replica: ReplicaNumber(1 << 40),
        server: ServerId(1 << 16),
        mode: Mode::Read,
        session: SessionId {
            opened: StateTime(1 << 42),
            random: 1 << 20,
        },
        expires: StateTime(1 << 42),
    };
    let piece = master::BuildPiece {
        chunk: large,
        chunk_length: 64 << 20,
        chunk_crc: u32::MAX,
        offset: 64 << 20,
        length: 64 << 20,
        crc: Some(u32::MAX),
        sources: vec![Token::sign(grant, &Key::from_bytes([1; 32])); MERGE_SOURCES_MAX],
    };
    let order = master::Order::Build(master::BuildOrder {
        chunk: large,
        generation: Generation(1),
        replica: ReplicaNumber(1 << 40),
        owner: Ino(1 << 40),
        file_offset: 1 << 50,
        pieces: vec![piece; MERGE_PIECES_MAX],
        accesses: vec![access(); 64],
    });
    let bytes = encode(&order).len() * MERGES_PER_SERVER_MAX;
    assert!(bytes < MESSAGE_BYTES_MAX * 3 / 4, "{bytes}");
}
