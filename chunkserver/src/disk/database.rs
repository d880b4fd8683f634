//! RocksDB as the index of a disk has it: its directory, how it is set up, and how it is opened after a power cut.

use std::path::Path;

use gabion_protocol::torn;
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBRecoveryMode, Env, Options};

use super::error::DiskError;

/// The index's directory in its disk's directory.
pub(crate) const DIR_NAME: &str = "index";

// One memory cap for the index of a disk: cache, two write buffers, and the tables' own indexes inside the cache.
const CACHE_BYTES: usize = 16 << 20;
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// Above a full record of a common chunk, below most small chunks' bytes.
const BLOB_BYTES_MIN: u64 = 8 << 10;

/// Bytes of RocksDB's logs in the disk's directory, as far as can be told.
pub(super) fn log_bytes(disk_dir: &Path) -> u64 {
    let entries = std::fs::read_dir(disk_dir.join(DIR_NAME))
        .into_iter()
        .flatten()
        .flatten();
    let logs = entries.filter(|entry| {
        Path::new(&entry.file_name())
            .extension()
            .is_some_and(|ext| ext == "log")
    });
    logs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Opens RocksDB; makes it only if `make` is set. Zeros at the log's end that a power cut left are cut off.
pub(super) fn open_db(disk_dir: &Path, make: bool) -> Result<DB, DiskError> {
    let failed = |why: String| DiskError::Index {
        dir: disk_dir.to_owned(),
        why,
    };
    let mut options = options();
    options.create_if_missing(make);
    let path = disk_dir.join(DIR_NAME);
    let db = match DB::open(&options, &path) {
        Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => {
            let cut = torn::cut_zeros(&path).map_err(|e| failed(e.to_string()))?;
            let Some(cut) = cut else {
                return Err(failed(error.into_string()));
            };
            tracing::warn!(
                ?cut,
                "the index's log ended in zeros after a power cut; opening it again"
            );
            DB::open(&options, &path)
        }
        opened => opened,
    };
    db.map_err(|e| failed(e.into_string()))
}

/// All settings; `make` apart.
pub(super) fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_bloom_filter(10.0, false);
    // In parts: with a small chunk in nearly every block, the index of one table outgrows the cache's shards, and was read and
    // unpacked again for each read that followed: five times the CPU.
    tables.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    tables.set_partition_filters(true);
    tables.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    if let Ok(mut env) = Env::new() {
        // Compactions give way to requests: servers that were filled alike compact at the same moment.
        env.lower_thread_pool_cpu_priority();
        options.set_env(&env);
    }
    options.set_block_based_table_factory(&tables);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES as u64);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    // Allowed, but of no part of the files until `reclaim` says of which.
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(0.0);
    // A torn last record is a write nobody was told of. Anything else that is wrong in the WAL is damage to rows that
    // were acknowledged: the default mode would silently stop replaying there.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options
}
