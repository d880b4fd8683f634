//! Reads: of the leader's state as of now, or, where asked for by name, of this master's as it is.

use std::time::Duration;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{Ino, MasterId, ServerId, SessionId};
use gabion_protocol::keys::{Identity, unhex};
use gabion_protocol::limits::MESSAGE_BYTES_MAX;
use gabion_protocol::messages::encode;
use gabion_protocol::messages::master::{
    Extent, Freshness, Located, MasterInfo, Page, Query, Response, ServerInfo, Status,
};
use gabion_protocol::path::FsPath;
use gabion_protocol::process::monotonic;

use super::access::{Judge, Signer};
use super::shared::{Master, read_many, read_view, row_error};
use crate::fleet;
use crate::plan::search::COPYING_MAX;
use crate::raft::{MasterNode, Metrics};
use crate::state::key::inode::Body;
use crate::state::key::server::Server;
use crate::state::read::{self, ReadError};
use crate::state::repair;
use crate::store::state_db::View;

/// Longest wait of a status for a fresh count of copies.
const CENSUS_WAIT: Duration = Duration::from_secs(2);

/// Bytes of entries in one page: a thousand long names would not fit one message.
const PAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4 * 3;

/// What a client asks of [`Query::Locate`].
struct Place {
    path: FsPath,
    ino: Option<Ino>,
    offset: u64,
    limit: u32,
    session: SessionId,
}

impl Master {
    /// Answers a read.
    ///
    /// # Errors
    /// The refusal, or where to ask instead.
    pub(super) async fn query(
        &self,
        asker: &Identity,
        query: Query,
        freshness: Freshness,
    ) -> Result<Response, WireError> {
        if let Query::StateHash { index } = query {
            // Of this very master, whoever leads.
            return self.state_hash(index);
        }
        let view = match freshness {
            Freshness::Linearizable => self.view().await?,
            Freshness::Stale => self.raft.stale_view(),
        };
        match query {
            Query::Stat { path } => {
                read_view(view, move |view| {
                    let entry =
                        read::stat(view, &path).map_err(|error| refused(&format!("cannot find {path}"), error))?;
                    Ok(Response::Entry(entry))
                })
                .await
            }
            Query::List { path, after, limit } => {
                read_many(view, move |view| {
                    let page = read::list(view, &path, after.as_deref(), limit);
                    page.map(|page| Response::Page(fitting(page)))
                        .map_err(|error| refused(&format!("cannot list {path}"), error))
                })
                .await
            }
            Query::Locate {
                path,
                ino,
                offset,
                limit,
                session,
            } => {
                let place = Place {
                    path,
                    ino,
                    offset,
                    limit,
                    session,
                };
                self.locate(asker, view, place).await
            }
            Query::Chunk { chunk } => {
                read_view(view, move |view| match read::chunk(view, chunk).map_err(row_error)? {
                    Some(row) => Ok(Response::Chunk(read::chunk_info(chunk, &row))),
                    None => Err(WireError::new(ErrorCode::NotFound, format!("no chunk {chunk}"))),
                })
                .await
            }
            Query::Status => self.status(view).await,
            Query::StateHash { index } => self.state_hash(index),
            Query::Trash { after, limit } => {
                read_many(view, move |view| {
                    let mut page = read::trash(view, after, limit).map_err(row_error)?;
                    page.more |= cut(&mut page.entries);
                    Ok(Response::Trash(page))
                })
                .await
            }
            Query::Trashed { what } => {
                read_view(view, move |view| {
                    let found = read::trashed(view, &what);
                    found
                        .map(Response::TrashEntry)
                        .map_err(|error| refused(&format!("cannot find {what} in the trash"), error))
                })
                .await
            }
            Query::Attributes { path } => {
                read_view(view, move |view| {
                    let found = read::attributes(view, &path);
                    found
                        .map(Response::Attributes)
                        .map_err(|error| refused(&format!("cannot find {path}"), error))
                })
                .await
            }
            Query::Resolve { path } => {
                read_view(view, move |view| {
                    let found = read::follow(view, &path);
                    found
                        .map(|(path, entry)| Response::Resolved { path, entry })
                        .map_err(|error| refused(&format!("cannot find {path}"), error))
                })
                .await
            }
            Query::Place { path } => {
                read_view(view, move |view| {
                    let found = read::place(view, &path);
                    found
                        .map(|(path, taken)| Response::Place { path, taken })
                        .map_err(|error| refused(&format!("cannot find {path}"), error))
                })
                .await
            }
            Query::Servers => self.server_states(view).await,
            Query::ServerPlan { server } => self.server_plan(view, server).await,
            Query::Snapshots { path, after, limit } => {
                read_many(view, move |view| {
                    let page = read::snapshots(view, path.as_ref(), after.as_ref(), limit);
                    let mut page = page.map_err(|error| refused("cannot list snapshots", error))?;
                    page.more |= cut(&mut page.snapshots);
                    Ok(Response::Snapshots(page))
                })
                .await
            }
            Query::Quota { path } => {
                read_view(view, move |view| {
                    let found = read::quota(view, &path);
                    found
                        .map(Response::Quota)
                        .map_err(|error| refused(&format!("cannot tell the quota of {path}"), error))
                })
                .await
            }
            Query::Troubled { trouble, after } => self.troubled(view, trouble, after).await,
            Query::Merges => self.merges(view).await,
            Query::BalancePlan => self.balance_plan(view).await,
            Query::Repairs => {
                read_many(view, |view| {
                    let copying = repair::copying(view, COPYING_MAX).map_err(row_error)?.len() as u64;
                    Ok(Response::Repairs { copying })
                })
                .await
            }
        }
    }

    async fn locate(&self, asker: &Identity, view: View, place: Place) -> Result<Response, WireError> {
        let (keys, asker) = (self.keys.clone(), asker.clone());
        let fleet = self.fleet.read(Clone::clone);
        let now = monotonic();
        read_view(view, move |view| {
            let cannot = format!("cannot read {}", place.path);
            let found = read::resolve(view, &place.path).map_err(|error| refused(&cannot, error))?;
            let (ino, at) = (found.ino, found.at);
            if place.ino.is_some_and(|expected| expected != ino) {
                let error = WireError::new(ErrorCode::Conflict, format!("{cannot}: it was replaced meanwhile"));
                return Err(error.help("begin again with the new file"));
            }
            if !matches!(found.inode.body, Body::File(_)) {
                return Err(WireError::new(
                    ErrorCode::IsDirectory,
                    format!("{cannot}: it is a directory"),
                ));
            }
            let name = place.path.name().unwrap_or("/");
            let entry = read::entry_at(view, name, ino, &found.inode, at).map_err(row_error)?;
            let (found, more) = read::extents(view, ino, at, place.offset, place.limit).map_err(row_error)?;
            let mut signer = Signer::new(&keys, view, &asker, place.session).map_err(row_error)?;
            let judge = Judge { fleet: &fleet, now };
            let mut extents = Vec::with_capacity(found.len());
            for extent in found {
                extents.push(Extent {
                    offset: extent.offset,
                    length: extent.extent.length,
                    chunk: extent.extent.chunk,
                    chunk_offset: extent.extent.chunk_offset,
                    chunk_length: extent.chunk.length,
                    chunk_crc: extent.chunk.crc,
                    generation: extent.chunk.generation,
                    replicas: signer.copies(&extent, judge).map_err(row_error)?,
                });
            }
            Ok(Response::Located(Located {
                entry,
                extents,
                servers: signer.accesses(),
                more,
            }))
        })
        .await
    }

    /// State time for a new session, and what a client needs to know of the cluster. From the leader: a master that
    /// lags could name a time so old that the session is refused.
    pub(super) async fn open_session(&self) -> Result<Response, WireError> {
        let view = self.view().await?;
        Ok(Response::Session {
            now: read::now(&view).map_err(row_error)?,
            defaults: self.defaults(&view)?,
            masters: self.members(),
        })
    }

    /// How to reach a chunkserver.
    pub(super) async fn access(&self, asker: &Identity, id: ServerId) -> Result<Response, WireError> {
        let (keys, asker) = (self.keys.clone(), asker.clone());
        let found = self.read_stale(move |view| {
            let now = read::now(view)?;
            let row = read::server(view, id)?;
            Ok(row.map(|server| keys.access(id, &server, &asker, now)))
        });
        match found.await? {
            Some(access) => Ok(Response::Access(access)),
            // This master may lag behind the registration.
            None if self.epoch().is_none() => Err(self.not_leader()),
            None => Err(WireError::new(ErrorCode::NotFound, format!("no chunkserver c{id}"))),
        }
    }

    fn state_hash(&self, index: u64) -> Result<Response, WireError> {
        Ok(Response::StateHash {
            hash: self.raft.state_hashes().get(&index).and_then(|hash| unhex(hash)),
            // The metrics may lag behind what is applied.
            applied: self.raft.stale_view().applied_index().map_err(row_error)?,
        })
    }

    async fn status(&self, view: View) -> Result<Response, WireError> {
        let fleet = self.fleet.read(Clone::clone);
        let count = self.census.count(view, &fleet, monotonic(), CENSUS_WAIT).await;
        let metrics = self.raft.metrics();
        let leader = self.heard_leader().map(|(id, _)| MasterId(id));
        let (id, cluster) = (self.id, self.keys.cluster);
        let now = monotonic();
        self.read_stale(move |view| {
            let totals = read::totals(view)?;
            let servers = read::servers(view)?.into_iter();
            let servers = servers.map(|(server, row)| server_info(&fleet, server, row, now));
            Ok(Response::Status(Box::new(Status {
                cluster,
                answered_by: id,
                leader,
                term: metrics.term,
                last_log: metrics.last_log,
                applied: metrics.applied,
                snapshot: (metrics.snapshot > 0).then_some(metrics.snapshot),
                now: read::now(view)?,
                level: read::level(view)?,
                masters: masters(&metrics),
                servers: servers.collect(),
                files: totals.files,
                directories: totals.directories,
                bytes: totals.bytes,
                copies: count.copies.clone(),
                under_replicated: count.under_replicated,
                damaged: count.damaged,
            })))
        })
        .await
    }
}

/// A chunkserver as its row and its beats tell.
pub(super) fn server_info(fleet: &fleet::View, server: ServerId, row: Server, now: Duration) -> ServerInfo {
    let seen = fleet.seen(server, row.incarnation);
    ServerInfo {
        server,
        health: fleet.health(server, row.incarnation, now),
        beat_age_ms: seen.map(|seen| millis(now.saturating_sub(seen.last))),
        load: seen.map(|seen| seen.load).unwrap_or_default(),
        name: row.name,
        address: row.address,
        rack: row.rack,
    }
}

/// As much of the page as fits one message; the client asks for the rest.
fn fitting(mut page: Page) -> Page {
    page.more |= cut(&mut page.entries);
    page
}

/// Cuts entries off that would not fit one message; whether there were any.
fn cut<T: serde::Serialize>(entries: &mut Vec<T>) -> bool {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        bytes += encode(*entry).len();
        bytes <= PAGE_BYTES_MAX
    });
    let fit = fit.count();
    let is_cut = fit < entries.len();
    entries.truncate(fit);
    is_cut
}

fn masters(metrics: &Metrics) -> Vec<MasterInfo> {
    let info = |voter| {
        move |(id, node): (&u64, &MasterNode)| MasterInfo {
            id: MasterId(*id),
            raft_address: node.raft_address.clone(),
            client_address: node.client_address.clone(),
            voter,
            matched: if *id == metrics.id {
                Some(metrics.last_log)
            } else {
                metrics.matched.get(id).copied()
            },
        }
    };
    let voters = metrics.voters.iter().map(info(true));
    voters.chain(metrics.learners.iter().map(info(false))).collect()
}

fn refused(cannot: &str, error: ReadError) -> WireError {
    match error {
        ReadError::Refused(refusal) => refusal.to_wire(cannot),
        ReadError::Rows(error) => row_error(error),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::limits::{LIST_PAGE_MAX, NAME_BYTES_MAX};
    use gabion_protocol::messages::master::{Entry, EntryKind};

    #[test]
    fn a_page_of_the_longest_names_fits_a_message() {
        let entry = Entry {
            name: "x".repeat(NAME_BYTES_MAX),
            ino: Ino(u64::MAX),
            kind: EntryKind::File,
            length: u64::MAX,
            crc: u32::MAX,
            replicas: 3,
            chunk_bytes: u64::MAX,
            children: u64::MAX,
            mode: u32::MAX,
            modified_ms: i64::MIN,
            degraded: true,
        };
        let page = |entries| Page {
            entries: vec![entry.clone(); entries],
            more: false,
        };
        let whole = page(LIST_PAGE_MAX);
        assert!(encode(&Ok::<_, WireError>(Response::Page(whole.clone()))).len() > MESSAGE_BYTES_MAX);
        let cut = fitting(whole);
        assert!(cut.more && cut.entries.len() > 100);
        assert!(encode(&Ok::<_, WireError>(Response::Page(cut))).len() <= MESSAGE_BYTES_MAX);
        assert_eq!(fitting(page(3)), page(3));
    }
}
