//! Repair as chunkservers see it: copy orders with the right to carry them out, and reports that are taken once.

use std::time::Duration;

use gabion_protocol::checksum::crc;
use gabion_protocol::config::Span;
use gabion_protocol::ids::*;
use gabion_protocol::keys::{Identity, Role, connection_key, unwrap_connection_key};
use gabion_protocol::messages::master::*;
use gabion_protocol::token::Mode;

use super::fake::*;

/// Uploads a file of one chunk with two copies; the chunk and who holds it.
pub(super) async fn store(client: &mut Client, text: &str, bytes: &[u8]) -> (ChunkId, Vec<ServerId>) {
    let Response::Upload {
        upload,
        generation,
        mut chunks,
        ..
    } = client.run(open(text)).await.unwrap()
    else {
        panic!("no upload");
    };
    let granted = chunks.remove(0);
    let members: Vec<ServerId> = granted.replicas.iter().map(|copy| copy.server).collect();
    let (length, crc) = (bytes.len() as u64, crc(bytes));
    let seal = Seal {
        chunk: granted.chunk,
        generation: granted.generation,
        file_offset: 0,
        length,
        crc,
        members: members.clone(),
    };
    let commit = Op::Commit {
        upload,
        generation,
        seals: vec![seal],
        length,
        crc,
    };
    client.run(commit).await.unwrap();
    (granted.chunk, members)
}

pub(super) async fn row(client: &mut Client, chunk: ChunkId) -> ChunkInfo {
    let query = Request::Query {
        query: Query::Chunk { chunk },
        freshness: Freshness::Linearizable,
    };
    let Response::Chunk(info) = client.peer.ask(&query).await.unwrap() else {
        panic!("no chunk");
    };
    info
}

/// Lets the living servers beat until one of the answers to `target` is what is waited for.
pub(super) async fn beat_until<T>(
    living: &mut [FakeServer],
    target: ServerId,
    mut wanted: impl FnMut(&[Order]) -> Option<T>,
) -> T {
    for _ in 0..200 {
        for server in living.iter_mut() {
            let Response::BeatAnswer { orders, .. } = server.beat().await.unwrap() else {
                panic!("no answer");
            };
            server.beat.done.clear();
            if server.beat.server == target
                && let Some(found) = wanted(&orders)
            {
                return found;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain");
}

pub(super) fn copy_order(orders: &[Order]) -> Option<CopyOrder> {
    orders.iter().find_map(|order| match order {
        Order::Copy(copy) => Some(copy.clone()),
        Order::Drop { .. } | Order::Verify { .. } | Order::Build(_) => None,
    })
}

#[test]
fn a_lost_copy_is_ordered_with_all_it_takes_and_counts_only_if_it_is_right() {
    block_on(async {
        let mut cluster = Cluster::of(1);
        cluster.configs[0].timing.suspect = Span::from_millis(1100);
        cluster.configs[0].timing.lost = Span::from_millis(1500);
        cluster.configs[0].repair.urgent = Span::from_millis(500);
        let masters = cluster.start().await;
        let mut living = Vec::new();
        for name in ["one", "two", "three"] {
            let mut server = FakeServer::register(&cluster, name).await;
            server.beat().await.unwrap();
            living.push(server);
        }
        let mut client = cluster.client().await;
        let (chunk, holders) = store(&mut client, "/f", b"some bytes").await;
        living.retain(|server| server.beat.server != holders[1]);
        let target = living
            .iter()
            .map(|server| server.beat.server)
            .find(|of| !holders.contains(of))
            .unwrap();
        let order = beat_until(&mut living, target, copy_order).await;
        assert_eq!((order.chunk, order.length, order.crc), (chunk, 10, crc(b"some bytes")));

        // The one source that answers comes first, with a token it accepts and a way in for the target.
        let source = &order.sources[0];
        assert_eq!(source.access.server, holders[0]);
        let key_of = |id: &str| {
            let identity = Identity {
                role: Role::Chunkserver,
                id: id.to_owned(),
            };
            cluster.root.key.identity_key(cluster.root.cluster, &identity)
        };
        let key = key_of(&source.access.name);
        let grant = source.token.check(holders[0], &key, Mode::Read, StateTime(0)).unwrap();
        assert_eq!((grant.chunk, grant.generation), (chunk, order.generation));
        let name = ["one", "two", "three"][target.0 as usize - 1];
        let unwrapped = unwrap_connection_key(&key_of(name), &source.access.ticket, &source.access.wrapped_key);
        assert_eq!(unwrapped, connection_key(&key, &source.access.ticket));

        // Something else was copied: it never counts, is dropped, and copied again under another number.
        let report = |order: &CopyOrder, crc: u32| OrderDone::Copied {
            chunk,
            replica: order.replica,
            length: order.length,
            crc,
        };
        let at = living.iter().position(|server| server.beat.server == target).unwrap();
        living[at].beat.done = vec![report(&order, order.crc ^ 1)];
        let wrong = order.replica;
        beat_until(&mut living, target, |orders| {
            let drop = Order::Drop { chunk, replica: wrong };
            orders.contains(&drop).then_some(())
        })
        .await;
        living[at].beat.done = vec![OrderDone::Dropped { chunk, replica: wrong }];
        let again = beat_until(&mut living, target, copy_order).await;
        assert_ne!(again.replica, wrong);

        // Reported twice, as the answer may be lost.
        for _ in 0..2 {
            living[at].beat.done = vec![report(&again, again.crc)];
            let orders = beat_until(&mut living, target, |orders| Some(orders.to_vec())).await;
            assert_eq!(copy_order(&orders), None, "what is done is noted before the answer");
        }
        let info = row(&mut client, chunk).await;
        let live = |(_, _, state): &&(ServerId, ReplicaNumber, ReplicaState)| *state == ReplicaState::Live;
        assert_eq!(
            info.replicas.iter().filter(live).count(),
            3,
            "the lost one's row stays: {info:?}"
        );
        for master in masters {
            master.stop().await;
        }
    });
}
