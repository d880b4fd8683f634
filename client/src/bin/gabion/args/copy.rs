//! The arguments of `gabion cp` and `gabion concat`.

use clap::Args;

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion cp [OPTIONS] <SRC>... <DST>",
    after_help = "\
SRC and DST are on the cluster. If DST is a directory, it takes each SRC under its own name. A copy shares the chunks of
the original and takes no space; later changes to one do not show in the other. Of a link, what it leads to is copied, but
for -P and -r.

The copy of a directory is what the directory held at one moment, whoever writes meanwhile. It appears whole, in one step,
where nothing was before; interrupted, it leaves nothing. Until it is done the original cannot be removed."
)]
pub(crate) struct Copy {
    /// What to copy; last, where to
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<String>,
    /// Copy directories with all they hold
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace a file that exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep modification times
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Copy links as links
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
    /// Make missing directories above DST
    #[arg(long)]
    pub(crate) parents: bool,
    /// Take DST as the new name, also if it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "gabion concat [OPTIONS] <SRC>... <DST>",
    after_help = "\
All on the cluster, and files. DST appears whole, in one step, and may be one of SRC with --force: the old file is then
replaced by the longer one. The files must have the same number of copies."
)]
pub(crate) struct Concat {
    /// What to put one after the other; last, the file to make
    #[arg(value_name = "PATH", num_args = 2.., required = true, hide = true)]
    pub(crate) paths: Vec<String>,
    /// Replace a file that exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Make missing directories above DST
    #[arg(long)]
    pub(crate) parents: bool,
}
