//! Copies of directories in the model: a deep clone taken when the copy begins, which appears with the last step.

use gabion_protocol::messages::master::TreeCopy;

use super::*;

/// A copy under way.
#[derive(Debug, Clone)]
pub(super) struct Copying {
    ino: Ino,
    generation: UploadGeneration,
    session: SessionId,
    /// The directory that cannot be removed meanwhile.
    pinned: FsPath,
    to: FsPath,
    parents: bool,
    /// What it is a copy of, by the path below it, and whose it was.
    tree: BTreeMap<String, Node>,
    owners: BTreeMap<String, String>,
    /// Entries copied.
    done: u64,
    lease: u64,
}

/// Where a copy that may begin is made from and to, by paths without links.
struct Begun {
    from: FsPath,
    pinned: FsPath,
    place: FsPath,
}

impl quotas::Foreseen for Begun {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        None
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Begin {
        source: FsPath,
        to: FsPath,
        parents: bool,
        /// From the newest snapshot of the source, if it has one.
        old: bool,
    },
    GoOn {
        back: usize,
        limit: u32,
    },
    Abort {
        back: usize,
    },
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any_path(), any_path(), any::<bool>(), any::<bool>())
            .prop_map(|(source, to, parents, old)| Step::Begin { source, to, parents, old }),
        5 => (0usize..2, prop_oneof![2 => 1u32..4, 1 => Just(1000)])
            .prop_map(|(back, limit)| Step::GoOn { back, limit }),
        1 => (0usize..2).prop_map(|back| Step::Abort { back }),
    ]
}

impl Model {
    pub(super) fn tree_step(&mut self, step: Step) {
        match step {
            Step::Begin {
                source,
                to,
                parents,
                old,
            } => {
                let snapshot = self.snapshots.iter().rfind(|known| old && known.directory == source);
                let (shown, pinned) = match snapshot {
                    Some(known) => (known.shown_at(""), source.clone()),
                    None => (source.clone(), source.clone()),
                };
                self.begin_tree(shown, pinned, to, parents);
            }
            Step::GoOn { back, limit } => self.go_on_with_tree(back, limit),
            Step::Abort { back } => self.abort_tree(back),
        }
    }

    /// Whether a new directory could appear at a path; the tree with those above it.
    fn free(&self, to: &FsPath, parents: bool) -> Expected<BTreeMap<FsPath, Node>> {
        match self.walk(to) {
            Ok(_) => Err(ErrorCode::Exists),
            Err(ErrorCode::NotFound) => self.above(to, parents),
            Err(code) => Err(code),
        }
    }

    fn begin_tree(&mut self, shown: FsPath, pinned: FsPath, to: FsPath, parents: bool) {
        let is_snapshot = shown != pinned;
        let expected = self.straight(&pinned, true).and_then(|led| {
            let place = self.straight(&to, false)?;
            let from = if is_snapshot { shown.clone() } else { led.clone() };
            match self.walk(&led)? {
                Node::File { .. } | Node::Link { .. } => Err(ErrorCode::NotDirectory),
                Node::Directory if from.holds(&place) => Err(ErrorCode::InvalidArgument),
                Node::Directory => self.free(&place, parents).map(|_| Begun {
                    from,
                    pinned: led,
                    place,
                }),
            }
        });
        let command = ClientCommand::CopyTree(TreeCopy::Begin {
            source: shown,
            to,
            parents,
            keep_times: false,
        });
        let Some((
            Outcome::TreeCopied(begun),
            Begun {
                from: shown,
                pinned,
                place: to,
            },
        )) = self.compare(command, expected)
        else {
            return;
        };
        let held: BTreeMap<String, Node> = match self.snapshots.iter().find(|known| known.shown_at("") == shown) {
            Some(known) => known.tree().clone(),
            None => {
                let held = self.tree.iter().filter(|(at, _)| shown.holds(at));
                held.map(|(at, node)| (snapshots::below(&shown, at), node.clone()))
                    .collect()
            }
        };
        let (files, directories, bytes) = weight_of(held.values());
        assert_eq!(
            (begun.files_total, begun.directories_total + 1, begun.bytes_total),
            (files, directories, bytes)
        );
        let owner = |below: &String| {
            let at = path(&format!("{}{below}", shown.as_str().trim_end_matches('/')));
            (below.clone(), read::attributes(&self.machine.rows, &at).unwrap().owner)
        };
        let owners = held.keys().map(owner).collect();
        self.copying.push(Copying {
            ino: begun.copy,
            generation: begun.generation,
            session: self.clients[self.active].client.session,
            pinned,
            to,
            parents,
            tree: held,
            owners,
            done: 0,
            lease: self.now + SETTINGS.upload_lease_ms,
        });
    }

    fn copying(&self, back: usize) -> Option<(usize, Copying, Expected<()>)> {
        let at = self.copying.len().checked_sub(back + 1)?;
        let copying = self.copying[at].clone();
        let mine = copying.session == self.clients[self.active].client.session;
        Some((at, copying, if mine { Ok(()) } else { Err(ErrorCode::Fenced) }))
    }

    fn go_on_with_tree(&mut self, back: usize, limit: u32) {
        let Some((at, copying, mine)) = self.copying(back) else {
            return;
        };
        let left = copying.tree.len() as u64 - 1 - copying.done;
        let is_last = u64::from(limit) > left;
        let expected = mine.and_then(|()| match is_last {
            false => Ok(None),
            true => {
                let to = self.straight(&copying.to, false)?;
                let mut tree = self.free(&to, copying.parents)?;
                let moved = |below: &String| path(&format!("{to}{below}"));
                tree.extend(copying.tree.iter().map(|(below, node)| (moved(below), node.clone())));
                Ok(Some((tree, to)))
            }
        });
        let command = ClientCommand::CopyTree(TreeCopy::GoOn {
            copy: copying.ino,
            generation: copying.generation,
            limit,
        });
        let Some((Outcome::TreeCopied(progress), published)) = self.compare(command, expected) else {
            return;
        };
        let done = copying.done + left.min(u64::from(limit));
        assert_eq!(progress.files + progress.directories, done);
        assert_eq!(progress.entry.is_some(), is_last);
        let Some((tree, to)) = published else {
            self.copying[at].done = done;
            self.copying[at].lease = self.now + SETTINGS.upload_lease_ms;
            return;
        };
        self.tree = tree;
        self.copying.remove(at);
        for (below, owner) in copying.owners {
            let at = path(&format!("{to}{below}"));
            let ino = read::stat(&self.machine.rows, &at).unwrap().ino;
            self.owners.insert(ino, owner);
        }
    }

    fn abort_tree(&mut self, back: usize) {
        let Some((at, copying, mine)) = self.copying(back) else {
            return;
        };
        let command = ClientCommand::AbortUpload {
            upload: copying.ino,
            generation: copying.generation,
        };
        if self.compare(command, mine).is_some() {
            self.copying.remove(at);
        }
    }

    /// Whether a directory, or one below, is being copied, so that it stays.
    pub(super) fn is_being_copied(&self, at: &FsPath) -> bool {
        self.copying.iter().any(|copying| at.holds(&copying.pinned))
    }

    /// Originals move with their directories.
    pub(super) fn move_originals(&mut self, moved: impl Fn(&FsPath) -> FsPath) {
        for copying in &mut self.copying {
            copying.pinned = moved(&copying.pinned);
        }
    }

    pub(super) fn expire_copies(&mut self) {
        let now = self.now;
        self.copying.retain(|copying| copying.lease > now);
    }
}
