//! What the crate promises to its users, on real disks and sockets: all suites as one program, because RocksDB is in each
//! that is linked; those that start processes are in `processes.rs`. A suite is run by its name:
//! `cargo test --release -p gabion-chunkserver scrub::`.

mod builds;
mod chain;
mod common;
mod copies;
mod disk;
mod disks;
mod inventory;
mod masters;
mod offline;
mod scrub;

/// A suite whose file lies here and that nobody named above would never run, and never be missed.
#[test]
fn every_suite_is_named() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let named = concat!(include_str!("main.rs"), include_str!("processes.rs"));
    let suite = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("the directory of the suites can be read").path();
        path.file_stem().expect("it has a name").to_string_lossy().into_owned()
    };
    let suites = std::fs::read_dir(here).expect("the suites are where they were built from");
    let missing: Vec<_> = suites
        .map(suite)
        .filter(|suite| !["main", "processes"].contains(&suite.as_str()))
        .filter(|suite| !named.contains(&format!("\nmod {suite};\n")))
        .collect();
    assert_eq!(missing, [""; 0], "suites that are named in neither file");
}
