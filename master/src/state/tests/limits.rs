//! What is refused because it is too much.

use gabion_protocol::limits::{DEPTH_MAX, GRANT_CHUNKS_MAX};

use super::*;

#[test]
fn a_moved_tree_keeps_within_the_limits_of_paths() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let deep = "/d".repeat(DEPTH_MAX - 1);
    let make = ClientCommand::Mkdir {
        path: path(&format!("/x{deep}")),
        parents: true,
        mode: 0o755,
    };
    client.run(&mut machine, make).unwrap();
    client.run(&mut machine, mkdir("/y")).unwrap();
    assert_eq!(
        client.refused(&mut machine, rename("/x", "/y/x", false)),
        ErrorCode::InvalidPath
    );
    client.run(&mut machine, rename("/x", "/z", false)).unwrap();
    machine.check();
    client.run(&mut machine, remove("/z/d", true)).unwrap();
    client.run(&mut machine, rename("/z", "/y/x", false)).unwrap();
    machine.check();

    let name = format!("/{}", "n".repeat(255));
    let long = name.repeat(15);
    let make = ClientCommand::Mkdir {
        path: path(&format!("{long}/{}", "m".repeat(254))),
        parents: true,
        mode: 0o755,
    };
    client.run(&mut machine, make).unwrap();
    assert_eq!(
        client.refused(&mut machine, rename(&name, &format!("/y{name}"), false)),
        ErrorCode::InvalidPath
    );
    client.run(&mut machine, rename(&name, "/short", false)).unwrap();
    client.run(&mut machine, rename("/short", "/y/short", false)).unwrap();
    machine.check();
}

#[test]
fn sizes_and_counts_are_bounded() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let mut with = |options: UploadOptions, chunks: usize| {
        let command = ClientCommand::OpenUpload {
            path: path("/f"),
            options,
            placements: vec![chain(&[1, 2, 3]); chunks],
        };
        client.run(&mut machine, command).map_err(|refusal| refusal.code())
    };
    for replicas in [0, 11] {
        let asked = UploadOptions {
            replicas: Some(replicas),
            ..options()
        };
        assert_eq!(with(asked, 0), Err(ErrorCode::InvalidArgument));
    }
    for bytes in [0, 1 << 16, (1 << 20) + 1, 257 << 20] {
        let asked = UploadOptions {
            chunk_bytes: Some(bytes),
            ..options()
        };
        assert_eq!(with(asked, 0), Err(ErrorCode::InvalidArgument));
    }
    assert_eq!(with(options(), GRANT_CHUNKS_MAX + 1), Err(ErrorCode::LimitExceeded));

    let upload = client.open(&mut machine, "/f", GRANT_CHUNKS_MAX);
    let grant = |abandoned| ClientCommand::GrantChunks {
        upload: upload.ino,
        generation: upload.generation,
        placements: vec![chain(&[1, 2, 3]); GRANT_CHUNKS_MAX],
        abandoned,
    };
    for _ in 1..OPEN_CHUNKS_MAX / GRANT_CHUNKS_MAX {
        client.run(&mut machine, grant(Vec::new())).unwrap();
    }
    assert_eq!(
        client.refused(&mut machine, grant(Vec::new())),
        ErrorCode::LimitExceeded
    );
    let given_up = upload.chunks.iter().map(|granted| granted.chunk).collect();
    assert!(matches!(client.run(&mut machine, grant(given_up)), Ok(Outcome::Chunks(chunks)) if chunks.len() == 16));
    machine.check();
}

#[test]
fn the_root_stays() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    assert_eq!(
        client.refused(&mut machine, remove("/", true)),
        ErrorCode::InvalidArgument
    );
    assert_eq!(client.refused(&mut machine, mkdir("/")), ErrorCode::Exists);
    assert_eq!(client.refused(&mut machine, open("/", 0)), ErrorCode::IsDirectory);
    let fine = ClientCommand::Mkdir {
        path: FsPath::root(),
        parents: true,
        mode: 0,
    };
    assert_eq!(entry(client.run(&mut machine, fine)).name, "/");
    machine.check();
}

#[test]
fn listings_come_in_pages() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    for name in ["a", "a b", "aa", "b", "ü"] {
        client.run(&mut machine, mkdir(&format!("/{name}"))).unwrap();
    }
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = read::list(&machine.rows, &FsPath::root(), after.as_deref(), 2).unwrap();
        names.extend(page.entries.iter().map(|entry| entry.name.clone()));
        after = names.last().cloned();
        if !page.more {
            break;
        }
        assert_eq!(page.entries.len(), 2);
    }
    assert_eq!(names, ["a", "a b", "aa", "b", "ü"]);
}
