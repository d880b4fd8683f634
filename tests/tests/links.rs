//! Symbolic links as their users know them, and what is told of files that move: nothing is written where a link leads
//! that nobody named, and nothing is lost in silence.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use gabion_tests::cluster::Cluster;
use gabion_tests::command::{Outcome, left_in};
use gabion_tests::{MIB, content, seconds, until};
use rustix::fs::XattrFlags;
use rustix::process::Signal;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn target(link: &Path) -> String {
    std::fs::read_link(link).unwrap().to_str().unwrap().to_owned()
}

struct Shell(Cluster);

impl Shell {
    fn run(&self, line: &[&str]) -> Outcome {
        self.0.gabion().args(line).run()
    }

    fn says(&self, line: &[&str]) -> String {
        self.run(line).ok().text()
    }

    /// Stores a text.
    fn put(&self, path: &str, text: &str) {
        self.0
            .gabion()
            .args(["upload", "--parents", "--force", "-", path])
            .run_with(text.as_bytes())
            .ok();
    }

    fn cat(&self, path: &str) -> String {
        self.says(&["cat", path])
    }
}

#[test]
fn links_stand_for_what_they_lead_to_or_for_themselves_as_each_command_has_it() {
    let shell = Shell(Cluster::plan().start());
    shell.put("/d/f", "one\n");
    for (link, at) in [
        (&["f"][..], "/d/l"),
        (&["/d"], "/dir"),
        (&["nowhere"], "/dangling"),
        (&["circle"], "/circle"),
        (&["/a/x", "../y"], "/d"),
    ] {
        let line = [&["ln", "-s"], link, &[at]].concat();
        shell.run(&line).ok();
    }
    assert_eq!(shell.0.names("/d"), ["f", "l", "x", "y"]);
    shell.run(&["rm", "/d/x", "/dir/y"]).ok();
    assert_eq!(
        shell.says(&["readlink", "/d/l", "/dir", "/dangling"]),
        "f\n/d\nnowhere\n"
    );
    assert_eq!(shell.says(&["readlink", "-f", "/dir/l"]), "/d/f\n");
    shell.run(&["readlink", "/d/f"]).fails(2, &["/d/f", "it is none"]);
    shell.run(&["ln", "-s", "f", "/d/l"]).fails(4, &["/d/l", "--force"]);
    shell.run(&["ln", "f", "/d/hard"]).fails(2, &["hard links", "ln -s"]);
    // Shown.
    let long = shell.says(&["ls", "-l", "/d"]);
    assert!(long.contains("link") && long.contains("l -> f"), "{long}");
    assert_eq!(shell.says(&["ls", "-1", "/dir"]), "f\nl\n");
    assert!(shell.says(&["ls", "-l", "/dir"]).contains("/dir -> /d"));
    assert!(shell.says(&["ls", "-l", "/dir/"]).contains("l -> f"));
    assert!(shell.says(&["ls", "-d", "/dir"]).contains("/dir -> /d"));
    assert_eq!(shell.says(&["ls", "-1", "/dangling"]), "/dangling\n");
    let stat = |line: &[&str]| shell.run(&[&["stat", "-o", "json"], line].concat()).ok().json()["entries"][0].clone();
    let link = stat(&["/dir/l"]);
    assert_eq!(
        (&link["kind"], &link["target"], &link["bytes"]),
        (&"link".into(), &"f".into(), &1.into())
    );
    assert_eq!(stat(&["-L", "/dir/l"])["kind"], "file");
    assert_eq!(
        shell.says(&["find", "/", "-type", "l"]),
        "/circle\n/d/l\n/dangling\n/dir\n"
    );
    assert_eq!(
        shell.says(&["tree", "/dir"]),
        "/dir\n├── f\n└── l -> f\n\n0 directories, 2 files\n"
    );
    let usage = shell.run(&["du", "-s", "-o", "json", "/d"]).ok().json();
    assert_eq!(
        (&usage["entries"][0]["bytes"], &usage["entries"][0]["entries"]),
        (&5.into(), &2.into())
    );
    // Followed.
    assert_eq!(shell.cat("/dir/l"), "one\n");
    assert_eq!(shell.says(&["ls", "-1", "/di*/*"]), "/dir/f\n/dir/l\n");
    shell.run(&["cat", "/dangling"]).fails(3, &["/nowhere does not exist"]);
    shell
        .run(&["cat", "/circle"])
        .fails(4, &["/circle leads over more than 40 symbolic links", "readlink"]);
    shell.0.gabion().args(["append", "-", "/dir/l"]).run_with(b"two\n").ok();
    assert_eq!(shell.cat("/d/f"), "one\ntwo\n");
    shell.run(&["truncate", "4", "/dir/l"]).ok();
    assert_eq!(shell.cat("/d/f"), "one\n");
    shell.run(&["chmod", "600", "/dir/l"]).ok();
    assert_eq!(stat(&["/d/f"])["mode"], "0600");
    shell.run(&["chown", "-h", "ann", "/dir/l"]).ok();
    assert_eq!(
        (stat(&["/d/l"])["owner"].clone(), stat(&["/d/f"])["owner"].clone()),
        ("ann".into(), "".into())
    );
    shell.run(&["cp", "/dir/l", "/copy"]).ok();
    assert_eq!(stat(&["/copy"])["kind"], "file");
    shell.run(&["cp", "-P", "/dir/l", "/d/m"]).ok();
    assert_eq!(stat(&["/d/m"])["target"], "f");
    // A file that may replace another goes where the link leads; one that may not finds the link in its place.
    let upload = |more: &[&str]| {
        let line = [&["upload"], more].concat();
        shell.0.gabion().args(line).run_with(b"new\n")
    };
    upload(&["-", "/dir/l"]).fails(4, &["/d/l exists"]);
    upload(&["--force", "-", "/dir/l"]).ok();
    assert_eq!(
        (shell.cat("/d/f"), shell.says(&["readlink", "/d/l"])),
        ("new\n".to_owned(), "f\n".to_owned())
    );
    upload(&["--force", "-", "/dangling"]).ok();
    assert_eq!(shell.cat("/nowhere"), "new\n");
    // Moved, removed and restored themselves.
    shell.run(&["mv", "/dir", "/moved"]).ok();
    shell.run(&["rm", "/moved"]).ok();
    assert_eq!(shell.cat("/d/f"), "new\n");
    shell.run(&["trash", "restore", "/moved"]).ok();
    assert_eq!(shell.cat("/moved/l"), "new\n");
    // In a snapshot, a relative link stays in it; nothing is written there by any way.
    shell.run(&["snapshot", "create", "/d@s"]).ok();
    shell.run(&["ln", "-s", "/d/.snapshot/s/l", "/then"]).ok();
    upload(&["--force", "-", "/d/f"]).ok();
    shell.0.gabion().args(["append", "-", "/d/f"]).run_with(b"er\n").ok();
    assert_eq!(
        (shell.cat("/d/.snapshot/s/l"), shell.cat("/then")),
        ("new\n".to_owned(), "new\n".to_owned())
    );
    shell
        .0
        .gabion()
        .args(["append", "-", "/then"])
        .run_with(b"x")
        .fails(4, &["in a snapshot"]);
    upload(&["--force", "-", "/then"]).fails(4, &["in a snapshot"]);
    shell.run(&["truncate", "0", "/then"]).fails(4, &["in a snapshot"]);
    assert_eq!(
        (shell.cat("/then"), shell.cat("/d/f")),
        ("new\n".to_owned(), "new\ner\n".to_owned())
    );
    shell.run(&["rm", "/d/l"]).ok();
    assert!(shell.says(&["snapshot", "diff", "/d@s"]).contains("- /l"));
    shell.run(&["snapshot", "restore", "/d@s"]).ok();
    assert_eq!(
        (shell.says(&["readlink", "/d/l"]), shell.cat("/d/l")),
        ("f\n".to_owned(), "new\n".to_owned())
    );
    assert_eq!(stat(&["/d/l"])["owner"], "ann");
}

/// As `open(2)` with `O_CREAT` does it: where a link leads to nothing, the file is made there, and the link stays. What is
/// there is not touched but for what was asked.
#[test]
fn a_file_is_made_where_a_link_leads() {
    let shell = Shell(Cluster::plan().masters(1).start());
    shell.run(&["mkdir", "/d"]).ok();
    for (to, at) in [
        ("d/touched", "/t"),
        ("../a", "/d/up"),
        ("d/up", "/a2"),
        ("none/x", "/far"),
        ("d", "/dir"),
    ] {
        shell.run(&["ln", "-s", to, at]).ok();
    }
    shell.run(&["touch", "-c", "/t"]).ok();
    assert_eq!(shell.0.stat("/d/touched"), None, "asked to make no file");
    shell.run(&["touch", "-d", "2001-02-03T04:05:06Z", "/t"]).ok();
    assert_eq!(shell.says(&["readlink", "/t"]), "d/touched\n");
    let made = shell.0.stat("/d/touched").unwrap();
    assert_eq!((made.length, made.modified_ms), (0, 981_173_106_000));
    // Over two links, the second of which goes up.
    let append = |path: &str| shell.0.gabion().args(["append", "--create", "-", path]).run_with(b"x");
    append("/a2").ok();
    assert_eq!(shell.cat("/a"), "x");
    append("/a2").ok();
    shell.run(&["touch", "/a2"]).ok();
    assert_eq!(shell.cat("/a"), "xx", "what is there stays");
    append("/dir/new").ok();
    assert_eq!(shell.cat("/d/new"), "x");
    // No directory is made, and none is written to.
    append("/far").fails(3, &["/none"]);
    shell.run(&["touch", "/far"]).fails(3, &["/none"]);
    append("/dir").fails(4, &["directory"]);
    assert_eq!(shell.0.names("/"), ["a", "a2", "d", "dir", "far", "t"]);
    // A snapshot gets no new names by such a way either.
    shell.run(&["snapshot", "create", "/d@s"]).ok();
    shell.run(&["ln", "-s", "/d/.snapshot/s/new2", "/then"]).ok();
    append("/then").fails(4, &["in a snapshot"]);
    shell.run(&["touch", "/then"]).fails(4, &["in a snapshot"]);
}

#[test]
fn trees_keep_their_links_both_ways() {
    let shell = Shell(Cluster::plan().masters(1).start());
    let here = shell.0.scratch("here");
    write(&here.join("d/f"), "1");
    for (to, at) in [("d/f", "l"), ("d", "dir"), ("/none/such", "dangling"), ("..", "d/up")] {
        symlink(to, here.join(at)).unwrap();
    }
    let stored = shell.0.gabion().args(["upload", "-r"]).arg(&here).arg("/t").run().ok();
    assert!(stored.stderr.contains("4 links"), "{}", stored.stderr);
    assert_eq!(shell.says(&["readlink", "/t/l", "/t/dangling"]), "d/f\n/none/such\n");
    let check = || shell.0.gabion().arg("check").arg(&here).arg("/t").run();
    check().ok();
    shell.0.verify().arg("tree").arg(&here).arg("/t").run().ok();
    // The same again finds them there.
    let again = shell
        .0
        .gabion()
        .args(["upload", "-r", "--force"])
        .arg(here.join("."))
        .arg("/t")
        .run();
    again.ok();
    let back = shell.0.scratch("back");
    shell.0.gabion().args(["download", "-r", "/t"]).arg(&back).run().ok();
    for at in ["l", "dir", "dangling", "d/up"] {
        assert_eq!(target(&back.join(at)), target(&here.join(at)));
    }
    // Followed: what leads nowhere or back is told, the rest is there.
    let flat = shell.0.scratch("flat");
    let followed = shell.0.gabion().args(["download", "-r", "-L", "/t"]).arg(&flat).run();
    followed.fails(8, &["dangling", "d/up", "leads back"]);
    assert_eq!(
        (read(&flat.join("l")), read(&flat.join("dir/f"))),
        ("1".to_owned(), "1".to_owned())
    );
    assert!(flat.join("dir").symlink_metadata().unwrap().is_dir());
    // What differs is made alike; what is of another kind only with leave.
    std::fs::remove_file(here.join("l")).unwrap();
    symlink("d/up", here.join("l")).unwrap();
    std::fs::remove_file(here.join("dangling")).unwrap();
    write(&here.join("dangling"), "a file now");
    check().fails(8, &[]);
    let sync = |more: &[&str]| {
        shell
            .0
            .gabion()
            .arg("sync")
            .args(more)
            .arg(&here)
            .arg("gabion:/t")
            .run()
    };
    sync(&[]).fails(8, &["dangling", "a link in the target"]);
    assert_eq!(shell.says(&["readlink", "/t/l"]), "d/up\n");
    sync(&["--delete"]).ok();
    check().ok();
    let down = |more: &[&str]| shell.0.gabion().args(["sync", "gabion:/t"]).arg(&back).args(more).run();
    down(&["--delete"]).ok();
    assert_eq!(
        (target(&back.join("l")), read(&back.join("dangling"))),
        ("d/up".to_owned(), "a file now".to_owned())
    );
    std::fs::remove_file(here.join("dir")).unwrap();
    sync(&["--delete"]).ok();
    down(&["--delete"]).ok();
    assert!(
        back.join("dir").symlink_metadata().is_err(),
        "the link went, and not what it led to"
    );
    assert_eq!(read(&back.join("d/f")), "1");
}

#[test]
fn a_tree_that_changes_between_downloads_writes_nothing_outside() {
    let shell = Shell(Cluster::plan().masters(1).start());
    let outside = shell.0.scratch("outside");
    let precious = outside.join("precious");
    write(&precious, "precious");
    let untouched = |when: &str| {
        assert_eq!(read(&precious), "precious", "{when}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "{when}");
    };
    let leads_out = outside.to_str().unwrap();
    shell.put("/t/z", "z");
    shell.run(&["ln", "-s", leads_out, "/t/a"]).ok();
    let out = shell.0.scratch("out");
    let download = |more: &[&str]| shell.0.gabion().args(["download", "-r"]).args(more).arg(&out).run();
    download(&["/t"]).ok();
    assert_eq!(target(&out.join("a")), leads_out);
    // Meanwhile somebody makes a directory of it.
    shell.run(&["rm", "/t/a"]).ok();
    shell.put("/t/a/precious", "overwritten");
    shell.put("/t/a/new", "planted");
    let refused = download(&["--force", "--preserve", "/t/."]);
    refused.fails(8, &["out/a", "symbolic link"]);
    untouched("downloaded over the link of an earlier run");
    let sync = |more: &[&str]| shell.0.gabion().arg("sync").args(more).arg("gabion:/t").arg(&out).run();
    sync(&["--preserve"]).fails(8, &["a is a directory in the source and a link in the target"]);
    untouched("synced over the link");
    sync(&["--delete"]).ok();
    untouched("synced, and the link removed");
    assert_eq!(read(&out.join("a/new")), "planted");
    // A link in a file's place is replaced, and not followed.
    std::fs::remove_file(out.join("z")).unwrap();
    symlink(&precious, out.join("z")).unwrap();
    download(&["--force", "/t/."]).ok();
    untouched("a file in the place of a link");
    assert_eq!(read(&out.join("z")), "z");
    // Both in one command: a link of one source where the other has a directory.
    shell.run(&["mkdir", "/x"]).ok();
    shell.run(&["ln", "-s", leads_out, "/x/a"]).ok();
    let both = shell.0.scratch("both");
    let mixed = |sources: [&str; 2]| {
        let _ = std::fs::remove_dir_all(&both);
        let line = shell.0.gabion().args(["download", "-r", "--force"]).args(sources);
        line.arg(&both).run().fails(8, &["/x/a"]);
        untouched("a link and a directory of one name");
    };
    mixed(["/x/.", "/t/."]);
    mixed(["/t/.", "/x/."]);
}

/// Somebody puts a link in a directory's place while a download is under way: what was to come below it is refused.
#[test]
fn a_link_that_appears_during_a_download_is_not_written_through() {
    let shell = Shell(Cluster::plan().masters(1).start());
    let outside = shell.0.scratch("outside");
    let precious = outside.join("precious");
    write(&precious, "precious");
    std::fs::set_permissions(&precious, std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = precious.metadata().unwrap();
    let here = shell.0.scratch("here");
    std::fs::create_dir_all(here.join("a")).unwrap();
    content::file(&here.join("a/large"), 1, 128 * MIB);
    std::fs::create_dir_all(here.join("b")).unwrap();
    content::file(&here.join("b/precious"), 2, MIB);
    symlink("precious", here.join("b/l")).unwrap();
    shell
        .0
        .gabion()
        .args(["upload", "-r", "--preserve"])
        .arg(&here)
        .arg("/t")
        .run()
        .ok();
    let out = shell.0.scratch("out");
    let download = shell.0.gabion().args(["download", "-rpf", "-j", "1", "/t"]).arg(&out);
    let mut running = download.start();
    until("it is in the middle of the first file", seconds(30), || {
        assert!(running.is_running(), "it ended before that: void");
        let begun = out.is_dir() && left_in(&out).iter().any(|(_, length)| *length > MIB);
        begun.then_some(())
    });
    running.signal(Signal::STOP);
    std::fs::remove_dir(out.join("b")).expect("nothing was written there yet, else: void");
    symlink(&outside, out.join("b")).unwrap();
    running.signal(Signal::CONT);
    running.wait().fails(8, &["/t/b/precious", "/t/b/l", "symbolic link"]);
    assert!(content::same(&out.join("a/large"), &here.join("a/large")));
    let names: Vec<_> = left_in(&outside).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        (names, read(&precious)),
        (vec!["precious".into()], "precious".to_owned())
    );
    let after = precious.metadata().unwrap();
    assert_eq!(
        (after.mode(), after.mtime()),
        (before.mode(), before.mtime()),
        "what is told of it"
    );
}

#[test]
fn what_is_told_of_files_is_kept_or_its_loss_is_told() {
    let shell = Shell(Cluster::plan().masters(1).start());
    let here = shell.0.scratch("here");
    let (file, directory) = (here.join("d/f"), here.join("d"));
    write(&file, "1");
    symlink("f", here.join("d/l")).unwrap();
    let set_mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let has_attributes = rustix::fs::lsetxattr(&file, "user.k", b"v\0", XattrFlags::empty()).is_ok();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    set_mode(&file, 0o640);
    set_mode(&directory, 0o750);
    for path in [&file, &directory] {
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let upload = || {
        let line = shell.0.gabion().args(["upload", "-r", "--preserve", "--force"]);
        line.arg(here.join(".")).arg("/t").run().ok();
    };
    upload();
    let stat = |path: &str| shell.run(&["stat", "-o", "json", path]).ok().json()["entries"][0].clone();
    assert_eq!(
        (&stat("/t/d/f")["mode"], &stat("/t/d")["mode"]),
        (&"0640".into(), &"0750".into())
    );
    assert_eq!(stat("/t/d")["modified"], "2001-09-09T01:46:40Z");
    let mine = stat("/t/d/f")["owner"].clone();
    assert!(mine != "" && mine == stat("/t/d/l")["owner"], "of a link, too: {mine}");
    if has_attributes {
        assert_eq!(shell.run(&["xattr", "get", "/t/d/f", "user.k"]).ok().stdout, b"v\0");
    }
    // And back, also by sync, whatever the umask, and when only that differs.
    let back = shell.0.scratch("back");
    let as_was = |root: &Path| {
        let (file, directory) = (root.join("d/f").metadata().unwrap(), root.join("d").metadata().unwrap());
        assert_eq!((file.mode() & 0o7777, directory.mode() & 0o7777), (0o640, 0o750));
        assert_eq!((file.mtime(), directory.mtime()), (1_000_000_000, 1_000_000_000));
        let mut value = [0; 9];
        if has_attributes {
            assert_eq!(rustix::fs::getxattr(root.join("d/f"), "user.k", &mut value).unwrap(), 2);
        }
    };
    shell
        .0
        .gabion()
        .args(["download", "-r", "--preserve", "/t"])
        .arg(&back)
        .run()
        .ok();
    as_was(&back);
    set_mode(&back.join("d/f"), 0o600);
    set_mode(&back.join("d"), 0o700);
    shell
        .0
        .gabion()
        .args(["sync", "--preserve", "gabion:/t"])
        .arg(&back)
        .run()
        .ok();
    as_was(&back);
    shell.run(&["chmod", "-R", "711", "/t/d"]).ok();
    shell
        .0
        .gabion()
        .args(["sync", "--preserve"])
        .arg(&here)
        .arg("gabion:/t")
        .run()
        .ok();
    assert_eq!(
        (&stat("/t/d/f")["mode"], &stat("/t/d")["mode"]),
        (&"0640".into(), &"0750".into())
    );
    // An owner nobody here knows: the file is there, and the loss is told, also to those who want to hear of errors only.
    shell.run(&["chown", "who-is-that:nobody-knows", "/t/d/f"]).ok();
    let lossy = shell.0.scratch("lossy");
    let fetched = shell
        .0
        .gabion()
        .args(["download", "-q", "-r", "--preserve", "/t"])
        .arg(&lossy)
        .run();
    fetched.fails(8, &["warning", "d/f", "who-is-that", "nobody-knows"]);
    as_was(&lossy);
    // Without the option, nobody asked.
    let plain = shell.0.scratch("plain");
    shell.0.gabion().args(["download", "-r", "/t"]).arg(&plain).run().ok();
}
