//! Files that change: the model holds a file as its bytes, each known by its chunk and where in that it is.

use std::rc::Rc;

use gabion_protocol::checksum;
use gabion_protocol::messages::master::{Change, FileChange, SpliceAt};

use super::*;
use crate::state::key::merge::{Merge, Piece};

/// A byte of a file: which of which chunk; `None` for the zeros nobody wrote.
type Byte = Option<(ChunkId, u64)>;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct File {
    bytes: Vec<Byte>,
    crc: Option<u32>,
    replicas: u8,
}

/// What is told of a file: length, CRC, extents, copies.
pub(super) type Told = (u64, u32, u64, u8);

impl File {
    pub(super) fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            crc: Some(0),
            replicas: SETTINGS.replicas,
        }
    }

    /// A file of these chunks.
    pub(super) fn of(seals: &[Seal]) -> Rc<Self> {
        Rc::new(Self::empty().spliced(None, seals))
    }

    /// The same with another file behind it, if it has as many copies.
    pub(super) fn followed_by(&self, next: &Self) -> Expected<Self> {
        if self.replicas != next.replicas {
            return Err(ErrorCode::InvalidArgument);
        }
        let both = |crc: u32, next_crc: u32| {
            let mut whole = Running::default();
            whole.append(crc, self.length());
            whole.append(next_crc, next.length());
            whole.crc()
        };
        Ok(Self {
            bytes: [self.bytes.as_slice(), &next.bytes].concat(),
            crc: self.crc.zip(next.crc).map(|(crc, next_crc)| both(crc, next_crc)),
            replicas: self.replicas,
        })
    }

    pub(super) fn crc(&self) -> Option<u32> {
        self.crc
    }

    pub(super) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn told(&self) -> Told {
        let follows = |pair: &&[Byte]| match (pair[0], pair[1]) {
            (Some((chunk, at)), Some((next, next_at))) => (chunk, at + 1) == (next, next_at),
            (None, Some(_)) | (_, None) => false,
        };
        let written = self.bytes.iter().filter(|byte| byte.is_some()).count();
        let extents = written - self.bytes.windows(2).filter(follows).count();
        (self.length(), self.crc.unwrap_or(0), extents as u64, self.replicas)
    }

    /// The same with `new` at `at`, or at the end.
    pub(super) fn spliced(&self, at: Option<u64>, new: &[Seal]) -> Self {
        let start = at.unwrap_or_else(|| self.length());
        let mut whole = Running::default();
        for seal in new {
            whole.append(seal.crc, seal.length);
        }
        let new = bytes(new);
        let end = start as usize + new.len();
        let mut file = self.clone();
        file.crc = match self.crc {
            _ if start == 0 && end >= self.bytes.len() => Some(whole.crc()),
            Some(crc) if start >= self.length() => {
                let mut all = Running::default();
                all.append(crc, self.length());
                all.append(checksum::zeros(start - self.length()), start - self.length());
                all.append(whole.crc(), whole.len());
                Some(all.crc())
            }
            _ => None,
        };
        file.bytes.resize(self.bytes.len().max(end), None);
        file.bytes[start as usize..end].copy_from_slice(&new);
        file
    }

    fn truncated(&self, length: u64) -> Self {
        let mut file = self.clone();
        file.crc = match self.crc {
            _ if length == 0 => Some(0),
            Some(crc) if length >= self.length() => {
                let mut all = Running::default();
                all.append(crc, self.length());
                all.append(checksum::zeros(length - self.length()), length - self.length());
                Some(all.crc())
            }
            _ => None,
        };
        file.bytes.resize(length as usize, None);
        file
    }
}

impl File {
    /// The same with a run of bytes in another chunk, if it is what was to be merged, with as many copies.
    pub(super) fn merged(&self, chunk: ChunkId, row: &Merge, wanted: u8) -> Option<Self> {
        let of = |piece: &Piece| {
            let (chunk, from) = (piece.chunk, piece.chunk_offset);
            (0..piece.length).map(move |at| Some((chunk, from + at)))
        };
        let merged: Vec<Byte> = row.pieces.iter().flat_map(of).collect();
        let (from, to) = (row.offset as usize, row.end() as usize);
        if self.replicas != wanted || self.bytes.get(from..to) != Some(&merged[..]) {
            return None;
        }
        let mut file = self.clone();
        let new = (0..row.length()).map(|at| Some((chunk, at)));
        file.bytes.splice(from..to, new);
        Some(file)
    }
}

fn bytes(seals: &[Seal]) -> Vec<Byte> {
    let of = |seal: &Seal| {
        let chunk = seal.chunk;
        (0..seal.length).map(move |at| Some((chunk, at)))
    };
    seals.iter().flat_map(of).collect()
}

/// What a program changes next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Splice {
        path: FsPath,
        from_stock: bool,
        upload: usize,
        chunks: usize,
        at: Option<u64>,
        lie: bool,
    },
    SpliceGone {
        removal: usize,
        stock: usize,
    },
    Truncate {
        path: FsPath,
        length: u64,
    },
    Copies {
        path: FsPath,
        replicas: u8,
    },
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let at = prop_oneof![2 => Just(None), 3 => (0u64..2500).prop_map(Some)];
    prop_oneof![
        8 => (any_path(), any::<bool>(), 0usize..3, 1usize..3, at, prop::bool::weighted(0.1)).prop_map(
            |(path, from_stock, upload, chunks, at, lie)| Step::Splice { path, from_stock, upload, chunks, at, lie }
        ),
        1 => (0usize..3, 0usize..3).prop_map(|(removal, stock)| Step::SpliceGone { removal, stock }),
        4 => (any_path(), 0u64..2500).prop_map(|(path, length)| Step::Truncate { path, length }),
        2 => (any_path(), 0u8..5).prop_map(|(path, replicas)| Step::Copies { path, replicas }),
    ]
}

impl Model {
    pub(super) fn change(&mut self, step: Step) {
        match step {
            Step::Splice {
                path,
                from_stock,
                upload,
                chunks,
                at,
                lie,
            } => {
                if let Some(file) = self.changeable(&path) {
                    let ino = self.ino(&path);
                    let wanted = file.replicas;
                    let change = |seals: &[Seal]| match wanted == SETTINGS.replicas {
                        true => Ok(file.spliced(at, seals)),
                        false => Err(ErrorCode::InvalidArgument),
                    };
                    if let Some(file) = self.splice(ino, (from_stock, upload, chunks), at, lie, change) {
                        self.tree.insert(path, Node::File { file: Rc::new(file) });
                    }
                }
            }
            Step::SpliceGone { removal, stock } => {
                if let Some((at, true)) = self.removal(removal) {
                    let ino = self.removals[at].id.ino;
                    let gone = self.splice(ino, (true, stock, 1), None, false, |_| Err(ErrorCode::NotFound));
                    assert_eq!(gone, None);
                }
            }
            Step::Truncate { path, length } => {
                if let Some(file) = self.changeable(&path) {
                    let what = Change::Truncate { length };
                    if let Some((outcome, file)) = self.compare(self.told(&path, what), Ok(file.truncated(length))) {
                        assert_eq!(outcome, Outcome::Truncated { length });
                        self.tree.insert(path, Node::File { file: Rc::new(file) });
                    }
                }
            }
            Step::Copies { path, replicas } => self.copies(path, replicas),
        }
    }

    pub(super) fn changeable(&self, path: &FsPath) -> Option<Rc<File>> {
        match self.tree.get(path) {
            Some(Node::File { file }) => Some(Rc::clone(file)),
            Some(Node::Directory | Node::Link { .. }) | None => None,
        }
    }

    pub(super) fn ino(&self, path: &FsPath) -> Ino {
        read::resolve(&self.machine.rows, path).unwrap().ino
    }

    fn told(&self, path: &FsPath, what: Change) -> ClientCommand {
        let (file, lease) = (self.ino(path), None);
        ClientCommand::ChangeFile(FileChange { file, lease, what })
    }

    /// Splices chunks of a draft or stock; the file as it is then.
    fn splice(
        &mut self,
        file: Ino,
        (from_stock, upload, chunks): (bool, usize, usize),
        at: Option<u64>,
        lie: bool,
        change: impl FnOnce(&[Seal]) -> Expected<File>,
    ) -> Option<File> {
        let (index, draft, mine) = match from_stock {
            true => self.stock(upload)?,
            false => self.draft(upload)?,
        };
        if draft.open.is_empty() {
            return None;
        }
        let mut taken = Draft {
            whole: Running::default(),
            ..draft.clone()
        };
        let mut seals = Vec::new();
        for order in 0..chunks.min(draft.open.len()) {
            seals.push(self.next_seal(&mut taken, order, order == 1));
        }
        let mut expected = mine.and_then(|()| change(&seals));
        if lie && expected.is_ok() {
            seals[0].file_offset += 1;
            expected = Err(ErrorCode::InvalidArgument);
        }
        let what = Change::Splice {
            upload: draft.ino,
            generation: draft.generation,
            seals,
            at: at.map_or(SpliceAt::End, SpliceAt::Offset),
        };
        let lease = None;
        let command = ClientCommand::ChangeFile(FileChange { file, lease, what });
        let (outcome, changed) = self.compare(command, expected)?;
        let offset = at.unwrap_or_else(|| changed.length() - taken.whole.len());
        let length = changed.length();
        assert_eq!(outcome, Outcome::Spliced { offset, length });
        let drafts = if from_stock { &mut self.stocks } else { &mut self.drafts };
        drafts[index].open = taken.open;
        drafts[index].lease = self.now + SETTINGS.upload_lease_ms;
        if from_stock && drafts[index].open.is_empty() {
            drafts.remove(index);
        }
        Some(changed)
    }

    fn copies(&mut self, path: FsPath, replicas: u8) {
        let Some(file) = self.changeable(&path) else {
            return;
        };
        let expected = match replicas {
            0 => Err(ErrorCode::InvalidArgument),
            replicas => Ok(File {
                replicas,
                ..File::clone(&file)
            }),
        };
        let command = self.told(&path, Change::SetReplicas { replicas, from: 0 });
        if let Some((outcome, file)) = self.compare(command, expected) {
            assert_eq!(outcome, Outcome::ReplicasSet { next: None });
            self.tree.insert(path, Node::File { file: Rc::new(file) });
        }
    }

    /// The bytes of all files are where readers are told, and their chunks want enough copies.
    pub(super) fn compare_bytes(&self) {
        for (path, node) in &self.tree {
            if let Node::File { file } = node {
                self.compare_file(path, file);
            }
        }
    }

    /// The same of one file, now or in a snapshot.
    pub(super) fn compare_file(&self, path: &FsPath, file: &File) {
        let place = read::resolve(&self.machine.rows, path).unwrap();
        let mut found: Vec<Byte> = Vec::new();
        loop {
            let offset = found.len() as u64;
            let (extents, more) = read::extents(&self.machine.rows, place.ino, place.at, offset, 2).unwrap();
            for part in extents {
                let skip = (found.len() as u64).saturating_sub(part.offset);
                found.resize(found.len().max(part.offset as usize), None);
                let at = part.extent.chunk_offset;
                found.extend((skip..part.extent.length).map(|byte| Some((part.extent.chunk, at + byte))));
                assert!(
                    part.chunk.wanted >= file.replicas,
                    "{path} wants {} copies",
                    file.replicas
                );
            }
            if !more {
                break;
            }
        }
        found.resize(found.len().max(file.bytes.len()), None);
        assert_eq!(found, file.bytes, "{path}");
    }
}
