//! What a client and an operator see of a stored file and of the cluster: places, status, reports of damage.

use gabion_protocol::ErrorCode;
use gabion_protocol::ids::*;
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::*;
use gabion_protocol::token::Mode;
use tokio::task::JoinHandle;

use super::fake::*;
use crate::server::Running;

const CRC: u32 = 0x1234_5678;
const LENGTH: u64 = 5;

/// A cluster with a file `/f` of one chunk on two servers, which beat.
struct Stored {
    cluster: Cluster,
    masters: Vec<Running>,
    client: Client,
    beating: Vec<JoinHandle<()>>,
    chunk: ChunkGrant,
}

impl Stored {
    async fn new(masters: u64) -> Self {
        let cluster = Cluster::of(masters);
        let masters = cluster.start().await;
        let mut client = cluster.client().await;
        let mut servers = Vec::new();
        for name in ["one", "two"] {
            let mut server = FakeServer::register(&cluster, name).await;
            server.beat().await.unwrap();
            servers.push(server);
        }
        let beating = servers.into_iter().map(FakeServer::live).collect();
        let opened = client.run(open("/f"));
        let Response::Upload {
            upload,
            generation,
            chunks,
            ..
        } = opened.await.unwrap()
        else {
            panic!("no upload");
        };
        let chunk = chunks[0].clone();
        let seal = Seal {
            chunk: chunk.chunk,
            generation: chunk.generation,
            file_offset: 0,
            length: LENGTH,
            crc: CRC,
            members: chunk.replicas.iter().map(|replica| replica.server).collect(),
        };
        let committed = client.run(Op::Commit {
            upload,
            generation,
            seals: vec![seal],
            length: LENGTH,
            crc: CRC,
        });
        committed.await.unwrap();
        Self {
            cluster,
            masters,
            client,
            beating,
            chunk,
        }
    }

    async fn locate(
        &mut self,
        text: &str,
        ino: Option<Ino>,
        offset: u64,
    ) -> Result<Located, gabion_protocol::WireError> {
        let request = Request::Query {
            query: Query::Locate {
                path: path(text),
                ino,
                offset,
                limit: 4,
                session: self.client.session,
            },
            freshness: Freshness::Linearizable,
        };
        match self.client.peer.ask(&request).await? {
            Response::Located(located) => Ok(located),
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.beating.iter().for_each(JoinHandle::abort);
        for master in self.masters {
            master.stop().await;
        }
    }
}

#[test]
fn a_file_is_located_with_tokens_that_are_good_for_reading_it_only() {
    block_on(async {
        let mut stored = Stored::new(1).await;
        let located = stored.locate("/f", None, 0).await.unwrap();
        assert_eq!((located.entry.length, located.entry.crc), (LENGTH, CRC));
        let [extent] = located.extents.as_slice() else {
            panic!("{:?}", located.extents);
        };
        assert_eq!(
            (extent.offset, extent.length, extent.chunk_length, extent.chunk_crc),
            (0, LENGTH, LENGTH, CRC)
        );
        assert_eq!(extent.chunk, stored.chunk.chunk);
        assert_eq!(extent.replicas.len(), 2);
        let root = &stored.cluster.root;
        for replica in &extent.replicas {
            assert!(replica.healthy);
            let access = located
                .servers
                .iter()
                .find(|access| access.server == replica.server)
                .unwrap();
            let identity = Identity {
                role: Role::Chunkserver,
                id: access.name.clone(),
            };
            let key = root.key.identity_key(root.cluster, &identity);
            let check = |mode| replica.token.check(replica.server, &key, mode, StateTime(0));
            assert_eq!(check(Mode::Read).unwrap().chunk, stored.chunk.chunk);
            assert_eq!(check(Mode::Write).unwrap_err().code, ErrorCode::BadToken);
        }
        let ino = located.entry.ino;
        assert!(stored.locate("/f", Some(ino), 0).await.is_ok());
        let code = |result: Result<Located, gabion_protocol::WireError>| result.unwrap_err().code;
        assert_eq!(
            code(stored.locate("/f", Some(Ino(ino.0 + 1)), 0).await),
            ErrorCode::Conflict
        );
        assert_eq!(code(stored.locate("/g", None, 0).await), ErrorCode::NotFound);
        assert_eq!(code(stored.locate("/", None, 0).await), ErrorCode::IsDirectory);
        let beyond = stored.locate("/f", None, LENGTH).await.unwrap();
        assert!(beyond.extents.is_empty() && !beyond.more, "{:?}", beyond.extents);
        // Servers read names from nobody.
        let mut server = stored.cluster.peer(Role::Chunkserver, "one");
        let stat = Request::Query {
            query: Query::Stat { path: path("/f") },
            freshness: Freshness::Linearizable,
        };
        assert_eq!(server.once(&stat).await.unwrap_err().code, ErrorCode::WrongRole);
        stored.stop().await;
    });
}

fn status_of(freshness: Freshness) -> Request {
    Request::Query {
        query: Query::Status,
        freshness,
    }
}

async fn status(peer: &mut Peer) -> Status {
    match peer.ask(&status_of(Freshness::Linearizable)).await.unwrap() {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_status_counts_what_is_there_and_followers_tell_what_they_know() {
    block_on(async {
        let mut stored = Stored::new(3).await;
        let seen = status(&mut stored.client.peer).await;
        assert_eq!(seen.cluster, stored.cluster.root.cluster);
        assert_eq!(seen.leader, Some(seen.answered_by));
        assert_eq!((seen.files, seen.bytes), (1, LENGTH));
        assert_eq!(seen.masters.iter().filter(|master| master.voter).count(), 3);
        let mut names: Vec<_> = seen.servers.iter().map(|server| server.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["one", "two"]);
        assert!(
            seen.servers.iter().all(|server| server.health == Health::Alive),
            "{:?}",
            seen.servers
        );
        for at in 0..3 {
            let mut peer = stored.cluster.peer(Role::Operator, "root");
            peer.at = at;
            let mut asked = 0;
            let told = loop {
                let Response::Status(told) = peer.once(&status_of(Freshness::Stale)).await.unwrap() else {
                    panic!("no status");
                };
                if told.files == 1 {
                    break told;
                }
                asked += 1;
                assert!(asked < 400, "the follower never heard of the file: {told:?}");
                tokio::time::sleep(SECOND / 50).await;
            };
            assert_eq!(told.answered_by, MasterId(at as u64 + 1));
            assert_eq!(told.leader, seen.leader);
        }
        let mut server = stored.cluster.peer(Role::Chunkserver, "one");
        let refused = server.once(&status_of(Freshness::Stale)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongRole);
        stored.stop().await;
    });
}

#[test]
fn a_reported_copy_is_passed_over_and_counted_once() {
    block_on(async {
        let mut stored = Stored::new(1).await;
        let bad = stored.chunk.replicas[0].clone();
        let report = |replica| Op::ReportDamage {
            chunk: stored.chunk.chunk,
            server: bad.server,
            replica,
            what: "block 0 does not have its checksum".into(),
        };
        let number = bad.token.grant.replica;
        // Of a copy that is not there: no report.
        let other = report(ReplicaNumber(number.0 + 1000));
        assert_eq!(stored.client.run(other).await.unwrap(), Response::Done);
        assert_eq!(status(&mut stored.client.peer).await.damaged, 0);
        let command = report(number);
        let command = stored.client.command(command);
        for _ in 0..2 {
            assert_eq!(stored.client.peer.ask(&command).await.unwrap(), Response::Done);
        }
        let Request::Command { op, .. } = command else {
            panic!("a command");
        };
        assert_eq!(stored.client.run(op.clone()).await.unwrap(), Response::Done, "and anew");
        let located = stored.locate("/f", None, 0).await.unwrap();
        for replica in &located.extents[0].replicas {
            assert_eq!(replica.healthy, replica.server != bad.server, "{replica:?}");
        }
        let mut asked = 0;
        // The count is made now and then.
        while status(&mut stored.client.peer).await.damaged != 1 {
            asked += 1;
            assert!(asked < 400, "the report was never counted");
            tokio::time::sleep(SECOND / 20).await;
        }
        let mut server = stored.cluster.peer(Role::Chunkserver, "one");
        let request = Request::Command {
            request: RequestId {
                session: stored.client.session,
                sequence: 99,
            },
            answered_below: 1,
            op,
        };
        assert_eq!(server.once(&request).await.unwrap_err().code, ErrorCode::WrongRole);
        stored.stop().await;
    });
}
