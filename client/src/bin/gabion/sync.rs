//! `gabion sync`: makes one tree like another, moving only what differs.
//!
//! Which files differ is decided by size and checksum, as `check` does: a time of modification can lie, and an equal size
//! often does. `--quick` trusts both together, as rsync and rclone do by default.

use std::path::Path;

use futures_util::StreamExt as _;
use gabion_client::terminal::{Column, Failure, Format, Output, Progress, Table, Tally, text};
use gabion_client::{CreateOptions, DownloadOptions, LinkOptions};
use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::EntryKind;
use serde::Serialize;

use crate::args::{self, Sync};
use crate::below::Links;
use crate::compare::{self, Sides, Tree};
use crate::context::Context;
use crate::download::{self, Fetching};
use crate::jobs::Jobs;
use crate::preserve::{self, Losses, Same};
use crate::records::Totals;
use crate::sync_plan::{Direction, NewLink, Plan, Removal, Terms, Touch};
use crate::upload::{self, Storing};
use crate::{download_plan, local, upload_plan};

/// Names changed at one time.
const NAMES_AT_ONCE: usize = 16;
/// Permission bits of directories made on the cluster.
const DIRECTORY_MODE: u32 = 0o755;

/// One thing that is done, as JSON.
#[derive(Debug, Serialize)]
struct Action<'a> {
    action: &'static str,
    path: &'a str,
    bytes: u64,
    why: &'a str,
}

#[derive(Serialize)]
struct Actions<'a> {
    dry_run: bool,
    equal: u64,
    actions: &'a [Action<'a>],
}

/// Two trees and which is made like the other.
struct Work<'a> {
    context: &'a Context,
    sides: Sides,
    direction: Direction,
    jobs: Jobs,
}

/// What a look at both trees led to.
struct Decided {
    plan: Plan,
    /// Whether the target itself has to be made.
    target_is_absent: bool,
    /// All names of the source.
    source: Vec<String>,
}

pub(crate) async fn run(context: &Context, sync: Sync) -> Result<(), Failure> {
    let (direction, sides) = sides(&sync)?;
    let work = Work {
        context,
        sides,
        direction,
        jobs: Jobs::new(sync.parallel.jobs),
    };
    let decided = work.plan(&sync).await?;
    let plan = &decided.plan;
    for note in plan.notes.iter().filter(|_| !context.quiet) {
        eprintln!("{}", text::printable(note));
    }
    show(plan, &sync)?;
    if sync.dry_run {
        let mut tally = Tally::default();
        tally.done = plan.equal + (plan.copies.len() + plan.links.len()) as u64;
        for (name, failure) in decided.plan.failures {
            tally.failed(name, failure);
        }
        return tally.finish("file", "synced", &mut |line| eprintln!("{line}"));
    }
    work.carry_out(decided, &sync).await
}

/// Which side is on the cluster: both are paths, and only a prefix tells them apart.
fn sides(sync: &Sync) -> Result<(Direction, Sides), Failure> {
    let remote = |path: &Path| {
        let text = path.to_str()?;
        text.starts_with("gabion:").then(|| {
            args::remote_path(text)
                .map_err(|why| Failure::usage(format!("{text}: {why}"), "for example gabion:/photos"))
        })
    };
    let (direction, remote, local) = match (remote(&sync.source), remote(&sync.target)) {
        (None, Some(remote)) => (Direction::Up, remote?, &sync.source),
        (Some(remote), None) => (Direction::Down, remote?, &sync.target),
        (None, None) => {
            return Err(Failure::usage(
                "neither SRC nor DST is on the cluster",
                "write the one on the cluster with its prefix: gabion sync photos gabion:/photos",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::usage(
                "SRC and DST are both on the cluster: sync moves files between it and this machine",
                "download SRC, then sync it to DST",
            ));
        }
    };
    Ok((
        direction,
        Sides {
            local: local.clone(),
            remote,
            is_quick: sync.quick,
        },
    ))
}

fn no_directory(what: impl std::fmt::Display) -> Failure {
    Failure::code(
        ErrorCode::NotDirectory,
        format!("cannot sync {what}: it is not a directory"),
        "sync works on directories; a single file: gabion upload or gabion download",
    )
}

impl Work<'_> {
    /// What is to be done.
    async fn plan(&self, sync: &Sync) -> Result<Decided, Failure> {
        let Sides { local, remote, .. } = &self.sides;
        let is_up = self.direction == Direction::Up;
        let at_remote = match is_up {
            true => self.context.find(remote).await?,
            false => Some(self.context.client.resolve(remote).await?.1),
        };
        let has_local = is_up || local.symlink_metadata().is_ok();
        // Of the target, links are what they are.
        let of_source = Links::of(sync.keeping.dereference);
        let (links_here, links_there) = match self.direction {
            Direction::Up => (of_source, Links::Keep),
            Direction::Down => (Links::Keep, of_source),
        };
        let mut here = match has_local {
            true => compare::read_local(local, links_here)?,
            false => Tree::default(),
        };
        let target_is_absent = !has_local || at_remote.is_none();
        let mut there = match at_remote {
            Some(entry) => compare::read_remote(self.context, remote, entry, links_there).await?,
            None => Tree::default(),
        };
        if here
            .entries
            .remove("")
            .is_some_and(|root| root.kind != EntryKind::Directory)
        {
            return Err(no_directory(local.display()));
        }
        if there.entries.remove("").is_some_and(|root| !root.is_directory()) {
            return Err(no_directory(remote));
        }
        // A pipe alone does not make a source that nobody lost.
        let (source_is_empty, target_is_empty) = match self.direction {
            Direction::Up => (here.entries.is_empty(), there.entries.is_empty()),
            Direction::Down => (there.entries.is_empty(), here.entries.is_empty()),
        };
        if sync.delete && source_is_empty && !target_is_empty && !sync.force {
            return Err(Failure::code(
                ErrorCode::NotEmpty,
                format!(
                    "cannot sync {}: it is empty, and all of {} would be removed",
                    sync.source.display(),
                    sync.target.display()
                ),
                "see whether a disk is not mounted; if it shall be so: --force",
            ));
        }
        let source: Vec<String> = match self.direction {
            Direction::Up => here.entries.keys().cloned().collect(),
            Direction::Down => there.entries.keys().cloned().collect(),
        };
        let mut paired = compare::pair_up(here.entries, there.entries);
        let files = std::mem::take(&mut paired.files);
        let compared = compare::compare_all(self.context, &self.sides, files, &self.jobs).await?;
        let terms = Terms {
            direction: self.direction,
            deletes: sync.delete,
            passed_over: &here.passed_over,
        };
        let mut plan = Plan::make(terms, paired, compared);
        for (name, what) in &here.passed_over {
            plan.notes.push(format!("passed over {name}: {what}"));
        }
        plan.failures.append(&mut here.failures);
        plan.failures.append(&mut there.failures);
        if !plan.failures.is_empty() && sync.delete {
            plan.remove_nothing();
            plan.notes
                .push("nothing is removed, because not everything could be listed and compared".to_owned());
        }
        Ok(Decided {
            plan,
            target_is_absent,
            source,
        })
    }

    async fn carry_out(&self, decided: Decided, sync: &Sync) -> Result<(), Failure> {
        let Decided {
            plan,
            target_is_absent,
            source,
        } = decided;
        let mut tally = Tally::default();
        tally.done = plan.equal;
        for (name, failure) in plan.failures {
            tally.failed(name, failure);
        }
        let mut removed = self.remove(&plan.in_the_way, &mut tally).await;
        let mut directories = plan.directories;
        if target_is_absent {
            directories.insert(0, String::new());
        }
        self.make_directories(&directories, &mut tally).await;
        let bytes = plan.copies.iter().map(|copy| copy.bytes).sum();
        let progress = Progress::new(self.context.quiet, plan.copies.len() as u64, bytes);
        let mut totals = Totals::default();
        let names = plan.copies.into_iter().map(|copy| (copy.name, copy.bytes));
        self.copy(names.collect(), &progress, &mut tally, &mut totals).await;
        self.make_links(plan.links, &mut tally, &mut totals).await;
        self.touch(&plan.touches, &mut tally).await;
        let mut losses = Losses::default();
        if sync.keeping.preserve && !tally.is_hopeless() {
            self.preserve(&source, &mut losses).await?;
        }
        let took = progress.finish();
        if tally.is_clean() {
            removed += self.remove(&plan.removals, &mut tally).await;
        } else if !plan.removals.is_empty() {
            self.context
                .say("nothing was removed, because not everything went well before");
        }
        let moved = match self.direction {
            Direction::Up => totals.uploaded(took),
            Direction::Down => totals.fetched("downloaded", took),
        };
        let equal = text::count(plan.equal, "file");
        self.context.say(&format!("{moved}; {equal} equal, {removed} removed"));
        let kept = losses.tell();
        tally.finish("file", "synced", &mut |line| eprintln!("{line}"))?;
        totals.check_degraded()?;
        kept
    }

    /// Makes links, when all else is there.
    async fn make_links(&self, links: Vec<NewLink>, tally: &mut Tally, totals: &mut Totals) {
        if self.direction == Direction::Up {
            let before = tally.done;
            self.on_names(&links, tally, async |link: &NewLink| {
                let path = self.sides.remote_path(&link.name)?;
                let options = LinkOptions {
                    replace: true,
                    parents: false,
                    modified_ms: link.modified_ms,
                };
                self.context.client.link(&link.target, &path, options).await?;
                Ok(())
            })
            .await;
            totals.links += tally.done - before;
            return;
        }
        let mut jobs = Vec::new();
        for link in links {
            let paths = self.sides.local_path(&link.name);
            match paths.and_then(|path| Ok((path, self.sides.remote_path(&link.name)?))) {
                Ok((target, source)) => jobs.push(download_plan::LinkJob {
                    source,
                    target,
                    stands_for: link.target,
                    modified_ms: link.modified_ms.unwrap_or_default(),
                }),
                Err(failure) => tally.failed(link.name, failure),
            }
        }
        download::make_links(&self.sides.local, jobs, true, tally, totals);
    }

    /// Has what is told of the source told of the target, the two directories themselves included.
    async fn preserve(&self, source: &[String], losses: &mut Losses) -> Result<(), Failure> {
        let names = std::iter::once("").chain(source.iter().map(String::as_str));
        let same = names.map(|name| {
            Ok(Same {
                local: self.sides.local_path(name)?,
                remote: self.sides.remote_path(name)?,
            })
        });
        let all = same.collect::<Result<Vec<Same>, Failure>>()?;
        match self.direction {
            Direction::Up => preserve::up(self.context, all, losses).await,
            Direction::Down => preserve::down(self.context, &self.sides.local, all, losses).await,
        }
    }

    async fn make_directories(&self, names: &[String], tally: &mut Tally) {
        if self.direction == Direction::Down {
            for name in names {
                let made = self
                    .sides
                    .local_path(name)
                    .and_then(|path| local::make_directory(&path));
                if let Err(failure) = made {
                    tally.failed(name.as_str(), failure);
                }
            }
            return;
        }
        self.on_names(names, tally, async |name: &String| {
            let path = self.sides.remote_path(name)?;
            // With those above, so that several can be made at one time.
            self.context.client.mkdir(&path, true, DIRECTORY_MODE).await?;
            Ok(())
        })
        .await;
    }

    async fn copy(&self, names: Vec<(String, u64)>, progress: &Progress, tally: &mut Tally, totals: &mut Totals) {
        let jobs = self.jobs.clone();
        if self.direction == Direction::Up {
            let mut files = Vec::new();
            for (name, bytes) in names {
                match self
                    .sides
                    .local_path(&name)
                    .and_then(|path| Ok((path, self.sides.remote_path(&name)?)))
                {
                    Ok((path, target)) => files.push(upload_plan::Job {
                        source: upload_plan::Source::File(path),
                        target,
                        length: Some(bytes),
                    }),
                    Err(failure) => tally.failed(name, failure),
                }
            }
            let how = Storing {
                options: CreateOptions {
                    replace: true,
                    ..CreateOptions::default()
                },
                jobs,
                is_resumed: false,
            };
            upload::store_all(self.context, &how, files, progress, tally, totals).await;
            return;
        }
        let mut files = Vec::new();
        for (name, length) in names {
            match self
                .sides
                .local_path(&name)
                .and_then(|path| Ok((path, self.sides.remote_path(&name)?)))
            {
                Ok((target, source)) => files.push(download_plan::Job {
                    source,
                    target,
                    root: self.sides.local.clone(),
                    length,
                }),
                Err(failure) => tally.failed(name, failure),
            }
        }
        let how = Fetching {
            options: DownloadOptions::default().replace(true),
            jobs,
            is_resumed: false,
        };
        download::fetch_all(self.context, &how, files, progress, tally, totals).await;
    }

    async fn touch(&self, touches: &[Touch], tally: &mut Tally) {
        if self.direction == Direction::Down {
            for touch in touches {
                if let Ok(path) = self.sides.local_path(&touch.name) {
                    local::set_modified(&path, touch.modified_ms);
                }
            }
            return;
        }
        self.on_names(touches, tally, async |touch: &Touch| {
            let path = self.sides.remote_path(&touch.name)?;
            let client = &self.context.client;
            client
                .set_attributes(&path, touch.mode, Some(touch.modified_ms))
                .await?;
            Ok(())
        })
        .await;
    }

    /// Removes what only the target has; tells how many things.
    async fn remove(&self, removals: &[Removal], tally: &mut Tally) -> u64 {
        let before = tally.done;
        if self.direction == Direction::Up {
            self.on_names(removals, tally, async |removal: &Removal| {
                let path = self.sides.remote_path(&removal.name)?;
                self.context.client.trash(&path, true).await?;
                Ok(())
            })
            .await;
        } else {
            // What a directory held goes before it.
            for removal in removals.iter().rev() {
                if self.context.stop.is_cancelled() {
                    tally.failed(removal.name.as_str(), Failure::interrupted());
                    break;
                }
                let path = self.sides.local_path(&removal.name);
                match path.and_then(|path| remove_local(&path, removal)) {
                    Ok(()) => tally.succeeded(),
                    Err(failure) => tally.failed(removal.name.as_str(), failure),
                }
            }
        }
        let removed = tally.done - before;
        // Counted apart: the tally is of files that were synced.
        tally.done = before;
        removed
    }

    /// Does something with each name, several at one time.
    async fn on_names<T>(&self, items: &[T], tally: &mut Tally, act: impl AsyncFn(&T) -> Result<(), Failure>)
    where
        T: Named,
    {
        if tally.is_hopeless() || self.context.stop.is_cancelled() {
            return;
        }
        let mut running = futures_util::stream::iter(items)
            .map(|item| async { (item.name(), act(item).await) })
            .buffer_unordered(NAMES_AT_ONCE);
        while let Some((name, result)) = running.next().await {
            match result {
                Ok(()) => tally.succeeded(),
                Err(failure) => tally.failed(name, failure),
            }
            if tally.is_hopeless() || self.context.stop.is_cancelled() {
                return;
            }
        }
    }
}

/// Something that is told by its name below the two trees.
trait Named {
    fn name(&self) -> &str;
}

impl Named for String {
    fn name(&self) -> &str {
        self
    }
}

impl Named for NewLink {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Touch {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Removal {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Removes a local file or link as it was listed, or a directory that is empty by now.
fn remove_local(path: &Path, removal: &Removal) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::local("remove", path.display(), &error);
    if removal.kind == EntryKind::Directory {
        return std::fs::remove_dir(path).map_err(cannot);
    }
    let found = path.symlink_metadata().map_err(cannot)?;
    let is_alike = match &removal.kind {
        EntryKind::Link { target } => found.is_symlink() && local::link_target(path)? == *target,
        EntryKind::File | EntryKind::Directory => found.is_file(),
    };
    if !is_alike || found.len() != removal.bytes || local::modified_ms(&found) != removal.modified_ms {
        return Err(Failure::code(
            ErrorCode::Conflict,
            format!("{} changed since it was listed: left as it is", path.display()),
            "run the same command again",
        ));
    }
    std::fs::remove_file(path).map_err(cannot)
}

fn show(plan: &Plan, sync: &Sync) -> Result<(), Failure> {
    let format = sync.printing.output;
    let action = |action, path, bytes, why| Action {
        action,
        path,
        bytes,
        why,
    };
    let mut actions = Vec::new();
    for removal in &plan.in_the_way {
        actions.push(action("remove", &removal.name, removal.bytes, "in the way"));
    }
    actions.extend(plan.directories.iter().map(|name| action("make", name, 0, "new")));
    for copy in &plan.copies {
        actions.push(action("copy", &copy.name, copy.bytes, &copy.why));
    }
    for link in &plan.links {
        actions.push(action("link", &link.name, 0, link.why));
    }
    actions.extend(
        plan.touches
            .iter()
            .map(|touch| action("touch", &touch.name, 0, "time or mode")),
    );
    for removal in &plan.removals {
        actions.push(action("remove", &removal.name, removal.bytes, "only there"));
    }
    let mut output = Output::stdout();
    match format {
        Format::Json => {
            let all = Actions {
                dry_run: sync.dry_run,
                equal: plan.equal,
                actions: &actions,
            };
            output.object(format, &all)?;
        }
        Format::Jsonl => actions.iter().try_for_each(|action| output.object(format, action))?,
        // What was done is in the summary; what would be done is what was asked for.
        Format::Table if !sync.dry_run => {}
        Format::Table => output.table(&table(&actions))?,
    }
    output.flush()
}

fn table(actions: &[Action<'_>]) -> Table {
    let mut table = Table::new(&[
        Column::Words("action"),
        Column::Numbers("size"),
        Column::Words("path"),
        Column::Words("why"),
    ]);
    for action in actions {
        table.row([
            action.action.to_owned(),
            text::size(action.bytes),
            text::printable(action.path).into_owned(),
            text::printable(action.why).into_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_since_it_was_listed_is_not_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12").unwrap();
        let modified_ms = local::modified_ms(&file.path().metadata().unwrap());
        let removal = |bytes| Removal {
            name: "a".to_owned(),
            kind: EntryKind::File,
            bytes,
            modified_ms,
        };
        assert_eq!(remove_local(file.path(), &removal(1)).unwrap_err().exit_code(), 4);
        assert!(file.path().exists());
        remove_local(file.path(), &removal(2)).unwrap();
        assert!(!file.path().exists());
    }
}
