//! Changes of the masters' membership: one at a time, on the leader.
//!
//! A new member first follows until it has everything, then votes: a voter that lags would stall commits. An id that
//! was ever a member is never used again, because its directory may be gone and with it what it had promised.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::timeout;

use super::handle::{HAND_OVER_TIMEOUT, RaftHandle, stopped};
use super::types::{MasterNode, ProposeError};

/// Why the members were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The id must not be used again.
    #[error("master id {0} was a member before; ids are never used again: take a new one, with an empty directory")]
    Burnt(u64),
    /// The id is in use.
    #[error("master {0} is a member already")]
    Member(u64),
    /// There is no such member.
    #[error("master {0} is not a member")]
    NotMember(u64),
    /// It did not catch up.
    #[error("master {id} has not caught up within {} s; check that it runs and can be reached, then repeat", waited.as_secs())]
    Slow {
        /// The new member.
        id: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The last member cannot leave.
    #[error("master {0} is the only voter; add another one first")]
    Last(u64),
    /// As for any command.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl RaftHandle {
    /// Adds a master: it follows until it has caught up, then votes.
    ///
    /// # Errors
    /// [`MembershipError`]; after [`MembershipError::Slow`] it still follows, and the call may be repeated.
    pub async fn add_member(&self, id: u64, node: MasterNode, deadline: Duration) -> Result<(), MembershipError> {
        self.add_learner(id, node, deadline).await?;
        self.change(ChangeMembers::AddVoterIds([id].into()), deadline).await
    }

    /// Replaces a lost master by a new one under a new id, in one change of voters.
    ///
    /// # Errors
    /// As [`Self::add_member`].
    pub async fn replace_member(
        &self,
        lost: u64,
        id: u64,
        node: MasterNode,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        if !self.voters().contains(&lost) {
            return Err(MembershipError::NotMember(lost));
        }
        self.add_learner(id, node, deadline).await?;
        // Read after the learner has caught up: others may have changed the members meanwhile.
        let mut voters = self.voters();
        if !voters.remove(&lost) {
            return Err(MembershipError::NotMember(lost));
        }
        voters.insert(id);
        self.change(ChangeMembers::ReplaceAllVoters(voters), deadline).await
    }

    /// Removes a master. Its id is burnt.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_member(&self, id: u64, deadline: Duration) -> Result<(), MembershipError> {
        let voters = self.voters();
        if voters.contains(&id) {
            if voters.len() == 1 {
                return Err(MembershipError::Last(id));
            }
            return self.change(ChangeMembers::RemoveVoters([id].into()), deadline).await;
        }
        if !self.nodes().contains_key(&id) {
            return Err(MembershipError::NotMember(id));
        }
        self.change(ChangeMembers::RemoveNodes([id].into()), deadline).await
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.watched().membership_config.membership().voter_ids().collect()
    }

    fn nodes(&self) -> BTreeMap<u64, MasterNode> {
        let watched = self.watched();
        let nodes = watched.membership_config.membership().nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }

    async fn add_learner(&self, id: u64, node: MasterNode, deadline: Duration) -> Result<(), MembershipError> {
        // On the leader, with everything applied: otherwise a burnt id might not be known here.
        self.read_index_view().await?;
        if self.voters().contains(&id) {
            return Err(MembershipError::Member(id));
        }
        let applied = self.0.machine.applied();
        if applied.seen.contains(&id) && self.nodes().get(&id) != Some(&node) {
            return Err(MembershipError::Burnt(id));
        }
        let adding = self.0.raft.add_learner(id, node, true);
        match timeout(deadline, adding).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.raft_write_error(error).into()),
            Err(_) => Err(MembershipError::Slow { id, waited: deadline }),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, MasterNode>, deadline: Duration) -> Result<(), MembershipError> {
        match timeout(deadline, self.0.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.raft_write_error(error).into()),
            Err(_) => Err(ProposeError::OutcomeUnknown("the change was not agreed in time".to_owned()).into()),
        }
    }

    /// Makes `to` the leader; returns when it is, as seen from here.
    ///
    /// # Errors
    /// [`MembershipError::NotMember`] if it does not vote, or [`ProposeError`].
    pub async fn transfer_leader(&self, to: u64) -> Result<(), MembershipError> {
        if !self.voters().contains(&to) {
            return Err(MembershipError::NotMember(to));
        }
        // Before anybody hears of it: reads by lease end here.
        let term = self.watched().current_term;
        self.0.handing_over.store(term, std::sync::atomic::Ordering::SeqCst);
        let transferred = self.0.raft.trigger().transfer_leader(to).await;
        transferred.map_err(|fatal| stopped(&fatal))?;
        let mut leadership = self.leader_watch();
        let followed = timeout(
            HAND_OVER_TIMEOUT,
            leadership.wait_for(|leadership| leadership.leader == Some(to)),
        );
        match followed.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ProposeError::Fatal("raft has ended".to_owned()).into()),
            Err(_) => Err(ProposeError::RetrySoon(format!("master {to} has not taken over")).into()),
        }
    }

    /// If this master leads, lets the voter with the longest log take over.
    pub(crate) async fn hand_over(&self) {
        let metrics = self.metrics();
        if metrics.leader != Some(metrics.id) {
            return;
        }
        let best = metrics
            .matched
            .iter()
            .filter(|(id, _)| metrics.voters.contains_key(id) && **id != metrics.id)
            .max_by_key(|(_, matched)| **matched);
        if let Some((successor, _)) = best
            && let Err(error) = self.transfer_leader(*successor).await
        {
            tracing::warn!(successor, %error, "leadership was not handed over; an election follows");
        }
    }
}
