//! Transfers that do not start again: the client is killed with SIGKILL at random moments, and the same command goes on.
//!
//! What must never happen: other bytes than the source's under the name, more sent or fetched again than a chunk for each
//! stream, a source that changed meanwhile mixed with what was there before.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;
use std::time::Duration;

use gabion_tests::cluster::Cluster;
use gabion_tests::command::{Outcome, Tool, left_in};
use gabion_tests::{MIB, content, scaled, seconds, until};
use rustix::process::Signal;

/// Chunks of an upload on their way at one time.
const STREAMS: u64 = 2;
const CHUNK: u64 = MIB;

/// Bytes that were not moved again.
fn kept(outcome: &Outcome) -> u64 {
    outcome.json()["files"][0]["kept_bytes"].as_u64().unwrap()
}

/// Kills a command after `pause`, unless it was faster; whether it was killed.
fn kill_after(tool: Tool, pause: Duration) -> bool {
    let mut running = tool.start();
    std::thread::sleep(pause);
    if !running.is_running() {
        running.wait().ok();
        return false;
    }
    running.signal(Signal::KILL);
    let ended = running.wait();
    // It may have ended by itself between the look and the signal.
    let was_killed = ended.code() == 128 + 9;
    assert!(was_killed || ended.code() == 0, "{ended}");
    was_killed
}

/// A moment between nothing and the whole of a transfer, another one each time.
fn moment(round: u32, whole: Duration) -> Duration {
    // The golden ratio's fractions spread evenly, however many there are.
    let fraction = (f64::from(round) * 0.618_033_988).fract();
    whole.mul_f64(fraction)
}

fn upload(cluster: &Cluster, local: &Path, to: &str) -> Tool {
    let tool = cluster
        .gabion()
        .args(["upload", "--resume", "--chunk-size", "1MiB", "-o", "json"]);
    tool.arg(local).arg(to)
}

fn download(cluster: &Cluster, from: &str, to: &Path) -> Tool {
    cluster
        .gabion()
        .args(["download", "--resume", "-o", "json", from])
        .arg(to)
}

/// Uploads are killed and go on: what the masters had recorded before a kill is not sent again after it.
#[test]
fn an_upload_goes_on_where_it_was_killed() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("big");
    let length = 48 * MIB + 77;
    content::file(&local, 1, length);
    let whole = upload(&cluster, &local, "/whole").run().ok().took;
    let kills = scaled(8, 50);
    let (mut killed, mut went_on, mut round) = (0, 0, 0);
    while killed < kills {
        round += 1;
        assert!(round < 20 * kills, "the commands are too quick to be killed: void");
        let to = format!("/big{round}");
        let before = sent(&cluster);
        if !kill_after(upload(&cluster, &local, &to), moment(round, whole)) {
            continue;
        }
        killed += 1;
        // Its last word may have been to make the file appear.
        if let Some(entry) = cluster.stat(&to) {
            assert_eq!(entry.length, length, "a file appears whole or not at all");
        }
        let outcome = upload(&cluster, &local, &to).run().ok();
        went_on += u32::from(kept(&outcome) > 0);
        // What was on its way when it was killed: a chunk for each stream.
        let twice = sent(&cluster).saturating_sub(before + length);
        assert!(twice <= STREAMS * CHUNK, "{twice} bytes were sent twice: {outcome}");
        cluster.gabion().args(["check"]).arg(&local).arg(&to).run().ok();
    }
    assert!(went_on > 0, "no kill came after the first chunk: void");
    eprintln!("{went_on} of {killed} uploads had something to go on from");
    cluster.assert_clean();
}

/// One upload is killed again and again: all runs together send the file once, and one chunk for each stream and kill.
#[test]
fn an_upload_that_is_killed_often_sends_little_again() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("big");
    let length = 64 * MIB;
    content::file(&local, 2, length);
    let mut kills = 0;
    while kills < scaled(6, 12) {
        let mut running = upload(&cluster, &local, "/big").start();
        // More than what was on its way last time and is sent again.
        let goal = sent(&cluster) + 4 * CHUNK;
        until("the upload gets on, or ends", seconds(20), || {
            (sent(&cluster) >= goal || !running.is_running()).then_some(())
        });
        if !running.is_running() {
            break;
        }
        running.signal(Signal::KILL);
        assert_eq!(running.wait().code(), 128 + 9);
        kills += 1;
    }
    assert!(kills >= 4, "the upload was too quick to be killed: void");
    let outcome = upload(&cluster, &local, "/big").run().ok();
    assert!(kept(&outcome) > 0, "{outcome}");
    let (sent, most) = (sent(&cluster), length + kills * STREAMS * CHUNK);
    eprintln!("{kills} kills: {} MiB sent of {} MiB", sent / MIB, length / MIB);
    assert!(sent <= most, "{sent} bytes were sent, {most} are expected at most");
    let back = cluster.scratch("back");
    cluster.gabion().args(["download", "/big"]).arg(&back).run().ok();
    assert!(std::fs::read(&back).unwrap() == std::fs::read(&local).unwrap());
    cluster.assert_clean();
}

/// Bytes that were sent in whole chunks. Each server has a copy of each, and keeps what was sent in vain as long as there
/// are tokens for it: longer than these tests.
fn sent(cluster: &Cluster) -> u64 {
    let name = &cluster.chunkservers()[0];
    let files = gabion_tests::damage::chunk_files(&cluster.node(name).dir);
    files
        .iter()
        .map(|(_, length)| *length)
        .filter(|length| *length == CHUNK)
        .sum()
}

/// Downloads are killed and go on: the partial file is found again, and no more than a chunk of it fetched twice.
#[test]
fn a_download_goes_on_where_it_was_killed() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("big");
    let length = 96 * MIB + 1;
    content::file(&local, 3, length);
    let plain = cluster.gabion().args(["upload", "--chunk-size", "1MiB"]);
    plain.arg(&local).arg("/big").run().ok();
    let dir = cluster.scratch("downloads");
    std::fs::create_dir(&dir).unwrap();
    let whole = download(&cluster, "/big", &dir.join("whole")).run().ok().took;
    let expected = std::fs::read(&local).unwrap();
    let kills = scaled(8, 50);
    let (mut killed, mut went_on, mut round) = (0, 0, 0);
    while killed < kills {
        round += 1;
        assert!(round < 20 * kills, "the commands are too quick to be killed: void");
        let target = dir.join(format!("big{round}"));
        if !kill_after(download(&cluster, "/big", &target), moment(round, whole)) {
            std::fs::remove_file(&target).unwrap();
            continue;
        }
        killed += 1;
        let left = left_in(&dir);
        let partial = left.iter().find(|(path, _)| path.to_string_lossy().ends_with("-part"));
        let had = partial.map_or(0, |(_, length)| *length);
        let outcome = download(&cluster, "/big", &target).run().ok();
        assert!(
            kept(&outcome) + CHUNK > had,
            "{had} bytes were there, {} are kept",
            kept(&outcome)
        );
        went_on += u32::from(kept(&outcome) > 0);
        assert!(std::fs::read(&target).unwrap() == expected);
        std::fs::remove_file(&target).unwrap();
    }
    assert!(went_on > 0, "no kill came after the first chunk: void");
    let left: Vec<_> = left_in(&dir).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [Path::new("whole")], "nothing is left beside the files");
    // Once more, when all is there: nothing moves.
    let again = download(&cluster, "/big", &dir.join("whole")).run().ok();
    assert_eq!(kept(&again), length);
}

/// Trees of large and small files are killed and go on, up and down: whole files that are there are not moved again, of those
/// in the middle no more than a chunk for each stream, and nothing is left beside them.
#[test]
fn a_tree_goes_on_where_it_was_killed() {
    const JOBS: u64 = 2;
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("tree");
    std::fs::create_dir_all(local.join("small")).unwrap();
    let large = 12 * 5 * CHUNK;
    for number in 0..12 {
        content::file(&local.join(format!("large{number}")), number, 5 * CHUNK + number);
    }
    for number in 0..200 {
        content::file(&local.join(format!("small/{number}")), 100 + number, 50 * number);
    }
    let jobs = ["-r", "--resume", "-j", "2", "-q"];
    let up = |to: &str| {
        let tool = cluster.gabion().arg("upload").args(jobs).args(["--chunk-size", "1MiB"]);
        tool.arg(local.join(".")).arg(to)
    };
    let whole = up("/whole").run().ok().took;
    let mut killed = 0;
    for round in 1..=scaled(4, 20) {
        let (to, before) = (format!("/t{round}"), sent(&cluster));
        killed += u32::from(kill_after(up(&to), moment(round, whole)));
        up(&to).run().ok();
        let twice = sent(&cluster).saturating_sub(before + large);
        assert!(
            twice <= JOBS * STREAMS * CHUNK,
            "{twice} bytes were sent twice in round {round}"
        );
        cluster.gabion().arg("check").arg(&local).arg(&to).run().ok();
    }
    assert!(killed > 0, "no upload was slow enough to be killed: void");

    let down = |dir: &Path| cluster.gabion().arg("download").args(jobs).arg("/whole").arg(dir);
    let first = cluster.scratch("down");
    std::fs::create_dir(&first).unwrap();
    let whole = down(&first).run().ok().took;
    let mut killed = 0;
    for round in 1..=scaled(4, 20) {
        let dir = cluster.scratch(&format!("down{round}"));
        std::fs::create_dir(&dir).unwrap();
        killed += u32::from(kill_after(down(&dir), moment(round, whole)));
        down(&dir).run().ok();
        cluster
            .gabion()
            .arg("check")
            .arg(dir.join("whole"))
            .arg("/whole")
            .run()
            .ok();
        let parts = left_in(&dir)
            .into_iter()
            .filter(|(path, _)| path.to_string_lossy().contains("-part"));
        assert_eq!(parts.count(), 0, "parts are left beside the files");
        std::fs::remove_dir_all(&dir).unwrap();
    }
    assert!(killed > 0, "no download was slow enough to be killed: void");
    cluster.assert_clean();
}

/// A source that changed meanwhile is transferred from its beginning, and the user is told.
#[test]
fn a_source_that_changed_is_not_mixed_with_what_was_there() {
    let cluster = Cluster::plan().start();
    let local = cluster.scratch("big");
    content::file(&local, 4, 40 * MIB);
    let kill_midway = |tool: Tool, midway: &dyn Fn() -> bool| {
        let mut running = tool.start();
        until("it is in the middle", seconds(20), || midway().then_some(()));
        running.signal(Signal::KILL);
        running.wait();
    };
    kill_midway(upload(&cluster, &local, "/f"), &|| sent(&cluster) >= 6 * CHUNK);
    content::file(&local, 5, 40 * MIB);
    let outcome = upload(&cluster, &local, "/f").run().ok();
    assert!(
        kept(&outcome) == 0 && outcome.stderr.contains("has changed"),
        "{outcome}"
    );
    cluster.gabion().arg("check").arg(&local).arg("/f").run().ok();

    let dir = cluster.scratch("downloads");
    std::fs::create_dir(&dir).unwrap();
    let target = dir.join("f");
    let some_bytes = || left_in(&dir).iter().any(|(_, length)| *length > 2 * CHUNK);
    kill_midway(download(&cluster, "/f", &target), &some_bytes);
    content::file(&local, 6, 40 * MIB);
    let replace = cluster.gabion().args(["upload", "--force"]).arg(&local).arg("/f");
    replace.run().ok();
    let outcome = download(&cluster, "/f", &target).run().ok();
    assert!(
        kept(&outcome) == 0 && outcome.stderr.contains("has changed"),
        "{outcome}"
    );
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&local).unwrap());
    assert_eq!(left_in(&dir).len(), 1);
    // What can be read only once cannot be resumed.
    let tool = cluster.gabion().args(["upload", "--resume", "-", "/g"]);
    tool.run_with(b"x").fails(2, &["standard input"]);
    let tool = cluster.gabion().args(["download", "--resume", "/f", "-"]);
    tool.run().fails(2, &["standard output"]);
}
