//! Which servers get the copies of new chunks.
//!
//! Rules, strongest first: never two copies on one server; no server that is suspect, lost, retired, drained, in
//! maintenance or full; at
//! least min(2, wanted) copies, else nothing is placed; copies in more than one rack where there is more than one;
//! servers the writer found slow come last. Among equals, two are drawn and the one with more room and fewer streams
//! is taken: load spreads, and no server is every client's first choice at once.
//!
//! Pure: the seed comes with the request.

use std::collections::BTreeSet;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::{Condition, Health};

/// A server as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The server.
    pub server: ServerId,
    /// Its name, for people.
    pub name: String,
    /// Servers of one rack fail together.
    pub rack: String,
    /// Bytes free for chunks, its reserve not counted.
    pub bytes_free: u64,
    /// Streams open now.
    pub streams: u32,
    /// Whether it beats.
    pub health: Health,
    /// Disks that serve.
    pub disks_ok: u16,
    /// An empty directory took its name over.
    pub retired: bool,
    /// What it is there for.
    pub condition: Condition,
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Copies wanted of each chunk.
    pub wanted: u8,
    /// Chunks.
    pub count: usize,
    /// Bytes of a chunk, at most.
    pub chunk_bytes: u64,
    /// Servers the writer found slow or dead: taken only if there are too few others.
    pub avoid: Vec<ServerId>,
    /// Randomness.
    pub seed: u64,
}

/// Why nothing was placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementFailure {
    /// Fewer servers can take a copy than the promise needs.
    #[error("{usable} chunkservers can take a copy, {needed} are needed")]
    TooFewServers {
        /// Servers that can.
        usable: usize,
        /// Servers the promise needs.
        needed: usize,
        /// The others, each with the reason.
        passed_over: Vec<(String, String)>,
    },
    /// Too few of the servers that are well have room for a chunk.
    #[error("{usable} chunkservers have room for a chunk, {needed} are needed")]
    NoSpace {
        /// Servers that have.
        usable: usize,
        /// Servers the promise needs.
        needed: usize,
        /// The others, each with the reason.
        passed_over: Vec<(String, String)>,
    },
}

impl PlacementFailure {
    /// The error as it travels; its message begins with `cannot`, for example `cannot upload to /a`.
    #[must_use]
    pub fn to_wire(&self, cannot: &str) -> WireError {
        let message = format!("{cannot}: {self}");
        let (error, passed_over) = match self {
            Self::TooFewServers { passed_over, .. } => (
                WireError::new(ErrorCode::TooFewServers, message)
                    .why("a write is acknowledged only when enough servers hold it")
                    .help("start more chunkservers, or ask for fewer copies"),
                passed_over,
            ),
            Self::NoSpace { passed_over, .. } => (
                WireError::new(ErrorCode::NoSpace, message)
                    .why("the servers that are well are full")
                    .help("remove files, or add chunkservers"),
                passed_over,
            ),
        };
        passed_over
            .iter()
            .fold(error, |error, (name, why)| error.tried(name, why))
    }
}

/// Chooses a chain of servers for each chunk.
///
/// # Errors
/// [`PlacementFailure`] names every server that was passed over, and why.
pub fn place(request: &Placement, candidates: &[Candidate]) -> Result<Vec<Vec<ServerId>>, PlacementFailure> {
    let wanted = usize::from(request.wanted);
    let (mut usable, passed_over) = sift(request, candidates);
    let needed = wanted.min(2);
    if usable.len() < needed {
        return Err(failure(usable.len(), needed, passed_over));
    }
    let mut random = Random(request.seed);
    let mut chains = Vec::with_capacity(request.count);
    for _ in 0..request.count {
        chains.push(chain(request, &mut usable, &mut random));
    }
    Ok(chains)
}

/// Chooses up to `request.wanted` servers for more copies of one chunk: none of `taken`, and in more than one rack
/// together with `good`, the servers whose copies stay. Fewer, or none, if no more can take one.
#[must_use]
pub fn extend(request: &Placement, good: &[ServerId], taken: &[ServerId], candidates: &[Candidate]) -> Vec<ServerId> {
    let (mut usable, _) = sift(request, candidates);
    usable.retain(|choice| !taken.contains(&choice.candidate.server));
    let holders = candidates.iter().filter(|candidate| good.contains(&candidate.server));
    let racks: BTreeSet<&str> = holders.map(|candidate| candidate.rack.as_str()).collect();
    grow(request, racks, &mut usable, &mut Random(request.seed))
}

/// A usable server, and what earlier chunks of the request took of it.
#[derive(Debug)]
struct Choice<'a> {
    candidate: &'a Candidate,
    avoided: bool,
    bytes_free: u64,
    streams: u32,
}

impl Choice<'_> {
    /// Whether this one is the better of two: not full, fewer streams, then more room.
    fn beats(&self, other: &Self, chunk_bytes: u64) -> bool {
        let key = |choice: &Self| {
            (
                choice.bytes_free >= chunk_bytes,
                std::cmp::Reverse(choice.streams),
                choice.bytes_free,
            )
        };
        key(self) > key(other)
    }
}

/// Why a server was passed over.
#[derive(Debug)]
struct PassedOver {
    name: String,
    why: String,
    full: bool,
}

fn sift<'a>(request: &Placement, candidates: &'a [Candidate]) -> (Vec<Choice<'a>>, Vec<PassedOver>) {
    let mut usable: Vec<Choice<'a>> = Vec::new();
    let mut passed_over = Vec::new();
    for candidate in candidates {
        let mut pass = |why: String, full| {
            let name = format!("c{} {}", candidate.server, candidate.name);
            passed_over.push(PassedOver { name, why, full });
        };
        let full = candidate.bytes_free < request.chunk_bytes;
        match candidate.health {
            _ if usable.iter().any(|choice| choice.candidate.server == candidate.server) => {}
            _ if candidate.retired => pass("an empty directory took its name over".to_owned(), false),
            _ if candidate.condition != Condition::InService => pass(condition(candidate.condition).to_owned(), false),
            Health::Suspect => pass("suspect: has missed beats".to_owned(), false),
            Health::Lost => pass("lost: has not beaten for long, or never".to_owned(), false),
            Health::Alive if candidate.disks_ok == 0 => pass("none of its disks serves".to_owned(), false),
            Health::Alive if full => pass(
                format!(
                    "full: {} bytes free, a chunk may take {}",
                    candidate.bytes_free, request.chunk_bytes
                ),
                true,
            ),
            Health::Alive => usable.push(Choice {
                candidate,
                avoided: request.avoid.contains(&candidate.server),
                bytes_free: candidate.bytes_free,
                streams: candidate.streams,
            }),
        }
    }
    (usable, passed_over)
}

/// Why a server that does not just serve gets no copies.
pub(crate) fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::InService => "in service",
        Condition::Draining => "is being drained",
        Condition::Maintenance { .. } => "in maintenance",
        Condition::Removing => "is being removed",
    }
}

fn failure(usable: usize, needed: usize, passed_over: Vec<PassedOver>) -> PlacementFailure {
    let full = passed_over.iter().filter(|server| server.full).count();
    let passed_over = passed_over
        .into_iter()
        .map(|server| (server.name, server.why))
        .collect();
    // Space is what is missing only if it alone keeps enough servers out.
    if usable + full >= needed {
        PlacementFailure::NoSpace {
            usable,
            needed,
            passed_over,
        }
    } else {
        PlacementFailure::TooFewServers {
            usable,
            needed,
            passed_over,
        }
    }
}

/// One chunk's chain. Choices are counted against its servers, so that the next chunk goes elsewhere.
fn chain(request: &Placement, usable: &mut [Choice<'_>], random: &mut Random) -> Vec<ServerId> {
    grow(request, BTreeSet::new(), usable, random)
}

/// Servers beside those that hold copies in `racks` already.
fn grow<'a>(
    request: &Placement,
    mut racks: BTreeSet<&'a str>,
    usable: &mut [Choice<'a>],
    random: &mut Random,
) -> Vec<ServerId> {
    let mut chain: Vec<usize> = Vec::new();
    while chain.len() < usize::from(request.wanted) {
        let Some(next) = pick(request, usable, &chain, &racks, random) else {
            break;
        };
        racks.insert(usable[next].candidate.rack.as_str());
        usable[next].bytes_free = usable[next].bytes_free.saturating_sub(request.chunk_bytes);
        usable[next].streams = usable[next].streams.saturating_add(1);
        chain.push(next);
    }
    chain.into_iter().map(|at| usable[at].candidate.server).collect()
}

fn pick(
    request: &Placement,
    usable: &[Choice<'_>],
    chain: &[usize],
    racks: &BTreeSet<&str>,
    random: &mut Random,
) -> Option<usize> {
    let free: Vec<usize> = (0..usable.len()).filter(|at| !chain.contains(at)).collect();
    // The second copy leaves the first one's rack; after that two racks hold copies, and any server will do.
    let leave_rack = racks.len() == 1;
    let best = free.iter().map(|at| rank(&usable[*at], racks, leave_rack)).min()?;
    let equals: Vec<usize> = free
        .into_iter()
        .filter(|at| rank(&usable[*at], racks, leave_rack) == best)
        .collect();
    let first = equals[random.below(equals.len())];
    let second = equals[random.below(equals.len())];
    let better = usable[second].beats(&usable[first], request.chunk_bytes);
    Some(if better { second } else { first })
}

/// Lower is taken first. A slow server in another rack is taken after a good one in the same rack: the repair can
/// spread racks later, a slow chain hurts now.
fn rank(choice: &Choice<'_>, racks: &BTreeSet<&str>, leave_rack: bool) -> (bool, bool) {
    let same_rack = leave_rack && racks.contains(choice.candidate.rack.as_str());
    (choice.avoided, same_rack)
}

/// SplitMix64: enough to spread load, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The remainder is less than `end`, a usize.
        (z % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = 64 << 20;

    fn candidate(server: u32) -> Candidate {
        Candidate {
            server: ServerId(server),
            name: format!("c{server}"),
            rack: "a".to_owned(),
            bytes_free: 100 * CHUNK,
            streams: 0,
            health: Health::Alive,
            disks_ok: 1,
            retired: false,
            condition: Condition::InService,
        }
    }

    fn request(wanted: u8, count: usize) -> Placement {
        Placement {
            wanted,
            count,
            chunk_bytes: CHUNK,
            avoid: Vec::new(),
            seed: 7,
        }
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (0u32..12, 0usize..3, 0u64..6, 0u32..5, 0u8..6, 0u16..4).prop_map(|(id, rack, room, streams, health, disks)| {
            Candidate {
                rack: ["a", "b", "c"][rack].to_owned(),
                bytes_free: room * CHUNK,
                streams,
                health: match health {
                    0 => Health::Suspect,
                    1 => Health::Lost,
                    _ => Health::Alive,
                },
                disks_ok: disks,
                ..candidate(id)
            }
        })
    }

    proptest! {
        #[test]
        fn every_chain_keeps_the_rules(
            mut candidates in proptest::collection::vec(any_candidate(), 0..12),
            wanted in 1u8..5, count in 0usize..6, seed: u64,
            avoid in proptest::collection::vec(0u32..12, 0..4),
        ) {
            candidates.sort_by_key(|c| c.server);
            candidates.dedup_by_key(|c| c.server);
            let avoid: Vec<ServerId> = avoid.into_iter().map(ServerId).collect();
            let request = Placement { wanted, count, chunk_bytes: CHUNK, avoid: avoid.clone(), seed };
            let good: Vec<&Candidate> = candidates
                .iter()
                .filter(|c| c.health == Health::Alive && c.disks_ok > 0 && c.bytes_free >= CHUNK)
                .collect();
            let needed = usize::from(wanted.min(2));
            let placed = place(&request, &candidates);
            prop_assert_eq!(&placed, &place(&request, &candidates), "the same seed gives the same chains");
            match placed {
                Ok(chains) => {
                    prop_assert!(good.len() >= needed);
                    prop_assert_eq!(chains.len(), count);
                    for chain in chains {
                        prop_assert_eq!(chain.len(), usize::from(wanted).min(good.len()));
                        let servers: BTreeSet<_> = chain.iter().collect();
                        prop_assert_eq!(servers.len(), chain.len(), "two copies on one server");
                        let of = |id: &ServerId| good.iter().find(|c| c.server == *id);
                        prop_assert!(chain.iter().all(|id| of(id).is_some()), "an unfit server");
                        let preferred = good.iter().filter(|c| !avoid.contains(&c.server)).count();
                        let avoided = chain.iter().filter(|id| avoid.contains(id)).count();
                        prop_assert_eq!(avoided, chain.len().saturating_sub(preferred), "avoided come last");
                        let racks = |ids: &mut dyn Iterator<Item = &Candidate>| {
                            ids.map(|c| c.rack.clone()).collect::<BTreeSet<_>>().len()
                        };
                        if avoid.is_empty() && chain.len() > 1 && racks(&mut good.iter().copied()) > 1 {
                            let spread = racks(&mut chain.iter().filter_map(|id| of(id).copied()));
                            prop_assert!(spread > 1, "all copies in one rack");
                        }
                    }
                }
                Err(failure) => {
                    prop_assert!(good.len() < needed);
                    let error = failure.to_wire("cannot upload to /a");
                    prop_assert_eq!(error.tried.len(), candidates.len() - good.len(), "each server is named");
                }
            }
        }
    }

    #[test]
    fn load_spreads() {
        let candidates: Vec<_> = (1..=10).map(candidate).collect();
        let chains = place(&request(3, 100), &candidates).unwrap();
        let mut counts = [0; 11];
        chains
            .iter()
            .flatten()
            .for_each(|server| counts[server.0 as usize] += 1);
        assert!(counts[1..].iter().all(|n| (20..=40).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_failure_says_whether_space_is_missing() {
        let mut full = candidate(1);
        full.bytes_free = 1;
        let mut lost = candidate(2);
        lost.health = Health::Lost;
        let failure = place(&request(3, 1), &[full.clone(), lost.clone(), candidate(3)]).unwrap_err();
        assert_eq!(failure.to_wire("cannot upload to /a").code, ErrorCode::NoSpace);
        let error = place(&request(3, 1), &[lost, candidate(3)])
            .unwrap_err()
            .to_wire("cannot upload to /a");
        assert_eq!(error.code, ErrorCode::TooFewServers);
        assert_eq!(
            error.message,
            "cannot upload to /a: 1 chunkservers can take a copy, 2 are needed"
        );
        assert_eq!(error.tried[0].what, "c2 c2");
        assert!(
            place(&request(1, 1), &[candidate(3)]).is_ok(),
            "one copy needs one server"
        );
    }
}
