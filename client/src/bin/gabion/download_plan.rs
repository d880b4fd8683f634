//! What a download will write where, decided before the first byte moves.
//!
//! Names below a source come from the cluster: each is checked on its own before it becomes part of a local path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gabion_client::terminal::Failure;
use gabion_protocol::messages::master::{Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};

use crate::args;
use crate::below::{Below, Found, Links};
use crate::context::Context;
use crate::glob;
use crate::local;

/// One file to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) source: FsPath,
    pub(crate) target: PathBuf,
    /// The local directory or file that the user named: below it, nothing is written through a link.
    pub(crate) root: PathBuf,
    pub(crate) length: u64,
}

/// One link to make.
#[derive(Debug, Clone)]
pub(crate) struct LinkJob {
    pub(crate) source: FsPath,
    pub(crate) target: PathBuf,
    /// What it stands for.
    pub(crate) stands_for: String,
    pub(crate) modified_ms: i64,
}

/// Everything a download does.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Local directories to make, each after the ones above it.
    pub(crate) directories: Vec<PathBuf>,
    /// Of them, those that are on the cluster, and where.
    pub(crate) trees: Vec<(FsPath, PathBuf)>,
    /// Files to fetch.
    pub(crate) files: Vec<Job>,
    /// Links to make when all else is there.
    pub(crate) links: Vec<LinkJob>,
    /// What cannot be fetched.
    pub(crate) failures: Vec<(String, Failure)>,
    targets: BTreeSet<PathBuf>,
    root: PathBuf,
}

/// A source as the user wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: FsPath,
    /// Whether it was written `DIR/.`: what it holds goes straight into the target.
    contents_only: bool,
}

impl Source {
    /// Reads an argument.
    ///
    /// # Errors
    /// [`Failure`] if it is no remote path.
    pub(crate) fn parse(argument: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::code(
                ErrorCode::InvalidPath,
                format!("{:?} cannot be a source: {why}", argument.display().to_string()),
                "sources are remote, the last argument is the local target: gabion download SRC… DST",
            )
        };
        let text = argument.to_str().ok_or_else(|| wrong("it is not UTF-8".to_owned()))?;
        let whole = text.strip_suffix("/.").map(|directory| format!("{directory}/"));
        let path = args::remote_path(whole.as_deref().unwrap_or(text)).map_err(wrong)?;
        Ok(Self {
            contents_only: whole.is_some() || path.is_root(),
            path,
        })
    }

    /// What the source stands for, if it is a pattern.
    pub(crate) async fn expand(self, context: &Context) -> Result<Vec<Self>, Failure> {
        let contents_only = self.contents_only;
        let paths = glob::expand_one(context, &self.path).await?.into_iter();
        Ok(paths.map(|path| Self { path, contents_only }).collect())
    }
}

impl Plan {
    /// Decides where `sources` go; directories only if they are to be fetched, with their links in one of two ways.
    ///
    /// # Errors
    /// [`Failure`] if the target does not fit the sources. A source that cannot be fetched is in `failures`.
    pub(crate) async fn make(
        context: &Context,
        sources: &[Source],
        target: &Path,
        slash: bool,
        recursive: Option<Links>,
    ) -> Result<Self, Failure> {
        let mut plan = Self {
            root: target.to_owned(),
            ..Self::default()
        };
        let into = plan.open_target(target, slash || sources.len() > 1)?;
        for source in sources {
            if plan.failures.last().is_some_and(|(_, failure)| failure.concerns_all()) {
                break;
            }
            let added = tokio::select! {
                added = plan.add_source(context, source, target, into, recursive) => added,
                () = context.stop.cancelled() => return Err(Failure::interrupted()),
            };
            if let Err(failure) = added {
                plan.failures.push((source.path.to_string(), failure));
            }
        }
        Ok(plan)
    }

    /// Whether sources go into the target under their own names.
    fn open_target(&mut self, target: &Path, must_be_directory: bool) -> Result<bool, Failure> {
        match std::fs::metadata(target) {
            Ok(found) if found.is_dir() => Ok(true),
            Ok(_) if must_be_directory => Err(Failure::code(
                ErrorCode::NotDirectory,
                format!("cannot download into {}: it is not a directory", target.display()),
                "name a directory as the target",
            )),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if must_be_directory {
                    self.directories.push(target.to_owned());
                }
                Ok(must_be_directory)
            }
            Err(error) => Err(Failure::local("write to", target.display(), &error)),
        }
    }

    async fn add_source(
        &mut self,
        context: &Context,
        source: &Source,
        target: &Path,
        into: bool,
        recursive: Option<Links>,
    ) -> Result<(), Failure> {
        let (_, entry) = context.client.resolve(&source.path).await?;
        let target = match source.path.name() {
            Some(name) if into && !source.contents_only => local::below(target, name)?,
            _ => target.to_owned(),
        };
        if !entry.is_directory() {
            return self.add_file(&source.path, &entry, target);
        }
        let Some(links) = recursive else {
            return Err(Failure::code(
                ErrorCode::IsDirectory,
                format!("cannot download {}: it is a directory", source.path),
                "fetch it with all it holds: -r",
            ));
        };
        self.trees.push((source.path.clone(), target.clone()));
        self.directories.push(target.clone());
        let mut below = Below::new(context, &source.path, links).await?;
        while let Some(next) = below.next().await {
            let added = match next {
                Ok(Found { name, entry }) => {
                    let added = place(&target, &name).and_then(|to| self.add_found(&source.path, &name, &entry, to));
                    added.map_err(|failure| (format!("{}/{name}", source.path), failure))
                }
                Err(failed) => Err(failed),
            };
            self.failures.extend(added.err());
        }
        Ok(())
    }

    /// Something found below a source.
    fn add_found(&mut self, source: &FsPath, name: &str, entry: &Entry, target: PathBuf) -> Result<(), Failure> {
        let mut names = name.split('/');
        let path = names
            .try_fold(source.clone(), |path, name| path.join(name))
            .map_err(gabion_client::Error::from)?;
        match &entry.kind {
            EntryKind::File => return self.add_file(&path, entry, target),
            EntryKind::Directory => {
                self.trees.push((path, target.clone()));
                self.directories.push(target);
            }
            EntryKind::Link { target: stands_for } => {
                self.take_target(&path, &target)?;
                self.links.push(LinkJob {
                    source: path,
                    target,
                    stands_for: stands_for.clone(),
                    modified_ms: entry.modified_ms,
                });
            }
        }
        Ok(())
    }

    fn take_target(&mut self, source: &FsPath, target: &Path) -> Result<(), Failure> {
        if self.targets.insert(target.to_owned()) {
            return Ok(());
        }
        Err(Failure::code(
            ErrorCode::InvalidArgument,
            format!(
                "cannot download {source}: another source goes to {} already",
                target.display()
            ),
            "download them to different directories",
        ))
    }

    fn add_file(&mut self, source: &FsPath, entry: &Entry, target: PathBuf) -> Result<(), Failure> {
        self.take_target(source, &target)?;
        self.files.push(Job {
            source: source.clone(),
            target,
            root: self.root.clone(),
            length: entry.length,
        });
        Ok(())
    }
}

/// The local place of what is at `name` below the source that becomes `target`.
fn place(target: &Path, name: &str) -> Result<PathBuf, Failure> {
    name.split('/')
        .try_fold(target.to_owned(), |target, name| local::below(&target, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_remote() {
        let parse = |text: &str| Source::parse(Path::new(text)).unwrap();
        assert!(!parse("/a/b").contents_only && !parse("gabion:/a/").contents_only);
        let contents = parse("/a/.");
        assert!(contents.contents_only && contents.path.as_str() == "/a");
        assert!(parse("/").contents_only && parse("/.").path.is_root());
        let refused = Source::parse(Path::new("a")).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(
            refused
                .report()
                .unwrap()
                .contains("the last argument is the local target")
        );
    }

    #[test]
    fn trees_keep_their_shape() {
        assert_eq!(place(Path::new("out"), "c/d").unwrap(), Path::new("out/c/d"));
        assert_eq!(place(Path::new("out"), "c").unwrap(), Path::new("out/c"));
        assert!(place(Path::new("out"), "../c").is_err() && place(Path::new("out"), "c//d").is_err());
    }

    #[test]
    fn the_target_decides_whether_names_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let absent = directory.path().join("absent");
        let open = |target: &Path, must: bool| {
            let mut plan = Plan::default();
            plan.open_target(target, must)
                .map(|into| (into, plan.directories.len()))
        };
        assert_eq!(open(directory.path(), false).unwrap(), (true, 0));
        assert_eq!(open(&file, false).unwrap(), (false, 0));
        assert_eq!(open(&absent, false).unwrap(), (false, 0));
        assert_eq!(open(&absent, true).unwrap(), (true, 1));
        assert_eq!(open(&file, true).unwrap_err().exit_code(), 4);
    }
}
