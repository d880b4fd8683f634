use std::io::Write;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::*;
use crate::raft::machine::{Applied, Machine, StateMachine};
use crate::raft::snapshots::Snapshots;
use crate::raft::types::{LoggedCommand, log_id};
use crate::state::LogAt;
use crate::state::rows::{Batch, RowsError};
use crate::store::memory::{Memory, MemoryLimits};
use crate::store::states::States;

struct NoCommands;

impl Machine for NoCommands {
    fn apply(&self, _: &mut Batch<'_>, _: LogAt, _: &[u8]) -> Result<Applied, RowsError> {
        Ok(Applied {
            reply: Vec::new(),
            mark_hash: false,
        })
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let memory = Memory::new(MemoryLimits::default());
        // The writer ends with its store.
        let (log, _writer) = LogStore::open(&dir.path().join("raft"), &memory, 4096, None).unwrap();
        let states = States::open(&dir.path().join("state"), &memory).unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots"), &memory).unwrap();
        let machine = StateMachine::with_gaps(Arc::new(NoCommands), states, snapshots, false, None).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_storage_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn memory() -> Memory {
    Memory::new(MemoryLimits::default())
}

fn command(term: u64, index: u64) -> Entry {
    let text = format!("command {index} of term {term}").repeat(20);
    Entry {
        log_id: log_id(term, 1, index),
        payload: EntryPayload::Normal(LoggedCommand(text.into())),
    }
}

async fn read(log: &mut LogStore, range: std::ops::Range<u64>) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries(range).await.unwrap()
}

/// A cache of a few entries: most reads go to the database.
const SMALL_CACHE: usize = 4096;

#[tokio::test]
async fn a_reopened_log_holds_what_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let expected: Vec<Entry> = (0..300).map(|index| command(1, index)).collect();
    {
        let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
        for part in expected.chunks(7) {
            log.blocking_append(part.to_vec()).await.unwrap();
        }
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        log.save_committed(Some(log_id(1, 1, 290))).await.unwrap();
        assert_eq!(read(&mut log, 0..1000).await, expected);
        drop(log);
        writer.join();
    }
    let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    assert_eq!(read(&mut log, 0..1000).await, expected);
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 1, 290)));
    assert_eq!(
        log.get_log_reader().await.read_vote().await.unwrap(),
        Some(Vote::new_committed(1, 1))
    );
    // Truncated, rewritten, purged: across the border of the cache and again after a restart.
    log.truncate_after(Some(log_id(1, 1, 99))).await.unwrap();
    log.blocking_append((100..150).map(|index| command(2, index)))
        .await
        .unwrap();
    log.purge(log_id(1, 1, 49)).await.unwrap();
    let expected: Vec<Entry> = (50..100)
        .map(|index| command(1, index))
        .chain((100..150).map(|index| command(2, index)))
        .collect();
    assert_eq!(read(&mut log, 0..1000).await, expected);
    drop(log);
    writer.join();
    let (mut log, _writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    assert_eq!(read(&mut log, 0..1000).await, expected);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 49)));
    assert_eq!(state.last_log_id, Some(log_id(2, 1, 149)));
}

#[tokio::test]
async fn every_acknowledged_append_and_vote_is_synced() {
    let dir = TempDir::new().unwrap();
    let mut options = memory().log_options();
    options.enable_statistics();
    let (mut log, _writer) = LogStore::open_with(&options, dir.path(), SMALL_CACHE, None).unwrap();
    let syncs = || options.get_ticker_count(rocksdb::statistics::Ticker::WalFileSynced);
    let mut before = syncs();
    for index in 0..5 {
        log.blocking_append([command(1, index)]).await.unwrap();
        let after = syncs();
        assert!(after > before, "an append was acknowledged without a sync");
        log.save_vote(&Vote::new(1, index)).await.unwrap();
        assert!(syncs() > after, "a vote was acknowledged without a sync");
        before = syncs();
    }
    // Committed log ids ride along: no sync of their own.
    log.save_committed(Some(log_id(1, 1, 3))).await.unwrap();
    log.truncate_after(Some(log_id(1, 1, 3))).await.unwrap();
    assert_eq!(syncs(), before);
    let stored = |log: &LogStore| log.shared.db.get(log_keys::COMMITTED).unwrap();
    assert_eq!(stored(&log), None, "nothing was written for it alone");
    log.blocking_append([command(1, 4)]).await.unwrap();
    let expected = codec::encode_log_id(Some(&log_id(1, 1, 3)));
    assert_eq!(stored(&log), Some(expected));
}

#[tokio::test]
async fn entries_are_readable_before_they_are_durable() {
    let dir = TempDir::new().unwrap();
    let (mut log, _writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    for index in 0..3000 {
        log.append([command(1, index)], IOFlushed::noop()).await.unwrap();
        if index % 100 == 99 {
            let from = index - 99;
            assert_eq!(read(&mut log, from..index + 1).await.len(), 100);
        }
    }
    assert_eq!(read(&mut log, 0..3000).await.len(), 3000);
}

#[tokio::test]
async fn limited_reads_are_cut_by_bytes_and_never_empty() {
    let dir = TempDir::new().unwrap();
    let (mut log, _writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    let big = |index| Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(LoggedCommand(vec![7; READ_BYTES_MAX + 1].into())),
    };
    log.blocking_append((0..4).map(big)).await.unwrap();
    let mut reader = log.get_log_reader().await;
    for start in 0..4 {
        let entries = reader.limited_get_log_entries(start, 4).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].log_id.index, start);
    }
    let streamed: Vec<_> = futures_util::StreamExt::collect(reader.entries_stream(0..4).await).await;
    assert_eq!(streamed.len(), 4);
}

/// A power cut may leave a last record, never synced, of which only the beginning is there and the rest reads as zeros.
#[tokio::test]
async fn a_log_that_ends_in_zeros_after_a_power_cut_opens_without_its_unsynced_end() {
    let dir = TempDir::new().unwrap();
    let big = |index| Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(LoggedCommand(vec![7; 200_000].into())),
    };
    {
        let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
        for index in 0..3 {
            log.blocking_append([big(index)]).await.unwrap();
        }
        drop(log);
        writer.join();
    }
    let logs = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let newest = logs
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max()
        .unwrap();
    let file = std::fs::File::options().write(true).open(newest).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 100_000).unwrap();
    file.set_len(length + 500_000).unwrap();
    let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 1, 1)));
    log.blocking_append([big(2)]).await.unwrap();
    drop(log);
    writer.join();
    let (mut log, _writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 1, 2)));
}

#[tokio::test]
#[should_panic(expected = "is appended after")]
async fn an_append_that_leaves_a_hole_panics() {
    let dir = TempDir::new().unwrap();
    let (mut log, _writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
    log.blocking_append([command(1, 0)]).await.unwrap();
    let _ = log.blocking_append([command(1, 2)]).await;
}

/// Writes ten entries, lets `harm` change the database behind the log's back, and opens the log again.
async fn open_after(harm: impl FnOnce(&DB)) -> Result<(), LogError> {
    let dir = TempDir::new().unwrap();
    {
        let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
        log.blocking_append((0..10).map(|index| command(1, index)))
            .await
            .unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        drop(log);
        writer.join();
    }
    let db = DB::open(&memory().log_options(), dir.path()).unwrap();
    harm(&db);
    drop(db);
    LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).map(|_| ())
}

#[tokio::test]
async fn damage_is_found_at_open() {
    assert!(open_after(|_| ()).await.is_ok());
    let flipped = open_after(|db| {
        let mut value = db.get(log_keys::entry(4)).unwrap().unwrap();
        value[40] ^= 1;
        db.put(log_keys::entry(4), value).unwrap();
    });
    assert!(matches!(flipped.await, Err(LogError::Damaged { place, .. }) if place == "entry 4"));
    let hole = open_after(|db| db.delete(log_keys::entry(4)).unwrap());
    assert!(matches!(hole.await, Err(LogError::Hole { .. })));
    let no_head = open_after(|db| db.delete(log_keys::entry(0)).unwrap());
    assert!(matches!(no_head.await, Err(LogError::Hole { .. })));
    let vote = open_after(|db| db.put(log_keys::VOTE, b"x").unwrap());
    assert!(matches!(vote.await, Err(LogError::Damaged { .. })));
    // An intact entry of the right index and term, from before a truncation: only the chain of CRCs tells.
    let resurrected = open_after(|db| {
        let (bytes, _) = codec::encode_entry(
            &Entry {
                log_id: log_id(1, 1, 4),
                payload: EntryPayload::Normal(LoggedCommand("another history".into())),
            },
            77,
        )
        .unwrap();
        db.put(log_keys::entry(4), bytes).unwrap();
    });
    assert!(matches!(resurrected.await, Err(LogError::Hole { .. })));
}

#[tokio::test]
async fn a_damaged_write_ahead_log_is_an_error_not_a_shorter_log() {
    let dir = TempDir::new().unwrap();
    {
        let (mut log, writer) = LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).unwrap();
        for index in 0..50 {
            log.blocking_append([command(1, index)]).await.unwrap();
        }
        drop(log);
        writer.join();
    }
    let wal = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ext| ext == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::OpenOptions::new()
        .write(true)
        .open(&wal)
        .and_then(|mut file| file.write_all(&bytes))
        .unwrap();
    assert!(LogStore::open(dir.path(), &memory(), SMALL_CACHE, None).is_err());
}
