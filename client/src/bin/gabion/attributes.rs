//! `gabion chmod`, `gabion chown` and `gabion touch`: what is told of a file, not what it holds.

use gabion_client::terminal::{Failure, Tally};
use gabion_client::{AttributeChange, CreateOptions, LinkTold, Walk};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};

use crate::args::{ChangeMode, ChangeOwner, Ownership, Touch};
use crate::context::Context;
use crate::glob;
use crate::trash::wall_ms;

/// A change that many files get.
enum Change {
    Mode(u32),
    Owner(Ownership),
    /// The same of a link itself.
    OwnerOfLink(Ownership),
}

impl Change {
    async fn make(&self, context: &Context, path: &FsPath) -> Result<Entry, gabion_client::Error> {
        match self {
            Self::Mode(mode) => context.client.set_attributes(path, Some(*mode), None).await,
            Self::Owner(Ownership { owner, group }) => {
                let change = AttributeChange::Owner {
                    owner: owner.clone(),
                    group: group.clone(),
                };
                context.client.change_attributes(path, change).await
            }
            Self::OwnerOfLink(of) => own_link(context, path, of).await,
        }
    }

    /// The same for what a walk found, which follows no link: as `chmod -R` and `chown -R` have it, links have no bits of
    /// their own, but an owner.
    async fn make_below(&self, context: &Context, path: &FsPath, found: &Entry) -> Result<(), gabion_client::Error> {
        let is_link = found.target().is_some();
        match self {
            Self::Mode(_) if is_link => Ok(()),
            Self::Owner(of) if is_link => own_link(context, path, of).await.map(drop),
            _ => self.make(context, path).await.map(drop),
        }
    }
}

async fn own_link(context: &Context, path: &FsPath, of: &Ownership) -> Result<Entry, gabion_client::Error> {
    let told = LinkTold {
        modified_ms: None,
        owner: of.owner.clone(),
        group: of.group.clone(),
    };
    context.client.tell_link(path, told).await
}

pub(crate) async fn change_mode(context: &Context, change: ChangeMode) -> Result<(), Failure> {
    change_all(context, &change.paths, change.recursive, Change::Mode(change.mode)).await
}

pub(crate) async fn change_owner(context: &Context, change: ChangeOwner) -> Result<(), Failure> {
    let of = match change.no_dereference {
        true => Change::OwnerOfLink(change.owner),
        false => Change::Owner(change.owner),
    };
    change_all(context, &change.paths, change.recursive, of).await
}

async fn change_all(context: &Context, paths: &[FsPath], recursive: bool, change: Change) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &glob::expand(context, paths, &mut tally).await {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match change.make(context, path).await {
            Ok(entry) => {
                tally.succeeded();
                if recursive && entry.is_directory() {
                    change_below(context, path, &change, &mut tally).await;
                }
            }
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    tally.finish("path", "changed", &mut |line| eprintln!("{line}"))
}

async fn change_below(context: &Context, directory: &FsPath, change: &Change, tally: &mut Tally) {
    let mut walk = Walk::new(context.client.clone(), directory.clone());
    while let Some(next) = walk.next().await {
        let changed = match next {
            Ok((path, entry)) => {
                let changed = change.make_below(context, &path, &entry).await;
                changed.map_err(|error| (path, error))
            }
            Err(error) => Err((directory.clone(), error)),
        };
        match changed {
            Ok(()) => tally.succeeded(),
            // It was removed since its name was read.
            Err((_, error)) if error.code() == ErrorCode::NotFound => {}
            Err((path, error)) => tally.failed(path.as_str(), error.into()),
        }
        if tally.is_hopeless() {
            return;
        }
    }
}

pub(crate) async fn touch(context: &Context, touch: Touch) -> Result<(), Failure> {
    let modified_ms = touch.date.unwrap_or_else(wall_ms);
    let mut tally = Tally::default();
    for path in &touch.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match touch_one(context, path, modified_ms, &touch).await {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    tally.finish("path", "changed", &mut |line| eprintln!("{line}"))
}

async fn touch_one(context: &Context, path: &FsPath, modified_ms: i64, touch: &Touch) -> Result<(), Failure> {
    if touch.no_dereference {
        let told = LinkTold {
            modified_ms: Some(modified_ms),
            ..LinkTold::default()
        };
        return Ok(context.client.tell_link(path, told).await.map(drop)?);
    }
    let set = async || context.client.set_attributes(path, None, Some(modified_ms)).await;
    let missing = match set().await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == ErrorCode::NotFound => error,
        Err(error) => return Err(error.into()),
    };
    if touch.no_create {
        return Ok(());
    }
    let options = CreateOptions {
        modified_ms: Some(modified_ms),
        ..CreateOptions::default()
    };
    match context.client.create_missing(path, options).await {
        Ok(true) => Ok(()),
        // Another made it meanwhile.
        Ok(false) => Ok(set().await.map(drop)?),
        Err(error) if error.code() == ErrorCode::NotFound => Err(missing.into()),
        Err(error) => Err(error.into()),
    }
}
