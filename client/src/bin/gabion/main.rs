//! The command `gabion`: stores, lists and returns files of a Gabion cluster.
//!
//! Standard output is data and nothing else; progress, notes and errors go to standard error. Each verb is a module
//! with one `run`; what they share is in [`context`]. The exit codes are one table for all of Gabion's binaries,
//! [`gabion_protocol::ErrorCode::exit_code`].
//!
//! Start reading at [`args`].

mod admin;
mod args;
mod attributes;
mod below;
mod change;
mod check;
mod compare;
mod content;
mod context;
mod copy;
mod download;
mod download_plan;
mod find;
mod glob;
mod head;
mod jobs;
mod links;
mod list;
mod local;
mod names;
mod preserve;
mod quota;
mod records;
mod snapshot;
mod sync;
mod sync_plan;
mod tail;
mod trash;
mod upload;
mod upload_plan;
mod usage;
mod xattr;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use gabion_client::terminal::Failure;
use gabion_protocol::process;
use tokio_util::sync::CancellationToken;

use args::{Arguments, Quota, Snapshot, Trash, Verb};
use context::Context;

/// How long a stopped command may take to clear up after itself.
const GRACE: Duration = Duration::from_secs(3);
/// How long the end of the process waits for a thread that still reads a file.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(args::with_two_dashes(std::env::args_os()));
    if arguments.connection.verbose {
        process::init_logging();
    }
    let ended = runtime(&arguments.verb)
        .map_err(|error| Failure::local("start", "the runtime", &error))
        .and_then(|runtime| {
            let ended = runtime.block_on(run_until_stopped(arguments));
            // Dropping it would wait for a read of standard input that may never come.
            runtime.shutdown_timeout(LINGER);
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(report) = failure.report() {
                eprintln!("{report}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// One thread for a question and its answer; as many as serve best where bytes are moved.
fn runtime(verb: &Verb) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match verb {
        Verb::Upload(_)
        | Verb::Download(_)
        | Verb::Sync(_)
        | Verb::Check(_)
        | Verb::Append(_)
        | Verb::Cat(_)
        | Verb::Checksum(_) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(process::byte_threads());
            builder
        }
        Verb::List(_)
        | Verb::Mkdir(_)
        | Verb::Stat(_)
        | Verb::Mv(_)
        | Verb::Cp(_)
        | Verb::Concat(_)
        | Verb::Ln(_)
        | Verb::Readlink(_)
        | Verb::Rm(_)
        | Verb::Trash(_)
        | Verb::Snapshot(_)
        | Verb::Quota(_)
        | Verb::Du(_)
        | Verb::Chmod(_)
        | Verb::Chown(_)
        | Verb::Xattr(_)
        | Verb::Touch(_)
        | Verb::Find(_)
        | Verb::Tree(_)
        | Verb::Df(_)
        | Verb::Head(_)
        | Verb::Tail(_)
        | Verb::Truncate(_)
        | Verb::Setrep(_)
        | Verb::Chunks(_)
        | Verb::Admin(_) => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

/// Runs the command; when the user stops it, lets it clear up.
async fn run_until_stopped(arguments: Arguments) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let mut work = Box::pin(run(arguments, stop.clone()));
    tokio::select! {
        ended = &mut work => return ended,
        asked = process::stop_requested() => {
            asked.map_err(|error| Failure::local("watch for", "signals", &error))?;
        }
    }
    stop.cancel();
    // A command that was done when the signal came is done; of any other, the user knows that he stopped it.
    match tokio::time::timeout(GRACE, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) if failure.is_interrupt() => Err(failure),
        Ok(Err(_)) | Err(_) => Err(Failure::interrupted()),
    }
}

async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), Failure> {
    let context = Context::connect(&arguments.connection, stop).await?;
    match arguments.verb {
        Verb::Upload(upload) => upload::run(&context, upload).await,
        Verb::Download(download) => download::run(&context, download).await,
        Verb::Sync(sync) => sync::run(&context, sync).await,
        Verb::Check(check) => check::run(&context, check).await,
        Verb::List(list) => list::run(&context, list).await,
        Verb::Mkdir(mkdir) => names::make_directories(&context, mkdir).await,
        Verb::Stat(stat) => names::stat(&context, stat).await,
        Verb::Mv(moves) => names::move_all(&context, moves).await,
        Verb::Cp(copy) => copy::copy_all(&context, copy).await,
        Verb::Concat(concat) => copy::concat(&context, concat).await,
        Verb::Ln(make) => links::make(&context, make).await,
        Verb::Readlink(read) => links::read(&context, read).await,
        Verb::Rm(remove) => names::remove(&context, remove).await,
        Verb::Trash(Trash::List(list)) => trash::list(&context, list).await,
        Verb::Trash(Trash::Restore(restore)) => trash::restore(&context, restore).await,
        Verb::Trash(Trash::Empty(empty)) => trash::empty(&context, empty).await,
        Verb::Snapshot(Snapshot::Create(create)) => snapshot::create(&context, create).await,
        Verb::Snapshot(Snapshot::List(list)) => snapshot::list(&context, list).await,
        Verb::Snapshot(Snapshot::Diff(diff)) => snapshot::diff(&context, diff).await,
        Verb::Snapshot(Snapshot::Restore(restore)) => snapshot::restore(&context, restore).await,
        Verb::Snapshot(Snapshot::Rm(remove)) => snapshot::remove(&context, remove).await,
        Verb::Quota(Quota::Set(set)) => quota::set(&context, set).await,
        Verb::Quota(Quota::Get(get)) => quota::get(&context, get).await,
        Verb::Quota(Quota::Clear(clear)) => quota::clear(&context, clear).await,
        Verb::Chmod(change) => attributes::change_mode(&context, change).await,
        Verb::Chown(change) => attributes::change_owner(&context, change).await,
        Verb::Xattr(extended) => xattr::run(&context, extended).await,
        Verb::Touch(touch) => attributes::touch(&context, touch).await,
        Verb::Find(find) => find::find(&context, find).await,
        Verb::Tree(tree) => find::tree(&context, tree).await,
        Verb::Du(du) => usage::usage(&context, du).await,
        Verb::Df(df) => usage::space(&context, df).await,
        Verb::Head(head) => head::run(&context, head).await,
        Verb::Tail(tail) => tail::run(&context, tail).await,
        Verb::Append(append) => change::append(&context, append).await,
        Verb::Truncate(truncate) => change::truncate(&context, truncate).await,
        Verb::Setrep(set) => change::set_replicas(&context, set).await,
        Verb::Cat(cat) => content::cat(&context, cat).await,
        Verb::Checksum(checksum) => content::checksum(&context, checksum).await,
        Verb::Chunks(chunks) => content::chunks(&context, chunks).await,
        Verb::Admin(admin) => admin::run(&context, admin).await,
    }
}
