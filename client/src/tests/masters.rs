//! Finding the leader, and keeping one answer per command.

use std::time::{Duration, Instant};

use gabion_protocol::messages::master::Op;
use gabion_protocol::{ErrorCode, FsPath};

use super::fakes::{Cluster, Mood};
use crate::Client;

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let cluster = Cluster::start(3, 0).await;
    cluster.state.lock().leader = 2;
    let config = crate::Config {
        masters: vec![cluster.addresses[0].clone()],
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    client.mkdir(&path("/a"), false, 0o755).await.unwrap();
    let ids: Vec<u64> = client.masters().iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 3], "the leader was learned from the redirect");
}

#[tokio::test]
async fn a_command_whose_answer_is_lost_runs_once() {
    let cluster = Cluster::start(3, 0).await;
    let client = cluster.client().await;
    client.mkdir(&path("/a"), false, 0o755).await.unwrap();
    cluster.state.lock().lose_answers = 2;
    client.mkdir(&path("/b"), false, 0o755).await.unwrap();
    let state = cluster.state.lock();
    assert_eq!(state.received, 4, "sent again after each loss");
    let made = state.ran.iter().filter(|op| matches!(op, Op::Mkdir { .. })).count();
    assert_eq!(made, 2, "run once each");
}

#[tokio::test]
async fn an_answer_lost_on_a_living_connection_is_asked_for_again_soon() {
    for masters in [1, 3] {
        let cluster = Cluster::start(masters, 0).await;
        let client = cluster.client().await;
        client.mkdir(&path("/a"), false, 0o755).await.unwrap();
        cluster.state.lock().swallow_answers = 1;
        let begun = Instant::now();
        client.mkdir(&path("/b"), false, 0o755).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "of {masters} masters: {took:?}");
        let state = cluster.state.lock();
        assert_eq!(state.received, 3, "asked again once");
        assert_eq!(state.ran.len(), 2, "run once each");
    }
}

#[tokio::test]
async fn asking_again_does_not_outlast_the_time_one_waits() {
    let cluster = Cluster::start(3, 0).await;
    let config = crate::Config {
        wait: Duration::from_millis(3500),
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    cluster.state.lock().swallow_answers = 100;
    let begun = Instant::now();
    let error = client.mkdir(&path("/a"), false, 0o755).await.unwrap_err();
    let took = begun.elapsed();
    assert_eq!(error.exit_code(), 5, "{}", error.report());
    assert!((3400..4500).contains(&took.as_millis()), "{took:?}");
    let state = cluster.state.lock();
    assert_eq!((state.received, state.ran.len()), (2, 1), "no storm of repeats");
}

#[tokio::test]
async fn a_killed_leader_costs_a_moment() {
    let cluster = Cluster::start(3, 0).await;
    let client = cluster.client().await;
    client.mkdir(&path("/a"), false, 0o755).await.unwrap();
    cluster.kill_master(0);
    cluster.state.lock().leader = 99;
    let elected = std::sync::Arc::clone(&cluster);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        elected.state.lock().leader = 1;
    });
    let begun = Instant::now();
    client.mkdir(&path("/b"), false, 0o755).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(290), "no leader before: {took:?}");
    assert!(
        took < Duration::from_millis(600),
        "found soon after the election: {took:?}"
    );
}

#[tokio::test]
async fn a_hung_leader_costs_a_hedge() {
    let cluster = Cluster::start(3, 0).await;
    let client = cluster.client().await;
    client.mkdir(&path("/a"), false, 0o755).await.unwrap();
    {
        let mut state = cluster.state.lock();
        state.masters[0] = Mood::Hung;
        state.leader = 1;
    }
    let begun = Instant::now();
    client.mkdir(&path("/b"), false, 0o755).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?}");
    let begun = Instant::now();
    client.mkdir(&path("/c"), false, 0o755).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "the new leader is remembered"
    );
    // Also a client that has never met a master that answers.
    let begun = Instant::now();
    cluster.client().await;
    assert!(begun.elapsed() < Duration::from_millis(700));
}

#[tokio::test]
async fn nobody_leads_and_nobody_is_there_are_told_apart() {
    let cluster = Cluster::start(3, 0).await;
    let config = crate::Config {
        wait: Duration::from_millis(500),
        ..cluster.config()
    };
    let client = Client::connect(config.clone()).await.unwrap();
    cluster.state.lock().leader = 99;
    let error = client.mkdir(&path("/a"), false, 0o755).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), (ErrorCode::NoLeader, 5));
    assert_eq!(error.details().tried.len(), 3, "{}", error.report());
    assert!(
        error
            .report()
            .starts_with("error[NO_LEADER]: cannot make the directory /a: no master is leader")
    );

    cluster.kill_master(0);
    cluster.kill_master(1);
    let error = client.mkdir(&path("/a"), false, 0o755).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoQuorum, "{}", error.report());

    cluster.kill_master(2);
    let error = client.mkdir(&path("/a"), false, 0o755).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unreachable, "{}", error.report());
    assert!(Client::connect(config).await.unwrap_err().report().contains("refused"));
}

#[tokio::test]
async fn a_leader_that_is_silent_but_named_is_told() {
    let cluster = Cluster::start(3, 0).await;
    let config = crate::Config {
        wait: Duration::from_millis(600),
        ..cluster.config()
    };
    let client = Client::connect(config).await.unwrap();
    client.mkdir(&path("/a"), false, 0o755).await.unwrap();
    cluster.state.lock().masters[0] = Mood::Hung;
    let error = client.mkdir(&path("/b"), false, 0o755).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout, "{}", error.report());
    assert!(error.report().contains("names"), "{}", error.report());
}

#[tokio::test]
async fn a_wrong_key_is_told_at_once() {
    let cluster = Cluster::start(3, 0).await;
    let mut config = cluster.config();
    config.key.key = gabion_protocol::keys::Key::random();
    let begun = Instant::now();
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(error.exit_code(), 6, "{}", error.report());
    assert!(begun.elapsed() < Duration::from_secs(2), "no use in waiting");
}

#[tokio::test]
async fn many_commands_share_a_window() {
    let cluster = Cluster::start(3, 0).await;
    let client = cluster.client().await;
    let made = (0..300).map(|i| {
        let client = client.clone();
        tokio::spawn(async move { client.mkdir(&path(&format!("/{i}")), false, 0o755).await })
    });
    for made in made.collect::<Vec<_>>() {
        made.await.unwrap().unwrap();
    }
    assert_eq!(cluster.state.lock().ran.len(), 300);
}
