//! All that lies below a directory of the cluster, with its links kept as links, or followed.
//!
//! Invariant: a link that is followed leads neither to a directory that the way to it went through nor above one: a walk
//! ends.

use gabion_client::Walk;
use gabion_client::terminal::Failure;
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};

use crate::context::Context;

/// What became of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are kept.
    Keep,
    /// What they lead to stands in their place.
    Follow,
}

impl Links {
    /// What `-L` asks for.
    pub(crate) fn of(dereference: bool) -> Self {
        if dereference { Self::Follow } else { Self::Keep }
    }
}

/// Something below a directory.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its way below the directory, names with slashes between them.
    pub(crate) name: String,
    pub(crate) entry: Entry,
}

/// A walk; see the module.
pub(crate) struct Below<'a> {
    context: &'a Context,
    links: Links,
    /// The directories that are walked, each entered through a link in the one before.
    open: Vec<Level>,
}

struct Level {
    walk: Walk,
    /// Its path without links.
    root: FsPath,
    /// The name of its root below the first one, with a slash at its end unless it is empty.
    prefix: String,
    /// The directory that the link to it is in.
    from: FsPath,
}

impl<'a> Below<'a> {
    /// Below `root`, which may be a link.
    pub(crate) async fn new(context: &'a Context, root: &FsPath, links: Links) -> Result<Self, Failure> {
        let (real, _) = context.client.resolve(root).await?;
        let first = Level {
            walk: Walk::new(context.client.clone(), real.clone()),
            from: real.clone(),
            root: real,
            prefix: String::new(),
        };
        Ok(Self {
            context,
            links,
            open: vec![first],
        })
    }

    /// What comes next, or what cannot be looked at and why; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Found, (String, Failure)>> {
        loop {
            let level = self.open.last_mut()?;
            let (path, entry) = match level.walk.next().await {
                None => {
                    self.open.pop();
                    continue;
                }
                Some(Ok(found)) => found,
                Some(Err(error)) => return Some(Err((level.root.to_string(), error.into()))),
            };
            let way = path.as_str().strip_prefix(level.root.as_str()).unwrap_or_default();
            let name = format!("{}{}", level.prefix, way.trim_start_matches('/'));
            if entry.target().is_none() || self.links == Links::Keep {
                return Some(Ok(Found { name, entry }));
            }
            let followed = self.follow(&path, &name).await;
            return Some(match followed {
                Ok(entry) => Ok(Found { name, entry }),
                Err(failure) => Err((name, failure)),
            });
        }
    }

    /// What a link leads to; a directory is walked next.
    async fn follow(&mut self, link: &FsPath, name: &str) -> Result<Entry, Failure> {
        let (real, entry) = self.context.client.resolve(link).await?;
        if entry.is_directory() {
            let from = link.parent_and_name().map_or_else(FsPath::root, |(above, _)| above);
            let ways = self.open.iter().skip(1).map(|level| &level.from);
            if ways.chain([&from]).any(|way| real.holds(way)) {
                return Err(Failure::code(
                    ErrorCode::Conflict,
                    format!("cannot follow the link {link}: it leads back to {real}, which holds it"),
                    "take links as links: leave -L out",
                ));
            }
            self.open.push(Level {
                walk: Walk::new(self.context.client.clone(), real.clone()),
                root: real,
                prefix: format!("{name}/"),
                from,
            });
        }
        Ok(entry)
    }
}
