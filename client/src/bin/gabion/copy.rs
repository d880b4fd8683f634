//! `gabion cp` and `gabion concat`: files by reference, without moving a byte.

use gabion_client::CopyOptions;
use gabion_client::terminal::{Failure, Tally, text};
use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath};

use crate::args::{Concat, Copy};
use crate::context::Context;
use crate::names::Target;

pub(crate) async fn copy_all(context: &Context, copy: Copy) -> Result<(), Failure> {
    let (sources, target) = Target::split(context, "cp", &copy.paths, copy.no_target_directory).await?;
    let options = CopyOptions {
        replace: copy.force,
        parents: copy.parents,
        keep_time: copy.preserve,
    };
    let mut tally = Tally::default();
    let mut bytes = 0;
    for source in &sources {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match copy_one(context, source, &target, options).await {
            Ok(entry) => {
                bytes += entry.length;
                tally.succeeded();
            }
            Err(failure) => tally.failed(source.as_str(), failure),
        }
    }
    if tally.done > 0 {
        let files = text::count(tally.done, "file");
        context.say(&format!("copied {files}, {}, by reference", text::size(bytes)));
    }
    tally.finish("path", "copied", &mut |line| eprintln!("{line}"))
}

async fn copy_one(context: &Context, source: &FsPath, target: &Target, options: CopyOptions) -> Result<Entry, Failure> {
    let to = target.of(source)?;
    let copied = context.client.copy(std::slice::from_ref(source), &to, options).await;
    copied.map_err(advised)
}

/// The failure, with advice in the words of the command line.
fn advised(error: gabion_client::Error) -> Failure {
    Failure::from(error).advise(ErrorCode::Exists, "replace it with --force, or choose another name")
}

pub(crate) async fn concat(context: &Context, concat: Concat) -> Result<(), Failure> {
    let (sources, target) = Target::split(context, "concat", &concat.paths, true).await?;
    let options = CopyOptions {
        replace: concat.force,
        parents: concat.parents,
        keep_time: false,
    };
    let entry = context
        .client
        .copy(&sources, &target.path, options)
        .await
        .map_err(advised)?;
    let files = text::count(sources.len() as u64, "file");
    context.say(&format!(
        "made {} of {files}, {}, by reference",
        text::printable(target.path.as_str()),
        text::size(entry.length)
    ));
    Ok(())
}
