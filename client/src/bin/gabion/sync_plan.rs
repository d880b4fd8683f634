//! What a sync does, decided from two listings before anything is changed: so that a dry run tells the truth.
//!
//! Invariants: nothing is removed that was not listed; what was passed over on one side (devices, pipes) stands for
//! something nobody knows, so neither it nor what lies above or below it is removed or written over; nothing is written
//! below what is of another kind in the target and stays, above all no link; whatever failed to be listed or compared
//! forbids all removals.

use std::collections::{BTreeMap, BTreeSet};

use gabion_client::terminal::Failure;
use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::{Entry, EntryKind};

use crate::compare::{Compared, Local, Pair, Paired, Verdict, topmost};
use crate::records;

/// Which side is made like the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The cluster's, like the local one.
    Up,
    /// The local one, like the cluster's.
    Down,
}

/// A file to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Why, for the user.
    pub(crate) why: String,
}

/// A link to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewLink {
    pub(crate) name: String,
    /// What it stands for.
    pub(crate) target: String,
    /// Milliseconds since 1970, if they are known.
    pub(crate) modified_ms: Option<i64>,
    /// Why, for the user.
    pub(crate) why: &'static str,
}

/// A file of equal content whose time or permission bits are to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) name: String,
    pub(crate) mode: Option<u32>,
    pub(crate) modified_ms: i64,
}

/// Something only the target has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
    pub(crate) bytes: u64,
    /// The local file's time as it was listed, to leave alone what was changed since.
    pub(crate) modified_ms: Option<i64>,
}

/// See the module. Each list is in the order of names.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) equal: u64,
    /// What stands where something of the other kind shall be: removed first.
    pub(crate) in_the_way: Vec<Removal>,
    /// To be made, each after the ones above it.
    pub(crate) directories: Vec<String>,
    pub(crate) copies: Vec<Copy>,
    /// To be made when all else is: nothing goes through them.
    pub(crate) links: Vec<NewLink>,
    pub(crate) touches: Vec<Touch>,
    pub(crate) removals: Vec<Removal>,
    pub(crate) failures: Vec<(String, Failure)>,
    /// What the user may want to know.
    pub(crate) notes: Vec<String>,
    /// Names that stay in the target as something else than the source has.
    kept: BTreeSet<String>,
}

/// What is to be planned with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) direction: Direction,
    /// Whether what only the target has is removed.
    pub(crate) deletes: bool,
    /// Local names that are neither files, directories nor links, and what they are.
    pub(crate) passed_over: &'a BTreeMap<String, &'static str>,
}

impl Terms<'_> {
    /// What was passed over at `name` or above it.
    fn passed_over_at(&self, name: &str) -> Option<&'static str> {
        let above = name.match_indices('/').map(|(at, _)| &name[..at]);
        above.chain([name]).find_map(|name| self.passed_over.get(name).copied())
    }

    fn passed_over_below(&self, name: &str) -> bool {
        let below = format!("{name}/");
        let mut from = self.passed_over.range(below.clone()..);
        from.next().is_some_and(|(next, _)| next.starts_with(&below))
    }
}

impl Plan {
    pub(crate) fn make(terms: Terms<'_>, paired: Paired, compared: Vec<Compared>) -> Self {
        let mut plan = Self::default();
        let Paired {
            kinds,
            only_local,
            only_remote,
            links,
            links_differ,
            ..
        } = paired;
        plan.equal += links;
        for one in compared {
            plan.add_compared(terms, one);
        }
        for pair in kinds {
            plan.add_other_kind(terms, pair);
        }
        for pair in links_differ {
            plan.add_other_link(terms, pair);
        }
        let local = |(name, local): (String, Local)| (name, local.kind, local.length, local.modified_ms);
        let remote = |(name, entry): (String, Entry)| (name, entry.kind, entry.length, Some(entry.modified_ms));
        let (source, target): (Vec<_>, Vec<_>) = match terms.direction {
            Direction::Up => (
                only_local.into_iter().map(local).collect(),
                only_remote.into_iter().map(remote).collect(),
            ),
            Direction::Down => (
                only_remote.into_iter().map(remote).collect(),
                only_local.into_iter().map(local).collect(),
            ),
        };
        for (name, kind, bytes, modified_ms) in source {
            plan.add_new(terms, name, kind, bytes, modified_ms);
        }
        if terms.deletes {
            for (name, kind, bytes, modified_ms) in target {
                plan.add_removal(
                    terms,
                    Removal {
                        name,
                        kind,
                        bytes,
                        modified_ms,
                    },
                );
            }
        }
        plan.directories.sort();
        plan.copies.sort_by(|a, b| a.name.cmp(&b.name));
        plan.links.sort_by(|a, b| a.name.cmp(&b.name));
        // What lies in a directory that makes way goes with it, or before it.
        let (with_it, apart) = std::mem::take(&mut plan.removals)
            .into_iter()
            .partition(|removal| plan.in_the_way.iter().any(|way| is_below(&way.name, &removal.name)));
        plan.removals = apart;
        plan.in_the_way.extend::<Vec<_>>(with_it);
        for removals in [&mut plan.in_the_way, &mut plan.removals] {
            removals.sort_by(|a, b| a.name.cmp(&b.name));
            if terms.direction == Direction::Up {
                keep_topmost(removals);
            }
        }
        plan
    }

    fn add_compared(&mut self, terms: Terms<'_>, one: Compared) {
        let Pair { name, local, remote } = one.pair;
        match one.verdict {
            Err(failure) => self.failures.push((name, failure)),
            Ok(Verdict::Differs(why)) => {
                let bytes = match terms.direction {
                    Direction::Up => local.length,
                    Direction::Down => remote.length,
                };
                self.copies.push(Copy { name, bytes, why });
            }
            Ok(Verdict::Equal) => {
                self.equal += 1;
                self.touches.extend(touch(terms.direction, name, &local, &remote));
            }
        }
    }

    /// A link on both sides that stands for something else.
    fn add_other_link(&mut self, terms: Terms<'_>, pair: Pair) {
        let (kind, modified_ms) = match terms.direction {
            Direction::Up => (pair.local.kind, pair.local.modified_ms),
            Direction::Down => (pair.remote.kind, Some(pair.remote.modified_ms)),
        };
        if let EntryKind::Link { target } = kind {
            self.links.push(NewLink {
                name: pair.name,
                target,
                modified_ms,
                why: "another target",
            });
        }
    }

    /// Of one kind on one side, of another on the other.
    fn add_other_kind(&mut self, terms: Terms<'_>, pair: Pair) {
        let Pair { name, local, remote } = pair;
        let here = (local.kind, local.length, local.modified_ms);
        let there = (remote.kind, remote.length, Some(remote.modified_ms));
        let ((source, source_bytes, source_time), (target, bytes, _)) = match terms.direction {
            Direction::Up => (here, there),
            Direction::Down => (there, here),
        };
        if !terms.deletes || terms.passed_over_below(&name) {
            let failure = Failure::code(
                ErrorCode::Exists,
                format!(
                    "{name} is a {} in the source and a {} in the target",
                    records::kind(&source),
                    records::kind(&target)
                ),
                "remove it from the target, or let sync do it: --delete",
            );
            self.kept.insert(name.clone());
            self.failures.push((name, failure));
            return;
        }
        self.in_the_way.push(Removal {
            name: name.clone(),
            kind: target,
            bytes,
            modified_ms: local.modified_ms.filter(|_| terms.direction == Direction::Down),
        });
        self.add_new(terms, name, source, source_bytes, source_time);
    }

    fn add_new(&mut self, terms: Terms<'_>, name: String, kind: EntryKind, bytes: u64, modified_ms: Option<i64>) {
        // Its failure is told; what would lie below it would be written through it, if it is a link.
        if name.match_indices('/').any(|(at, _)| self.kept.contains(&name[..at])) {
            return;
        }
        if let (Direction::Down, Some(what)) = (terms.direction, terms.passed_over_at(&name)) {
            let failure = Failure::code(
                ErrorCode::Exists,
                format!("cannot write {name}: {what} is in the way"),
                "move it away",
            );
            self.failures.push((name, failure));
            return;
        }
        match kind {
            EntryKind::Directory => self.directories.push(name),
            EntryKind::File => self.copies.push(Copy {
                name,
                bytes,
                why: "new".to_owned(),
            }),
            EntryKind::Link { target } => self.links.push(NewLink {
                name,
                target,
                modified_ms,
                why: "new",
            }),
        }
    }

    fn add_removal(&mut self, terms: Terms<'_>, removal: Removal) {
        let name = &removal.name;
        if let Some(what) = terms.passed_over_at(name) {
            self.notes.push(format!("left alone {name}: {what} in the source"));
        } else if terms.passed_over_below(name) {
            self.notes.push(format!(
                "left alone {name}: it holds what is neither a file, a directory nor a link"
            ));
        } else {
            self.removals.push(removal);
        }
    }

    /// Forbids all removals, because of what failed.
    pub(crate) fn remove_nothing(&mut self) {
        for removal in std::mem::take(&mut self.in_the_way) {
            let name = removal.name;
            self.directories
                .retain(|other| *other != name && !is_below(&name, other));
            self.copies
                .retain(|copy| copy.name != name && !is_below(&name, &copy.name));
            self.links
                .retain(|link| link.name != name && !is_below(&name, &link.name));
        }
        self.removals.clear();
    }
}

/// Whether `name` lies below `directory`.
fn is_below(directory: &str, name: &str) -> bool {
    name.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// On the cluster a directory goes with all it holds.
fn keep_topmost(removals: &mut Vec<Removal>) {
    let names = removals.iter().map(|removal| removal.name.as_str());
    let top: Vec<String> = topmost(names).into_iter().map(str::to_owned).collect();
    removals.retain(|removal| top.binary_search(&removal.name).is_ok());
}

/// What makes the target's time and permission bits the source's, if they are not. Locally only the time: what the umask
/// took from a file's bits would else be set again and again.
fn touch(direction: Direction, name: String, local: &Local, remote: &Entry) -> Option<Touch> {
    match direction {
        Direction::Up => {
            let modified_ms = local.modified_ms?;
            let is_same = modified_ms == remote.modified_ms && local.mode == remote.mode;
            (!is_same).then_some(Touch {
                name,
                mode: Some(local.mode),
                modified_ms,
            })
        }
        Direction::Down => (local.modified_ms != Some(remote.modified_ms)).then_some(Touch {
            name,
            mode: None,
            modified_ms: remote.modified_ms,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair_up;
    use crate::records::tests::entry;
    use EntryKind::{Directory, File};

    fn local(kind: EntryKind) -> Local {
        Local {
            kind,
            length: 9,
            modified_ms: Some(0),
            mode: 0o644,
        }
    }

    /// Files named `=…` are equal, `x…` cannot be compared, others differ.
    fn plan(terms: Terms<'_>, here: &[(&str, EntryKind)], there: &[(&str, EntryKind)]) -> Plan {
        let here = here
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), local(kind.clone())))
            .collect();
        let there = there
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), entry(name, kind.clone(), 9, 0)))
            .collect();
        let mut paired = pair_up(here, there);
        let compared = std::mem::take(&mut paired.files).into_iter().map(|pair| Compared {
            verdict: match pair.name.as_bytes().first() {
                Some(b'=') => Ok(Verdict::Equal),
                Some(b'x') => Err(Failure::interrupted()),
                _ => Ok(Verdict::Differs("other".to_owned())),
            },
            pair,
            was_fetched: false,
        });
        let compared = compared.collect();
        Plan::make(terms, paired, compared)
    }

    fn names(removals: &[Removal]) -> Vec<&str> {
        removals.iter().map(|removal| removal.name.as_str()).collect()
    }

    const HERE: &[(&str, EntryKind)] = &[
        ("", Directory),
        ("=same", File),
        ("changed", File),
        ("new", Directory),
        ("new/file", File),
        ("turned", File),
    ];
    const THERE: &[(&str, EntryKind)] = &[
        ("", Directory),
        ("=same", File),
        ("changed", File),
        ("old", Directory),
        ("old/file", File),
        ("turned", Directory),
        ("turned/file", File),
    ];

    #[test]
    fn the_cluster_is_made_like_the_local_tree() {
        let passed_over = BTreeMap::new();
        let mut terms = Terms {
            direction: Direction::Up,
            deletes: true,
            passed_over: &passed_over,
        };
        let made = plan(terms, HERE, THERE);
        assert_eq!(made.equal, 1);
        assert_eq!(made.directories, ["new"]);
        let copies: Vec<_> = made.copies.iter().map(|copy| copy.name.as_str()).collect();
        assert_eq!(copies, ["changed", "new/file", "turned"]);
        // What lies in a directory goes with it.
        assert_eq!(names(&made.in_the_way), ["turned"]);
        assert_eq!(names(&made.removals), ["old"]);
        terms.deletes = false;
        let careful = plan(terms, HERE, THERE);
        assert!(careful.removals.is_empty() && careful.in_the_way.is_empty());
        assert_eq!(careful.failures[0].0, "turned");
        assert_eq!(careful.copies.len(), 2, "what is in the way stays");
    }

    #[test]
    fn a_local_tree_is_made_like_the_clusters() {
        let passed_over = BTreeMap::from([("old/link".to_owned(), "a symbolic link"), ("l".to_owned(), "a link")]);
        let terms = Terms {
            direction: Direction::Down,
            deletes: true,
            passed_over: &passed_over,
        };
        let there: Vec<_> = HERE.iter().cloned().chain([("l", Directory), ("l/a", File)]).collect();
        let made = plan(terms, THERE, &there);
        // Files and directories one by one, as nothing local goes that was not listed; a directory with a pipe stays.
        assert_eq!(names(&made.in_the_way), ["turned", "turned/file"]);
        assert_eq!(names(&made.removals), ["old/file"]);
        let refused: Vec<_> = made.failures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(refused, ["l", "l/a"], "nothing is written through a link");
    }

    #[test]
    fn what_the_source_passes_over_protects_the_target() {
        let passed_over = BTreeMap::from([("old".to_owned(), "a symbolic link")]);
        let terms = Terms {
            direction: Direction::Up,
            deletes: true,
            passed_over: &passed_over,
        };
        let made = plan(terms, HERE, THERE);
        assert!(made.removals.is_empty());
    }

    #[test]
    fn after_a_failure_nothing_is_removed_nor_written_in_its_place() {
        let passed_over = BTreeMap::new();
        let terms = Terms {
            direction: Direction::Up,
            deletes: true,
            passed_over: &passed_over,
        };
        let mut made = plan(terms, HERE, THERE);
        made.remove_nothing();
        assert!(made.removals.is_empty() && made.in_the_way.is_empty());
        let copies: Vec<_> = made.copies.iter().map(|copy| copy.name.as_str()).collect();
        assert_eq!(copies, ["changed", "new/file"]);
    }

    #[test]
    fn times_and_bits_follow_the_source() {
        let mut here = local(File);
        let there = entry("a", File, 9, 5);
        let up = touch(Direction::Up, "a".to_owned(), &here, &there).unwrap();
        assert_eq!((up.mode, up.modified_ms), (Some(0o644), 0));
        let down = touch(Direction::Down, "a".to_owned(), &here, &there).unwrap();
        assert_eq!((down.mode, down.modified_ms), (None, 5));
        here.modified_ms = Some(5);
        assert_eq!(touch(Direction::Up, "a".to_owned(), &here, &there), None);
    }
}
