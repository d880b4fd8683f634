//! Files of this machine: names that come from the cluster, times, reading in the background.
//!
//! Invariants: no name from the cluster leads out of the directory the user named; nothing is written through a symbolic
//! link below it, whoever made that.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use gabion_client::terminal::Failure;
use gabion_protocol::ErrorCode;
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::path::check_name;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, renameat, utimensat};
use tokio::sync::mpsc;

/// Buffers read ahead of the network: enough to hide a disk's hiccup, 4 MiB per file.
const READ_AHEAD: usize = 4;

/// `name`, which came from the cluster, below the local directory `directory`.
pub(crate) fn below(directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    if name.is_empty() || name.contains('/') || check_name(name).is_err() {
        return Err(Failure::code(
            ErrorCode::InvalidPath,
            format!(
                "the cluster sent the name {name:?}, which could lead out of {}",
                directory.display()
            ),
            "rename it on the cluster, or fetch it alone under a name of your choice",
        ));
    }
    Ok(directory.join(name))
}

/// Makes the directory `path`, taking an existing one as it is. A symbolic link is not taken: what is fetched
/// through it would end up outside of the target.
pub(crate) fn make_directory(path: &Path) -> Result<(), Failure> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_link(path),
        Err(error) => Err(Failure::local("make the directory", path.display(), &error)),
    }
}

fn refuse_link(path: &Path) -> Result<(), Failure> {
    let found = std::fs::symlink_metadata(path).map_err(|error| Failure::local("look at", path.display(), &error))?;
    if found.is_dir() {
        return Ok(());
    }
    let what = if found.is_symlink() {
        "a symbolic link, and what is fetched through it would leave the target"
    } else {
        "not a directory"
    };
    Err(Failure::code(
        ErrorCode::NotDirectory,
        format!("cannot fetch into {}: it is {what}", path.display()),
        "move it away, or choose another target",
    ))
}

/// Refuses to write `path` if a symbolic link, or a file, is on the way to it from `root`. The root itself, and what is
/// above it, the user has named.
pub(crate) fn refuse_links_between(root: &Path, path: &Path) -> Result<(), Failure> {
    let Ok(inside) = path.strip_prefix(root) else {
        return Ok(());
    };
    let mut at = root.to_owned();
    let mut parts = inside.components().peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        if parts.peek().is_some() {
            refuse_link(&at)?;
        }
    }
    Ok(())
}

/// Makes the symbolic link `path`; an existing file or link gives way if it may, a directory never. One that stands for
/// the same is fine.
pub(crate) fn make_link(path: &Path, target: &str, replace: bool) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::local("make the link", path.display(), &error);
    match std::os::unix::fs::symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(cannot),
    }
    let found = std::fs::symlink_metadata(path).map_err(cannot)?;
    if found.is_symlink() && std::fs::read_link(path).is_ok_and(|there| there == Path::new(target)) {
        return Ok(());
    }
    if found.is_dir() {
        return Err(Failure::code(
            ErrorCode::IsDirectory,
            format!("cannot make the link {}: a directory is there", path.display()),
            "move it away, or choose another target",
        ));
    }
    if !replace {
        return Err(exists(path));
    }
    // Beside it, then in its place: at no moment is nothing there.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".gabion-link-{}", std::process::id()));
    let beside = path.with_file_name(name);
    std::os::unix::fs::symlink(target, &beside).map_err(cannot)?;
    renameat(CWD, &beside, CWD, path).map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        cannot(error.into())
    })
}

/// What a local link stands for, if that is text.
pub(crate) fn link_target(path: &Path) -> Result<String, Failure> {
    let target = std::fs::read_link(path).map_err(|error| Failure::local("read", path.display(), &error))?;
    target.into_os_string().into_string().map_err(|target| {
        Failure::code(
            ErrorCode::InvalidPath,
            format!(
                "the link {} cannot be on the cluster: its target {target:?} is not UTF-8",
                path.display()
            ),
            "make it anew, after what it stands for was renamed",
        )
    })
}

/// The refusal to replace `target`.
pub(crate) fn exists(target: &Path) -> Failure {
    Failure::code(
        ErrorCode::Exists,
        format!("cannot write {}: it exists", target.display()),
        "replace it with --force, or choose another name",
    )
}

/// Gives a fetched file the modification time it has on the cluster.
pub(crate) fn set_modified(path: &Path, millis: i64) {
    let modified = Timespec {
        tv_sec: millis.div_euclid(1000),
        tv_nsec: millis.rem_euclid(1000) * 1_000_000,
    };
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: modified,
    };
    // A file system that keeps no such time is no reason to fail: the bytes are what was asked for.
    let _ = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

/// Milliseconds since 1970 of a file's modification time, if its file system keeps one.
pub(crate) fn modified_ms(metadata: &std::fs::Metadata) -> Option<i64> {
    let modified = metadata.modified().ok()?;
    match modified.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).ok(),
        Err(before) => i64::try_from(before.duration().as_millis()).ok().map(|millis| -millis),
    }
}

/// Permission bits of a local file, as far as the cluster keeps them.
pub(crate) fn mode_of(found: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    found.permissions().mode() & 0o777
}

/// Reads `file` to its end on a thread of its own, a few buffers ahead. Dropping the receiver ends it.
pub(crate) fn read_ahead(mut file: File) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            match read_buffer(&mut file) {
                Ok(bytes) if bytes.is_empty() => return,
                result => {
                    let failed = result.is_err();
                    if sender.blocking_send(result).is_err() || failed {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// The next bytes of `file`: a whole packet unless the file ends or is a pipe that has no more just now and has
/// brought something already. Empty at the end.
fn read_buffer(file: &mut File) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(PACKET_BYTES);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_name_leaves_the_target(name in prop_oneof![any::<String>(), "[./\0a]{0,6}"]) {
            let target = Path::new("/target");
            if let Ok(path) = below(target, &name) {
                let inside: Vec<_> = path.strip_prefix(target).unwrap().components().collect();
                prop_assert_eq!(inside, vec![Component::Normal(name.as_ref())]);
            }
        }
    }

    #[test]
    fn treacherous_names_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0"] {
            assert_eq!(below(Path::new("t"), name).unwrap_err().exit_code(), 2, "{name:?}");
        }
    }

    #[test]
    fn times_are_kept_to_the_millisecond() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for millis in [1_500, 0, -1, 1_700_000_000_123] {
            set_modified(file.path(), millis);
            assert_eq!(modified_ms(&file.path().metadata().unwrap()), Some(millis));
        }
    }

    #[test]
    fn links_inside_the_target_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert_eq!(make_directory(&link).unwrap_err().exit_code(), 4);
        let plain = directory.path().join("plain");
        make_directory(&plain).unwrap();
        make_directory(&plain).unwrap();
    }

    #[test]
    fn nothing_is_written_through_a_link_on_the_way() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        make_directory(&at("d")).unwrap();
        make_link(&at("d/l"), outside.path().to_str().unwrap(), false).unwrap();
        refuse_links_between(root.path(), &at("d/f")).unwrap();
        // At the end it is replaced, not followed.
        refuse_links_between(root.path(), &at("d/l")).unwrap();
        for through in ["d/l/f", "d/l/x/f"] {
            assert_eq!(
                refuse_links_between(root.path(), &at(through)).unwrap_err().exit_code(),
                4
            );
        }
        // What the user named may be one.
        refuse_links_between(&at("d/l"), &at("d/l/f")).unwrap();
    }

    #[test]
    fn links_replace_files_and_links_only() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        make_link(&at("l"), "one", false).unwrap();
        make_link(&at("l"), "one", false).unwrap();
        assert_eq!(make_link(&at("l"), "two", false).unwrap_err().exit_code(), 4);
        make_link(&at("l"), "two", true).unwrap();
        assert_eq!(link_target(&at("l")).unwrap(), "two");
        std::fs::write(at("f"), "1").unwrap();
        make_link(&at("f"), "nowhere", true).unwrap();
        assert_eq!(link_target(&at("f")).unwrap(), "nowhere");
        make_directory(&at("d")).unwrap();
        assert_eq!(make_link(&at("d"), "x", true).unwrap_err().exit_code(), 4);
        assert_eq!(
            std::fs::read_dir(root.path()).unwrap().count(),
            3,
            "nothing is left beside"
        );
    }

    #[tokio::test]
    async fn reading_ahead_brings_every_byte_in_order() {
        use std::io::{Seek as _, Write as _};
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..PACKET_BYTES * 2 + 77).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        let mut receiver = read_ahead(file);
        let mut read = Vec::new();
        while let Some(part) = receiver.recv().await {
            read.extend_from_slice(&part.unwrap());
        }
        assert!(read == bytes);
    }
}
