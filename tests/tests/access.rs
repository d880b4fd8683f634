//! Nobody reads or writes a chunk without a master's word (DESIGN §10): tickets let a peer in, tokens let it touch a
//! chunk, and neither can be forged, borrowed, or used after its time.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::frame::Kind;
use gabion_protocol::hello::Target;
use gabion_protocol::ids::Generation;
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::data::{Hop, Request, Response, WriteSpec};
use gabion_protocol::messages::master::{Located, ServerAccess};
use gabion_protocol::net::{Connection, Dialer, dial};
use gabion_protocol::token::{Mode, Token};
use gabion_protocol::{ErrorCode, WireError};
use gabion_tests::cluster::Cluster;
use gabion_tests::{MIB, content, seconds, until};

fn call(cluster: &Cluster, connection: &Connection, request: &Request) -> Result<Response, WireError> {
    let call = connection.call(Kind::DataRequest, request, bytes::Bytes::new(), seconds(5));
    cluster.runtime().block_on(call).map(|(answer, _)| answer)
}

fn read(token: Token) -> Request {
    Request::Read {
        token,
        offset: 0,
        length: 1000,
    }
}

/// Where the first chunk's first copy is, how to get there, and the right to read it.
fn first_copy(located: &Located) -> (ServerAccess, Token) {
    let replica = &located.extents[0].replicas[0];
    let access = located.servers.iter().find(|access| access.server == replica.server);
    (access.unwrap().clone(), replica.token)
}

fn refused(what: &str, answer: Result<Response, WireError>) {
    match answer {
        Err(error) => assert_eq!(error.code, ErrorCode::BadToken, "{what}: {error}"),
        Ok(answer) => panic!("{what} was let through: {answer:?}"),
    }
}

/// A token is for one chunk, one server, one use and a time. Each lie is told about a token that works.
#[test]
fn tokens_allow_what_they_say_and_nothing_else() {
    let cluster = Cluster::plan().master_tables("[timing]\ntoken = \"3s\"\n").start();
    for (seed, path) in [(1, "/a"), (2, "/b")] {
        cluster
            .gabion()
            .args(["upload", "-", path])
            .run_with(&content::bytes(seed, MIB))
            .ok();
    }
    let (a, b) = (cluster.locate("/a"), cluster.locate("/b"));
    let (access, token) = first_copy(&a);
    let connection = cluster.dial_server(&access, &access.address).unwrap();
    assert!(
        matches!(call(&cluster, &connection, &read(token)), Ok(Response::Blocks { .. })),
        "the good one works"
    );

    let mut other_chunk = token;
    other_chunk.grant.chunk = b.extents[0].chunk;
    refused(
        "a token changed to another chunk",
        call(&cluster, &connection, &read(other_chunk)),
    );
    let mut longer = token;
    longer.grant.expires = longer.grant.expires.plus(1_000_000);
    refused(
        "a token made to last longer",
        call(&cluster, &connection, &read(longer)),
    );
    let elsewhere = a.extents[0]
        .replicas
        .iter()
        .find(|replica| replica.server != access.server)
        .unwrap();
    refused(
        "another server's token",
        call(&cluster, &connection, &read(elsewhere.token)),
    );
    let mut writing = token;
    writing.grant.mode = Mode::Write;
    for (what, forged) in [("a token to read", token), ("a token changed to write", writing)] {
        let hop = Hop {
            server: access.server,
            address: access.address.clone(),
            token: forged,
        };
        let spec = WriteSpec {
            chunk: token.grant.chunk,
            generation: Generation(token.grant.generation.0),
            chain: vec![hop],
            owner: a.entry.ino,
            file_offset: 0,
            bytes_max: MIB,
        };
        refused(what, call(&cluster, &connection, &Request::OpenWrite(spec)));
    }
    until("the token expires", seconds(20), || {
        matches!(call(&cluster, &connection, &read(token)), Err(error) if error.code == ErrorCode::BadToken)
            .then_some(())
    });
    cluster.assert_clean();
}

/// A ticket opens one server to one bearer; without one nobody comes in, whatever key they hold.
#[test]
fn tickets_open_one_server_to_one_bearer() {
    let mut cluster = Cluster::plan().start();
    cluster
        .gabion()
        .args(["upload", "-", "/a"])
        .run_with(&content::bytes(1, MIB))
        .ok();
    let (access, _) = first_copy(&cluster.locate("/a"));
    cluster
        .dial_server(&access, &access.address)
        .expect("the good one works");

    let turned_away = |what: &str, result: Result<Connection, WireError>| {
        let Err(error) = result else {
            panic!("{what} was let in")
        };
        assert_eq!(error.code.exit_code(), 6, "{what}: {error}");
    };
    let other = cluster
        .chunkservers()
        .into_iter()
        .find(|name| *name != access.name)
        .unwrap();
    turned_away(
        "a ticket of another server",
        cluster.dial_server(&access, &cluster.node(&other).address),
    );
    let mut changed = access.clone();
    changed.ticket.expires = changed.ticket.expires.plus(1_000_000);
    turned_away("a changed ticket", cluster.dial_server(&changed, &access.address));
    let mut stolen = access.clone();
    stolen.ticket.bearer = Identity {
        role: Role::Client,
        id: "thief".to_owned(),
    };
    turned_away("another bearer's ticket", cluster.dial_server(&stolen, &access.address));
    let bare = Dialer {
        target: Target {
            role: Role::Chunkserver,
            id: None,
        },
        ..cluster.dialer()
    };
    let dialed = cluster.runtime().block_on(dial(&access.address, &bare, seconds(5)));
    turned_away("no ticket at all", dialed);
    cluster.assert_all_run();
}
