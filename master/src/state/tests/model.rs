//! Random programs against a naive model: paths lead to contents, nothing else is known.
//!
//! The model knows no inodes, chunks or totals. After every command the answers must be equal; after every
//! program the trees must be equal, the invariants must hold, and when all has been removed nothing may be left.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use gabion_protocol::messages::master::{AttributeChange, CopyFiles, EntryKind, QuotaLimits};
use proptest::prelude::*;

use super::*;
use crate::state::key::Kind;

mod attributes;
mod changes;
mod copies;
mod links;
mod merges;
mod quotas;
mod resumable;
mod snapshots;
mod trees;

use changes::{File, Told};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File { file: Rc<File> },
    Link { target: String },
}

impl Node {
    /// What is told of it.
    fn told(&self) -> Option<Told> {
        match self {
            Self::Directory => None,
            Self::File { file } => Some(file.told()),
            // No file has this: what it stands for is compared by itself.
            Self::Link { target } => Some((target.len() as u64, u32::MAX, u64::MAX, u8::MAX)),
        }
    }
}

#[derive(Debug, Clone)]
struct Draft {
    ino: Ino,
    generation: UploadGeneration,
    session: SessionId,
    path: FsPath,
    replace: bool,
    parents: bool,
    lease: u64,
    open: Vec<GrantedChunk>,
    whole: Running,
    content: File,
    /// Who may resume it, if anyone.
    owner: Option<usize>,
}

/// A removal the model remembers, also after it can be undone no more.
#[derive(Debug, Clone)]
struct Removal {
    id: TrashId,
    path: FsPath,
    /// What was removed, by where it was.
    tree: BTreeMap<FsPath, Node>,
    goes: u64,
    /// Restored, or emptied.
    is_over: bool,
}

/// What a program does next.
#[derive(Debug, Clone)]
enum Step {
    Mkdir {
        path: FsPath,
        parents: bool,
    },
    Open {
        path: FsPath,
        replace: bool,
        parents: bool,
        chunks: usize,
    },
    Resume {
        path: FsPath,
        owner: usize,
        replace: bool,
        parents: bool,
    },
    Create {
        path: FsPath,
        replace: bool,
        parents: bool,
    },
    Grant {
        upload: usize,
        chunks: usize,
        give_up: bool,
    },
    Seal {
        upload: usize,
        order: usize,
        drop_member: bool,
    },
    Commit {
        upload: usize,
        seal_rest: bool,
        lie: bool,
    },
    Abort {
        upload: usize,
    },
    Renew {
        upload: usize,
    },
    Stock {
        chunks: usize,
    },
    Put {
        stock: usize,
        order: usize,
        path: FsPath,
        replace: bool,
        parents: bool,
    },
    EndStock {
        stock: usize,
    },
    Rename {
        from: FsPath,
        to: FsPath,
        replace: bool,
    },
    Remove {
        path: FsPath,
        recursive: bool,
    },
    Discard {
        path: FsPath,
        recursive: bool,
    },
    Restore {
        back: usize,
        by_path: bool,
        to: Option<FsPath>,
    },
    Empty {
        back: usize,
        entries: usize,
    },
    Own {
        path: FsPath,
        owner: usize,
    },
    Tick {
        ms: u64,
    },
    Obey,
    Again {
        back: usize,
    },
    OtherClient,
    Repair(repair::Step),
    Copy(copies::Step),
    Inventory(inventory::Step),
    Change(changes::Step),
    Snapshot(snapshots::Step),
    Quota(quotas::Step),
    Tree(trees::Step),
    Link(links::Step),
    Merge(merges::Step),
}

fn any_path() -> impl Strategy<Value = FsPath> {
    proptest::collection::vec(0usize..3, 0..4).prop_map(|names| {
        let names: Vec<_> = names.into_iter().map(|name| ["a", "b", "c"][name]).collect();
        path(&format!("/{}", names.join("/")))
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let upload = 0usize..4;
    prop_oneof![
        3 => (any_path(), any::<bool>()).prop_map(|(path, parents)| Step::Mkdir { path, parents }),
        5 => (any_path(), any::<bool>(), any::<bool>(), 0usize..4)
            .prop_map(|(path, replace, parents, chunks)| Step::Open { path, replace, parents, chunks }),
        5 => (any_path(), 0usize..2, any::<bool>(), any::<bool>())
            .prop_map(|(path, owner, replace, parents)| Step::Resume { path, owner, replace, parents }),
        2 => (any_path(), any::<bool>(), any::<bool>())
            .prop_map(|(path, replace, parents)| Step::Create { path, replace, parents }),
        1 => (upload.clone(), 0usize..3, any::<bool>())
            .prop_map(|(upload, chunks, give_up)| Step::Grant { upload, chunks, give_up }),
        3 => (upload.clone(), 0usize..3, any::<bool>())
            .prop_map(|(upload, order, drop_member)| Step::Seal { upload, order, drop_member }),
        6 => (upload.clone(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(upload, seal_rest, lie)| Step::Commit { upload, seal_rest, lie }),
        1 => upload.clone().prop_map(|upload| Step::Abort { upload }),
        1 => upload.prop_map(|upload| Step::Renew { upload }),
        2 => (0usize..4).prop_map(|chunks| Step::Stock { chunks }),
        4 => (0usize..3, 0usize..3, any_path(), any::<bool>(), any::<bool>())
            .prop_map(|(stock, order, path, replace, parents)| Step::Put { stock, order, path, replace, parents }),
        1 => (0usize..3).prop_map(|stock| Step::EndStock { stock }),
        3 => (any_path(), any_path(), any::<bool>())
            .prop_map(|(from, to, replace)| Step::Rename { from, to, replace }),
        2 => (any_path(), any::<bool>()).prop_map(|(path, recursive)| Step::Remove { path, recursive }),
        3 => (any_path(), any::<bool>()).prop_map(|(path, recursive)| Step::Discard { path, recursive }),
        3 => (0usize..4, any::<bool>(), proptest::option::of(any_path()))
            .prop_map(|(back, by_path, to)| Step::Restore { back, by_path, to }),
        1 => (0usize..4, 0usize..3).prop_map(|(back, entries)| Step::Empty { back, entries }),
        2 => (any_path(), 0usize..3).prop_map(|(path, owner)| Step::Own { path, owner }),
        2 => prop_oneof![0u64..500, 1000u64..7000, Just(21_000u64)].prop_map(|ms| Step::Tick { ms }),
        1 => Just(Step::Obey),
        2 => (0usize..5).prop_map(|back| Step::Again { back }),
        1 => Just(Step::OtherClient),
        8 => repair::any_step().prop_map(Step::Repair),
        5 => copies::any_step().prop_map(Step::Copy),
        3 => inventory::any_step().prop_map(Step::Inventory),
        8 => changes::any_step().prop_map(Step::Change),
        6 => snapshots::any_step().prop_map(Step::Snapshot),
        4 => quotas::any_step().prop_map(Step::Quota),
        8 => trees::any_step().prop_map(Step::Tree),
        6 => links::any_step().prop_map(Step::Link),
        6 => merges::any_step().prop_map(Step::Merge),
    ]
}

/// A client and what the model knows about its session.
struct Known {
    client: Client,
    /// When the session ends; `None` while it has not begun.
    expires: Option<u64>,
    dead: bool,
    /// Its commands and their answers.
    sent: Vec<(Command, Reply)>,
}

struct Model {
    machine: Machine,
    tree: BTreeMap<FsPath, Node>,
    drafts: Vec<Draft>,
    stocks: Vec<Draft>,
    removals: Vec<Removal>,
    /// Who was given what, by inode number.
    owners: BTreeMap<Ino, String>,
    snapshots: Vec<snapshots::Remembered>,
    /// How much a directory may hold, by inode number.
    quotas: BTreeMap<Ino, QuotaLimits>,
    /// What directories with a quota held after the last step: bytes and entries.
    held: BTreeMap<Ino, (u64, u64)>,
    /// Copies of directories under way.
    copying: Vec<trees::Copying>,
    clients: Vec<Known>,
    active: usize,
    crc: u32,
    now: u64,
    born: u64,
    sent: Sent,
}

/// How many commands programs sent.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// Those of clients, whose answers were compared with what the model says.
    compared: u64,
    /// Those of them that were not refused.
    carried_out: u64,
    /// All there were, with those of the leader, of chunkservers and of operators.
    applied: usize,
}

impl Sent {
    fn compared(&mut self, reply: &Reply) {
        self.compared += 1;
        self.carried_out += u64::from(reply.0.is_ok());
    }

    fn and(self, more: Self) -> Self {
        Self {
            compared: self.compared + more.compared,
            carried_out: self.carried_out + more.carried_out,
            applied: self.applied + more.applied,
        }
    }
}

/// What the model expects, or the code it expects to be refused with.
type Expected<T> = Result<T, ErrorCode>;

impl Model {
    fn new() -> Self {
        let mut model = Self {
            machine: Machine::new(),
            tree: BTreeMap::from([(FsPath::root(), Node::Directory)]),
            drafts: Vec::new(),
            stocks: Vec::new(),
            removals: Vec::new(),
            owners: BTreeMap::new(),
            snapshots: Vec::new(),
            quotas: BTreeMap::new(),
            held: BTreeMap::new(),
            copying: Vec::new(),
            clients: Vec::new(),
            active: 0,
            crc: 0,
            now: 0,
            born: 0,
            sent: Sent::default(),
        };
        // One that no upload uses: it may be removed.
        model.machine.register("c5", None, 5, 1).unwrap();
        model.clients = vec![model.birth(), model.birth()];
        model
    }

    fn birth(&mut self) -> Known {
        self.born += 1;
        Known {
            client: Client::new(&self.machine, self.born),
            expires: None,
            dead: false,
            sent: Vec::new(),
        }
    }

    /// Sends a command of the active client; `None` if its session is dead, and a new one is begun.
    fn send(&mut self, op: ClientCommand) -> Option<Result<Outcome, Refusal>> {
        let known = &mut self.clients[self.active];
        known.client.sequence += 1;
        let sequence = known.client.sequence;
        let command = known.client.request(sequence, sequence.saturating_sub(3).max(1), op);
        let reply = self.machine.apply(&command);
        self.sent.compared(&reply);
        if known.dead {
            assert_eq!(reply, Reply(Err(Refusal::SessionExpired)));
            self.clients[self.active] = self.birth();
            return None;
        }
        known.expires = Some(self.now + SETTINGS.session_ms);
        known.sent.push((command, reply.clone()));
        Some(reply.0)
    }

    /// Sends a command and compares whether and how it is refused.
    fn compare<T: quotas::Foreseen>(&mut self, op: ClientCommand, expected: Expected<T>) -> Option<(Outcome, T)> {
        let what = format!("{op:?}");
        match (self.send(op)?, expected) {
            (Ok(outcome), Ok(expected)) => Some((outcome, expected)),
            (Err(refusal @ Refusal::QuotaExceeded { .. }), Ok(expected)) => {
                self.check_refused(&what, &refusal, expected.tree());
                None
            }
            (Err(refusal), Err(code)) => {
                assert_eq!(refusal.code(), code, "{what}: {refusal:?}");
                None
            }
            (answer, expected) => panic!("{what}: {answer:?}, expected {:?}", expected.err()),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Mkdir { path, parents } => self.mkdir(path, parents),
            Step::Open {
                path,
                replace,
                parents,
                chunks,
            } => self.open(path, replace, parents, chunks),
            Step::Resume {
                path,
                owner,
                replace,
                parents,
            } => self.resume(path, owner, replace, parents),
            Step::Create { path, replace, parents } => self.create(path, replace, parents),
            Step::Grant {
                upload,
                chunks,
                give_up,
            } => self.grant(upload, chunks, give_up),
            Step::Seal {
                upload,
                order,
                drop_member,
            } => self.seal(upload, order, drop_member),
            Step::Commit { upload, seal_rest, lie } => self.commit(upload, seal_rest, lie),
            Step::Abort { upload } => self.abort(upload),
            Step::Renew { upload } => self.renew(upload),
            Step::Stock { chunks } => self.open_stock(chunks),
            Step::Put {
                stock,
                order,
                path,
                replace,
                parents,
            } => self.put(stock, order, path, replace, parents),
            Step::EndStock { stock } => self.end_stock(stock),
            Step::Rename { from, to, replace } => self.rename(from, to, replace),
            Step::Remove { path, recursive } => self.remove(path, recursive),
            Step::Discard { path, recursive } => self.discard(path, recursive),
            Step::Restore { back, by_path, to } => self.restore(back, by_path, to),
            Step::Empty { back, entries } => self.empty(back, entries),
            Step::Own { path, owner } => self.own(path, ["", "ann", "bob"][owner]),
            Step::Tick { ms } => self.tick(ms),
            Step::Obey => self.machine.obey(),
            Step::Again { back } => self.again(back),
            Step::OtherClient => self.active = 1 - self.active,
            Step::Repair(step) => repair::run(&mut self.machine, &step),
            Step::Copy(step) => self.copy_step(step),
            Step::Inventory(step) => inventory::run(&mut self.machine, &step),
            Step::Change(step) => self.change(step),
            Step::Snapshot(step) => self.snapshot_step(step),
            Step::Quota(step) => self.quota_step(step),
            Step::Tree(step) => self.tree_step(step),
            Step::Link(step) => self.link_step(step),
            Step::Merge(step) => self.merge_step(step),
        }
    }

    /// The first part of a path that is a file or is missing.
    fn walk(&self, path: &FsPath) -> Expected<&Node> {
        let mut at = FsPath::root();
        for name in path.names() {
            if self.tree[&at] != Node::Directory {
                return Err(ErrorCode::NotDirectory);
            }
            at = at.join(name).unwrap();
            if !self.tree.contains_key(&at) {
                return Err(ErrorCode::NotFound);
            }
        }
        Ok(&self.tree[&at])
    }

    /// The directory above a path, made in `tree` if it may be.
    fn above(&self, path: &FsPath, make: bool) -> Expected<BTreeMap<FsPath, Node>> {
        let mut tree = self.tree.clone();
        let (parent, _) = path.parent_and_name().unwrap();
        let mut at = FsPath::root();
        for name in parent.names() {
            at = at.join(name).unwrap();
            match tree.get(&at) {
                Some(Node::Directory) => {}
                Some(Node::File { .. } | Node::Link { .. }) => return Err(ErrorCode::NotDirectory),
                None if make => drop(tree.insert(at.clone(), Node::Directory)),
                None => return Err(ErrorCode::NotFound),
            }
        }
        Ok(tree)
    }

    fn below(&self, path: &FsPath) -> Vec<FsPath> {
        self.tree
            .keys()
            .filter(|at| path.holds(at) && *at != path)
            .cloned()
            .collect()
    }

    fn mkdir(&mut self, path: FsPath, parents: bool) {
        let expected = self.straight(&path, false).and_then(|path| match self.walk(&path) {
            Ok(_) if parents && self.leads_to_directory(&path) => Ok(self.tree.clone()),
            Ok(_) => Err(ErrorCode::Exists),
            Err(_) => self.above(&path, parents).map(|mut tree| {
                tree.insert(path.clone(), Node::Directory);
                tree
            }),
        });
        let command = ClientCommand::Mkdir {
            path,
            parents,
            mode: 0o755,
        };
        if let Some((_, tree)) = self.compare(command, expected) {
            self.tree = tree;
        }
    }

    fn open(&mut self, path: FsPath, replace: bool, parents: bool, chunks: usize) {
        let expected = self.may_begin(&path, replace, parents);
        let command = ClientCommand::OpenUpload {
            path: path.clone(),
            options: UploadOptions {
                replace,
                parents,
                ..options()
            },
            placements: vec![chain(&[1, 2, 3]); chunks],
        };
        let Some((outcome, ())) = self.compare(command, expected) else {
            return;
        };
        let Outcome::Upload {
            upload,
            generation,
            chunks,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        self.drafts.push(Draft {
            ino: upload,
            generation,
            session: self.clients[self.active].client.session,
            path,
            replace,
            parents,
            lease: self.now + SETTINGS.upload_lease_ms,
            open: chunks,
            whole: Running::default(),
            content: File::empty(),
            owner: None,
        });
    }

    fn create(&mut self, path: FsPath, replace: bool, parents: bool) {
        let file = Node::File { file: File::of(&[]) };
        let name = self.name(&path, replace);
        let expected = self.appeared(&path, replace, parents, file);
        let command = ClientCommand::CreateFile {
            path: path.clone(),
            options: UploadOptions {
                replace,
                parents,
                ..options()
            },
        };
        if let Some((outcome, tree)) = self.compare(command, expected) {
            let file = entry(Ok(outcome));
            assert_eq!((file.length, file.crc, file.children), (0, 0, 0));
            assert_eq!(Some(file.name), name);
            self.tree = tree;
        }
    }

    /// The tree with a new file, which may replace an older one.
    fn appeared(&self, path: &FsPath, replace: bool, parents: bool, file: Node) -> Expected<BTreeMap<FsPath, Node>> {
        let path = self.straight(path, replace)?;
        self.appeared_at(path, replace, parents, file)
    }

    /// The same at a path without links.
    fn appeared_at(&self, path: FsPath, replace: bool, parents: bool, file: Node) -> Expected<BTreeMap<FsPath, Node>> {
        if path.is_root() {
            return Err(ErrorCode::IsDirectory);
        }
        let mut tree = self.above(&path, parents)?;
        match tree.get(&path) {
            Some(Node::Directory) => return Err(ErrorCode::IsDirectory),
            Some(Node::File { .. } | Node::Link { .. }) if !replace => return Err(ErrorCode::Exists),
            Some(Node::File { .. } | Node::Link { .. }) | None => {}
        }
        tree.insert(path, file);
        Ok(tree)
    }

    /// A draft by number, counted from the newest, and whether it is the active client's.
    fn draft(&self, back: usize) -> Option<(usize, Draft, Expected<()>)> {
        let at = self.drafts.len().checked_sub(back + 1)?;
        let draft = self.drafts[at].clone();
        let mine = draft.session == self.clients[self.active].client.session;
        Some((at, draft, if mine { Ok(()) } else { Err(ErrorCode::Fenced) }))
    }

    fn grant(&mut self, upload: usize, chunks: usize, give_up: bool) {
        let Some((at, draft, expected)) = self.draft(upload) else {
            return;
        };
        let abandoned = draft.open.first().filter(|_| give_up).map(|granted| granted.chunk);
        let command = ClientCommand::GrantChunks {
            upload: draft.ino,
            generation: draft.generation,
            placements: vec![chain(&[4, 2, 1]); chunks],
            abandoned: abandoned.into_iter().collect(),
        };
        if let Some((Outcome::Chunks(granted), ())) = self.compare(command, expected) {
            let draft = &mut self.drafts[at];
            draft.open.retain(|granted| Some(granted.chunk) != abandoned);
            draft.open.extend(granted);
            draft.lease = self.now + SETTINGS.upload_lease_ms;
        }
    }

    /// The seal of a draft's open chunk, as its writer makes it.
    fn next_seal(&mut self, draft: &mut Draft, order: usize, drop_member: bool) -> Seal {
        let granted = draft.open.remove(order % draft.open.len());
        self.crc = self.crc.wrapping_mul(31).wrapping_add(17);
        let length = 1 + u64::from(self.crc % 1000);
        let mut members: Vec<_> = granted.replicas.iter().map(|(server, _)| *server).collect();
        if drop_member {
            members.remove(order % members.len());
        }
        let seal = Seal {
            chunk: granted.chunk,
            generation: granted.generation,
            file_offset: draft.whole.len(),
            length,
            crc: self.crc,
            members,
        };
        draft.whole.append(seal.crc, length);
        draft.content = draft.content.spliced(None, std::slice::from_ref(&seal));
        seal
    }

    fn seal(&mut self, upload: usize, order: usize, drop_member: bool) {
        let Some((at, mut draft, expected)) = self.draft(upload) else {
            return;
        };
        if draft.open.is_empty() {
            return;
        }
        let seal = self.next_seal(&mut draft, order, drop_member);
        let command = ClientCommand::SealChunks {
            upload: draft.ino,
            generation: draft.generation,
            seals: vec![seal],
        };
        if self.compare(command, expected).is_some() {
            draft.lease = self.now + SETTINGS.upload_lease_ms;
            self.drafts[at] = draft;
        }
    }

    fn commit(&mut self, upload: usize, seal_rest: bool, lie: bool) {
        let Some((at, mut draft, mine)) = self.draft(upload) else {
            return;
        };
        let mut seals = Vec::new();
        while seal_rest && !draft.open.is_empty() {
            seals.push(self.next_seal(&mut draft, 0, false));
        }
        let name = self.name(&draft.path, draft.replace);
        let expected = mine.and_then(|()| self.committed(&draft, lie));
        let command = ClientCommand::Commit {
            upload: draft.ino,
            generation: draft.generation,
            seals,
            length: draft.whole.len(),
            crc: draft.content.told().1 ^ u32::from(lie),
        };
        if let Some((outcome, tree)) = self.compare(command, expected) {
            let file = entry(Ok(outcome));
            assert_eq!(
                (file.length, file.crc, file.children, file.replicas),
                draft.content.told()
            );
            assert_eq!(Some(file.name), name);
            self.tree = tree;
            self.drafts.remove(at);
        }
    }

    fn committed(&self, draft: &Draft, lie: bool) -> Expected<BTreeMap<FsPath, Node>> {
        if lie && draft.content.crc().is_some() {
            return Err(ErrorCode::ChecksumMismatch);
        }
        let file = Node::File {
            file: Rc::new(draft.content.clone()),
        };
        self.appeared(&draft.path, draft.replace, draft.parents, file)
    }

    fn abort(&mut self, upload: usize) {
        let Some((at, draft, expected)) = self.draft(upload) else {
            return;
        };
        let command = ClientCommand::AbortUpload {
            upload: draft.ino,
            generation: draft.generation,
        };
        if self.compare(command, expected).is_some() {
            self.drafts.remove(at);
        }
    }

    fn renew(&mut self, upload: usize) {
        let Some((at, draft, mine)) = self.draft(upload) else {
            return;
        };
        let uploads = vec![(draft.ino, draft.generation)];
        if self.compare(ClientCommand::Renew { uploads }, Ok(())).is_some() && mine.is_ok() {
            self.drafts[at].lease = self.now + SETTINGS.upload_lease_ms;
        }
    }

    fn open_stock(&mut self, chunks: usize) {
        let command = ClientCommand::OpenStock {
            replicas: Some(3),
            placements: vec![chain(&[2, 3, 4]); chunks],
        };
        let Some((outcome, ())) = self.compare(command, Ok(())) else {
            return;
        };
        let Outcome::Upload {
            upload,
            generation,
            chunks,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        self.stocks.push(Draft {
            ino: upload,
            generation,
            session: self.clients[self.active].client.session,
            path: FsPath::root(),
            replace: false,
            parents: false,
            lease: self.now + SETTINGS.upload_lease_ms,
            open: chunks,
            whole: Running::default(),
            content: File::empty(),
            owner: None,
        });
    }

    /// A stock by number, and whether it is the active client's.
    fn stock(&self, back: usize) -> Option<(usize, Draft, Expected<()>)> {
        let at = self.stocks.len().checked_sub(back + 1)?;
        let stock = self.stocks[at].clone();
        let mine = stock.session == self.clients[self.active].client.session;
        Some((at, stock, if mine { Ok(()) } else { Err(ErrorCode::Fenced) }))
    }

    fn put(&mut self, stock: usize, order: usize, path: FsPath, replace: bool, parents: bool) {
        let Some((at, mut stock, mine)) = self.stock(stock) else {
            return;
        };
        if stock.open.is_empty() {
            return;
        }
        let seal = self.next_seal(&mut stock, order, order == 1);
        let (length, crc) = (seal.length, seal.crc);
        let file = Node::File {
            file: File::of(std::slice::from_ref(&seal)),
        };
        let name = self.name(&path, replace);
        let expected = mine.and_then(|()| self.appeared(&path, replace, parents, file));
        let command = ClientCommand::PutFile {
            path: path.clone(),
            options: UploadOptions {
                replace,
                parents,
                ..options()
            },
            stock: stock.ino,
            generation: stock.generation,
            seal,
        };
        if let Some((outcome, tree)) = self.compare(command, expected) {
            let file = entry(Ok(outcome));
            assert_eq!((file.length, file.crc, file.children), (length, crc, 1));
            assert_eq!(Some(file.name), name);
            self.tree = tree;
            stock.whole = Running::default();
            stock.lease = self.now + SETTINGS.upload_lease_ms;
            if stock.open.is_empty() {
                self.stocks.remove(at);
            } else {
                self.stocks[at] = stock;
            }
        }
    }

    fn end_stock(&mut self, stock: usize) {
        let Some((at, stock, expected)) = self.stock(stock) else {
            return;
        };
        let command = ClientCommand::AbortUpload {
            upload: stock.ino,
            generation: stock.generation,
        };
        if self.compare(command, expected).is_some() {
            self.stocks.remove(at);
        }
    }

    fn rename(&mut self, from: FsPath, to: FsPath, replace: bool) {
        let command = ClientCommand::Rename {
            from: from.clone(),
            to: to.clone(),
            replace,
        };
        let places = self
            .straight(&from, false)
            .and_then(|from| Ok((from, self.straight(&to, false)?)));
        let (from, to) = match places {
            Ok(places) => places,
            Err(code) => return drop(self.compare(command, Err::<(), _>(code))),
        };
        let expected = self.renamed(&from, &to, replace);
        let moved = |at: &FsPath| match at.as_str().strip_prefix(from.as_str()) {
            Some(rest) if from.holds(at) => path(&format!("{to}{rest}")),
            _ => at.clone(),
        };
        if let Some((_, tree)) = self.compare(command, expected) {
            self.tree = tree;
            self.move_snapshots(moved);
            self.move_originals(moved);
        }
    }

    fn renamed(&self, from: &FsPath, to: &FsPath, replace: bool) -> Expected<BTreeMap<FsPath, Node>> {
        if from.is_root() || to.is_root() {
            return Err(ErrorCode::InvalidArgument);
        }
        let source = self.walk(from)?.clone();
        if from == to {
            return Ok(self.tree.clone());
        }
        if source == Node::Directory && from.holds(to) {
            return Err(ErrorCode::InvalidArgument);
        }
        let (parent, _) = to.parent_and_name().unwrap();
        if *self.walk(&parent)? != Node::Directory {
            return Err(ErrorCode::NotDirectory);
        }
        if let Some(target) = self.tree.get(to) {
            match (&source, target) {
                _ if !replace => return Err(ErrorCode::Exists),
                (Node::Directory, Node::File { .. } | Node::Link { .. }) => return Err(ErrorCode::NotDirectory),
                (Node::File { .. } | Node::Link { .. }, Node::Directory) => return Err(ErrorCode::IsDirectory),
                (Node::Directory, Node::Directory) if !self.below(to).is_empty() || self.is_pinned(to) => {
                    return Err(ErrorCode::NotEmpty);
                }
                _ => {}
            }
        }
        let moved = |at: &FsPath| match at.as_str().strip_prefix(from.as_str()) {
            Some(rest) if from.holds(at) => path(&format!("{to}{rest}")),
            _ => at.clone(),
        };
        let mut tree = self.tree.clone();
        tree.remove(to);
        Ok(tree.into_iter().map(|(at, node)| (moved(&at), node)).collect())
    }

    /// Where what may be removed is.
    fn removable(&self, at: &FsPath, recursive: bool) -> Expected<FsPath> {
        let at = self.straight(at, false)?;
        match self.walk(&at) {
            _ if at.is_root() => Err(ErrorCode::InvalidArgument),
            Err(code) => Err(code),
            Ok(_) if !recursive && !self.below(&at).is_empty() => Err(ErrorCode::NotEmpty),
            Ok(_) if self.is_pinned(&at) => Err(ErrorCode::NotEmpty),
            Ok(_) => Ok(at),
        }
    }

    /// Takes a tree away.
    fn cut(&mut self, at: &FsPath) -> BTreeMap<FsPath, Node> {
        let paths = self.below(at).into_iter().chain([at.clone()]);
        let cut: Vec<_> = paths.map(|path| self.tree.remove_entry(&path).unwrap()).collect();
        cut.into_iter().collect()
    }

    fn remove(&mut self, at: FsPath, recursive: bool) {
        let expected = self.removable(&at, recursive);
        let command = ClientCommand::Remove { path: at, recursive };
        let Some((outcome, at)) = self.compare(command, expected) else {
            return;
        };
        let (files, directories, bytes) = weight(&self.cut(&at));
        let removed = Outcome::Removed {
            files,
            directories,
            bytes,
        };
        assert_eq!(outcome, removed);
    }

    fn discard(&mut self, at: FsPath, recursive: bool) {
        let expected = self.removable(&at, recursive);
        let command = ClientCommand::MoveToTrash { path: at, recursive };
        let Some((outcome, at)) = self.compare(command, expected) else {
            return;
        };
        let tree = self.cut(&at);
        let Outcome::Trashed {
            ino,
            files,
            directories,
            bytes,
            keep_ms,
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!((files, directories, bytes), weight(&tree));
        assert_eq!(keep_ms, TRASH_MS);
        self.removals.push(Removal {
            id: TrashId {
                ino,
                removed: self.machine.index,
            },
            path: at,
            tree,
            goes: self.now + keep_ms,
            is_over: false,
        });
    }

    /// A removal by number, counted from the newest, and whether it can be undone.
    fn removal(&self, back: usize) -> Option<(usize, bool)> {
        let at = self.removals.len().checked_sub(back + 1)?;
        let removal = &self.removals[at];
        Some((at, !removal.is_over && removal.goes > self.now))
    }

    fn restore(&mut self, back: usize, by_path: bool, to: Option<FsPath>) {
        let Some((mut at, mut is_there)) = self.removal(back) else {
            return;
        };
        let path = self.removals[at].path.clone();
        let what = match by_path {
            true => TrashRef::Path(path.clone()),
            false => TrashRef::Ino(self.removals[at].id.ino),
        };
        // The newest removal of the path, or the only one of the inode, is meant.
        let newest = |is_meant: &dyn Fn(&Removal) -> bool| {
            let open = |removal: &Removal| !removal.is_over && removal.goes > self.now;
            self.removals
                .iter()
                .rposition(|removal| is_meant(removal) && open(removal))
        };
        let found = match &what {
            // By the path as it is, else by the one that a link on its way leads to.
            TrashRef::Path(path) => newest(&|removal| removal.path == *path).or_else(|| {
                let led = self.straight(path, false).ok()?;
                newest(&|removal| removal.path == led)
            }),
            TrashRef::Ino(ino) => newest(&|removal| removal.id.ino == *ino),
        };
        if let Some(newest) = found {
            (at, is_there) = (newest, true);
        }
        let removal = self.removals[at].clone();
        let place = to.clone().unwrap_or_else(|| removal.path.clone());
        let name = self.name(&place, false);
        let expected = match is_there {
            true => self
                .straight(&place, false)
                .and_then(|place| self.put_back(&removal, &place)),
            false => Err(ErrorCode::NotFound),
        };
        let command = ClientCommand::Restore { what, to };
        if let Some((outcome, tree)) = self.compare(command, expected) {
            assert_eq!(Some(entry(Ok(outcome)).name), name);
            self.tree = tree;
            self.removals[at].is_over = true;
        }
    }

    fn put_back(&self, removal: &Removal, to: &FsPath) -> Expected<BTreeMap<FsPath, Node>> {
        let Some((parent, _)) = to.parent_and_name() else {
            return Err(ErrorCode::InvalidArgument);
        };
        if *self.walk(&parent)? != Node::Directory {
            return Err(ErrorCode::NotDirectory);
        }
        if self.tree.contains_key(to) {
            return Err(ErrorCode::Exists);
        }
        let moved = |at: &FsPath| path(&format!("{to}{}", &at.as_str()[removal.path.as_str().len()..]));
        let mut tree = self.tree.clone();
        tree.extend(removal.tree.iter().map(|(at, node)| (moved(at), node.clone())));
        Ok(tree)
    }

    /// Empties some removals, of which some may be over.
    fn empty(&mut self, back: usize, entries: usize) {
        let chosen: Vec<_> = (back..back + entries).filter_map(|back| self.removal(back)).collect();
        let command = ClientCommand::EmptyTrash {
            entries: chosen.iter().map(|(at, _)| self.removals[*at].id).collect(),
        };
        let Some((outcome, ())) = self.compare(command, Ok(())) else {
            return;
        };
        let (mut files, mut directories, mut bytes) = (0, 0, 0);
        for (at, is_there) in chosen {
            if is_there {
                let gone = weight(&self.removals[at].tree);
                (files, directories, bytes) = (files + gone.0, directories + gone.1, bytes + gone.2);
                self.removals[at].is_over = true;
            }
        }
        let removed = Outcome::Removed {
            files,
            directories,
            bytes,
        };
        assert_eq!(outcome, removed);
    }

    /// The trash as the state machine lists it is what can be undone.
    fn compare_trash(&self) {
        let there = |removal: &&Removal| !removal.is_over && removal.goes > self.now;
        let mut expected: Vec<_> = self.removals.iter().filter(there).collect();
        expected.sort_by_key(|removal| (removal.goes, removal.id.ino));
        let page = read::trash(&self.machine.rows, None, 1000).unwrap();
        let listed: Vec<_> = page
            .entries
            .iter()
            .map(|entry| (entry.id, entry.path.clone()))
            .collect();
        let expected: Vec<_> = expected.into_iter().map(|r| (r.id, r.path.clone())).collect();
        assert_eq!(listed, expected);
    }

    fn tick(&mut self, ms: u64) {
        self.now += ms;
        let before = repair::good(&self.machine);
        self.machine.tick(ms);
        // Removals go on with time, and forget nothing that is needed.
        for (id, (now, wanted)) in repair::good(&self.machine) {
            assert!(
                now >= before[&id].0.min(wanted),
                "chunk {id} has {now} good copies left of {wanted}"
            );
        }
        let now = self.now;
        self.expire_drafts();
        self.expire_copies();
        self.stocks.retain(|stock| stock.lease > now);
        for known in &mut self.clients {
            let opened = known.client.session.opened.0;
            let end = known.expires.unwrap_or(opened + SETTINGS.session_ms);
            known.dead |= end <= now;
        }
    }

    /// A command arrives once more, from either client.
    fn again(&mut self, back: usize) {
        let known = &self.clients[self.active];
        let Some(at) = known.sent.len().checked_sub(back + 1) else {
            return;
        };
        let (command, first) = known.sent[at].clone();
        let before = self.machine.rows.clone();
        let again = self.machine.apply(&command);
        assert_eq!(self.machine.rows, before, "a duplicate changes nothing");
        let expected = if known.dead {
            Reply(Err(Refusal::SessionExpired))
        } else if back > 3 {
            Reply(Err(Refusal::AnsweredBefore))
        } else {
            first
        };
        assert_eq!(again, expected, "{command:?}");
        self.sent.compared(&again);
    }

    /// The tree as the state machine shows it: `None` for a directory.
    fn shown(&self) -> BTreeMap<FsPath, Option<Told>> {
        self.shown_below(&FsPath::root())
    }

    /// A part of it, or of a snapshot.
    fn shown_below(&self, root: &FsPath) -> BTreeMap<FsPath, Option<Told>> {
        let mut shown = BTreeMap::from([(root.clone(), None)]);
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in read::list(&self.machine.rows, &directory, None, 1000).unwrap().entries {
                let path = directory.join(&entry.name).unwrap();
                let node = match entry.kind {
                    EntryKind::Directory => {
                        directories.push(path.clone());
                        None
                    }
                    EntryKind::File => Some((entry.length, entry.crc, entry.children, entry.replicas)),
                    EntryKind::Link { target } => Node::Link { target }.told(),
                };
                shown.insert(path, node);
            }
        }
        shown
    }

    /// The tree as it should be shown.
    fn expected(&self) -> BTreeMap<FsPath, Option<Told>> {
        self.tree.iter().map(|(at, node)| (at.clone(), node.told())).collect()
    }

    /// Lets everything expire and be removed; nothing may be left.
    fn clear(&mut self) {
        let mut client = Client::new(&self.machine, 1000);
        self.clear_merges();
        self.clear_snapshots(&mut client);
        self.clear_quotas(&mut client);
        // Copies under way hold their originals.
        self.machine.tick(SETTINGS.upload_lease_ms);
        self.machine.settle();
        for name in ["/a", "/b", "/c"] {
            let gone = client.run(&mut self.machine, remove(name, true));
            assert_eq!(gone.is_ok(), self.tree.contains_key(&path(name)));
        }
        let nobody = AttributeChange::Owner {
            owner: Some(String::new()),
            group: None,
        };
        let root = ClientCommand::ChangeAttributes {
            path: FsPath::root(),
            change: nobody,
        };
        entry(client.run(&mut self.machine, root));
        self.machine.tick(SETTINGS.session_ms);
        self.machine.settle();
        self.machine.tick(SETTINGS.token_ms);
        self.machine.settle();
        self.machine.obey();
        inventory::accept_all(&mut self.machine);
        self.machine.check();
        // A server may have been removed meanwhile, or be drained.
        let kinds = |rows: &MemoryRows| -> Vec<Option<Kind>> {
            let kinds = rows.0.keys().map(|key| Kind::of(key));
            let of_servers = [Kind::Server, Kind::ServerName, Kind::Condition].map(Some);
            kinds.filter(|kind| !of_servers.contains(kind)).collect()
        };
        assert_eq!(
            kinds(&self.machine.rows),
            kinds(&Machine::new().rows),
            "rows are left over"
        );
        let totals = read::totals(&self.machine.rows).unwrap();
        assert_eq!((totals.files, totals.directories, totals.bytes), (0, 0, 0));
    }
}

/// Files, directories and bytes of a tree.
fn weight(tree: &BTreeMap<FsPath, Node>) -> (u64, u64, u64) {
    weight_of(tree.values())
}

fn weight_of<'a>(nodes: impl Iterator<Item = &'a Node>) -> (u64, u64, u64) {
    nodes.fold((0, 0, 0), |(files, directories, bytes), node| match node {
        Node::Directory => (files, directories + 1, bytes),
        Node::File { file } => (files + 1, directories, bytes + file.length()),
        Node::Link { target } => (files + 1, directories, bytes + target.len() as u64),
    })
}

/// Runs a program and compares everything.
fn run(steps: Vec<Step>) -> Sent {
    let mut model = Model::new();
    for step in steps {
        model.step(step);
        model.machine.check();
        model.compare_trash();
        model.compare_snapshots();
        model.compare_quotas();
    }
    let sent = Sent {
        applied: model.machine.log.len(),
        ..model.sent
    };
    assert_eq!(model.shown(), model.expected());
    model.compare_links();
    model.compare_bytes();
    model.compare_snapshot_bytes();
    model.compare_owners();
    model.clear();
    sent
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(), 1..60)
}

/// Programs that come back to what snapshots show.
fn near_steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(snapshots::near_step(), 20..80)
}

/// Runs so many programs, which together must send at least so many commands that are compared. Commands are counted and not
/// steps, because many a step finds nothing to act on and sends none.
fn run_all(programs: u32, compared_min: u64, any: impl Strategy<Value = Vec<Step>>) {
    let config = ProptestConfig {
        cases: programs,
        ..ProptestConfig::default()
    };
    let sent = Cell::new(Sent::default());
    proptest!(config, |(steps in any)| sent.set(sent.get().and(run(steps))));
    let sent = sent.get();
    println!("{programs} programs: {sent:?}");
    assert!(
        sent.compared >= compared_min,
        "only {} commands were compared",
        sent.compared
    );
}

#[test]
fn programs_run_as_the_model_says() {
    run_all(8000, 100_000, any_steps());
}

/// The same where programs come back to what snapshots show.
#[test]
fn snapshots_stay_as_they_were() {
    run_all(3000, 60_000, near_steps());
}

/// A random program, for whoever compares other rows with those in memory.
#[derive(Debug, Clone)]
pub(crate) struct Program(Vec<Step>);

impl Program {
    /// Of any kind.
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        prop_oneof![any_steps(), near_steps()].prop_map(Self)
    }

    /// What it did in memory, up to the removal of all that it made.
    pub(crate) fn run(self) -> Machine {
        let mut model = Model::new();
        for step in self.0 {
            model.step(step);
        }
        model.clear();
        model.machine
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    /// A machine that gets the same log has the same rows and replies, however its applies are batched.
    #[test]
    fn batching_makes_no_difference(steps in proptest::collection::vec(any_step(), 1..40), cut in 1usize..8) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        let mut rows = MemoryRows::default();
        let mut index = 0;
        for commands in model.machine.log.chunks(cut) {
            let mut batch = Batch::new(&rows);
            for (command, reply) in commands {
                index += 1;
                let at = LogAt { index, term: 9, leader: MasterId(3) };
                prop_assert_eq!(&apply(&mut batch, at, command).unwrap(), reply);
            }
            let changes = batch.into_changes();
            rows.store(changes);
        }
        prop_assert_eq!(rows, model.machine.rows);
    }
}
