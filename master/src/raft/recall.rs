//! Asks the peers, before a master takes part, what they remember of it (see [`super::promises`]).
//!
//! Silence is fine: whoever starts first has nobody to ask, and must start all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use gabion_protocol::error::ErrorCode;

use super::links::{Links, Purpose};
use super::log_store::LogStore;
use super::machine::Inner;
use super::node::StartError;
use super::promises::{Promise, lost};
use super::types::MasterNode;
use super::wire::{Request, Response};

/// Longest wait for peers that do not answer: it delays a start.
const ASK: Duration = Duration::from_millis(500);

/// Why this master must not take part with what it has on disk, if a peer knows.
pub(crate) async fn forgotten(
    links: &Arc<Links>,
    log: &LogStore,
    machine: &Inner,
    listed: &BTreeMap<u64, MasterNode>,
) -> Option<StartError> {
    let applied = machine.applied();
    let snapshot = machine
        .snapshots()
        .current()
        .and_then(|snapshot| snapshot.applied().last);
    // What a snapshot covers is in no log.
    let last = log.last().max(applied.last).max(snapshot);
    let voted = log.vote().map(|vote| vote.leader_id);
    let mut peers = listed.clone();
    peers.extend(applied.membership.nodes().map(|(id, node)| (*id, node.clone())));
    peers.remove(&links.local().id);
    let asked = peers.iter().map(|(id, node)| async move {
        let answer = links.ask((*id, node), Purpose::Control, &Request::Acked, Bytes::new(), ASK);
        match answer.await {
            Ok(Response::Acked { voted, matched }) => {
                let voted = voted.map(Into::into);
                let matched = matched.map(|(leader, last)| (leader.into(), last.into()));
                Some((*id, Promise { voted, matched }))
            }
            Ok(unexpected) => {
                tracing::warn!(peer = id, ?unexpected, "unexpected answer");
                None
            }
            Err(error) if error.code == ErrorCode::StaleDirectory => None,
            Err(error) => {
                tracing::debug!(peer = id, %error, "a peer was not asked what it remembers");
                None
            }
        }
    });
    let answers = join_all(asked).await;
    answers.into_iter().flatten().find_map(|(peer, known)| {
        let what = lost(&known, voted, last)?;
        Some(StartError::Forgotten { peer, what })
    })
}
