//! Damage that readers report is looked at by its server; operators begin scrubs.

use std::time::Duration;

use gabion_protocol::ErrorCode;
use gabion_protocol::ids::*;
use gabion_protocol::keys::Role;
use gabion_protocol::messages::master::*;

use super::fake::*;

/// A cluster with a chunk of a file on two servers, which beat when the test says so.
async fn stored(cluster: &Cluster) -> (Client, Vec<FakeServer>, ChunkGrant) {
    let mut client = cluster.client().await;
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        let mut server = FakeServer::register(cluster, name).await;
        server.beat().await.unwrap();
        servers.push(server);
    }
    let Response::Upload {
        upload,
        generation,
        chunks,
        ..
    } = client.run(open("/f")).await.unwrap()
    else {
        panic!("no upload");
    };
    let chunk = chunks[0].clone();
    let seal = Seal {
        chunk: chunk.chunk,
        generation: chunk.generation,
        file_offset: 0,
        length: 5,
        crc: 6,
        members: chunk.replicas.iter().map(|replica| replica.server).collect(),
    };
    let commit = Op::Commit {
        upload,
        generation,
        seals: vec![seal],
        length: 5,
        crc: 6,
    };
    client.run(commit).await.unwrap();
    (client, servers, chunk)
}

async fn orders(server: &mut FakeServer) -> Vec<Order> {
    let answer = server.beat().await.unwrap();
    server.beat.done.clear();
    server.beat.damaged.clear();
    match answer {
        Response::BeatAnswer { orders, .. } => orders,
        other => panic!("{other:?}"),
    }
}

/// Beats until the orders are as wanted.
async fn until_ordered(server: &mut FakeServer, wanted: &[Order]) {
    for _ in 0..400 {
        if orders(server).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never ordered: {wanted:?}");
}

async fn reports(client: &mut Client, chunk: ChunkId) -> bool {
    let request = Request::Query {
        query: Query::Locate {
            path: path("/f"),
            ino: None,
            offset: 0,
            limit: 1,
            session: client.session,
        },
        freshness: Freshness::Linearizable,
    };
    let Response::Located(located) = client.peer.ask(&request).await.unwrap() else {
        panic!("not located");
    };
    assert_eq!(located.extents[0].chunk, chunk);
    located.extents[0].replicas.iter().any(|replica| !replica.healthy)
}

#[test]
fn a_reported_copy_is_read_again_by_its_server_alone_until_it_answers() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let (mut client, mut servers, grant) = stored(&cluster).await;
        let bad = grant.replicas[0].clone();
        let at = servers
            .iter()
            .position(|server| server.beat.server == bad.server)
            .unwrap();
        let replica = bad.token.grant.replica;
        let chunk = grant.chunk;
        let report = || Op::ReportDamage {
            chunk,
            server: bad.server,
            replica,
            what: "a reader's cable".into(),
        };
        let order = Order::Verify { chunk, replica };
        assert_eq!(orders(&mut servers[at]).await, []);
        client.run(report()).await.unwrap();
        until_ordered(&mut servers[at], std::slice::from_ref(&order)).await;
        assert_eq!(orders(&mut servers[1 - at]).await, [], "its copy was not reported");
        until_ordered(&mut servers[at], std::slice::from_ref(&order)).await;
        assert!(reports(&mut client, chunk).await);
        // It is whole: readers get it again.
        servers[at].beat.done = vec![OrderDone::Intact { chunk, replica }];
        assert_eq!(orders(&mut servers[at]).await, [], "answered, and not ordered again");
        assert!(!reports(&mut client, chunk).await);
        // Reported again, and damaged this time.
        client.run(report()).await.unwrap();
        until_ordered(&mut servers[at], &[order]).await;
        servers[at].beat.damaged = vec![Damage {
            chunk,
            replica,
            what: "a block does not have its checksum".into(),
        }];
        assert_eq!(orders(&mut servers[at]).await, [], "confirmed");
        assert!(reports(&mut client, chunk).await);
        for master in masters {
            master.stop().await;
        }
    });
}

async fn tell(server: &mut FakeServer, obeyed: u64, bytes_done: u64) -> Option<u64> {
    let report = ScrubReport {
        server: server.beat.server,
        incarnation: server.beat.incarnation,
        obeyed,
        progress: ScrubProgress {
            bytes_done,
            ..ScrubProgress::default()
        },
    };
    match server.peer.ask(&Request::ScrubReport(report)).await.unwrap() {
        Response::ScrubAnswer { epoch: Some(_), start } => start,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_scrub_is_asked_for_until_every_server_has_begun() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut one = FakeServer::register(&cluster, "one").await;
        let mut two = FakeServer::register(&cluster, "two").await;
        one.beat().await.unwrap();
        two.beat().await.unwrap();
        assert_eq!(tell(&mut one, 0, 5).await, None);
        let mut operator = cluster.peer(Role::Operator, "ann");
        let start = |servers| Request::Admin(Admin::StartScrub { request: 7, servers });
        let asking = async { operator.ask(&start(vec![])).await.unwrap() };
        let obeying = async {
            while tell(&mut one, 0, 0).await != Some(7) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(tell(&mut one, 7, 1).await, None);
            assert_eq!(tell(&mut two, 0, 0).await, Some(7));
            assert_eq!(tell(&mut two, 7, 2).await, None);
        };
        let (answer, ()) = tokio::join!(asking, obeying);
        let both = vec![one.beat.server, two.beat.server];
        assert_eq!(
            answer,
            Response::ScrubStarted {
                begun: both,
                waiting: vec![]
            }
        );
        let Response::ScrubStatus(told) = operator.ask(&Request::Admin(Admin::ScrubStatus)).await.unwrap() else {
            panic!("no status");
        };
        let seen: Vec<_> = told
            .iter()
            .map(|server| (server.name.as_str(), server.waiting, server.progress.bytes_done))
            .collect();
        assert_eq!(seen, [("one", false, 1), ("two", false, 2)]);
        let stranger = operator.ask(&start(vec![ServerId(99)])).await.unwrap_err();
        assert_eq!(stranger.code, ErrorCode::NotFound);
        for master in masters {
            master.stop().await;
        }
    });
}
