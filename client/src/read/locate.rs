//! What the masters told of a file's extents, for as long as its tokens are good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gabion_protocol::ids::{ChunkId, Generation, Timeline, VolumeId};
use gabion_protocol::limits::{GRANT_CHUNKS_MAX, TOKEN_MS};
use gabion_protocol::messages::master::{Extent, Located, Query, Response};
use gabion_protocol::{FsPath, Ino, WireError};

use crate::client::{Inner, unexpected};

/// Extents asked for at once.
const PAGE: u32 = GRANT_CHUNKS_MAX as u32 * 4;
/// Extents are asked for anew at half their tokens' life.
const FRESH: Duration = Duration::from_millis(TOKEN_MS / 2);
/// Most extents kept of one file.
const EXTENTS_MAX: usize = 4096;

/// A range that no chunk holds: it reads as zeros.
fn hole(from: u64, to: u64) -> Extent {
    Extent {
        offset: from,
        length: to - from,
        chunk: ChunkId {
            volume: VolumeId(0),
            timeline: Timeline(0),
            counter: 0,
        },
        chunk_offset: 0,
        chunk_length: 0,
        chunk_crc: 0,
        generation: Generation(0),
        replicas: Vec::new(),
    }
}

/// Whether it stands for a range that no chunk holds: no other chunk is empty.
pub(super) fn is_hole(extent: &Extent) -> bool {
    extent.chunk_length == 0
}

/// Known extents by their offset in the file.
#[derive(Debug, Default)]
pub(super) struct Map(BTreeMap<u64, (Arc<Extent>, Instant)>);

impl Map {
    /// Takes what was told of the file from `asked` on.
    pub(super) fn learn(&mut self, asked: u64, located: Located) {
        if self.0.len() + located.extents.len() > EXTENTS_MAX {
            self.0.clear();
        }
        let now = Instant::now();
        let mut insert = |extent: Extent| {
            // What was told of this range before is over: many small extents may have become one.
            let range = extent.offset..extent.offset + extent.length;
            let over: Vec<u64> = self.0.range(range).map(|(offset, _)| *offset).collect();
            for offset in over {
                self.0.remove(&offset);
            }
            self.0.insert(extent.offset, (Arc::new(extent), now));
        };
        let mut at = asked;
        for extent in located.extents {
            if extent.offset > at {
                insert(hole(at, extent.offset));
            }
            at = extent.offset + extent.length;
            insert(extent);
        }
        if !located.more && at < located.entry.length {
            insert(hole(at, located.entry.length));
        }
    }

    /// The extent that holds `offset`, unless it is stale.
    pub(super) fn at(&self, offset: u64) -> Option<Arc<Extent>> {
        let (_, (extent, told)) = self.0.range(..=offset).next_back()?;
        let holds = offset < extent.offset + extent.length;
        (holds && told.elapsed() < FRESH).then(|| Arc::clone(extent))
    }

    /// Forgets the extent that begins at `offset`.
    pub(super) fn forget(&mut self, offset: u64) {
        self.0.remove(&offset);
    }
}

/// Asks for a page of extents from `offset` on.
pub(super) async fn ask(inner: &Inner, path: &FsPath, ino: Option<Ino>, offset: u64) -> Result<Located, WireError> {
    let session = inner.masters.session().await?;
    let query = Query::Locate {
        path: path.clone(),
        ino,
        offset,
        limit: PAGE,
        session: session.id(),
    };
    match inner.masters.query(query).await? {
        Response::Located(located) => Ok(located),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::{Entry, EntryKind};

    use super::*;

    fn located(extents: &[(u64, u64)]) -> Located {
        let extent = |(offset, length): &(u64, u64)| Extent {
            chunk_length: 1,
            ..hole(*offset, offset + length)
        };
        Located {
            entry: Entry {
                name: "f".to_owned(),
                ino: Ino(2),
                kind: EntryKind::File,
                length: 100,
                crc: 0,
                replicas: 3,
                chunk_bytes: 100,
                children: 0,
                mode: 0,
                modified_ms: 0,
                degraded: false,
            },
            extents: extents.iter().map(extent).collect(),
            servers: Vec::new(),
            more: true,
        }
    }

    #[test]
    fn what_is_told_later_counts_wherever_extents_began_before() {
        let mut map = Map::default();
        map.learn(0, located(&[(0, 10), (10, 10), (20, 10), (30, 10)]));
        map.forget(20);
        assert!(map.at(25).is_none());
        map.learn(20, located(&[(0, 35)]));
        for offset in [0, 9, 10, 25, 29, 34] {
            let extent = map.at(offset).unwrap();
            assert_eq!((extent.offset, extent.length), (0, 35), "at {offset}");
        }
        assert!(map.at(35).is_none(), "nobody has told since");
        map.learn(0, located(&[(0, 5), (5, 95)]));
        assert_eq!(map.at(34).unwrap().offset, 5);
    }
}
