//! The command line: every verb, option and default, and the help a newcomer reads.
//!
//! Which argument is on the cluster follows from the verb, never from what exists where: `upload` takes local
//! sources and a remote target last, `download` takes remote sources and a local target last, everything else takes
//! remote paths. Remote paths are absolute; `gabion:/path` says the same.

mod admin;
mod attributes;
pub(crate) mod balance;
mod change;
mod chunk;
mod copy;
mod disk;
mod find;
pub(crate) mod inventory;
mod links;
mod quota;
mod server;
mod snapshot;
mod transfer;
mod trash;
mod usage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use gabion_client::terminal::Format;
use gabion_protocol::FsPath;
use gabion_protocol::config::Span;

pub(crate) use admin::{
    Admin, Raft, RaftAdd, RaftRemove, RaftStatus, Scrub, ScrubStart, ScrubStatus, Status, TransferLeader,
};
pub(crate) use attributes::{ChangeMode, ChangeOwner, ExtendedAttributes, Ownership, Touch};
pub(crate) use change::{Append, Head, SetReplicas, Tail, Truncate};
pub(crate) use chunk::{Chunk, ChunkList, ChunkRepair, ChunkShow};
pub(crate) use copy::{Concat, Copy};
pub(crate) use disk::{Disk, DiskDrain, DiskList};
pub(crate) use find::{Find, Sort, Tree, with_two_dashes};
pub(crate) use links::{MakeLinks, ReadLinks};
pub(crate) use quota::{Quota, QuotaClear, QuotaGet, QuotaSet};
pub(crate) use server::{Server, ServerDrain, ServerList, ServerMaintenance, ServerRemove, ServerShow};
pub(crate) use snapshot::{
    Snapshot, SnapshotCreate, SnapshotDiff, SnapshotList, SnapshotRemove, SnapshotRestore, SnapshotState,
};
pub(crate) use transfer::{Check, Download, Sync, Upload};
pub(crate) use trash::{Trash, TrashEmpty, TrashList, TrashRestore};
pub(crate) use usage::{Space, Usage};

const AFTER_HELP: &str = "\
Examples:
  gabion upload report.pdf /reports/          store a file in a directory
  gabion upload -r photos /                   store a tree as /photos
  tar c data | gabion upload - /backup.tar    store what a pipe brings
  gabion list -l /reports                     show what is there
  gabion download -r /photos .                fetch a tree into this directory
  gabion download /backup.tar - | tar x       fetch into a pipe

Remote paths may be patterns, where a path is to be read or removed: gabion rm '/logs/*.old' (quoted, or the local shell
takes them for its own).

Settings, first found wins: option, environment, ~/.config/gabion/config.toml, /etc/gabion/client.toml.

Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 exists or precondition failed, 5 unavailable for now,
6 not authorised, 7 data damaged, 8 partial or degraded, 9 no space or quota, 130 interrupted.";

/// Stores, lists and returns files in a Gabion cluster.
#[derive(Debug, Parser)]
#[command(name = "gabion", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How to reach the cluster, and how much to say. The variables are read with the configuration's files, where an
/// empty one counts as unset.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Connection {
    /// Client addresses of masters; one that is up will do [env: GABION_MASTERS]
    #[arg(long, global = true, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub(crate) masters: Vec<String>,
    /// File that holds this user's key [env: GABION_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// How long to try while the cluster is unavailable [env: GABION_WAIT] [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) wait: Option<Span>,
    /// Say nothing but errors: no progress, no summary
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log on standard error (RUST_LOG chooses what)
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// How data is printed.
#[derive(Debug, Args)]
pub(crate) struct Printing {
    /// table, json or jsonl (a JSON document per line)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Store local files in the cluster
    #[command(visible_alias = "put")]
    Upload(Upload),
    /// Fetch files from the cluster, verified against the checksums its masters hold
    #[command(visible_alias = "get")]
    Download(Download),
    /// Make one tree like another, local or on the cluster, moving only what differs
    Sync(Sync),
    /// Compare local files with those on the cluster, by size and checksum, without fetching them
    Check(Check),
    /// Show what directories hold
    #[command(visible_alias = "ls")]
    List(List),
    /// Make directories
    Mkdir(Mkdir),
    /// Show all that is known of files and directories
    Stat(Stat),
    /// Move or rename files and directories
    Mv(Move),
    /// Copy files, and directories with -r, by reference: at once, and taking no space until something changes
    Cp(Copy),
    /// Make one file of others by reference, one after the other
    Concat(Concat),
    /// Make symbolic links: names that stand for a path
    Ln(MakeLinks),
    /// Show what symbolic links stand for
    Readlink(ReadLinks),
    /// Move files, and directories with -r, to the trash
    Rm(Remove),
    /// Look at what was removed, restore it, or remove it for good
    #[command(subcommand)]
    Trash(Trash),
    /// Keep what a directory holds now, look at it later, and see what has changed
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Limit how much a directory may hold, and see how much of that is used
    #[command(subcommand)]
    Quota(Quota),
    /// Change permission bits
    Chmod(ChangeMode),
    /// Change owner and group
    Chown(ChangeOwner),
    /// Show and change extended attributes
    #[command(subcommand)]
    Xattr(ExtendedAttributes),
    /// Change the modification time of files, or make empty ones
    Touch(Touch),
    /// Find files, directories and links by name, kind, size and age
    Find(Find),
    /// Show a directory and all below it as a tree
    Tree(Tree),
    /// Show what files and directories hold, at once however much it is
    Du(Usage),
    /// Show how much space there is
    Df(Space),
    /// Write files to standard output
    Cat(Cat),
    /// Write the beginning of files to standard output
    Head(Head),
    /// Write the end of a file to standard output, and with -f what comes to it
    Tail(Tail),
    /// Put local files, or what a pipe brings, at the end of a file
    Append(Append),
    /// Make files shorter or longer
    Truncate(Truncate),
    /// Set how many copies files shall have
    Setrep(SetReplicas),
    /// Show the checksums of files as the masters hold them
    Checksum(Checksum),
    /// Show the chunks of a file and where their copies are
    Chunks(Chunks),
    /// Look at and change the cluster itself
    #[command(subcommand)]
    Admin(Admin),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Files and directories; of a link to a directory, what that holds, but with -l or -d the link itself unless PATH
    /// ends in /
    #[arg(value_name = "PATH", default_value = "/", value_parser = slashed_path)]
    pub(crate) paths: Vec<Slashed>,
    /// Show also mode, chunks, chunk size and checksum
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Show what directories hold at every depth (also -R)
    #[arg(short, long, visible_short_alias = 'R')]
    pub(crate) recursive: bool,
    /// Newest first
    #[arg(short = 't', long, conflicts_with = "by_size")]
    pub(crate) by_time: bool,
    /// Largest first
    #[arg(short = 'S', long)]
    pub(crate) by_size: bool,
    /// The other way round
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Show directories themselves, not what they hold
    #[arg(short, long, conflicts_with = "recursive")]
    pub(crate) directory: bool,
    /// Names only, one per line
    #[arg(short = '1', long, conflicts_with = "long")]
    pub(crate) names: bool,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Mkdir {
    /// Directories to make
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Make missing directories above too, and take existing ones as they are
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Permission bits
    #[arg(short, long, value_name = "OCTAL", default_value = "755", value_parser = octal)]
    pub(crate) mode: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// Files and directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Of symbolic links, show what they lead to
    #[arg(short = 'L', long)]
    pub(crate) dereference: bool,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion mv [OPTIONS] <SRC>... <DST>",
    after_help = "\
SRC and DST are on the cluster. If DST is a directory, it takes each SRC under its own name."
)]
pub(crate) struct Move {
    /// What to move; last, where to
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<String>,
    /// Replace a file that exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Leave what exists as it is, and do not call that a failure
    #[arg(short, long, conflicts_with = "force")]
    pub(crate) no_clobber: bool,
    /// Take DST as the new name, also if it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is removed stays in the trash for a while: `gabion trash list` shows it, `gabion trash restore PATH` puts it back,
a tree of any size in one step. It takes space until it goes; --now removes at once and for good.")]
pub(crate) struct Remove {
    /// Files and directories
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Remove directories with all they hold
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Take what does not exist as removed
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove for good, past the trash
    #[arg(long)]
    pub(crate) now: bool,
    /// Show what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// Files
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
}

#[derive(Debug, Args)]
pub(crate) struct Checksum {
    /// Files
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Read every byte and compare it too, not only show what the masters hold
    #[arg(long)]
    pub(crate) deep: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Chunks {
    /// Files
    #[arg(value_name = "PATH", required = true, value_parser = remote_path)]
    pub(crate) paths: Vec<FsPath>,
    /// Sizes in exact bytes
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// A path that may end in a slash, which says that what it leads to is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slashed {
    pub(crate) path: FsPath,
    pub(crate) slash: bool,
}

fn slashed_path(text: &str) -> Result<Slashed, String> {
    let path = remote_path(text)?;
    Ok(Slashed {
        slash: text.ends_with('/') && !path.is_root(),
        path,
    })
}

/// A path on the cluster, `/a/b` or `gabion:/a/b`.
pub(crate) fn remote_path(text: &str) -> Result<FsPath, String> {
    let path = text.strip_prefix("gabion:").unwrap_or(text);
    FsPath::parse(path).map_err(|error| match error {
        gabion_protocol::path::PathError::Relative => {
            format!("{error}: remote paths are absolute, for example /{path}")
        }
        _ => error.to_string(),
    })
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "expected permission bits in octal, for example 755".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use gabion_protocol::config::Size;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn uploads_take_what_cp_takes() {
        let Verb::Upload(upload) = parse("gabion put -rf -j 4 --replicas 2 --chunk-size 1MiB a - b gabion:/c/")
            .unwrap()
            .verb
        else {
            panic!("not an upload");
        };
        assert_eq!(upload.paths.len(), 4);
        assert!(upload.recursive && upload.force && !upload.dry_run);
        assert_eq!(
            (upload.parallel.jobs, upload.replicas, upload.chunk_size),
            (Some(4), Some(2), Some(Size(1 << 20)))
        );
    }

    /// As for `cp`; but -p of an upload, as of `mkdir`, makes directories.
    #[test]
    fn p_keeps_what_is_told_of_files_but_in_uploads() {
        let download = parse("gabion download -rp /a .").unwrap().verb;
        assert!(matches!(download, Verb::Download(download) if download.keeping.preserve));
        let sync = parse("gabion sync -p gabion:/a .").unwrap().verb;
        assert!(matches!(sync, Verb::Sync(sync) if sync.keeping.preserve));
        let upload = parse("gabion upload -rp a /a").unwrap().verb;
        assert!(matches!(upload, Verb::Upload(upload) if upload.parents && !upload.keeping.preserve));
    }

    #[test]
    fn familiar_words_and_letters_work() {
        for line in [
            "gabion get -n /a /b .",
            "gabion download --sync /a -",
            "gabion download -r --resume /a .",
            "gabion download -rp /a .",
            "gabion sync -p gabion:/a .",
            "gabion sync -n --delete --force --quick -j 4 -o jsonl photos gabion:/photos",
            "gabion check -j 4 -o json photos /photos",
            "gabion ls",
            "gabion list -lRt /",
            "gabion list -r -S --reverse --bytes -o json /a /b",
            "gabion ls -1",
            "gabion ls -d /a",
            "gabion mkdir -p -m 700 /a/b",
            "gabion stat -o jsonl /a",
            "gabion mv -f /a /b",
            "gabion mv -n /a /b",
            "gabion rm -rf /a",
            "gabion rm -r --now /a",
            "gabion find /a /b --name x --type f --size +1M --mtime -3 --maxdepth 2 -o jsonl",
            "gabion find / --size -4k -0",
            "gabion tree -L 2 -d /a",
            "gabion chmod -R 640 /a",
            "gabion chown -R ann:staff /a /b",
            "gabion xattr list -o json /a",
            "gabion xattr get /a user.x",
            "gabion xattr set /a user.x 1",
            "gabion xattr set /a user.x",
            "gabion xattr rm /a user.x",
            "gabion touch -m -c -d 2026-11-22T13:04:06Z /a",
            "gabion trash list -l -o json",
            "gabion trash ls",
            "gabion trash restore 12 /a --to /b",
            "gabion trash empty",
            "gabion trash empty -f 12 13",
            "gabion trash empty --yes",
            "gabion cat gabion:/a",
            "gabion cp -rpf /a /b /c/",
            "gabion quota set /a --bytes 10GiB --entries 1000",
            "gabion quota get /a --bytes -o json",
            "gabion quota get",
            "gabion quota clear /a /b",
            "gabion checksum --deep /a",
            "gabion chunks /a",
            "gabion admin status --watch",
            "gabion admin status --watch 1s -o jsonl",
            "gabion admin chunk list --state under -o jsonl",
            "gabion admin chunk show 0-1-7 -o json",
            "gabion admin chunk repair 0-1-7 --apply",
            "gabion admin disk list --server c1 --bytes",
            "gabion admin raft status",
            "gabion admin raft add 4 --raft h:1 --client h:2 --replaces 2 --apply",
            "gabion admin raft remove 2",
            "gabion admin raft transfer-leader --to 3",
            "gabion admin raft snapshot --wait 5m",
            "gabion admin scrub start",
            "gabion admin scrub start /a",
            "gabion admin scrub start --server c1 --server 2",
            "gabion admin scrub status -o json",
            "gabion --masters a:1,b:2 --key-file k --wait 500ms list /",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (line, said) in [
            ("gabion", "Usage"),
            ("gabion upload a", "values"),
            ("gabion list a", "remote paths are absolute, for example /a"),
            ("gabion list /a/../b", "no . or .."),
            ("gabion list -tS", "cannot be used with"),
            ("gabion list -o yaml", "expected table, json or jsonl"),
            ("gabion upload --chunk-size 1KiB a /b", "a chunk has 1MiB to 256MiB"),
            ("gabion upload --chunk-size 5 a /b", "a chunk has"),
            ("gabion upload --replicas 0 a /b", "1..=10"),
            ("gabion upload -j 0 a /b", "1..=64"),
            ("gabion mkdir -m 999 /a", "octal"),
            ("gabion chmod u+x /a", "octal"),
            ("gabion touch -d tomorrow /a", "a time such as"),
            ("gabion list --wait never", "span of time"),
            ("gabion cat", "required"),
            ("gabion quota set /a", "required"),
            ("gabion quota set /a --bytes much", "invalid value"),
            (
                "gabion admin chunk list --state bad",
                "expected under, damaged or missing",
            ),
            ("gabion admin scrub start /a --server 1", "cannot be used with"),
            ("gabion admin chunk show x", "invalid value"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn remote_paths_have_two_spellings() {
        assert_eq!(remote_path("gabion:/a//b/").unwrap().as_str(), "/a/b");
        assert_eq!(remote_path("/").unwrap(), FsPath::root());
        assert!(remote_path("gabion:a").is_err());
    }
}
