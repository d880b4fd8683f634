//! Chains of chunkservers over real sockets: writes, reads, refusals, and servers that die or hang in the middle.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::cluster::*;
use crate::common::{chunk, content, data_file};
use bytes::Bytes;
use gabion_protocol::checksum::{block_crcs, crc};
use gabion_protocol::frame::Kind;
use gabion_protocol::messages::data::{FromServer, Request, Response, ToServer, Verdict};
use gabion_protocol::messages::master::{Order, OrderDone};
use gabion_protocol::token::{Mode, Token};
use gabion_protocol::{Epoch, ErrorCode, Generation, MasterId, ServerId, StateTime};

const MIB: usize = 1 << 20;

fn sealed(bytes: &Bytes) -> FromServer {
    FromServer::Sealed {
        length: bytes.len() as u64,
        crc: crc(bytes),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_down_a_chain_is_on_every_server() {
    let cluster = TestCluster::start(3).await;
    let head = cluster.connect(0).await;
    for (counter, len) in [(1, 1), (2, 65_537), (3, 9 * MIB + 12_345)] {
        let bytes = content(counter, len);
        assert_eq!(write_chunk(&head, cluster.spec(counter), &bytes).await, sealed(&bytes));
        for (n, node) in cluster.nodes.iter().enumerate() {
            assert_eq!(
                std::fs::read(data_file(&node.dir, counter)).unwrap(),
                bytes,
                "on disk before the answer"
            );
            let connection = cluster.connect(n).await;
            assert_eq!(read_chunk(&connection, counter, node.number).await.unwrap(), bytes);
            let verify = Request::Verify {
                token: token(chunk(counter), node.number, Mode::Read),
            };
            let (verdict, _) = ask(&connection, &verify, Bytes::new()).await.unwrap();
            let good = Verdict::Good {
                length: len as u64,
                crc: crc(&bytes),
            };
            assert_eq!(verdict, Response::Verified(good));
        }
    }
    let again = Writer::open(&head, cluster.spec(3)).await.err().unwrap();
    assert_eq!(again.code, ErrorCode::Fenced, "a sealed chunk is never written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_chunk_is_one_request_and_may_be_repeated() {
    let cluster = TestCluster::start(3).await;
    let head = cluster.connect(0).await;
    let bytes = content(1, 100_000);
    let put = Request::PutSmall {
        spec: cluster.spec(1),
        crcs: block_crcs(&bytes),
    };
    for _ in 0..2 {
        let (response, _) = ask(&head, &put, bytes.clone()).await.unwrap();
        let sealed = Response::Sealed {
            length: 100_000,
            crc: crc(&bytes),
        };
        assert_eq!(response, sealed);
    }
    for n in 0..3 {
        let connection = cluster.connect(n).await;
        assert_eq!(read_chunk(&connection, 1, n as u32 + 1).await.unwrap(), bytes);
    }
    let mut crcs = block_crcs(&bytes);
    crcs[1] ^= 1;
    let wrong = Request::PutSmall {
        spec: cluster.spec(2),
        crcs,
    };
    assert_eq!(
        ask(&head, &wrong, bytes).await.unwrap_err().code,
        ErrorCode::ChecksumMismatch
    );
    assert_eq!(cluster.nodes[0].store.load().chunks, 1, "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_with_a_wrong_checksum_ends_the_stream_and_is_not_stored() {
    let cluster = TestCluster::start(2).await;
    let head = cluster.connect(0).await;
    let mut writer = Writer::open(&head, cluster.spec(1)).await.unwrap();
    let bytes = content(1, MIB);
    let mut crcs = block_crcs(&bytes);
    crcs[3] ^= 1;
    writer.packet(&bytes, crcs).await.unwrap();
    let FromServer::Failed { hop: 0, error } = writer.end().await else {
        panic!()
    };
    assert_eq!(error.code, ErrorCode::ChecksumMismatch);
    assert_eq!(read_chunk(&head, 1, 1).await.unwrap_err().code, ErrorCode::Missing);
    let mut writer = Writer::open(&head, cluster.spec(2)).await.unwrap();
    writer.send(&bytes).await.unwrap();
    let FromServer::Failed { hop: 0, error } = writer.seal(MIB as u64, 1).await else {
        panic!()
    };
    assert_eq!(error.code, ErrorCode::ChecksumMismatch, "a seal with another CRC");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_a_limit() {
    let cluster = TestCluster::start(1).await;
    let head = cluster.connect(0).await;
    let mut writer = Writer::open(&head, cluster.spec(1)).await.unwrap();
    assert!(writer.window >= MIB as u64);
    let bytes = content(1, 4 * MIB);
    let crcs = block_crcs(&bytes);
    for _ in 0..16 {
        // The largest frames there are, without waiting for acks.
        if writer.packet(&bytes, crcs.clone()).await.is_err() {
            break;
        }
    }
    let ended = tokio::time::timeout(SECOND * 10, writer.end()).await;
    if let Ok(message) = ended {
        assert!(matches!(message, FromServer::Failed { .. }), "{message:?}");
    }
    // The connection and its other streams go on.
    let bytes = content(2, 3 * MIB);
    assert_eq!(write_chunk(&head, cluster.spec(2), &bytes).await, sealed(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_checked_before_any_io() {
    let cluster = TestCluster::start(2).await;
    let head = cluster.connect(0).await;
    let good = grant(chunk(1), 1, Mode::Write);
    let sign = |grant| Token::sign(grant, &server_key(1));
    let mut wrong = Vec::new();
    wrong.push(("another server's key", Token::sign(good, &server_key(2))));
    let mut other = good;
    other.server = ServerId(2);
    wrong.push(("another server", sign(other)));
    other = good;
    other.chunk = chunk(2);
    wrong.push(("another chunk", sign(other)));
    other = good;
    other.mode = Mode::Read;
    wrong.push(("another mode", sign(other)));
    other = good;
    other.expires = StateTime(5);
    wrong.push(("expired", sign(other)));
    other = good;
    other.generation = Generation(2);
    wrong.push(("another generation", sign(other)));
    for (what, token) in wrong {
        let mut spec = cluster.spec(1);
        spec.chain[0].token = token;
        let error = Writer::open(&head, spec.clone()).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::BadToken, "{what}");
        let bytes = content(1, 10);
        let put = Request::PutSmall {
            spec,
            crcs: block_crcs(&bytes),
        };
        assert_eq!(
            ask(&head, &put, bytes).await.unwrap_err().code,
            ErrorCode::BadToken,
            "{what}"
        );
    }
    let read = Request::Read {
        token: token(chunk(1), 1, Mode::Write),
        offset: 0,
        length: 1,
    };
    assert_eq!(
        ask(&head, &read, Bytes::new()).await.unwrap_err().code,
        ErrorCode::BadToken
    );
    assert!(!data_file(&cluster.nodes[0].dir, 1).exists());
    assert_eq!(cluster.nodes[0].store.load().chunks, 0);
    // The head's token is good, the next hop's is not: the error comes up with the server's number.
    let mut spec = cluster.spec(3);
    spec.chain[1].token = spec.chain[0].token;
    let error = Writer::open(&head, spec).await.err().unwrap();
    assert_eq!(
        (error.code, error.tried[0].what.as_str()),
        (ErrorCode::BadToken, "server 2")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_admitted() {
    let cluster = TestCluster::start(1).await;
    let address = &cluster.nodes[0].address;
    let error = connect(address, 2).await.unwrap_err();
    assert!(
        matches!(error.code, ErrorCode::Unreachable | ErrorCode::BadToken),
        "another server's ticket: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_is_named() {
    let mut cluster = TestCluster::start(3).await;
    let head = cluster.connect(0).await;
    let mut writer = Writer::open(&head, cluster.spec(1)).await.unwrap();
    writer.send(&content(1, 2 * MIB)).await.unwrap();
    cluster.nodes[1].kill();
    let failed = match writer.send(&content(1, 30 * MIB)).await {
        Err(failed) => failed,
        Ok(()) => writer.end().await,
    };
    assert!(matches!(failed, FromServer::Failed { hop: 1, .. }), "{failed:?}");
    // The head lives, and what it has is still open.
    let bytes = content(2, 2 * MIB);
    let mut alone = cluster.spec(2);
    alone.chain.truncate(1);
    assert_eq!(write_chunk(&head, alone, &bytes).await, sealed(&bytes));
    assert_eq!(read_chunk(&head, 1, 1).await.unwrap_err().code, ErrorCode::Missing);
    let mut spec = cluster.spec(3);
    spec.chain.remove(2);
    let error = Writer::open(&head, spec).await.err().unwrap();
    assert_eq!(error.tried.last().unwrap().what, "server 2");
}

/// A server of the chain that accepts a stream and then neither reads nor answers.
async fn mute_server(cluster: &TestCluster, number: u32) -> String {
    use gabion_protocol::keys::{Role, connection_key};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    cluster
        .master
        .script
        .lock()
        .addresses
        .insert(ServerId(number), address.clone());
    let acceptor = gabion_protocol::net::Acceptor {
        cluster: root().cluster,
        identity: identity(Role::Chunkserver, &format!("c{number}")),
        boot: 1,
        incarnation: gabion_protocol::Incarnation::random(),
        admit: std::sync::Arc::new(move |hello: &gabion_protocol::hello::Hello| {
            Ok(connection_key(&server_key(number), hello.ticket.as_ref().unwrap()))
        }),
    };
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (connection, mut incoming) = gabion_protocol::net::accept(socket, &acceptor).await.unwrap();
        let open = incoming.recv().await.unwrap();
        let answer: gabion_protocol::messages::Answer<Response> = Ok(Response::Opened { window_bytes: 4 << 20 });
        connection
            .answer(Kind::DataResponse, open.stream, &answer, Bytes::new())
            .await
            .unwrap();
        // Holds everything and reads nothing.
        std::future::pending::<()>().await;
        drop((connection, incoming));
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_stalls_its_stream_only_and_is_visible() {
    let cluster = TestCluster::start(1).await;
    let address = mute_server(&cluster, 2).await;
    let head = cluster.connect(0).await;
    let own = cluster.nodes[0].address.clone();
    let stalled_spec = spec(1, &[(1, own.clone()), (2, address)]);
    let mut stalled = Writer::open(&head, stalled_spec).await.unwrap();
    let bytes = content(1, stalled.window as usize);
    stalled.send(&bytes).await.unwrap();
    // The head tells how far it is itself, so that the writer sees who hangs.
    while stalled.acked[0] < stalled.sent {
        assert!(matches!(stalled.hear().await, Some(FromServer::Ack { .. })));
    }
    assert_eq!(stalled.acked, [stalled.sent, 0]);
    let other = content(2, 5 * MIB);
    assert_eq!(write_chunk(&head, spec(2, &[(1, own)]), &other).await, sealed(&other));
    let (alive, _) = ask(&head, &Request::Probe, Bytes::new()).await.unwrap();
    assert_eq!(alive, Response::Alive);
    // Giving up frees the chunk for a new attempt.
    stalled
        .stream
        .send(Kind::ToServer, &ToServer::Abort, Bytes::new())
        .await
        .unwrap();
    let again = spec(1, &[(1, cluster.nodes[0].address.clone())]);
    let deadline = tokio::time::Instant::now() + SECOND * 10;
    let reopened = loop {
        match Writer::open(&head, again.clone()).await {
            Ok(writer) => break writer,
            Err(error) => assert_eq!(error.code, ErrorCode::Busy),
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(reopened.sent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_obeyed_from_the_highest_epoch_only_and_confirmed() {
    let cluster = TestCluster::start(1).await;
    let head = cluster.connect(0).await;
    for counter in [1, 2] {
        let bytes = content(counter, 2 * MIB);
        assert_eq!(write_chunk(&head, cluster.spec(counter), &bytes).await, sealed(&bytes));
    }
    let drop = |counter| {
        let replica = grant(chunk(counter), 1, Mode::Write).replica;
        (
            Order::Drop {
                chunk: chunk(counter),
                replica,
            },
            OrderDone::Dropped {
                chunk: chunk(counter),
                replica,
            },
        )
    };
    let (order, done) = drop(1);
    let script = &cluster.master.script;
    script.lock().orders.insert(ServerId(1), vec![order]);
    until("the drop is confirmed", || script.lock().done.contains(&done)).await;
    assert!(!data_file(&cluster.nodes[0].dir, 1).exists());
    // A master of an older term is no leader any more, whatever it believes.
    let (order, done) = drop(2);
    let beats = {
        let mut script = script.lock();
        script.epoch = Some(Epoch {
            term: 4,
            leader: MasterId(9),
        });
        script.orders.insert(ServerId(1), vec![order]);
        script.beats
    };
    until("more beats", || script.lock().beats > beats + 3).await;
    assert!(!script.lock().done.contains(&done));
    assert!(data_file(&cluster.nodes[0].dir, 2).exists());
    assert_eq!(
        cluster.nodes[0].store.epoch().await.unwrap().term,
        5,
        "remembered on disk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_reported_and_the_copy_not_served_again() {
    let cluster = TestCluster::start(1).await;
    let head = cluster.connect(0).await;
    let bytes = content(1, 2 * MIB);
    assert_eq!(write_chunk(&head, cluster.spec(1), &bytes).await, sealed(&bytes));
    let path = data_file(&cluster.nodes[0].dir, 1);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!bytes[700_000]], 700_000).unwrap();
    file.sync_all().unwrap();
    let verify = Request::Verify {
        token: token(chunk(1), 1, Mode::Read),
    };
    let (verdict, _) = ask(&head, &verify, Bytes::new()).await.unwrap();
    assert!(
        matches!(verdict, Response::Verified(Verdict::Damaged { offset: 655_360, .. })),
        "{verdict:?}"
    );
    assert_eq!(read_chunk(&head, 1, 1).await.unwrap_err().code, ErrorCode::Corrupt);
    let script = &cluster.master.script;
    until("the damage is reported", || {
        script.lock().damaged.iter().any(|damage| damage.chunk == chunk(1))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_writes_end_and_a_restart_serves_them() {
    let mut cluster = TestCluster::start(1).await;
    let head = cluster.connect(0).await;
    let bytes = content(1, 3 * MIB);
    let mut writer = Writer::open(&head, cluster.spec(1)).await.unwrap();
    writer.send(&bytes).await.unwrap();
    let node = cluster.nodes.remove(0);
    let dir = node.dir.clone();
    let stopping = tokio::spawn(node.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(writer.seal(bytes.len() as u64, crc(&bytes)).await, sealed(&bytes));
    drop(head);
    stopping.await.unwrap().unwrap();
    cluster.nodes.push(Node::start(1, dir, &cluster.master).await);
    let head = cluster.connect(0).await;
    assert_eq!(read_chunk(&head, 1, 1).await.unwrap(), bytes);
}
