//! Small disks of a test's own, to be filled up. Needs root and mkfs.ext4.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::skip::missing;

/// An ext4 file system of a given size, mounted. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    // Last: the image goes after the unmount.
    _dir: TempDir,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

impl SmallDisk {
    /// A disk of `bytes`, or why this machine cannot have one.
    ///
    /// # Errors
    /// The reason, for [`crate::skip::skip`].
    pub fn new(bytes: u64) -> Result<Self, String> {
        if let Some(why) = missing(&["mkfs.ext4", "mount", "umount", "losetup"]) {
            return Err(why);
        }
        let dir = tempfile::Builder::new()
            .prefix("gabion-disk-")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        let file = OpenOptions::new().create_new(true).write(true).open(&image);
        file.and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let (image, shown) = (image.display().to_string(), mount.display().to_string());
        // No blocks for root: root fills the disk too.
        run("mkfs.ext4", &["-q", "-m", "0", &image])?;
        run("mount", &["-o", "loop", &image, &shown])?;
        Ok(Self { mount, _dir: dir })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Fills it to the last byte with a file that [`Self::relieve`] removes.
    ///
    /// # Panics
    /// If it cannot be filled.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("the filler can be made");
        let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        for piece in [vec![0; 1 << 20], vec![0; 4096]] {
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if full(&error) => break,
                    Err(error) => panic!("cannot fill the disk: {error}"),
                }
            }
        }
        // Delayed allocation: only a sync tells whether the bytes have a place. That it fails is the aim.
        let _ = file.sync_all();
    }

    /// Gives back so much of what [`Self::fill`] took.
    ///
    /// # Panics
    /// If it had not taken as much.
    pub fn spare(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(self.filler());
        let file = file.expect("the disk was filled");
        let len = file.metadata().expect("it can be looked at").len();
        file.set_len(len.checked_sub(bytes).expect("so much was taken"))
            .expect("the filler can be cut");
    }

    /// Makes room again.
    ///
    /// # Panics
    /// If the filler cannot be removed.
    pub fn relieve(&self) {
        std::fs::remove_file(self.filler()).expect("the filler can be removed");
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mount = self.mount.display().to_string();
        // Lazily, if a process of a failed test still holds it.
        let _ = run("umount", &[&mount]).or_else(|_| run("umount", &["-l", &mount]));
    }
}
