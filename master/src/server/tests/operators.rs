//! Operators: members, leadership, snapshots. Each request may be repeated, and is refused to everyone else.

use gabion_protocol::ErrorCode;
use gabion_protocol::error::Action;
use gabion_protocol::ids::MasterId;
use gabion_protocol::keys::Role;
use gabion_protocol::messages::master::*;

use super::cluster::leader;
use super::fake::*;
use crate::server::start;

fn transfer(to: Option<u64>) -> Request {
    Request::Admin(Admin::TransferLeader { to: to.map(MasterId) })
}

async fn status(peer: &mut Peer) -> Status {
    let request = Request::Query {
        query: Query::Status,
        freshness: Freshness::Linearizable,
    };
    match peer.ask(&request).await.unwrap() {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_operators_run_the_cluster_and_only_the_leader_obeys() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut operator = cluster.peer(Role::Operator, "root");
        status(&mut operator).await;
        let leads = leader(&masters).unwrap();
        let requests = [
            Admin::AddMaster {
                id: MasterId(9),
                raft_address: "127.0.0.1:9".into(),
                client_address: "127.0.0.1:99".into(),
                replaces: None,
            },
            Admin::RemoveMaster { id: MasterId(1) },
            Admin::TransferLeader { to: None },
            Admin::Snapshot,
            Admin::MarkHash,
        ];
        for admin in requests {
            let request = Request::Admin(admin);
            for role in [Role::Client, Role::Chunkserver] {
                let mut other = cluster.peer(role, "eve");
                other.at = leads;
                let refused = other.once(&request).await.unwrap_err();
                assert_eq!(refused.code, ErrorCode::WrongRole, "{role}: {request:?}");
            }
            let mut elsewhere = cluster.peer(Role::Operator, "root");
            elsewhere.at = (leads + 1) % 3;
            let redirected = elsewhere.once(&request).await.unwrap_err();
            assert_eq!(redirected.action, Action::Redirect, "{request:?}");
        }
        let after = status(&mut operator).await;
        assert_eq!(after.masters.len(), 3, "nothing was done");
        assert_eq!(after.leader, Some(MasterId(cluster.configs[leads].id)));
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}

#[test]
fn leadership_moves_where_it_is_told_and_a_repeated_request_changes_nothing() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut operator = cluster.peer(Role::Operator, "root");
        let first = status(&mut operator).await.leader.unwrap();
        let heir = first.0 % 3 + 1;
        assert_eq!(operator.ask(&transfer(Some(heir))).await.unwrap(), Response::Done);
        let then = status(&mut operator).await;
        assert_eq!(then.leader, Some(MasterId(heir)));
        assert_eq!(operator.ask(&transfer(Some(heir))).await.unwrap(), Response::Done);
        assert_eq!(status(&mut operator).await.term, then.term, "it leads already");
        assert_eq!(operator.ask(&transfer(None)).await.unwrap(), Response::Done);
        assert_ne!(status(&mut operator).await.leader, Some(MasterId(heir)));
        let unknown = operator.ask(&transfer(Some(9))).await.unwrap_err();
        assert_eq!(
            (unknown.code, unknown.action),
            (ErrorCode::NotFound, Action::GiveUp),
            "{}",
            unknown.report()
        );
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}

#[test]
fn a_master_is_added_and_removed_once_and_its_id_is_burnt() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let config = cluster.joining(4);
        let fourth = start(&config).await.unwrap();
        let add = |id: u64| {
            Request::Admin(Admin::AddMaster {
                id: MasterId(id),
                raft_address: config.raft_listen.clone(),
                client_address: config.client_listen.clone(),
                replaces: None,
            })
        };
        let mut operator = cluster.peer(Role::Operator, "root");
        assert_eq!(operator.ask(&add(4)).await.unwrap(), Response::Done);
        let four = status(&mut operator).await.masters;
        let added = four.iter().find(|master| master.id == MasterId(4)).unwrap();
        assert!(added.voter && added.client_address == config.client_listen, "{added:?}");
        let again = operator.ask(&add(4)).await.unwrap_err();
        assert_eq!(again.code, ErrorCode::Exists, "{}", again.report());
        assert_eq!(
            status(&mut operator).await.masters.len(),
            4,
            "repeated, it changes nothing"
        );
        let remove = Request::Admin(Admin::RemoveMaster { id: MasterId(4) });
        assert_eq!(operator.ask(&remove).await.unwrap(), Response::Done);
        assert_eq!(status(&mut operator).await.masters.len(), 3);
        let again = operator.ask(&remove).await.unwrap_err();
        assert_eq!(again.code, ErrorCode::NotFound, "{}", again.report());
        let burnt = operator.ask(&add(4)).await.unwrap_err();
        assert_eq!(burnt.code, ErrorCode::Conflict, "{}", burnt.report());
        assert!(burnt.report().contains("never used again"), "{}", burnt.report());
        fourth.abort().await;
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}

#[test]
fn a_snapshot_is_made_when_asked_for_and_asking_twice_does_no_harm() {
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        client.run(mkdir("/a")).await.unwrap();
        let mut operator = cluster.peer(Role::Operator, "root");
        assert_eq!(status(&mut operator).await.snapshot, None);
        let snapshot = Request::Admin(Admin::Snapshot);
        for _ in 0..2 {
            let at_least = status(&mut operator).await.applied;
            assert_eq!(operator.ask(&snapshot).await.unwrap(), Response::Done);
            let mut asked = 0;
            while status(&mut operator).await.snapshot < Some(at_least) {
                asked += 1;
                assert!(asked < 400, "no snapshot appeared");
                tokio::time::sleep(SECOND / 50).await;
            }
        }
        for master in masters {
            master.stop().await;
        }
        let masters = cluster.start().await;
        let stat = Request::Query {
            query: Query::Stat { path: path("/a") },
            freshness: Freshness::Linearizable,
        };
        client.peer.ask(&stat).await.unwrap();
        for master in masters {
            master.stop().await;
        }
    });
}
