//! Balance as chunkservers and operators see it: a copy is ordered on the empty server, and the full one drops its own
//! when that is there.

use std::time::Duration;

use gabion_protocol::ErrorCode;
use gabion_protocol::config::Span;
use gabion_protocol::ids::*;
use gabion_protocol::messages::master::*;

use super::fake::*;
use super::repair::{beat_until, copy_order, row, store};

async fn plan(operator: &mut Client) -> BalancePlan {
    let (query, freshness) = (Query::BalancePlan, Freshness::Linearizable);
    match operator.peer.ask(&Request::Query { query, freshness }).await.unwrap() {
        Response::BalancePlan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

/// A chunkserver that uses so many percent of its space.
async fn server(cluster: &Cluster, name: &str, percent: u64) -> FakeServer {
    let mut server = FakeServer::register(cluster, name).await;
    server.beat.load.bytes_free = server.beat.load.bytes_total / 100 * (100 - percent);
    server.beat().await.unwrap();
    server
}

#[test]
fn a_copy_moves_to_the_empty_server_unless_an_operator_stopped_it() {
    block_on(async {
        let mut cluster = Cluster::of(1);
        cluster.configs[0].repair.urgent = Span::from_millis(500);
        let masters = cluster.start().await;
        let mut servers = vec![server(&cluster, "one", 70).await, server(&cluster, "two", 60).await];
        let (mut client, mut operator) = (cluster.client().await, cluster.operator().await);
        let (chunk, holders) = store(&mut client, "/f", b"some bytes").await;
        let full = servers[0].beat.server;
        assert!(holders.contains(&full));

        let stop = Op::SetBalance { runs: false };
        let refused = client.run(stop.clone()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongRole, "{}", refused.report());
        operator.run(stop).await.unwrap();
        servers.push(server(&cluster, "three", 0).await);
        let empty = servers[2].beat.server;
        // Long enough for the empty one to be steady, and for a leader to look several times.
        let mut planned = None;
        for _ in 0..100 {
            for server in &mut servers {
                server.beat().await.unwrap();
            }
            planned = Some(plan(&mut operator).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let planned = planned.unwrap();
        assert!(!planned.runs);
        let one = ServerMoves {
            from: full,
            to: empty,
            copies: 1,
            bytes: 10,
        };
        assert_eq!((planned.moves.as_slice(), planned.moving), ([one].as_slice(), 0));
        assert_eq!(row(&mut client, chunk).await.replicas.len(), 2, "it was stopped");

        operator.run(Op::SetBalance { runs: true }).await.unwrap();
        let order = beat_until(&mut servers, empty, copy_order).await;
        assert_eq!(order.chunk, chunk);
        let under_way = plan(&mut operator).await;
        assert_eq!((under_way.moving, under_way.moving_bytes), (1, 10));
        servers[2].beat.done = vec![OrderDone::Copied {
            chunk,
            replica: order.replica,
            length: order.length,
            crc: order.crc,
        }];
        let dropped = beat_until(&mut servers, full, |orders| {
            orders.iter().find_map(|order| match order {
                Order::Drop { chunk, replica } => Some((*chunk, *replica)),
                Order::Copy(_) | Order::Verify { .. } | Order::Build(_) => None,
            })
        })
        .await;
        assert_eq!(dropped.0, chunk);
        let (chunk, replica) = dropped;
        servers[0].beat.done = vec![OrderDone::Dropped { chunk, replica }];
        servers[0].beat().await.unwrap();
        let held: Vec<ServerId> = row(&mut client, chunk)
            .await
            .replicas
            .iter()
            .map(|copy| copy.0)
            .collect();
        assert!(
            held.len() == 2 && !held.contains(&full) && held.contains(&empty),
            "{held:?}"
        );
        assert_eq!(plan(&mut operator).await.moving, 0);
        for master in masters {
            master.stop().await;
        }
    });
}
