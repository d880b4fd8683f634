//! Write leases: the right to be a file's only writer, until a state time.
//!
//! Without one, any number of writers change a file, in the order of the log. While someone holds one, nobody else
//! does. A writer that did not renew in time has lost it, whether or not anybody else came: others may have written in
//! between, so that it is told, and does not go on as if it had been alone.
//!
//! An ended lease's row may stay until the file's next lease or its end; it says nothing.

use gabion_protocol::ids::Ino;
use gabion_protocol::limits::{NAME_BYTES_MAX, WRITE_LEASE_MS_MAX};

use super::changes;
use super::key::write_lease::{WriteLease, WriteLeaseKey};
use super::reply::{Outcome, Refusal};
use super::rows::RowsError;
use super::tx::{Stop, Tx};
use super::uploads::bound;

/// The lease that stands now.
fn standing(tx: &Tx<'_>, file: Ino) -> Result<Option<WriteLease>, RowsError> {
    let lease = tx.get(&WriteLeaseKey(file))?;
    Ok(lease.filter(|lease| lease.until > tx.now()))
}

/// Whether one who says to hold `mine` may write.
pub(super) fn check(tx: &Tx<'_>, file: Ino, mine: Option<u64>) -> Result<(), Stop> {
    match (standing(tx, file)?, mine) {
        (None, None) => Ok(()),
        (Some(lease), Some(mine)) if lease.number == mine => Ok(()),
        (Some(WriteLease { holder, until, .. }), None) => Err(Refusal::Leased { holder, until }.into()),
        (lease, Some(_)) => {
            let holder = lease.map(|lease| lease.holder);
            Err(Refusal::LeaseLost { holder }.into())
        }
    }
}

/// Takes the lease of a file, or renews `mine`.
pub(super) fn take(tx: &mut Tx<'_>, file: Ino, mine: Option<u64>, ms: u64, holder: &str) -> Result<Outcome, Stop> {
    if !(1..=WRITE_LEASE_MS_MAX).contains(&ms) {
        return Err(Refusal::LeaseTime { asked: ms }.into());
    }
    bound(holder.len(), NAME_BYTES_MAX)?;
    changes::reachable(tx, file)?;
    check(tx, file, mine)?;
    let lease = WriteLease {
        number: mine.unwrap_or_else(|| tx.moment().0),
        until: tx.now().plus(ms),
        holder: holder.to_owned(),
    };
    tx.put(&WriteLeaseKey(file), &lease);
    Ok(Outcome::WriteLease {
        lease: lease.number,
        until: lease.until,
    })
}

/// Gives a lease back; another one stays.
pub(super) fn end(tx: &mut Tx<'_>, file: Ino, mine: Option<u64>) -> Result<Outcome, Stop> {
    let lease = tx.get(&WriteLeaseKey(file))?;
    if lease.is_some_and(|lease| Some(lease.number) == mine) {
        tx.delete(&WriteLeaseKey(file));
    }
    Ok(Outcome::Done)
}

/// A file goes, and its lease with it.
pub(super) fn forget(tx: &mut Tx<'_>, file: Ino) -> Result<(), RowsError> {
    if tx.get(&WriteLeaseKey(file))?.is_some() {
        tx.delete(&WriteLeaseKey(file));
    }
    Ok(())
}
