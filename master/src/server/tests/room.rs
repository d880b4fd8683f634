//! Masters whose disks are nearly full: what the cluster still takes.

use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::*;

use super::cluster::leader;
use super::fake::*;
use crate::server::Running;
use crate::space::Level;

/// Tries to make a directory until the answer is of the wanted kind; gives its error, if it is one.
async fn until_mkdir(client: &mut Client, taken: bool) -> Option<gabion_protocol::WireError> {
    for number in 0..200 {
        let done = client.run(mkdir(&format!("/try-{taken}-{number}"))).await;
        match done {
            Ok(_) if taken => return None,
            Err(error) if !taken => return Some(error),
            Err(error) => assert_eq!(error.code, ErrorCode::NoSpace, "{}", error.report()),
            Ok(_) => {}
        }
        tokio::time::sleep(SECOND / 20).await;
    }
    panic!("a directory was never taken = {taken}");
}

fn pretend(masters: &[Option<Running>], at: usize, level: Option<Level>) {
    let raft = masters[at].as_ref().unwrap().raft();
    raft.pretend_room(level);
}

#[test]
fn without_room_on_a_majority_only_what_frees_room_is_taken() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut client = cluster.client().await;
        let made = client.command(mkdir("/made"));
        let answer = client.peer.ask(&made).await.unwrap();
        client.run(mkdir("/other")).await.unwrap();
        let first = leader(&masters).unwrap();
        // Two of three, the leader not among them.
        pretend(&masters, (first + 1) % 3, Some(Level::Low));
        pretend(&masters, (first + 2) % 3, Some(Level::Spent));
        let refused = until_mkdir(&mut client, false).await.unwrap();
        assert_eq!(
            (refused.code, refused.code.exit_code()),
            (ErrorCode::NoSpace, 9),
            "{}",
            refused.report()
        );
        let low = &cluster.configs[(first + 1) % 3];
        let report = refused.report();
        assert!(report.contains(&low.dir.display().to_string()), "{report}");
        assert!(report.contains(&format!("m{}", low.id)), "{report}");
        // What ran before is answered as before, and what frees room is done.
        assert_eq!(client.peer.ask(&made).await.unwrap(), answer);
        let remove = Op::Remove {
            path: path("/other"),
            recursive: false,
        };
        client.run(remove).await.unwrap();
        client.run(Op::Renew { uploads: vec![] }).await.unwrap();
        let mut server = FakeServer::register(&cluster, "one").await;
        server.beat().await.unwrap();
        let stat = Request::Query {
            query: Query::Stat { path: path("/made") },
            freshness: Freshness::Linearizable,
        };
        client.peer.ask(&stat).await.unwrap();
        // One has room again: that is a majority, and nobody was restarted.
        pretend(&masters, (first + 2) % 3, None);
        until_mkdir(&mut client, true).await;
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}

#[test]
fn a_leader_without_room_lets_another_one_lead_and_nobody_notices() {
    block_on(async {
        let cluster = Cluster::of(3);
        let masters: Vec<_> = cluster.start().await.into_iter().map(Some).collect();
        let mut client = cluster.client().await;
        client.run(mkdir("/a")).await.unwrap();
        let first = leader(&masters).unwrap();
        pretend(&masters, first, Some(Level::Spent));
        let mut moved = false;
        for number in 0..200 {
            // `run` goes where it is sent; an error would be seen here.
            client.run(mkdir(&format!("/during-{number}"))).await.unwrap();
            moved = leader(&masters).is_some_and(|now| now != first);
            if moved {
                break;
            }
            tokio::time::sleep(SECOND / 20).await;
        }
        assert!(moved, "the full master still leads");
        for master in masters.into_iter().flatten() {
            master.stop().await;
        }
    });
}
