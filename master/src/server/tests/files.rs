//! Names, sessions, roles.

use gabion_protocol::ErrorCode;
use gabion_protocol::keys::{Key, Role};
use gabion_protocol::messages::master::*;

use super::fake::*;

fn stat(text: &str) -> Request {
    Request::Query {
        query: Query::Stat { path: path(text) },
        freshness: Freshness::Linearizable,
    }
}

#[test]
fn a_repeated_command_runs_once() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let command = client.command(mkdir("/a"));
        let first = client.peer.ask(&command).await.unwrap();
        assert!(matches!(&first, Response::Entry(entry) if entry.name == "a"));
        assert_eq!(
            client.peer.ask(&command).await.unwrap(),
            first,
            "a retry gets the first answer"
        );
        let again = client.run(mkdir("/a")).await.unwrap_err();
        assert_eq!(again.code, ErrorCode::Exists, "another command is told the truth");
        assert!(again.message.starts_with("cannot make directory /a"), "{again}");
        let found = client.peer.ask(&stat("/a")).await.unwrap();
        assert!(matches!(found, Response::Entry(entry) if entry.kind == EntryKind::Directory));
        let missing = client.peer.ask(&stat("/b")).await.unwrap_err();
        assert_eq!(missing.code, ErrorCode::NotFound);
        for master in masters {
            master.stop().await;
        }
        let masters = cluster.start().await;
        assert_eq!(client.peer.ask(&command).await.unwrap(), first, "also after a restart");
        assert!(client.peer.ask(&stat("/a")).await.is_ok());
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn roles_and_keys_are_held_apart() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let mark = Request::Admin(Admin::MarkHash);
        assert_eq!(client.peer.ask(&mark).await.unwrap_err().code, ErrorCode::WrongRole);
        let mut forger = cluster.peer(Role::Client, "ann");
        forger.dialer.key = Key::random();
        assert_eq!(forger.once(&mark).await.unwrap_err().code, ErrorCode::WrongKey);
        let mut lost = cluster.peer(Role::Master, "2");
        assert_eq!(lost.once(&mark).await.unwrap_err().code, ErrorCode::WrongRole);
        let mut operator = cluster.peer(Role::Operator, "root");
        let marked = operator.ask(&mark).await.unwrap();
        let Response::Marked { index } = marked else {
            panic!("{marked:?}");
        };
        let hash = Request::Query {
            query: Query::StateHash { index },
            freshness: Freshness::Stale,
        };
        loop {
            let Response::StateHash { hash, applied } = operator.ask(&hash).await.unwrap() else {
                panic!("no hash");
            };
            assert!(applied >= index);
            if hash.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn a_frame_that_is_no_request_is_refused_and_the_next_one_served() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let client = cluster.client().await;
        let dialed = gabion_protocol::net::dial(&client.peer.addresses[0], &client.peer.dialer, SECOND);
        let connection = dialed.await.unwrap();
        let kind = gabion_protocol::frame::Kind::MasterRequest;
        let garbage = connection.call::<_, Response>(kind, &(250u8, 1u64), bytes::Bytes::new(), SECOND);
        assert_eq!(garbage.await.unwrap_err().code, ErrorCode::Protocol);
        let opened = connection.call::<_, Response>(kind, &Request::OpenSession, bytes::Bytes::new(), SECOND);
        assert!(opened.await.is_ok());
        for master in masters {
            master.stop().await;
        }
    });
}
