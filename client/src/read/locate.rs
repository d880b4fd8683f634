//! What the masters told of a file's extents, for as long as its tokens are good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Known extents by their offset in the file.
#[derive(Debug, Default)]
pub(super) struct Map(BTreeMap<u64, (Arc<Extent>, Instant)>);

impl Map {
    pub(super) fn learn(&mut self, extents: Vec<Extent>) {
        if self.0.len() + extents.len() > EXTENTS_MAX {
            self.0.clear();
        }
        let now = Instant::now();
        for extent in extents {
            self.0.insert(extent.offset, (Arc::new(extent), now));
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
