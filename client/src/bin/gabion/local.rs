//! Files of this machine: names that come from the cluster, times, reading in the background.
//!
//! Invariant: no name from the cluster leads out of the directory the user named.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use gabion_client::terminal::Failure;
use gabion_protocol::ErrorCode;
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::path::check_name;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
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
