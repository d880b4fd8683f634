//! Full disks: of one chunkserver, of all, of a master, of the client. Nothing acknowledged is lost, what fails says so
//! with exit code 9, and room made is room used. Needs root for small file systems of their own.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_protocol::messages::master::ServerInfo;
use gabion_tests::cluster::Cluster;
use gabion_tests::command::left_in;
use gabion_tests::disk::SmallDisk;
use gabion_tests::load::Load;
use gabion_tests::skip::skip;
use gabion_tests::{MIB, content, seconds, until};

/// A small disk, or the test is skipped.
macro_rules! disk_or_skip {
    ($bytes:expr, $test:literal) => {
        match SmallDisk::new($bytes) {
            Ok(disk) => disk,
            Err(why) => {
                skip($test, &why);
                return;
            }
        }
    };
}

/// Small reserves and short tokens, so that room comes back while the test waits.
const SMALL_RESERVE: &str = "reserve = \"8MiB\"\n";
const SHORT: &str = "[timing]\ntoken = \"2s\"\nupload_lease = \"10s\"\n[cluster]\nchunk_size = \"4MiB\"\n";

/// One chunkserver of four is full, in the middle of an upload: the upload succeeds on the others, the full one serves
/// reads on and takes removals.
#[test]
fn one_full_chunkserver_is_not_noticed() {
    let disk = disk_or_skip!(96 * MIB, "one_full_chunkserver_is_not_noticed");
    let plan = Cluster::plan()
        .chunkservers(4)
        .master_tables(SHORT)
        .chunkserver_lines(SMALL_RESERVE);
    let mut cluster = plan.dir("c1", &disk.path().join("data")).start();
    let local = cluster.scratch("big");
    // Far more than the small disk holds if it were in every chain.
    for round in 0..3 {
        let crc = content::file(&local, round, 100 * MIB);
        let remote = format!("/big-{round}");
        let outcome = cluster.gabion().arg("upload").arg(&local).arg(&remote).run();
        assert!([0, 8].contains(&outcome.code()), "{outcome}");
        assert_eq!(cluster.stat(&remote).unwrap().crc, crc);
    }
    // Its own doing or somebody else's: now the disk is full to the last byte.
    disk.fill();
    cluster
        .gabion()
        .args(["upload", "-", "/after"])
        .run_with(&content::bytes(9, 9 * MIB))
        .ok();
    cluster.assert_all_run();
    for remote in ["/big-0", "/big-1", "/big-2", "/after"] {
        cluster
            .gabion()
            .args(["download", "--force", remote])
            .arg(&local)
            .run()
            .ok();
    }
    let outcome = cluster.verify().arg("replicas").run();
    assert!([0, 8].contains(&outcome.code()), "nothing is damaged: {outcome}");
}

/// Two chunkservers of four are full to the last byte: uploads go on with the two copies that find room and say so, reads
/// and removals go on everywhere, and when there is room again the third copies are made.
#[test]
fn two_full_chunkservers_leave_two_copies() {
    let disks = [
        disk_or_skip!(96 * MIB, "two_full_chunkservers_leave_two_copies"),
        disk_or_skip!(96 * MIB, "two_full_chunkservers_leave_two_copies"),
    ];
    let mut plan = Cluster::plan()
        .chunkservers(4)
        .master_tables(SHORT)
        .chunkserver_lines(SMALL_RESERVE);
    for (number, disk) in (1..).zip(&disks) {
        plan = plan.dir(&format!("c{number}"), &disk.path().join("data"));
    }
    let mut cluster = plan.start();
    let before = content::bytes(1, 20 * MIB);
    cluster.gabion().args(["upload", "-", "/before"]).run_with(&before).ok();
    let gone = content::bytes(3, 3 * MIB);
    let upload = cluster.gabion().args(["upload", "--replicas", "4", "-", "/gone"]);
    upload.run_with(&gone).ok();
    disks.iter().for_each(SmallDisk::fill);
    until("the masters know that they are full", seconds(20), || {
        let full = |server: &&ServerInfo| server.load.bytes_free == 0;
        (cluster.status().servers.iter().filter(full).count() == 2).then_some(())
    });
    let during = content::bytes(2, 20 * MIB);
    let outcome = cluster.gabion().args(["upload", "-", "/during"]).run_with(&during);
    outcome.fails(8, &["2 of 3 copies"]);
    let listed = cluster.operator().args(["admin", "disk", "list"]).run().ok().text();
    assert_eq!(listed.matches(" full ").count(), 2, "{listed}");
    let right = |cluster: &Cluster| {
        for (path, bytes) in [("/before", &before), ("/during", &during)] {
            assert!(
                cluster.gabion().args(["cat", path]).run().ok().stdout == *bytes,
                "{path}"
            );
        }
    };
    right(&cluster);
    let chunks = cluster.chunks_of([&"/gone".to_owned()]);
    let on_full = |server: &str| chunks.iter().any(|chunk| cluster.chunk_file(server, *chunk).is_some());
    assert!(on_full("c1") && on_full("c2"), "void");
    cluster.gabion().args(["rm", "--now", "/gone"]).run().ok();
    until("what was removed leaves the full disks, too", seconds(40), || {
        (!on_full("c1") && !on_full("c2")).then_some(())
    });
    right(&cluster);
    cluster.assert_all_run();
    disks.iter().for_each(SmallDisk::relieve);
    until("the third copies are made", seconds(60), || {
        (!cluster.stat("/during")?.degraded).then_some(())
    });
    right(&cluster);
    cluster.assert_clean();
}

/// All chunkservers are full: an upload fails with 9 and says which servers were passed over and why; no file appears;
/// everything stored before can be read; removing files makes room, and the room is used.
#[test]
fn when_all_chunkservers_are_full_removing_helps() {
    let disks = [
        disk_or_skip!(96 * MIB, "when_all_chunkservers_are_full_removing_helps"),
        disk_or_skip!(96 * MIB, "when_all_chunkservers_are_full_removing_helps"),
        disk_or_skip!(96 * MIB, "when_all_chunkservers_are_full_removing_helps"),
    ];
    let mut plan = Cluster::plan().master_tables(SHORT).chunkserver_lines(SMALL_RESERVE);
    for (number, disk) in (1..).zip(&disks) {
        plan = plan.dir(&format!("c{number}"), &disk.path().join("data"));
    }
    let mut cluster = plan.start();
    let bytes = content::bytes(1, 30 * MIB);
    cluster.gabion().args(["upload", "-", "/before"]).run_with(&bytes).ok();
    let local = cluster.scratch("big");
    content::file(&local, 2, 200 * MIB);
    let failed = cluster
        .gabion()
        .args(["--wait", "10s", "upload"])
        .arg(&local)
        .arg("/big")
        .run();
    failed.fails(9, &["/big", "c1", "c2", "c3"]);
    assert_eq!(cluster.stat("/big"), None);
    cluster.assert_all_run();
    assert!(cluster.gabion().args(["cat", "/before"]).run().ok().stdout == bytes);
    cluster.gabion().args(["rm", "--now", "/before"]).run().ok();
    // Both the aborted upload's chunks and the removed file's.
    until("all chunks are gone", seconds(60), || {
        let empty = |server: &ServerInfo| server.load.chunks == 0;
        cluster.status().servers.iter().all(empty).then_some(())
    });
    for server in cluster.status().servers {
        eprintln!("{} has {} MiB free", server.name, server.load.bytes_free / MIB);
    }
    let again = content::bytes(3, 50 * MIB);
    let outcome = cluster.gabion().args(["upload", "-", "/again"]).run_with(&again).ok();
    eprintln!("the room is used again after {:?}", outcome.took);
    assert!(cluster.gabion().args(["cat", "/again"]).run().ok().stdout == again);
    cluster.assert_clean();
}

/// The disks get so full that not even the chunkservers' indexes find room: uploads fail and are not there, reads go on.
/// With room again uploads succeed, without a restart of anything.
#[test]
fn indexes_without_room_recover_by_themselves() {
    let disks = [
        disk_or_skip!(128 * MIB, "indexes_without_room_recover_by_themselves"),
        disk_or_skip!(128 * MIB, "indexes_without_room_recover_by_themselves"),
        disk_or_skip!(128 * MIB, "indexes_without_room_recover_by_themselves"),
    ];
    // No reserve, which is there to prevent just this.
    let mut plan = Cluster::plan()
        .master_tables(SHORT)
        .chunkserver_lines("reserve = \"0\"\n");
    for (number, disk) in (1..).zip(&disks) {
        plan = plan.dir(&format!("c{number}"), &disk.path().join("data"));
    }
    let mut cluster = plan.start();
    let bytes = content::bytes(1, 100_000);
    cluster.gabion().args(["upload", "-", "/before"]).run_with(&bytes).ok();
    // The indexes' logs have taken their space, and a chunk seems to fit. For the logs' tables there is too little.
    for disk in &disks {
        disk.fill();
        disk.spare(6 * MIB);
    }
    let tree = cluster.scratch("tree");
    std::fs::create_dir(&tree).unwrap();
    for seed in 0..300 {
        content::file(&tree.join(format!("f{seed}")), seed, 100_000);
    }
    let upload = |cluster: &Cluster, remote: &str| {
        let tool = cluster.gabion().args(["--wait", "5s", "upload", "-r"]);
        tool.arg(&tree).arg(remote).run()
    };
    let failed = upload(&cluster, "/tree");
    assert!([8, 9].contains(&failed.code()), "30 MB fit: {failed}");
    for name in cluster.names("/tree") {
        let got = cluster.gabion().args(["cat", &format!("/tree/{name}")]).run().ok();
        assert!(
            got.stdout == std::fs::read(tree.join(&name)).unwrap(),
            "{name} is there and wrong"
        );
    }
    // The masters send no writes to a full disk; drop orders still get as far as its index.
    cluster.gabion().args(["rm", "--now", "-r", "/tree"]).run().ok();
    cluster.assert_all_run();
    let logs = |cluster: &Cluster| -> String {
        let names = cluster.chunkservers();
        names.iter().map(|name| cluster.node(name).process().log()).collect()
    };
    let full = until("an index is full", seconds(30), || {
        logs(&cluster).contains("the index has no room").then(|| logs(&cluster))
    });
    assert!(!full.contains("out of service"), "{full}");
    assert!(cluster.gabion().args(["cat", "/before"]).run().ok().stdout == bytes);
    disks.iter().for_each(SmallDisk::relieve);
    let mut tries = 0;
    // One file at a time: without room a whole tree would take minutes to fail.
    until("an upload succeeds again", seconds(60), || {
        tries += 1;
        let remote = format!("/again-{tries}");
        let tool = cluster.gabion().args(["--wait", "5s", "upload", "-", &remote]);
        (tool.run_with(&bytes).code() == 0).then_some(())
    });
    upload(&cluster, "/tree").ok();
    assert!(logs(&cluster).contains("there is room again"));
    cluster.assert_all_run();
    cluster.assert_undamaged();
}

/// The leader's disk fills up under load: it is one of a minority, so work goes on; nothing acknowledged is lost; with
/// room again (restarted, if it had ended) it is a member like before.
#[test]
fn a_full_master_is_not_noticed() {
    let disks = [
        disk_or_skip!(512 * MIB, "a_full_master_is_not_noticed"),
        disk_or_skip!(512 * MIB, "a_full_master_is_not_noticed"),
        disk_or_skip!(512 * MIB, "a_full_master_is_not_noticed"),
    ];
    let mut plan = Cluster::plan();
    for (number, disk) in (1..).zip(&disks) {
        plan = plan.dir(&format!("m{number}"), &disk.path().join("data"));
    }
    let mut cluster = plan.start();
    let load = Load::start(&cluster, 4);
    load.await_progress(20, seconds(60));
    let leader = cluster.wait_leader();
    let number: usize = leader[1..].parse().unwrap();
    disks[number - 1].fill();
    load.await_progress(200, seconds(90));
    disks[number - 1].relieve();
    if cluster.ended(&leader) {
        let (_, log) = cluster.wait_ended(&leader, seconds(1));
        assert!(
            log.to_lowercase().contains("space"),
            "{leader} ended without saying that its disk is full:\n{log}"
        );
        cluster.start(&leader);
    }
    cluster.wait_ready();
    load.await_progress(20, seconds(60));
    load.stop().assert_unnoticed(&cluster);
    cluster.assert_clean();
}

/// The disks of all three masters fill up: reading and removing go on, what needs room is refused with 9 and says where
/// room is needed; no master ends, a killed one starts, and with room again writes are taken without a restart. A
/// reserve that is sparse, or that is only given back after something failed, would break it; so would a leader that
/// refuses removals.
#[test]
fn three_full_masters_are_no_outage() {
    let disks = [
        disk_or_skip!(512 * MIB, "three_full_masters_are_no_outage"),
        disk_or_skip!(512 * MIB, "three_full_masters_are_no_outage"),
        disk_or_skip!(512 * MIB, "three_full_masters_are_no_outage"),
    ];
    let mut plan = Cluster::plan();
    for (number, disk) in (1..).zip(&disks) {
        plan = plan.dir(&format!("m{number}"), &disk.path().join("data"));
    }
    let mut cluster = plan.start();
    let bytes = content::bytes(1, 5 * MIB);
    let upload = |cluster: &Cluster, path: &str| cluster.gabion().args(["upload", "-", path]).run_with(&bytes);
    for path in ["/kept", "/a", "/b", "/c"] {
        upload(&cluster, path).ok();
    }
    let reserves = || {
        disks
            .iter()
            .filter(|disk| disk.path().join("data/reserve").exists())
            .count()
    };
    assert_eq!(reserves(), 3);
    disks.iter().for_each(SmallDisk::fill);
    let serves = |cluster: &mut Cluster, gone: &str| {
        let refused = until("uploads are refused", seconds(60), || {
            let outcome = upload(cluster, "/late");
            (outcome.code() != 0).then_some(outcome)
        });
        let where_room_is_needed = disks[0].path().display().to_string();
        refused.fails(9, &["/late", "m1", &where_room_is_needed, "make room"]);
        cluster.gabion().args(["mkdir", "/dir"]).run().fails(9, &["/dir"]);
        assert!(cluster.gabion().args(["cat", "/kept"]).run().ok().stdout == bytes);
        // What goes to the trash stays, with rows that say how to restore it.
        cluster
            .gabion()
            .args(["rm", gone])
            .run()
            .fails(9, &[gone, "m1", "--now"]);
        cluster.gabion().args(["rm", "--now", gone]).run().ok();
        assert_eq!(cluster.stat(gone), None);
        cluster.assert_all_run();
    };
    until("the disks get their reserves", seconds(30), || {
        (reserves() == 0).then_some(())
    });
    serves(&mut cluster, "/a");
    for name in cluster.masters() {
        cluster.kill(&name);
    }
    cluster.start_all();
    cluster.wait_ready();
    serves(&mut cluster, "/b");

    disks.iter().for_each(SmallDisk::relieve);
    until("uploads are taken again", seconds(60), || {
        (upload(&cluster, "/again").code() == 0).then_some(())
    });
    until("the reserves are there again", seconds(60), || {
        (reserves() == 3).then_some(())
    });
    cluster.assert_all_run();

    // Full before the start: nothing can be written until the reserve is given back.
    for name in cluster.masters() {
        cluster.stop(&name);
    }
    disks.iter().for_each(SmallDisk::fill);
    cluster.start_all();
    cluster.wait_ready();
    assert_eq!(reserves(), 0);
    serves(&mut cluster, "/c");
    disks.iter().for_each(SmallDisk::relieve);
    until("uploads are taken again", seconds(60), || {
        (upload(&cluster, "/at-last").code() == 0).then_some(())
    });
    cluster.assert_all_run();
    cluster.assert_clean();
}

/// A write of a master's own finds the disk full, before anybody looked: it gets the reserve, and what it wrote is
/// written after all. A store that stays broken after its first full disk, or a process that ends, would break it.
#[test]
fn a_master_that_finds_its_disk_full_goes_on() {
    let disk = disk_or_skip!(160 * MIB, "a_master_that_finds_its_disk_full_goes_on");
    let data = disk.path().join("data");
    let mut cluster = Cluster::plan().masters(1).dir("m1", &data).start();
    cluster.gabion().args(["mkdir", "/a"]).run().ok();
    let before = cluster.status();
    assert_eq!(before.snapshot, None);
    assert!(data.join("reserve").exists());
    disk.fill();
    // Writes out all rows: more than the disk takes.
    cluster.operator().args(["admin", "raft", "snapshot"]).run().ok();
    until("the master notices", seconds(20), || {
        let log = cluster.node("m1").process().log();
        log.contains("the disk was full; trying again").then_some(())
    });
    until("the snapshot is there", seconds(40), || {
        (cluster.status_of("m1")?.snapshot >= Some(before.applied)).then_some(())
    });
    // It looks at its disk from time to time, and takes what needs room until it knows.
    let mut round = 0;
    let refused = until("what needs room is refused", seconds(20), || {
        round += 1;
        let made = cluster.gabion().args(["mkdir", &format!("/b{round}")]).run();
        (made.code() != 0).then_some(made)
    });
    refused.fails(9, &["/b", "m1"]);
    cluster.gabion().args(["rm", "--now", "-r", "/a"]).run().ok();
    cluster.kill("m1");
    cluster.start("m1");
    cluster.wait_ready();
    assert_eq!(cluster.stat("/a"), None);
    disk.relieve();
    until("directories are made again", seconds(30), || {
        (cluster.gabion().args(["mkdir", "/b"]).run().code() == 0).then_some(())
    });
    cluster.assert_all_run();
}

/// The client's own disk is full: the download fails with 9 and leaves nothing, neither the file nor a part of it.
#[test]
fn a_full_client_disk_leaves_no_half_file() {
    let disk = disk_or_skip!(16 * MIB, "a_full_client_disk_leaves_no_half_file");
    let cluster = Cluster::plan().start();
    cluster
        .gabion()
        .args(["upload", "-", "/f"])
        .run_with(&content::bytes(1, 30 * MIB))
        .ok();
    let dir = disk.path().join("downloads");
    std::fs::create_dir(&dir).unwrap();
    let out = dir.join("f");
    cluster
        .gabion()
        .args(["download", "/f"])
        .arg(&out)
        .run()
        .fails(9, &["space"]);
    assert_eq!(left_in(&dir), []);
    // Of a tree, what fits is there and whole, the rest is told (8 or 9) and absent.
    cluster.gabion().args(["mkdir", "/tree"]).run().ok();
    cluster
        .gabion()
        .args(["upload", "-", "/tree/fits"])
        .run_with(&content::bytes(2, MIB))
        .ok();
    cluster.gabion().args(["mv", "/f", "/tree/too-big"]).run().ok();
    let outcome = cluster
        .gabion()
        .args(["download", "-r", "-j", "1", "/tree"])
        .arg(&dir)
        .run();
    assert!([8, 9].contains(&outcome.code()), "{outcome}");
    assert!(outcome.stderr.contains("too-big"), "{outcome}");
    let files: Vec<_> = left_in(&dir).into_iter().filter(|(_, len)| *len > 0).collect();
    assert!(
        files.iter().all(|(path, len)| path.ends_with("fits") && *len == MIB),
        "{files:?}"
    );
}
