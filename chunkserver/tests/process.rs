//! The program itself: settings, refusals with their exit codes, a graceful end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use gabion_protocol::keys::{Identity, KeyFile, Role};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gabion-chunkserver");

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn config(dir: &Path, more: &str) -> std::path::PathBuf {
    let path = dir.join("config.toml");
    let data = dir.join("data");
    let text = format!(
        "name = \"c1\"\ndirs = [{data:?}]\nlisten = \"127.0.0.1:{}\"\nmasters = [\"127.0.0.1:1\"]\n{more}\n",
        free_port()
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("--config")
        .arg(config)
        .args(arguments)
        .output()
        .unwrap()
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(output.stdout.is_empty(), "errors are not data");
}

#[test]
fn a_configuration_is_checked_and_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "insecure = true");
    assert!(run(&path, &["--check-config"]).status.success());
    let printed = run(&path, &["--print-config", "--set", "rack=r7"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(
        text.contains("rack = \"r7\"") && text.contains("write_memory = \"64MiB\""),
        "{text}"
    );
    let again = dir.path().join("again.toml");
    std::fs::write(&again, &text).unwrap();
    assert_eq!(run(&again, &["--print-config"]).stdout, text.as_bytes());
    assert!(!dir.path().join("data").exists(), "nothing was touched");
}

#[test]
fn wrong_settings_and_keys_have_their_codes() {
    let dir = tempfile::tempdir().unwrap();
    refused(&run(&config(dir.path(), ""), &[]), 2, &["key_file"]);
    refused(
        &run(&config(dir.path(), "insecure = true\nrakc = \"a\""), &[]),
        2,
        &["rakc"],
    );
    refused(
        &run(&config(dir.path(), "insecure = true"), &["--set", "reserve=lots"]),
        2,
        &["lots"],
    );
    refused(&run(&dir.path().join("none.toml"), &[]), 3, &["none.toml"]);
    let key = dir.path().join("c2.key");
    let identity = Identity {
        role: Role::Chunkserver,
        id: "c2".into(),
    };
    KeyFile::new_root().issue(identity).create(&key).unwrap();
    refused(
        &run(&config(dir.path(), &format!("key_file = {key:?}")), &[]),
        6,
        &["chunkserver c2", "chunkserver c1"],
    );
}

#[test]
fn a_directory_in_use_a_taken_port_and_another_cluster_are_refused_and_sigterm_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "insecure = true");
    let mut first = Command::new(PROGRAM)
        .arg("--config")
        .arg(&path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(first.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(log.any(|line| line.contains("listening")), "it starts without a master");
    refused(&run(&path, &[]), 4, &["cannot listen"]);
    let listen = format!("listen=127.0.0.1:{}", free_port());
    refused(
        &run(&path, &["--set", &listen]),
        4,
        &[&format!("process {}", first.id())],
    );
    let term = Command::new("kill").arg(first.id().to_string()).status().unwrap();
    assert!(term.success());
    assert!(first.wait().unwrap().success(), "a graceful stop is a success");

    let key = dir.path().join("c1.key");
    let identity = Identity {
        role: Role::Chunkserver,
        id: "c1".into(),
    };
    KeyFile::new_root().issue(identity).create(&key).unwrap();
    let elsewhere = config(dir.path(), &format!("key_file = {key:?}"));
    refused(&run(&elsewhere, &[]), 6, &["belongs to cluster"]);
    std::fs::write(dir.path().join("data/disk.id"), "gabion disk 1\nwhat?\n").unwrap();
    refused(&run(&path, &[]), 1, &["disk.id"]);
}

#[test]
fn a_disk_that_is_gone_for_good_is_given_up_by_word_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "insecure = true");
    let second = dir.path().join("second");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("dirs = [", &format!("dirs = [{second:?}, "));
    std::fs::write(&path, text).unwrap();
    // Starts, runs until it listens, stops; what it said until then.
    let start = || {
        let mut server = Command::new(PROGRAM)
            .arg("--config")
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(server.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for line in log.map_while(Result::ok) {
            said += &line;
            if line.contains("listening") {
                let stopped = Command::new("kill").arg(server.id().to_string()).status();
                assert!(stopped.unwrap().success());
            }
        }
        assert!(server.wait().unwrap().success(), "{said}");
        said
    };
    assert!(!start().contains("not in service"));
    std::fs::rename(&second, dir.path().join("away")).unwrap();
    let said = start();
    assert!(
        said.contains("no mount point") && said.contains("--adopt-disk"),
        "{said}"
    );
    assert!(!second.join("disk.id").exists());
    let adopt = |what: &str| run(&path, &["--adopt-disk", what]);
    refused(&adopt("/elsewhere"), 2, &["/elsewhere", "dirs"]);
    let data = dir.path().join("data");
    refused(&adopt(data.to_str().unwrap()), 2, &["already"]);
    let adopted = adopt(second.to_str().unwrap());
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    assert!(second.join("disk.id").exists());
    assert!(!start().contains("not in service"));
    assert!(second.join("index").is_dir());
}
