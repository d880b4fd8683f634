//! Frozen bytes of every variant of every message family. A failure here is a new protocol version, not a re-bless:
//! neighbours one version apart must understand each other.

use crate::error::{ErrorCode, WireError};
use crate::ids::*;
use crate::keys::{Identity, Key, Role, Ticket, hex};
use crate::messages::{Answer, data, decode, encode, master};
use crate::path::FsPath;
use crate::token::{Grant, Mode, Token};
use proptest::prelude::*;

mod balance;
mod changes;
mod chunks;
mod conditions;
mod healing;
mod links;
mod merges;
mod quotas;
mod resume;
mod sharing;

use balance::{balance, balance_ops};
use changes::{change_ops, change_requests, change_responses};
use chunks::{data_requests, data_responses, from_server, to_server};
use conditions::{condition_ops, conditions};
use healing::{
    disk_requests, disk_responses, drained_requests, drained_responses, inventory_requests, inventory_responses,
    repair, scrub_requests, scrub_responses,
};

fn chunk() -> ChunkId {
    ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter: 300,
    }
}

fn session() -> SessionId {
    SessionId {
        opened: StateTime(5),
        random: 6,
    }
}

fn token() -> Token {
    let grant = Grant {
        chunk: chunk(),
        generation: Generation(1),
        replica: ReplicaNumber(2),
        server: ServerId(3),
        mode: Mode::Read,
        session: session(),
        expires: StateTime(7),
    };
    Token::sign(grant, &Key::from_bytes([1; 32]))
}

fn access() -> master::ServerAccess {
    master::ServerAccess {
        server: ServerId(3),
        name: "c3".into(),
        address: "h:3".into(),
        ticket: Ticket {
            bearer: Identity {
                role: Role::Client,
                id: "a".into(),
            },
            server: ServerId(3),
            expires: StateTime(8),
            nonce: [9; 16],
        },
        wrapped_key: [10; 32],
    }
}

fn replica() -> master::Replica {
    master::Replica {
        server: ServerId(3),
        token: token(),
        healthy: true,
    }
}

fn grant() -> master::ChunkGrant {
    master::ChunkGrant {
        chunk: chunk(),
        generation: Generation(1),
        replicas: vec![replica()],
    }
}

fn seal() -> master::Seal {
    master::Seal {
        chunk: chunk(),
        generation: Generation(1),
        file_offset: 4,
        length: 5,
        crc: 6,
        members: vec![ServerId(3)],
    }
}

fn entry() -> master::Entry {
    master::Entry {
        name: "n".into(),
        ino: Ino(2),
        kind: master::EntryKind::File,
        length: 3,
        crc: 4,
        replicas: 3,
        chunk_bytes: 5,
        children: 6,
        mode: 0o644,
        modified_ms: -1,
        degraded: false,
    }
}

fn load() -> master::Load {
    master::Load {
        bytes_total: 1,
        bytes_free: 2,
        chunks: 3,
        streams: 4,
        disks_failed: 5,
        disks_ok: 6,
    }
}

fn path() -> FsPath {
    FsPath::parse("/p").unwrap()
}

fn ops() -> Vec<master::Op> {
    use master::{Op, UploadOptions};
    let (upload, generation) = (Ino(2), UploadGeneration(1));
    vec![
        Op::Mkdir {
            path: path(),
            parents: true,
            mode: 0o755,
        },
        Op::OpenUpload {
            path: path(),
            options: UploadOptions {
                replicas: Some(3),
                chunk_bytes: None,
                replace: false,
                parents: false,
                mode: 0o644,
                modified_ms: None,
            },
            chunks: 1,
            avoid: vec![ServerId(1)],
        },
        Op::GrantChunks {
            upload,
            generation,
            chunks: 2,
            avoid: vec![],
            abandoned: vec![chunk()],
        },
        Op::SealChunks {
            upload,
            generation,
            seals: vec![seal()],
        },
        Op::Commit {
            upload,
            generation,
            seals: vec![seal()],
            length: 5,
            crc: 6,
        },
        Op::AbortUpload { upload, generation },
        Op::Renew {
            uploads: vec![(upload, generation)],
        },
        Op::Rename {
            from: path(),
            to: path(),
            replace: true,
        },
        Op::Remove {
            path: path(),
            recursive: true,
        },
        Op::ReportDamage {
            chunk: chunk(),
            server: ServerId(3),
            replica: ReplicaNumber(2),
            what: "w".into(),
        },
        Op::CreateFile {
            path: path(),
            options: UploadOptions {
                replicas: None,
                chunk_bytes: None,
                replace: false,
                parents: true,
                mode: 0o644,
                modified_ms: None,
            },
        },
        Op::OpenStock {
            replicas: Some(2),
            chunks: 16,
            avoid: vec![ServerId(3)],
        },
        Op::PutFile {
            path: path(),
            options: UploadOptions {
                replicas: Some(2),
                chunk_bytes: None,
                replace: true,
                parents: false,
                mode: 0o600,
                modified_ms: Some(-1),
            },
            stock: Ino(9),
            generation: UploadGeneration(1),
            seal: seal(),
        },
        Op::MoveToTrash {
            path: path(),
            recursive: true,
        },
        Op::Restore {
            what: master::TrashRef::Ino(Ino(2)),
            to: Some(path()),
        },
        Op::EmptyTrash {
            entries: vec![trash_id()],
        },
        Op::SetAttributes {
            path: path(),
            mode: Some(0o644),
            modified_ms: None,
        },
    ]
}

fn trash_id() -> master::TrashId {
    master::TrashId {
        ino: Ino(2),
        removed: 300,
    }
}

fn trash_entry() -> master::TrashEntry {
    master::TrashEntry {
        id: trash_id(),
        path: path(),
        entry: entry(),
        removed_ms: -1,
        goes: StateTime(7),
    }
}

fn queries() -> Vec<master::Query> {
    use master::Query;
    vec![
        Query::Stat { path: path() },
        Query::List {
            path: path(),
            after: None,
            limit: 9,
        },
        Query::Locate {
            path: path(),
            ino: None,
            offset: 1,
            limit: 2,
            session: session(),
        },
        Query::Chunk { chunk: chunk() },
        Query::Status,
        Query::StateHash { index: 1 },
        Query::Trash {
            after: Some(master::TrashAfter {
                goes: StateTime(7),
                ino: Ino(2),
            }),
            limit: 9,
        },
        Query::Trashed {
            what: master::TrashRef::Path(path()),
        },
    ]
}

fn admins() -> Vec<master::Admin> {
    use master::Admin;
    vec![
        Admin::MarkHash,
        Admin::AddMaster {
            id: MasterId(4),
            raft_address: "r".into(),
            client_address: "c".into(),
            replaces: Some(MasterId(2)),
        },
        Admin::RemoveMaster { id: MasterId(2) },
        Admin::TransferLeader { to: None },
        Admin::Snapshot,
    ]
}

fn master_requests() -> Vec<master::Request> {
    use master::{Beat, Damage, Freshness, OrderDone, Registration, Request};
    let request = RequestId {
        session: session(),
        sequence: 1,
    };
    let mut all = vec![Request::OpenSession];
    all.extend(ops().into_iter().map(|op| Request::Command {
        request,
        answered_below: 1,
        op,
    }));
    all.extend(queries().into_iter().map(|query| Request::Query {
        query,
        freshness: Freshness::Linearizable,
    }));
    all.push(Request::Access { server: ServerId(3) });
    all.push(Request::Register(Registration {
        server: None,
        incarnation: Incarnation([2; 16]),
        boot: 1,
        address: "h".into(),
        rack: "r".into(),
    }));
    all.push(Request::Beat(Beat {
        server: ServerId(3),
        incarnation: Incarnation([2; 16]),
        epoch: Epoch {
            term: 1,
            leader: MasterId(2),
        },
        load: load(),
        done: vec![OrderDone::Dropped {
            chunk: chunk(),
            replica: ReplicaNumber(2),
        }],
        damaged: vec![Damage {
            chunk: chunk(),
            replica: ReplicaNumber(2),
            what: "w".into(),
        }],
    }));
    all.extend(admins().into_iter().map(Request::Admin));
    all
}

fn master_responses() -> Vec<master::Response> {
    use master::*;
    vec![
        Response::Done,
        Response::Session {
            now: StateTime(5),
            defaults: Defaults {
                replicas: 3,
                chunk_bytes: 64,
            },
            masters: vec![(MasterId(1), "h".into())],
        },
        Response::Entry(entry()),
        Response::Upload {
            upload: Ino(2),
            generation: UploadGeneration(1),
            chunk_bytes: 64,
            replicas: 3,
            chunks: vec![grant()],
            servers: vec![access()],
        },
        Response::Chunks {
            chunks: vec![grant()],
            servers: vec![],
        },
        Response::Removed {
            files: 1,
            directories: 2,
            bytes: 3,
        },
        Response::Page(Page {
            entries: vec![entry()],
            more: true,
        }),
        Response::Located(Located {
            entry: entry(),
            extents: vec![Extent {
                offset: 1,
                length: 2,
                chunk: chunk(),
                chunk_offset: 3,
                chunk_length: 4,
                chunk_crc: 5,
                generation: Generation(1),
                replicas: vec![replica()],
            }],
            servers: vec![access()],
            more: false,
        }),
        Response::Chunk(ChunkInfo {
            chunk: chunk(),
            state: ChunkState::Sealed,
            generation: Generation(1),
            length: 2,
            crc: 3,
            references: 1,
            wanted: 3,
            replicas: vec![(ServerId(3), ReplicaNumber(2), ReplicaState::Live)],
        }),
        Response::Status(Box::new(status())),
        Response::Marked { index: 9 },
        Response::StateHash {
            hash: Some([1; 32]),
            applied: 9,
        },
        Response::Access(access()),
        Response::Registered { server: ServerId(3) },
        Response::BeatAnswer {
            epoch: None,
            now: StateTime(5),
            orders: vec![Order::Drop {
                chunk: chunk(),
                replica: ReplicaNumber(2),
            }],
            masters: vec!["m1:7001".to_owned()],
        },
        Response::Trashed {
            ino: Ino(2),
            files: 1,
            directories: 2,
            bytes: 3,
            keep_ms: 4,
        },
        Response::Trash(TrashPage {
            entries: vec![trash_entry()],
            more: true,
            now: StateTime(5),
            keep_ms: 6,
            totals: TrashTotals {
                entries: 1,
                files: 2,
                directories: 3,
                bytes: 4,
            },
        }),
        Response::TrashEntry(trash_entry()),
    ]
}

fn status() -> master::Status {
    use master::{Health, MasterInfo, ServerInfo, Status};
    Status {
        cluster: ClusterId([1; 16]),
        answered_by: MasterId(1),
        leader: Some(MasterId(1)),
        term: 2,
        last_log: 3,
        applied: 3,
        snapshot: None,
        now: StateTime(5),
        level: 1,
        masters: vec![MasterInfo {
            id: MasterId(1),
            raft_address: "r".into(),
            client_address: "c".into(),
            voter: true,
            matched: None,
        }],
        servers: vec![ServerInfo {
            server: ServerId(3),
            name: "c3".into(),
            address: "h".into(),
            rack: "r".into(),
            health: Health::Alive,
            beat_age_ms: Some(1),
            load: load(),
        }],
        files: 1,
        directories: 2,
        bytes: 3,
        copies: vec![0, 1],
        under_replicated: 0,
        damaged: 0,
    }
}

/// Every sample as a line, and a check that each survives decoding.
fn lines<T>(family: &str, samples: &[T]) -> Vec<String>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    samples
        .iter()
        .map(|sample| {
            let bytes = encode(sample);
            assert_eq!(decode::<T>(&bytes).as_ref(), Ok(sample));
            format!("{family} {}", hex(&bytes))
        })
        .collect()
}

/// Whether the samples hold every variant from the first to `last`.
fn covers<T: serde::Serialize>(samples: &[T], last: u8) {
    let mut seen: Vec<u8> = samples.iter().map(|sample| encode(sample)[0]).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..=last).collect::<Vec<_>>(), "a variant has no golden bytes");
}

#[test]
fn golden_messages() {
    let later_requests = [
        scrub_requests(),
        inventory_requests(),
        disk_requests(),
        drained_requests(),
    ]
    .concat();
    covers(&[master_requests(), later_requests.clone()].concat(), 9);
    let all_ops = [
        ops(),
        sharing::ops(),
        resume::ops(),
        change_ops(),
        condition_ops(),
        balance_ops(),
        sharing::snapshot_ops(),
        quotas::quota_ops(),
        links::ops(),
    ];
    covers(&all_ops.concat(), 30);
    covers(&queries(), 7);
    let later_admins = later_requests.into_iter().filter_map(|request| match request {
        master::Request::Admin(admin) => Some(admin),
        _ => None,
    });
    covers(&[admins(), later_admins.collect()].concat(), 12);
    covers(&master_responses(), 17);
    covers(&data_requests(), 4);
    covers(&data_responses(), 4);
    covers(&to_server(), 2);
    covers(&from_server(), 2);
    let mut all = lines("master request", &master_requests());
    all.extend(lines("master response", &master_responses()));
    all.extend(lines("data request", &data_requests()));
    all.extend(lines("data response", &data_responses()));
    all.extend(lines("to server", &to_server()));
    all.extend(lines("from server", &from_server()));
    all.extend(lines(
        "answer",
        &[Answer::<master::Response>::Err(WireError::redirect("h:1"))],
    ));
    all.extend(repair());
    all.extend(lines("master request", &scrub_requests()));
    all.extend(lines("master response", &scrub_responses()));
    all.extend(lines("op", &sharing::ops()));
    all.extend(lines("master response", &sharing::responses()));
    all.extend(resume::resume());
    all.extend(resume::attributes());
    all.extend(lines("master request", &change_requests()));
    all.extend(lines("master response", &change_responses()));
    all.extend(conditions());
    all.extend(lines("master request", &inventory_requests()));
    all.extend(lines("master response", &inventory_responses()));
    all.extend(lines("master request", &disk_requests()));
    all.extend(lines("master response", &disk_responses()));
    all.extend(balance());
    all.extend(lines("op", &sharing::snapshot_ops()));
    all.extend(lines("query", &sharing::snapshot_queries()));
    all.extend(lines("master response", &sharing::snapshot_responses()));
    all.extend(lines("master request", &drained_requests()));
    all.extend(lines("master response", &drained_responses()));
    all.extend(quotas::quotas());
    all.extend(lines("op", &links::ops()));
    all.extend(lines("query", &links::queries()));
    all.extend(lines("master response", &links::responses()));
    all.extend(merges::merges());
    all.extend(lines("query", &links::place_queries()));
    all.extend(lines("master response", &links::place_responses()));
    let frozen: Vec<&str> = include_str!("../golden/messages.txt").lines().collect();
    for (now, frozen) in all.iter().zip(&frozen) {
        assert_eq!(now, frozen);
    }
    assert_eq!(
        all.len(),
        frozen.len(),
        "append the new lines:\n{}",
        all[frozen.len().min(all.len())..].join("\n")
    );
}

proptest! {
    /// Bytes from anyone give a message or an error, never a panic; a declared length alone allocates nothing.
    #[test]
    fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<master::Request>(&bytes);
        let _ = decode::<Answer<master::Response>>(&bytes);
        let _ = decode::<data::Request>(&bytes);
        let _ = decode::<Answer<data::Response>>(&bytes);
        let _ = decode::<data::ToServer>(&bytes);
        let _ = decode::<data::FromServer>(&bytes);
    }

    /// The same for messages that are almost right.
    #[test]
    fn one_changed_byte_decodes_or_fails(which in 0usize..64, at in any::<prop::sample::Index>(), to: u8) {
        let samples = master_requests();
        let mut bytes = encode(&samples[which % samples.len()]);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode::<master::Request>(&bytes);
    }
}
