//! `gabion ln` and `gabion readlink`.

use gabion_client::LinkOptions;
use gabion_client::terminal::{Failure, Format, Output, Tally, text};
use gabion_protocol::{ErrorCode, FsPath};
use rustix::termios::isatty;
use serde::Serialize;

use crate::args::{self, MakeLinks, ReadLinks};
use crate::context::Context;

pub(crate) async fn make(context: &Context, links: MakeLinks) -> Result<(), Failure> {
    const USAGE: &str = "gabion ln -s TARGET… PATH";
    if !links.symbolic {
        return Err(Failure::usage(
            "there are no hard links, only symbolic ones",
            format!("say so: {USAGE}"),
        ));
    }
    let Some((last, targets)) = links.paths.split_last() else {
        return Err(Failure::usage("no paths are named", USAGE));
    };
    let path = args::remote_path(last).map_err(|why| {
        let what = format!("{last:?} is no remote path: {why}");
        Failure::code(ErrorCode::InvalidPath, what, format!("{USAGE}: PATH is on the cluster"))
    })?;
    let into = into_directory(context, &links, &path, last.ends_with('/'), targets.len() > 1).await?;
    let options = LinkOptions {
        replace: links.force,
        parents: links.parents,
        modified_ms: None,
    };
    let mut tally = Tally::default();
    for target in targets {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let made = async {
            let at = match into {
                true => below(&path, target)?,
                false => path.clone(),
            };
            context.client.link(target, &at, options).await.map_err(|error| {
                Failure::from(error)
                    .advise(ErrorCode::Exists, "replace it with --force, or choose another name")
                    .advise(ErrorCode::NotFound, "make the directories above it too: --parents")
            })
        };
        match made.await {
            Ok(_) => tally.succeeded(),
            Err(failure) => tally.failed(target.as_str(), failure),
        }
    }
    tally.finish("link", "made", &mut |line| eprintln!("{line}"))
}

/// Whether the links go into a directory.
async fn into_directory(
    context: &Context,
    links: &MakeLinks,
    path: &FsPath,
    slash: bool,
    many: bool,
) -> Result<bool, Failure> {
    let found = match links.no_target_directory {
        true => None,
        false => context.find(path).await?,
    };
    let is_directory = found.is_some_and(|entry| entry.is_directory());
    if !is_directory && (slash || many) {
        return Err(Failure::code(
            ErrorCode::NotDirectory,
            format!("cannot make links in {path}: it is no directory"),
            "name a directory, or one target and the link's own name",
        ));
    }
    Ok(is_directory)
}

/// The link to a target in a directory, under the target's last name.
fn below(directory: &FsPath, target: &str) -> Result<FsPath, Failure> {
    let name = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    directory.join(name).map_err(|error| {
        Failure::code(
            ErrorCode::InvalidPath,
            format!("{target:?} ends in no name that a link in {directory} can have: {error}"),
            "name the link itself: gabion ln -s TARGET PATH",
        )
    })
}

/// A link, as JSON.
#[derive(Debug, Serialize)]
struct Record {
    path: String,
    target: String,
}

#[derive(Serialize)]
struct Records {
    links: Vec<Record>,
}

pub(crate) async fn read(context: &Context, links: ReadLinks) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut found = Vec::new();
    for path in &links.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let target = match links.canonicalize {
            true => context.client.resolve(path).await.map(|(path, _)| path.to_string()),
            false => context.client.read_link(path).await,
        };
        match target {
            Ok(target) => {
                tally.succeeded();
                found.push(Record {
                    path: path.to_string(),
                    target,
                });
            }
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    print(&links, found)?;
    tally.finish("link", "read", &mut |line| eprintln!("{line}"))
}

fn print(links: &ReadLinks, found: Vec<Record>) -> Result<(), Failure> {
    let mut output = Output::stdout();
    match links.printing.output {
        Format::Json => output.object(Format::Json, &Records { links: found })?,
        Format::Jsonl => found
            .iter()
            .try_for_each(|record| output.object(Format::Jsonl, record))?,
        Format::Table => {
            let on_terminal = isatty(std::io::stdout());
            for (i, Record { target, .. }) in found.iter().enumerate() {
                match on_terminal {
                    true => output.bytes(text::printable(target).as_bytes())?,
                    false => output.bytes(target.as_bytes())?,
                }
                if !(links.no_newline && i + 1 == found.len()) {
                    output.bytes(b"\n")?;
                }
            }
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_a_directory_has_its_targets_last_name() {
        let directory = FsPath::parse("/d").unwrap();
        for (target, name) in [("a", "/d/a"), ("../x/a", "/d/a"), ("/x/a/", "/d/a")] {
            assert_eq!(below(&directory, target).unwrap().as_str(), name);
        }
        for target in ["..", "/", "a/..", ""] {
            assert_eq!(below(&directory, target).unwrap_err().exit_code(), 2, "{target}");
        }
    }
}
