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
        let mut insert = |extent: Extent| self.0.insert(extent.offset, (Arc::new(extent), now));
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
