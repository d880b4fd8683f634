//! Files of known content in a cluster: uploaded before a fault, compared after it.

use std::collections::BTreeSet;

use gabion_protocol::ChunkId;

use crate::cluster::Cluster;
use crate::{KIB, MIB, content};

/// Paths on the cluster and their bytes.
#[derive(Debug)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    /// Uploads `large` files of several chunks and `small` ones that live in the index, into `/d`.
    ///
    /// # Panics
    /// If they cannot be uploaded.
    #[track_caller]
    pub fn upload(cluster: &Cluster, large: u64, small: u64) -> Self {
        Self::upload_in(cluster, "2MiB", (large, 5 * MIB), small)
    }

    /// As [`Self::upload`], with so large files in chunks of another size.
    ///
    /// # Panics
    /// If they cannot be uploaded.
    #[track_caller]
    pub fn upload_in(cluster: &Cluster, chunk_size: &str, (large, len): (u64, u64), small: u64) -> Self {
        let sizes = (0..large).map(|seed| len + seed * 77_777);
        let sizes = sizes.chain((0..small).map(|seed| 100 + seed * 3 * KIB));
        let dir = cluster.scratch("files");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let mut files = Vec::new();
        for (seed, len) in sizes.enumerate() {
            let bytes = content::bytes(seed as u64, len);
            std::fs::write(dir.join(format!("f{seed}")), &bytes).expect("a file can be written");
            files.push((format!("/d/f{seed}"), bytes));
        }
        let tool = cluster.gabion().args(["upload", "-r", "--chunk-size", chunk_size]);
        tool.arg(dir.join(".")).arg("/d").run().ok();
        Self(files)
    }

    /// Asserts that every byte is what was uploaded.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_right(&self, cluster: &Cluster) {
        for (path, bytes) in &self.0 {
            let got = cluster.gabion().args(["cat", path]).run().ok();
            assert!(got.stdout == *bytes, "{path} is not what was uploaded");
        }
    }

    /// The chunks they consist of.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn chunks(&self, cluster: &Cluster) -> BTreeSet<ChunkId> {
        cluster.chunks_of(self.0.iter().map(|(path, _)| path))
    }
}
