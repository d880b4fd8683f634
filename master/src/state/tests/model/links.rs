//! Links in the model: where a path leads, found part by part, links in links in links.

use std::cell::Cell;

use gabion_protocol::limits::LINKS_MAX;
use gabion_protocol::messages::master::LinkChange;

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Make {
        path: FsPath,
        target: &'static str,
        replace: bool,
        parents: bool,
    },
    /// Gives what a path names an owner, also a link.
    Own { path: FsPath, owner: usize },
}

const TARGETS: [&str; 16] = [
    "a",
    "b",
    "./c/",
    "../a",
    "../b/c",
    "/a",
    "/b/a",
    "/c",
    "/",
    "..",
    ".",
    "b/../c",
    "c/../../a",
    "a/b",
    "//b//b",
    "../..",
];

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    near_step(any_path)
}

/// The same at some of these paths.
pub(super) fn near_step<S: Strategy<Value = FsPath>>(paths: impl Fn() -> S) -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (paths(), prop::sample::select(TARGETS.to_vec()), any::<bool>(), any::<bool>())
            .prop_map(|(path, target, replace, parents)| Step::Make { path, target, replace, parents }),
        1 => (paths(), 0usize..3).prop_map(|(path, owner)| Step::Own { path, owner }),
    ]
}

/// What a part of a path led to.
struct Led {
    path: FsPath,
    /// There is nothing there, for this reason.
    ended: Option<ErrorCode>,
}

impl Model {
    pub(super) fn link_step(&mut self, step: Step) {
        match step {
            Step::Make {
                path,
                target,
                replace,
                parents,
            } => self.make_link(path, target, replace, parents),
            Step::Own { path, owner } => self.own_itself(path, ["", "ann", "bob"][owner]),
        }
    }

    fn make_link(&mut self, path: FsPath, target: &str, replace: bool, parents: bool) {
        let link = Node::Link {
            target: target.to_owned(),
        };
        let place = self.straight(&path, false);
        let expected = place
            .clone()
            .and_then(|path| self.appeared_at(path, replace, parents, link));
        let command = ClientCommand::Link(LinkChange::Make {
            path,
            target: target.to_owned(),
            replace,
            parents,
            modified_ms: None,
        });
        if let Some((outcome, tree)) = self.compare(command, expected) {
            let made = entry(Ok(outcome));
            assert_eq!(Some(made.name.as_str()), place.unwrap().name());
            assert_eq!((made.target(), made.length), (Some(target), target.len() as u64));
            self.tree = tree;
        }
    }

    fn own_itself(&mut self, path: FsPath, owner: &str) {
        let place = self.straight(&path, false);
        let expected = place.and_then(|path| self.walk(&path).map(drop));
        let command = ClientCommand::Link(LinkChange::Tell {
            path,
            modified_ms: Some(7),
            owner: Some(owner.to_owned()),
            group: None,
        });
        if let Some((outcome, ())) = self.compare(command, expected) {
            let told = entry(Ok(outcome));
            assert_eq!(told.modified_ms, 7);
            self.owners.insert(told.ino, owner.to_owned());
        }
    }

    /// The path without links that a path leads to, there or not; a link at its end is followed or not.
    pub(super) fn straight(&self, path: &FsPath, follow: bool) -> Expected<FsPath> {
        let followed = Cell::new(0);
        let led = self.lead(&FsPath::root(), path.as_str(), follow, &followed)?;
        Ok(led.path)
    }

    /// The name of what is made at a path.
    pub(super) fn name(&self, path: &FsPath, follow: bool) -> Option<String> {
        self.straight(path, follow).ok()?.name().map(str::to_owned)
    }

    fn lead(&self, from: &FsPath, text: &str, follow: bool, followed: &Cell<usize>) -> Expected<Led> {
        let mut at = if text.starts_with('/') {
            FsPath::root()
        } else {
            from.clone()
        };
        let mut ended = None;
        let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        for (i, name) in names.iter().enumerate() {
            let is_last = i + 1 == names.len();
            if ended.is_none() && !matches!(self.tree[&at], Node::Directory) {
                ended = Some(ErrorCode::NotDirectory);
            }
            if *name == ".." {
                match ended {
                    Some(code) => return Err(code),
                    None => at = at.parent_and_name().map_or_else(FsPath::root, |(above, _)| above),
                }
                continue;
            }
            let next = at.join(name).map_err(|_| ErrorCode::InvalidPath)?;
            match self.tree.get(&next) {
                _ if ended.is_some() => at = next,
                None => (at, ended) = (next, Some(ErrorCode::NotFound)),
                Some(Node::Link { target }) if !is_last || follow => {
                    followed.set(followed.get() + 1);
                    if followed.get() > LINKS_MAX {
                        return Err(ErrorCode::LimitExceeded);
                    }
                    let led = self.lead(&at, target, true, followed)?;
                    (at, ended) = (led.path, led.ended);
                }
                Some(_) => at = next,
            }
        }
        Ok(Led { path: at, ended })
    }

    pub(super) fn leads_to_directory(&self, path: &FsPath) -> bool {
        let led = self.straight(path, true);
        led.is_ok_and(|path| self.tree.get(&path) == Some(&Node::Directory))
    }

    /// Every link is shown as what it stands for, and leads where it should.
    pub(super) fn compare_links(&self) {
        for (path, node) in &self.tree {
            let Node::Link { target } = node else {
                continue;
            };
            let shown = read::stat(&self.machine.rows, path).unwrap();
            assert_eq!(shown.target(), Some(target.as_str()));
            let led = self.straight(path, true).and_then(|led| self.walk(&led).map(|_| led));
            match (read::follow(&self.machine.rows, path), led) {
                (Ok((found, _)), Ok(led)) => assert_eq!(found, led, "{path}"),
                (Err(read::ReadError::Refused(refusal)), Err(code)) => assert_eq!(refusal.code(), code, "{path}"),
                (found, led) => panic!("{path} leads to {found:?}, not {led:?}"),
            }
        }
    }
}
