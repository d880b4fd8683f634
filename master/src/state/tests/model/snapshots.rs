//! Snapshots in the model: deep clones of the naive tree, which nothing that comes later may change.

use super::*;

/// A snapshot as the model remembers it.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    /// Where its directory is now.
    pub(super) directory: FsPath,
    name: String,
    /// What the directory held, by the path below it.
    tree: BTreeMap<String, Node>,
    /// Whose it was.
    owners: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Create {
        path: FsPath,
        name: usize,
    },
    Remove {
        back: usize,
    },
    /// What a snapshot holds, copied back.
    CopyBack {
        back: usize,
        file: usize,
        to: FsPath,
    },
    /// Something a snapshot cannot take.
    Write {
        back: usize,
        how: usize,
    },
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    step_at(any_path())
}

/// A step with snapshots of some of these directories.
fn step_at(paths: impl Strategy<Value = FsPath>) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (paths, 0usize..3).prop_map(|(path, name)| Step::Create { path, name }),
        2 => (0usize..4).prop_map(|back| Step::Remove { back }),
        1 => (0usize..4, 0usize..8, any_path()).prop_map(|(back, file, to)| Step::CopyBack { back, file, to }),
        1 => (0usize..4, 0usize..5).prop_map(|(back, how)| Step::Write { back, how }),
    ]
}

/// One of few paths, so that a program comes back to what a snapshot shows.
fn near_path() -> impl Strategy<Value = FsPath> {
    prop::sample::select(vec!["/", "/a", "/a/b", "/a/a", "/a/b/a", "/c"]).prop_map(path)
}

/// What happens to files and directories of which snapshots were made.
pub(super) fn near_step() -> impl Strategy<Value = super::Step> {
    use super::Step::*;
    use changes::Step::{Copies, Splice, Truncate};
    let splice = |(path, upload, at)| Splice {
        path,
        from_stock: true,
        upload,
        chunks: 1,
        at,
        lie: false,
    };
    let (replace, parents, recursive) = (true, true, true);
    prop_oneof![
        3 => Just(Stock { chunks: 3 }),
        6 => (0usize..3, near_path()).prop_map(move |(stock, path)| Put { stock, order: 0, path, replace, parents }),
        4 => (near_path(), 0usize..3, proptest::option::of(0u64..2500)).prop_map(move |of| Change(splice(of))),
        3 => (near_path(), 0u64..2500).prop_map(|(path, length)| Change(Truncate { path, length })),
        2 => links::near_step(near_path).prop_map(Link),
        1 => (near_path(), 1u8..5).prop_map(|(path, replicas)| Change(Copies { path, replicas })),
        2 => near_path().prop_map(move |path| Mkdir { path, parents }),
        3 => (near_path(), near_path()).prop_map(move |(from, to)| Rename { from, to, replace }),
        2 => near_path().prop_map(move |path| Remove { path, recursive }),
        2 => near_path().prop_map(move |path| Discard { path, recursive }),
        1 => (0usize..3).prop_map(|back| Restore { back, by_path: false, to: None }),
        2 => (near_path(), 0usize..3).prop_map(|(path, owner)| Own { path, owner }),
        3 => (0u64..7000).prop_map(|ms| Tick { ms }),
        1 => Just(Obey),
        2 => repair::any_step().prop_map(Repair),
        2 => copies::any_step().prop_map(Copy),
        6 => step_at(near_path()).prop_map(Snapshot),
        4 => trees::any_step().prop_map(Tree),
        6 => merges::step_at(near_path()).prop_map(Merge),
    ]
}

/// The part of a path below a directory, empty for itself.
pub(super) fn below(directory: &FsPath, path: &FsPath) -> String {
    let above = directory.as_str().trim_end_matches('/');
    path.as_str()[above.len()..].trim_end_matches('/').to_owned()
}

impl Model {
    pub(super) fn snapshot_step(&mut self, step: Step) {
        match step {
            Step::Create { path, name } => self.create_snapshot(path, ["s", "t", "ü"][name]),
            Step::Remove { back } => self.remove_snapshot(back),
            Step::CopyBack { back, file, to } => self.copy_back(back, file, to),
            Step::Write { back, how } => self.write_snapshot(back, how),
        }
    }

    fn create_snapshot(&mut self, directory: FsPath, name: &str) {
        let command = ClientCommand::CreateSnapshot {
            path: directory.clone(),
            name: name.to_owned(),
        };
        let directory = match self.straight(&directory, true) {
            Ok(directory) => directory,
            Err(code) => return drop(self.compare(command, Err::<(), _>(code))),
        };
        let is_there = |known: &Remembered| known.directory == directory && known.name == name;
        let expected = match self.walk(&directory) {
            Err(code) => Err(code),
            Ok(Node::File { .. } | Node::Link { .. }) => Err(ErrorCode::NotDirectory),
            Ok(Node::Directory) if self.snapshots.iter().any(is_there) => Err(ErrorCode::Exists),
            Ok(Node::Directory) => Ok(()),
        };
        let Some((outcome, ())) = self.compare(command, expected) else {
            return;
        };
        let held = self.tree.iter().filter(|(path, _)| directory.holds(path));
        let tree: BTreeMap<String, Node> = held
            .map(|(path, node)| (below(&directory, path), node.clone()))
            .collect();
        let Outcome::Snapshot(info) = outcome else {
            panic!("{outcome:?}");
        };
        let owner = |below: &String| {
            let above = if below.is_empty() {
                directory.as_str()
            } else {
                directory.as_str().trim_end_matches('/')
            };
            let now = path(&format!("{above}{below}"));
            let ino = read::stat(&self.machine.rows, &now).unwrap().ino;
            let owner = self.owners.get(&ino).cloned().unwrap_or_default();
            (below.clone(), owner)
        };
        let owners = tree.keys().map(owner).collect();
        let (files, directories, bytes) = weight_of(tree.values());
        assert_eq!(
            (info.files, info.directories + 1, info.bytes),
            (files, directories, bytes)
        );
        assert_eq!((&info.directory, info.name.as_str()), (&directory, name));
        self.snapshots.push(Remembered {
            directory,
            name: name.to_owned(),
            tree,
            owners,
        });
    }

    fn remembered(&self, back: usize) -> Option<usize> {
        self.snapshots.len().checked_sub(back + 1)
    }

    fn remove_snapshot(&mut self, back: usize) {
        let Some(at) = self.remembered(back) else {
            return;
        };
        let command = ClientCommand::RemoveSnapshot {
            path: self.snapshots[at].directory.clone(),
            name: self.snapshots[at].name.clone(),
        };
        if self.compare(command, Ok(())).is_some() {
            self.snapshots.remove(at);
        }
    }

    fn copy_back(&mut self, back: usize, file: usize, to: FsPath) {
        let Some(at) = self.remembered(back) else {
            return;
        };
        let snapshot = &self.snapshots[at];
        let Some((from, node)) = snapshot.tree.iter().nth(file) else {
            return;
        };
        let source = snapshot.shown_at(from);
        let expected = match node {
            // Where links in snapshots lead is told elsewhere.
            Node::Link { .. } => return,
            Node::Directory => Err(ErrorCode::IsDirectory),
            Node::File { .. } => self.appeared(&to, true, false, node.clone()),
        };
        let command = ClientCommand::Copy(CopyFiles {
            sources: vec![source],
            to,
            replace: true,
            parents: false,
            keep_time: false,
        });
        if let Some((_, tree)) = self.compare(command, expected) {
            self.tree = tree;
        }
    }

    fn write_snapshot(&mut self, back: usize, how: usize) {
        let Some(at) = self.remembered(back) else {
            return;
        };
        let inside = self.snapshots[at].shown_at("/x");
        let command = match how {
            0 => mkdir(inside.as_str()),
            1 => open(inside.as_str(), 1),
            2 => rename(inside.as_str(), "/z", false),
            3 => discard(inside.as_str()),
            _ => rename("/a", inside.as_str(), false),
        };
        self.compare(command, Err::<(), _>(ErrorCode::ReadOnly));
    }

    /// Whether a directory, or one below, has snapshots, so that it stays.
    pub(super) fn is_pinned(&self, at: &FsPath) -> bool {
        self.snapshots.iter().any(|snapshot| at.holds(&snapshot.directory)) || self.is_being_copied(at)
    }

    /// Snapshots move with their directories.
    pub(super) fn move_snapshots(&mut self, moved: impl Fn(&FsPath) -> FsPath) {
        for snapshot in &mut self.snapshots {
            snapshot.directory = moved(&snapshot.directory);
        }
    }

    /// Every snapshot shows what it showed when it was made.
    pub(super) fn compare_snapshots(&self) {
        for snapshot in &self.snapshots {
            let root = snapshot.shown_at("");
            let shown = self.shown_below(&root);
            let shown: BTreeMap<String, Option<Told>> = shown
                .into_iter()
                .map(|(path, node)| (below(&root, &path), node))
                .collect();
            let told = |(path, node): (&String, &Node)| (path.clone(), node.told());
            let expected: BTreeMap<_, _> = snapshot.tree.iter().map(told).collect();
            assert_eq!(shown, expected, "{root}");
            for (path, owner) in &snapshot.owners {
                let told = read::attributes(&self.machine.rows, &snapshot.shown_at(path)).unwrap();
                assert_eq!(&told.owner, owner, "{root}{path}");
            }
        }
        let page = read::snapshots(&self.machine.rows, None, None, 1000).unwrap();
        let mut listed: Vec<_> = page
            .snapshots
            .into_iter()
            .map(|info| (info.directory, info.name))
            .collect();
        let mut known: Vec<_> = self
            .snapshots
            .iter()
            .map(|s| (s.directory.clone(), s.name.clone()))
            .collect();
        listed.sort();
        known.sort();
        assert_eq!(listed, known);
    }

    /// Their files have the bytes they had, too.
    pub(super) fn compare_snapshot_bytes(&self) {
        for snapshot in &self.snapshots {
            for (at, node) in &snapshot.tree {
                if let Node::File { file } = node {
                    self.compare_file(&snapshot.shown_at(at), file);
                }
            }
        }
    }

    /// Removes all snapshots and lets history be pruned.
    pub(super) fn clear_snapshots(&mut self, client: &mut Client) {
        for snapshot in std::mem::take(&mut self.snapshots) {
            let gone = ClientCommand::RemoveSnapshot {
                path: snapshot.directory,
                name: snapshot.name,
            };
            client.run(&mut self.machine, gone).unwrap();
        }
    }
}

impl Remembered {
    /// What it shows.
    pub(super) fn tree(&self) -> &BTreeMap<String, Node> {
        &self.tree
    }

    /// Where something it holds is read.
    pub(super) fn shown_at(&self, below: &str) -> FsPath {
        let directory = self.directory.as_str().trim_end_matches('/');
        path(&format!("{directory}/.snapshot/{}{below}", self.name))
    }
}
