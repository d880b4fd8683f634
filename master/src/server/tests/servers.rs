//! Chunkservers: who may be one, what is placed on them, what they are told.

use std::time::Duration;

use gabion_protocol::ErrorCode;
use gabion_protocol::ids::*;
use gabion_protocol::keys::{Identity, Role, connection_key, unwrap_connection_key};
use gabion_protocol::messages::master::*;
use gabion_protocol::token::Mode;

use super::fake::*;

#[test]
fn an_upload_without_servers_says_who_was_passed_over() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let missing = client.run(open("/nowhere/f")).await.unwrap_err();
        assert_eq!(
            missing.code,
            ErrorCode::NotFound,
            "told at once, not after a wait: {missing}"
        );
        let mut one = FakeServer::register(&cluster, "one").await;
        let mut two = FakeServer::register(&cluster, "two").await;
        one.beat().await.unwrap();
        two.beat.load.bytes_free = 1000;
        let error = client.run(open("/f")).await.unwrap_err();
        assert_eq!(
            error.code,
            ErrorCode::TooFewServers,
            "one has never beaten: {}",
            error.report()
        );
        assert!(error.report().contains("two"), "{}", error.report());
        two.beat().await.unwrap();
        let error = client.run(open("/f")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NoSpace, "{}", error.report());
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn a_waiting_upload_goes_on_when_servers_come_and_its_tokens_are_good() {
    block_on(async {
        let mut cluster = Cluster::of(1);
        cluster.configs[0].timing.placement_wait = gabion_protocol::config::Span::from_millis(20_000);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let command = client.command(open("/f"));
        // One attempt: it is woken by the second server's beat, not by asking again.
        let asking = async { (client.peer.once(&command).await.unwrap(), client) };
        let starting = async {
            let mut servers = Vec::new();
            for name in ["one", "two"] {
                servers.push(FakeServer::register(&cluster, name).await.live());
            }
            servers
        };
        let ((upload, mut client), servers) = tokio::join!(asking, starting);
        let Response::Upload {
            chunks,
            servers: accesses,
            upload: ino,
            ..
        } = &upload
        else {
            panic!("{upload:?}");
        };
        assert_eq!(chunks[0].replicas.len(), 2);
        let (root, client_key) = (&cluster.root, client.peer.dialer.key.clone());
        for replica in &chunks[0].replicas {
            let access = accesses.iter().find(|access| access.server == replica.server).unwrap();
            let identity = Identity {
                role: Role::Chunkserver,
                id: access.name.clone(),
            };
            let key = root.key.identity_key(root.cluster, &identity);
            let grant = replica
                .token
                .check(replica.server, &key, Mode::Write, StateTime(0))
                .unwrap();
            assert_eq!((grant.chunk, grant.session), (chunks[0].chunk, client.session));
            let unwrapped = unwrap_connection_key(&client_key, &access.ticket, &access.wrapped_key);
            assert_eq!(unwrapped, connection_key(&key, &access.ticket));
        }
        let again = client.peer.ask(&command).await.unwrap();
        let Response::Upload { chunks: repeated, .. } = &again else {
            panic!("{again:?}");
        };
        assert_eq!(repeated[0].chunk, chunks[0].chunk, "a retry is granted nothing new");
        let more = client.run(Op::GrantChunks {
            upload: *ino,
            generation: UploadGeneration(1),
            chunks: 2,
            avoid: Vec::new(),
            abandoned: vec![chunks[0].chunk],
        });
        let Response::Chunks { chunks: more, .. } = more.await.unwrap() else {
            panic!("no chunks");
        };
        assert_eq!(more.len(), 2);
        servers.iter().for_each(|server| server.abort());
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn only_a_registered_directory_beats_and_only_for_itself() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut one = FakeServer::register(&cluster, "one").await;
        let answered = one.beat().await.unwrap();
        assert!(
            matches!(answered, Response::BeatAnswer { epoch: Some(_), .. }),
            "{answered:?}"
        );
        let mut unknown = one.beat.clone();
        unknown.server = ServerId(99);
        assert_eq!(
            one.peer.once(&Request::Beat(unknown)).await.unwrap_err().code,
            ErrorCode::NotFound
        );
        let mut copy = one.beat.clone();
        copy.incarnation = Incarnation([9; 16]);
        let refused = one.peer.once(&Request::Beat(copy)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::StaleDirectory);
        let mut impostor = cluster.peer(Role::Chunkserver, "two");
        let refused = impostor.once(&Request::Beat(one.beat.clone())).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongRole);
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn copies_of_a_given_up_upload_are_dropped_once_their_tokens_have_expired() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let mut one = FakeServer::register(&cluster, "one").await;
        let mut two = FakeServer::register(&cluster, "two").await;
        one.beat().await.unwrap();
        two.beat().await.unwrap();
        let Response::Upload {
            upload,
            generation,
            chunks,
            ..
        } = client.run(open("/f")).await.unwrap()
        else {
            panic!("no upload");
        };
        let chunk = chunks[0].chunk;
        let expires = chunks[0].replicas[0].token.grant.expires;
        client.run(Op::AbortUpload { upload, generation }).await.unwrap();
        let order = loop {
            let Response::BeatAnswer { orders, now, .. } = one.beat().await.unwrap() else {
                panic!("no answer");
            };
            match orders.first() {
                Some(order) => {
                    assert!(now >= expires, "an order under a valid token");
                    break order.clone();
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let Order::Drop {
            chunk: dropped,
            replica,
        } = order
        else {
            panic!("not a drop: {order:?}");
        };
        assert_eq!(dropped, chunk);
        one.beat.done = vec![OrderDone::Dropped { chunk, replica }];
        let Response::BeatAnswer { orders, .. } = one.beat().await.unwrap() else {
            panic!("no answer");
        };
        assert!(orders.is_empty(), "what is done is noted before the answer");
        let row = Request::Query {
            query: Query::Chunk { chunk },
            freshness: Freshness::Linearizable,
        };
        let Response::Chunk(info) = client.peer.ask(&row).await.unwrap() else {
            panic!("no chunk");
        };
        assert_eq!(info.replicas.len(), 1, "the other copy is still there");
        for master in masters {
            master.stop().await;
        }
    });
}
