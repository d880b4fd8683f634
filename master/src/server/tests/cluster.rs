//! Three masters: redirects, the death of a leader, agreement.

use gabion_protocol::ErrorCode;
use gabion_protocol::error::Action;
use gabion_protocol::messages::master::*;

use super::fake::*;
use crate::server::Running;

pub(super) fn leader(masters: &[Option<Running>]) -> Option<usize> {
    let leads = |master: &Option<Running>| master.as_ref().is_some_and(|m| m.raft().is_established_leader());
    masters.iter().position(leads)
}

#[test]
fn a_follower_redirects_and_a_dead_leader_costs_no_command() {
    block_on(async {
        let cluster = Cluster::of(3);
        let mut masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut client = cluster.client().await;
        client.run(mkdir("/before")).await.unwrap();
        let first = leader(&masters).unwrap();
        client.peer.at = (first + 1) % 3;
        let redirect = client.peer.once(&Request::OpenSession).await.unwrap_err();
        assert_eq!(
            (redirect.code, redirect.action),
            (ErrorCode::NotLeader, Action::Redirect)
        );
        assert_eq!(
            redirect.leader.as_deref(),
            Some(cluster.configs[first].client_listen.as_str())
        );
        let command = client.command(mkdir("/during"));
        client.peer.at = first;
        let answer = client.peer.ask(&command).await.unwrap();
        masters[first].take().unwrap().abort().await;
        assert_eq!(
            client.peer.ask(&command).await.unwrap(),
            answer,
            "the next leader knows the answer"
        );
        client.run(mkdir("/after")).await.unwrap();
        let second = leader(&masters).unwrap();
        assert_ne!(first, second);
        let list = Request::Query {
            query: Query::List {
                path: path("/"),
                after: None,
                limit: 10,
            },
            freshness: Freshness::Linearizable,
        };
        let Response::Page(page) = client.peer.ask(&list).await.unwrap() else {
            panic!("no page");
        };
        let names: Vec<_> = page.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["after", "before", "during"]);
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}

#[test]
fn without_a_majority_the_error_says_so_and_stopping_hands_over() {
    block_on(async {
        let cluster = Cluster::of(3);
        let mut masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut client = cluster.client().await;
        client.run(mkdir("/a")).await.unwrap();
        let first = leader(&masters).unwrap();
        masters[first].take().unwrap().stop().await;
        client.run(mkdir("/b")).await.unwrap();
        let second = leader(&masters).unwrap();
        masters[second].take().unwrap().abort().await;
        let last = (0..3).find(|at| masters[*at].is_some()).unwrap();
        client.peer.at = last;
        let error = loop {
            // Until it has noticed, it sends to the leader it knew.
            match client.peer.once(&Request::OpenSession).await {
                Err(error) if error.code != ErrorCode::NotLeader => break error,
                other => {
                    assert!(other.is_err(), "no majority is left: {other:?}");
                    tokio::time::sleep(SECOND / 10).await;
                }
            }
        };
        assert!(
            matches!(error.code, ErrorCode::NoLeader | ErrorCode::NoQuorum),
            "{}",
            error.report()
        );
        assert_eq!(error.tried.len(), 3, "{}", error.report());
        masters[last].take().unwrap().stop().await;
    });
}

#[test]
fn a_leader_whose_machine_slept_says_so_no_more_until_it_has_proved_itself() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut client = cluster.client().await;
        client.run(mkdir("/a")).await.unwrap();
        let first = leader(&masters).unwrap();
        let raft = masters[first].as_ref().unwrap().raft();
        let term = raft.established_term();
        raft.make_up_sleep(SECOND);
        assert_eq!(raft.established_term(), None, "it gives no epoch, hence no orders");
        // Nobody reads: its own tick must ask a majority.
        let mut looked = 0;
        while raft.established_term().is_none() {
            looked += 1;
            assert!(looked < 200, "it never leads again");
            tokio::time::sleep(SECOND / 50).await;
        }
        assert_eq!(raft.established_term(), term);
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}
