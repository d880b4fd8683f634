//! Commands nobody honest sends, in any order: each has an answer, and the state stays sound.

use gabion_protocol::messages::master::{Change, Damage, FileChange, SpliceAt};
use proptest::prelude::*;

use super::*;

/// Mostly chunks that exist, so that what is checked late is reached.
fn chunk() -> impl Strategy<Value = ChunkId> {
    prop_oneof![4 => 1u64..4, 1 => 0u64..8].prop_map(|counter| ChunkId {
        volume: VolumeId(0),
        timeline: Timeline(1),
        counter,
    })
}

fn servers() -> impl Strategy<Value = Vec<ServerId>> {
    prop_oneof![
        4 => prop::sample::select(vec![chain(&[1, 2, 3]), chain(&[1, 2]), chain(&[2, 3])]),
        1 => proptest::collection::vec((1u32..7).prop_map(ServerId), 0..4),
    ]
}

fn upload() -> impl Strategy<Value = (Ino, UploadGeneration)> {
    (
        prop_oneof![4 => 2u64..4, 1 => 1u64..8],
        prop_oneof![6 => Just(1u32), 1 => 0u32..3],
    )
        .prop_map(|(ino, generation)| (Ino(ino), UploadGeneration(generation)))
}

fn seal() -> impl Strategy<Value = Seal> {
    let generation = prop_oneof![6 => Just(1u32), 1 => 0u32..3];
    let length = prop_oneof![3 => Just(1u64), 1 => 0u64..3];
    let at = prop_oneof![3 => Just(0u64), 1 => 0u64..3];
    (chunk(), generation, at, length, servers()).prop_map(|(chunk, generation, at, length, members)| Seal {
        chunk,
        generation: Generation(generation),
        file_offset: at * 10,
        length: length * 10,
        crc: 5,
        members,
    })
}

fn any_path() -> impl Strategy<Value = FsPath> {
    prop::sample::select(vec!["/", "/a", "/a/b", "/b"]).prop_map(path)
}

fn change() -> impl Strategy<Value = ClientCommand> {
    let at = prop_oneof![2 => Just(None), 2 => (0u64..40).prop_map(Some), 1 => Just(Some(u64::MAX))];
    let what = prop_oneof![
        6 => (upload(), proptest::collection::vec(seal(), 0..3), at).prop_map(|((upload, generation), seals, at)| {
            let at = at.map_or(SpliceAt::End, SpliceAt::Offset);
            Change::Splice { upload, generation, seals, at }
        }),
        2 => prop_oneof![0u64..40, Just(u64::MAX)].prop_map(|length| Change::Truncate { length }),
        2 => (0u8..12, 0u64..30).prop_map(|(replicas, from)| Change::SetReplicas { replicas, from }),
        1 => (0u64..3000).prop_map(|ms| Change::TakeLease { ms, holder: "x".repeat(ms as usize) }),
        1 => Just(Change::EndLease),
    ];
    let lease = prop_oneof![5 => Just(None), 1 => (0u64..40).prop_map(Some)];
    (0u64..8, lease, what).prop_map(|(file, lease, what)| {
        let file = Ino(file);
        ClientCommand::ChangeFile(FileChange { file, lease, what })
    })
}

fn op() -> impl Strategy<Value = ClientCommand> {
    let seals = || proptest::collection::vec(seal(), 0..3);
    let placements = || proptest::collection::vec(servers(), 0..3);
    prop_oneof![
        2 => (any_path(), any::<bool>()).prop_map(|(path, parents)| ClientCommand::Mkdir {
            path,
            parents,
            mode: u32::MAX,
        }),
        2 => (any_path(), prop_oneof![4 => 2u8..4, 1 => 0u8..4], placements()).prop_map(|(path, replicas, placements)| {
            ClientCommand::OpenUpload {
                path,
                options: UploadOptions {
                    replicas: Some(replicas),
                    ..options()
                },
                placements,
            }
        }),
        2 => (upload(), placements(), proptest::collection::vec(chunk(), 0..3)).prop_map(
            |((upload, generation), placements, abandoned)| ClientCommand::GrantChunks {
                upload,
                generation,
                placements,
                abandoned,
            }
        ),
        2 => (upload(), seals()).prop_map(|((upload, generation), seals)| ClientCommand::SealChunks {
            upload,
            generation,
            seals,
        }),
        2 => (upload(), seals(), 0u64..3).prop_map(|((upload, generation), seals, length)| ClientCommand::Commit {
            upload,
            generation,
            seals,
            length: length * 10,
            crc: if length == 1 { 5 } else { 0 },
        }),
        2 => upload().prop_map(|(upload, generation)| ClientCommand::AbortUpload { upload, generation }),
        2 => (any_path(), any_path()).prop_map(|(from, to)| ClientCommand::Rename {
            from,
            to,
            replace: true,
        }),
        2 => (any_path(), any::<bool>()).prop_map(|(path, recursive)| ClientCommand::Remove { path, recursive }),
        2 => (chunk(), 0u32..7, 0u64..9).prop_map(|(chunk, server, replica)| ClientCommand::ReportDamage {
            chunk,
            server: ServerId(server),
            replica: ReplicaNumber(replica),
            what: "x".to_owned(),
        }),
        2 => (any_path(), 0u8..12).prop_map(|(path, replicas)| ClientCommand::CreateFile {
            path,
            options: UploadOptions {
                replicas: Some(replicas),
                ..options()
            },
        }),
        4 => change(),
    ]
}

fn internal() -> impl Strategy<Value = Command> {
    let copies = || proptest::collection::vec((chunk(), (0u64..9).prop_map(ReplicaNumber)), 0..4);
    let server = || (0u32..7).prop_map(ServerId);
    prop_oneof![
        (0u64..4000).prop_map(|advance_ms| Command::Tick { advance_ms }),
        (server(), copies()).prop_map(|(server, done)| Command::ReplicasDropped { server, done }),
        (server(), copies()).prop_map(|(server, intact)| Command::DamageCleared { server, intact }),
        (server(), copies()).prop_map(|(server, copies)| Command::DamageFound {
            server,
            found: copies
                .into_iter()
                .map(|(chunk, replica)| Damage {
                    chunk,
                    replica,
                    what: "y".to_owned(),
                })
                .collect(),
        }),
        (proptest::option::of(server()), 0u8..4, 0u64..3, 1u8..6).prop_map(|(server, life, boot, name)| {
            Command::RegisterServer {
                name: format!("c{name}"),
                registration: Registration {
                    server,
                    incarnation: Incarnation([life; 16]),
                    boot,
                    address: "h:1".to_owned(),
                    rack: String::new(),
                },
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn anything_goes_and_nothing_breaks(
        commands in proptest::collection::vec(
            (0u8..6, op(), internal(), prop_oneof![4 => Just(0u64), 1 => 0u64..4], repair::any_step()),
            1..60,
        ),
    ) {
        let mut machine = Machine::new();
        let session = Client::new(&machine, 1);
        let mut sequence = 0;
        for (sort, op, internal, back, repair) in commands {
            if sort == 0 {
                machine.apply(&internal);
            } else if sort == 1 {
                repair::run(&mut machine, &repair);
            } else {
                sequence += 1;
                let _ = machine.apply(&session.request(sequence - back.min(sequence), sequence.saturating_sub(5), op));
            }
            machine.check();
        }
    }
}
