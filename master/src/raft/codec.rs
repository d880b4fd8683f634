//! What the Raft log keeps on disk **[format]**: entries, vote, committed and purged log ids, membership.
//!
//! Every value starts with a version byte and ends with a CRC-32 of all before it. Integers are big-endian and of
//! fixed width. An entry names its own index and the CRC of the entry before it, so that a hole, a misplaced or a
//! resurrected entry is found, not only a flipped bit:
//!
//! ```text
//! entry:  version u8 | kind u8 | term u64 | leader u64 | index u64 | previous crc u32 | body | crc u32
//! log id: version u8 | present u8 | term u64 | leader u64 | index u64 | crc u32
//! vote:   version u8 | term u64 | leader u64 | committed u8 | crc u32
//! ```
//!
//! `previous crc` is 0 where the entry before was not in the log when the entry was written (the first one, and the
//! first one after a snapshot was installed).

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LogId, LoggedCommand, MasterNode, Membership, Payload, StoredMembership, Vote, log_id};

const VERSION: u8 = 1;
const ENTRY_HEAD: usize = 1 + 1 + 8 + 8 + 8 + 4;
const CRC: usize = 4;

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Bytes that are not what this codec writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Too short or too long.
    #[error("{what} has {got} bytes, which is no valid length")]
    Length {
        /// What was decoded.
        what: &'static str,
        /// Bytes given.
        got: usize,
    },
    /// The bytes changed since they were written.
    #[error("{what} is damaged: its CRC is {computed:08x}, stored is {stored:08x}")]
    Crc {
        /// What was decoded.
        what: &'static str,
        /// CRC of the bytes.
        computed: u32,
        /// CRC stored with them.
        stored: u32,
    },
    /// Written by a newer version of this program.
    #[error("{what} has version {got}, this program reads version {VERSION}; it was written by a newer version")]
    Version {
        /// What was decoded.
        what: &'static str,
        /// Version found.
        got: u8,
    },
    /// Intact, but not something this program writes.
    #[error("{what} does not decode: {why}")]
    Malformed {
        /// What was decoded.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// The CRC a sealed value ends with.
fn stored_crc(bytes: &[u8]) -> Option<u32> {
    bytes.last_chunk::<CRC>().map(|crc| u32::from_be_bytes(*crc))
}

/// Checks CRC and version; gives what lies between them.
fn open<'a>(what: &'static str, bytes: &'a [u8], body_min: usize) -> Result<&'a [u8], CodecError> {
    let length = CodecError::Length { what, got: bytes.len() };
    let Some((body, _)) = bytes.split_last_chunk::<CRC>() else {
        return Err(length);
    };
    let Some((version, rest)) = body.split_first() else {
        return Err(length);
    };
    if rest.len() < body_min {
        return Err(length);
    }
    let (computed, stored) = (crc32fast::hash(body), stored_crc(bytes).unwrap_or_default());
    if computed != stored {
        return Err(CodecError::Crc { what, computed, stored });
    }
    if *version != VERSION {
        return Err(CodecError::Version { what, got: *version });
    }
    Ok(rest)
}

/// Takes integers off the front of a slice whose length was checked.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            unreachable!("the length was checked before");
        };
        self.0 = rest;
        *head
    }
    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

#[derive(Serialize, Deserialize)]
struct MembershipDto {
    configs: Vec<Vec<u64>>,
    nodes: Vec<(u64, String, String)>,
}

fn membership_body(membership: &Membership) -> Result<Vec<u8>, CodecError> {
    let dto = MembershipDto {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|config| config.iter().copied().collect())
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| (*id, node.raft_address.clone(), node.client_address.clone()))
            .collect(),
    };
    postcard::to_allocvec(&dto).map_err(|error| CodecError::Malformed {
        what: "membership",
        why: error.to_string(),
    })
}

fn membership_from(body: &[u8]) -> Result<Membership, CodecError> {
    let malformed = |why: String| CodecError::Malformed {
        what: "membership",
        why,
    };
    let (dto, rest) = postcard::take_from_bytes::<MembershipDto>(body).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes are left over", rest.len())));
    }
    if dto.configs.is_empty() && dto.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: std::collections::BTreeMap<u64, MasterNode> = dto
        .nodes
        .into_iter()
        .map(|(id, raft_address, client_address)| {
            let node = MasterNode {
                raft_address,
                client_address,
            };
            (id, node)
        })
        .collect();
    let configs = dto.configs.into_iter().map(|ids| ids.into_iter().collect()).collect();
    Membership::new(configs, nodes).map_err(|error| malformed(error.to_string()))
}

/// An entry's payload as kind and body, shared by disk and wire.
pub(crate) fn payload_parts(payload: &Payload) -> Result<(u8, Bytes), CodecError> {
    Ok(match payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (KIND_COMMAND, command.0.clone()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, membership_body(membership)?.into()),
    })
}

/// The payload of [`payload_parts`].
pub(crate) fn payload_from(kind: u8, body: Bytes) -> Result<Payload, CodecError> {
    match kind {
        KIND_BLANK if body.is_empty() => Ok(EntryPayload::Blank),
        KIND_COMMAND => Ok(EntryPayload::Normal(LoggedCommand(body))),
        KIND_MEMBERSHIP => Ok(EntryPayload::Membership(membership_from(&body)?)),
        other => Err(CodecError::Malformed {
            what: "log entry",
            why: format!("no payload of kind {other} with {} bytes exists", body.len()),
        }),
    }
}

/// An entry as it lies in the log, and its links.
#[derive(Debug, Clone)]
pub(crate) struct StoredEntry {
    pub(crate) entry: Entry,
    /// The CRC of the entry before, 0 if there was none.
    pub(crate) previous: u32,
    /// This entry's CRC: what the next one names as previous.
    pub(crate) crc: u32,
}

/// Encodes `entry` to follow an entry with CRC `previous`; gives the bytes and the entry's own CRC.
pub(crate) fn encode_entry(entry: &Entry, previous: u32) -> Result<(Vec<u8>, u32), CodecError> {
    let (kind, body) = payload_parts(&entry.payload)?;
    let id = entry.log_id;
    let mut bytes = Vec::with_capacity(ENTRY_HEAD + body.len() + CRC);
    bytes.push(VERSION);
    bytes.push(kind);
    bytes.extend_from_slice(&id.leader_id.term.to_be_bytes());
    bytes.extend_from_slice(&id.leader_id.node_id.to_be_bytes());
    bytes.extend_from_slice(&id.index.to_be_bytes());
    bytes.extend_from_slice(&previous.to_be_bytes());
    bytes.extend_from_slice(&body);
    let bytes = seal(bytes);
    let crc = stored_crc(&bytes).unwrap_or_default();
    Ok((bytes, crc))
}

/// Decodes an entry; a command is a slice of `bytes`, not a copy.
pub(crate) fn decode_entry(bytes: &Bytes) -> Result<StoredEntry, CodecError> {
    let what = "log entry";
    let mut head = Cursor(open(what, bytes, ENTRY_HEAD - 1)?);
    let kind = head.u8();
    let (term, leader, index, previous) = (head.u64(), head.u64(), head.u64(), head.u32());
    let body = bytes.slice(ENTRY_HEAD..bytes.len() - CRC);
    Ok(StoredEntry {
        entry: Entry {
            log_id: log_id(term, leader, index),
            payload: payload_from(kind, body)?,
        },
        previous,
        crc: stored_crc(bytes).unwrap_or_default(),
    })
}

/// Encodes a log id that may be absent.
pub(crate) fn encode_log_id(id: Option<&LogId>) -> Vec<u8> {
    let mut bytes = vec![VERSION, u8::from(id.is_some())];
    let id = id.copied().unwrap_or_else(|| log_id(0, 0, 0));
    for number in [id.leader_id.term, id.leader_id.node_id, id.index] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    seal(bytes)
}

/// Decodes [`encode_log_id`].
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    let what = "log id";
    let mut body = Cursor(open(what, bytes, 25)?);
    if body.0.len() != 25 {
        return Err(CodecError::Length { what, got: bytes.len() });
    }
    let present = body.u8();
    let id = log_id(body.u64(), body.u64(), body.u64());
    match present {
        0 => Ok(None),
        1 => Ok(Some(id)),
        other => Err(CodecError::Malformed {
            what,
            why: format!("presence is {other}"),
        }),
    }
}

/// Encodes a vote.
pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&vote.leader_id.term.to_be_bytes());
    bytes.extend_from_slice(&vote.leader_id.node_id.to_be_bytes());
    bytes.push(u8::from(vote.committed));
    seal(bytes)
}

/// Decodes [`encode_vote`].
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let what = "vote";
    let mut body = Cursor(open(what, bytes, 17)?);
    if body.0.len() != 17 {
        return Err(CodecError::Length { what, got: bytes.len() });
    }
    let (term, leader) = (body.u64(), body.u64());
    match body.u8() {
        0 => Ok(Vote::new(term, leader)),
        1 => Ok(Vote::new_committed(term, leader)),
        other => Err(CodecError::Malformed {
            what,
            why: format!("committed is {other}"),
        }),
    }
}

/// How far the state machine is: what every batch of state rows carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AppliedState {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Every node id that was ever a member: an id whose directory is gone must never come back.
    pub(crate) seen: std::collections::BTreeSet<u64>,
}

/// Encodes an [`AppliedState`].
pub(crate) fn encode_applied(state: &AppliedState) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&encode_log_id(state.last.as_ref()));
    bytes.extend_from_slice(&encode_log_id(state.membership.log_id().as_ref()));
    bytes.extend_from_slice(&u32::try_from(state.seen.len()).unwrap_or(u32::MAX).to_be_bytes());
    for id in &state.seen {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    bytes.extend_from_slice(&membership_body(state.membership.membership())?);
    Ok(seal(bytes))
}

/// Decodes [`encode_applied`].
pub(crate) fn decode_applied(bytes: &[u8]) -> Result<AppliedState, CodecError> {
    let what = "applied state";
    const ID: usize = 1 + 25 + CRC;
    let mut body = Cursor(open(what, bytes, 2 * ID + 4)?);
    let last = decode_log_id(&body.take::<ID>())?;
    let changed = decode_log_id(&body.take::<ID>())?;
    let count = body.u32() as usize;
    if body.0.len() / 8 < count {
        return Err(CodecError::Length { what, got: bytes.len() });
    }
    let seen = (0..count).map(|_| body.u64()).collect();
    Ok(AppliedState {
        last,
        membership: StoredMembership::new(changed, membership_from(body.0)?),
        seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn node(number: u16) -> MasterNode {
        MasterNode {
            raft_address: format!("m:{number}"),
            client_address: format!("c:{number}"),
        }
    }

    fn membership() -> Membership {
        let nodes: std::collections::BTreeMap<_, _> = [(1, node(1)), (2, node(2))].into();
        Membership::new(vec![[1, 2].into()], nodes).unwrap()
    }

    fn entries() -> [(Entry, &'static str); 3] {
        let entry = |index, payload| Entry {
            log_id: log_id(3, 2, index),
            payload,
        };
        [
            (
                entry(1, EntryPayload::Blank),
                "0100000000000000000300000000000000020000000000000001000000001a46c3a5",
            ),
            (
                entry(2, EntryPayload::Normal(LoggedCommand(Bytes::from_static(b"do")))),
                "01010000000000000003000000000000000200000000000000020a0b0c0d646f",
            ),
            (
                entry(3, EntryPayload::Membership(membership())),
                "0102000000000000000300000000000000020000000000000003",
            ),
        ]
    }

    #[test]
    fn golden_entries() {
        for ((entry, golden), previous) in entries().into_iter().zip([0, 0x0a0b_0c0d, 7]) {
            let (bytes, crc) = encode_entry(&entry, previous).unwrap();
            assert!(hex(&bytes).starts_with(golden), "{}", hex(&bytes));
            let back = decode_entry(&bytes.into()).unwrap();
            assert_eq!((back.entry, back.previous, back.crc), (entry, previous, crc));
        }
    }

    #[test]
    fn golden_vote_ids_and_state() {
        let vote = Vote::new_committed(5, 2);
        assert_eq!(hex(&encode_vote(&vote)), "0100000000000000050000000000000002012b51e0fc");
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        assert_eq!(decode_vote(&encode_vote(&Vote::new(5, 2))).unwrap(), Vote::new(5, 2));
        let id = Some(log_id(1, 2, 3));
        assert_eq!(
            hex(&encode_log_id(id.as_ref())),
            "0101000000000000000100000000000000020000000000000003dd233ad4"
        );
        assert_eq!(decode_log_id(&encode_log_id(id.as_ref())).unwrap(), id);
        assert_eq!(decode_log_id(&encode_log_id(None)).unwrap(), None);
        let state = AppliedState {
            last: id,
            membership: StoredMembership::new(id, membership()),
            seen: [1, 2, 9].into(),
        };
        let bytes = encode_applied(&state).unwrap();
        assert_eq!(decode_applied(&bytes).unwrap(), state);
        let id_hex = "0101000000000000000100000000000000020000000000000003dd233ad4";
        let rest = "00000003000000000000000100000000000000020000000000000009010201020201036d3a3103633a3102036d3a3203633a32f49c7f88";
        assert_eq!(hex(&bytes), format!("01{id_hex}{id_hex}{rest}"));
        let empty = AppliedState::default();
        assert_eq!(decode_applied(&encode_applied(&empty).unwrap()).unwrap(), empty);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let (bytes, _) = encode_entry(&entries()[2].0, 7).unwrap();
        let vote = encode_vote(&Vote::new(1, 1));
        let id = encode_log_id(None);
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(decode_entry(&bad.into()).is_err(), "bit {at}");
        }
        for cut in 0..bytes.len() {
            assert!(decode_entry(&Bytes::copy_from_slice(&bytes[..cut])).is_err());
        }
        for cut in 0..vote.len() {
            assert!(decode_vote(&vote[..cut]).is_err());
        }
        for cut in 0..id.len() {
            assert!(decode_log_id(&id[..cut]).is_err());
        }
    }
}
