//! Quotas in the model: what a directory holds is a walk over the naive tree; it never grows beyond its quota, and what is
//! refused would have.

use gabion_protocol::messages::master::{QuotaChange, QuotaLimits};

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Set {
        path: FsPath,
        bytes: Option<u64>,
        entries: Option<u64>,
    },
    Clear {
        path: FsPath,
    },
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let bytes = proptest::option::of(0u64..6000);
    let entries = proptest::option::of(0u64..12);
    prop_oneof![
        3 => (any_path(), bytes, entries).prop_map(|(path, bytes, entries)| Step::Set { path, bytes, entries }),
        1 => any_path().prop_map(|path| Step::Clear { path }),
    ]
}

/// What a command is expected to leave behind, as far as the model knows that before.
pub(super) trait Foreseen {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>>;
}

impl Foreseen for () {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        None
    }
}

impl Foreseen for FsPath {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        None
    }
}

impl Foreseen for File {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        None
    }
}

impl Foreseen for BTreeMap<FsPath, Node> {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        Some(self)
    }
}

impl Foreseen for Option<(BTreeMap<FsPath, Node>, FsPath)> {
    fn tree(&self) -> Option<&BTreeMap<FsPath, Node>> {
        self.as_ref().map(|(tree, _)| tree)
    }
}

/// Bytes and entries below a directory.
fn held(tree: &BTreeMap<FsPath, Node>, directory: &FsPath) -> (u64, u64) {
    let below = tree
        .iter()
        .filter(|(at, _)| directory.holds(at) && *at != directory)
        .map(|(_, node)| node);
    let (files, directories, bytes) = weight_of(below);
    (bytes, files + directories)
}

impl Model {
    pub(super) fn quota_step(&mut self, step: Step) {
        let (path, change) = match step {
            Step::Set { path, bytes, entries } => (path, QuotaChange::Set(QuotaLimits { bytes, entries })),
            Step::Clear { path } => (path, QuotaChange::Clear),
        };
        let nothing = QuotaChange::Set(QuotaLimits::default());
        let place = self.straight(&path, true);
        let expected = place.and_then(|place| match self.walk(&place)? {
            Node::File { .. } | Node::Link { .. } => Err(ErrorCode::NotDirectory),
            Node::Directory if change == nothing => Err(ErrorCode::InvalidArgument),
            Node::Directory => Ok(place),
        });
        let command = ClientCommand::SetQuota {
            path: path.clone(),
            change,
        };
        let Some((_, path)) = self.compare(command, expected) else {
            return;
        };
        let ino = read::resolve(&self.machine.rows, &path).unwrap().ino;
        match change {
            QuotaChange::Clear => drop(self.quotas.remove(&ino)),
            QuotaChange::Set(new) => {
                let limits = self.quotas.entry(ino).or_default();
                limits.bytes = new.bytes.or(limits.bytes);
                limits.entries = new.entries.or(limits.entries);
            }
        }
    }

    /// The quotas of directories that can be reached, with what each holds.
    fn standing(&self) -> Vec<(FsPath, QuotaLimits, (u64, u64))> {
        let with_path = |(ino, limits): (&Ino, &QuotaLimits)| {
            let at = read::path_of(&self.machine.rows, *ino).unwrap()?;
            let at = path(&at);
            let held = held(&self.tree, &at);
            Some((at, *limits, held))
        };
        self.quotas.iter().filter_map(with_path).collect()
    }

    /// After a step: nothing has grown beyond its quota, room that uploads under way were promised included, because a quota
    /// may be lowered meanwhile; what the masters tell is what a walk finds.
    pub(super) fn compare_quotas(&mut self) {
        let mut now = BTreeMap::new();
        for (at, limits, (bytes, entries)) in self.standing() {
            let told = read::quota(&self.machine.rows, &at).unwrap().own;
            assert_eq!(
                (told.limits, told.bytes, told.entries),
                (limits, bytes, entries),
                "{at}"
            );
            let ino = read::resolve(&self.machine.rows, &at).unwrap().ino;
            let (bytes, entries) = (bytes + told.reserved_bytes, entries + told.reserved_entries);
            let before = self.held.get(&ino).copied().unwrap_or((u64::MAX, u64::MAX));
            assert!(
                limits.bytes.is_none_or(|limit| bytes <= limit.max(before.0)),
                "{at} holds {bytes}"
            );
            assert!(
                limits.entries.is_none_or(|limit| entries <= limit.max(before.1)),
                "{at} holds {entries} entries"
            );
            now.insert(ino, (bytes, entries));
        }
        self.held = now;
    }

    /// A command that could have been carried out was refused for lack of room: rightly, and it says what is the case.
    pub(super) fn check_refused(&self, what: &str, refusal: &Refusal, foreseen: Option<&BTreeMap<FsPath, Node>>) {
        let Refusal::QuotaExceeded {
            directory,
            is_bytes,
            limit,
            used,
            reserved,
            needed,
        } = refusal
        else {
            panic!("{what}: {refusal:?}");
        };
        let of = |(bytes, entries): (u64, u64)| if *is_bytes { bytes } else { entries };
        let quotas = self.standing();
        let quota = quotas.iter().find(|(at, ..)| at == directory);
        let (_, limits, held_now) = quota.unwrap_or_else(|| panic!("{what}: {directory} has no quota"));
        assert_eq!(*used, of(*held_now), "{what}: {refusal:?}");
        assert_eq!(
            Some(*limit),
            if *is_bytes { limits.bytes } else { limits.entries },
            "{what}"
        );
        assert!(*needed > 0 && used + reserved + needed > *limit, "{what}: {refusal:?}");
        let all = read::quota(&self.machine.rows, &FsPath::root()).unwrap().own;
        let all = of((all.reserved_bytes, all.reserved_entries));
        if let Some(tree) = foreseen {
            let growth = of(held(tree, directory)).saturating_sub(*used);
            assert!(*needed <= growth + all, "{what}: it needs {growth}, {refusal:?}");
            assert!(all > 0 || *needed == growth, "{what}: it needs {growth}, {refusal:?}");
        }
    }

    /// Takes the root's quota away: all others go with their directories.
    pub(super) fn clear_quotas(&mut self, client: &mut Client) {
        let change = QuotaChange::Clear;
        let path = FsPath::root();
        client
            .run(&mut self.machine, ClientCommand::SetQuota { path, change })
            .unwrap();
    }
}
