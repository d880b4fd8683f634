//! Exactly once: a command's reply is stored in the same batch as its effect, one slot per command in flight.
//!
//! A session begins with its first command and ends a period after its last. Its id holds the state time of its
//! hello, so that a session which is forgotten is told from one that has not begun: only the former can be old.

use gabion_protocol::ids::{RequestId, SessionId, StateTime};
use gabion_protocol::limits::REPLY_SLOTS;

use super::command::ClientRequest;
use super::key::reply::{Answered, ReplyKey};
use super::key::session::{Session, SessionKey};
use super::key::session_due::{Due, SessionDueKey};
use super::key::{self, Kind};
use super::reply::{Refusal, Reply};
use super::rows::{Batch, RowsError};
use super::tx::{Tx, World};
use super::{clock, run};

/// What a session says to a command.
enum Admission {
    /// It is new.
    New(Session),
    /// It ran: this was its reply.
    Ran(Reply),
    /// It may or must not run.
    Refused(Refusal),
}

/// Runs a client's command unless it ran before.
pub(super) fn once(batch: &mut Batch<'_>, world: World, request: &ClientRequest) -> Result<Reply, RowsError> {
    let session = match admit(batch, world, request)? {
        Admission::New(session) => session,
        Admission::Ran(reply) => return Ok(reply),
        Admission::Refused(refusal) => return Ok(Reply(Err(refusal))),
    };
    let reply = run(batch, world, |tx| super::client(tx, request))?;
    let mut tx = Tx::new(world, &*batch);
    remember(&mut tx, session, request, &reply)?;
    let changes = tx.into_changes();
    batch.absorb(changes);
    Ok(reply)
}

fn admit(batch: &Batch<'_>, world: World, request: &ClientRequest) -> Result<Admission, RowsError> {
    let RequestId { session: id, sequence } = request.request;
    let session = match key::get(batch, &SessionKey(id))? {
        Some(session) => session,
        None if is_young(id, world) => Session {
            expires: StateTime(0),
            answered_below: 1,
        },
        None => return Ok(Admission::Refused(Refusal::SessionExpired)),
    };
    if sequence < session.answered_below {
        return Ok(Admission::Refused(Refusal::AnsweredBefore));
    }
    // The client's word comes with the command, so that a window it has just moved is wide enough for it.
    let answered_below = request.answered_below.clamp(session.answered_below, sequence);
    if sequence - answered_below >= REPLY_SLOTS {
        return Ok(Admission::Refused(Refusal::WindowExceeded { answered_below }));
    }
    match key::get(batch, &ReplyKey::of(id, sequence))? {
        Some(answered) if answered.sequence == sequence => Ok(Admission::Ran(answered.reply)),
        _ => Ok(Admission::New(session)),
    }
}

/// Whether a session that is not known may begin. One from the future is not ours: it could outlive its own end.
fn is_young(id: SessionId, world: World) -> bool {
    let end = id.opened.plus(world.cluster.settings.session_ms);
    id.opened <= world.now && world.now < end
}

/// Keeps the session alive, stores the reply and forgets those the client knows.
fn remember(tx: &mut Tx<'_>, old: Session, request: &ClientRequest, reply: &Reply) -> Result<(), RowsError> {
    let RequestId { session: id, sequence } = request.request;
    let expires = tx.now().plus(tx.world.cluster.settings.session_ms);
    let session = Session {
        expires,
        answered_below: request.answered_below.clamp(old.answered_below, sequence),
    };
    if old.expires == StateTime(0) {
        let due = SessionDueKey {
            deadline: expires,
            session: id,
        };
        tx.put(&due, &Due);
    }
    if session != old {
        tx.put(&SessionKey(id), &session);
    }
    let known_from = old
        .answered_below
        .max(session.answered_below.saturating_sub(REPLY_SLOTS));
    for known in known_from..session.answered_below {
        let slot = ReplyKey::of(id, known);
        if tx.get(&slot)?.is_some_and(|answered| answered.sequence == known) {
            tx.delete(&slot);
        }
    }
    if !matches!(&reply.0, Err(refusal) if refusal.is_transient()) {
        let answered = Answered {
            sequence,
            reply: reply.clone(),
        };
        tx.put(&ReplyKey::of(id, sequence), &answered);
    }
    Ok(())
}

/// Ends sessions that are due, at most `limit`; whether more are.
pub(super) fn expire(tx: &mut Tx<'_>, swept: &mut StateTime, limit: usize) -> Result<bool, RowsError> {
    let (due, more) = clock::due::<SessionDueKey>(tx, Kind::SessionDue, swept, limit)?;
    for row in due {
        tx.delete(&row);
        let session = tx.require(&SessionKey(row.session))?;
        if session.expires > tx.now() {
            let later = SessionDueKey {
                deadline: session.expires,
                ..row
            };
            tx.put(&later, &Due);
            continue;
        }
        tx.delete(&SessionKey(row.session));
        let slots = key::scan_prefix::<ReplyKey>(tx.rows(), &ReplyKey::prefix(row.session), REPLY_SLOTS as usize)?;
        for (slot, _) in slots {
            tx.delete(&slot);
        }
    }
    Ok(more)
}
