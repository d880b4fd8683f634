//! The arguments of the verbs that move files between this machine and the cluster, or compare them.

use std::path::PathBuf;

use clap::Args;
use gabion_protocol::FsPath;
use gabion_protocol::config::Size;
use gabion_protocol::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, REPLICAS_MAX};

use super::{Printing, remote_path};

/// What becomes of symbolic links, and of what is told of files.
#[derive(Debug, Args)]
pub(crate) struct Keeping {
    /// Take what links lead to in their place, instead of links as links
    #[arg(short = 'L', long)]
    pub(crate) dereference: bool,
    /// Keep mode, owner, group, times and the extended attributes of users, also of directories; what cannot be kept is
    /// told, and exits 8
    #[arg(long)]
    pub(crate) preserve: bool,
}

/// How many files are on their way.
#[derive(Debug, Args)]
pub(crate) struct Parallel {
    /// Files at the same time [default: 64 of up to 128 KiB, 8 larger ones]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: Option<u8>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion upload [OPTIONS] <SRC>... <DST>",
    after_help = "\
SRC is a local file or, with -r, a directory; - is standard input. DST is on the cluster, for example /a/b.
If DST is a directory or ends in /, it takes each SRC under its own name. DIR/. stands for what DIR holds.
A file appears whole or not at all. Where a link is at DST, --force replaces what it leads to. Links in a tree are stored as
links, after all else; one that is named itself is followed."
)]
pub(crate) struct Upload {
    /// Local files, or - for standard input; last, the remote target
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Store directories with all they hold; devices and pipes inside are skipped with a note
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace files that exist
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Make missing directories above the target
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Copies of each chunk [default: the cluster's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(REPLICAS_MAX)))]
    pub(crate) replicas: Option<u8>,
    /// Size of a chunk, for example 64MiB [default: the cluster's]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size)]
    pub(crate) chunk_size: Option<Size>,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
    /// Go on where an earlier upload of the same files with the same key was interrupted: what is stored already is not
    /// sent again, but compared by checksum. What is stored of a file is kept for a day. Not for pipes
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show what would be stored, and store nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

// Not of an upload, where -p has always been --parents.
#[derive(Debug, Args)]
#[command(
    mut_arg("preserve", |preserve| preserve.short('p')),
    override_usage = "gabion download [OPTIONS] <SRC>... <DST>",
    after_help = "\
SRC is on the cluster: a file or, with -r, a directory. DST is local; - is standard output.
If DST is a directory or ends in /, it takes each SRC under its own name. DIR/. stands for what DIR holds.
A file appears under its name when all its bytes are there and verified. Links in a tree come as links, after all else, and
nothing is written through a link below DST, whoever made it."
)]
pub(crate) struct Download {
    /// Remote files; last, the local target, or - for standard output
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Fetch directories with all they hold
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace local files that exist
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Sync each file to the local disk before it appears under its name
    #[arg(long)]
    pub(crate) sync: bool,
    /// Go on where an earlier download of the same files was interrupted: what is here already is read and compared,
    /// not fetched again. What fails is kept for the next time
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
    /// Show what would be fetched, and fetch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(mut_arg("preserve", |preserve| preserve.short('p')))]
#[command(after_help = "\
SRC and DST are directories; the one on the cluster is written gabion:/path. DST becomes like SRC: what SRC holds is in
DST afterwards, not in a directory SRC below it. Files are equal if size and checksum are: the local one is read, of the
one on the cluster the masters hold the checksum. What replaces a file on the cluster keeps no older version.

With --delete, what only DST has is removed: on the cluster into the trash, locally for good. Nothing is removed if
anything could not be listed, compared or moved before. Symbolic links are made like those of SRC; devices and pipes are
left alone.")]
pub(crate) struct Sync {
    /// What to make the other like: a local directory, or gabion:/path
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// What is made like it: gabion:/path, or a local directory
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// Remove what only DST has
    #[arg(long)]
    pub(crate) delete: bool,
    /// Remove with --delete also if SRC is empty, and all of DST would go
    #[arg(short, long, requires = "delete")]
    pub(crate) force: bool,
    /// Take files of equal size and modification time as equal, without reading them
    #[arg(long)]
    pub(crate) quick: bool,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Local files are read; of those on the cluster the masters hold size and checksum. Only a file whose checksum nobody knows,
as after an overwrite, is fetched. Links are equal if they stand for the same. To compare byte by byte: gabion-verify tree.

Exit codes: 0 no difference, 8 differences, or some file could not be compared.")]
pub(crate) struct Check {
    /// A local file or directory
    #[arg(value_name = "LOCAL")]
    pub(crate) local: PathBuf,
    /// A file or directory on the cluster
    #[arg(value_name = "REMOTE", value_parser = remote_path)]
    pub(crate) remote: FsPath,
    /// Compare what links lead to, instead of what they stand for
    #[arg(short = 'L', long)]
    pub(crate) dereference: bool,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

fn chunk_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    let (least, most) = (Size(CHUNK_BYTES_MIN), Size(CHUNK_BYTES_MAX));
    if !(least..=most).contains(&size) {
        return Err(format!("a chunk has {least} to {most}"));
    }
    Ok(size)
}
