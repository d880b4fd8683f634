//! What names are to one who changes them alone, one change after the other: paths lead to nodes, and nothing else is
//! known. No inode, no log, no cache; slow and plain.

use std::collections::BTreeMap;

use gabion_client::ErrorCode;

/// Links followed on one way: as many as the masters follow.
const LINKS_MAX: usize = gabion_protocol::limits::LINKS_MAX;

/// What is at a path. A tag says which operation made it, or touched it last, so that none is mistaken for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    Directory {
        tag: u64,
    },
    /// `content` is the tag of the operation that wrote its bytes, 0 for none.
    File {
        tag: u64,
        content: u64,
    },
    Link {
        tag: u64,
        target: &'static str,
    },
}

impl Node {
    fn bytes(&self) -> u64 {
        match self {
            Self::Directory { .. } => 0,
            Self::File { content, .. } => bytes(*content).len() as u64,
            Self::Link { target, .. } => target.len() as u64,
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// Permission bits that stand for an operation on a directory, which shows no time of its own.
pub(crate) fn bits(tag: u64) -> u32 {
    (tag & 0o7777) as u32
}

/// The bytes that an operation writes.
pub(crate) fn bytes(content: u64) -> Vec<u8> {
    match content {
        0 => Vec::new(),
        _ => content.to_le_bytes().to_vec(),
    }
}

/// What a client is told of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) node: Shape,
    /// Of all that is below a directory.
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Directory { tag: u64 },
    File { tag: u64, crc: u32 },
    Link { tag: u64, target: String },
}

/// One question or change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Mkdir {
        path: String,
        tag: u64,
    },
    /// An empty file, by one command.
    Create {
        path: String,
        replace: bool,
        tag: u64,
    },
    /// A file with its tag in it.
    Put {
        path: String,
        replace: bool,
        tag: u64,
    },
    Link {
        path: String,
        target: &'static str,
        replace: bool,
        tag: u64,
    },
    Rename {
        from: String,
        to: String,
        replace: bool,
    },
    Remove {
        path: String,
        recursive: bool,
        trash: bool,
    },
    Touch {
        path: String,
        tag: u64,
    },
    Stat {
        path: String,
    },
    Resolve {
        path: String,
    },
    List {
        path: String,
    },
    Read {
        path: String,
    },
}

impl Op {
    /// A word for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Mkdir { .. } => "mkdir",
            Self::Create { .. } => "create",
            Self::Put { .. } => "put",
            Self::Link { .. } => "link",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::Touch { .. } => "touch",
            Self::Stat { .. } => "stat",
            Self::Resolve { .. } => "resolve",
            Self::List { .. } => "list",
            Self::Read { .. } => "read",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    Entry(Seen),
    Resolved(String, Seen),
    Names(Vec<(String, Seen)>),
    Content(Vec<u8>),
    Removed { files: u64, directories: u64, bytes: u64 },
    Refused(ErrorCode),
}

type Asked<T> = Result<T, ErrorCode>;

/// Where a path leads, there or not.
struct Led {
    path: String,
    ended: Option<ErrorCode>,
}

/// All names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tree(BTreeMap<String, Node>);

fn join(above: &str, name: &str) -> String {
    match above {
        "/" => format!("/{name}"),
        _ => format!("{above}/{name}"),
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// Whether `below` is `path` or below it.
fn holds(path: &str, below: &str) -> bool {
    path == "/" || below == path || below.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

impl Tree {
    /// Nothing but the root.
    pub(crate) fn new() -> Self {
        Self(BTreeMap::from([("/".to_owned(), Node::Directory { tag: 0 })]))
    }

    /// The answer to one operation, and the tree after it if it changed.
    pub(crate) fn run(&self, op: &Op) -> (Told, Option<Self>) {
        let ran = match op {
            Op::Mkdir { path, tag } => self.mkdir(path, *tag),
            Op::Create { path, replace, tag } => self.create(path, *replace, Node::File { tag: *tag, content: 0 }),
            Op::Put { path, replace, tag } => self.create(
                path,
                *replace,
                Node::File {
                    tag: *tag,
                    content: *tag,
                },
            ),
            Op::Link {
                path,
                target,
                replace,
                tag,
            } => self.lead(path, false).and_then(|at| {
                let link = Node::Link { tag: *tag, target };
                self.appear(&at.path, *replace, link)
            }),
            Op::Rename { from, to, replace } => self.rename(from, to, *replace),
            Op::Remove { path, recursive, .. } => self.remove(path, *recursive),
            Op::Touch { path, tag } => self.touch(path, *tag),
            Op::Stat { path } => self.at(path, false).map(|(_, seen)| (Told::Entry(seen), None)),
            Op::Resolve { path } => {
                let found = self.at(path, true);
                found.map(|(path, seen)| (Told::Resolved(path, seen), None))
            }
            Op::List { path } => self.list(path).map(|names| (Told::Names(names), None)),
            Op::Read { path } => self.read(path).map(|bytes| (Told::Content(bytes), None)),
        };
        ran.unwrap_or_else(|code| (Told::Refused(code), None))
    }

    /// Goes down a path; the first part of it that is missing or no directory is the answer.
    fn walk(&self, path: &str) -> Asked<&Node> {
        let mut at = "/".to_owned();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if !self.0[&at].is_directory() {
                return Err(ErrorCode::NotDirectory);
            }
            at = join(&at, name);
            if !self.0.contains_key(&at) {
                return Err(ErrorCode::NotFound);
            }
        }
        Ok(&self.0[&at])
    }

    /// The path without links that a path leads to; a link at its end is followed or not.
    fn lead(&self, path: &str, follow: bool) -> Asked<Led> {
        self.lead_from("/", path, follow, &mut 0)
    }

    fn lead_from(&self, from: &str, text: &str, follow: bool, followed: &mut usize) -> Asked<Led> {
        let mut at = match text.starts_with('/') {
            true => "/".to_owned(),
            false => from.to_owned(),
        };
        let mut ended = None;
        let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty()).collect();
        for (number, name) in names.iter().enumerate() {
            if ended.is_none() && !self.0[&at].is_directory() {
                ended = Some(ErrorCode::NotDirectory);
            }
            if *name == ".." {
                match ended {
                    Some(code) => return Err(code),
                    None => at = parent(&at).to_owned(),
                }
                continue;
            }
            let next = join(&at, name);
            let is_last = number + 1 == names.len();
            match self.0.get(&next) {
                _ if ended.is_some() => at = next,
                None => (at, ended) = (next, Some(ErrorCode::NotFound)),
                Some(Node::Link { target, .. }) if !is_last || follow => {
                    *followed += 1;
                    if *followed > LINKS_MAX {
                        return Err(ErrorCode::LimitExceeded);
                    }
                    let led = self.lead_from(&at, target, true, followed)?;
                    (at, ended) = (led.path, led.ended);
                }
                Some(_) => at = next,
            }
        }
        Ok(Led { path: at, ended })
    }

    /// What is at a path, and where that is.
    fn at(&self, path: &str, follow: bool) -> Asked<(String, Seen)> {
        let led = self.lead(path, follow)?;
        self.walk(&led.path)?;
        let seen = self.seen(&led.path);
        Ok((led.path, seen))
    }

    fn seen(&self, path: &str) -> Seen {
        let node = &self.0[path];
        let node = match node {
            Node::Directory { tag } => Shape::Directory { tag: *tag },
            Node::File { tag, content } => Shape::File {
                tag: *tag,
                crc: crc32fast::hash(&bytes(*content)),
            },
            Node::Link { tag, target } => Shape::Link {
                tag: *tag,
                target: (*target).to_owned(),
            },
        };
        Seen {
            node,
            bytes: self.below(path).map(|path| self.0[path].bytes()).sum(),
        }
    }

    /// All that is at and below a path.
    fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a String> {
        self.0.keys().filter(move |at| holds(path, at))
    }

    fn with(&self, path: &str, node: Node) -> Self {
        let mut tree = self.clone();
        tree.0.insert(path.to_owned(), node);
        tree
    }

    /// The directory that something at a path is in must be there.
    fn has_place(&self, path: &str) -> Asked<()> {
        match self.walk(parent(path))?.is_directory() {
            true => Ok(()),
            false => Err(ErrorCode::NotDirectory),
        }
    }

    fn mkdir(&self, path: &str, tag: u64) -> Asked<(Told, Option<Self>)> {
        let at = self.lead(path, false)?.path;
        if self.walk(&at).is_ok() {
            return Err(ErrorCode::Exists);
        }
        self.has_place(&at)?;
        let tag = bits(tag).into();
        self.made(&at, Node::Directory { tag })
    }

    fn made(&self, at: &str, node: Node) -> Asked<(Told, Option<Self>)> {
        let tree = self.with(at, node);
        Ok((Told::Entry(tree.seen(at)), Some(tree)))
    }

    fn create(&self, path: &str, replace: bool, node: Node) -> Asked<(Told, Option<Self>)> {
        let at = self.lead(path, replace)?.path;
        self.appear(&at, replace, node)
    }

    fn appear(&self, at: &str, replace: bool, node: Node) -> Asked<(Told, Option<Self>)> {
        self.has_place(at)?;
        match self.0.get(at) {
            Some(Node::Directory { .. }) => Err(ErrorCode::IsDirectory),
            Some(_) if !replace => Err(ErrorCode::Exists),
            _ => self.made(at, node),
        }
    }

    fn rename(&self, from: &str, to: &str, replace: bool) -> Asked<(Told, Option<Self>)> {
        let (from, to) = (self.lead(from, false)?.path, self.lead(to, false)?.path);
        let source = self.walk(&from)?;
        if from == to {
            return Ok((Told::Entry(self.seen(&to)), None));
        }
        if source.is_directory() && holds(&from, &to) {
            return Err(ErrorCode::InvalidArgument);
        }
        self.has_place(&to)?;
        if let Some(target) = self.0.get(&to) {
            match (source.is_directory(), target.is_directory()) {
                _ if !replace => return Err(ErrorCode::Exists),
                (true, false) => return Err(ErrorCode::NotDirectory),
                (false, true) => return Err(ErrorCode::IsDirectory),
                (true, true) if self.below(&to).count() > 1 => return Err(ErrorCode::NotEmpty),
                _ => {}
            }
        }
        let moved = |(at, node): (&String, &Node)| match holds(&from, at) {
            true => (format!("{to}{}", &at[from.len()..]), node.clone()),
            false => (at.clone(), node.clone()),
        };
        let stays = self.0.iter().filter(|(at, _)| **at != to);
        let tree = Self(stays.map(moved).collect());
        Ok((Told::Entry(tree.seen(&to)), Some(tree)))
    }

    fn remove(&self, path: &str, recursive: bool) -> Asked<(Told, Option<Self>)> {
        let at = self.lead(path, false)?.path;
        self.walk(&at)?;
        let gone: Vec<&String> = self.below(&at).collect();
        if gone.len() > 1 && !recursive {
            return Err(ErrorCode::NotEmpty);
        }
        let directories = gone.iter().filter(|path| self.0[**path].is_directory()).count() as u64;
        let told = Told::Removed {
            files: gone.len() as u64 - directories,
            directories,
            bytes: gone.iter().map(|path| self.0[*path].bytes()).sum(),
        };
        let mut tree = self.clone();
        tree.0.retain(|path, _| !holds(&at, path));
        Ok((told, Some(tree)))
    }

    fn touch(&self, path: &str, tag: u64) -> Asked<(Told, Option<Self>)> {
        let at = self.lead(path, true)?.path;
        let node = match self.walk(&at)? {
            Node::Directory { .. } => Node::Directory { tag: bits(tag).into() },
            Node::File { content, .. } => Node::File { tag, content: *content },
            Node::Link { .. } => unreachable!("a link at the end was followed"),
        };
        self.made(&at, node)
    }

    fn list(&self, path: &str) -> Asked<Vec<(String, Seen)>> {
        let at = self.lead(path, true)?.path;
        if !self.walk(&at)?.is_directory() {
            return Err(ErrorCode::NotDirectory);
        }
        let children = self.0.keys().filter(|path| **path != "/" && parent(path) == at);
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut names: Vec<_> = children.map(|path| (name(path), self.seen(path))).collect();
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(names)
    }

    fn read(&self, path: &str) -> Asked<Vec<u8>> {
        let at = self.lead(path, true)?.path;
        match self.walk(&at)? {
            Node::File { content, .. } => Ok(bytes(*content)),
            Node::Directory { .. } | Node::Link { .. } => Err(ErrorCode::IsDirectory),
        }
    }
}
