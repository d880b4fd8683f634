//! What a run says of the machine, and of processes on it: CPU seconds and resident memory from `/proc`.

use std::path::Path;

use anyhow::{Context, Result};

/// One process's use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Usage {
    /// CPU seconds, user and system.
    pub(crate) cpu_seconds: f64,
    /// Resident bytes.
    pub(crate) resident_bytes: u64,
}

/// What process `pid` has used so far.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The command name may hold spaces; fields are counted after its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: pages * rustix::param::page_size() as u64,
    })
}

/// The nodes of a cluster made by `ops/cluster`, with their process ids.
pub(crate) fn cluster_processes(dir: &Path) -> Result<Vec<(String, u32)>> {
    let nodes = std::fs::read_to_string(dir.join("nodes"))
        .with_context(|| format!("{} is no cluster made by ops/cluster", dir.display()))?;
    nodes
        .lines()
        .map(|node| {
            let pid =
                std::fs::read_to_string(dir.join(node).join("pid")).with_context(|| format!("{node} does not run"))?;
            Ok((
                node.to_owned(),
                pid.trim().parse().with_context(|| format!("{node}'s pid file"))?,
            ))
        })
        .collect()
}

/// Touches `bytes` of fresh memory and gives it back: the first touch of a page after boot is slow on virtual
/// machines, and must not be charged to what is measured.
pub(crate) fn touch_free_memory(bytes: usize) {
    let mut memory = vec![0u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

/// Drops the chunkservers' data files from the page cache, so that the next read of them comes from the disk.
pub(crate) fn make_cluster_cold(dir: &Path) -> Result<()> {
    let mut found = false;
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.context("looking for the chunkservers' files")?;
        let is_data = entry.path().components().any(|part| part.as_os_str() == "data");
        if is_data && entry.file_type().is_file() {
            crate::roofline::make_cold(entry.path())?;
            found = true;
        }
    }
    anyhow::ensure!(found, "{} holds no chunkserver's data", dir.display());
    Ok(())
}

/// Reads a file once, so that it is in page cache.
pub(crate) fn warm(path: &Path) -> Result<()> {
    std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
    Ok(())
}
