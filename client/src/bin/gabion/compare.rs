//! What differs between a local tree and one on the cluster, by size and checksum.
//!
//! The masters hold each file's CRC, so that the cluster's bytes need not be fetched: local files are read, and only
//! those of equal length. Symbolic links are compared by what they stand for, unless they are followed. Names below the
//! two roots are compared as text; the roots' own name is empty.
//!
//! Invariant: what could not be listed or read is told, never taken as absent or equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use gabion_client::local_crc;
use gabion_client::terminal::{Failure, FileProgress, Progress};
use gabion_protocol::checksum::Running;
use gabion_protocol::messages::master::{Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};
use walkdir::WalkDir;

use crate::below::{Below, Links};
use crate::context::Context;
use crate::jobs::Jobs;
use crate::local;
use crate::records;

/// A local file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) kind: EntryKind,
    /// Bytes; 0 for a directory, those of its target for a link.
    pub(crate) length: u64,
    pub(crate) modified_ms: Option<i64>,
    pub(crate) mode: u32,
}

/// A tree as it was listed.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    /// By the name below the root.
    pub(crate) entries: BTreeMap<String, T>,
    /// What could not be listed.
    pub(crate) failures: Vec<(String, Failure)>,
    /// Names of what is neither file, directory nor link, with what it is: left alone.
    pub(crate) passed_over: BTreeMap<String, &'static str>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            failures: Vec::new(),
            passed_over: BTreeMap::new(),
        }
    }
}

/// Lists the local file or tree `root`. Links below it are kept or followed.
///
/// # Errors
/// [`Failure`] if there is nothing at `root`, or nothing that can be compared.
pub(crate) fn read_local(root: &Path, links: Links) -> Result<Tree<Local>, Failure> {
    let at_root = std::fs::metadata(root).map_err(|error| Failure::local("read", root.display(), &error))?;
    if !(at_root.is_dir() || at_root.is_file()) {
        return Err(Failure::code(
            ErrorCode::InvalidArgument,
            format!(
                "cannot compare {}: it is neither a file nor a directory",
                root.display()
            ),
            "name a file or directory",
        ));
    }
    let mut tree = Tree::default();
    // The root itself may be a link: the user named it.
    tree.entries.insert(String::new(), Local::new(&at_root));
    if at_root.is_file() {
        return Ok(tree);
    }
    for next in WalkDir::new(root).min_depth(1).follow_links(links == Links::Follow) {
        match next {
            Ok(entry) => tree.add_local(root, &entry),
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                let cause = error.io_error().map_or(std::io::ErrorKind::Other, std::io::Error::kind);
                let failure = Failure::local("read", &path, &cause.into());
                tree.failures.push((path, failure));
            }
        }
    }
    Ok(tree)
}

impl Local {
    fn new(found: &std::fs::Metadata) -> Self {
        let is_directory = found.is_dir();
        Self {
            kind: if is_directory {
                EntryKind::Directory
            } else {
                EntryKind::File
            },
            length: if is_directory { 0 } else { found.len() },
            modified_ms: local::modified_ms(found),
            mode: local::mode_of(found),
        }
    }
}

impl Tree<Local> {
    fn add_local(&mut self, root: &Path, entry: &walkdir::DirEntry) {
        let inside = entry.path().strip_prefix(root).unwrap_or_else(|_| entry.path());
        let Some(name) = inside.to_str() else {
            let failure = Failure::code(
                ErrorCode::InvalidPath,
                format!("{inside:?} cannot be on the cluster: its name is not UTF-8"),
                "rename it, for example with convmv -t utf8",
            );
            self.failures.push((inside.display().to_string(), failure));
            return;
        };
        let kind = entry.file_type();
        if !(kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            self.passed_over.insert(name.to_owned(), "not a regular file");
            return;
        }
        let found = entry.metadata().map_err(|error| {
            let cause = error.io_error().map_or(std::io::ErrorKind::Other, std::io::Error::kind);
            Failure::local("read", entry.path().display(), &cause.into())
        });
        let listed = found.and_then(|found| {
            let mut listed = Local::new(&found);
            if kind.is_symlink() {
                let target = local::link_target(entry.path())?;
                listed.length = target.len() as u64;
                listed.kind = EntryKind::Link { target };
            }
            Ok(listed)
        });
        match listed {
            Ok(listed) => drop(self.entries.insert(name.to_owned(), listed)),
            Err(failure) => self.failures.push((name.to_owned(), failure)),
        }
    }
}

/// Lists the tree `root` of the cluster, whose own entry is given.
///
/// # Errors
/// [`Failure`] if the user stopped it.
pub(crate) async fn read_remote(
    context: &Context,
    root: &FsPath,
    at_root: Entry,
    links: Links,
) -> Result<Tree<Entry>, Failure> {
    let is_directory = at_root.is_directory();
    let mut tree = Tree::default();
    tree.entries.insert(String::new(), at_root);
    if !is_directory {
        return Ok(tree);
    }
    let mut below = Below::new(context, root, links).await?;
    loop {
        let next = tokio::select! {
            next = below.next() => next,
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        };
        match next {
            None => return Ok(tree),
            Some(Ok(found)) => drop(tree.entries.insert(found.name, found.entry)),
            Some(Err(failed)) => tree.failures.push(failed),
        }
    }
}

/// A file that both sides have.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) local: Local,
    pub(crate) remote: Entry,
}

/// Two trees, name by name.
#[derive(Debug, Default)]
pub(crate) struct Paired {
    /// Files of both sides.
    pub(crate) files: Vec<Pair>,
    /// Directories of both sides.
    pub(crate) directories: u64,
    pub(crate) only_local: Vec<(String, Local)>,
    pub(crate) only_remote: Vec<(String, Entry)>,
    /// Links of both sides that stand for the same.
    pub(crate) links: u64,
    /// Links of both sides that do not.
    pub(crate) links_differ: Vec<Pair>,
    /// Of one kind on one side, of another on the other.
    pub(crate) kinds: Vec<Pair>,
}

/// Puts together what has the same name.
pub(crate) fn pair_up(mut local: BTreeMap<String, Local>, remote: BTreeMap<String, Entry>) -> Paired {
    let mut paired = Paired::default();
    for (name, remote) in remote {
        match local.remove(&name) {
            None => paired.only_remote.push((name, remote)),
            Some(local) if local.kind != remote.kind => {
                let are_links = records::kind(&local.kind) == records::kind(&remote.kind);
                let pairs = if are_links {
                    &mut paired.links_differ
                } else {
                    &mut paired.kinds
                };
                pairs.push(Pair { name, local, remote });
            }
            Some(_) if remote.is_directory() => paired.directories += 1,
            Some(_) if remote.target().is_some() => paired.links += 1,
            Some(local) => paired.files.push(Pair { name, local, remote }),
        }
    }
    paired.only_local.extend(local);
    paired
}

/// Where the two trees are, and how files are compared.
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    pub(crate) local: PathBuf,
    pub(crate) remote: FsPath,
    /// Whether files of equal length and modification time count as equal.
    pub(crate) is_quick: bool,
}

impl Sides {
    /// Where `name` is on this machine.
    pub(crate) fn local_path(&self, name: &str) -> Result<PathBuf, Failure> {
        let mut path = self.local.clone();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            path = local::below(&path, part)?;
        }
        Ok(path)
    }

    /// Where `name` is on the cluster.
    pub(crate) fn remote_path(&self, name: &str) -> Result<FsPath, Failure> {
        let parts = name.split('/').filter(|part| !part.is_empty());
        let mut path = self.remote.clone();
        for part in parts {
            path = path.join(part).map_err(|error| {
                Failure::code(
                    ErrorCode::InvalidPath,
                    format!("{name:?} cannot be below {}: {error}", self.remote),
                    "give it, or a directory above it, a shorter name",
                )
            })?;
        }
        Ok(path)
    }
}

/// How a file on both sides compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Equal,
    /// Not equal, and why not.
    Differs(String),
}

/// A comparison and what it cost.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) pair: Pair,
    pub(crate) verdict: Result<Verdict, Failure>,
    /// The masters hold no CRC that says it: the cluster's bytes were read.
    pub(crate) was_fetched: bool,
}

/// Compares the files of both sides, several at the same time, in any order.
pub(crate) async fn compare_all(
    context: &Context,
    sides: &Sides,
    pairs: Vec<Pair>,
    jobs: &Jobs,
) -> Result<Vec<Compared>, Failure> {
    let bytes = pairs.iter().map(|pair| pair.remote.length).sum();
    let progress = Progress::new(context.quiet, pairs.len() as u64, bytes);
    let mut running = futures_util::stream::iter(pairs)
        .map(|pair| {
            let (context, sides) = (context.clone(), sides.clone());
            let (progress, jobs) = (progress.clone(), jobs.clone());
            async move {
                let _place = jobs.begin(Some(pair.remote.length)).await;
                let bar = Arc::new(progress.file(&pair.name, pair.remote.length));
                let mut was_fetched = false;
                let verdict = compare(&context, &sides, &pair, &bar, &mut was_fetched).await;
                Compared {
                    pair,
                    verdict,
                    was_fetched,
                }
            }
        })
        .buffer_unordered(jobs.most());
    let mut compared = Vec::new();
    loop {
        let next = tokio::select! {
            next = running.next() => next,
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        };
        match next {
            Some(one) => compared.push(one),
            None => break,
        }
    }
    progress.finish();
    compared.sort_by(|a, b| a.pair.name.cmp(&b.pair.name));
    Ok(compared)
}

async fn compare(
    context: &Context,
    sides: &Sides,
    pair: &Pair,
    bar: &Arc<FileProgress>,
    was_fetched: &mut bool,
) -> Result<Verdict, Failure> {
    let Pair { local, remote, .. } = pair;
    if local.length != remote.length {
        let why = format!("{} bytes here, {} on the cluster", local.length, remote.length);
        return Ok(Verdict::Differs(why));
    }
    if sides.is_quick && local.modified_ms == Some(remote.modified_ms) {
        return Ok(Verdict::Equal);
    }
    let path = sides.local_path(&pair.name)?;
    let Some(here) = checksum(&path, local.length, bar).await? else {
        let why = format!("it has become shorter than {} bytes here meanwhile", local.length);
        return Ok(Verdict::Differs(why));
    };
    if here == remote.crc {
        return Ok(Verdict::Equal);
    }
    let there = match remote.crc {
        // Zero is also what a file has whose CRC nobody knows, as after an overwrite: only its bytes tell.
        0 => {
            *was_fetched = true;
            fetched_crc(context, &sides.remote_path(&pair.name)?).await?
        }
        known => known,
    };
    if here == there {
        return Ok(Verdict::Equal);
    }
    let (here, there) = (records::crc32(here), records::crc32(there));
    Ok(Verdict::Differs(format!("crc32 {here} here, {there} on the cluster")))
}

/// The CRC of the first `length` bytes of a local file; `None` if it has fewer.
pub(crate) async fn checksum(path: &Path, length: u64, bar: &Arc<FileProgress>) -> Result<Option<u32>, Failure> {
    let cannot = |error: std::io::Error| Failure::local("read", path.display(), &error);
    let file = File::open(path).map_err(cannot)?;
    let bar = Arc::clone(bar);
    let crc = local_crc(Arc::new(file), 0, length, move |bytes| bar.advance(bytes)).await;
    crc.map_err(cannot)
}

/// The CRC of a file's bytes as its servers give them. In two parts: the whole in one would be compared with the CRC that
/// nobody knows.
async fn fetched_crc(context: &Context, path: &FsPath) -> Result<u32, Failure> {
    let reader = context.client.open(path).await?;
    let length = reader.entry().length;
    let mut whole = Running::default();
    for (from, to) in [(0, length / 2), (length / 2, length)] {
        let mut stream = reader.stream_range(from, to - from);
        while let Some(bytes) = stream.next().await? {
            whole.append(gabion_protocol::checksum::crc(&bytes), bytes.len() as u64);
        }
    }
    Ok(whole.crc())
}

/// Those of `names` that lie below no other of them.
pub(crate) fn topmost<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let is_top = |name: &&str| !name.match_indices('/').any(|(at, _)| names.contains(&name[..at]));
    names.iter().copied().filter(is_top).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::entry;

    #[test]
    fn names_are_put_together() {
        use EntryKind::{Directory, File};
        let local = |kind: EntryKind| Local {
            kind,
            length: 1,
            modified_ms: None,
            mode: 0,
        };
        let here = [("", Directory), ("a", File), ("b", File), ("c", Directory), ("d", File)];
        let there = [
            ("", Directory),
            ("a", File),
            ("b", Directory),
            ("c", File),
            ("e", Directory),
        ];
        let here = here.map(|(name, kind)| (name.to_owned(), local(kind))).into();
        let there = there
            .map(|(name, kind)| (name.to_owned(), entry(name, kind, 9, 0)))
            .into();
        let paired = pair_up(here, there);
        let names = |pairs: &[Pair]| pairs.iter().map(|pair| pair.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&paired.files), ["a"]);
        assert_eq!(names(&paired.kinds), ["b", "c"]);
        assert_eq!(paired.directories, 1);
        assert_eq!((paired.only_local.len(), paired.only_local[0].0.as_str()), (1, "d"));
        assert_eq!((paired.only_remote.len(), paired.only_remote[0].0.as_str()), (1, "e"));
    }

    #[test]
    fn local_trees_are_listed_without_what_only_looks_like_a_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("sub")).unwrap();
        std::fs::write(root.path().join("sub/a"), "1").unwrap();
        std::os::unix::fs::symlink("sub", root.path().join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let tree = read_local(root.path(), Links::Keep).unwrap();
        assert_eq!(tree.entries.keys().collect::<Vec<_>>(), ["", "link", "sub", "sub/a"]);
        let link = EntryKind::Link {
            target: "sub".to_owned(),
        };
        assert_eq!((&tree.entries["link"].kind, tree.entries["link"].length), (&link, 3));
        assert_eq!(tree.passed_over.keys().collect::<Vec<_>>(), ["pipe"]);
        let followed = read_local(root.path(), Links::Follow).unwrap();
        assert_eq!(
            followed.entries.keys().collect::<Vec<_>>(),
            ["", "link", "link/a", "sub", "sub/a"]
        );
        assert!(tree.failures.is_empty());
        let named = read_local(&root.path().join("link"), Links::Keep).unwrap();
        assert_eq!(named.entries.keys().collect::<Vec<_>>(), ["", "a"]);
        assert_eq!(
            read_local(Path::new("/absent"), Links::Keep).unwrap_err().exit_code(),
            3
        );
        assert_eq!(
            read_local(Path::new("/dev/null"), Links::Keep).unwrap_err().exit_code(),
            2
        );
    }

    #[test]
    fn topmost_names_stand_for_what_is_below_them() {
        assert_eq!(
            topmost(["a", "a/b", "a.c", "d/e/f", "d/e", "d/g"]),
            ["a", "a.c", "d/e", "d/g"]
        );
    }
}
