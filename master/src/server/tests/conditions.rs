//! Conditions of chunkservers as operators and the servers themselves see them: drained, away for a while, removed.

use std::time::Duration;

use gabion_protocol::ErrorCode;
use gabion_protocol::config::Span;
use gabion_protocol::ids::*;
use gabion_protocol::messages::master::*;

use super::fake::*;
use super::repair::{beat_until, copy_order, row, store};

const HOUR: ConditionChange = ConditionChange::Maintain { for_ms: 3_600_000 };

fn set(server: ServerId, change: ConditionChange, force: bool) -> Op {
    Op::SetCondition { server, change, force }
}

async fn query(operator: &mut Client, query: Query) -> Response {
    let freshness = Freshness::Linearizable;
    operator.peer.ask(&Request::Query { query, freshness }).await.unwrap()
}

async fn plan(operator: &mut Client, server: ServerId) -> ServerPlan {
    match query(operator, Query::ServerPlan { server }).await {
        Response::ServerPlan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

async fn condition(operator: &mut Client, server: ServerId) -> Option<Condition> {
    match query(operator, Query::Servers).await {
        Response::Servers { servers, .. } => {
            let found = servers.into_iter().find(|one| one.info.server == server);
            found.map(|one| one.condition)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_is_emptied_then_removed_and_refused_for_ever() {
    block_on(async {
        let mut cluster = Cluster::of(1);
        cluster.configs[0].repair.urgent = Span::from_millis(500);
        let masters = cluster.start().await;
        let mut servers = Vec::new();
        for name in ["one", "two", "three"] {
            let mut server = FakeServer::register(&cluster, name).await;
            server.beat().await.unwrap();
            servers.push(server);
        }
        let (mut client, mut operator) = (cluster.client().await, cluster.operator().await);
        let (chunk, holders) = store(&mut client, "/f", b"some bytes").await;
        let (leaving, stays) = (holders[0], holders[1]);
        let ids: Vec<ServerId> = servers.iter().map(|server| server.beat.server).collect();
        let target = *ids.iter().find(|of| !holders.contains(of)).unwrap();

        let refused = client
            .run(set(leaving, ConditionChange::Drain, true))
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongRole);
        let refused = operator
            .run(set(leaving, ConditionChange::Remove, true))
            .await
            .unwrap_err();
        assert_eq!(
            refused.code,
            ErrorCode::Conflict,
            "it is in service: {}",
            refused.report()
        );
        let unknown = operator.run(set(ServerId(77), ConditionChange::Drain, false)).await;
        assert_eq!(unknown.unwrap_err().code, ErrorCode::NotFound);

        operator.run(set(leaving, ConditionChange::Drain, false)).await.unwrap();
        let refused = operator
            .run(set(stays, ConditionChange::Drain, false))
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::TooFewServers, "{}", refused.report());
        let refused = operator
            .run(set(leaving, ConditionChange::Remove, true))
            .await
            .unwrap_err();
        assert!(
            refused.report().contains(&chunk.to_string()),
            "it says which: {}",
            refused.report()
        );
        let (_, elsewhere) = store(&mut client, "/g", b"other bytes").await;
        assert!(!elsewhere.contains(&leaving), "new chunks go elsewhere");

        // The third server is told to copy; then, and not before, the first one is told to drop.
        let order = beat_until(&mut servers, target, copy_order).await;
        assert_eq!(row(&mut client, chunk).await.replicas.len(), 3);
        let index = |id: ServerId| ids.iter().position(|of| *of == id).unwrap();
        let (leaving_at, target_at) = (index(leaving), index(target));
        servers[target_at].beat.done = vec![OrderDone::Copied {
            chunk,
            replica: order.replica,
            length: order.length,
            crc: order.crc,
        }];
        let dropped = beat_until(&mut servers, leaving, |orders| {
            orders.iter().find_map(|order| match order {
                Order::Drop { chunk, replica } => Some((*chunk, *replica)),
                Order::Copy(_) | Order::Verify { .. } | Order::Build(_) => None,
            })
        })
        .await;
        assert_eq!(dropped.0, chunk);
        assert_eq!(plan(&mut operator, leaving).await.chunks, 0);
        // It never says that it dropped the copy: the removal does not wait for that.
        let remove = operator.command(set(leaving, ConditionChange::Remove, false));
        for _ in 0..2 {
            assert_eq!(
                operator.peer.ask(&remove).await,
                Ok(Response::Done),
                "also when it is repeated"
            );
        }
        let refused = servers[leaving_at].beat().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::StaleDirectory);
        assert!(refused.report().contains("empty directory"), "{}", refused.report());
        while condition(&mut operator, leaving).await.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            operator.peer.ask(&remove).await,
            Ok(Response::Done),
            "repeated when it is gone"
        );
        let replicas = row(&mut client, chunk).await.replicas;
        assert!(
            replicas.len() == 2 && replicas.iter().all(|(of, ..)| *of != leaving),
            "{replicas:?}"
        );
        let refused = servers[leaving_at].beat().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::StaleDirectory);
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn nothing_is_copied_while_a_server_is_in_maintenance_and_all_is_when_it_ends() {
    block_on(async {
        let mut cluster = Cluster::of(1);
        cluster.configs[0].timing.suspect = Span::from_millis(1100);
        cluster.configs[0].timing.lost = Span::from_millis(1500);
        cluster.configs[0].repair.urgent = Span::from_millis(500);
        let masters = cluster.start().await;
        let mut servers = Vec::new();
        for name in ["one", "two", "three"] {
            let mut server = FakeServer::register(&cluster, name).await;
            server.beat().await.unwrap();
            servers.push(server);
        }
        let (mut client, mut operator) = (cluster.client().await, cluster.operator().await);
        let (chunk, holders) = store(&mut client, "/f", b"some bytes").await;
        let away = holders[0];
        operator.run(set(away, HOUR, false)).await.unwrap();
        servers.retain(|server| server.beat.server != away);
        // Much longer than a lost server's copies wait.
        for _ in 0..60 {
            for server in &mut servers {
                server.beat().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let states = match query(&mut operator, Query::Servers).await {
            Response::Servers { servers, .. } => servers,
            other => panic!("{other:?}"),
        };
        let seen = states.iter().find(|one| one.info.server == away).unwrap();
        assert_eq!(seen.info.health, Health::Lost, "or the test shows nothing");
        assert!(matches!(seen.condition, Condition::Maintenance { .. }));
        assert_eq!(
            row(&mut client, chunk).await.replicas.len(),
            2,
            "it was promised to come back"
        );
        // The only other copy must not go away as well, unless somebody insists.
        let other = holders[1];
        let refused = operator.run(set(other, HOUR, false)).await.unwrap_err();
        assert!(refused.report().contains(&chunk.to_string()), "{}", refused.report());
        operator.run(set(away, ConditionChange::Serve, false)).await.unwrap();
        let target = servers
            .iter()
            .map(|server| server.beat.server)
            .find(|of| *of != other)
            .unwrap();
        let order = beat_until(&mut servers, target, copy_order).await;
        assert_eq!(order.chunk, chunk);
        for master in masters {
            master.stop().await;
        }
    });
}
