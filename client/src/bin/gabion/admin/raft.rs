//! `gabion admin raft`: the group of masters.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::messages::master::{Admin, Status};
use gabion_protocol::{ErrorCode, MasterId};
use serde::Serialize;

use super::status::{MasterRecord, or_dash};
use crate::args::{RaftAdd, RaftRemove, RaftStatus, TransferLeader};
use crate::context::Context;

#[derive(Serialize)]
struct RaftRecord {
    leader: Option<u64>,
    term: u64,
    last_log: u64,
    applied: u64,
    snapshot: Option<u64>,
    masters: Vec<RaftMember>,
}

/// A master as the leader and as it itself sees it.
#[derive(Serialize)]
struct RaftMember {
    #[serde(flatten)]
    seen_by_leader: MasterRecord,
    answers: bool,
    term: Option<u64>,
    last_log: Option<u64>,
    applied: Option<u64>,
    snapshot: Option<u64>,
    /// Why it does not answer.
    error: Option<String>,
}

pub(crate) async fn status(context: &Context, arguments: RaftStatus) -> Result<(), Failure> {
    let status = context.client.status().await?;
    // All at once: a silent one must not make the others wait.
    let asked = status.masters.iter().map(|master| async {
        let own = context.client.status_of(master.id).await;
        let error = own.as_ref().err().map(ToString::to_string);
        let own = own.ok();
        RaftMember {
            seen_by_leader: MasterRecord::new(master, &status),
            answers: own.is_some(),
            term: own.as_ref().map(|own| own.term),
            last_log: own.as_ref().map(|own| own.last_log),
            applied: own.as_ref().map(|own| own.applied),
            snapshot: own.and_then(|own| own.snapshot),
            error,
        }
    });
    let record = RaftRecord {
        leader: status.leader.map(|leader| leader.0),
        term: status.term,
        last_log: status.last_log,
        applied: status.applied,
        snapshot: status.snapshot,
        masters: futures_util::future::join_all(asked).await,
    };
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record)?,
        Format::Table => output.table(&raft_table(&record))?,
    }
    output.flush()?;
    for member in &record.masters {
        if let Some(error) = &member.error {
            context.say(&format!("m{} does not answer: {error}", member.seen_by_leader.id));
        }
    }
    Ok(())
}

fn raft_table(record: &RaftRecord) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("master"),
        Words("role"),
        Words("answers"),
        Numbers("term"),
        Numbers("log"),
        Numbers("applied"),
        Numbers("snapshot"),
        Numbers("lag"),
        Words("masters"),
    ]);
    for member in &record.masters {
        let seen = &member.seen_by_leader;
        table.row([
            format!("m{}", seen.id),
            seen.role.to_owned(),
            if member.answers { "yes" } else { "no" }.to_owned(),
            or_dash(member.term),
            or_dash(member.last_log),
            or_dash(member.applied),
            or_dash(member.snapshot),
            or_dash(seen.lag),
            text::printable(&seen.raft_address).into_owned(),
        ]);
    }
    table
}

pub(crate) async fn add(context: &Context, add: RaftAdd) -> Result<(), Failure> {
    let status = context.client.status().await?;
    if status.masters.iter().any(|master| master.id.0 == add.id) {
        return Err(Failure::code(
            ErrorCode::Exists,
            format!("cannot add m{}: it is a member already", add.id),
            "see: gabion admin raft status; a master that lost its directory joins under a new id",
        ));
    }
    if let Some(replaced) = add.replaces {
        require_member(&status, replaced)?;
    }
    let replaced = add
        .replaces
        .map(|id| format!(", and m{id} is removed for ever"))
        .unwrap_or_default();
    context.say(&format!(
        "plan: m{} ({}) copies the state, then gets a vote{replaced}\n{}",
        add.id,
        add.raft,
        votes(&status, 1, add.replaces.iter().count())
    ));
    if !add.apply {
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    let request = Admin::AddMaster {
        id: MasterId(add.id),
        raft_address: add.raft,
        client_address: add.client,
        replaces: add.replaces.map(MasterId),
    };
    context.client.admin(request).await?;
    context.say(&format!("m{} is a voter now", add.id));
    Ok(())
}

pub(crate) async fn remove(context: &Context, remove: RaftRemove) -> Result<(), Failure> {
    let status = context.client.status().await?;
    require_member(&status, remove.id)?;
    context.say(&format!(
        "plan: m{} is removed; its id is never used again\n{}",
        remove.id,
        votes(&status, 0, 1)
    ));
    if !remove.apply {
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    context
        .client
        .admin(Admin::RemoveMaster {
            id: MasterId(remove.id),
        })
        .await?;
    context.say(&format!(
        "m{} is removed; stop it, and delete its directory when you like",
        remove.id
    ));
    Ok(())
}

fn require_member(status: &Status, id: u64) -> Result<(), Failure> {
    if status.masters.iter().any(|master| master.id.0 == id) {
        return Ok(());
    }
    let known: Vec<_> = status.masters.iter().map(|master| format!("m{}", master.id)).collect();
    Err(Failure::code(
        ErrorCode::NotFound,
        format!("there is no master m{id}"),
        format!("the masters are {}", known.join(", ")),
    ))
}

/// What a change does to the majority.
fn votes(status: &Status, added: usize, removed: usize) -> String {
    let now = status.masters.iter().filter(|master| master.voter).count();
    let then = (now + added).saturating_sub(removed);
    let spare = then.saturating_sub(1) / 2;
    format!("      voters: {now} now, {then} then, of which {spare} may fail")
}

pub(crate) async fn transfer_leader(context: &Context, transfer: TransferLeader) -> Result<(), Failure> {
    if let Some(to) = transfer.to {
        require_member(&context.client.status().await?, to)?;
    }
    let to = transfer.to.map(MasterId);
    context.client.admin(Admin::TransferLeader { to }).await?;
    let leader = context.client.status().await?.leader;
    context.say(&leader.map_or_else(|| "no master leads yet".to_owned(), |leader| format!("m{leader} leads")));
    Ok(())
}

pub(crate) async fn snapshot(context: &Context) -> Result<(), Failure> {
    context.client.admin(Admin::Snapshot).await?;
    context.say("the leader builds a snapshot; see: gabion admin raft status");
    Ok(())
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::MasterInfo;
    use gabion_protocol::{ClusterId, StateTime};

    use super::*;

    #[test]
    fn plans_count_votes_and_strangers_are_told() {
        let master = |id: u64| MasterInfo {
            id: MasterId(id),
            raft_address: format!("h{id}:7101"),
            client_address: format!("h{id}:7001"),
            voter: true,
            matched: None,
        };
        let status = Status {
            cluster: ClusterId([7; 16]),
            answered_by: MasterId(2),
            leader: Some(MasterId(2)),
            term: 4,
            last_log: 100,
            applied: 99,
            snapshot: None,
            now: StateTime(5),
            level: 1,
            masters: [1, 2, 3].map(master).to_vec(),
            servers: vec![],
            files: 3,
            directories: 1,
            bytes: 5,
            copies: vec![],
            under_replicated: 0,
            damaged: 0,
        };
        assert_eq!(votes(&status, 0, 1), "      voters: 3 now, 2 then, of which 0 may fail");
        assert_eq!(votes(&status, 1, 1), "      voters: 3 now, 3 then, of which 1 may fail");
        assert_eq!(require_member(&status, 9).unwrap_err().exit_code(), 3);
    }
}
