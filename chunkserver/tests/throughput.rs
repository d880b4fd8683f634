//! How fast a chain stores, for people who change the pipeline: `cargo test --release -p gabion-chunkserver --test
//! throughput -- --ignored --nocapture`. The benchmark that counts compares with a bare relay in the same run; this one
//! only shows whether a change helps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::cluster::*;
use common::content;
use gabion_protocol::messages::data::FromServer;

const CHUNK: usize = 64 << 20;
const CHUNKS: u64 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_gibibyte_down_a_chain_of_three() {
    let cluster = TestCluster::start(3).await;
    let head = cluster.connect(0).await;
    let bytes = content(1, CHUNK);
    for lanes in [1, 2, 3] {
        let begun = std::time::Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for lane in 0..lanes {
            let (head, bytes) = (head.clone(), bytes.clone());
            let specs: Vec<_> = (0..CHUNKS)
                .filter(|n| n % lanes == lane)
                .map(|n| cluster.spec(lanes * 100 + n))
                .collect();
            writers.spawn(async move {
                for spec in specs {
                    let sealed = write_chunk(&head, spec, &bytes).await;
                    assert!(matches!(sealed, FromServer::Sealed { .. }), "{sealed:?}");
                }
            });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{lanes} chunks in flight: {:.0} MiB/s", CHUNKS as f64 * 64.0 / seconds);
    }
    let begun = std::time::Instant::now();
    for n in 0..CHUNKS {
        assert_eq!(read_chunk(&head, 100 + n, 1).await.unwrap().len(), CHUNK);
    }
    eprintln!(
        "cold read: {:.0} MiB/s",
        CHUNKS as f64 * 64.0 / begun.elapsed().as_secs_f64()
    );
    let begun = std::time::Instant::now();
    for n in 0..CHUNKS {
        assert_eq!(read_chunk(&head, 100 + n, 1).await.unwrap().len(), CHUNK);
    }
    eprintln!(
        "warm read: {:.0} MiB/s",
        CHUNKS as f64 * 64.0 / begun.elapsed().as_secs_f64()
    );
}
