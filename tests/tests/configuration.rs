//! Servers that are told the wrong thing refuse to start, say which setting is wrong and what to do, and harm nothing.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;

use gabion_protocol::keys::{Key, KeyFile};
use gabion_tests::cluster::Cluster;
use gabion_tests::command::Outcome;
use gabion_tests::{seconds, until};

/// Appends lines before the first table.
fn with_lines(config: &Path, lines: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{lines}\n{text}")).unwrap();
}

/// Replaces text that must be there.
fn replace(config: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(config, text.replace(from, to)).unwrap();
}

/// The server gives up within seconds, with one of these codes, and says all the words; no panic.
#[track_caller]
fn refuses(outcome: &Outcome, codes: &[i32], words: &[&str]) {
    assert!(
        codes.contains(&outcome.code()),
        "exit code {codes:?} expected: {outcome}"
    );
    if let Some(why) = outcome.unlike(outcome.code(), words) {
        panic!("{why}");
    }
}

fn run(cluster: &Cluster, node: &str, flags: &[&str]) -> Outcome {
    cluster.server_tool(node).args(flags).deadline(seconds(30)).run()
}

/// Unknown keys and wrong types are errors that name the key (code 2), in the file, the environment and flags alike;
/// a right configuration is said to be right, and printed as it takes effect: file, then environment, then flag.
#[test]
fn settings_are_checked_before_anything_starts() {
    let cluster = Cluster::plan().prepare();
    for (node, unknown) in [("m1", "client_lisen"), ("c1", "reserv")] {
        run(&cluster, node, &["--check-config"]).ok();
        let before = std::fs::read_to_string(&cluster.node(node).config).unwrap();
        with_lines(&cluster.node(node).config, &format!("{unknown} = \"x\""));
        refuses(&run(&cluster, node, &[]), &[2], &[unknown]);
        refuses(&run(&cluster, node, &["--check-config"]), &[2], &[unknown]);
        std::fs::write(&cluster.node(node).config, &before).unwrap();
        refuses(
            &run(&cluster, node, &["--set", &format!("{unknown}=1")]),
            &[2],
            &[unknown],
        );
        std::fs::write(&cluster.node(node).config, "this is not TOML").unwrap();
        refuses(&run(&cluster, node, &[]), &[2], &[&format!("{node}.toml")]);
        std::fs::write(&cluster.node(node).config, &before).unwrap();
    }
    let wrong = |node: &str, setting: &str, word: &str| {
        refuses(&run(&cluster, node, &["--set", setting]), &[2], &[word]);
    };
    wrong("m1", "id=one", "id");
    wrong("m1", "timing.lost=5 parsecs", "lost");
    wrong("m1", "cluster.replicas=0", "replicas");
    wrong("m1", "cluster.chunk_size=3", "chunk_size");
    wrong("m1", "client_listen=nowhere", "client_listen");
    wrong("c1", "dirs=[]", "dirs");
    wrong("c1", "masters=[]", "masters");
    wrong("c1", "reserve=lots", "reserve");
    let missing = Cluster::plan().prepare();
    std::fs::remove_file(&missing.node("m1").config).unwrap();
    refuses(&run(&missing, "m1", &[]), &[2, 3], &["m1.toml"]);

    let printed = |tool: gabion_tests::command::Tool| tool.arg("--print-config").run().ok().text();
    let tool = || cluster.server_tool("m1").env("GABION_MASTER_TIMING__LOST", "33s");
    assert!(printed(cluster.server_tool("m1")).contains("lost = \"15s\""));
    assert!(printed(tool()).contains("lost = \"33s\""));
    assert!(printed(tool().args(["--set", "timing.lost=44s"])).contains("lost = \"44s\""));
    // What is printed is a configuration.
    let again = cluster.path().join("again.toml");
    std::fs::write(&again, printed(cluster.server_tool("c1"))).unwrap();
    std::fs::rename(&again, &cluster.node("c1").config).unwrap();
    run(&cluster, "c1", &["--check-config"]).ok();
    assert!(
        !cluster.node("m1").dir.exists() && !cluster.node("c1").dir.exists(),
        "nothing was made"
    );
}

/// A port that is taken, a directory in use: the second server gives up and says so; the first serves on.
#[test]
fn what_another_process_holds_is_not_shared() {
    let mut cluster = Cluster::plan().start();
    for (node, setting) in [("m1", "client_listen"), ("c1", "listen")] {
        // The same settings again: whatever is found taken first is named.
        let outcome = run(&cluster, node, &[]);
        assert_ne!(outcome.code(), 0, "{outcome}");
        let said = outcome.stderr.to_lowercase();
        assert!(
            said.contains("in use") || said.contains("lock") || said.contains("already"),
            "{outcome}"
        );
        // The same directory, other ports.
        let host = cluster.spare_address(9);
        let (host, _) = host.rsplit_once(':').unwrap();
        let other = format!("{setting}={host}:7901");
        let mut flags = vec!["--set", &other];
        let (advertise, raft) = (
            format!("client_advertise={host}:7901"),
            format!("raft_listen={host}:7902"),
        );
        if node == "m1" {
            flags.extend([
                "--set",
                &advertise,
                "--set",
                &raft,
                "--set",
                "members=[]",
                "--set",
                "join=true",
            ]);
        }
        let outcome = run(&cluster, node, &flags);
        let dir = cluster.node(node).dir.display().to_string();
        refuses(&outcome, &[4], &[&dir, "process", "another directory"]);
    }
    // Another's port, its own directory.
    let taken = cluster.node("c1").address.clone();
    let fresh = cluster.path().join("fresh");
    let dirs = format!("dirs=[{fresh:?}]");
    let outcome = run(&cluster, "c2", &["--set", &format!("listen={taken}"), "--set", &dirs]);
    refuses(&outcome, &[1, 4, 5], &[&taken, "in use"]);
    cluster.assert_all_run();
    assert_eq!(cluster.not_ready(), None);
}

/// A directory of another cluster, another master's or another chunkserver's: refused, untouched, and its owner can
/// still use it.
#[test]
fn anothers_directory_is_refused() {
    let mut ours = Cluster::plan().start();
    ours.gabion().args(["upload", "-", "/f"]).run_with(b"ours").ok();
    for name in ["m1", "m2", "c1", "c2"] {
        ours.stop(name);
    }
    let theirs = Cluster::plan().prepare();
    let set_dir = |node: &str, dir: &Path| match node.starts_with('m') {
        true => format!("dir={}", dir.display()),
        false => format!("dirs=[{dir:?}]"),
    };
    for node in ["m1", "c1"] {
        let outcome = run(&theirs, node, &["--set", &set_dir(node, &ours.node(node).dir)]);
        refuses(
            &outcome,
            &[1, 2, 4, 6],
            &["cluster", &ours.node(node).dir.display().to_string()],
        );
    }
    let outcome = run(&ours, "m1", &["--set", &set_dir("m1", &ours.node("m2").dir)]);
    refuses(&outcome, &[1, 2, 4, 6], &[&ours.node("m2").dir.display().to_string()]);
    // Which chunkserver a directory belongs to is known to the masters.
    ours.start("m1");
    ours.start("m2");
    ours.wait_ready();
    let outcome = run(&ours, "c1", &["--set", &set_dir("c1", &ours.node("c2").dir)]);
    refuses(&outcome, &[1, 2, 4, 6], &["c2"]);
    ours.start_all();
    ours.wait_ready();
    assert_eq!(ours.gabion().args(["cat", "/f"]).run().ok().stdout, b"ours");
    ours.assert_clean();
}

/// Keys: another holder's, one that others can read, none at all off loopback. A chunkserver with a forged key is
/// turned away by the masters and says so, and never counts as a server.
#[test]
fn keys_of_servers() {
    let mut cluster = Cluster::plan().chunkservers(4).prepare();
    let path = |name: &str| cluster.path().join(name).display().to_string();
    let key = |name: &str| format!("key_file={}", path(name));
    refuses(
        &run(&cluster, "m1", &["--set", &key("client.key")]),
        &[2, 6],
        &["client.key", "root"],
    );
    refuses(
        &run(&cluster, "c1", &["--set", &key("c2.key")]),
        &[2, 6],
        &["c2.key", "c1"],
    );
    refuses(
        &run(&cluster, "c1", &["--set", &key("missing.key")]),
        &[2, 3, 6],
        &["missing.key"],
    );
    let open = cluster.issue("chunkserver", "c1", "open.key");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    refuses(
        &run(&cluster, "c1", &["--set", &key("open.key")]),
        &[2, 6],
        &["open.key", "chmod 600"],
    );
    for node in ["m1", "c1"] {
        let config = cluster.node(node).config.clone();
        let text = std::fs::read_to_string(&config).unwrap();
        let keyless: String = text
            .lines()
            .filter(|line| !line.starts_with("key_file"))
            .fold(String::new(), |all, line| all + line + "\n");
        std::fs::write(&config, &keyless).unwrap();
        refuses(&run(&cluster, node, &[]), &[2, 6], &["key_file"]);
        let address = cluster.node(node).address.clone();
        let (_, port) = address.rsplit_once(':').unwrap();
        replace(&config, &address, &format!("0.0.0.0:{port}"));
        refuses(
            &run(&cluster, node, &["--set", "insecure=true"]),
            &[2, 6],
            &["loopback"],
        );
        std::fs::write(&config, text).unwrap();
    }

    let real = KeyFile::load(&cluster.path().join("c4.key")).unwrap();
    std::fs::remove_file(cluster.path().join("c4.key")).unwrap();
    let forged = KeyFile {
        key: Key::random(),
        ..real
    };
    forged.create(&cluster.path().join("c4.key")).unwrap();
    for name in ["m1", "m2", "m3", "c1", "c2", "c3", "c4"] {
        cluster.start(name);
    }
    until(
        "three chunkservers are there, and the fourth is told that its key is wrong",
        seconds(30),
        || {
            let servers = cluster.status_of(&cluster.leader()?)?.servers.len();
            let told = cluster.ended("c4") || cluster.node("c4").process().log().contains("WRONG_KEY");
            (servers == 3 && told).then_some(())
        },
    );
    let names: Vec<_> = cluster.status().servers.into_iter().map(|server| server.name).collect();
    assert!(!names.contains(&"c4".to_owned()), "{names:?}");
}

/// A cluster without keys runs on loopback and only if told so.
#[test]
fn a_cluster_without_keys_says_so() {
    let mut cluster = Cluster::plan().prepare();
    for name in cluster.masters().into_iter().chain(cluster.chunkservers()) {
        let config = cluster.node(&name).config.clone();
        let text = std::fs::read_to_string(&config).unwrap();
        let keyless: Vec<_> = text.lines().filter(|line| !line.starts_with("key_file")).collect();
        std::fs::write(&config, format!("insecure = true\n{}\n", keyless.join("\n"))).unwrap();
    }
    cluster.start_all();
    let gabion = || cluster.gabion().without("GABION_KEY_FILE").env("GABION_INSECURE", "1");
    until("a keyless client can write", seconds(30), || {
        let tool = gabion().args(["--wait", "2s", "upload", "--force", "-", "/f"]);
        (tool.run_with(b"x").code() == 0).then_some(())
    });
    assert_eq!(gabion().args(["cat", "/f"]).run().ok().stdout, b"x");
    // A client with a key is of another cluster.
    cluster.gabion().args(["cat", "/f"]).run().fails(6, &["WRONG_CLUSTER"]);
    cluster.assert_all_run();
}
