//! Small disks of a test's own, to be filled up, or to lose their power. Needs root and mkfs.ext4.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::skip::missing;

/// `EXT4_IOC_SHUTDOWN` without writing the journal out.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// An ext4 file system of a given size, mounted. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    image: PathBuf,
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
        // No blocks for root: root fills the disk too.
        run("mkfs.ext4", &["-q", "-m", "0", &image.display().to_string()])?;
        let disk = Self {
            image,
            mount,
            _dir: dir,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        let (image, mount) = (self.image.display().to_string(), self.mount.display().to_string());
        run("mount", &["-o", "loop", &image, &mount])
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

    /// Why no power can be cut here, if so.
    #[must_use]
    pub fn cannot_cut_power() -> Option<String> {
        missing(&["python3"])
    }

    /// Cuts its power: what was not synced is gone, and nothing more can be read or written until [`Self::remount`].
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn cut_power(&self) {
        let mount = self.mount.display().to_string();
        run("python3", &["-c", SHUTDOWN, &mount]).expect("the file system can be shut down");
    }

    /// Brings it back as the power cut left it. No process may hold it open.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn remount(&self) {
        run("umount", &[&self.mount.display().to_string()]).expect("nobody holds it");
        self.mount().expect("the file system comes back");
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
