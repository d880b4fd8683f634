//! Copies of directories: each is what its original was at one moment, appears whole, and leaves nothing if it does not.

use gabion_protocol::messages::master::{
    AttributeChange, Change, EntryKind, FileChange, QuotaChange, QuotaLimits, TreeCopy, TreeProgress,
};

use super::*;
use crate::state::key::Kind;

fn begin(source: &str, to: &str) -> ClientCommand {
    ClientCommand::CopyTree(TreeCopy::Begin {
        source: path(source),
        to: path(to),
        parents: false,
        keep_times: true,
    })
}

struct World {
    machine: Machine,
    client: Client,
}

impl World {
    /// A tree with files in two directories, one of many chunks.
    fn new() -> Self {
        let machine = Machine::new();
        let client = Client::new(&machine, 1);
        let mut world = Self { machine, client };
        for directory in ["/d", "/d/a", "/d/a/deep", "/d/b"] {
            world.run(mkdir(directory));
        }
        for (file, chunks) in [("/d/f", 1), ("/d/a/g", 7), ("/d/a/deep/h", 2), ("/d/b/empty", 0)] {
            world.client.put(&mut world.machine, file, chunks);
        }
        world.run(ClientCommand::ChangeAttributes {
            path: path("/d/a/g"),
            change: AttributeChange::Owner {
                owner: Some("ann".to_owned()),
                group: None,
            },
        });
        world
    }

    #[track_caller]
    fn run(&mut self, op: ClientCommand) -> Outcome {
        let done = self.client.run(&mut self.machine, op);
        self.machine.check();
        done.unwrap()
    }

    #[track_caller]
    fn step(&mut self, op: ClientCommand) -> TreeProgress {
        match self.run(op) {
            Outcome::TreeCopied(progress) => progress,
            other => panic!("{other:?}"),
        }
    }

    fn go_on(progress: &TreeProgress, limit: u32) -> ClientCommand {
        ClientCommand::CopyTree(TreeCopy::GoOn {
            copy: progress.copy,
            generation: progress.generation,
            limit,
        })
    }

    /// Steps of `limit` entries until it is there; how many.
    fn finish(&mut self, mut progress: TreeProgress, limit: u32) -> usize {
        for steps in 1.. {
            progress = self.step(Self::go_on(&progress, limit));
            if progress.entry.is_some() {
                let (done, all) = (
                    (progress.files, progress.directories, progress.bytes),
                    (progress.files_total, progress.directories_total, progress.bytes_total),
                );
                assert_eq!(done, all);
                return steps;
            }
        }
        unreachable!()
    }

    /// Everything below a path that is told, but inodes.
    fn shown(&self, root: &str) -> Vec<(String, Entry, String)> {
        let mut shown = Vec::new();
        let mut directories = vec![path(root)];
        while let Some(directory) = directories.pop() {
            for entry in read::list(&self.machine.rows, &directory, None, 1000).unwrap().entries {
                let at = directory.join(&entry.name).unwrap();
                if entry.kind == EntryKind::Directory {
                    directories.push(at.clone());
                }
                let owner = read::attributes(&self.machine.rows, &at).unwrap().owner;
                let below = at.as_str()[root.len()..].to_owned();
                shown.push((below, Entry { ino: Ino(0), ..entry }, owner));
            }
        }
        shown.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        shown
    }

    fn extents(&self, at: &str) -> Vec<(u64, u64, ChunkId)> {
        let place = read::resolve(&self.machine.rows, &path(at)).unwrap();
        let (extents, more) = read::extents(&self.machine.rows, place.ino, place.at, 0, 64).unwrap();
        assert!(!more);
        extents
            .iter()
            .map(|part| (part.offset, part.extent.length, part.extent.chunk))
            .collect()
    }

    /// Rows of each kind but those that end by themselves.
    fn kinds(&self) -> Vec<Kind> {
        let ends = |kind: &Kind| matches!(kind, Kind::Session | Kind::SessionDue | Kind::Reply | Kind::UploadLease);
        let kinds = self.machine.rows.0.keys().filter_map(|key| Kind::of(key));
        kinds.filter(|kind| !ends(kind)).collect()
    }
}

#[test]
fn a_copy_is_what_the_original_was() {
    for limit in [1, 2, 3, 1000] {
        let mut w = World::new();
        let before = w.shown("/d");
        let begun = w.step(begin("/d", "/copy"));
        assert!(
            read::stat(&w.machine.rows, &path("/copy")).is_err(),
            "nobody sees it yet"
        );
        let steps = w.finish(begun, limit);
        assert_eq!(steps == 1, limit == 1000, "{steps} steps of {limit}");
        assert_eq!(w.shown("/copy"), before);
        assert_eq!(w.shown("/d"), before);
        for file in ["/f", "/a/g", "/a/deep/h"] {
            assert_eq!(w.extents(&format!("/d{file}")), w.extents(&format!("/copy{file}")));
        }
        // Later changes to one do not show in the other.
        w.run(remove("/d", true));
        w.machine.settle();
        w.machine.check();
        assert_eq!(w.shown("/copy"), before);
        w.run(remove("/copy", true));
        w.machine.settle();
        w.machine.tick(SETTINGS.token_ms);
        w.machine.settle();
        w.machine.obey();
        w.machine.check();
        assert!(!w.kinds().contains(&Kind::Chunk), "nothing is left");
    }
}

#[test]
fn changes_meanwhile_do_not_show() {
    let mut w = World::new();
    let before = w.shown("/d");
    let mut progress = w.step(begin("/d", "/copy"));
    let g = read::resolve(&w.machine.rows, &path("/d/a/g")).unwrap().ino;
    w.client.put(&mut w.machine, "/d/a/new", 1);
    for change in [
        ClientCommand::ChangeFile(FileChange {
            file: g,
            lease: None,
            what: Change::Truncate { length: 15 },
        }),
        ClientCommand::ChangeAttributes {
            path: path("/d/a/g"),
            change: AttributeChange::Owner {
                owner: Some("bob".to_owned()),
                group: None,
            },
        },
        rename("/d/a/deep", "/moved", false),
        remove("/d/f", false),
        mkdir("/d/f"),
        remove("/d/b", true),
        rename("/d", "/e", false),
    ] {
        w.run(change);
        w.machine.settle();
        progress = w.step(World::go_on(&progress, 1));
    }
    w.finish(progress, 1);
    assert_eq!(w.shown("/copy"), before);
    assert_eq!(w.extents("/copy/a/g").len(), 7);
    // Nothing is kept for it any more.
    w.machine.settle();
    w.machine.check();
    assert!(
        !w.kinds()
            .iter()
            .any(|kind| matches!(kind, Kind::History | Kind::TreeCopy))
    );
}

/// Nobody had an owner before: nothing of attributes lies in history.
#[test]
fn an_owner_given_meanwhile_does_not_show() {
    let mut w = World::new();
    let begun = w.step(begin("/d", "/copy"));
    for at in ["/d/f", "/d/a/deep"] {
        w.run(ClientCommand::ChangeAttributes {
            path: path(at),
            change: AttributeChange::Owner {
                owner: Some("bob".to_owned()),
                group: None,
            },
        });
    }
    assert!(!w.kinds().contains(&Kind::History));
    w.finish(begun, 2);
    for at in ["/copy/f", "/copy/a/deep"] {
        assert_eq!(read::attributes(&w.machine.rows, &path(at)).unwrap().owner, "", "{at}");
    }
}

#[test]
fn a_snapshot_is_copied_and_may_go_meanwhile() {
    let mut w = World::new();
    let before = w.shown("/d/a");
    w.run(ClientCommand::CreateSnapshot {
        path: path("/d"),
        name: "s".to_owned(),
    });
    w.run(remove("/d/a", true));
    w.machine.settle();
    let begun = w.step(begin("/d/.snapshot/s/a", "/d/back"));
    w.run(ClientCommand::RemoveSnapshot {
        path: path("/d"),
        name: "s".to_owned(),
    });
    w.machine.settle();
    w.machine.check();
    w.finish(begun, 1);
    assert_eq!(w.shown("/d/back"), before);
    w.machine.settle();
    w.machine.check();
    assert!(!w.kinds().contains(&Kind::History));
}

#[test]
fn a_copy_whose_client_is_gone_leaves_nothing() {
    for steps in 0..4 {
        for aborted in [true, false] {
            let mut w = World::new();
            let before = w.kinds();
            let mut progress = w.step(begin("/d", "/copy"));
            for _ in 0..steps {
                progress = w.step(World::go_on(&progress, 1));
            }
            if aborted {
                w.run(ClientCommand::AbortUpload {
                    upload: progress.copy,
                    generation: progress.generation,
                });
            }
            w.machine.tick(SETTINGS.upload_lease_ms);
            for _ in 0..5 {
                w.machine.settle();
                w.machine.tick(1);
            }
            w.machine.check();
            assert_eq!(w.kinds(), before);
            let gone = w.client.refused(&mut w.machine, World::go_on(&progress, 1));
            assert_eq!(gone, ErrorCode::Fenced);
            w.run(remove("/d", true));
        }
    }
}

#[test]
fn what_cannot_be_copied_is_refused_at_the_beginning() {
    let mut w = World::new();
    let mut refused = |op| w.client.refused(&mut w.machine, op);
    for (source, to, code) in [
        ("/d", "/d/a/x", ErrorCode::InvalidArgument),
        ("/d", "/d", ErrorCode::InvalidArgument),
        ("/", "/x", ErrorCode::InvalidArgument),
        ("/d", "/d2/x", ErrorCode::NotFound),
        ("/d/a", "/d/b", ErrorCode::Exists),
        ("/d/a", "/d/f", ErrorCode::Exists),
        ("/d/a", "/d/f/x", ErrorCode::NotDirectory),
        ("/d/f", "/x", ErrorCode::NotDirectory),
        ("/x", "/y", ErrorCode::NotFound),
        ("/d/a", "/d/.snapshot/x", ErrorCode::ReadOnly),
    ] {
        assert_eq!(refused(begin(source, to)), code, "{source} to {to}");
    }
    let deep = format!("/{}", vec!["x"; 126].join("/"));
    w.run(ClientCommand::Mkdir {
        path: path(&deep),
        parents: true,
        mode: 0o755,
    });
    let to = format!("{deep}/d");
    assert_eq!(
        w.client.refused(&mut w.machine, begin("/d", &to)),
        ErrorCode::InvalidPath
    );
    // And at the end, if its place was taken meanwhile.
    let progress = w.step(begin("/d", "/copy"));
    w.run(mkdir("/copy"));
    assert_eq!(
        w.client.refused(&mut w.machine, World::go_on(&progress, 1000)),
        ErrorCode::Exists
    );
    w.run(remove("/copy", false));
    w.finish(progress, 1000);
}

#[test]
fn a_copy_is_no_upload_and_stays_its_owners() {
    let mut w = World::new();
    let progress = w.step(begin("/d", "/copy"));
    let (upload, generation) = (progress.copy, progress.generation);
    let commit = ClientCommand::Commit {
        upload,
        generation,
        seals: Vec::new(),
        length: 0,
        crc: 0,
    };
    let grant = ClientCommand::GrantChunks {
        upload,
        generation,
        placements: vec![chain(&[1, 2, 3])],
        abandoned: Vec::new(),
    };
    for op in [commit, grant] {
        assert_eq!(w.client.refused(&mut w.machine, op), ErrorCode::Fenced);
    }
    let mut other = Client::new(&w.machine, 2);
    assert_eq!(
        other.refused(&mut w.machine, World::go_on(&progress, 1)),
        ErrorCode::Fenced
    );
    // Its lease is kept as an upload's is, and its original stays meanwhile.
    for _ in 0..3 {
        w.machine.tick(SETTINGS.upload_lease_ms - 1);
        let uploads = vec![(upload, generation)];
        w.run(ClientCommand::Renew { uploads });
    }
    assert_eq!(
        w.client.refused(&mut w.machine, remove("/d", true)),
        ErrorCode::NotEmpty
    );
    w.finish(progress, 2);
    w.run(remove("/d", true));
}

#[test]
fn a_copy_counts_against_quotas_from_its_beginning() {
    let mut w = World::new();
    w.run(mkdir("/q"));
    let quota = |bytes, entries| ClientCommand::SetQuota {
        path: path("/q"),
        change: QuotaChange::Set(QuotaLimits {
            bytes: Some(bytes),
            entries: Some(entries),
        }),
    };
    // Four files, three directories and itself; ten chunks of ten bytes.
    for (bytes, entries) in [(99, 8), (100, 7)] {
        w.run(quota(bytes, entries));
        let refused = w.client.refused(&mut w.machine, begin("/d", "/q/copy"));
        assert_eq!(refused, ErrorCode::QuotaExceeded);
    }
    w.run(quota(100, 8));
    let begun = w.step(begin("/d", "/q/copy"));
    assert_eq!(
        w.client.refused(&mut w.machine, mkdir("/q/x")),
        ErrorCode::QuotaExceeded
    );
    w.finish(begun, 1);
    let own = read::quota(&w.machine.rows, &path("/q")).unwrap().own;
    assert_eq!(
        (own.bytes, own.entries, own.reserved_bytes, own.reserved_entries),
        (100, 8, 0, 0)
    );
}
