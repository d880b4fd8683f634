//! What was acknowledged is there after the process is killed, and after the power is cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::*;
use gabion_chunkserver::disk::Store;

/// Not a test of its own: the process that the others kill. It acknowledges on its standard output.
#[test]
#[ignore = "the child that the other tests kill"]
fn child_writes_and_acks() {
    let Some(dir) = std::env::var_os("GABION_TEST_CHILD_DIR") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = options(Path::new(&dir));
        options.direct_io = std::env::var_os("GABION_TEST_CHILD_BUFFERED").is_none();
        let (store, _) = Store::open(&options).unwrap();
        let first: u64 = std::env::var("GABION_TEST_CHILD_FIRST").unwrap().parse().unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for lane in 0..4 {
            let store = store.clone();
            writers.spawn(async move {
                for n in (first + lane..).step_by(4) {
                    let new = new_chunk(n);
                    if n.is_multiple_of(2) {
                        put_small(&store, new, &content(n, 20_000)).await.unwrap();
                    } else {
                        write(&store, new, &content(n, 1_200_000)).await.unwrap();
                    }
                    // One write call per line: a line is there whole or not at all.
                    std::io::stdout().write_all(format!("acked {n}\n").as_bytes()).unwrap();
                }
            });
        }
        writers.join_next().await;
    });
}

fn spawn(dir: &Path, first: u64, direct_io: bool) -> (Child, impl Iterator<Item = u64> + use<>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if !direct_io {
        command.env("GABION_TEST_CHILD_BUFFERED", "1");
    }
    let mut child = command
        .args(["--exact", "crash::child_writes_and_acks", "--ignored", "--nocapture"])
        .env("GABION_TEST_CHILD_DIR", dir)
        .env("GABION_TEST_CHILD_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acked = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split("acked ").nth(1)?.trim().parse().ok());
    (child, acked)
}

/// Everything acked is there, byte for byte, and nothing is half.
async fn check(dir: &Path, acked: &[u64]) {
    let (store, recovered) = Store::open(&options(dir)).unwrap();
    assert_eq!(recovered[0].damaged, [], "a crash leaves open or sealed, never a half");
    for n in acked {
        let len = if n.is_multiple_of(2) { 20_000 } else { 1_200_000 };
        assert_eq!(
            read(&store, new_chunk(*n)).await.unwrap(),
            content(*n, len),
            "chunk {n}"
        );
    }
    store.close().await;
}

#[tokio::test]
async fn kill_9_loses_nothing_acked() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = Vec::new();
    for round in 0..3_u64 {
        let (mut child, acks) = spawn(dir.path(), round * 10_000, true);
        let mut seen = 0;
        for number in acks {
            acked.push(number);
            seen += 1;
            if seen == 20 + round * 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 20, "the child wrote {seen} chunks");
        check(dir.path(), &acked).await;
    }
}

#[tokio::test]
async fn a_power_cut_loses_nothing_acked() {
    let Some(mut disk) = LoopDisk::make() else {
        skip(
            "a_power_cut_loses_nothing_acked",
            "needs root, loop devices, mkfs.ext4 and python3",
        );
        return;
    };
    let mut acked = Vec::new();
    for round in 0..3_u64 {
        let (mut child, acks) = spawn(&disk.mount, round * 10_000, round != 1);
        for number in acks {
            acked.push(number);
            if acked.len() as u64 == 25 * (round + 1) {
                // What the kernel has not written is gone from here on, as in a power cut. Acks that come after this
                // would be lies; the child is killed, so that none are heard.
                disk.cut_power();
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        assert_eq!(acked.len() as u64, 25 * (round + 1));
        disk.remount();
        check(&disk.mount, &acked).await;
    }
}

/// An ext4 in a file, mounted through a loop device.
struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
    #[allow(dead_code, reason = "removed when dropped")]
    dir: tempfile::TempDir,
}

/// `EXT4_IOC_SHUTDOWN` without flushing the journal.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

impl LoopDisk {
    fn make() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Self {
            image: dir.path().join("image"),
            mount: dir.path().join("mount"),
            dir,
        };
        std::fs::create_dir(&disk.mount).unwrap();
        std::fs::File::create(&disk.image).unwrap().set_len(512 << 20).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        let python = succeeds(Command::new("python3").arg("--version"));
        (made && python && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        succeeds(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&self.image, &self.mount]),
        )
    }

    fn cut_power(&self) {
        assert!(
            succeeds(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount)),
            "no power cut"
        );
    }

    fn remount(&mut self) {
        assert!(succeeds(Command::new("umount").arg(&self.mount)));
        assert!(self.mount(), "the file system comes back");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = succeeds(Command::new("umount").arg(&self.mount));
    }
}
