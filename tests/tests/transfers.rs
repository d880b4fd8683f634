//! Transfers as their users see them on long ways, and of files that change meanwhile. Those that are interrupted and go
//! on: `resume`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use gabion_tests::cluster::{Cluster, fs_path};
use gabion_tests::command::{Outcome, Running, Tool, left_in};
use gabion_tests::load::connect;
use gabion_tests::proxy::far_away;
use gabion_tests::{MIB, content, scaled, seconds, until};
use rustix::process::Signal;

/// From a client to a server, or back.
const WAY: Duration = Duration::from_millis(20);

/// TCP connections of a process.
fn connections(process: u32) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let all: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(9))
        .collect();
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return 0;
    };
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let inode = |target: std::path::PathBuf| {
        let target = target.to_string_lossy().into_owned();
        target.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
    };
    targets
        .filter_map(inode)
        .filter(|inode| all.contains(inode.as_str()))
        .count()
}

/// Runs a tool to its end; most connections it was seen to have.
fn watched(tool: Tool) -> (Outcome, usize) {
    let mut running = tool.start();
    let mut most = 0;
    until("it ends", seconds(120), || {
        most = most.max(connections(running.id()));
        (!running.is_running()).then_some(())
    });
    (running.wait().ok(), most)
}

/// Many small files over a long way: each costs several journeys, so that one after the other they would take minutes.
/// They go side by side, and share a connection to each server.
#[test]
fn many_small_files_go_side_by_side_over_few_connections() {
    let mut cluster = Cluster::plan().prepare();
    let servers: Vec<_> = cluster.masters().into_iter().chain(cluster.chunkservers()).collect();
    for (number, server) in servers.iter().enumerate() {
        let listen = cluster.spare_address(number as u16);
        cluster.advertise(server, &listen);
        far_away(cluster.runtime(), &listen, &cluster.node(server).address, WAY);
    }
    cluster.start_all();
    cluster.wait_ready();
    let count = scaled(500, 5_000);
    let here = cluster.scratch("here");
    for number in 0..count {
        let directory = here.join(format!("d{}", number % 10));
        std::fs::create_dir_all(&directory).unwrap();
        content::file(&directory.join(format!("f{number}")), number, 4096);
    }
    // Two questions and their answers at the least: the bytes, and the name.
    let one_by_one = WAY * 2 * 2 * count as u32;
    let assert_shared = |what: &str, (outcome, most): (Outcome, usize)| {
        eprintln!(
            "{what}: {:?} over {most} connections, one by one {one_by_one:?}",
            outcome.took
        );
        assert!(
            outcome.took < one_by_one / 4,
            "{what}: the files waited for one another: {outcome}"
        );
        // One to each server, and another where one was given up or is dialed anew.
        assert!((2..=2 * servers.len()).contains(&most), "{what}: {most} connections");
    };
    let upload = cluster.gabion().args(["upload", "-r"]).arg(&here).arg("/t");
    assert_shared("upload", watched(upload));
    let back = cluster.scratch("back");
    let download = cluster.gabion().args(["download", "-r", "/t"]).arg(&back);
    assert_shared("download", watched(download));
    for number in 0..count {
        let name = format!("d{}/f{number}", number % 10);
        assert_eq!(std::fs::read(back.join(name)).unwrap(), content::bytes(number, 4096));
    }
    cluster.assert_clean();
}

/// Waits until a command has moved some of what it is to move.
#[track_caller]
fn in_the_middle(running: &mut Running, some: impl Fn() -> bool) {
    until("it is in the middle", seconds(30), || {
        assert!(running.is_running(), "it ended before the middle: void");
        some().then_some(())
    });
}

/// A file that is written to while it is stored may be neither its old nor its new content, and that is told.
#[test]
fn a_source_that_changes_while_it_is_read_is_told() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("source");
    content::file(&local, 1, 256 * MIB);
    let stored = || {
        let name = &cluster.chunkservers()[0];
        !gabion_tests::damage::chunk_files(&cluster.node(name).dir).is_empty()
    };
    let upload = cluster
        .gabion()
        .args(["upload", "--chunk-size", "1MiB"])
        .arg(&local)
        .arg("/f");
    let mut running = upload.start();
    in_the_middle(&mut running, stored);
    let mut writer = std::fs::File::options().append(true).open(&local).unwrap();
    writer.write_all(b"more").unwrap();
    running
        .wait()
        .fails(4, &["source", "changed while it was read", "may mix old and new"]);
    // And what is compared afterwards is found to differ.
    cluster.gabion().arg("check").arg(&local).arg("/f").run().fails(8, &[]);
}

/// A file of the cluster that changes while it is fetched is fetched as it was, or not at all.
#[test]
fn a_file_that_changes_while_it_is_fetched_is_never_mixed() {
    let cluster = Cluster::plan().start();
    let client = cluster.runtime().block_on(connect(&cluster.access()));
    let length = 96 * MIB;
    let local = cluster.scratch("source");
    content::file(&local, 1, length);
    let old = std::fs::read(&local).unwrap();
    let downloads = cluster.scratch("downloads");
    std::fs::create_dir(&downloads).unwrap();
    let mut told = 0;
    for round in 0..scaled(4, 20) {
        let upload = cluster.gabion().args(["upload", "--force", "--chunk-size", "1MiB"]);
        upload.arg(&local).arg("/f").run().ok();
        let file = cluster.runtime().block_on(client.open_file(&fs_path("/f"))).unwrap();
        let target = downloads.join("f");
        let mut running = cluster.gabion().args(["download", "/f"]).arg(&target).start();
        in_the_middle(&mut running, || {
            left_in(&downloads).iter().any(|(_, length)| *length > MIB)
        });
        running.signal(Signal::STOP);
        // Its beginning and its end.
        let mut new = old.clone();
        for offset in [0, length - 3 * MIB] {
            let bytes = content::bytes(100 + round, MIB);
            let at = offset as usize;
            new[at..at + bytes.len()].copy_from_slice(&bytes);
            cluster.runtime().block_on(file.write_at(offset, bytes)).unwrap();
        }
        running.signal(Signal::CONT);
        let outcome = running.wait();
        if outcome.code() == 0 {
            let fetched = std::fs::read(&target).unwrap();
            assert!(fetched == old, "round {round}: it is not what it was");
            std::fs::remove_file(&target).unwrap();
        } else {
            told += 1;
            outcome.fails(4, &["/f", "changed while it was read", "begin again"]);
        }
        assert_eq!(left_in(&downloads), [], "something was left behind");
        let fetched = cluster.gabion().args(["cat", "/f"]).run().ok();
        assert!(fetched.stdout == new, "the next reader sees all of it");
    }
    assert!(told > 0, "no change came before the end of a download: void");
}
