//! Merges as chunkservers see them: orders with the right to carry them out, and a file that changes when all have.

use std::time::{Duration, Instant};

use gabion_protocol::checksum::{Running, crc};
use gabion_protocol::ids::*;
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::*;
use gabion_protocol::token::Mode;

use super::fake::*;
use super::repair::{beat_until, store};

const PIECES: u64 = 9;

fn build_order(orders: &[Order]) -> Option<BuildOrder> {
    orders.iter().find_map(|order| match order {
        Order::Build(build) => Some(build.clone()),
        Order::Copy(_) | Order::Drop { .. } | Order::Verify { .. } => None,
    })
}

async fn stat(client: &mut Client, text: &str) -> Entry {
    let query = Request::Query {
        query: Query::Stat { path: path(text) },
        freshness: Freshness::Linearizable,
    };
    let Response::Entry(entry) = client.peer.ask(&query).await.unwrap() else {
        panic!("no file");
    };
    entry
}

/// Appends chunks of 10 bytes to a file, all in one step.
async fn append(client: &mut Client, file: Ino) {
    let Op::OpenUpload { path, options, .. } = open("/upload") else {
        panic!()
    };
    let begin = Op::OpenUpload {
        path,
        options,
        chunks: PIECES as u8,
        avoid: Vec::new(),
    };
    let Response::Upload {
        upload,
        generation,
        chunks,
        ..
    } = client.run(begin).await.unwrap()
    else {
        panic!("no upload");
    };
    let seal = |(granted, number): (&ChunkGrant, u64)| Seal {
        chunk: granted.chunk,
        generation: granted.generation,
        file_offset: 10 * number,
        length: 10,
        crc: number as u32,
        members: granted.replicas.iter().map(|copy| copy.server).collect(),
    };
    let what = Change::Splice {
        upload,
        generation,
        seals: chunks.iter().zip(0..).map(seal).collect(),
        at: SpliceAt::End,
    };
    let lease = None;
    client
        .run(Op::ChangeFile(FileChange { file, lease, what }))
        .await
        .unwrap();
}

#[test]
fn a_large_chunk_comes_into_its_file_when_all_its_copies_are_made() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut living = Vec::new();
        for name in ["one", "two"] {
            let mut server = FakeServer::register(&cluster, name).await;
            server.beat().await.unwrap();
            living.push(server);
        }
        let mut client = cluster.client().await;
        let (first, _) = store(&mut client, "/f", b"some bytes").await;
        let before = stat(&mut client, "/f").await;
        append(&mut client, before.ino).await;
        let before = stat(&mut client, "/f").await;
        assert_eq!((before.children, before.length), (1 + PIECES, 100));

        let mut whole = Running::default();
        whole.append(crc(b"some bytes"), 10);
        (0..PIECES).for_each(|number| whole.append(number as u32, 10));
        let servers = [living[0].beat.server, living[1].beat.server];
        for (at, target) in servers.into_iter().enumerate() {
            let order = beat_until(&mut living, target, build_order).await;
            assert_eq!((order.owner, order.file_offset), (before.ino, 0));
            assert_eq!(order.pieces.len() as u64, before.children);
            let piece = &order.pieces[0];
            assert_eq!((piece.chunk, piece.offset, piece.length), (first, 0, 10));
            assert_eq!((piece.chunk_length, piece.chunk_crc), (10, crc(b"some bytes")));
            for (piece, number) in order.pieces.iter().skip(1).zip(0..) {
                assert_eq!((piece.crc, piece.chunk_crc), (Some(number), number));
            }
            // Its own copy first, with a token that its own server accepts.
            let identity = Identity {
                role: Role::Chunkserver,
                id: ["one", "two"][at].to_owned(),
            };
            let key = cluster.root.key.identity_key(cluster.root.cluster, &identity);
            let grant = piece.sources[0].check(target, &key, Mode::Read, StateTime(0)).unwrap();
            assert_eq!(grant.chunk, first);
            assert_eq!(piece.sources.len(), 2);
            assert_eq!(order.accesses.len(), 2);
            living[at].beat.done = vec![OrderDone::Copied {
                chunk: order.chunk,
                replica: order.replica,
                length: 100,
                crc: whole.crc(),
            }];
            let orders = beat_until(&mut living, target, |orders| Some(orders.to_vec())).await;
            assert_eq!(build_order(&orders), None, "what is done is noted before the answer");
            // Longer than the leader looks elsewhere: one copy of two is not enough.
            let until = Instant::now() + Duration::from_millis(1500);
            while at == 0 && Instant::now() < until {
                assert_eq!(stat(&mut client, "/f").await.children, before.children);
                beat_until(&mut living, target, |_| Some(())).await;
            }
        }
        let until = Instant::now() + 10 * SECOND;
        let after = loop {
            let now = stat(&mut client, "/f").await;
            if now.children == 1 || Instant::now() > until {
                break now;
            }
            beat_until(&mut living, servers[0], |_| Some(())).await;
        };
        let alike = Entry { children: 1, ..before };
        assert_eq!(after, alike);
        for master in masters {
            master.stop().await;
        }
    });
}
