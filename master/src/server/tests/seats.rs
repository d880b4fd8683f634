//! Connections: who fills his own seats keeps nobody else out, and silence keeps nobody waiting.

use std::net::TcpStream;
use std::time::Instant;

use gabion_protocol::ErrorCode;
use gabion_protocol::hello::Target;
use gabion_protocol::keys::Role;
use gabion_protocol::messages::master::*;
use gabion_protocol::net::{SeatCounts, dial};
use gabion_protocol::process::raise_file_limit;

use super::fake::*;
use crate::server::run::start_with;

/// More than there are handshakes at one time.
const SILENT: usize = 300;

#[test]
fn silent_sockets_keep_nobody_waiting() {
    raise_file_limit();
    block_on(async {
        let cluster = Cluster::of(1);
        let masters = cluster.start().await;
        let config = &cluster.configs[0];
        let silent =
            |address: &str| -> Vec<TcpStream> { (0..SILENT).map(|_| TcpStream::connect(address).unwrap()).collect() };
        // Each silent one would be let go after 5 s, and connecting them takes a second at most.
        let soon = SECOND * 5 / 2;
        let clients = silent(&config.client_listen);
        let began = Instant::now();
        let mut client = cluster.client().await;
        client.run(mkdir("/a")).await.unwrap();
        let mut server = FakeServer::register(&cluster, "one").await;
        server.beat().await.unwrap();
        assert!(began.elapsed() < soon, "after {:?}", began.elapsed());
        let masters_silent = silent(&config.raft_listen);
        let began = Instant::now();
        let mut master = cluster.peer(Role::Master, "2").dialer;
        master.target = Target {
            role: Role::Master,
            id: Some("1".into()),
        };
        dial(&config.raft_listen, &master, soon).await.unwrap();
        assert!(began.elapsed() < soon, "after {:?}", began.elapsed());
        drop((clients, masters_silent));
        for master in masters {
            master.stop().await;
        }
    });
}

#[test]
fn clients_keep_only_clients_out() {
    block_on(async {
        let cluster = Cluster::of(1);
        let seats = SeatCounts {
            clients: 3,
            operators: 1,
            chunkservers: 1,
            masters: 1,
        };
        let master = start_with(&cluster.configs[0], seats).await.unwrap();
        let address = &cluster.configs[0].client_listen;
        let client = cluster.peer(Role::Client, "ann").dialer;
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(dial(address, &client, SECOND).await.unwrap());
        }
        let refused = dial(address, &client, SECOND).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Busy, "{}", refused.report());
        assert!(refused.report().contains("3 of role client"), "{}", refused.report());
        // Without a proof nobody takes a chunkserver's seat.
        let mut forger = cluster.peer(Role::Chunkserver, "two").dialer;
        forger.key = client.key.clone();
        assert_eq!(
            dial(address, &forger, SECOND).await.unwrap_err().code,
            ErrorCode::WrongKey
        );
        let mut server = FakeServer::register(&cluster, "one").await;
        server.beat().await.unwrap();
        let mut operator = cluster.peer(Role::Operator, "root");
        operator.ask(&Request::Admin(Admin::MarkHash)).await.unwrap();
        // A seat comes back with the end of its connection.
        taken.pop().unwrap().close();
        let mut again = cluster.peer(Role::Client, "ann");
        again.ask(&Request::OpenSession).await.unwrap();
        master.stop().await;
    });
}
