//! Looking for names: searches, trees and patterns say what is there, and a directory that changes while it is listed
//! shows what was there all the time exactly once.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gabion_tests::cluster::Cluster;
use gabion_tests::{content, seconds, until};

fn lines(outcome: &gabion_tests::command::Outcome) -> Vec<String> {
    outcome.text().lines().map(str::to_owned).collect()
}

/// Uploads a small tree with names that patterns must tell apart.
fn upload_tree(cluster: &Cluster) {
    let local = cluster.scratch("tree");
    for (path, len) in [
        ("a.log", 10),
        ("b.log", 5000),
        ("c*.log", 1),
        (".hidden.log", 1),
        ("d/a.log", 0),
        ("d/e/f.txt", 200_000),
        ("d2/a.txt", 3),
    ] {
        let path = local.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        content::file(&path, 1, len);
    }
    std::fs::create_dir(local.join("empty")).unwrap();
    cluster.gabion().args(["upload", "-r"]).arg(&local).arg("/t").run().ok();
}

#[test]
fn searches_trees_and_patterns_say_what_is_there() {
    let cluster = Cluster::plan().masters(1).start();
    upload_tree(&cluster);
    let find = |arguments: &[&str]| cluster.gabion().arg("find").args(arguments).run();
    for (arguments, expected) in [
        (
            &["/t", "-name", "*.log"][..],
            &["/t/.hidden.log", "/t/a.log", "/t/b.log", "/t/c*.log", "/t/d/a.log"][..],
        ),
        (&["/t", "-type", "d"], &["/t", "/t/d", "/t/d/e", "/t/d2", "/t/empty"]),
        (&["/t", "-type", "f", "-size", "+4k"], &["/t/b.log", "/t/d/e/f.txt"]),
        (&["/t", "-size", "0"], &["/t/d/a.log"]),
        (&["/t", "-name", "[ab].*", "-maxdepth", "1"], &["/t/a.log", "/t/b.log"]),
        (&["/t", "-name", "a*", "-mtime", "+1"], &[]),
        (
            &["/t/d*", "-type", "f", "-mtime", "-1"],
            &["/t/d/a.log", "/t/d/e/f.txt", "/t/d2/a.txt"],
        ),
        (&["/t/a.log"], &["/t/a.log"]),
        (&["/t", "-iname", "A.LOG", "-mindepth", "2"], &["/t/d/a.log"]),
        (&["/t", "-empty"], &["/t/d/a.log", "/t/empty"]),
        (&["/t", "-path", "/t/d*/a*"], &["/t/d/a.log", "/t/d2/a.txt"]),
        (&["/t", "-maxdepth", "0"], &["/t"]),
    ] {
        assert_eq!(lines(&find(arguments).ok()), expected, "find {arguments:?}");
    }
    let zeros = find(&["/t", "-name", "b*", "--print0"]).ok();
    assert_eq!(zeros.stdout, b"/t/b.log\0");
    let json = find(&["/t/d", "-name", "f.txt", "-o", "json"]).ok().json();
    assert_eq!(
        (&json["entries"][0]["path"], &json["entries"][0]["bytes"]),
        (&"/t/d/e/f.txt".into(), &200_000.into())
    );
    find(&["/none"]).fails(3, &["/none"]);
    find(&["/t", "-size", "much"]).fails(2, &["size"]);

    let tree = cluster.gabion().args(["tree", "/t"]).run().ok();
    let expected = "\
/t
├── .hidden.log
├── a.log
├── b.log
├── c*.log
├── d
│   ├── a.log
│   └── e
│       └── f.txt
├── d2
│   └── a.txt
└── empty

4 directories, 7 files
";
    assert_eq!(tree.text(), expected);
    let flat = cluster.gabion().args(["tree", "-d", "-L", "1", "/t"]).run().ok();
    assert_eq!(flat.text(), "/t\n├── d\n├── d2\n└── empty\n\n3 directories\n");

    // Attributes change alone; a search finds the new ones.
    let stat = |path: &str| cluster.gabion().args(["stat", "-o", "json", path]).run().ok().json()["entries"][0].clone();
    let before = stat("/t/b.log");
    cluster
        .gabion()
        .args(["touch", "-d", "2001-02-03T04:05:06Z", "/t/b.log", "/t/made"])
        .run()
        .ok();
    cluster
        .gabion()
        .args(["chmod", "-R", "711", "/t/d", "/t/b.log"])
        .run()
        .ok();
    let mut expected = before;
    expected["modified"] = "2001-02-03T04:05:06Z".into();
    expected["mode"] = "0711".into();
    assert_eq!(stat("/t/b.log"), expected);
    assert_eq!(
        (&stat("/t/d/e")["mode"], &stat("/t/d/e/f.txt")["mode"]),
        (&"0711".into(), &"0711".into())
    );
    assert_eq!(lines(&find(&["/t", "-mtime", "+365"]).ok()), ["/t/b.log", "/t/made"]);
    cluster.gabion().args(["touch", "-c", "/t/not-made"]).run().ok();
    assert_eq!(cluster.stat("/t/not-made"), None);
    cluster.gabion().args(["touch", "/none/x"]).run().fails(3, &["/none"]);
    cluster
        .gabion()
        .args(["chmod", "600", "/none"])
        .run()
        .fails(3, &["/none"]);
    cluster.gabion().args(["rm", "/t/made"]).run().ok();

    // Owners and extended attributes go where the file goes.
    let chown = cluster.gabion().args(["chown", "-R", "ann:staff", "/t/d", "/t/b.log"]);
    chown.run().ok();
    let xattr = |arguments: &[&str]| cluster.gabion().arg("xattr").args(arguments);
    xattr(&["set", "/t/b.log", "user.text", "some"]).run().ok();
    xattr(&["set", "/t/b.log", "user.bytes"]).run_with(b"\0\xff").ok();
    xattr(&["set", "/t/b.log", "user.large"])
        .run_with(&vec![0; 65 << 10])
        .fails(4, &["at most 65536"]);
    cluster.gabion().args(["mv", "/t/b.log", "/t/moved"]).run().ok();
    assert_eq!(xattr(&["get", "/t/moved", "user.bytes"]).run().ok().stdout, b"\0\xff");
    assert_eq!(
        lines(&xattr(&["list", "/t/moved"]).run().ok()).len(),
        3,
        "a head and two"
    );
    let told = stat("/t/moved");
    assert_eq!((&told["owner"], &told["group"]), (&"ann".into(), &"staff".into()));
    assert_eq!(stat("/t/d/e/f.txt")["owner"], "ann");
    xattr(&["rm", "/t/moved", "user.text"]).run().ok();
    xattr(&["rm", "/t/moved", "user.text"])
        .run()
        .fails(3, &["no attribute"]);
    xattr(&["get", "/t/moved", "user.text"]).run().fails(3, &["user.text"]);
    // Without leave nothing is replaced; -n takes that for an answer.
    cluster
        .gabion()
        .args(["mv", "/t/moved", "/t/a.log"])
        .run()
        .fails(4, &["--force"]);
    cluster.gabion().args(["mv", "-n", "/t/moved", "/t/a.log"]).run().ok();
    cluster.gabion().args(["mv", "-n", "/t/moved", "/t/b.log"]).run().ok();
    cluster
        .gabion()
        .args(["mv", "/t/d", "/t/d/e/d"])
        .run()
        .fails(2, &["into itself"]);

    // A pattern that is a name is that name.
    let cat = cluster.gabion().args(["cat", "/t/c*.log"]).run().ok();
    assert_eq!(cat.stdout.len(), 1);
    let list = cluster.gabion().args(["ls", "-1", "/t/*.log"]).run().ok();
    assert_eq!(lines(&list), ["/t/a.log", "/t/b.log", "/t/c*.log"]);
    cluster
        .gabion()
        .args(["ls", "/t/*.none"])
        .run()
        .fails(3, &["nothing matches /t/*.none"]);
    let into = cluster.scratch("got");
    std::fs::create_dir(&into).unwrap();
    let du = cluster
        .gabion()
        .args(["du", "-s", "--bytes", "-o", "json", "/t/d*"])
        .run()
        .ok()
        .json();
    assert_eq!(
        (&du["entries"][0]["bytes"], &du["entries"][1]["bytes"]),
        (&200_000.into(), &3.into())
    );
    cluster.gabion().args(["get", "/t/[bd].log"]).arg(&into).run().ok();
    assert_eq!(std::fs::metadata(into.join("b.log")).unwrap().len(), 5000);
    cluster.gabion().args(["rm", "/t/?.log", "/t/*/*.txt"]).run().ok();
    assert_eq!(
        lines(&find(&["/t", "-type", "f"]).ok()),
        ["/t/.hidden.log", "/t/c*.log", "/t/d/a.log", "/t/d/e/f.txt"],
        "a name may be one level down, not two"
    );
    cluster
        .gabion()
        .args(["rm", "/t/*.nothing"])
        .run()
        .fails(3, &["nothing matches"]);
    cluster.gabion().args(["rm", "-f", "/t/*.nothing"]).run().ok();
}

/// While names come and go around them, and the leader dies, each name that was there all the time is listed exactly
/// once. A page that begins at a position instead of after a name would skip or repeat some.
#[test]
fn a_changing_directory_shows_what_stays_exactly_once() {
    let mut cluster = Cluster::plan().start();
    let local = cluster.scratch("stay");
    std::fs::create_dir(&local).unwrap();
    let stay: Vec<String> = (0..2500).map(|number| format!("n{number:05}")).collect();
    for name in &stay {
        content::file(&local.join(name), 1, 0);
    }
    cluster
        .gabion()
        .args(["upload", "-r", "-j", "32"])
        .arg(&local)
        .arg("/d")
        .run()
        .ok();
    let access = cluster.access();
    let key = access.key_file.clone();
    let gabion = move |arguments: &[&str]| {
        gabion_tests::command::Tool::new(&gabion_tests::binaries::binary("gabion"))
            .env("GABION_MASTERS", access.masters.join(","))
            .env("GABION_KEY_FILE", &key)
            .args(arguments)
            .run()
    };
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    let mut seen_changes = 0u64;
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (gabion, stop, changes) = (&gabion, &stop, &changes);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Before, between and after those that stay.
                    let names = [0, 999, 1000, 2400].map(|at| format!("/d/n{at:05}-{worker}-{}", round % 7));
                    let verb: &[&str] = match round % 2 {
                        0 => &["mkdir", "-p"],
                        _ => &["rm", "-r", "-f"],
                    };
                    let arguments: Vec<&str> = verb.iter().copied().chain(names.iter().map(String::as_str)).collect();
                    // Whether each worked is not the question; that names change is asserted below.
                    let _ = gabion(&arguments);
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut list = |recursive: bool| {
            let arguments = if recursive {
                ["ls", "-1R", "/d"]
            } else {
                ["ls", "-1", "/d"]
            };
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            for name in lines(&gabion(&arguments).ok()) {
                *counts.entry(name).or_default() += 1;
            }
            seen_changes += u64::from(counts.len() != stay.len());
            let wrong: Vec<_> = stay.iter().filter(|name| counts.get(*name) != Some(&1)).collect();
            assert!(wrong.is_empty(), "not listed exactly once: {wrong:?}");
            assert!(counts.values().all(|count| *count == 1), "a name was listed twice");
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..12 {
                list(round % 2 == 1);
            }
            let leader = cluster.wait_leader();
            cluster.kill(&leader);
            // The first finds no leader and waits for the next one.
            for round in 0..8 {
                list(round % 2 == 1);
            }
            let before = changes.load(Ordering::Relaxed);
            until("names change under the new leader", seconds(60), || {
                (changes.load(Ordering::Relaxed) > before + 4).then_some(())
            });
            list(true);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(seen_changes > 3, "the directory hardly changed while it was listed");
    cluster.assert_all_run();
}
