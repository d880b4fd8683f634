//! What a start finds: records and files are compared, nothing is deleted.
//!
//! After a crash there may be open records without a file (it was not made yet), files without a record (it was not
//! committed yet) and open chunks nobody will go on writing. All are kept until a master orders them dropped. A sealed
//! record whose file is gone or has another length is damage, never absence.

use std::path::Path;

use gabion_protocol::ChunkId;

use super::directory::{DATA, chunk_path};
use super::error::DiskError;
use super::index::Index;
use super::inventory::Holdings;
use super::record::{Place, Record, State};

/// What a start found on one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records.
    pub chunks: u64,
    /// Bytes of the sealed chunks among them.
    pub sealed_bytes: u64,
    /// Open chunks among them: their writers are gone.
    pub open: u64,
    /// Files without a record.
    pub orphans: u64,
    /// Files in the data directories whose names are no chunk ids.
    pub strangers: u64,
    /// Sealed chunks whose file is gone or has another length.
    pub damaged: Vec<(ChunkId, Record, String)>,
}

/// Compares index and files of the disk in `dir`, and takes the records into `holdings`.
pub(crate) fn recover(dir: &Path, index: &Index, holdings: &Holdings) -> Result<Recovered, DiskError> {
    let mut found = Recovered::default();
    let mut undecodable = None;
    index.for_each_record(|chunk, record| {
        found.chunks += 1;
        match record {
            Ok(record) => {
                holdings.found(chunk, &record);
                see_record(dir, chunk, record, &mut found);
            }
            Err(why) => undecodable = Some(format!("chunk {chunk}: {why}")),
        }
    })?;
    if let Some(why) = undecodable {
        return Err(DiskError::Index {
            dir: dir.to_owned(),
            why,
        });
    }
    for_each_file(dir, |chunk, name| {
        match chunk {
            Some(chunk) if index.record(chunk)?.is_some() => {}
            Some(_) => found.orphans += 1,
            None => {
                tracing::warn!(name = %name.display(), "a file that is no chunk lies among the chunks");
                found.strangers += 1;
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn see_record(dir: &Path, chunk: ChunkId, record: Record, found: &mut Recovered) {
    if record.state == State::Sealed {
        found.sealed_bytes += record.length;
    }
    match (record.state, record.place) {
        (State::Open, _) => found.open += 1,
        (State::Sealed, Place::File) => {
            let what = match std::fs::metadata(chunk_path(dir, chunk)) {
                Ok(meta) if meta.len() == record.length => return,
                Ok(meta) => format!("its file has {} bytes instead of {}", meta.len(), record.length),
                Err(e) => format!("its file cannot be looked at: {e}"),
            };
            found.damaged.push((chunk, record, what));
        }
        (State::Sealed, Place::Blob) | (State::SetAside, _) => {}
    }
}

/// Calls `see` with every file among the chunks: its id if its name is one and it lies where that id belongs.
pub(crate) fn for_each_file(
    dir: &Path,
    mut see: impl FnMut(Option<ChunkId>, &Path) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    for low in 0..=u8::MAX {
        let sub = dir.join(DATA).join(format!("{low:02x}"));
        let entries = match std::fs::read_dir(&sub) {
            Ok(entries) => entries,
            Err(e) => return Err(DiskError::io("list", &sub, e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| DiskError::io("list", &sub, e))?.path();
            let chunk = path.file_name().and_then(|name| name.to_str()?.parse::<ChunkId>().ok());
            see(chunk.filter(|chunk| chunk.counter as u8 == low), &path)?;
        }
    }
    Ok(())
}
