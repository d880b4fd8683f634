//! What an upload will store where, decided before the first byte moves: so that a dry run tells the truth.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use gabion_client::terminal::Failure;
use gabion_protocol::{ErrorCode, FsPath};
use walkdir::WalkDir;

use crate::below::Links;
use crate::local;

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard input.
    Stdin,
    /// A file or named pipe.
    File(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// One file to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) source: Source,
    pub(crate) target: FsPath,
    /// Its length as of now; `None` for a pipe.
    pub(crate) length: Option<u64>,
}

/// A link to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkJob {
    pub(crate) source: PathBuf,
    pub(crate) target: FsPath,
    /// What it stands for.
    pub(crate) stands_for: String,
}

/// What the remote target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// There is nothing.
    Absent,
    /// A directory: sources go into it under their own names.
    Directory,
    /// A file.
    File,
}

/// Everything an upload does.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Directories to make, each after the ones above it.
    pub(crate) directories: Vec<FsPath>,
    /// Of them, those that come from this machine, and from where.
    pub(crate) trees: Vec<(PathBuf, FsPath)>,
    /// Files to store.
    pub(crate) files: Vec<Job>,
    /// Links to store.
    pub(crate) links: Vec<LinkJob>,
    /// What is left out on purpose.
    pub(crate) notes: Vec<String>,
    /// What cannot be stored.
    pub(crate) failures: Vec<(String, Failure)>,
    targets: BTreeSet<FsPath>,
    follows: bool,
}

impl Plan {
    /// Bytes of all files whose length is known.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|job| job.length).sum()
    }

    /// Decides where `sources` go. `slash` says that the target was written with a slash at its end, which only a
    /// directory has.
    ///
    /// # Errors
    /// [`Failure`] if the target does not fit the sources. A source that cannot be stored is in `failures`.
    pub(crate) fn make(
        sources: &[PathBuf],
        target: &FsPath,
        found: Target,
        slash: bool,
        recursive: bool,
        links: Links,
    ) -> Result<Self, Failure> {
        let mut plan = Self {
            follows: links == Links::Follow,
            ..Self::default()
        };
        let many = sources.len() > 1;
        if found == Target::File && (slash || many) {
            return Err(Failure::code(
                ErrorCode::NotDirectory,
                format!("cannot upload into {target}: it is a file"),
                "name a directory as the target",
            ));
        }
        let into = found == Target::Directory || slash || many;
        if into && found == Target::Absent {
            plan.directories.push(target.clone());
        }
        for source in sources {
            if let Err(failure) = plan.add_source(source, target, into, recursive) {
                plan.failures.push((source.display().to_string(), failure));
            }
        }
        Ok(plan)
    }

    fn add_source(&mut self, source: &Path, target: &FsPath, into: bool, recursive: bool) -> Result<(), Failure> {
        if source == Path::new("-") {
            if into {
                return Err(Failure::code(
                    ErrorCode::IsDirectory,
                    format!(
                        "cannot upload standard input to {target}: it is a directory, and standard input has no name"
                    ),
                    format!(
                        "name the file, for example {}",
                        target.join("NAME").unwrap_or_else(|_| target.clone())
                    ),
                ));
            }
            return self.add_file(Source::Stdin, target.clone(), None);
        }
        let found = std::fs::metadata(source).map_err(|error| Failure::local("read", source.display(), &error))?;
        let contents_only = holds_contents_only(source);
        let target = match source.file_name() {
            Some(name) if into && !contents_only => join(target, name, source)?,
            _ => target.clone(),
        };
        if found.is_dir() {
            if !recursive {
                return Err(Failure::code(
                    ErrorCode::IsDirectory,
                    format!("cannot upload {}: it is a directory", source.display()),
                    "store it with all it holds: -r",
                ));
            }
            self.add_tree(source, &target);
            return Ok(());
        }
        if !(found.is_file() || found.file_type().is_fifo()) {
            return Err(Failure::code(
                ErrorCode::InvalidArgument,
                format!("cannot upload {}: it is neither a file nor a pipe", source.display()),
                "name a file, or - for standard input",
            ));
        }
        let length = found.is_file().then_some(found.len());
        self.add_file(Source::File(source.to_owned()), target, length)
    }

    fn add_link(&mut self, source: &Path, target: FsPath) -> Result<(), Failure> {
        self.take_target(source.display(), &target)?;
        self.links.push(LinkJob {
            stands_for: local::link_target(source)?,
            source: source.to_owned(),
            target,
        });
        Ok(())
    }

    fn take_target(&mut self, source: impl std::fmt::Display, target: &FsPath) -> Result<(), Failure> {
        if self.targets.insert(target.clone()) {
            return Ok(());
        }
        Err(Failure::code(
            ErrorCode::InvalidArgument,
            format!("cannot upload {source}: another source goes to {target} already"),
            "upload them to different directories",
        ))
    }

    fn add_file(&mut self, source: Source, target: FsPath, length: Option<u64>) -> Result<(), Failure> {
        self.take_target(&source, &target)?;
        self.files.push(Job { source, target, length });
        Ok(())
    }

    fn add_tree(&mut self, root: &Path, target: &FsPath) {
        // In name order, so that two runs do the same and a reader finds his way in the output.
        for entry in WalkDir::new(root).sort_by_file_name().follow_links(self.follows) {
            let (path, kind) = match &entry {
                Ok(entry) if entry.depth() == 0 => {
                    self.trees.push((root.to_owned(), target.clone()));
                    self.directories.push(target.clone());
                    continue;
                }
                Ok(entry) => (entry.path(), entry.file_type()),
                Err(error) => {
                    self.fail_walk(error);
                    continue;
                }
            };
            if !(kind.is_dir() || kind.is_file() || kind.is_symlink()) {
                self.notes
                    .push(format!("skipped {}: not a regular file", path.display()));
                continue;
            }
            let added = below(target, root, path).and_then(|target| {
                if kind.is_dir() {
                    self.trees.push((path.to_owned(), target.clone()));
                    self.directories.push(target);
                    return Ok(());
                }
                if kind.is_symlink() {
                    return self.add_link(path, target);
                }
                let length = entry
                    .as_ref()
                    .ok()
                    .and_then(|entry| entry.metadata().ok())
                    .map(|found| found.len());
                self.add_file(Source::File(path.to_owned()), target, length)
            });
            if let Err(failure) = added {
                self.failures.push((path.display().to_string(), failure));
            }
        }
    }

    fn fail_walk(&mut self, error: &walkdir::Error) {
        let path = error.path().unwrap_or_else(|| Path::new("?")).display().to_string();
        let cause = error.io_error().map_or(std::io::ErrorKind::Other, std::io::Error::kind);
        let failure = Failure::local("read", &path, &cause.into());
        self.failures.push((path, failure));
    }
}

/// Whether the path says "what is in it" instead of "it": `.`, `..`, `/`, `dir/.`.
fn holds_contents_only(path: &Path) -> bool {
    let text = path.as_os_str().as_bytes();
    path.file_name().is_none() || text.ends_with(b"/.") || text.ends_with(b"/./")
}

/// The remote place of `path`, which lies below the local `root` that becomes `target`.
fn below(target: &FsPath, root: &Path, path: &Path) -> Result<FsPath, Failure> {
    let inside = path.strip_prefix(root).unwrap_or(path);
    inside
        .iter()
        .try_fold(target.clone(), |target, name| join(&target, name, path))
}

fn join(target: &FsPath, name: &OsStr, source: &Path) -> Result<FsPath, Failure> {
    let Some(name) = name.to_str() else {
        return Err(Failure::code(
            ErrorCode::InvalidPath,
            format!("cannot upload {source:?}: its name is not UTF-8"),
            "rename it, for example with convmv -t utf8",
        ));
    };
    target.join(name).map_err(|error| {
        Failure::code(
            ErrorCode::InvalidPath,
            format!("cannot upload {}: {error}", source.display()),
            "give it, or a directory above it, a shorter name",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    /// A tree with a file, a nested file, an empty directory, a link and a name that is not UTF-8.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("t/sub/deep")).unwrap();
        std::fs::create_dir(at("t/empty")).unwrap();
        std::fs::write(at("t/a"), "1").unwrap();
        std::fs::write(at("t/sub/deep/b"), "22").unwrap();
        std::os::unix::fs::symlink("a", at("t/link")).unwrap();
        let strange = std::ffi::OsString::from_vec(b"caf\xe9".to_vec());
        std::fs::write(root.path().join("t").join(strange), "").unwrap();
        std::fs::write(at("file"), "333").unwrap();
        root
    }

    fn path(text: &str) -> FsPath {
        FsPath::parse(text).unwrap()
    }

    fn targets(plan: &Plan) -> Vec<&str> {
        plan.files.iter().map(|job| job.target.as_str()).collect()
    }

    fn directories(plan: &Plan) -> Vec<&str> {
        plan.directories.iter().map(FsPath::as_str).collect()
    }

    #[test]
    fn a_tree_is_stored_as_it_is() {
        let root = tree();
        let plan = Plan::make(
            &[root.path().join("t")],
            &path("/d"),
            Target::Directory,
            false,
            true,
            Links::Keep,
        )
        .unwrap();
        assert_eq!(targets(&plan), ["/d/t/a", "/d/t/sub/deep/b"]);
        assert_eq!(directories(&plan), ["/d/t", "/d/t/empty", "/d/t/sub", "/d/t/sub/deep"]);
        assert_eq!(plan.bytes(), 3);
        assert!(plan.notes.is_empty(), "{:?}", plan.notes);
        let [link] = plan.links.as_slice() else {
            panic!("{:?}", plan.links);
        };
        assert_eq!((link.target.as_str(), link.stands_for.as_str()), ("/d/t/link", "a"));
        let (_, failure) = &plan.failures[0];
        assert!(
            failure.line().contains("caf\\xE9") && failure.exit_code() == 2,
            "{}",
            failure.line()
        );
    }

    #[test]
    fn links_are_followed_when_asked() {
        let root = tree();
        std::os::unix::fs::symlink("nowhere", root.path().join("t/dangling")).unwrap();
        std::os::unix::fs::symlink("..", root.path().join("t/sub/back")).unwrap();
        let plan = Plan::make(
            &[root.path().join("t")],
            &path("/d"),
            Target::Absent,
            false,
            true,
            Links::Follow,
        );
        let plan = plan.unwrap();
        assert_eq!(targets(&plan), ["/d/a", "/d/link", "/d/sub/deep/b"]);
        assert!(plan.links.is_empty());
        // One leads nowhere, one back; and the name that is no text.
        assert_eq!(plan.failures.len(), 3, "{:?}", plan.failures);
    }

    #[test]
    fn targets_mean_what_cp_means() {
        let root = tree();
        let tree = root.path().join("t");
        let file = root.path().join("file");
        let make = |sources: &[&PathBuf], found, slash| {
            let sources: Vec<_> = sources.iter().map(|source| (*source).clone()).collect();
            Plan::make(&sources, &path("/d"), found, slash, true, Links::Keep)
        };
        assert_eq!(targets(&make(&[&file], Target::Absent, false).unwrap()), ["/d"]);
        assert_eq!(targets(&make(&[&file], Target::File, false).unwrap()), ["/d"]);
        assert_eq!(targets(&make(&[&file], Target::Directory, false).unwrap()), ["/d/file"]);
        let plan = make(&[&file], Target::Absent, true).unwrap();
        assert_eq!((targets(&plan), directories(&plan)), (vec!["/d/file"], vec!["/d"]));
        assert_eq!(
            targets(&make(&[&tree], Target::Absent, false).unwrap()),
            ["/d/a", "/d/sub/deep/b"]
        );
        let inside = tree.join(".");
        assert_eq!(
            targets(&make(&[&inside], Target::Directory, false).unwrap()),
            ["/d/a", "/d/sub/deep/b"]
        );
        assert_eq!(make(&[&file], Target::File, true).unwrap_err().exit_code(), 4);
        assert_eq!(make(&[&file, &tree], Target::File, false).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn what_cannot_be_stored_is_told_and_the_rest_goes_on() {
        let root = tree();
        let file = root.path().join("file");
        let absent = root.path().join("absent");
        let tree = root.path().join("t");
        let sources = [
            absent,
            file.clone(),
            tree,
            file,
            PathBuf::from("/dev/null"),
            PathBuf::from("-"),
        ];
        let plan = Plan::make(&sources, &path("/d"), Target::Directory, false, false, Links::Keep).unwrap();
        assert_eq!(targets(&plan), ["/d/file"]);
        let codes: Vec<_> = plan.failures.iter().map(|(_, failure)| failure.exit_code()).collect();
        // Absent, a directory without -r, the same target twice, a device, standard input without a name.
        assert_eq!(codes, [3, 4, 2, 2, 4]);
    }

    #[test]
    fn standard_input_needs_a_name() {
        let plan = Plan::make(
            &[PathBuf::from("-")],
            &path("/d"),
            Target::Absent,
            false,
            false,
            Links::Keep,
        )
        .unwrap();
        assert_eq!(plan.files[0].source, Source::Stdin);
        let plan = Plan::make(
            &[PathBuf::from("-")],
            &path("/"),
            Target::Directory,
            false,
            false,
            Links::Keep,
        )
        .unwrap();
        assert!(plan.failures[0].1.report().unwrap().contains("/NAME"));
    }
}
