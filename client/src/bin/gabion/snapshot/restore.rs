//! `gabion snapshot restore`: a directory is made what it was, by reference.
//!
//! Files come back one by one, each whole: this is a job, not one step. It does what is left to be done, so that the
//! same command goes on where it was interrupted. What is newer than the snapshot and in its way goes into the trash.

use futures_util::StreamExt as _;
use gabion_client::terminal::{Failure, Output, Tally, text};
use gabion_client::{AttributeChange, Attributes, CopyOptions, LinkOptions, LinkTold, snapshot_path};
use gabion_protocol::messages::master::{Entry, EntryKind};

use super::differences::{States, at, holds_same, is_like, told};
use crate::args::SnapshotRestore;
use crate::context::Context;

/// Files worked on at one time: each takes the masters a few round trips.
const AT_ONCE: usize = 64;

/// What is to be done with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// It is newer than the snapshot: into the trash.
    Clear,
    /// A directory is missing.
    Make,
    /// A file is missing or holds something else; or a link.
    Copy,
    /// It is there; what is told of it may differ.
    Tell,
}

struct Step {
    act: Act,
    /// Its way below the directory.
    below: String,
    /// As it was; what is to be cleared has none.
    old: Option<Entry>,
    /// Whether mode or time differ from those it had.
    is_told_otherwise: bool,
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    files: u64,
    directories: u64,
    cleared: u64,
}

pub(crate) async fn restore(context: &Context, restore: SnapshotRestore) -> Result<(), Failure> {
    let of = &restore.of;
    let states = States {
        context,
        older: snapshot_path(&of.directory, &of.name)?,
        newer: restore.to.clone().unwrap_or_else(|| of.directory.clone()),
    };
    // Fails here if there is no such snapshot, before anything is changed.
    context.client.stat(&states.older).await?;
    let is_there = context.find(&states.newer).await?.is_some();
    if !is_there && !restore.dry_run {
        context.client.mkdir(&states.newer, false, 0o755).await?;
    }
    let (mut done, mut tally) = (Done::default(), Tally::default());
    let mut output = Output::stdout();
    // Directories still to be looked at, and whether they were there.
    let mut todo = vec![(String::new(), is_there)];
    while let Some((below, is_there)) = todo.pop() {
        let mut steps = Vec::new();
        let each = |old, new| plan(&below, (old, new), restore.delete, &mut steps, &mut todo);
        states.names(&below, is_there, each).await?;
        if restore.dry_run {
            show(&mut output, &steps)?;
            continue;
        }
        for act in [Act::Clear, Act::Make, Act::Copy, Act::Tell] {
            carry_out(&states, &steps, act, &mut done, &mut tally).await;
        }
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
    }
    output.flush()?;
    if restore.dry_run {
        return Ok(());
    }
    context.say(&format!(
        "restored {} from {of}: {} and {} came back, {} removed into the trash",
        states.newer,
        text::count(done.files, "file"),
        text::count(done.directories, "directory"),
        text::count(done.cleared, "entry"),
    ));
    tally.finish("entry", "restored", &mut |line| eprintln!("{line}"))
}

/// Decides what is to be done with a name.
fn plan(
    below: &str,
    (old, new): (Option<Entry>, Option<Entry>),
    delete: bool,
    steps: &mut Vec<Step>,
    todo: &mut Vec<(String, bool)>,
) {
    let Some(name) = old.as_ref().or(new.as_ref()).map(|entry| &entry.name) else {
        return;
    };
    let below = format!("{below}/{name}");
    let mut step = |act, old, is_told_otherwise| {
        steps.push(Step {
            act,
            below: below.clone(),
            old,
            is_told_otherwise,
        });
    };
    let is_in_the_way = match (&old, &new) {
        (Some(old), Some(new)) => !is_like(old, new),
        (None, Some(_)) => delete,
        (_, None) => false,
    };
    if is_in_the_way {
        step(Act::Clear, None, false);
    }
    let Some(old) = old else {
        return;
    };
    let new = new.filter(|_| !is_in_the_way);
    let is_told_otherwise = new.as_ref().is_none_or(|new| told(new) != told(&old));
    let act = match (&new, &old.kind) {
        (None, EntryKind::Directory) => Act::Make,
        (Some(new), EntryKind::File | EntryKind::Link { .. }) if holds_same(&old, new) => Act::Tell,
        (_, EntryKind::File | EntryKind::Link { .. }) => Act::Copy,
        (Some(_), EntryKind::Directory) => Act::Tell,
    };
    if old.is_directory() {
        todo.push((below.clone(), new.is_some()));
    }
    step(act, Some(old), is_told_otherwise);
}

fn show(output: &mut Output, steps: &[Step]) -> Result<(), Failure> {
    for step in steps {
        let word = match step.act {
            Act::Clear => "remove",
            Act::Make => "make",
            Act::Copy => "copy",
            Act::Tell if step.is_told_otherwise => "change",
            Act::Tell => continue,
        };
        output.line(&format!("{word} {}", text::printable(&step.below)))?;
    }
    Ok(())
}

/// Does all steps of one sort, several at one time.
async fn carry_out(states: &States<'_>, steps: &[Step], act: Act, done: &mut Done, tally: &mut Tally) {
    let mut running = futures_util::stream::iter(steps.iter().filter(|step| step.act == act))
        .map(|step| async move { (step, take(states, step).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((step, taken)) = running.next().await {
        match taken {
            Ok(()) => {
                tally.succeeded();
                match act {
                    Act::Clear => done.cleared += 1,
                    Act::Make => done.directories += 1,
                    Act::Copy => done.files += 1,
                    Act::Tell => {}
                }
            }
            Err(failure) => tally.failed(step.below.as_str(), failure),
        }
        if tally.is_hopeless() || states.context.stop.is_cancelled() {
            return;
        }
    }
}

async fn take(states: &States<'_>, step: &Step) -> Result<(), Failure> {
    let client = &states.context.client;
    let (from, to) = (at(&states.older, &step.below)?, at(&states.newer, &step.below)?);
    match step.act {
        Act::Clear => {
            client.trash(&to, true).await?;
        }
        Act::Make => {
            client.mkdir(&to, false, 0o755).await?;
        }
        Act::Copy if link_target(step).is_some() => {
            let options = LinkOptions {
                replace: true,
                parents: false,
                modified_ms: step.old.as_ref().map(|old| old.modified_ms),
            };
            client.link(link_target(step).unwrap_or_default(), &to, options).await?;
        }
        Act::Copy => {
            let options = CopyOptions {
                replace: true,
                parents: false,
                keep_time: true,
            };
            client.copy(std::slice::from_ref(&from), &to, options).await?;
        }
        Act::Tell => {}
    }
    let Some(old) = &step.old else {
        return Ok(());
    };
    if old.target().is_some() {
        let of = client.attributes(&from).await?;
        let told = LinkTold {
            modified_ms: Some(old.modified_ms),
            owner: Some(of.owner),
            group: Some(of.group),
        };
        client.tell_link(&to, told).await?;
        return Ok(());
    }
    if step.is_told_otherwise && step.act != Act::Copy {
        let (mode, modified_ms) = told(old);
        client.set_attributes(&to, Some(mode), Some(modified_ms)).await?;
    }
    // What was made just now has none.
    let found = match step.act {
        Act::Tell => client.attributes(&to).await?,
        Act::Clear | Act::Make | Act::Copy => Attributes::default(),
    };
    for change in changes(client.attributes(&from).await?, found) {
        client.change_attributes(&to, change).await?;
    }
    Ok(())
}

/// What a link stood for, if the step is of one.
fn link_target(step: &Step) -> Option<&str> {
    step.old.as_ref().and_then(Entry::target)
}

/// What makes owner, group and extended attributes what they were.
fn changes(old: Attributes, new: Attributes) -> Vec<AttributeChange> {
    let mut changes = Vec::new();
    if (&old.owner, &old.group) != (&new.owner, &new.group) {
        changes.push(AttributeChange::Owner {
            owner: Some(old.owner),
            group: Some(old.group),
        });
    }
    for (name, _) in &new.extended {
        if !old.extended.iter().any(|(kept, _)| kept == name) {
            changes.push(AttributeChange::Remove { name: name.clone() });
        }
    }
    for (name, value) in old.extended {
        if !new.extended.contains(&(name.clone(), value.clone())) {
            changes.push(AttributeChange::Set { name, value });
        }
    }
    changes
}
