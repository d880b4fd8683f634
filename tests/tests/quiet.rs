//! Full speed on the data path does not disturb the masters.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use gabion_tests::cluster::Cluster;
use gabion_tests::{GIB, MIB, content, scaled, seconds};

/// No election takes place while files are written at full speed on the disk the masters use too (DESIGN §5). Raft on
/// the runtime or the threads that serve data, or a log sync that waits behind gigabytes of page cache, would break it.
#[test]
fn writing_at_full_speed_causes_no_election() {
    let cluster = Cluster::plan().start();
    let len = scaled(256 * MIB, GIB);
    let local = cluster.scratch("big");
    let crc = content::file(&local, 1, len);
    let (term, leader) = (cluster.status().term, cluster.wait_leader());
    let mut upload = cluster
        .gabion()
        .arg("upload")
        .arg(&local)
        .arg("/big")
        .deadline(seconds(300))
        .start();
    let mut asked = 0;
    while upload.is_running() {
        for status in cluster.masters().iter().filter_map(|name| cluster.status_of(name)) {
            assert_eq!(
                status.term, term,
                "m{} saw an election during the upload",
                status.answered_by
            );
            asked += 1;
        }
    }
    let outcome = upload.wait().ok();
    eprintln!("{} MiB in {:?}, masters asked {asked} times", len / MIB, outcome.took);
    assert!(asked > 3, "the masters did not answer during the upload: void");
    assert_eq!((cluster.status().term, cluster.wait_leader()), (term, leader));
    let entry = cluster.stat("/big").expect("it is there");
    assert_eq!((entry.length, entry.crc, entry.degraded), (len, crc, false));
}
