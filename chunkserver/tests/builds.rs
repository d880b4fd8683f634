//! Chunks made of parts of others: what is reported is exactly those parts, and nothing is when one of them is wrong.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use crate::common::cluster::{TestCluster, ask, read_chunk, spec, token, until, write_chunk};
use crate::common::{chunk, content, data_file};
use bytes::Bytes;
use gabion_protocol::checksum::{block_crcs, crc};
use gabion_protocol::messages::data::{FromServer, Request, Response, Verdict};
use gabion_protocol::messages::master::{BuildOrder, BuildPiece, Order, OrderDone};
use gabion_protocol::token::Mode;
use gabion_protocol::{Generation, Ino, ReplicaNumber, ServerId};

/// Writes a chunk to the nodes with these numbers.
async fn store(cluster: &TestCluster, counter: u64, bytes: &Bytes, numbers: &[u32]) {
    let address = |number: u32| cluster.nodes[number as usize - 1].address.clone();
    let chain: Vec<_> = numbers.iter().map(|number| (*number, address(*number))).collect();
    let connection = cluster.connect(numbers[0] as usize - 1).await;
    let spec = spec(counter, &chain);
    if bytes.len() <= 128 << 10 {
        let crcs = block_crcs(bytes);
        let put = ask(&connection, &Request::PutSmall { spec, crcs }, bytes.clone()).await;
        assert!(matches!(put.unwrap().0, Response::Sealed { .. }));
    } else {
        let sealed = write_chunk(&connection, spec, bytes).await;
        assert!(matches!(sealed, FromServer::Sealed { .. }), "{sealed:?}");
    }
}

/// A part of a chunk that lies on some servers.
fn piece(counter: u64, bytes: &Bytes, (offset, length): (usize, usize), sources: &[u32]) -> BuildPiece {
    let part = &bytes[offset..offset + length];
    BuildPiece {
        chunk: chunk(counter),
        chunk_length: bytes.len() as u64,
        chunk_crc: crc(bytes),
        offset: offset as u64,
        length: length as u64,
        // As of an extent that was cut, which nobody has verified.
        crc: (length == bytes.len()).then(|| crc(part)),
        sources: sources
            .iter()
            .map(|number| token(chunk(counter), *number, Mode::Read))
            .collect(),
    }
}

/// The order to build chunk 100 on a server; its replica has the number its own tokens name.
fn build(cluster: &TestCluster, target: u32, pieces: Vec<BuildPiece>) -> BuildOrder {
    let counters = 1..=cluster.nodes.len() as u32;
    BuildOrder {
        chunk: chunk(100),
        generation: Generation(1),
        replica: token(chunk(100), target, Mode::Read).grant.replica,
        owner: Ino(5),
        file_offset: 7,
        pieces,
        accesses: counters.map(|number| cluster.access_of(target, number)).collect(),
    }
}

fn order(cluster: &TestCluster, target: u32, build: &BuildOrder) {
    let orders = vec![Order::Build(build.clone())];
    cluster.master.script.lock().orders.insert(ServerId(target), orders);
}

fn reports(cluster: &TestCluster) -> Vec<OrderDone> {
    cluster.master.script.lock().done.clone()
}

fn made(build: &BuildOrder, bytes: &[u8]) -> OrderDone {
    OrderDone::Copied {
        chunk: build.chunk,
        replica: build.replica,
        length: bytes.len() as u64,
        crc: crc(bytes),
    }
}

/// Small and large parts, whole chunks and cuts across blocks, from this server and from others.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_its_parts_in_order() {
    const LARGE: usize = (3 << 20) + 12_345;
    let sizes = [1000, LARGE, 1, 128 << 10, LARGE, 70_000];
    for (few, expected_file) in [(true, false), (false, true)] {
        let cluster = TestCluster::start(3).await;
        let (mut pieces, mut expected) = (Vec::new(), Vec::new());
        for (counter, size) in (1..).zip(sizes) {
            let size = if few { size.min(20_000) } else { size };
            let bytes = content(counter, size);
            let servers: &[u32] = [&[1, 2][..], &[2], &[3, 1]][counter as usize % 3];
            store(&cluster, counter, &bytes, servers).await;
            let range = match counter {
                2 => (size / 3, size / 2),
                5 => (size - 1, 1),
                _ => (0, size),
            };
            expected.extend_from_slice(&bytes[range.0..range.0 + range.1]);
            pieces.push(piece(counter, &bytes, range, servers));
        }
        // Another part of a chunk that was there before.
        let again = content(2, if few { 20_000 } else { LARGE });
        pieces.push(piece(2, &again, (3, 5), &[3, 1]));
        expected.extend_from_slice(&again[3..8]);
        for target in 1..=3 {
            let build = build(&cluster, target, pieces.clone());
            order(&cluster, target, &build);
            until("the chunk is reported", || {
                reports(&cluster).contains(&made(&build, &expected))
            })
            .await;
            let connection = cluster.connect(target as usize - 1).await;
            assert!(read_chunk(&connection, 100, target).await.unwrap() == expected[..]);
            let verify = Request::Verify {
                token: token(chunk(100), target, Mode::Read),
            };
            let (verdict, _) = ask(&connection, &verify, Bytes::new()).await.unwrap();
            assert!(
                matches!(verdict, Response::Verified(Verdict::Good { .. })),
                "{verdict:?}"
            );
            let dir = &cluster.nodes[target as usize - 1].dir;
            assert_eq!(data_file(dir, 100).exists(), expected_file);
        }
        // A new leader knows nothing of the report and orders the same: it is told again, and nothing is written.
        cluster.master.script.lock().done.clear();
        let build = build(&cluster, 1, pieces);
        until("it is told again", || {
            reports(&cluster).contains(&made(&build, &expected))
        })
        .await;
    }
}

/// A part whose bytes are wrong on one server is read from another; if no server has it, nothing is made.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_parts_are_never_put_into_a_chunk() {
    const LARGE: usize = 1 << 20;
    let cluster = TestCluster::start(3).await;
    let (good, bad) = (content(1, 300), content(2, LARGE));
    store(&cluster, 1, &good, &[1]).await;
    store(&cluster, 2, &bad, &[1, 2]).await;
    let path = data_file(&cluster.nodes[0].dir, 2);
    let mut stored = std::fs::read(&path).unwrap();
    stored[LARGE / 2] ^= 1;
    std::fs::write(&path, &stored).unwrap();
    let expected = [&good[..], &bad[..]].concat();
    let first = piece(1, &good, (0, 300), &[1]);

    let both = build(&cluster, 3, vec![first.clone(), piece(2, &bad, (0, LARGE), &[1, 2])]);
    order(&cluster, 3, &both);
    until("it is made from the good copy", || {
        reports(&cluster).contains(&made(&both, &expected))
    })
    .await;
    let connection = cluster.connect(2).await;
    assert!(read_chunk(&connection, 100, 3).await.unwrap() == expected[..]);
    let damaged = token(chunk(2), 1, Mode::Read).grant.replica;
    until("the bad copy is reported by its own server", || {
        let script = cluster.master.script.lock();
        script.damaged.iter().any(|damage| damage.replica == damaged)
    })
    .await;

    // Parts that are whole in themselves and not what the masters know: another CRC of the chunk, or of the part alone.
    let other = content(9, 300);
    let mut wrong_chunk = piece(1, &other, (0, 300), &[1]);
    wrong_chunk.crc = None;
    let mut wrong_part = first.clone();
    wrong_part.crc = Some(crc(&other));
    let gone = piece(7, &other, (0, 300), &[1, 2]);
    for (number, part) in (1..).zip([wrong_chunk, wrong_part, gone]) {
        let failing = BuildOrder {
            replica: ReplicaNumber(1000 + number),
            chunk: chunk(200 + number),
            ..build(&cluster, 2, vec![first.clone(), part])
        };
        order(&cluster, 2, &failing);
        let failed = |done: &OrderDone| matches!(done, OrderDone::CopyFailed { chunk, .. } if *chunk == failing.chunk);
        until("it fails", || reports(&cluster).iter().any(failed)).await;
        let sealed = cluster.nodes[1].store.sealed(failing.chunk, failing.replica).await;
        assert_eq!(sealed.unwrap(), None, "something was stored");
    }
}
