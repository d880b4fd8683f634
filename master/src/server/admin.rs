//! Operators' requests: all of them the leader's.

use std::time::Duration;

use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::MasterId;
use gabion_protocol::messages::master::{Admin, Response};

use super::shared::Master;
use crate::raft::{MasterNode, MembershipError};
use crate::state::Command;
use crate::state::reply::Outcome;

/// Longest wait for a new master to catch up, or for a change to be agreed; the request may be repeated.
const CHANGE_MAX: Duration = Duration::from_secs(20);

impl Master {
    /// Carries an operator's request out.
    ///
    /// # Errors
    /// What stands against it, or where the leader is.
    pub(super) async fn admin(&self, admin: Admin) -> Result<Response, WireError> {
        // Also says where the leader is.
        drop(self.view().await?);
        match admin {
            Admin::MarkHash => self.mark_hash().await,
            Admin::AddMaster {
                id,
                raft_address,
                client_address,
                replaces,
            } => {
                let node = MasterNode {
                    raft_address,
                    client_address,
                };
                let added = match replaces {
                    Some(lost) => self.raft.replace_member(lost.0, id.0, node, CHANGE_MAX).await,
                    None => self.raft.add_member(id.0, node, CHANGE_MAX).await,
                };
                self.changed(&format!("cannot add master {id}"), added)
            }
            Admin::RemoveMaster { id } => {
                let removed = self.raft.remove_member(id.0, CHANGE_MAX).await;
                self.changed(&format!("cannot remove master {id}"), removed)
            }
            Admin::TransferLeader { to } => self.transfer_leader(to).await,
            Admin::Snapshot => {
                let built = self.raft.build_snapshot().await;
                built.map_err(|error| self.propose_error("cannot build a snapshot", error))?;
                Ok(Response::Done)
            }
            Admin::StartScrub { request, servers } => self.start_scrub(request, servers).await,
            Admin::ScrubStatus => self.scrub_status().await,
            Admin::InventoryStatus => self.inventory_status().await,
            Admin::AcceptUnknown { server } => self.accept_unknown(server).await,
            Admin::DiskStatus => self.disk_status().await,
            Admin::InspectChunk { chunk } => self.inspect_chunk(chunk).await,
            Admin::RepairChunk { chunk } => self.repair_chunk(chunk).await,
            Admin::DrainDisk {
                server,
                disk,
                drain,
                force,
            } => self.drain_disk(server, disk, drain, force).await,
        }
    }

    async fn mark_hash(&self) -> Result<Response, WireError> {
        let command = Command::MarkHash;
        match self.propose(&command).await?.into_wire(&command.cannot())? {
            Outcome::Marked { index } => Ok(Response::Marked { index }),
            other => Err(WireError::new(
                ErrorCode::Internal,
                format!("{}: unexpected outcome {other:?}", command.cannot()),
            )),
        }
    }

    async fn transfer_leader(&self, to: Option<MasterId>) -> Result<Response, WireError> {
        if to == Some(self.id) {
            return Ok(Response::Done);
        }
        let successor = to.map(|id| id.0).or_else(|| self.best_successor());
        let Some(successor) = successor else {
            return Err(WireError::new(
                ErrorCode::Conflict,
                "cannot hand leadership over: no other master votes",
            )
            .action(Action::GiveUp));
        };
        let transferred = self.raft.transfer_leader(successor).await;
        self.changed(&format!("cannot make master {successor} the leader"), transferred)
    }

    /// The voter with the longest log.
    fn best_successor(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let votes = |id: &u64| *id != self.id.0 && metrics.voters.contains_key(id);
        let matched = metrics.matched.iter().filter(|(id, _)| votes(id));
        matched.max_by_key(|(_, index)| **index).map(|(id, _)| *id)
    }

    fn changed(&self, cannot: &str, changed: Result<(), MembershipError>) -> Result<Response, WireError> {
        let error = match changed {
            Ok(()) => return Ok(Response::Done),
            Err(MembershipError::Propose(error)) => return Err(self.propose_error(cannot, error)),
            Err(error) => error,
        };
        let code = match &error {
            MembershipError::Burnt(_) | MembershipError::Last(_) => ErrorCode::Conflict,
            MembershipError::Member(_) => ErrorCode::Exists,
            MembershipError::NotMember(_) => ErrorCode::NotFound,
            MembershipError::Slow { .. } => ErrorCode::Timeout,
            MembershipError::Propose(_) => ErrorCode::Internal,
        };
        // A person decides whether to repeat it.
        Err(WireError::new(code, format!("{cannot}: {error}")).action(Action::GiveUp))
    }
}
