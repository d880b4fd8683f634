//! `gabion chmod` and `gabion touch`: what is told of a file, not what it holds.

use gabion_client::terminal::{Failure, Tally};
use gabion_client::{CreateOptions, Walk};
use gabion_protocol::messages::master::EntryKind;
use gabion_protocol::{ErrorCode, FsPath};

use crate::args::{ChangeMode, Touch};
use crate::context::Context;
use crate::glob;
use crate::trash::wall_ms;

pub(crate) async fn change_mode(context: &Context, change: ChangeMode) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &glob::expand(context, &change.paths, &mut tally).await {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.set_attributes(path, Some(change.mode), None).await {
            Ok(entry) => {
                tally.succeeded();
                if change.recursive && entry.kind == EntryKind::Directory {
                    change_below(context, path, change.mode, &mut tally).await;
                }
            }
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    tally.finish("path", "changed", &mut |line| eprintln!("{line}"))
}

async fn change_below(context: &Context, directory: &FsPath, mode: u32, tally: &mut Tally) {
    let mut walk = Walk::new(context.client.clone(), directory.clone());
    while let Some(next) = walk.next().await {
        let changed = match next {
            Ok((path, _)) => {
                let changed = context.client.set_attributes(&path, Some(mode), None).await;
                changed.map(drop).map_err(|error| (path, error))
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
        match touch_one(context, path, modified_ms, !touch.no_create).await {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    tally.finish("path", "changed", &mut |line| eprintln!("{line}"))
}

async fn touch_one(context: &Context, path: &FsPath, modified_ms: i64, create: bool) -> Result<(), Failure> {
    let set = async || context.client.set_attributes(path, None, Some(modified_ms)).await;
    let missing = match set().await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == ErrorCode::NotFound => error,
        Err(error) => return Err(error.into()),
    };
    if !create {
        return Ok(());
    }
    let options = CreateOptions {
        modified_ms: Some(modified_ms),
        ..CreateOptions::default()
    };
    match context.client.create_empty(path, options).await {
        Ok(_) => Ok(()),
        // Another made it meanwhile.
        Err(error) if error.code() == ErrorCode::Exists => Ok(set().await.map(drop)?),
        Err(error) if error.code() == ErrorCode::NotFound => Err(missing.into()),
        Err(error) => Err(error.into()),
    }
}
