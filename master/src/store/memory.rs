//! One memory cap for every RocksDB of the process: a shared block cache, and write buffers charged together.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env, LogLevel, Options,
    WriteBufferManager,
};

/// How much memory RocksDB may take.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Bytes of cached blocks, for all databases together.
    pub block_cache_bytes: usize,
    /// Bytes of one write buffer; a database has at most a few.
    pub write_buffer_bytes: usize,
    /// Bytes of write buffers, for all databases together: above it they are written out early.
    pub write_buffers_bytes: usize,
}

impl Default for MemoryLimits {
    /// Keeps a master's RocksDB near 100 MiB.
    fn default() -> Self {
        Self {
            block_cache_bytes: 32 << 20,
            write_buffer_bytes: 16 << 20,
            write_buffers_bytes: 64 << 20,
        }
    }
}

/// The shared cache and buffers; clones share them.
#[derive(Clone)]
pub struct Memory {
    limits: MemoryLimits,
    cache: Cache,
    buffers: WriteBufferManager,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Sets memory aside within `limits`.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            cache: Cache::new_lru_cache(limits.block_cache_bytes),
            // Without stalling: the limits of a single database stop a writer that outruns its disk.
            buffers: WriteBufferManager::new_write_buffer_manager(limits.write_buffers_bytes, false),
        }
    }

    fn common(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        let mut options = Options::default();
        if let Ok(mut env) = Env::new() {
            // Compactions give way: masters that apply the same log compact at the same moment.
            env.lower_thread_pool_cpu_priority();
            options.set_env(&env);
        }
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_manager(&self.buffers);
        options.set_write_buffer_size(self.limits.write_buffer_bytes);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(4 << 20);
        options.set_block_based_table_factory(&table);
        options
    }

    /// For the Raft log: short-lived entries, every batch synced, mostly dead before they leave the write buffer.
    pub(crate) fn log_options(&self) -> Options {
        let mut options = self.common();
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_max_write_buffer_number(4);
        options.set_max_total_wal_size(256 << 20);
        options.set_wal_bytes_per_sync(1 << 20);
        options.set_level_zero_slowdown_writes_trigger(32);
        options.set_level_zero_stop_writes_trigger(64);
        // A record cut short by a crash at the very end was never acknowledged; anything else that does not verify
        // is damage, and opening fails instead of giving a shorter log.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        options
    }

    /// For state rows: long-lived, read at random, written without a log of their own.
    pub(crate) fn state_options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_bloom_filter(10.0, false);
        // In parts: filters and indexes of large tables do not fit into the cache's shards.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_format_version(5);
        let mut options = self.common();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_max_write_buffer_number(3);
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }
}
