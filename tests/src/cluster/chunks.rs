//! Questions about chunks and their copies.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gabion_protocol::messages::master::{ChunkInfo, ChunkTrouble, Query, ReplicaState, Response, TroubledChunk};
use gabion_protocol::{ChunkId, ServerId};

use super::Cluster;
use crate::wait::{seconds, try_until, until};

/// Servers of a chunk's copies that are in this state.
#[must_use]
pub fn in_state(info: &ChunkInfo, wanted: ReplicaState) -> Vec<ServerId> {
    let found = info.replicas.iter().filter(|(_, _, state)| *state == wanted);
    found.map(|(server, _, _)| *server).collect()
}

impl Cluster {
    /// All chunks that are in this trouble.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn troubled(&self, trouble: ChunkTrouble) -> Vec<TroubledChunk> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let answer = self.query(&Query::Troubled { trouble, after });
            let Ok(Response::ChunkPage { chunks, next }) = answer else {
                panic!("chunks in trouble: {answer:?}");
            };
            all.extend(chunks);
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// Copies that are being made.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn copying(&self) -> u64 {
        match self.query(&Query::Repairs) {
            Ok(Response::Repairs { copying }) => copying,
            other => panic!("{other:?}"),
        }
    }

    /// What the masters know of a chunk.
    ///
    /// # Panics
    /// If they cannot tell.
    #[track_caller]
    pub fn chunk_row(&self, chunk: ChunkId) -> ChunkInfo {
        match self.query(&Query::Chunk { chunk }) {
            Ok(Response::Chunk(info)) => info,
            other => panic!("chunk {chunk}: {other:?}"),
        }
    }

    /// A server's name.
    ///
    /// # Panics
    /// If there is none of this number.
    #[track_caller]
    pub fn name_of(&self, server: ServerId) -> String {
        let servers = self.status().servers;
        let found = servers.into_iter().find(|one| one.server == server);
        found.unwrap_or_else(|| panic!("there is no c{server}")).name
    }

    /// The newest number a server of this name has.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn number_of(&self, name: &str) -> ServerId {
        let servers = self.status().servers;
        let found = servers.into_iter().rev().find(|one| one.name == name);
        found.unwrap_or_else(|| panic!("{name} is not registered")).server
    }

    /// The chunks of some files, the first 64 of each.
    ///
    /// # Panics
    /// If the masters cannot tell.
    #[track_caller]
    pub fn chunks_of<'a>(&self, paths: impl IntoIterator<Item = &'a String>) -> BTreeSet<ChunkId> {
        let extents = paths.into_iter().flat_map(|path| self.locate(path).extents);
        extents.map(|extent| extent.chunk).collect()
    }

    /// A chunk's file on a server, if the chunk has one.
    #[must_use]
    pub fn chunk_file(&self, server: &str, chunk: ChunkId) -> Option<PathBuf> {
        let files = crate::damage::chunk_files(&self.node(server).dir);
        let name = chunk.to_string();
        files
            .into_iter()
            .map(|(path, _)| path)
            .find(|path| path.ends_with(&name))
    }

    /// Waits until no chunk lacks a copy and nothing is being copied.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn await_whole(&self, deadline: Duration) {
        let began = Instant::now();
        let whole = try_until(deadline, || {
            (self.troubled(ChunkTrouble::Under).is_empty() && self.copying() == 0).then_some(())
        });
        assert!(
            whole.is_some(),
            "not whole after {deadline:?}: {:?}",
            self.troubled(ChunkTrouble::Under).first()
        );
        eprintln!("whole after {:?}", began.elapsed());
    }

    /// Waits until each chunk has exactly the copies it wants, and no order is left.
    ///
    /// # Panics
    /// After a minute.
    #[track_caller]
    pub fn await_exact(&self, chunks: &BTreeSet<ChunkId>, wanted: usize) {
        let exact = |id: &ChunkId| {
            let info = self.chunk_row(*id);
            info.replicas.len() == wanted && in_state(&info, ReplicaState::Live).len() == wanted
        };
        until("every chunk has exactly its copies", seconds(60), || {
            chunks.iter().all(exact).then_some(())
        });
    }
}
