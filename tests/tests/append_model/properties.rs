//! What must hold in every state, and what must happen in some: a fault that never strikes proves nothing.

use stateright::Property;

use super::agreed::{Phase, Row};
use super::words::{Append, GROUPS, Message, Server, State, Step, Told};

pub(crate) const DURABLE: &str = "P1: what is in the file is on the disks of its set, two servers at least";
pub(crate) const RIGHT: &str = "P2: what a reader saw is what was agreed, and stays the file's beginning";
pub(crate) const ONCE: &str = "exactly once: an acknowledged record is there once, where its writer was told";
pub(crate) const HONEST: &str = "honest: what failed is not there";

pub(crate) const BYTES_LOST: &str = "a crash takes bytes that a writer still waits for";
pub(crate) const REWRITTEN: &str = "a group is acknowledged on its second chain, and is on the first as well";
pub(crate) const LATE_PUT: &str = "bytes come for a copy that was ordered dropped";
pub(crate) const UNNAMED: &str = "a copy that no row names is left by bytes that came late";
pub(crate) const ENTRY_LOST: &str = "an entry is lost with its leader, and comes again";
pub(crate) const ENTRY_KEPT: &str = "an entry of the leader before is agreed on";
pub(crate) const REPEATED: &str = "a command that has run is logged again";
pub(crate) const FORGOTTEN: &str = "a command that the session is past is logged again";
pub(crate) const FENCED: &str = "a stock ends before its splice, and the records go on with another";
pub(crate) const OLD_NUMBER: &str = "an order for an older copy finds a newer one";
pub(crate) const OLD_TERM: &str = "an order of a leader that was replaced comes after one of the next";
pub(crate) const REPAIRED: &str = "a copy that was left out is made in the background";
pub(crate) const ROTTEN: &str = "a reader passes a rotten copy";

/// All of them. Those that must happen sometimes are looked for where a model has the faults for them.
pub(crate) fn all() -> Vec<Property<Append>> {
    vec![
        Property::<Append>::always(DURABLE, |_, state| is_durable(state)),
        Property::<Append>::always(RIGHT, |_, state| {
            let agreed = state.agreed.groups().map(|(content, _)| content);
            state.seen.len() <= state.agreed.file.len()
                && agreed.zip(&state.seen).all(|(content, seen)| content == *seen)
        }),
        Property::<Append>::always(ONCE, |_, state| is_once(state)),
        Property::<Append>::always(HONEST, |_, state| {
            let count = state.agreed.occurrences();
            (0..GROUPS).all(|group| state.told[group] != Told::Failed || count[group] == 0)
        }),
        Property::<Append>::sometimes(BYTES_LOST, |_, state| state.bytes_lost),
        Property::<Append>::sometimes(REWRITTEN, was_rewritten),
        Property::<Append>::sometimes(LATE_PUT, |model, state| {
            puts(model, state).any(|(chunk, server)| state.servers[server as usize].dropped[chunk])
        }),
        Property::<Append>::sometimes(UNNAMED, |_, state| {
            state.servers.iter().enumerate().any(|(server, here)| {
                let held = here.copies.iter().zip(&state.agreed.chunks);
                held.into_iter()
                    .any(|(copy, rows)| copy.is_some() && rows.copies[server] == Row::None)
            })
        }),
        Property::<Append>::sometimes(ENTRY_LOST, |_, state| {
            state.lost > 0 && state.writers.iter().all(|writer| writer.step == Step::Over) && !failed(state)
        }),
        Property::<Append>::sometimes(ENTRY_KEPT, |_, state| {
            state.kept > 0 && state.pending.is_empty() && !state.agreed.file.is_empty()
        }),
        Property::<Append>::sometimes(REPEATED, |_, state| {
            let pending = &state.pending;
            pending
                .iter()
                .any(|splice| state.agreed.has_run(splice) && !state.agreed.is_past(splice))
        }),
        Property::<Append>::sometimes(FORGOTTEN, |_, state| {
            state.pending.iter().any(|splice| state.agreed.is_past(splice))
        }),
        Property::<Append>::sometimes(FENCED, |_, state| {
            state.writers.iter().any(|writer| match writer.step {
                Step::Splicing(splice) => splice.sequence > writer.ended + 1,
                Step::Putting(_) | Step::Over => false,
            })
        }),
        Property::<Append>::sometimes(OLD_NUMBER, |_, state| {
            state.network.iter().any(|message| match *message {
                Message::Drop {
                    chunk, server, number, ..
                } => state.servers[server as usize].copies[chunk as usize]
                    .is_some_and(|copy| copy.synced && copy.number > number),
                _ => false,
            })
        }),
        Property::<Append>::sometimes(OLD_TERM, |_, state| {
            state.network.iter().any(|message| match *message {
                Message::Drop { server, term, .. } | Message::Copy { server, term, .. } => {
                    term < state.servers[server as usize].term
                }
                _ => false,
            })
        }),
        Property::<Append>::sometimes(REPAIRED, |_, state| {
            let live = |chunk: &u8| state.agreed.live(*chunk).any(|(_, number)| number > 1);
            state.agreed.file.iter().any(live)
        }),
        Property::<Append>::sometimes(ROTTEN, |_, state| state.rot_passed),
    ]
}

fn failed(state: &State) -> bool {
    state.told.contains(&Told::Failed)
}

/// Every copy that counts is synced on its server, and whole unless it rotted there; two count, and one is whole.
fn is_durable(state: &State) -> bool {
    state.agreed.file.iter().all(|chunk| {
        let agreed = state.agreed.content(*chunk);
        let mut count = 0;
        let mut any_whole = false;
        let all = state.agreed.live(*chunk).all(|(server, number)| {
            let copy = state.servers[server as usize].copies[*chunk as usize];
            count += 1;
            copy.is_some_and(|copy| {
                any_whole |= copy.group == agreed;
                copy.number == number && copy.synced && (copy.group == agreed || copy.group.is_none())
            })
        });
        agreed.is_some() && all && count >= 2 && any_whole
    })
}

fn is_once(state: &State) -> bool {
    let count = state.agreed.occurrences();
    (0..).zip(&state.told).all(|(group, told)| match told {
        Told::At(offset) => {
            count[usize::from(group)] == 1 && state.agreed.groups().any(|found| found == (Some(group), *offset))
        }
        Told::Nothing | Told::Failed => count[usize::from(group)] <= 1,
    })
}

/// An acknowledged group of which a given up chunk still has a synced copy.
fn was_rewritten(_: &Append, state: &State) -> bool {
    (0..).zip(&state.told).any(|(group, told)| {
        let is_left = |(chunk, rows): (usize, &super::agreed::ChunkRows)| {
            let held = state.servers.iter().filter_map(|server| server.copies[chunk]);
            let mut held = held.filter(|copy| copy.synced && copy.group == Some(group));
            matches!(rows.phase, Phase::Open | Phase::Garbage) && held.next().is_some()
        };
        matches!(told, Told::At(_)) && state.agreed.chunks.iter().enumerate().any(is_left)
    })
}

/// Chunks that were sent to servers.
fn puts<'a>(model: &'a Append, state: &'a State) -> impl Iterator<Item = (usize, Server)> + 'a {
    state.network.iter().filter_map(|message| match *message {
        Message::Put { chunk, hop, .. } => Some((chunk as usize, model.chain(chunk)[hop as usize])),
        _ => None,
    })
}
