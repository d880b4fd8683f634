//! All suites as one program, because a program is linked once: nearly all of one is the client library and what it rests
//! on, the same in each.
//!
//! A suite is a module, and is run by its name: `cargo test --release -p gabion-tests repair::`, one test by its own name.
//! Each test brings the clusters it needs, and no test changes anything of the process that runs them all (its environment,
//! limits, working directory): the next one would inherit it.

mod access;
mod append;
mod append_model;
mod bad_input;
mod balance;
mod chunkservers;
mod configuration;
mod copies;
mod damage;
mod disks;
mod drain;
mod followers;
mod full_disk;
mod garbage;
mod interrupt;
mod inventory;
mod large_directory;
mod leader;
mod leases;
mod links;
mod merge;
mod names;
mod once;
mod quiet;
mod quotas;
mod records;
mod repair;
mod restart;
mod resume;
mod scrub;
mod serial;
mod sizes;
mod snapshot;
mod snapshots;
mod swapped_disks;
mod sync;
mod transfers;
mod trash;
mod trees;

/// A suite whose file lies here and that nobody named above would never run, and never be missed.
#[test]
fn every_suite_is_named() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let named = include_str!("main.rs");
    let suite = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("the directory of the suites can be read").path();
        path.file_stem().expect("it has a name").to_string_lossy().into_owned()
    };
    let suites = std::fs::read_dir(here).expect("the suites are where they were built from");
    let missing: Vec<_> = suites
        .map(suite)
        .filter(|suite| suite != "main" && !named.contains(&format!("\nmod {suite};\n")))
        .collect();
    assert_eq!(missing, [""; 0], "suites that are not named in tests/tests/main.rs");
}
