//! Two ends over loopback: proofs, refusals, calls, streams, files, hostile bytes.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Acceptor, Connection, Dialer, Incoming, Outgoing, accept, dial};
use crate::error::{ErrorCode, WireError};
use crate::frame::Kind;
use crate::hello::{Hello, Target};
use crate::ids::{ClusterId, Incarnation, ServerId, StateTime};
use crate::keys::{Identity, Key, Role, Ticket, connection_key, unwrap_connection_key, wrap_connection_key};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const SECOND: Duration = Duration::from_secs(1);

fn identity(role: Role, id: &str) -> Identity {
    Identity { role, id: id.into() }
}

fn root() -> Key {
    Key::from_bytes([5; 32])
}

fn dialer(key: Key) -> Dialer {
    Dialer {
        cluster: CLUSTER,
        identity: identity(Role::Client, "a"),
        boot: 0,
        incarnation: Incarnation([2; 16]),
        key,
        ticket: None,
        target: Target {
            role: Role::Master,
            id: None,
        },
    }
}

fn client_key() -> Key {
    root().identity_key(CLUSTER, &identity(Role::Client, "a"))
}

fn acceptor() -> Acceptor {
    Acceptor {
        cluster: CLUSTER,
        identity: identity(Role::Master, "1"),
        boot: 1,
        incarnation: Incarnation([3; 16]),
        admit: Arc::new(|hello: &Hello| -> Result<Key, WireError> {
            Ok(root().identity_key(CLUSTER, &hello.from.identity))
        }),
    }
}

async fn meet(
    dialer: &Dialer,
    acceptor: &Acceptor,
) -> (Result<Connection, WireError>, Result<(Connection, Incoming), WireError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = async { accept(listener.accept().await.unwrap().0, acceptor).await };
    tokio::join!(dial(&address, dialer, SECOND), accepted)
}

async fn pair() -> (Connection, Connection, Incoming) {
    let (dialed, accepted) = meet(&dialer(client_key()), &acceptor()).await;
    let (accepted, incoming) = accepted.unwrap();
    (dialed.unwrap(), accepted, incoming)
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let (dialed, accepted, _incoming) = pair().await;
    assert_eq!(dialed.peer().introduction.identity, identity(Role::Master, "1"));
    assert_eq!(accepted.peer().introduction.identity, identity(Role::Client, "a"));
}

#[tokio::test]
async fn a_wrong_key_role_or_cluster_is_refused_by_both() {
    let (dialed, accepted) = meet(&dialer(Key::from_bytes([6; 32])), &acceptor()).await;
    assert_eq!(dialed.unwrap_err().code, ErrorCode::WrongKey);
    assert!(accepted.is_err());

    let mut as_operator = dialer(client_key());
    as_operator.identity.role = Role::Operator;
    let (dialed, accepted) = meet(&as_operator, &acceptor()).await;
    assert_eq!(
        dialed.unwrap_err().code,
        ErrorCode::WrongKey,
        "a client's key makes no operator"
    );
    assert!(accepted.is_err());

    let mut elsewhere = dialer(client_key());
    elsewhere.cluster = ClusterId([9; 16]);
    let (dialed, accepted) = meet(&elsewhere, &acceptor()).await;
    assert_eq!(dialed.unwrap_err().code, ErrorCode::WrongCluster);
    assert_eq!(accepted.unwrap_err().code, ErrorCode::WrongCluster);

    let mut to_another = dialer(client_key());
    to_another.target.id = Some("2".into());
    let (dialed, _) = meet(&to_another, &acceptor()).await;
    assert_eq!(dialed.unwrap_err().code, ErrorCode::Unreachable);
}

#[tokio::test]
async fn a_ticket_opens_its_server_only() {
    let server_key = |name: &str| root().identity_key(CLUSTER, &identity(Role::Chunkserver, name));
    let chunkserver = |name: &'static str| Acceptor {
        identity: identity(Role::Chunkserver, name),
        admit: Arc::new(move |hello: &Hello| {
            let ticket = hello.ticket.as_ref().filter(|t| t.bearer == hello.from.identity);
            let ticket = ticket.ok_or_else(|| WireError::new(ErrorCode::BadToken, "no ticket"))?;
            Ok(connection_key(&server_key(name), ticket))
        }),
        ..acceptor()
    };
    let ticket = Ticket {
        bearer: identity(Role::Client, "a"),
        server: ServerId(1),
        expires: StateTime(10),
        nonce: [4; 16],
    };
    let wrapped = wrap_connection_key(&server_key("c1"), &client_key(), &ticket);
    let with_ticket = Dialer {
        key: unwrap_connection_key(&client_key(), &ticket, &wrapped),
        ticket: Some(ticket),
        target: Target {
            role: Role::Chunkserver,
            id: None,
        },
        ..dialer(client_key())
    };
    let (dialed, accepted) = meet(&with_ticket, &chunkserver("c1")).await;
    assert!(dialed.is_ok() && accepted.is_ok());
    let (dialed, accepted) = meet(&with_ticket, &chunkserver("c2")).await;
    assert_eq!(dialed.unwrap_err().code, ErrorCode::WrongKey);
    assert!(accepted.is_err());
}

#[tokio::test]
async fn calls_are_answered_whatever_the_order() {
    let (dialed, accepted, mut incoming) = pair().await;
    let server = tokio::spawn(async move {
        let mut frames = Vec::new();
        for _ in 0..10 {
            frames.push(incoming.recv().await.unwrap());
        }
        for frame in frames.into_iter().rev() {
            let number: u32 = crate::messages::decode(&frame.message).unwrap();
            accepted
                .answer(Kind::MasterResponse, frame.stream, &Ok(number * 2), frame.payload)
                .await
                .unwrap();
        }
    });
    let calls = (0..10u32).map(|n| {
        let dialed = dialed.clone();
        tokio::spawn(async move {
            let payload = Bytes::from(vec![n as u8; n as usize * 100_000]);
            let (answer, echoed): (u32, Bytes) = dialed
                .call(Kind::MasterRequest, &n, payload.clone(), SECOND * 5)
                .await
                .unwrap();
            assert_eq!((answer, echoed), (n * 2, payload));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    server.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_vanishes_fails_calls_at_once() {
    let (dialed, accepted, mut incoming) = pair().await;
    let call = dialed.call::<_, ()>(Kind::MasterRequest, &1u32, Bytes::new(), SECOND * 60);
    let vanish = async {
        incoming.recv().await.unwrap();
        accepted.close();
    };
    let (answer, ()) = tokio::join!(call, vanish);
    assert_eq!(answer.unwrap_err().code, ErrorCode::Unreachable);
    dialed.closed().await;
    let again = dialed
        .call::<_, ()>(Kind::MasterRequest, &1u32, Bytes::new(), SECOND)
        .await;
    assert_eq!(again.unwrap_err().code, ErrorCode::Unreachable);
}

#[tokio::test]
async fn a_silent_peer_costs_the_deadline_only() {
    let (dialed, _accepted, _incoming) = pair().await;
    let answer = dialed
        .call::<_, ()>(Kind::MasterRequest, &1u32, Bytes::new(), Duration::from_millis(50))
        .await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::Timeout);
}

#[tokio::test]
async fn a_stream_beyond_its_credits_ends_and_others_go_on() {
    let (dialed, accepted, mut incoming) = pair().await;
    let mut greedy = dialed.open_stream(2).unwrap();
    let mut modest = dialed.open_stream(2).unwrap();
    for stream in [greedy.id(), greedy.id(), greedy.id(), modest.id()] {
        accepted
            .send_message(Kind::FromServer, stream, &0u8, Bytes::new())
            .await
            .unwrap();
    }
    assert!(modest.receive().await.is_some());
    assert!(greedy.receive().await.is_some());
    assert!(greedy.receive().await.is_some());
    assert!(greedy.receive().await.is_none(), "the third frame ended the stream");
    modest.send(Kind::ToServer, &1u8, Bytes::new()).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap().stream, modest.id());
}

#[tokio::test]
async fn a_file_is_sent_whole_or_the_connection_ends() {
    let (dialed, accepted, mut incoming) = pair().await;
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    file.write_all(&content).unwrap();
    let file = Arc::new(file);
    let serve = async {
        for len in [2_000_000, 4_000_000] {
            let frame = incoming.recv().await.unwrap();
            let outgoing = Outgoing::File {
                kind: Kind::DataResponse,
                stream: frame.stream,
                message: crate::messages::encode(&Ok::<u8, WireError>(7)),
                file: Arc::clone(&file),
                offset: 1000,
                len,
            };
            accepted.send(outgoing).await.unwrap();
        }
    };
    let ask = async {
        let first = dialed
            .call::<_, u8>(Kind::DataRequest, &0u8, Bytes::new(), SECOND * 5)
            .await
            .unwrap();
        assert_eq!(first.1, content[1000..2_001_000]);
        let second = dialed
            .call::<_, u8>(Kind::DataRequest, &0u8, Bytes::new(), SECOND * 5)
            .await;
        assert_eq!(second.unwrap_err().code, ErrorCode::Unreachable);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn strangers_are_turned_away_at_once() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        b"GBN1\x01\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = async {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let mut rest = Vec::new();
            // A reset is as good as an end.
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        };
        let (server, _) = (acceptor(), ());
        let accepted = async { accept(listener.accept().await.unwrap().0, &server).await.map(|_| ()) };
        let ((), accepted) = tokio::time::timeout(SECOND, async { tokio::join!(stranger, accepted) })
            .await
            .unwrap();
        assert!(accepted.is_err());
    }
}
