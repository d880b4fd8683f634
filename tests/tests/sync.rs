//! `sync` and `check`: what differs is moved, nothing else, and nothing is removed on doubt.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;

use gabion_tests::cluster::Cluster;
use gabion_tests::command::left_in;
use gabion_tests::content;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn actions(outcome: &gabion_tests::command::Outcome) -> Vec<String> {
    let json = outcome.json();
    let actions = json["actions"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    actions
        .map(|action| format!("{} {}", text(&action["action"]), text(&action["path"])))
        .collect()
}

#[test]
fn trees_become_alike_in_both_directions() {
    let cluster = Cluster::plan().start();
    let here = cluster.scratch("here");
    let (small, large) = (here.join("d/small"), here.join("large"));
    write(&small, "same size, one");
    write(&here.join("gone/file"), "x");
    write(&here.join("turns"), "into a directory");
    content::file(&large, 1, 3 << 20);
    std::os::unix::fs::symlink("large", here.join("link")).unwrap();
    let sync = |arguments: &[&str]| cluster.gabion().arg("sync").args(["-o", "json"]).args(arguments);
    let up = |more: &[&str]| sync(more).arg(&here).arg("gabion:/there");
    let check = |code| {
        let outcome = cluster
            .gabion()
            .args(["check", "-o", "json"])
            .arg(&here)
            .arg("/there")
            .run();
        match code {
            0 => outcome.ok(),
            code => outcome.fails(code, &[]),
        }
    };
    // A dry run changes nothing, and says what the real one does.
    let planned = actions(&up(&["-n"]).run().ok());
    assert_eq!(cluster.stat("/there"), None);
    assert_eq!(actions(&up(&[]).run().ok()), planned);
    assert_eq!(
        planned,
        [
            "make d",
            "make gone",
            "copy d/small",
            "copy gone/file",
            "copy large",
            "copy turns",
            "link link"
        ]
    );
    check(0);
    assert_eq!(actions(&up(&["--delete"]).run().ok()), [""; 0], "nothing differs");
    // The same size and the same time: only the checksum tells.
    let time = small.metadata().unwrap().modified().unwrap();
    write(&small, "same size, two");
    std::fs::File::options()
        .write(true)
        .open(&small)
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_eq!(actions(&up(&["-n", "--quick"]).run().ok()), [""; 0]);
    assert_eq!(actions(&up(&["-n"]).run().ok()), ["copy d/small"]);
    std::fs::remove_dir_all(here.join("gone")).unwrap();
    std::fs::remove_file(here.join("turns")).unwrap();
    write(&here.join("turns/into"), "one");
    let differences = check(8).json();
    let found = |at: usize| {
        let difference = &differences["differences"][at];
        (
            difference["path"].as_str().unwrap().to_owned(),
            difference["found"].as_str().unwrap().to_owned(),
        )
    };
    let expected = [
        ("d/small", "differs"),
        ("gone", "extra"),
        ("gone/file", "extra"),
        ("turns", "kind"),
        ("turns/into", "missing"),
    ];
    for (at, (path, what)) in expected.into_iter().enumerate() {
        assert_eq!(found(at), (path.to_owned(), what.to_owned()));
    }
    // Without leave to remove, what is in the way stays, and is told.
    up(&[]).run().fails(
        8,
        &["turns", "--delete"].map(|word| {
            if word == "--delete" {
                "could not be synced"
            } else {
                word
            }
        }),
    );
    assert!(cluster.stat("/there/gone/file").is_some());
    up(&["--delete"]).run().ok();
    check(0);
    let trash = cluster.gabion().args(["trash", "list", "-o", "json"]).run().ok().json();
    assert_eq!(
        trash["total_entries"], 2,
        "what sync removes on the cluster can be restored"
    );

    // The other way, into a tree with things of its own.
    let back = cluster.scratch("back");
    write(&back.join("large/is"), "a directory here");
    write(&back.join("old/one"), "1");
    let pipe = back.join("old/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    write(&back.join("older/one"), "1");
    let down = |more: &[&str]| sync(more).arg("gabion:/there").arg(&back);
    down(&["--delete"]).run().ok();
    let left: Vec<_> = left_in(&back)
        .into_iter()
        .map(|(path, _)| path.display().to_string())
        .collect();
    // The directory with a pipe stays: nobody knows what the pipe is for.
    assert_eq!(
        left,
        [
            "d",
            "d/small",
            "large",
            "link",
            "old",
            "old/pipe",
            "turns",
            "turns/into"
        ]
    );
    assert!(std::fs::read(back.join("large")).unwrap() == std::fs::read(&large).unwrap());
    assert_eq!(
        actions(&down(&["--delete"]).run().ok()),
        [""; 0],
        "times are kept, nothing is done twice"
    );
}

/// What differs is found by what the masters know: no byte is fetched, so that it works without any chunkserver.
#[test]
fn what_differs_is_found_without_reading_the_cluster() {
    let mut cluster = Cluster::plan().masters(1).start();
    let here = cluster.scratch("here");
    write(&here.join("d/small"), "same size, one");
    content::file(&here.join("large"), 1, 3 << 20);
    let up = cluster
        .gabion()
        .args(["upload", "-r"])
        .arg(here.join("."))
        .arg("/there");
    up.run().ok();
    for server in cluster.chunkservers() {
        cluster.kill(&server);
    }
    let check = || cluster.gabion().args(["check"]).arg(&here).arg("/there").run();
    let plan = || {
        let tool = cluster.gabion().args(["sync", "-n", "--delete", "-o", "json"]);
        actions(&tool.arg(&here).arg("gabion:/there").run().ok())
    };
    check().ok();
    assert_eq!(plan(), [""; 0]);
    write(&here.join("d/small"), "same size, two");
    check().fails(8, &[]);
    assert_eq!(plan(), ["copy d/small"]);
    std::fs::remove_file(here.join("large")).unwrap();
    assert_eq!(plan(), ["copy d/small", "remove large"]);
}

#[test]
fn nothing_is_removed_on_doubt() {
    let cluster = Cluster::plan().masters(1).start();
    let here = cluster.scratch("here");
    write(&here.join("a"), "1");
    write(&here.join("b/c"), "2");
    let up = |more: &[&str]| cluster.gabion().arg("sync").args(more).arg(&here).arg("gabion:/there");
    up(&[]).run().ok();
    // A source that is empty, or is not there: perhaps a disk that is not mounted.
    let empty = cluster.scratch("empty");
    std::fs::create_dir(&empty).unwrap();
    let from_empty = |more: &[&str]| cluster.gabion().arg("sync").args(more).arg(&empty).arg("gabion:/there");
    from_empty(&["--delete"]).run().fails(4, &["empty", "--force"]);
    let absent = empty.join("absent");
    let from_absent = cluster.gabion().args(["sync", "--delete", "--force"]).arg(&absent);
    from_absent.arg("gabion:/there").run().fails(3, &["absent"]);
    let down_absent = cluster.gabion().args(["sync", "--delete", "--force", "gabion:/absent"]);
    down_absent.arg(&here).run().fails(3, &["/absent"]);
    assert!(here.join("a").exists());
    // A name that cannot be on the cluster: not everything could be listed.
    std::fs::remove_file(here.join("a")).unwrap();
    let strange = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"caf\xe9".to_vec());
    std::fs::write(here.join(&strange), "").unwrap();
    up(&["--delete"]).run().fails(8, &["nothing is removed", "not utf-8"]);
    assert!(cluster.stat("/there/a").is_some());
    std::fs::remove_file(here.join(&strange)).unwrap();
    up(&["--delete"]).run().ok();
    assert_eq!(cluster.stat("/there/a"), None);
    from_empty(&["--delete", "--force"]).run().ok();
    assert_eq!(cluster.names("/there"), Vec::<String>::new());
    // Both here or both there make no sense, nor does a file.
    cluster.gabion().args(["sync", "a", "b"]).run().fails(2, &["gabion:"]);
    cluster
        .gabion()
        .args(["sync", "gabion:/a", "gabion:/b"])
        .run()
        .fails(2, &["both on the cluster"]);
    cluster
        .gabion()
        .args(["sync", "/dev/null", "gabion:/b"])
        .run()
        .fails(2, &["neither a file nor a directory"]);
}
